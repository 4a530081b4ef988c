//! What a simulated host sees: its own folders as the root, the machine's `/usr` read-only, a `/proc` of its own processes,
//! six devices. Everything is mounted on handles that no link leads to; the working directory is the host's folder,
//! which no program on it can reach. Linux only.

use super::beneath::Beneath;
use super::machine::{COVERED, DEVICES, NO_FILE, NO_FOLDER};
use super::walls::{Setup, TOOL, Wall};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::mount::{
    fsconfig_create, fsmount, fsopen, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What in /proc belongs to whoever looks, and `sys`, which is the host's own folder.
const OF_PROCESSES: [&str; 6] = ["self", "thread-self", "mounts", "net", "filesystems", "sys"];

fn failed(wall: Wall, what: &str, path: &str, error: impl std::fmt::Display) -> String {
    format!("wall {wall}: cannot {what} {path}: {error}")
}

/// Returns a second mount of a file or folder, and with `all` of what is mounted below it.
fn mount_of(path: &str, all: bool) -> Result<OwnedFd, String> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if all {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(|e| failed(Wall::Root, "bind", path, e))
}

/// Returns a /proc of this process namespace.
fn own_proc() -> Result<OwnedFd, String> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    });
    proc.map_err(|e| failed(Wall::Proc, "mount a", "/proc of its own", e))
}

/// Returns the names in the host's /proc that are neither a process nor about the process that asks: all of them show
/// the machine.
fn names(root: &Beneath) -> Result<Vec<String>, String> {
    let failed = |e: &dyn std::fmt::Display| failed(Wall::Proc, "read", "/proc", e);
    let proc = root.folder("proc").map_err(|e| failed(&e))?;
    let entries = rustix::fs::Dir::new(proc).map_err(|e| failed(&e))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let shows = |name: &String| {
        !name.starts_with(|c: char| c == '.' || c.is_ascii_digit()) && !OF_PROCESSES.contains(&name.as_str())
    };
    Ok(names.filter(shows).collect())
}

fn is_folder(handle: &OwnedFd) -> bool {
    let is = |file: rustix::fs::Stat| FileType::from_raw_mode(file.st_mode) == FileType::Directory;
    rustix::fs::fstat(handle).is_ok_and(is)
}

fn put(mount: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let handles = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", handles)
}

fn folder(path: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(Wall::Root, "open", path, e))
}

/// Makes the host whose folder is the working directory all that this process sees.
pub(super) fn enter(setup: &Setup) -> Result<(), String> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| failed(Wall::Root, "make private", "/", e))?;
    put(&mount_of("root", false)?, &folder("root")?).map_err(|e| failed(Wall::Root, "mount", "root", e))?;
    let root = Beneath::new(folder("root")?, setup.has(Wall::Paths));
    let add = |mount: OwnedFd, at: &str| {
        let place = root.handle(at).map_err(|e| failed(Wall::Paths, "mount on the host's", at, e))?;
        put(&mount, &place).map_err(|e| failed(Wall::Root, "mount on the host's", at, e))
    };
    add(mount_of("/usr", true)?, "usr")?;
    add(mount_of("usr-local", false)?, "usr/local")?;
    let proc = if setup.has(Wall::Proc) { own_proc()? } else { mount_of("/proc", true)? };
    add(proc, "proc")?;
    add(mount_of("proc-sys", false)?, "proc/sys")?;
    for name in names(&root)? {
        let own = format!("proc/{name}");
        let from = match COVERED.split(' ').any(|covered| covered == name) {
            true => own.as_str(),
            false if is_folder(&root.handle(&own).map_err(|e| failed(Wall::Paths, "open", &own, e))?) => {
                NO_FOLDER
            }
            false => NO_FILE,
        };
        add(mount_of(from, false)?, &own)?;
    }
    for name in DEVICES {
        add(mount_of(&format!("/dev/{name}"), false)?, &format!("dev/{name}"))?;
    }
    add(mount_of(TOOL, false)?, "opt/lab/tool")?;
    leave(setup.has(Wall::Root), &folder("/")?)?;
    if setup.has(Wall::Mounts) {
        read_only(&["/usr", "/proc", "/opt/lab/tool"], &["/usr/local", "/proc/sys"], setup.has(Wall::Root))?;
    }
    if let Ok(name) = root.read("etc/hostname") {
        // Only for show; a failure shows in `uname -n` and nowhere else.
        let _ = rustix::system::sethostname(name.trim().as_bytes());
    }
    // A host that has lost its /root starts its programs in /.
    let _ = rustix::process::chdir("/root");
    Ok(())
}

/// Makes the host's root the root, and lets go of the machine's, whose root is `old`.
fn leave(lets_go: bool, old: &OwnedFd) -> Result<(), String> {
    let failed = |what| move |e| failed(Wall::Root, what, "/", e);
    rustix::process::chdir("root").map_err(failed("enter the host's"))?;
    if !lets_go {
        return rustix::process::pivot_root(".", "mnt").map_err(failed("leave"));
    }
    // Onto itself, so that no folder of the host has to take the old one.
    rustix::process::pivot_root(".", ".").map_err(failed("leave"))?;
    rustix::process::fchdir(old).map_err(failed("return to"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("let go of"))?;
    rustix::process::chdir("/").map_err(failed("enter the host's"))
}

/// Makes these mounts and those below them read-only, but for those in `but` and below, and takes setuid programs and
/// devices from all that are not a device. Flags that the kernel has locked are kept.
fn read_only(tops: &[&str], but: &[&str], has_root: bool) -> Result<(), String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    for line in table.lines() {
        let columns: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(options)) = (columns.get(4), columns.get(5)) else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        let within = |tops: &[&str]| tops.iter().any(|top| point.starts_with(top));
        let mut flags = flags(options) | MountFlags::NOSUID;
        if !point.starts_with("/dev") {
            flags |= MountFlags::NODEV;
        }
        // What these cover cannot be reached, by nobody.
        if within(but) && !but.iter().any(|top| point == Path::new(top))
            || !has_root && point.starts_with("/mnt")
        {
            continue;
        }
        let covered = point.parent() == Some(Path::new("/proc"))
            && point.file_name().is_some_and(|name| COVERED.split(' ').any(|covered| name == covered));
        if within(tops) && !within(but) && !covered {
            flags |= MountFlags::RDONLY;
        }
        mount_remount(&point, MountFlags::BIND | flags, "")
            .map_err(|e| failed(Wall::Root, "make read-only", &point.display().to_string(), e))?;
    }
    Ok(())
}

fn flags(options: &str) -> MountFlags {
    options.split(',').fold(MountFlags::empty(), |flags, option| {
        flags
            | match option {
                "ro" => MountFlags::RDONLY,
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
