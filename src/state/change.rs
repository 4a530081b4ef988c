//! Observed state and what differs from it. Owns the types; each kind has its own diff.

use super::{Facts, Hazard, Managed, Resource, ResourceId, StepId, StepOutput, TargetId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Unknown, with the reason. Never treated as absent.
    Unknown(String),
    /// Unknown until something else is done; the reason.
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
    /// Who else has set fields that differ, where the target records that: field managers of the API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed_by: Vec<String>,
}

/// The result of one observation of a target, next to its desired state.
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
    /// What we own there and nothing wants any more, in the order in which it was made; removed in the reverse.
    pub orphans: Vec<Orphan>,
    /// Facts that a person should know; each a phrase.
    pub warnings: Vec<String>,
}

/// Something of ours that nothing wants any more.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Orphan {
    /// Which resource.
    pub id: ResourceId,
    /// Hazards of removing it.
    pub hazards: Vec<Hazard>,
    /// What its host has recorded of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<Managed>,
}

impl From<Managed> for Orphan {
    fn from(managed: Managed) -> Self {
        Self { id: managed.id.clone(), hazards: managed.hazards.clone(), managed: Some(managed) }
    }
}

/// What a step does to its resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Debug)]
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
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Debug)]
pub struct FieldDiff {
    /// The field.
    pub name: String,
    /// Its value now, if it has one.
    pub from: Option<String>,
    /// Its value afterwards, if it has one.
    pub to: Option<String>,
}

impl FieldDiff {
    /// Returns the difference for people: `runtime 0 -> 1`. The names and values themselves stay as they are, since saved
    /// plans are compared by them.
    pub fn shown(&self) -> String {
        let (from, to) = (self.from.as_deref().unwrap_or("(none)"), self.to.as_deref().unwrap_or("(none)"));
        match (self.name.as_str(), from.strip_prefix("by us: ")) {
            ("cordoned", Some(why)) if to == "no" => format!("uncordon ({why} ended)"),
            // A switch is yes or no; a setting that has no value is unset.
            ("at boot", _) if from == "no" && to != "yes" => format!("persisted unset -> {to}"),
            ("at boot", _) => format!("persisted {from} -> {to}"),
            ("live", _) => format!("runtime {from} -> {to}"),
            ("fstab", _) if from == "1 lines" => format!("fstab 1 line -> {to}"),
            (name, _) => format!("{name} {from} -> {to}"),
        }
    }
}

/// What a difference comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It is wanted otherwise than by the last apply, or was never applied.
    Inventory,
    /// It is wanted as by the last apply, and was changed since, by something else.
    Drift,
    /// It is as wanted, and does not serve: not ready, left cordoned, no answer.
    State,
}

/// How a resource differs from what is wanted.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Change {
    /// What is done.
    pub verb: Verb,
    /// Which fields differ.
    pub fields: Vec<FieldDiff>,
    /// A unified diff, for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Change {
    /// Returns whether all that it does is to let a node take pods again.
    pub fn uncordons(&self) -> bool {
        let uncordons = |field: &FieldDiff| field.name == "cordoned" && field.to.as_deref() == Some("no");
        !self.fields.is_empty() && self.fields.iter().all(uncordons)
    }

    /// Returns the change that removes a resource.
    pub fn removal(id: &ResourceId) -> Self {
        let managed = FieldDiff { name: "managed".to_owned(), from: Some(id.text()), to: None };
        Self { verb: Verb::Remove, fields: vec![managed], text: None }
    }
}

/// One step of a plan.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug)]
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
    /// What the difference comes from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Who else has set what differs, where that is recorded: field managers of the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_by: Vec<String>,
    /// Of all that carrying it out does, 16 hex digits: two changes that look alike may be made by different commands.
    #[serde(default)]
    pub digest: String,
    /// What to know before allowing it.
    pub hazards: Vec<Hazard>,
    /// Steps that must be done first, beyond the order on its own host.
    pub needs: Vec<StepId>,
    /// Outputs of other steps that it takes.
    #[serde(rename = "late")]
    pub inputs: Vec<StepOutput>,
    /// It cannot be previewed yet; why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred: Option<String>,
    /// How long it may take, in seconds.
    pub deadline_s: u64,
    /// All that carrying it out takes.
    #[serde(skip)]
    pub work: Work,
}

/// All that carrying out a step takes. Not part of a saved plan: what that is made of is in its sources, and it is planned
/// again, and compared, before anything is done. Shown for debugging without what is wanted: a manifest may hold a secret.
#[derive(Clone, PartialEq, Default)]
pub enum Work {
    /// Its resource's id says all.
    #[default]
    ById,
    /// Bring about a resource.
    Make {
        /// What is wanted.
        resource: Arc<Resource>,
        /// It was there before us.
        found: bool,
        /// Packages that may go for it: the plan removes them anyway.
        may_remove: Arc<BTreeSet<String>>,
    },
    /// Remove what its host has recorded like this.
    Remove(Arc<Managed>),
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ById => f.write_str("ById"),
            Self::Make { resource, found, .. } => write!(f, "Make({}, found: {found})", resource.id),
            Self::Remove(managed) => write!(f, "Remove({})", managed.id),
        }
    }
}

impl Step {
    /// Returns the step that makes a change to a resource of a target. Nothing was there before us, and no package may go for it.
    pub fn make(target: &TargetId, resource: &Resource, change: Change) -> Self {
        let restarts = resource.restarts.iter().map(|unit| Hazard::Restart(unit.clone()));
        Self {
            id: target.step(&resource.id),
            target: target.clone(),
            resource: resource.id.clone(),
            role: resource.role.clone(),
            what: resource.id.what(),
            why: resource.why.clone(),
            change,
            origin: None,
            changed_by: Vec::new(),
            digest: String::new(),
            hazards: resource.hazards.iter().cloned().chain(restarts).collect(),
            needs: Vec::new(),
            inputs: resource.inputs.clone(),
            deferred: None,
            deadline_s: resource.deadline_s,
            work: Work::Make {
                resource: Arc::new(resource.clone()),
                found: false,
                may_remove: Arc::default(),
            },
        }
    }

    /// Returns the step that removes something of ours from a target.
    pub fn remove(target: &TargetId, orphan: &Orphan) -> Self {
        Self {
            id: target.step(&orphan.id),
            target: target.clone(),
            resource: orphan.id.clone(),
            role: "removed".to_owned(),
            what: orphan.id.what(),
            why: None,
            change: Change::removal(&orphan.id),
            origin: Some(Origin::Inventory),
            changed_by: Vec::new(),
            digest: String::new(),
            hazards: orphan.hazards.clone(),
            needs: Vec::new(),
            inputs: Vec::new(),
            deferred: None,
            deadline_s: super::DEFAULT_DEADLINE_S,
            work: orphan.managed.clone().map_or(Work::ById, |managed| Work::Remove(Arc::new(managed))),
        }
    }

    /// Returns what it brings about; `None` if it removes something, or makes what lasts only as long as its run.
    pub fn wanted(&self) -> Option<&Resource> {
        match &self.work {
            Work::Make { resource, .. } => Some(resource),
            Work::ById | Work::Remove(_) => None,
        }
    }
}
