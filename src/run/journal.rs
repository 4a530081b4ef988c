//! The journal: a typed intent log, appended and synced before and after each batch. Only a cache: a run
//! also converges without it.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What a record says about a batch, or about the run.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Transition {
    /// The run begins.
    Begun,
    /// A batch is about to be started.
    Started,
    /// A batch succeeded.
    Done,
    /// A batch failed.
    Failed,
    /// A target was observed to be in sync.
    Verified,
    /// A node is about to be cordoned and drained.
    Draining,
    /// Its pods are gone.
    Drained,
    /// It takes pods again.
    Uncordoned,
    /// The run ended.
    Finished,
}

/// One line of the journal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Record {
    /// What.
    pub transition: Transition,
    /// The target, empty for the run itself.
    pub target: String,
    /// The number of the target's batch, from 1; 0 for the drain of its node.
    pub batch: usize,
    /// When, seconds since 1970.
    pub at_s: i64,
    /// A line for people.
    pub note: String,
}

/// Why a journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("cannot write the journal {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A record that cannot follow those before it.
    #[error("line {line} of {path}: {what} is not valid after the records before it")]
    Illegal {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// Its text.
        what: String,
    },
}

/// After which record the process kills itself, for tests: `kill@N` or `kill@TRANSITION`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KillAt {
    /// The Nth, from 1.
    Record(usize),
    /// The first of its kind.
    Transition(Transition),
}

impl std::str::FromStr for KillAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.strip_prefix("kill@").ok_or("it begins with kill@")?;
        if let Ok(n) = at.parse() {
            return Ok(Self::Record(n));
        }
        let transition = serde_json::from_value(at.into());
        transition.map(Self::Transition).map_err(|_| format!("{at} is neither a number nor a transition"))
    }
}

/// An open journal.
pub struct Journal {
    path: PathBuf,
    state: Mutex<(File, usize)>,
    kill_at: Option<KillAt>,
}

impl Journal {
    /// Opens a new journal.
    pub fn create(path: &Path, kill_at: Option<KillAt>) -> Result<Self, JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let open = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path);
        let file = open.map_err(failed)?;
        Ok(Self { path: path.to_owned(), state: Mutex::new((file, 0)), kill_at })
    }

    /// Appends a record and syncs it.
    pub fn write(
        &self,
        transition: Transition,
        target: &str,
        batch: usize,
        note: &str,
    ) -> Result<(), JournalError> {
        let failed = |source| JournalError::File { path: self.path.clone(), source };
        let at_s = jiff::Timestamp::now().as_second();
        let record = Record { transition, target: target.to_owned(), batch, at_s, note: note.to_owned() };
        let line = serde_json::to_string(&record).map_err(|e| failed(std::io::Error::other(e)))?;
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        state.0.sync_data().map_err(failed)?;
        state.1 += 1;
        if [KillAt::Record(state.1), KillAt::Transition(transition)].map(Some).contains(&self.kill_at) {
            // Like a power loss: nothing of this process continues.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        Ok(())
    }
}

/// Reads a journal; a truncated last line, as left by a kill, is dropped. Any invalid record is an error.
pub fn replay(path: &Path) -> Result<Vec<Record>, JournalError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| JournalError::File { path: path.to_owned(), source })?;
    records(path, &text)
}

/// Reads the records of a journal's text; a truncated last line is left out.
pub fn records(path: &Path, text: &str) -> Result<Vec<Record>, JournalError> {
    let mut records: Vec<Record> = Vec::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (index, line) in whole.lines().enumerate() {
        let illegal = |what: String| JournalError::Illegal { path: path.to_owned(), line: index + 1, what };
        let record: Record = serde_json::from_str(line).map_err(|e| illegal(e.to_string()))?;
        if !legal(&records, &record) {
            return Err(illegal(format!("{:?} of {} {}", record.transition, record.target, record.batch)));
        }
        records.push(record);
    }
    Ok(records)
}

fn legal(before: &[Record], next: &Record) -> bool {
    let last =
        before.iter().rev().find(|r| r.target == next.target && r.batch == next.batch).map(|r| r.transition);
    let ended = before.last().is_some_and(|r| r.transition == Transition::Finished);
    match next.transition {
        _ if ended => false,
        Transition::Begun => before.is_empty(),
        Transition::Started => last.is_none() && !before.is_empty(),
        Transition::Done => last == Some(Transition::Started),
        Transition::Failed => matches!(last, Some(Transition::Started | Transition::Draining)),
        Transition::Draining => last.is_none() && !before.is_empty(),
        Transition::Drained => last == Some(Transition::Draining),
        // Cancelled before anything was changed, or back in service afterwards.
        Transition::Uncordoned => {
            matches!(last, Some(Transition::Draining | Transition::Drained | Transition::Failed))
        }
        Transition::Verified | Transition::Finished => !before.is_empty(),
    }
}

/// A past run.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct History {
    /// Its id.
    pub run: String,
    /// When it began, seconds since 1970.
    pub began_s: i64,
    /// How long it took, in seconds, if it ended.
    pub took_s: Option<i64>,
    /// Batches done.
    pub done: usize,
    /// Batches failed.
    pub failed: usize,
    /// The line it ended with.
    pub note: String,
}

/// Returns the runs of a folder of journals, newest first.
pub fn history(folder: &Path) -> Vec<History> {
    let mut runs: Vec<History> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let run = entry.path().file_stem()?.to_string_lossy().into_owned();
            let records = replay(&entry.path()).ok()?;
            let began_s = records.first()?.at_s;
            let count = |t: Transition| records.iter().filter(|r| r.transition == t).count();
            let end = records.last().filter(|r| r.transition == Transition::Finished);
            Some(History {
                run,
                began_s,
                took_s: end.map(|r| r.at_s - began_s),
                done: count(Transition::Done),
                failed: count(Transition::Failed),
                note: end.map_or_else(|| "interrupted; apply again".to_owned(), |r| r.note.clone()),
            })
        })
        .collect();
    runs.sort_by_key(|r| std::cmp::Reverse(r.began_s));
    // What the newest run has not finished is what is left to do.
    for old in runs.iter_mut().skip(1).filter(|run| run.took_s.is_none()) {
        "interrupted".clone_into(&mut old.note);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_run_is_to_be_applied_again() {
        let dir = tempfile::tempdir().expect("a folder");
        for (run, begun, ended) in [("A", 1, false), ("B", 2, true), ("C", 3, false)] {
            let line = |transition: &str, at: i64| {
                format!(
                    "{{\"transition\":\"{transition}\",\"target\":\"\",\"batch\":0,\"at_s\":{at},\"note\":\"\"}}\n"
                )
            };
            let end = if ended { line("finished", begun + 1) } else { String::new() };
            std::fs::write(dir.path().join(format!("{run}.jsonl")), line("begun", begun) + &end)
                .expect("written");
        }
        let notes = || history(dir.path()).into_iter().map(|run| (run.run, run.note)).collect::<Vec<_>>();
        let told = |run: &str, note: &str| (run.to_owned(), note.to_owned());
        assert_eq!(notes(), [told("C", "interrupted; apply again"), told("B", ""), told("A", "interrupted")]);
    }

    #[test]
    fn a_torn_line_is_dropped_and_an_illegal_one_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("R.jsonl");
        let journal = Journal::create(&path, None).expect("made");
        journal.write(Transition::Begun, "", 0, "").expect("written");
        journal.write(Transition::Started, "h", 1, "").expect("written");
        let whole = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, format!("{whole}{{\"transition\":\"do")).expect("written");
        assert_eq!(replay(&path).expect("replayed").len(), 2);
        std::fs::write(&path, &whole).expect("written");
        let journal = Journal::create(&path, None).expect("opened");
        journal.write(Transition::Started, "h", 1, "").expect("written");
        assert!(matches!(replay(&path), Err(JournalError::Illegal { line: 3, .. })));
    }
}
