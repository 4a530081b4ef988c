//! Past runs of an inventory on this machine: journals, and the output of every step.

use super::error::{Result, coded};
use super::load::Loaded;
use super::record::{RunRecord, record_of};
use super::run_lock;
use crate::run::{History, Record, Recorded, Summary, history, recorded, recorded_targets, replay, summary};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The runs of one inventory that are recorded on this machine.
pub struct Runs {
    folder: PathBuf,
    inventory: String,
    /// The one that is in progress on this machine, and its process.
    running: BTreeMap<String, u32>,
}

/// One run.
#[derive(Serialize)]
pub struct Run {
    /// Its id.
    pub run: String,
    /// Who did it, and what it was; empty for runs of earlier versions.
    pub record: RunRecord,
    /// How it ended; `None` where it was cut off.
    pub summary: Option<Summary>,
    /// Its journal.
    pub records: Vec<Record>,
    /// Targets with recorded output.
    pub targets: BTreeSet<String>,
}

impl Loaded {
    /// Returns the runs of this inventory.
    pub fn runs(&self) -> Result<Runs> {
        Ok(Runs {
            folder: self.source.state.journals(&self.inventory)?,
            inventory: self.inventory.name.clone(),
            running: run_lock::running(&self.source.state, &self.inventory),
        })
    }
}

impl Runs {
    /// Returns all, newest first.
    pub fn all(&self) -> Vec<History> {
        let mut all = history(&self.folder);
        for known in &mut all {
            if let Some(pid) = self.running.get(&known.run) {
                known.note = format!("in progress (process {pid})");
            }
        }
        all
    }

    /// Returns one.
    pub fn one(&self, run: &str) -> Result<Run> {
        let journal = self.folder.join(format!("{run}.jsonl"));
        if !journal.exists() {
            return Err(self.unknown(run));
        }
        Ok(Run {
            run: run.to_owned(),
            record: record_of(&self.folder, run),
            summary: summary(&self.folder, run),
            records: replay(&journal)?,
            targets: recorded_targets(&self.folder, run).unwrap_or_default().into_iter().collect(),
        })
    }

    /// Returns everything that happened on one target of a run, with the output of its steps.
    pub fn on_target(&self, run: &str, target: &str) -> Result<Vec<Recorded>> {
        if recorded_targets(&self.folder, run).is_err() {
            return Err(self.unknown(run));
        }
        recorded(&self.folder, run, target).map_err(|error| {
            let hint = format!("Run `provision history show {run}` to list its targets");
            coded("E-NO-RECORD", error.to_string(), hint)
        })
    }

    /// Returns an error that names the runs there are.
    fn unknown(&self, run: &str) -> super::Error {
        let known: Vec<String> = self.all().into_iter().take(5).map(|h| h.run).collect();
        let hint = if known.is_empty() {
            format!("no run of {} is recorded on this machine", self.inventory)
        } else {
            format!("Choose one of the most recent runs: {}", known.join(", "))
        };
        coded("E-NO-RUN", format!("run {run} is not recorded on this machine"), hint)
    }
}
