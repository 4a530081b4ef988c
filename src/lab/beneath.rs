//! A folder that a host controls, reached by handles alone: no link in it is followed and none leads out of it, whatever is
//! renamed meanwhile; what is read is a regular file of bounded size, what is written is a new file.

#[cfg(target_os = "linux")]
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
#[cfg(target_os = "linux")]
use rustix::fs::{fchown, fstat, mkdirat, openat, openat2, renameat, unlinkat};
#[cfg(target_os = "linux")]
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::io::{Read, Write};
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::path::Path;

/// Files of a host that the lab reads are far smaller, in bytes.
#[cfg(target_os = "linux")]
const MOST_READ: u64 = 1 << 20;

/// A folder that a host controls.
#[cfg(target_os = "linux")]
pub(super) struct Beneath {
    top: OwnedFd,
    resolve: ResolveFlags,
    owner: Option<u32>,
}

#[cfg(target_os = "linux")]
impl Beneath {
    /// Takes a folder. `walled` is false only for a lab that goes without [`super::walls::Wall::Paths`].
    pub(super) fn new(top: OwnedFd, walled: bool) -> Self {
        let walls = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Self { top, resolve: if walled { walls } else { ResolveFlags::empty() }, owner: None }
    }

    /// Opens a folder whose own path no host controls; what is made in it belongs to `owner`.
    pub(super) fn open(path: &Path, walled: bool, owner: Option<u32>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { owner, ..Self::new(openat(CWD, path, flags, Mode::empty())?, walled) })
    }

    fn at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let path = match path.trim_matches('/') {
            "" => ".",
            path => path,
        };
        Ok(openat2(&self.top, path, flags | OFlags::CLOEXEC, Mode::empty(), self.resolve)?)
    }

    /// Returns a handle of whatever is at a path.
    pub(super) fn handle(&self, path: &str) -> io::Result<OwnedFd> {
        self.at(path, OFlags::PATH)
    }

    /// Opens a folder, to list it.
    pub(super) fn folder(&self, path: &str) -> io::Result<OwnedFd> {
        self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Reads a regular file.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        // One that nobody writes to would be waited for, were it opened as files usually are.
        let file = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut text = String::new();
        File::from(file).take(MOST_READ).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes a file anew, in the place of whatever is there, and makes its folders.
    pub(super) fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut made = String::new();
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            let within = self.handle(&made)?;
            match mkdirat(&within, part, Mode::from_raw_mode(0o755)) {
                Err(rustix::io::Errno::EXIST) => {}
                result => {
                    result?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    self.give(&openat(&within, part, flags, Mode::empty())?)?;
                }
            }
            made = format!("{made}/{part}");
        }
        let folder = self.at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let new = format!(".lab-{:032x}", rand::random::<u128>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&folder, &new, flags, Mode::from_raw_mode(0o644))?);
        let written = file.write_all(text.as_bytes()).and_then(|()| self.give(&file.into()));
        let placed = written.and_then(|()| Ok(renameat(&folder, &new, &folder, name)?));
        placed.inspect_err(|_| {
            let _ = unlinkat(&folder, &new, AtFlags::empty());
        })
    }

    fn give(&self, file: &OwnedFd) -> io::Result<()> {
        let Some(id) = self.owner else { return Ok(()) };
        let (user, group) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
        Ok(fchown(file, Some(user), Some(group))?)
    }
}

/// No lab runs on other systems.
#[cfg(not(target_os = "linux"))]
pub(super) struct Beneath;

#[cfg(not(target_os = "linux"))]
impl Beneath {
    pub(super) fn open(_: &std::path::Path, _: bool, _: Option<u32>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn read(&self, _: &str) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn handle(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn write(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
