//! A program that runs on a simulated host, from outside: when it is to end, everything that it started ends with it, and
//! whoever brings the lab down can wait until that is so.

use super::limits::{self, Disk, Usage};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// How often a program that is to end is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A program whose first process is not found within this is killed by its outer process alone: it was about to start.
const START_DEADLINE: Duration = Duration::from_secs(2);
/// Programs that did not end within this after they were killed are left to the kernel: they hang in a system call.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// The programs of a lab that are being ended.
#[derive(Clone)]
pub(super) struct Ending(Arc<Mutex<Option<JoinSet<()>>>>);

impl Default for Ending {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(JoinSet::new()))))
    }
}

impl Ending {
    fn take(&self, child: Child) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a runtime there is nobody to wait; dropping the process kills it.
        if let (Some(tasks), Ok(_)) = (tasks.as_mut(), tokio::runtime::Handle::try_current()) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(end(child));
        }
    }

    /// Waits until all programs that were to end have ended. What comes later is killed, and not waited for.
    pub(super) async fn all(&self) {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut tasks) = tasks else { return };
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_DEADLINE, all).await;
    }
}

/// A running program. Dropping it ends it, and all that it started.
pub(super) struct Program {
    child: Option<Child>,
    ending: Ending,
    disk: Arc<Disk>,
}

impl Program {
    /// Starts a command that [`super::isolate::Isolation::command`] made.
    pub(super) fn spawn(command: &mut Command, ending: &Ending, disk: &Arc<Disk>) -> std::io::Result<Self> {
        let child = command.kill_on_drop(true).spawn()?;
        Ok(Self { child: Some(child), ending: ending.clone(), disk: disk.clone() })
    }

    /// Returns its outer process, for its streams.
    pub(super) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Waits until it ends by itself, or has gone beyond its limits and is ended. Returns its exit status, unless a signal
    /// ended it; the error says which limit it was.
    pub(super) async fn wait(&mut self) -> Result<Option<i32>, String> {
        let (Some(child), disk) = (self.child.as_mut(), self.disk.clone()) else { return Ok(None) };
        let mut usage = Usage::new(&disk);
        let why = loop {
            if let Ok(status) = tokio::time::timeout(limits::LOOK, child.wait()).await {
                self.child = None;
                return Ok(status.ok().and_then(|status| status.code()));
            }
            if let Some(why) = child.id().and_then(|outer| usage.exceeded(outer)) {
                break why;
            }
        };
        if let Some(child) = self.child.take() {
            end(child).await;
        }
        Err(why)
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
        if let Some(child) = self.child.take() {
            self.ending.take(child);
        }
    }
}

/// Kills the first process of the program's process namespace: the kernel then kills all others of it, and the outer
/// process ends only when they are gone. Killing the outer one would not wait for them.
async fn end(mut child: Child) {
    let began = Instant::now();
    let Some(outer) = child.id() else { return };
    while matches!(child.try_wait(), Ok(None)) {
        if !inner::kill(outer) && began.elapsed() > START_DEADLINE {
            let _ = child.start_kill();
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(target_os = "linux")]
mod inner {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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
    pub(super) fn kill(_: u32) -> bool {
        false
    }
}
