//! What a run leaves on this machine besides its journal: every target's steps with their output, and a summary with what
//! steps took. A cache like the journal: it is used only for estimates.
//!
//! `RUN.jsonl` is the journal, `RUN/TARGET.jsonl` the events of one target, `RUN/summary.json` the summary.

use super::journal::replay;
use crate::event::Event;
use crate::plan::Past;
use crate::state::ResourceId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs whose records are kept, the newest.
pub const KEPT_RUNS: usize = 50;
/// Runs that estimates come from, the newest.
const PAST_RUNS: usize = 5;
/// The most buffered records per target.
const BUFFER: usize = 64 << 10;

/// Why a record cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is none.
    #[error("run {run} is not recorded in {folder}")]
    NoRun {
        /// The run.
        run: String,
        /// Where it would be.
        folder: PathBuf,
    },
    /// The run did nothing there.
    #[error("run {run} has no record of {target}")]
    NoTarget {
        /// The run.
        run: String,
        /// The target.
        target: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// How often something was done, and its total duration.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Took {
    /// Times.
    pub times: u64,
    /// Total milliseconds.
    pub ms: u64,
}

impl Took {
    fn add(&mut self, elapsed: Duration) {
        self.times += 1;
        self.ms += elapsed.as_millis() as u64;
    }

    fn mean(self) -> u64 {
        self.ms / self.times.max(1)
    }
}

impl std::iter::Sum for Took {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, took| Self { times: sum.times + took.times, ms: sum.ms + took.ms })
    }
}

/// The summary of a run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Summary {
    /// Its id.
    pub run: String,
    /// The inventory's name.
    pub inventory: String,
    /// It ran against the lab.
    pub lab: bool,
    /// When it began, seconds since 1970.
    pub began_s: i64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Targets that converged.
    pub converged: usize,
    /// Targets that failed.
    pub failed: usize,
    /// Steps carried out, by kind of resource.
    pub changed: BTreeMap<String, usize>,
    /// What its steps took, by resource.
    pub steps: BTreeMap<String, Took>,
    /// What draining nodes took.
    #[serde(default)]
    pub drains: Took,
    /// What it took until drained nodes served again, once their hosts were as wanted.
    #[serde(default)]
    pub returns: Took,
}

/// One recorded event.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Recorded {
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Writes the record of a run. It starts with `RunStarted`; earlier events belong to no run.
pub struct Recorder {
    folder: PathBuf,
    open: Option<Open>,
}

struct Open {
    folder: PathBuf,
    summary: Summary,
    buffers: BTreeMap<String, Vec<u8>>,
}

impl Recorder {
    /// Returns a recorder that writes to a folder of journals.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, open: None }
    }

    /// Records an event. A record that cannot be written must not stop a run, so errors only end the recording.
    pub fn take(&mut self, event: &Event) {
        if let Event::RunStarted { run, inventory, lab, .. } = event {
            prune(&self.folder, run);
            let summary = Summary {
                run: run.clone(),
                inventory: inventory.clone(),
                lab: *lab,
                began_s: jiff::Timestamp::now().as_second(),
                ..Summary::default()
            };
            let folder = self.folder.join(run);
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            // A umask may have removed bits of the owner too.
            let made =
                made.and_then(|()| std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)));
            self.open = made.is_ok().then(|| Open { folder, summary, buffers: BTreeMap::new() });
            return;
        }
        let Some(open) = &mut self.open else { return };
        if open.take(event).is_err() {
            self.open = None;
        }
    }
}

impl Open {
    fn take(&mut self, event: &Event) -> std::io::Result<()> {
        let (target, flush) = match event {
            Event::StepStarted { target, .. } | Event::StepProgress { target, .. } => (target, false),
            Event::Output { target, .. } | Event::StepSkipped { target, .. } => (target, false),
            Event::Waiting { target, .. } => (target, false),
            Event::Warning { target: Some(target), .. } => (target, false),
            Event::StepDone { target, step, kind, elapsed, .. } => {
                *self.summary.changed.entry(kind.clone()).or_default() += 1;
                self.summary.steps.entry(shared(kind, step)).or_default().add(*elapsed);
                (target, false)
            }
            Event::Drained { target, elapsed } => {
                self.summary.drains.add(*elapsed);
                (target, false)
            }
            Event::InService { target, elapsed } => {
                self.summary.returns.add(*elapsed);
                (target, false)
            }
            Event::StepFailed { target, .. } => (target, true),
            Event::TargetDone { target, .. } | Event::TargetFailed { target, .. } => (target, true),
            Event::RunFinished { converged, failed, elapsed, .. } => {
                return self.end(*converged, *failed, *elapsed);
            }
            _ => return Ok(()),
        };
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let recorded = Recorded { time, event: event.clone() };
        let buffer = self.buffers.entry(target.clone()).or_default();
        serde_json::to_writer(&mut *buffer, &recorded)?;
        buffer.push(b'\n');
        if flush || buffer.len() > BUFFER {
            let buffer = std::mem::take(buffer);
            append(&self.folder.join(format!("{target}.jsonl")), &buffer)?;
        }
        Ok(())
    }

    fn end(&mut self, converged: usize, failed: usize, elapsed: Duration) -> std::io::Result<()> {
        for (target, buffer) in std::mem::take(&mut self.buffers) {
            append(&self.folder.join(format!("{target}.jsonl")), &buffer)?;
        }
        (self.summary.converged, self.summary.failed) = (converged, failed);
        self.summary.took_ms = elapsed.as_millis() as u64;
        append(&self.folder.join("summary.json"), serde_json::to_string(&self.summary)?.as_bytes())
    }
}

/// Returns a resource's name without host-specific parts, so that it is comparable across hosts and runs.
fn shared(kind: &str, step: &str) -> String {
    match kind {
        "node" | "line-in-file" | "hostname" => kind.to_owned(),
        _ => step.to_owned(),
    }
}

/// Returns the kind of what a summary counts.
fn kind(recorded: &str) -> String {
    recorded.parse().map_or_else(|_| recorded.to_owned(), |id: ResourceId| id.kind())
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file =
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path);
    file?.write_all(bytes)
}

/// Removes the oldest runs, so that no more than [`KEPT_RUNS`] remain including the new one.
fn prune(folder: &Path, begins: &str) {
    let mut runs: Vec<(std::time::SystemTime, String)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let run = name.strip_suffix(".jsonl")?.to_owned();
            (run != begins).then_some((entry.metadata().ok()?.modified().ok()?, run))
        })
        .collect();
    runs.sort();
    let most = KEPT_RUNS - 1;
    for (_, run) in runs.iter().take(runs.len().saturating_sub(most)) {
        let _ = std::fs::remove_dir_all(folder.join(run));
        let _ = std::fs::remove_file(folder.join(format!("{run}.jsonl")));
    }
}

/// Returns the summary of a run; `None` if it did not end.
pub fn summary(folder: &Path, run: &str) -> Option<Summary> {
    serde_json::from_str(&std::fs::read_to_string(folder.join(run).join("summary.json")).ok()?).ok()
}

/// Returns the targets that a run left a record of.
pub fn recorded_targets(folder: &Path, run: &str) -> Result<Vec<String>, RecordError> {
    let none = |_| RecordError::NoRun { run: run.to_owned(), folder: folder.to_owned() };
    let entries = std::fs::read_dir(folder.join(run)).map_err(none)?;
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut targets: Vec<String> = names.filter_map(|n| Some(n.strip_suffix(".jsonl")?.to_owned())).collect();
    targets.sort();
    Ok(targets)
}

/// Returns the hosts that the journals of a folder tell of.
pub fn recorded_hosts(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let journals = entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    journals.filter_map(|path| replay(&path).ok()).flatten().map(|record| record.target).collect()
}

/// Returns what a run did on a target, in order. A truncated line is left out.
pub fn recorded(folder: &Path, run: &str, target: &str) -> Result<Vec<Recorded>, RecordError> {
    if !recorded_targets(folder, run)?.iter().any(|t| t == target) {
        return Err(RecordError::NoTarget { run: run.to_owned(), target: target.to_owned() });
    }
    let path = folder.join(run).join(format!("{target}.jsonl"));
    let text = std::fs::read_to_string(&path).map_err(|source| RecordError::File { path, source })?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Returns what steps took in the newest runs of an inventory, of the lab or not of it.
pub fn past(folder: &Path, lab: bool) -> Past {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<Summary> =
        names.filter_map(|e| summary(folder, &e.file_name().into_string().ok()?)).collect();
    all.retain(|s| s.lab == lab && !s.steps.is_empty());
    all.sort_by_key(|s| std::cmp::Reverse(s.began_s));
    all.truncate(PAST_RUNS);
    let mut by_resource: BTreeMap<String, Took> = BTreeMap::new();
    let mut by_kind: BTreeMap<String, Took> = BTreeMap::new();
    for (resource, took) in all.iter().flat_map(|s| &s.steps) {
        for sum in
            [by_resource.entry(resource.clone()).or_default(), by_kind.entry(kind(resource)).or_default()]
        {
            sum.times += took.times;
            sum.ms += took.ms;
        }
    }
    let means =
        |sums: BTreeMap<String, Took>| sums.into_iter().map(|(name, sum)| (name, sum.mean())).collect();
    Past {
        runs: all.len(),
        by_resource: means(by_resource),
        by_kind: means(by_kind),
        drain: all.iter().map(|run| run.drains).sum::<Took>().mean(),
        return_to_service: all.iter().map(|run| run.returns).sum::<Took>().mean(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(root: &Path, name: &str, lab: bool, ms: u64) {
        let mut recorder = Recorder::new(root.join("ams"));
        std::fs::create_dir_all(root.join("ams")).expect("made");
        std::fs::write(root.join("ams").join(format!("{name}.jsonl")), "").expect("written");
        let target = "h-1".to_owned();
        let step = "package/chrony".to_owned();
        for event in [
            Event::RunStarted {
                run: name.into(),
                inventory: "ams".into(),
                hosts: 1,
                steps: 1,
                lab,
                about_s: None,
            },
            Event::StepStarted { target: target.clone(), step: step.clone(), what: "package chrony".into() },
            Event::Output { target: target.clone(), step: step.clone(), line: "Unpacking".into() },
            Event::StepDone {
                target: target.clone(),
                step,
                kind: "package".into(),
                what: "package chrony".into(),
                change: "installed".into(),
                elapsed: Duration::from_millis(ms),
            },
            Event::TargetDone { target, changed: 1, elapsed: Duration::from_millis(ms) },
            Event::RunFinished { run: name.into(), converged: 1, failed: 0, elapsed: Duration::from_secs(1) },
        ] {
            recorder.take(&event);
        }
    }

    #[test]
    fn a_run_is_recorded_whole_and_estimates_come_from_its_own_kind_of_run() {
        let dir = tempfile::tempdir().expect("a folder");
        run(dir.path(), "AAAAA", false, 100);
        run(dir.path(), "BBBBB", false, 300);
        run(dir.path(), "CCCCC", true, 9000);
        let folder = dir.path().join("ams");
        let shown = recorded(&folder, "AAAAA", "h-1").expect("recorded");
        assert!(matches!(&shown[1].event, Event::Output { line, .. } if line == "Unpacking"));
        assert_eq!(shown.len(), 4);
        let past = past(&folder, false);
        assert_eq!((past.runs, past.by_resource["package/chrony"], past.by_kind["package"]), (2, 200, 200));
        assert!(matches!(recorded(&folder, "ZZZZZ", "h-1"), Err(RecordError::NoRun { .. })));
        assert!(matches!(recorded(&folder, "AAAAA", "h-2"), Err(RecordError::NoTarget { .. })));
    }

    #[test]
    fn only_the_newest_runs_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        for n in 0..KEPT_RUNS + 3 {
            run(dir.path(), &format!("R{n:04}"), false, 1);
        }
        let folder = dir.path().join("ams");
        let journals = std::fs::read_dir(&folder).expect("read").flatten();
        let kept = journals.filter(|e| e.file_name().to_string_lossy().ends_with(".jsonl")).count();
        assert_eq!(kept, KEPT_RUNS);
        assert!(summary(&folder, &format!("R{:04}", KEPT_RUNS + 2)).is_some(), "the newest stays");
    }
}
