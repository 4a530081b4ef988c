//! What a program on a simulated host, and all that it starts, may use at most of memory, time and output, and a host of disk
//! space: looked at while a program runs, since limits of single processes bound neither, and cgroups are not to be had
//! everywhere. Whoever goes beyond is ended.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, statvfs};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
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
/// Below so many free bytes on the file system of the lab no program goes on.
const LEAST_DISK: u64 = 512 << 20;
/// A host's files are counted again after this time, or once the file system has lost so many bytes or files.
const COUNT_AGAIN: Duration = Duration::from_secs(5);
const BYTES_AGAIN: u64 = 256 << 20;
const FILES_AGAIN: u64 = 5_000;
/// So often in a row a host's files need not be countable.
const MOST_UNCOUNTED: u32 = 20;
/// Bytes that a program may print.
pub(super) const MOST_OUTPUT: u64 = 128 << 20;

/// What is free on a file system, and when that was looked at.
struct Free {
    at: Instant,
    bytes: u64,
    files: u64,
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
        let disk = statvfs(&self.dir)?;
        let free = Free { at: Instant::now(), bytes: disk.f_bavail * disk.f_frsize, files: disk.f_favail };
        if free.bytes < LEAST_DISK {
            return Ok(Some("this machine's disk is full".to_owned()));
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
    let (mut bytes, mut files) = (0, 0);
    // Breadth first would keep a handle of every folder; this keeps those of one way down.
    let mut way: Vec<(OwnedFd, VecDeque<std::ffi::CString>)> = vec![(top, VecDeque::new())];
    let mut entered = true;
    while let Some((folder, below)) = way.last_mut() {
        if entered {
            for entry in Dir::read_from(&*folder)? {
                let Ok(entry) = entry else { break };
                if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    continue;
                }
                files += 1;
                if entry.file_type() == FileType::Directory {
                    below.push_back(entry.file_name().to_owned());
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
        let Some(name) = below.pop_front() else {
            way.pop();
            continue;
        };
        let folder = match enter(folder, &name) {
            Ok(folder) => folder,
            // The lab itself is short of something: what it does not see is no less.
            Err(error) if is_shortage(&error) => return Err(error),
            // It is gone, or has just been closed and is counted the next time.
            Err(_) => continue,
        };
        way.push((folder, VecDeque::new()));
        if way.len() > MOST_DEPTH {
            return Ok(Some(format!("this host's folders are more than {MOST_DEPTH} deep")));
        }
        entered = true;
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
pub(super) struct Usage<'a> {
    began: Instant,
    disk: &'a Disk,
    /// How often in a row its host's files could not be counted.
    uncounted: u32,
}

impl<'a> Usage<'a> {
    /// A program of this host begins.
    pub(super) fn new(disk: &'a Disk) -> Self {
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
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        used += bytes_of(&status, "RssAnon:") + bytes_of(&status, "RssShmem:") + bytes_of(&status, "VmPTE:");
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    used
}

fn machine_is_short() -> bool {
    // Who cannot even ask has nothing left.
    let Ok(memory) = std::fs::read_to_string("/proc/meminfo") else { return true };
    let (all, free) = (bytes_of(&memory, "MemTotal:"), bytes_of(&memory, "MemAvailable:"));
    free < LEAST_MEMORY.max(all / LEAST_PART)
}
