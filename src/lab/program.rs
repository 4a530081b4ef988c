//! A program that runs on a simulated host, from outside: when it is to end, everything that it started ends with it, and
//! whoever brings the lab down can wait until that is so.

use super::limits::{Disk, LOOK, Usage, locked};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How often a program that is to end is looked at.
const END_LOOK: Duration = Duration::from_millis(2);
/// A program whose first process is not found within this is killed by its outer process alone: it was about to start.
const START_DEADLINE: Duration = Duration::from_secs(2);
/// Programs that did not end within this after they were killed are left to the kernel: they hang in a system call.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// A program that has gone beyond its limits is killed at once if the lab, busy with something else, has not done so by then.
const LAB_DEADLINE: Duration = Duration::from_secs(1);

/// The programs of a lab: those that run are looked at in a thread of its own, and the files of their hosts are counted in another,
/// so that nothing which keeps the lab or a count busy lets a program go beyond its limits.
#[derive(Clone)]
pub(super) struct Programs {
    running: Arc<Mutex<Vec<Running>>>,
    disks: Arc<Mutex<Vec<Arc<Disk>>>>,
    ending: Arc<Mutex<Option<JoinSet<()>>>>,
}

impl Programs {
    /// Starts to look. The thread ends with the last of these values.
    pub(super) fn new() -> io::Result<Self> {
        let (running, disks) = (Arc::default(), Arc::default());
        let (seen, theirs) = (Arc::downgrade(&running), Arc::downgrade(&disks));
        std::thread::Builder::new().name("limits".to_owned()).spawn(move || look(&seen, &theirs))?;
        let counted = Arc::downgrade(&disks);
        std::thread::Builder::new().name("files".to_owned()).spawn(move || count(&counted))?;
        Ok(Self { running, disks, ending: Arc::new(Mutex::new(Some(JoinSet::new()))) })
    }

    fn take(&self, child: Child) {
        let mut tasks = locked(&self.ending);
        // Without a runtime there is nobody to wait; dropping the process kills it.
        if let (Some(tasks), Ok(_)) = (tasks.as_mut(), tokio::runtime::Handle::try_current()) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(end(child));
        }
    }

    /// Waits until all programs that were to end have ended. What comes later is killed, and not waited for.
    pub(super) async fn all_ended(&self) {
        let tasks = locked(&self.ending).take();
        let Some(mut tasks) = tasks else { return };
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_DEADLINE, all).await;
    }
}

/// A running program, as it is looked at.
struct Running {
    outer: u32,
    handle: inner::Handle,
    usage: Usage,
    verdict: Arc<Verdict>,
    exceeded: Option<Instant>,
}

/// What the thread says of a program, and the program to the thread.
#[derive(Default)]
struct Verdict {
    why: Mutex<Option<String>>,
    said: Notify,
    ended: AtomicBool,
}

fn look(running: &Weak<Mutex<Vec<Running>>>, disks: &Weak<Mutex<Vec<Arc<Disk>>>>) {
    while let (Some(running), Some(disks)) = (running.upgrade(), disks.upgrade()) {
        let for_all = locked(&disks).iter().find_map(|disk| disk.exceeded_for_all());
        let mut now = std::mem::take(&mut *locked(&running));
        now.retain_mut(|program| program.look(for_all.as_ref()));
        locked(&running).append(&mut now);
        drop((running, disks));
        std::thread::sleep(LOOK);
    }
}

fn count(disks: &Weak<Mutex<Vec<Arc<Disk>>>>) {
    while let Some(disks) = disks.upgrade() {
        let all = locked(&disks).clone();
        drop(disks);
        let busy = all.iter().any(|disk| disk.is_busy());
        all.iter().for_each(|disk| disk.count(busy));
        std::thread::sleep(LOOK);
    }
}

impl Running {
    /// Looks at it once; `false` if it has ended. `for_all` says why no program goes on.
    fn look(&mut self, for_all: Option<&String>) -> bool {
        if self.verdict.ended.load(Relaxed) {
            return false;
        }
        match self.exceeded {
            Some(since) if since.elapsed() > LAB_DEADLINE => self.handle.kill(),
            Some(_) => {}
            None => {
                if let Some(why) = self.usage.exceeded(self.outer).or_else(|| for_all.cloned()) {
                    *locked(&self.verdict.why) = Some(why);
                    self.verdict.said.notify_one();
                    self.exceeded = Some(Instant::now());
                }
            }
        }
        true
    }
}

/// A running program. Dropping it ends it, and all that it started.
pub(super) struct Program {
    child: Option<Child>,
    programs: Programs,
    disk: Arc<Disk>,
    verdict: Arc<Verdict>,
}

impl Program {
    /// Starts a command that [`super::isolate::Isolation::command`] made.
    pub(super) fn spawn(command: &mut Command, programs: &Programs, disk: &Arc<Disk>) -> io::Result<Self> {
        let child = command.kill_on_drop(true).spawn()?;
        let verdict = Arc::<Verdict>::default();
        if let Some(outer) = child.id() {
            let (handle, usage) = (inner::Handle::of(outer)?, Usage::new(disk.clone()));
            let running = Running { outer, handle, usage, verdict: verdict.clone(), exceeded: None };
            locked(&programs.running).push(running);
        }
        {
            let mut disks = locked(&programs.disks);
            if !disks.iter().any(|known| Arc::ptr_eq(known, disk)) {
                disks.push(disk.clone());
            }
        }
        disk.begins();
        Ok(Self { child: Some(child), programs: programs.clone(), disk: disk.clone(), verdict })
    }

    /// Returns its outer process, for its streams.
    pub(super) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Waits until it ends by itself, or has gone beyond its limits and is ended. Returns its exit status, unless a signal
    /// ended it; the error says which limit it was.
    pub(super) async fn wait(&mut self) -> Result<Option<i32>, String> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = tokio::select! {
            status = child.wait() => Some(status),
            () = self.verdict.said.notified() => None,
        };
        let why = locked(&self.verdict.why).take();
        match (status, why) {
            (Some(status), None) => {
                self.child = None;
                Ok(status.ok().and_then(|status| status.code()))
            }
            (_, why) => {
                if let Some(child) = self.child.take() {
                    end(child).await;
                }
                Err(why.unwrap_or_default())
            }
        }
    }

    /// Ends it and waits until nothing of it runs.
    pub(super) async fn end(mut self) {
        if let Some(child) = self.child.take() {
            end(child).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.verdict.ended.store(true, Relaxed);
        self.disk.ends();
        if let Some(child) = self.child.take() {
            self.programs.take(child);
        }
    }
}

/// Kills the first process of the program's process namespace: the kernel then kills all others of it, and the outer
/// process ends only when they are gone. Killing the outer one would not wait for them.
async fn end(mut child: Child) {
    let began = Instant::now();
    let Some(outer) = child.id() else { return };
    while matches!(child.try_wait(), Ok(None)) {
        // One whose outer process does not go on, whatever became of the first one, does not keep the lab waiting.
        let deadline = if inner::kill(outer) { END_DEADLINE } else { START_DEADLINE };
        if began.elapsed() > deadline {
            let _ = child.start_kill();
        }
        tokio::time::sleep(END_LOOK).await;
    }
}

#[cfg(target_os = "linux")]
mod inner {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use std::io;
    use std::os::fd::OwnedFd;

    /// A process, whatever becomes of its number.
    pub(super) struct Handle(OwnedFd);

    impl Handle {
        pub(super) fn of(process: u32) -> io::Result<Self> {
            let pid = process.try_into().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
            Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
        }

        pub(super) fn kill(&self) {
            let _ = pidfd_send_signal(&self.0, Signal::KILL);
        }
    }

    /// Kills the only child of a process that has not been waited for. Returns whether there was one.
    pub(super) fn kill(outer: u32) -> bool {
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
        let child = children.unwrap_or_default().split_whitespace().next().and_then(|pid| pid.parse().ok());
        let Some(pid) = child.and_then(Pid::from_raw) else { return false };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The number may have been given to another process between the two lines above; this handle cannot be.
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        super::super::walls::parent(number) == Some(outer) && pidfd_send_signal(handle, Signal::KILL).is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod inner {
    pub(super) struct Handle;

    impl Handle {
        pub(super) fn of(_: u32) -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) fn kill(&self) {}
    }

    pub(super) fn kill(_: u32) -> bool {
        false
    }
}
