//! What a run leaves for whoever has to account for it: who did what, why it was allowed, and every step with its start, end and
//! result. Owns the form of records; the chain that they are in is `chain.rs`. They hold no secret: texts are those of plans and events.

use crate::event::Event;
use crate::plan::{CiJob, CommitFacts, PolicyReport, User};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Who began a run, what it is to do, and why it was allowed.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RunBegun {
    /// The run.
    pub run: String,
    /// `apply`, `reset`, `destroy` or `restore`.
    pub command: String,
    /// The version of `provision`.
    pub version: String,
    /// When it began, as RFC 3339 in UTC.
    pub at: String,
    /// Who began it.
    pub user: User,
    /// The CI job that it ran in.
    pub ci: Option<CiJob>,
    /// The inventory's name.
    pub inventory: String,
    /// Its digest.
    pub inventory_digest: String,
    /// The lock file's digest.
    pub lock_digest: String,
    /// Hosts are simulated.
    pub lab: bool,
    /// The hosts that were selected, as on the command line; `None` for all.
    pub limit: Option<String>,
    /// The commit that the inventory was of.
    pub commit: Option<CommitFacts>,
    /// sha256 of the saved plan that was carried out, or of the plan as JSON.
    pub plan: String,
    /// It was a saved plan.
    pub saved: bool,
    /// Its steps.
    pub steps: usize,
    /// Who had approved it.
    pub approvals: Vec<String>,
    /// What policies said of it.
    pub policy: Option<PolicyReport>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RunEnded {
    /// The run.
    pub run: String,
    /// When it ended, as RFC 3339 in UTC.
    pub at: String,
    /// Its exit code.
    pub exit: u8,
    /// It was interrupted.
    pub interrupted: bool,
    /// What became of each target.
    pub targets: BTreeMap<String, TargetEnded>,
}

/// What became of a target in a run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetEnded {
    /// `converged`, `failed`, `stopped` or `detached`.
    pub outcome: String,
    /// Why it failed: a code.
    pub code: Option<String>,
    /// Steps that were begun on it.
    pub steps: usize,
    /// sha256 of the record of those.
    pub digest: String,
}

/// A step of a run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// The resource.
    pub step: String,
    /// What was done to it.
    pub what: String,
    /// When it began, as RFC 3339 in UTC.
    pub started: String,
    /// When it ended; `None` where that was not seen.
    pub ended: Option<String>,
    /// `done`, `failed`, `skipped`, or `unknown` where its end was not seen.
    pub result: String,
    /// What changed, or why it failed or was skipped.
    pub detail: String,
}

/// The longest detail that is kept, in characters.
const MOST_DETAIL: usize = 500;

/// Collects the steps of a run from its events.
#[derive(Default)]
pub struct StepLog(Mutex<BTreeMap<String, Vec<StepRecord>>>);

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

impl StepLog {
    /// Takes an event.
    pub fn take(&self, event: &Event) {
        let (target, step, result, what, detail) = match event {
            Event::StepStarted { target, step, what } => (target, step, None, what.as_str(), ""),
            Event::StepDone { target, step, what, change, .. } => {
                (target, step, Some("done"), what.as_str(), change.as_str())
            }
            Event::StepFailed { target, step, message, .. } => {
                (target, step, Some("failed"), "", message.as_str())
            }
            Event::StepSkipped { target, step, reason } => {
                (target, step, Some("skipped"), "", reason.as_str())
            }
            _ => return,
        };
        let mut targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = targets.entry(target.clone()).or_default();
        let at = now();
        let detail: String = detail.chars().take(MOST_DETAIL).collect();
        let begun = steps.iter_mut().rev().find(|s| s.step == *step && s.ended.is_none());
        match (result, begun) {
            (Some(result), Some(begun)) => {
                (begun.ended, begun.result, begun.detail) = (Some(at), result.to_owned(), detail);
            }
            (result, _) => steps.push(StepRecord {
                step: step.clone(),
                what: what.to_owned(),
                started: at.clone(),
                ended: result.map(|_| at),
                result: result.unwrap_or("unknown").to_owned(),
                detail,
            }),
        }
    }

    /// Returns the steps by target, and forgets them.
    pub fn end(&self) -> BTreeMap<String, Vec<StepRecord>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_step_has_its_start_end_and_result() {
        let log = StepLog::default();
        let (target, elapsed) = ("h-1".to_owned(), Duration::from_secs(1));
        let started = |step: &str| Event::StepStarted {
            target: target.clone(),
            step: step.to_owned(),
            what: step.to_uppercase(),
        };
        for event in [
            started("a"),
            started("b"),
            Event::StepDone {
                target: target.clone(),
                step: "a".to_owned(),
                kind: "file".to_owned(),
                what: "A".to_owned(),
                change: "written".to_owned(),
                elapsed,
            },
            Event::StepFailed {
                target: target.clone(),
                step: "b".to_owned(),
                code: "E-STEP".to_owned(),
                message: "no".to_owned(),
                exit: Some(1),
                elapsed,
            },
            started("c"),
            Event::StepSkipped {
                target: target.clone(),
                step: "d".to_owned(),
                reason: "not needed".to_owned(),
            },
        ] {
            log.take(&event);
        }
        let steps = &log.end()["h-1"];
        let told: Vec<(&str, &str, bool, &str)> = steps
            .iter()
            .map(|s| (s.step.as_str(), s.result.as_str(), s.ended.is_some(), s.detail.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("a", "done", true, "written"),
                ("b", "failed", true, "no"),
                ("c", "unknown", false, ""),
                ("d", "skipped", true, "not needed")
            ]
        );
        assert!(log.end().is_empty());
    }
}
