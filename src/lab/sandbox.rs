//! The sandbox of a lab host: its own folders as the root, the machine's `/usr` and `/proc` read-only. Linux only.

use super::machine::{COVERED, DEVICES};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount_bind, mount_bind_recursive, mount_change, mount_remount, unmount};
use std::path::{Path, PathBuf};

fn failed(what: &str, path: &Path, error: rustix::io::Errno) -> String {
    format!("{what} {}: {error}", path.display())
}

/// Makes the host's folder `dir` the root of this process; the machine's own root is unmounted. `exe` becomes the
/// host's tools.
pub(super) fn enter(dir: &Path, exe: &Path) -> Result<(), String> {
    let root = dir.join("root");
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| failed("make private", Path::new("/"), e))?;
    let bind = |from: &Path, to: &Path| mount_bind(from, to).map_err(|e| failed("bind", to, e));
    bind(&root, &root)?;
    let usr = root.join("usr");
    mount_bind_recursive("/usr", &usr).map_err(|e| failed("bind", &usr, e))?;
    read_only(&usr)?;
    bind(&dir.join("usr-local"), &usr.join("local"))?;
    let proc = root.join("proc");
    mount_bind_recursive("/proc", &proc).map_err(|e| failed("bind", &proc, e))?;
    read_only(&proc)?;
    bind(&dir.join("proc-sys"), &proc.join("sys"))?;
    for name in COVERED.split(' ') {
        let file = proc.join(name);
        if file.exists() {
            bind(&dir.join("proc").join(name), &file)?;
        }
    }
    for name in DEVICES {
        bind(&Path::new("/dev").join(name), &root.join("dev").join(name))?;
    }
    bind(exe, &root.join("opt/lab/tool"))?;
    let old = root.join("mnt");
    rustix::process::pivot_root(&root, &old).map_err(|e| failed("pivot to", &root, e))?;
    rustix::process::chdir("/root").map_err(|e| failed("enter", Path::new("/root"), e))?;
    unmount("/mnt", UnmountFlags::DETACH).map_err(|e| failed("let go of", Path::new("/mnt"), e))?;
    if let Ok(name) = std::fs::read_to_string("/etc/hostname") {
        // Only for show; a failure shows in `uname -n` and nowhere else.
        let _ = rustix::system::sethostname(name.trim().as_bytes());
    }
    Ok(())
}

/// Makes a tree of mounts read-only, one by one, with the flags that the kernel has locked kept.
fn read_only(top: &Path) -> Result<(), String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let mut points: Vec<(PathBuf, MountFlags)> = Vec::new();
    for line in table.lines() {
        let columns: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(options)) = (columns.get(4), columns.get(5)) else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        if point.starts_with(top) {
            points.push((point, flags(options)));
        }
    }
    if points.is_empty() {
        return Err(format!("{} is no mount", top.display()));
    }
    for (point, flags) in points {
        mount_remount(&point, MountFlags::BIND | MountFlags::RDONLY | flags, "")
            .map_err(|e| failed("make read-only", &point, e))?;
    }
    Ok(())
}

fn flags(options: &str) -> MountFlags {
    options.split(',').fold(MountFlags::empty(), |flags, option| {
        flags
            | match option {
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                _ => MountFlags::empty(),
            }
    })
}
