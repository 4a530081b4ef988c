//! One run of an inventory at a time on this machine: a lock of a file that says who holds it. The kernel releases it however
//! the process ends, so it is also the proof that an earlier run is over.

use super::error::{Result, cannot, failed};
use super::state_dir::{OwnLabName, StateDir, identity, is_own_lab_of, lab_folder};
use crate::inventory::Inventory;
use crate::state::{Failure, FailureKind};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Earlier runs that are remembered, the newest: each may have left a lease, on this cluster or on one of the lab.
const MOST_ENDED: usize = 8;
/// How often a lock that is taken is tried again, and after what pause.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);
/// The most that is read of the file, in bytes.
const MOST_READ: u64 = 64 << 10;

/// Who holds the lock, or held it last.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Runner {
    /// `user@machine`.
    pub owner: String,
    /// The process.
    pub pid: u32,
    /// The run.
    pub run: String,
    /// Where its inventory is.
    pub inventory: PathBuf,
    /// When it began, in seconds since 1970.
    pub began_s: i64,
    /// What its lease in the cluster is held by.
    pub lease: String,
    /// The same of earlier runs, oldest first.
    #[serde(default)]
    pub ended: Vec<String>,
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
    /// What leases of earlier runs of this machine are held by; each of them is over, for it held this lock.
    pub ended: Vec<String>,
}

/// Returns a duration as people say it.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

fn locked(message: String) -> Failure {
    Failure::new(FailureKind::Locked, "E-RUNNING", message)
}

fn in_progress(name: &str, holder: Option<&Runner>, now_s: i64) -> super::Error {
    let Some(holder) = holder else {
        let message = format!("another run of {name} is in progress on this machine");
        return locked(message).hint("Wait for it to finish, or stop it with Ctrl-C").into();
    };
    let message = format!(
        "run {} of {name} is in progress on this machine: process {} of {}, inventory {}, started {} ago",
        holder.run,
        holder.pid,
        holder.owner,
        holder.inventory.display(),
        age(now_s - holder.began_s)
    );
    let hint = format!("Wait for it to finish, or stop it with Ctrl-C or `kill -INT {}`", holder.pid);
    locked(message).hint(hint).into()
}

fn read(file: &mut File) -> Option<Runner> {
    let mut text = String::new();
    file.take(MOST_READ).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write(file: &mut File, runner: &Runner) -> std::io::Result<()> {
    let text = serde_json::to_string(runner)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// The lock of the runs on a lab that one command started for itself, in the folder of that lab.
const OF_LAB: &str = "running";

/// Returns the runs of an inventory that are in progress on this machine, each with its process.
pub(super) fn running(state: &StateDir, inventory: &Inventory) -> BTreeMap<String, u32> {
    let labs = state.folder(&["lab"]).ok().and_then(|labs| std::fs::read_dir(labs).ok());
    let labs = labs.into_iter().flatten().flatten().filter(|lab| is_own_lab_of(&lab.file_name(), inventory));
    let site = state.folder(&["running"]).map(|folder| folder.join(identity(inventory)));
    let of_run = |path: PathBuf| {
        let mut file = File::open(path).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => read(&mut file).map(|runner| (runner.run, runner.pid)),
            _ => None,
        }
    };
    labs.map(|lab| lab.path().join(OF_LAB)).chain(site).filter_map(of_run).collect()
}

impl RunLock {
    /// Takes the lock of an inventory, or of a command's own lab of it, for a run, or fails naming the run that has it.
    pub(super) fn take(
        state: &StateDir,
        inventory: &Inventory,
        own: Option<&OwnLabName>,
        mut runner: Runner,
    ) -> Result<Self> {
        let path = match own {
            Some(_) => state.folder(&["lab", &lab_folder(inventory, own)])?.join(OF_LAB),
            None => state.folder(&["running"])?.join(identity(inventory)),
        };
        let mut file = super::state_dir::open(&path).map_err(cannot("open", &path))?;
        // A program that this process starts has the lock of a run that just ended for a moment too, between its fork and exec.
        let mut taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        for _ in 0..TRIES {
            if taken != Err(rustix::io::Errno::WOULDBLOCK) {
                break;
            }
            std::thread::sleep(PAUSE);
            taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        let before = read(&mut file);
        match taken {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(in_progress(&inventory.name, before.as_ref(), runner.began_s));
            }
            Err(error) => return Err(failed("cannot lock the file of runs in progress")(error.into())),
        }
        let mut ended = before.map_or_else(Vec::new, |b| b.ended.into_iter().chain([b.lease]).collect());
        // A run that goes on after it was cut off in this process is the same one.
        ended.retain(|lease| *lease != runner.lease);
        ended.drain(..ended.len().saturating_sub(MOST_ENDED));
        runner.ended = ended.clone();
        write(&mut file, &runner).map_err(cannot("write", &path))?;
        Ok(Self { _file: file, ended })
    }
}

/// Returns a folder as another process would name it.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(run: &str, began_s: i64) -> Runner {
        Runner {
            owner: "eva@desk".into(),
            pid: 4711,
            run: run.into(),
            inventory: "/sites/ams".into(),
            began_s,
            lease: format!("eva@desk_{run}"),
            ended: Vec::new(),
        }
    }

    #[test]
    fn a_second_run_is_refused_and_told_who_has_the_lock() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::below(dir.path().join("state"));
        let site = dir.path().join("site");
        std::fs::create_dir(&site).expect("made");
        let text = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: ams}\n\
            cluster: {k0s: {version: v1.35.7+k0s.0}}\n\
            pools:\n  c: {role: single, hosts: {cp-1: {address: 10.1.0.1}}}\n";
        std::fs::write(site.join("site.yaml"), text).expect("written");
        let catalog = crate::catalog::Catalog::builtin().expect("the catalog");
        let inventory = crate::inventory::load(&site, &catalog).unwrap_or_else(|d| panic!("{d}")).inventory;
        let take = |runner| RunLock::take(&state, &inventory, None, runner);
        let first = take(runner("AAAAA", 1000)).expect("free");
        assert_eq!(first.ended, Vec::<String>::new());
        let refused = take(runner("BBBBB", 1150)).expect_err("taken").failure();
        assert_eq!(
            (refused.code.as_str(), refused.message.as_str()),
            (
                "E-RUNNING",
                "run AAAAA of ams is in progress on this machine: process 4711 of eva@desk, inventory /sites/ams, \
                 started 2 min ago"
            )
        );
        assert!(refused.hint.is_some_and(|hint| hint.contains("kill -INT 4711")));
        drop(first);
        // As after a kill: the file is still there, its lock is not.
        assert_eq!(take(runner("BBBBB", 1200)).expect("free").ended, ["eva@desk_AAAAA"]);
        assert_eq!(take(runner("BBBBB", 1300)).expect("the same run goes on").ended, ["eva@desk_AAAAA"]);
        for n in 0..20 {
            drop(take(runner(&format!("R{n:02}"), 2000)).expect("free"));
        }
        let ended = take(runner("CCCCC", 3000)).expect("free").ended;
        assert_eq!((ended.len(), ended.last().map(String::as_str)), (MOST_ENDED, Some("eva@desk_R19")));
        let path = state.folder(&["running"]).expect("made").join(identity(&inventory));
        std::fs::write(&path, "{cut off").expect("written");
        assert_eq!(
            take(runner("DDDDD", 4000)).expect("what cannot be read is nobody's").ended,
            Vec::<String>::new()
        );
    }
}
