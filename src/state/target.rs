//! The one interface through which `run/` reaches hosts and cluster.

use super::{LateName, Observed, SecretText, Step, StepId, TargetId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Something that can be observed and changed: a host over SSH, or the cluster over its API.
#[async_trait]
pub trait Target: Send + Sync {
    /// Returns what it is.
    fn id(&self) -> TargetId;

    /// Observes it against what is wanted. Changes nothing.
    async fn observe(&self) -> Result<Observed, Failure>;

    /// Carries out steps that the last `observe` led to, in order, stopping at the first that fails. Emits an event per
    /// step. Late values that the steps need are in `lates`; those that they make are returned.
    async fn enact(&self, steps: &[Step], lates: &Lates) -> Result<Lates, Failure>;

    /// Ends a run on this target: releases its lock, invalidates tokens. Called once, also after a failure.
    async fn finish(&self) -> Result<(), Failure>;
}

/// Values made by steps during a run.
pub type Lates = BTreeMap<LateName, SecretText>;

/// Why a target stopped, with all that a person needs to go on.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Failure {
    /// A stable code such as `E-SSH-HOSTKEY`.
    pub code: String,
    /// What failed, starting with a verb or a noun; no full stop.
    pub message: String,
    /// The step, if one was running.
    pub step: Option<StepId>,
    /// Exit status of the failed command, if there was one.
    pub exit: Option<i32>,
    /// The last lines of output, at most 20, without secrets.
    pub tail: Vec<String>,
    /// What is behind it, where known.
    pub cause: Option<String>,
    /// What to do next; for preflight failures the command to check by hand.
    pub hint: Option<String>,
    /// How far this failure reaches.
    pub kind: FailureKind,
    /// How long the failed step ran.
    pub after: Option<Duration>,
}

/// What sort of failure it is; decides the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The target could not be reached or read.
    Unobserved,
    /// Preflight found a reason not to begin.
    Preflight,
    /// A step failed.
    Step,
    /// Another run holds the lock.
    Locked,
    /// Something that it waited for failed.
    Blocked,
    /// Policy forbids it.
    Refused,
    /// The operator stopped it.
    Interrupted,
}

impl Failure {
    /// Returns a failure with a code, a kind and a message, and nothing else.
    pub fn new(kind: FailureKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            step: None,
            exit: None,
            tail: Vec::new(),
            cause: None,
            hint: None,
            kind,
            after: None,
        }
    }

    /// Adds what is behind it.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}
