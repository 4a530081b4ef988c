//! Operations of a run on the cluster besides its resources: draining and uncordoning nodes, the etcd check before a
//! controller changes, and the lock for one run at a time.

use super::{Failure, HostName};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The nodes of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    /// All of them.
    pub all: BTreeSet<HostName>,
    /// Those that take no pods.
    pub out_of_service: OutOfService,
}

/// The nodes that take no pods.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
pub struct OutOfService {
    /// All of them: cordoned, or not ready.
    pub nodes: BTreeSet<HostName>,
    /// Those of them that somebody else has cordoned: no change of ours brings them back.
    #[serde(default)]
    pub kept: BTreeSet<HostName>,
}

/// Pods that no controller would make again, as `namespace/name`, by node.
pub type BarePods = BTreeMap<HostName, BTreeSet<String>>;

/// The cluster as a run needs it. Everything here is safe to ask for again.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Returns its nodes; `None` if there is no cluster yet. Fails if they are unknown.
    async fn nodes(&self) -> Result<Option<Nodes>, Failure>;

    /// Returns the pods of these nodes that no controller would make again, as `namespace/name`, by node.
    async fn bare_pods(&self, nodes: &BTreeSet<HostName>) -> Result<BarePods, Failure>;

    /// Cordons a node and evicts its pods as their disruption budgets allow; returns when none is left, or fails naming
    /// the pod that will not go when the time is over. Where there is no such node there is nothing to do. Fails with
    /// [`super::NODE_DEAD`] where the node's kubelet does not answer.
    /// Of the pods that no controller would make again, only those in `may_lose` are evicted; any other fails it.
    async fn drain(
        &self,
        node: &HostName,
        deadline: Duration,
        may_lose: &BTreeSet<String>,
    ) -> Result<(), Failure>;

    /// Deletes the pods of a cordoned node of which nothing runs any more: they would stay for ever, as no kubelet reports
    /// their end.
    async fn delete_pods(&self, node: &HostName) -> Result<(), Failure>;

    /// Lifts our own cordon at once: the drain was given up before anything was done to the host.
    async fn give_back(&self, node: &HostName) -> Result<(), Failure>;

    /// Waits until a node is ready and its devices can be allocated again, then lifts our own cordon.
    async fn uncordon(&self, node: &HostName) -> Result<(), Failure>;

    /// Waits until etcd can spare a controller: all other members are healthy, or enough of them for a quorum without
    /// it. Fails naming the members that are not.
    async fn spare(&self, controller: &HostName) -> Result<(), Failure>;

    /// Takes the cluster for this run, or keeps it; fails with `FailureKind::Locked` when another run has it. Where
    /// there is no cluster, or its API does not answer, there is nothing to take.
    async fn hold(&self) -> Result<(), Failure>;
}
