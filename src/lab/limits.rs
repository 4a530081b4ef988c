//! What a program on a simulated host, and all that it starts, may use at most of memory, time and output, and a host of disk
//! space: looked at while a program runs, since limits of single processes bound neither, and cgroups are not to be had
//! everywhere. Whoever goes beyond is ended.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat, statvfs};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a program is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// How long a program may run; a shell that somebody has forgotten, too.
const MOST_TIME: Duration = Duration::from_secs(3 * 3600);
/// Memory of a program and all that it has started, in bytes.
const MOST_MEMORY: u64 = 2 << 30;
/// Below so many bytes of free memory of the machine, or this part of all, no program goes on.
const LEAST_MEMORY: u64 = 256 << 20;
const LEAST_PART: u64 = 32;
/// Bytes and files of one host.
const MOST_BYTES: u64 = 4 << 30;
const MOST_FILES: u64 = 20_000;
/// Folders of a host inside each other.
const MOST_DEPTH: usize = 200;
/// Below so many free bytes on the file system of the lab, or so many files that it can still hold, no program goes on; of a small
/// one this part.
const LEAST_DISK: u64 = 512 << 20;
const LEAST_FILES: u64 = 40_000;
const LEAST_FILES_PART: u64 = 50;
/// A host's files are counted again after this time, or once the file system has lost so many bytes or files.
const COUNT_AGAIN: Duration = Duration::from_secs(5);
const BYTES_AGAIN: u64 = 256 << 20;
const FILES_AGAIN: u64 = 5_000;
/// So often in a row a host's files need not be countable.
const MOST_UNCOUNTED: u32 = 20;
/// So often, in one count, folders are looked for that have another name than a moment before.
const MOST_LOOKS: u32 = 500;
/// A folder that is not found under any name so often in a row is gone.
const GONE_AFTER: u32 = 3;
/// Bytes that a program may print.
pub(super) const MOST_OUTPUT: u64 = 128 << 20;

/// What is free on a file system, and when that was looked at.
struct Free {
    at: Instant,
    bytes: u64,
    files: u64,
    /// As many files as it holds in all; 0 where that is not fixed.
    all_files: u64,
}

fn free(dir: &Path) -> io::Result<Free> {
    let disk = statvfs(dir)?;
    let (at, bytes) = (Instant::now(), disk.f_bavail * disk.f_frsize);
    Ok(Free { at, bytes, files: disk.f_favail, all_files: disk.f_files })
}

impl Free {
    fn is_too_little(&self) -> Option<&'static str> {
        let least_files = LEAST_FILES.min(self.all_files / LEAST_FILES_PART);
        match self {
            _ if self.bytes < LEAST_DISK => Some("this machine's disk is full"),
            _ if self.files < least_files => Some("this machine's disk can hold no more files"),
            _ => None,
        }
    }
}

/// Returns in which way the file system of a folder is full, if it is.
pub(super) fn is_full(dir: &Path) -> io::Result<Option<&'static str>> {
    Ok(free(dir)?.is_too_little())
}

/// The disk space of one host.
pub(super) struct Disk {
    dir: PathBuf,
    /// Whether it is bounded, as all else is that the host's programs use.
    bounded: bool,
    counted: Mutex<Option<Free>>,
}

impl Disk {
    /// Returns that of the host whose folder is `dir`.
    pub(super) fn new(dir: PathBuf, bounded: bool) -> Self {
        Self { dir, bounded, counted: Mutex::new(None) }
    }

    /// Returns in which way the host has used too much, if it has.
    fn exceeded(&self) -> io::Result<Option<String>> {
        let free = free(&self.dir)?;
        if let Some(why) = free.is_too_little() {
            return Ok(Some(why.to_owned()));
        }
        {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = counted.as_ref().is_some_and(|last| {
                last.at.elapsed() < COUNT_AGAIN
                    && last.bytes.saturating_sub(free.bytes) < BYTES_AGAIN
                    && last.files.saturating_sub(free.files) < FILES_AGAIN
            });
            if is_new {
                return Ok(None);
            }
            *counted = Some(free);
        }
        let exceeded = count(&self.dir);
        if !matches!(exceeded, Ok(None)) {
            // The next look, or the next program, counts afresh.
            *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        exceeded
    }
}

/// Counts what is in a folder, and returns in which way it is too much, if it is.
fn count(dir: &Path) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, dir, flags, Mode::empty())?;
    let (mut bytes, mut files, mut looks) = (0, 0, 0);
    // Breadth first would keep a handle of every folder; this keeps those of one way down.
    let mut way: Vec<(OwnedFd, VecDeque<(std::ffi::CString, u64)>)> = vec![(top, VecDeque::new())];
    let mut entered = true;
    while let Some((folder, below)) = way.last_mut() {
        if entered {
            bytes += fstat(&*folder)?.st_blocks.unsigned_abs() * 512;
            for entry in Dir::read_from(&*folder)? {
                let Ok(entry) = entry else { break };
                if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    continue;
                }
                files += 1;
                if entry.file_type() == FileType::Directory {
                    below.push_back((entry.file_name().to_owned(), entry.ino()));
                } else if let Ok(file) = statat(&*folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    bytes += file.st_blocks.unsigned_abs() * 512;
                }
                if files > MOST_FILES {
                    return Ok(Some(format!("this host has more than {MOST_FILES} files")));
                }
                if bytes > MOST_BYTES {
                    return Ok(Some(format!("this host's files take more than {} GiB", MOST_BYTES >> 30)));
                }
            }
        }
        entered = false;
        let Some((name, inode)) = below.pop_front() else {
            way.pop();
            continue;
        };
        let folder = match enter(folder, &name) {
            Ok(folder) => folder,
            // The lab itself is short of something: what it does not see is no less.
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => match renamed(folder, inode, &mut looks)? {
                Some(folder) => folder,
                None => continue,
            },
        };
        way.push((folder, VecDeque::new()));
        if way.len() > MOST_DEPTH {
            return Ok(Some(format!("this host's folders are more than {MOST_DEPTH} deep")));
        }
        entered = true;
    }
    Ok(None)
}

/// Returns a folder that was in another one a moment ago, under whatever name it has now; `None` if it is gone.
fn renamed(folder: &OwnedFd, inode: u64, looks: &mut u32) -> io::Result<Option<OwnedFd>> {
    let mut missed = 0;
    while missed < GONE_AFTER {
        *looks += 1;
        if *looks > MOST_LOOKS {
            return Err(io::Error::other("folders are renamed all the time"));
        }
        let same = Dir::read_from(folder)?.flatten().find(|entry| entry.ino() == inode);
        match same.map(|entry| enter(folder, entry.file_name())) {
            Some(Ok(folder)) => return Ok(Some(folder)),
            Some(Err(error)) if is_shortage(&error) => return Err(error),
            Some(Err(_)) => missed = 0,
            None => missed += 1,
        }
    }
    Ok(None)
}

/// Returns whether an error says that descriptors or memory have run out.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| short.iter().any(|errno| errno.raw_os_error() == code))
}

/// Opens a folder in another one. One that is closed to its owner, who is not root outside, is opened up.
pub(super) fn enter(folder: &OwnedFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, name, flags | OFlags::RDONLY, Mode::empty()) {
        Ok(folder) => Ok(folder),
        Err(error) => opened_up(folder, name, flags).unwrap_or_else(|| Err(error.into())),
    }
}

/// No lab runs on other systems.
#[cfg(not(target_os = "linux"))]
fn opened_up(_: &OwnedFd, _: &std::ffi::CStr, _: OFlags) -> Option<io::Result<OwnedFd>> {
    None
}

#[cfg(target_os = "linux")]
fn opened_up(folder: &OwnedFd, name: &std::ffi::CStr, flags: OFlags) -> Option<io::Result<OwnedFd>> {
    use std::os::fd::AsRawFd;
    // This handle needs no right on the folder, and stays what it is whatever takes the name's place.
    let handle = openat(folder, name, flags | OFlags::PATH, Mode::empty()).ok()?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU).ok()?;
    Some(openat(&handle, ".", flags | OFlags::RDONLY, Mode::empty()).map_err(io::Error::from))
}

/// What one running program has used.
pub(super) struct Usage {
    began: Instant,
    disk: Arc<Disk>,
    /// How often in a row its host's files could not be counted.
    uncounted: u32,
}

impl Usage {
    /// A program of this host begins.
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        Self { began: Instant::now(), disk, uncounted: 0 }
    }

    /// Returns in which way a program whose outer process is `outer` has gone beyond its limits, if it has.
    pub(super) fn exceeded(&mut self, outer: u32) -> Option<String> {
        if !self.disk.bounded {
            return None;
        }
        if self.began.elapsed() > MOST_TIME {
            return Some(format!("it ran for more than {} hours", MOST_TIME.as_secs() / 3600));
        }
        if memory(outer) > MOST_MEMORY {
            return Some(format!("it used more than {} GiB of memory", MOST_MEMORY >> 30));
        }
        if machine_is_short() {
            return Some("this machine is out of memory".to_owned());
        }
        match self.disk.exceeded() {
            Ok(exceeded) => {
                self.uncounted = 0;
                exceeded
            }
            // A host that goes down, a folder that was closed at this moment; not again and again.
            Err(_) if self.uncounted < MOST_UNCOUNTED => {
                self.uncounted += 1;
                None
            }
            Err(error) => Some(format!("this host's files cannot be counted: {error}")),
        }
    }
}

/// Reads a number of KiB behind a name, in bytes.
fn bytes_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}

/// Returns the memory that is no file's of a process and of all below it.
fn memory(outer: u32) -> u64 {
    let (mut all, mut used) = (vec![outer], 0);
    while let Some(pid) = all.pop() {
        let mut own = memory_in(format!("/proc/{pid}/status"));
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            // The first thread may have ended, and tells of no memory then; the others have it all the same.
            own = own.or_else(|| memory_in(thread.path().join("status")));
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        used += own.unwrap_or_default();
    }
    used
}

/// Returns the memory in a status of proc_pid_status(5); `None` if it tells of none.
fn memory_in(status: impl AsRef<Path>) -> Option<u64> {
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let kinds = ["RssAnon:", "RssShmem:", "VmPTE:", "VmSwap:", "HugetlbPages:"];
    status.contains("RssAnon:").then(|| kinds.iter().map(|kind| bytes_of(&status, kind)).sum())
}

fn machine_is_short() -> bool {
    // Who cannot even ask has nothing left.
    let Ok(memory) = std::fs::read_to_string("/proc/meminfo") else { return true };
    let (all, free) = (bytes_of(&memory, "MemTotal:"), bytes_of(&memory, "MemAvailable:"));
    free < LEAST_MEMORY.max(all / LEAST_PART)
}
