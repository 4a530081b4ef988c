//! What a run asks of the cluster beyond its resources: nodes leave service and return to it, etcd is asked before a
//! controller is touched, and one run at a time works there.

use super::{Failure, HostName};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::time::Duration;

/// The cluster as a run needs it. Everything here is safe to ask for again.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Returns the nodes that it has; `None` where there is no cluster yet. Fails when it cannot be told.
    async fn nodes(&self) -> Result<Option<BTreeSet<HostName>>, Failure>;

    /// Cordons a node and evicts its pods as their disruption budgets allow; returns when none is left, or fails naming
    /// the pod that will not go when the time is over. Where there is no such node there is nothing to do.
    async fn drain(&self, node: &HostName, deadline: Duration) -> Result<(), Failure>;

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
