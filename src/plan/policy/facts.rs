//! What policies are judged on, as data with a published schema: `provision schema policy`. Owns the types; `of_plan.rs` and
//! `of_inventory.rs` fill them. Names are those of the inventory where it has one.

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a policy's expressions can name; each property is a variable.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Facts {
    /// What is done: `plan`, `apply`, `diff`, `reset`, `destroy` or `restore`.
    pub command: String,
    /// When, in the time zone of the file; UTC if it names none.
    pub now: Moment,
    /// Who does it.
    pub user: User,
    /// The CI job that does it; null outside CI.
    pub ci: Option<CiJob>,
    /// The last commit that changed the inventory; null outside a git repository, and in `diff`.
    pub commit: Option<CommitFacts>,
    /// Who has approved the saved plan; empty until `apply`.
    pub approvals: Vec<String>,
    /// What would change.
    pub plan: PlanFacts,
    /// The inventory.
    pub inventory: InventoryFacts,
    /// The inventory before the change, in `diff`; null otherwise.
    pub before: Option<InventoryFacts>,
}

/// A time, in UTC or the time zone of the policy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Moment {
    /// `2026-12-24`; such texts compare as dates do.
    pub date: String,
    /// `14:05`; such texts compare as times do.
    pub time: String,
    /// 1 is Monday, 7 is Sunday.
    pub weekday: i8,
    /// Seconds since 1970.
    pub seconds: i64,
}

impl Default for Moment {
    fn default() -> Self {
        Self { date: "1970-01-01".to_owned(), time: "00:00".to_owned(), weekday: 4, seconds: 0 }
    }
}

impl Moment {
    /// Returns a time in seconds since 1970 as policies without a time zone see it.
    pub fn of(seconds: i64) -> Self {
        Self::in_zone(seconds, TimeZone::UTC)
    }

    /// Returns a time in seconds since 1970 as policies of a time zone see it.
    pub(super) fn in_zone(seconds: i64, zone: TimeZone) -> Self {
        let Ok(at) = jiff::Timestamp::from_second(seconds) else { return Self::default() };
        let at = at.to_zoned(zone);
        Self {
            date: at.strftime("%Y-%m-%d").to_string(),
            time: at.strftime("%H:%M").to_string(),
            weekday: at.weekday().to_monday_one_offset(),
            seconds,
        }
    }
}

/// A login on a machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct User {
    /// The login.
    pub name: String,
    /// The machine.
    pub host: String,
}

/// A job of a CI service, as its environment tells.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CiJob {
    /// `github`, `gitlab`, or `ci` for any other.
    pub service: String,
    /// The job's name or number.
    pub job: String,
    /// Where it is shown.
    pub url: String,
    /// Who started it.
    pub user: String,
    /// The branch or tag that it runs for.
    pub branch: String,
}

/// A commit.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CommitFacts {
    /// Its id.
    pub id: String,
    /// Its author's e-mail address, which git does not verify.
    pub author: String,
    /// The inventory differs from it.
    pub modified: bool,
    /// Its signature is valid and its key is in the file that `--commit-signers` names.
    pub signed: bool,
    /// `none`, `good`, `bad` (invalid, or of an unknown key), or `unverified` (no `--commit-signers`, or not made with an SSH key).
    pub signature: String,
    /// Who signed it, as `--commit-signers` names them; null unless `signed`.
    pub signer: Option<String>,
}

/// What would change.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlanFacts {
    /// No host was observed: the changes are estimated from two inventories (`diff`). Steps, data loss, changes of the cluster and
    /// hosts that are already up to date are unknown then.
    pub estimated: bool,
    /// Hosts are simulated.
    pub lab: bool,
    /// Steps.
    pub steps: usize,
    /// Steps that cannot be previewed yet.
    pub deferred: usize,
    /// About how long it takes; null if that is unknown.
    pub seconds: Option<u64>,
    /// The hosts that change.
    pub hosts: Vec<HostPlanFacts>,
    /// The pools whose hosts change.
    pub pools: Vec<PoolPlanFacts>,
    /// What changes in the cluster.
    pub cluster: ClusterPlanFacts,
    /// Distinct changes: the same one on several hosts of a pool is one.
    pub changes: Vec<ChangeFacts>,
    /// Hosts that could not be observed, and `cluster`.
    pub unobserved: Vec<String>,
    /// Hosts that are left out, and why.
    pub skipped: BTreeMap<String, String>,
}

/// What changes on a host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostPlanFacts {
    /// The host.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// It runs a control plane.
    pub controller: bool,
    /// It is a node of the cluster already.
    pub node: bool,
    /// It leaves the cluster.
    pub leaves: bool,
    /// Steps.
    pub steps: usize,
    /// Steps by kind of resource: `package`, `file`, `unit`.
    pub kinds: BTreeMap<String, usize>,
    /// Its node is drained.
    pub drains: bool,
    /// It reboots.
    pub reboots: bool,
    /// Units that restart.
    pub restarts: Vec<String>,
    /// What data is lost: a file system, a pod without a controller.
    pub data_loss: Vec<String>,
    /// The quorum of etcd is at stake.
    pub quorum: bool,
    /// Pods of it are deleted without confirmation that they have ended.
    pub force_delete: bool,
}

/// What changes in a pool.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PoolPlanFacts {
    /// The pool.
    pub name: String,
    /// Its active hosts.
    pub size: usize,
    /// Those that change.
    pub hosts: usize,
    /// The same in percent, rounded up.
    pub percent: usize,
    /// Those that are not nodes of the cluster yet.
    pub joining: usize,
    /// Those that are drained.
    pub drains: usize,
    /// Those that reboot.
    pub reboots: usize,
    /// Waves in which they leave service; 0 if none does.
    pub waves: usize,
    /// The most hosts that leave service at once.
    pub down_at_once: usize,
    /// The same in percent of the pool, rounded up.
    pub down_percent: usize,
    /// Hosts by hazard, as `plan` shows them: `drain`, `reboot`, `restart k0sworker`.
    pub hazards: BTreeMap<String, usize>,
    /// Capacity while it changes; null where nothing that serves goes down.
    pub capacity: Option<CapacityFacts>,
}

/// Capacity of a pool while it changes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CapacityFacts {
    /// `GPUs`, `Neuron devices` or `hosts`.
    pub unit: String,
    /// What serves now.
    pub all: usize,
    /// The least that serves at any moment.
    pub least: usize,
    /// The same in percent, rounded down.
    pub percent: usize,
}

/// What changes in the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterPlanFacts {
    /// Steps.
    pub steps: usize,
    /// Objects of the Kubernetes API that change.
    pub objects: Vec<ObjectFacts>,
    /// What data is lost.
    pub data_loss: Vec<String>,
    /// The quorum of etcd is at stake.
    pub quorum: bool,
}

/// An object that changes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectFacts {
    /// `create`, `update`, `remove` or `run`.
    pub verb: String,
    /// `Deployment`, `ModelRoute`, `Node`.
    pub kind: String,
    /// Its namespace; empty for objects without one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A distinct change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ChangeFacts {
    /// The pool, or `cluster`; in `diff` empty for settings of the whole inventory.
    pub pool: String,
    /// What, as `plan` shows it: `package nvidia-open-580`; in `diff` the field, as the inventory spells it.
    pub what: String,
    /// The kind of resource: `package`; in `diff` `field`.
    pub kind: String,
    /// `create`, `update`, `remove` or `run`.
    pub verb: String,
    /// On how many hosts.
    pub hosts: usize,
    /// Which fields differ.
    pub fields: Vec<FieldFacts>,
}

/// A field that differs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FieldFacts {
    /// The field.
    pub name: String,
    /// Its value before; null if it had none.
    pub from: Option<String>,
    /// Its value after; null if it has none.
    pub to: Option<String>,
}

/// An inventory, merged and expanded.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InventoryFacts {
    /// `metadata.name`.
    pub name: String,
    /// `cluster.k0s.version`.
    pub k0s_version: String,
    /// `nodeLocal`, `external` or `vip`.
    pub endpoint: String,
    /// Active hosts that run a control plane.
    pub controllers: usize,
    /// Accelerators of all active hosts.
    pub accelerators: usize,
    /// Pools by name.
    pub pools: BTreeMap<String, PoolFacts>,
    /// Hosts by name, whatever their state.
    pub hosts: BTreeMap<String, HostFacts>,
    /// Models by name.
    pub models: BTreeMap<String, ModelFacts>,
    /// Tenants by name.
    pub tenants: BTreeMap<String, TenantFacts>,
    /// `router.kthena.version`; null without a router.
    pub router_version: Option<String>,
    /// Where secrets come from, by name: `env`, `file`, `age`, `sops` or `exec`.
    pub secrets: BTreeMap<String, String>,
    /// Mirrors by registry; null where the registry itself is asked.
    pub registries: BTreeMap<String, Option<String>>,
}

/// A pool.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PoolFacts {
    /// `controller`, `worker`, `controller+worker` or `single`.
    pub role: String,
    /// Its active hosts.
    pub hosts: usize,
    /// The accelerator of its hosts; null without one.
    pub accelerator: Option<AcceleratorFacts>,
    /// Accelerators of all its active hosts.
    pub accelerators: usize,
    /// Accelerators that its models take.
    pub accelerators_used: usize,
    /// Node labels.
    pub labels: BTreeMap<String, String>,
    /// Node taints, `key=value:Effect`.
    pub taints: Vec<String>,
    /// `disruption.maxUnavailable`, in hosts.
    pub max_unavailable: usize,
    /// `disruption.maxFailed`, in hosts.
    pub max_failed: usize,
    /// `disruption.canary`.
    pub canary: u32,
    /// `disruption.drainSeconds`.
    pub drain_seconds: u32,
    /// Disks that may be erased: `storage.*.erase`.
    pub erases: Vec<String>,
}

/// The accelerator of a pool.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AcceleratorFacts {
    /// `nvidia` or `neuron`.
    pub vendor: String,
    /// Its product in the catalog.
    pub product: String,
    /// How many a host has.
    pub count: u32,
    /// The driver's version; of Neuron, the SDK's.
    pub driver: String,
}

/// A host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostFacts {
    /// Its pool.
    pub pool: String,
    /// Where SSH reaches it.
    pub address: String,
    /// `active`, `maintenance` or `retired`.
    pub state: String,
    /// Why it is not active; null without a reason.
    pub reason: Option<String>,
    /// Its rack; null if it has none.
    pub rack: Option<String>,
    /// Labels of its own.
    pub labels: BTreeMap<String, String>,
}

/// A model.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModelFacts {
    /// The pool it runs on.
    pub pool: String,
    /// `vllm` or `sglang`.
    pub engine: String,
    /// The engine's image.
    pub image: String,
    /// The image is named by digest.
    pub digest: bool,
    /// Replicas.
    pub replicas: u32,
    /// Accelerators of all replicas.
    pub accelerators: usize,
    /// The repository on Hugging Face; null for a path on the host.
    pub repo: Option<String>,
    /// Its revision; null for a path on the host.
    pub revision: Option<String>,
    /// Tenants with a route to it.
    pub tenants: Vec<String>,
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TenantFacts {
    /// The node port of its gateway.
    pub node_port: u16,
    /// Models that its routes lead to.
    pub models: Vec<String>,
    /// Accelerators of those models; what tenants share counts for each.
    pub accelerators: usize,
    /// Weights by model, by served name; rules for headers are left out.
    pub routes: BTreeMap<String, BTreeMap<String, u32>>,
}
