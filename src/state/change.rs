//! Observed state and what differs from it. Owns the types; diffing is the kinds' business.

use super::{Facts, LateName, Managed, Resource, ResourceId, StepId, TargetId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Named values of one resource, as shown in plans.
pub type Fields = BTreeMap<String, String>;

/// What was seen of one resource.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Observation {
    /// It does not exist.
    Absent,
    /// It exists like this.
    Present(Seen),
    /// It could not be told; the reason. Never taken for absent.
    Unknown(String),
    /// It cannot be told before something else is done; the reason.
    Deferred(String),
}

/// The state of a resource that exists.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct Seen {
    /// Values by field name; the kind decides which.
    pub fields: Fields,
    /// What the fields would be after enacting, where only the target can tell (the API server's dry-run).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Fields>,
    /// The text, for files that differ, are small and hold no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Everything that one observation of a target found, beside what is wanted there.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Observed {
    /// The target.
    pub target: TargetId,
    /// The host's facts; default for the cluster.
    pub facts: Facts,
    /// What is wanted, in order.
    pub desired: Vec<Resource>,
    /// What was seen, by resource id; a missing entry reads as unknown.
    pub seen: BTreeMap<ResourceId, Observation>,
    /// What we own there and nothing wants any more, already without what is in `desired`.
    pub orphans: Vec<Managed>,
    /// Facts that a person should know; each a phrase.
    pub warnings: Vec<String>,
}

/// What a step does to its resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Makes it: `+`.
    Create,
    /// Changes it: `~`.
    Update,
    /// Removes it: `-`.
    Remove,
    /// Runs something: `>`.
    Run,
}

/// One field that differs.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct FieldDiff {
    /// The field.
    pub name: String,
    /// Its value now, if it has one.
    pub from: Option<String>,
    /// Its value afterwards, if it has one.
    pub to: Option<String>,
}

/// How a resource differs from what is wanted.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Change {
    /// What is done.
    pub verb: Verb,
    /// Which fields differ.
    pub fields: Vec<FieldDiff>,
    /// A unified diff, for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What an operator must know before allowing a step.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Hazard {
    /// The host reboots.
    Reboot,
    /// The node is drained first.
    Drain,
    /// A unit restarts.
    Restart(String),
    /// Data goes.
    DataLoss(String),
    /// etcd quorum is at stake.
    Quorum,
}

impl std::fmt::Display for Hazard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hazard::Reboot => f.write_str("reboot"),
            Hazard::Drain => f.write_str("drain"),
            Hazard::Restart(unit) => write!(f, "restart:{unit}"),
            Hazard::DataLoss(what) => write!(f, "data-loss:{what}"),
            Hazard::Quorum => f.write_str("quorum"),
        }
    }
}

/// One step of a plan.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Step {
    /// `target:resource`.
    pub id: StepId,
    /// What it acts on.
    pub target: TargetId,
    /// Which resource.
    pub resource: ResourceId,
    /// The role or component that wants it.
    pub role: String,
    /// One line for a person: `package nvidia-open-580`.
    pub what: String,
    /// Why it is wanted, if that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What differs.
    pub change: Change,
    /// What to know before allowing it.
    pub hazards: Vec<Hazard>,
    /// Steps that must be done first, beyond the order on its own host.
    pub needs: Vec<StepId>,
    /// Values that it takes from other steps.
    pub late: Vec<LateName>,
    /// It cannot be previewed yet; why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred: Option<String>,
    /// How long it may take, in seconds.
    pub deadline_s: u64,
}
