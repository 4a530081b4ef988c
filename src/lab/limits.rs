//! What a program on a simulated host, and all that it starts, may use at most of memory, time and output, and a host of disk
//! space: looked at while a program runs, since limits of single processes bound neither, and cgroups are not to be had
//! everywhere. Whoever goes beyond is ended.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat, statvfs};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
const MOST_DEPTH: u64 = 200;
/// A host with so many times as much ends the programs of all hosts: a program can write to another host's files, whose folder it was
/// passed through a socket, and nothing that runs on that host would tell.
const MOST_TIMES: u64 = 2;
/// Below so many free bytes on the file system of the lab, or so many files that it can still hold, no program goes on; of a small
/// one this part.
const LEAST_DISK: u64 = 512 << 20;
const LEAST_FILES: u64 = 40_000;
const LEAST_FILES_PART: u64 = 50;
/// A host's files are counted again after this time, or once the file system has lost so many bytes or files.
const COUNT_AGAIN: Duration = Duration::from_secs(5);
const BYTES_AGAIN: u64 = 256 << 20;
const FILES_AGAIN: u64 = 5_000;
/// A count ends within this time, whatever the host does to its files meanwhile.
const COUNT_DEADLINE: Duration = Duration::from_secs(2);
/// So often in a row a host's files need not be countable.
const MOST_UNCOUNTED: u32 = 10;
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
    /// Programs that run on the host.
    programs: AtomicUsize,
    /// Programs have run there since its files were counted.
    ran: AtomicBool,
    counted: Mutex<Option<Free>>,
    verdict: Mutex<Verdict>,
}

/// What was found when a host's files were last counted.
#[derive(Default)]
struct Verdict {
    /// In which way it had too much.
    why: Option<String>,
    /// It had so much that it concerns all hosts.
    of_all: bool,
    /// How often in a row its files could not be counted.
    uncounted: u32,
}

impl Disk {
    /// Returns that of the host whose folder is `dir`.
    pub(super) fn new(dir: PathBuf, bounded: bool) -> Self {
        let (programs, ran) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { dir, bounded, programs, ran, counted: Mutex::new(None), verdict: Mutex::default() }
    }

    /// A program starts on the host.
    pub(super) fn begins(&self) {
        self.programs.fetch_add(1, Relaxed);
        self.ran.store(true, Relaxed);
    }

    /// A program of the host has ended.
    pub(super) fn ends(&self) {
        self.programs.fetch_sub(1, Relaxed);
    }

    /// Returns whether programs run on the host.
    pub(super) fn is_busy(&self) -> bool {
        self.programs.load(Relaxed) > 0
    }

    /// Returns in which way the host has used so much that no program of any host goes on.
    pub(super) fn exceeded_for_all(&self) -> Option<String> {
        let verdict = locked(&self.verdict);
        let why = verdict.why.as_ref().filter(|_| verdict.of_all)?;
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        Some(format!("on {name}: {why}"))
    }

    /// Returns in which way the host has used too much, if it has. Counts nothing, and so takes no time.
    fn exceeded(&self) -> Option<String> {
        // A host that goes down has no folder any more.
        if let Ok(free) = free(&self.dir)
            && let Some(why) = free.is_too_little()
        {
            return Some(why.to_owned());
        }
        locked(&self.verdict).why.clone()
    }

    /// Counts the host's files, if it is time to: programs run there or have run, or run on other hosts (`others`).
    pub(super) fn count(&self, others: bool) {
        let own = self.is_busy() || self.ran.load(Relaxed);
        if !self.bounded || !(own || others) {
            return;
        }
        let Ok(free) = free(&self.dir) else { return };
        {
            let mut counted = locked(&self.counted);
            let is_new = counted.as_ref().is_some_and(|last| {
                last.at.elapsed() < COUNT_AGAIN
                    && last.bytes.saturating_sub(free.bytes) < BYTES_AGAIN
                    && last.files.saturating_sub(free.files) < FILES_AGAIN
            });
            if is_new {
                return;
            }
            *counted = Some(free);
        }
        self.ran.store(false, Relaxed);
        let found = count(&self.dir, Instant::now() + COUNT_DEADLINE);
        if own && !matches!(found, Ok((None, _))) {
            // The next look counts afresh.
            *locked(&self.counted) = None;
        }
        let mut verdict = locked(&self.verdict);
        *verdict = match found {
            Ok((why, of_all)) => Verdict { why, of_all, uncounted: 0 },
            // A host that goes down, a folder that was closed at this moment; not again and again.
            Err(_) if verdict.uncounted < MOST_UNCOUNTED => Verdict {
                why: verdict.why.take().filter(|_| !own),
                uncounted: verdict.uncounted + 1,
                ..*verdict
            },
            Err(error) => {
                let why = Some(format!("this host's files cannot be counted: {error}"));
                Verdict { why, of_all: true, uncounted: 0 }
            }
        };
    }
}

/// Locks a mutex; a thread that panicked has left nothing half done in those of this module.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts what is in a folder, and returns in which way it is too much, if it is, and whether it is [`MOST_TIMES`] as much.
fn count(dir: &Path, deadline: Instant) -> io::Result<(Option<String>, bool)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, dir, flags | UNSEEN, Mode::empty())?;
    let (mut bytes, mut files, mut depth, mut looks) = (0, 0, 0, 0);
    // Breadth first would keep a handle of every folder; this keeps those of one way down.
    let mut way: Vec<(OwnedFd, VecDeque<(std::ffi::CString, u64)>)> = vec![(top, VecDeque::new())];
    let mut entered = true;
    while let Some((folder, below)) = way.last_mut() {
        if Instant::now() > deadline {
            return Err(io::Error::other("it takes too long"));
        }
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
                if let Some(why) = too_much(bytes, files, depth, MOST_TIMES) {
                    return Ok((Some(why), true));
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
            Err(_) => match renamed(folder, inode, &mut looks, deadline)? {
                Some(folder) => folder,
                None => continue,
            },
        };
        way.push((folder, VecDeque::new()));
        depth = depth.max(way.len() as u64);
        entered = true;
    }
    Ok((too_much(bytes, files, depth, 1), false))
}

/// Returns in which way it is more than so many times what a host may have.
fn too_much(bytes: u64, files: u64, depth: u64, times: u64) -> Option<String> {
    match () {
        () if files > MOST_FILES * times => {
            Some(format!("this host has more than {} files", MOST_FILES * times))
        }
        () if bytes > MOST_BYTES * times => {
            Some(format!("this host's files take more than {} GiB", (MOST_BYTES * times) >> 30))
        }
        () if depth > MOST_DEPTH * times => {
            Some(format!("this host's folders are more than {} deep", MOST_DEPTH * times))
        }
        () => None,
    }
}

/// Returns a folder that was in another one a moment ago, under whatever name it has now; `None` if it is gone.
fn renamed(folder: &OwnedFd, inode: u64, looks: &mut u32, deadline: Instant) -> io::Result<Option<OwnedFd>> {
    let mut missed = 0;
    while missed < GONE_AFTER {
        *looks += 1;
        if *looks > MOST_LOOKS || Instant::now() > deadline {
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

/// A host would learn from the time of access which of its folders has just been counted, and move files there.
#[cfg(target_os = "linux")]
const UNSEEN: OFlags = OFlags::NOATIME;
#[cfg(not(target_os = "linux"))]
const UNSEEN: OFlags = OFlags::empty();

/// Returns whether an error says that descriptors or memory have run out.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| short.iter().any(|errno| errno.raw_os_error() == code))
}

/// Opens a folder in another one. One that is closed to its owner, who is not root outside, is opened up.
pub(super) fn enter(folder: &OwnedFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, name, flags | OFlags::RDONLY | UNSEEN, Mode::empty()) {
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
    Some(openat(&handle, ".", flags | OFlags::RDONLY | UNSEEN, Mode::empty()).map_err(io::Error::from))
}

/// What one running program has used.
pub(super) struct Usage {
    began: Instant,
    disk: Arc<Disk>,
    /// It had too much memory when it was last looked at: a process that starts another one counts twice for a moment.
    large: bool,
}

impl Usage {
    /// A program of this host begins.
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        Self { began: Instant::now(), disk, large: false }
    }

    /// Returns in which way a program whose outer process is `outer` has gone beyond its limits, if it has.
    pub(super) fn exceeded(&mut self, outer: u32) -> Option<String> {
        if !self.disk.bounded {
            return None;
        }
        if self.began.elapsed() > MOST_TIME {
            return Some(format!("it ran for more than {} hours", MOST_TIME.as_secs() / 3600));
        }
        let was_large = std::mem::replace(&mut self.large, memory(outer) > MOST_MEMORY);
        if self.large && was_large {
            return Some(format!("it used more than {} GiB of memory", MOST_MEMORY >> 30));
        }
        if machine_is_short() {
            return Some("this machine is out of memory".to_owned());
        }
        self.disk.exceeded()
    }
}

/// Reads a number of KiB behind a name, in bytes.
fn bytes_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}

/// Returns the memory that is no file's of a process and of all below it. Each child is looked at right after it was found: one
/// that ends hands its memory to another.
fn memory(pid: u32) -> u64 {
    let mut own = memory_in(format!("/proc/{pid}/status"));
    let mut below = 0;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        below += children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(memory).sum::<u64>();
        // The first thread may have ended, and tells of no memory then; the others have it all the same.
        own = own.or_else(|| memory_in(thread.path().join("status")));
    }
    own.unwrap_or_default() + below
}

/// Returns the memory in a status of proc_pid_status(5); `None` if it tells of none. The name in it can have any bytes.
fn memory_in(status: impl AsRef<Path>) -> Option<u64> {
    let status = std::fs::read(status).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let kinds = ["RssAnon:", "RssShmem:", "VmPTE:", "VmSwap:", "HugetlbPages:"];
    let tells = status.lines().any(|line| line.starts_with(kinds[0]));
    tells.then(|| kinds.iter().map(|kind| bytes_of(&status, kind)).sum())
}

fn machine_is_short() -> bool {
    // Who cannot even ask has nothing left.
    let Ok(memory) = std::fs::read_to_string("/proc/meminfo") else { return true };
    let (all, free) = (bytes_of(&memory, "MemTotal:"), bytes_of(&memory, "MemAvailable:"));
    free < LEAST_MEMORY.max(all / LEAST_PART)
}
