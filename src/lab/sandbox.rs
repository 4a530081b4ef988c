//! What a simulated host sees: its own folders as the root, the machine's `/usr` read-only, a `/proc` of its own processes,
//! six devices. Everything is made ready in the working directory, which is the host's folder and which no program on it can
//! reach, and then moved to handles that no link leads to: nothing depends on paths that a host can change. Linux only.

use super::beneath::Beneath;
use super::machine::{COVERED, DEVICES, NO_FILE, NO_FOLDER, STAGE, STAGE_EXE, STAGE_FILE};
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

/// Returns the names in a /proc that are neither a process nor about the process that asks: all of them show the machine.
fn names(proc: &Beneath) -> Result<Vec<String>, String> {
    let failed = |e: &dyn std::fmt::Display| failed(Wall::Proc, "read", "/proc", e);
    let proc = proc.folder("").map_err(|e| failed(&e))?;
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

fn handle(path: &str, flags: OFlags) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW | flags;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(Wall::Root, "open", path, e))
}

fn folder(path: &str) -> Result<OwnedFd, String> {
    handle(path, OFlags::DIRECTORY)
}

/// A mount that is made ready where no program on a host reaches: what is in it, and what may be done with it, is settled before
/// it is put into the host's root, where other programs of the host may rename whatever leads to it meanwhile.
struct Staged {
    /// From the working directory: the folders above it are closed to the user that a host's root is.
    at: &'static str,
    walled: bool,
}

impl Staged {
    /// Mounts on a folder or a file of the stage, below the working directory.
    fn new(mount: &OwnedFd, at: &'static str, setup: &Setup) -> Result<Self, String> {
        put(mount, &handle(at, OFlags::empty())?).map_err(|e| failed(Wall::Root, "mount on", at, e))?;
        Ok(Self { at, walled: setup.has(Wall::Mounts) })
    }

    fn top(&self) -> Result<OwnedFd, String> {
        handle(self.at, OFlags::empty())
    }

    /// Returns what is in it.
    fn inside(&self) -> Result<Beneath, String> {
        Ok(Beneath::new(self.top()?, true))
    }

    /// Mounts on something in it.
    fn add(&self, mount: &OwnedFd, at: &str) -> Result<(), String> {
        let place = self.inside()?.handle(at).map_err(|e| failed(Wall::Root, "find", at, e))?;
        put(mount, &place).map_err(|e| failed(Wall::Root, "mount on", at, e))
    }

    /// Takes setuid programs and devices from it and all that is mounted in it, and makes read-only what is not among `but`.
    /// What is mounted below one of these is covered, and reached by nobody. Flags that the kernel has locked are kept.
    fn restrict(&self, but: &[&str]) -> Result<(), String> {
        if !self.walled {
            return Ok(());
        }
        // No host has a word in this one: the root is still the machine's.
        let here = std::env::current_dir().map_err(|e| failed(Wall::Root, "find", "the host's folder", e))?;
        let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        for line in table.lines() {
            let columns: Vec<&str> = line.split(' ').collect();
            let (Some(point), Some(options)) = (columns.get(4), columns.get(5)) else { continue };
            let point = PathBuf::from(unescaped(point));
            let Ok(inside) = point.strip_prefix(here.join(self.at)) else { continue };
            let writable = but.iter().any(|but| inside == Path::new(but));
            if !writable && but.iter().any(|but| !but.is_empty() && inside.starts_with(but)) {
                continue;
            }
            let mut flags = flags(options) | MountFlags::NOSUID | MountFlags::NODEV;
            if !writable {
                flags |= MountFlags::RDONLY;
            }
            let from_here = point.strip_prefix(&here).unwrap_or(&point);
            mount_remount(from_here, MountFlags::BIND | flags, "")
                .map_err(|e| failed(Wall::Mounts, "restrict", &point.display().to_string(), e))?;
        }
        Ok(())
    }

    /// Moves it, with all that is mounted in it, to a place in the host's root.
    fn move_to(self, root: &Beneath, at: &str) -> Result<(), String> {
        let place = root.handle(at).map_err(|e| failed(Wall::Paths, "mount on the host's", at, e))?;
        put(&self.top()?, &place).map_err(|e| failed(Wall::Root, "mount on the host's", at, e))
    }
}

/// Returns a path of a table of mounts: blanks and the like are three octal digits behind a backslash (proc(5)).
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, what)| path.replace(code, what))
}

/// Returns where to run the executable from, with the host's folder as the working directory: whatever a host's program finds as
/// `/proc/self/exe` when it is started is on a read-only mount.
pub(super) fn executable(setup: &Setup) -> Result<&'static str, String> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| failed(Wall::Root, "make private", "/", e))?;
    Staged::new(&mount_of(TOOL, false)?, STAGE_EXE, setup)?.restrict(&[])?;
    Ok(STAGE_EXE)
}

/// Makes the host whose folder is the working directory all that this process sees.
pub(super) fn enter(setup: &Setup) -> Result<(), String> {
    let top = Staged::new(&mount_of("root", false)?, "root", setup)?;
    top.restrict(&[""])?;
    let root = Beneath::new(top.top()?, setup.has(Wall::Paths));
    let usr = Staged::new(&mount_of("/usr", true)?, STAGE, setup)?;
    usr.add(&mount_of("usr-local", false)?, "local")?;
    usr.restrict(&["local"])?;
    usr.move_to(&root, "usr")?;
    proc(setup)?.move_to(&root, "proc")?;
    for name in DEVICES {
        let at = format!("dev/{name}");
        let place = root.handle(&at).map_err(|e| failed(Wall::Paths, "mount on the host's", &at, e))?;
        put(&mount_of(&format!("/dev/{name}"), false)?, &place)
            .map_err(|e| failed(Wall::Root, "mount on the host's", &at, e))?;
    }
    let tool = Staged::new(&mount_of(TOOL, false)?, STAGE_FILE, setup)?;
    tool.restrict(&[])?;
    tool.move_to(&root, "opt/lab/tool")?;
    // Not by its name afterwards: that may be a link to what this process has open.
    let home = root.handle("root");
    leave(setup.has(Wall::Root), &folder("/")?)?;
    if let Ok(name) = root.read("etc/hostname") {
        // Only for show; a failure shows in `uname -n` and nowhere else.
        let _ = rustix::system::sethostname(name.trim().as_bytes());
    }
    // A host that has lost its /root starts its programs in /.
    if let Ok(home) = home {
        let _ = rustix::process::fchdir(home);
    }
    Ok(())
}

/// Makes a /proc ready in which all that shows the machine is covered.
fn proc(setup: &Setup) -> Result<Staged, String> {
    let mount = if setup.has(Wall::Proc) { own_proc()? } else { mount_of("/proc", true)? };
    let proc = Staged::new(&mount, STAGE, setup)?;
    proc.add(&mount_of("proc-sys", false)?, "sys")?;
    let inside = proc.inside()?;
    let mut own = vec!["sys"];
    let names = names(&inside)?;
    for name in &names {
        let from = match COVERED.split(' ').any(|covered| covered == name) {
            true => {
                own.push(name);
                format!("proc/{name}")
            }
            false if is_folder(&inside.handle(name).map_err(|e| failed(Wall::Proc, "open", name, e))?) => {
                NO_FOLDER.to_owned()
            }
            false => NO_FILE.to_owned(),
        };
        proc.add(&mount_of(&from, false)?, name)?;
    }
    proc.restrict(&own)?;
    Ok(proc)
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
