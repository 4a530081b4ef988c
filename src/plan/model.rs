//! A plan as data: what would change, how steps go together, in what order hosts leave service, and the impact.

use super::policy::PolicyReport;
use crate::inventory::Snapshot;
use crate::state::{Failure, Hazard, HostName, OutOfService, PoolName, ResourceId, Step, TargetId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

/// Everything that would change.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Plan {
    /// Version of this format.
    pub format: u32,
    /// The inventory's name.
    pub inventory: String,
    /// Its digest.
    pub inventory_digest: String,
    /// The lock file's digest.
    pub lock_digest: String,
    /// It was made against the lab.
    pub lab: bool,
    /// Per target; hosts by name, the cluster last.
    pub targets: Vec<TargetPlan>,
    /// Inactive hosts, and why.
    pub skipped: BTreeMap<HostName, String>,
    /// Nodes that took no pods when it was made.
    #[serde(default)]
    pub out_of_service: OutOfService,
    /// The hosts that leave service, by pool.
    pub waves: BTreeMap<PoolName, Waves>,
    /// A controller gets another k0s: the control plane is backed up before anything is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup_first: bool,
    /// Downloads that reach hosts over SSH before the first step, where a bundle takes the place of their sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Its impact.
    #[serde(default, rename = "outlook")]
    pub impact: Impact,
    /// What policies say of it, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyReport>,
    /// What it was made from; in saved plans only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Sources>,
}

/// What a plan was made from, so that it can be carried out where the inventory is not, or is another one by then.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Sources {
    /// The inventory's path, absolute.
    pub path: PathBuf,
    /// The texts of its files, of the roles and catalog rows next to it, and of its lock file.
    pub files: Snapshot,
    /// The hosts that were selected, as on the command line; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Simulated hosts were requested in place of the inventory's.
    #[serde(default)]
    pub lab: bool,
    /// Retired hosts whose machines are off for good.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<HostName>,
    /// What carrying it out reads besides: where secrets, SSH keys and host keys come from, never what they are.
    pub needs: Vec<String>,
    /// The last commit that changed the inventory, if it is in a git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

/// A commit of the repository that an inventory is in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Commit {
    /// Its id.
    pub id: String,
    /// Its author's e-mail address.
    pub author: String,
    /// The inventory differs from it.
    pub modified: bool,
}

/// Downloads that reach hosts over SSH. Where several hosts want them, hosts pass them on with a key of the run, which they allow in
/// `authorized_keys` for at most an hour.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Delivery {
    /// Files.
    pub files: usize,
    /// Their size, each counted once, in bytes.
    pub bytes: u64,
    /// Hosts that lack any of them.
    pub hosts: usize,
}

/// The format that this version writes.
pub(super) const FORMAT: u32 = 2;

/// What would change on one target.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct TargetPlan {
    /// The target.
    pub target: TargetId,
    /// Its pool, for a host.
    pub pool: Option<String>,
    /// The host is a node of the cluster already, so what takes it out of service drains it first.
    #[serde(default)]
    pub is_node: bool,
    /// The host is one of several controllers already, so what stops it is a matter of etcd's quorum.
    #[serde(default)]
    pub is_member: bool,
    /// The host leaves the cluster, or was never of it: it does not join by this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
    /// What would be done, in order.
    pub steps: Vec<Step>,
    /// How the steps go together; each step is in one of them.
    pub batches: Vec<Batch>,
    /// Resources in sync.
    pub in_sync: usize,
    /// It could not be observed.
    pub unobserved: Option<Failure>,
    /// Resources in an unknown state, and why: neither in sync nor to be changed.
    #[serde(default)]
    pub unknown: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// Resources that this run leaves as they are, however they are observed later: their steps were taken out.
    #[serde(skip)]
    #[schemars(skip)]
    pub left_out: BTreeSet<ResourceId>,
}

/// The longest run of steps of a target with no gate between them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Batch {
    /// Its steps, by position in the target's list.
    pub steps: Range<usize>,
    /// The host's node is out of service for it.
    pub drains: bool,
    /// It stops or starts a member of the control plane: one at a time, and only if etcd can spare it.
    pub control_plane: bool,
}

/// The hosts of a pool that a plan takes out of service.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
pub struct Waves {
    /// They go in this order; a wave begins when every host of the one before it has ended.
    pub waves: Vec<Vec<HostName>>,
    /// At most so many are out of service at once, counting those that earlier waves left down.
    pub at_once: usize,
    /// The first wave is a canary: if it fails, no other begins.
    pub canary: bool,
    /// Active hosts of the pool that were out of service already; those of them that are in a wave go first.
    #[serde(default)]
    pub down: BTreeSet<HostName>,
    /// Those of them that somebody else has cordoned: they stay out of service when their wave has ended.
    #[serde(default)]
    pub kept: BTreeSet<HostName>,
}

/// The impact of carrying out a plan.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(default)]
pub struct Impact {
    /// Kinds of change: the same one on many hosts counts once.
    pub kinds: usize,
    /// Steps.
    pub steps: usize,
    /// Steps that cannot be previewed yet.
    pub deferred: usize,
    /// About how long it takes, in seconds; `None` if most of its steps were never done from this machine.
    pub about_s: Option<u64>,
    /// How many earlier runs that comes from.
    pub past_runs: usize,
    /// Per pool that changes.
    pub pools: Vec<PoolImpact>,
}

/// The impact on one pool.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct PoolImpact {
    /// The pool.
    pub pool: String,
    /// Its hosts that change.
    pub hosts: usize,
    /// Its active hosts.
    pub size: usize,
    /// Hosts that are not nodes of the cluster yet, so they serve nothing that could go down.
    pub joining: usize,
    /// Hosts by hazard: `drain`, `reboot`, `restart k0scontroller`, `data-loss …`, `quorum`.
    pub hazards: BTreeMap<String, usize>,
    /// In what order its hosts change.
    #[serde(rename = "turns")]
    pub order: RolloutOrder,
    /// What stays while it is carried out, where anything that serves goes down for a time.
    pub capacity: Option<Capacity>,
}

/// In what order the hosts of a pool change.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutOrder {
    /// All at once.
    AtOnce,
    /// One at a time, each gated on etcd.
    OneByOne,
    /// So many waves of up to so many hosts.
    Waves {
        /// Waves.
        waves: usize,
        /// Hosts down at once.
        of: usize,
    },
}

/// Capacity while a plan is carried out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
pub struct Capacity {
    /// What is counted: `GPUs`, `Neuron devices` or `hosts`.
    pub unit: String,
    /// What serves now.
    pub all: usize,
    /// The least that serves at any moment.
    pub least: usize,
}

impl Capacity {
    /// Returns the least in percent, rounded down.
    pub fn percent(&self) -> usize {
        self.least * 100 / self.all.max(1)
    }
}

/// Returns whether steps take a node out of service for a time. A host that is no node yet may reboot as it likes.
pub(super) fn drains(steps: &[Step]) -> bool {
    steps.iter().any(|s| s.hazards.contains(&Hazard::Drain))
}

impl TargetPlan {
    /// Returns whether a run has work on it: steps, or resources in an unknown state.
    pub fn has_work(&self) -> bool {
        !self.steps.is_empty() || self.unobserved.is_some() || !self.unknown.is_empty()
    }

    /// Returns whether carrying it out takes a node out of service.
    pub fn drains(&self) -> bool {
        drains(&self.steps)
    }

    /// Returns the steps of one of its batches.
    pub fn steps_of(&self, batch: &Batch) -> &[Step] {
        &self.steps[batch.steps.clone()]
    }
}

impl Plan {
    /// Returns the number of steps.
    pub fn steps(&self) -> usize {
        self.targets.iter().map(|t| t.steps.len()).sum()
    }

    /// Returns whether anything could not be observed: a whole target, or one of its resources.
    pub fn is_blind(&self) -> bool {
        self.targets.iter().any(|t| t.unobserved.is_some() || !t.unknown.is_empty())
    }

    /// Returns the exit code that this means: 3 if a policy refuses it, 1 if not everything could be observed, 2 if anything would
    /// change, otherwise 0.
    pub fn exit_code(&self) -> u8 {
        match () {
            () if self.policy.as_ref().is_some_and(PolicyReport::is_denied) => 3,
            () if self.is_blind() => 1,
            () if self.steps() > 0 => 2,
            () => 0,
        }
    }

    /// Returns the hosts and cluster that could not be observed.
    pub fn unobserved(&self) -> impl Iterator<Item = (&TargetId, &Failure)> {
        self.targets.iter().filter_map(|t| Some((&t.target, t.unobserved.as_ref()?)))
    }
}
