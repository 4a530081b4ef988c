//! How a run ended, per target and as exit codes.

use crate::state::{Failure, FailureKind, TargetId};
use std::collections::BTreeMap;
use std::time::Duration;

/// How a target ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Verified in sync, with the number of steps carried out.
    Converged(usize),
    /// It failed.
    Failed(Box<Failure>),
    /// The run was stopped before its end; completed steps stay in place.
    Stopped,
    /// Detached: running steps continue there.
    Detached,
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug)]
pub struct RunReport {
    /// Per target with steps, or that could not be observed.
    pub outcomes: BTreeMap<TargetId, Outcome>,
    /// How long it took.
    pub elapsed: Duration,
    /// The operator stopped it.
    pub interrupted: bool,
}

impl RunReport {
    /// Returns the failures.
    pub fn failures(&self) -> impl Iterator<Item = (&TargetId, &Failure)> {
        self.outcomes.iter().filter_map(|(target, outcome)| match outcome {
            Outcome::Failed(failure) => Some((target, failure.as_ref())),
            Outcome::Converged(_) | Outcome::Stopped | Outcome::Detached => None,
        })
    }

    /// Returns the targets that were stopped or detached.
    pub fn stopped(&self) -> impl Iterator<Item = (&TargetId, &Outcome)> {
        self.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Stopped | Outcome::Detached))
    }

    /// Returns how many converged, failed, and were stopped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let (failed, stopped) = (self.failures().count(), self.stopped().count());
        (self.outcomes.len() - failed - stopped, failed, stopped)
    }

    /// Returns all applicable exit codes, the one to return first: 130, 3, 4, 1 in this order; 0 if there is none.
    pub fn exit_codes(&self) -> Vec<u8> {
        let any = |kind| self.failures().any(|(_, f)| f.kind == kind);
        let (converged, failed, _) = self.counts();
        // A host whose step failed had been locked.
        let locked_one = converged > 0 || any(FailureKind::Step);
        let holds = [
            (130, self.interrupted),
            (3, any(FailureKind::Refused)),
            (4, any(FailureKind::Locked) && !locked_one),
            (1, failed > 0),
        ];
        let codes: Vec<u8> = holds.into_iter().filter(|(_, holds)| *holds).map(|(code, _)| code).collect();
        if codes.is_empty() { vec![0] } else { codes }
    }

    /// Returns the exit code.
    pub fn exit_code(&self) -> u8 {
        self.exit_codes()[0]
    }
}
