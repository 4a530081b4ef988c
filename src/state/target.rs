//! The one interface through which `run/` reaches hosts and cluster.

use super::{Observed, SecretText, Step, StepId, StepOutput, TargetId};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The code of a drain that was given up because the node's kubelet does not answer: nothing ends its pods.
pub const NODE_DEAD: &str = "E-NODE-DEAD";

/// Something that can be observed and changed: a host over SSH, or the cluster over its API.
#[async_trait]
pub trait Target: Send + Sync {
    /// Returns what it is.
    fn id(&self) -> TargetId;

    /// Observes it against what is wanted. Changes nothing.
    async fn observe(&self) -> Result<Observed, Failure>;

    /// Carries out steps that the last `observe` led to, in order, stopping at the first that fails. Emits an event per
    /// step. What they take from other steps is in `outputs`; what they make themselves is returned.
    async fn enact(&self, steps: &[Step], outputs: &StepOutputs) -> Result<StepOutputs, Failure>;

    /// Stops k0s and everything that pods run on a host whose kubelet does not answer; succeeds only where nothing of them
    /// is left.
    async fn stop_pods(&self) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Step, NODE_DEAD, format!("{} runs no pods", self.id())))
    }

    /// Keeps the lock of this run, if it has one here, for as long again: a host may wait for hours between two batches.
    async fn renew_lock(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Waits until the host's k0s stays up, with the kubelet that it started: before that its node is not back in service.
    async fn serves(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Begins nothing more and ends every wait: what `enact` has not done yet fails as interrupted. What runs on a host is
    /// not cut off, so hosts have nothing to do here.
    fn stop(&self) {}

    /// Ends a run on this target: releases its lock, invalidates tokens. Called once, also after a failure.
    async fn finish(&self) -> Result<(), Failure>;
}

/// Outputs of steps, which other steps of the run take.
pub type StepOutputs = BTreeMap<StepOutput, SecretText>;

/// Why a target stopped, with all that a person needs to go on.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
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
