//! The cluster as its machines see it: controllers and workers start, stop and are reached.

use super::spec::{ClusterSpec, ControllerFiles, ControllerStart, KubeletConf, WorkerStart};
use crate::event::Events;
use std::collections::BTreeMap;
use tokio::io::DuplexStream;

/// A simulated k0s cluster. Dropping it ends everything it runs.
pub struct Cluster {
    spec: ClusterSpec,
    events: Events,
}

impl Cluster {
    /// Returns a cluster with nothing running. Must be called inside a tokio runtime.
    pub fn new(spec: ClusterSpec, events: Events) -> Self {
        Self { spec, events }
    }

    /// Starts a controller: the first makes the cluster, others need a controller token. Errors hold k0s's phrases.
    pub async fn start_controller(
        &self,
        host: &str,
        start: ControllerStart,
    ) -> Result<ControllerFiles, String> {
        let _ = (&self.spec, &self.events, start);
        Err(format!("{host}: not yet"))
    }

    /// Starts a worker, which needs a worker token the first time. Errors hold k0s's phrases.
    pub async fn start_worker(&self, host: &str, start: WorkerStart) -> Result<KubeletConf, String> {
        let _ = start;
        Err(format!("{host}: not yet"))
    }

    /// Stops k0s on a host: its API and kubelet fall silent, containers stay.
    pub fn stop(&self, host: &str) {
        let _ = host;
    }

    /// Forgets that a host ever joined (`k0s reset`, on a stopped host). The Node object stays, as with k0s.
    pub fn reset(&self, host: &str) {
        let _ = host;
    }

    /// Returns etcd's members, name to peer URL, as `k0s etcd member-list` prints them.
    pub fn members(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Says how many accelerators of a host answer (0 while no driver is loaded).
    pub fn set_accelerators(&self, host: &str, count: u32) {
        let _ = (host, count);
    }

    /// Makes a join token as `k0s token create` does; `role` is `worker` or `controller`.
    pub fn create_token(
        &self,
        host: &str,
        role: &str,
        expiry: Option<std::time::Duration>,
    ) -> Result<String, String> {
        let _ = (role, expiry);
        Err(format!("{host}: not yet"))
    }

    /// Connects to a port of a host: 6443 and 9443 on a running controller, node ports on a running worker. `None`
    /// is a refused connection.
    pub async fn dial(&self, host: &str, port: u16) -> Option<DuplexStream> {
        let _ = (host, port);
        None
    }
}
