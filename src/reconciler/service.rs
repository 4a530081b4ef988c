//! The operations of a run on the cluster: draining and uncordoning nodes, etcd, the lease.

use super::cluster::{ClusterTarget, Pause};
use super::errors::{failure, may_pass};
use super::kinds::node_api;
use super::nodes::{CORDONED, Starting, has_starting_taint, patch, ready};
use crate::event::Event;
use crate::k0s::etcd;
use crate::state::{BarePods, Cluster, Failure, FailureKind, HostName, Node, Nodes, OutOfService, Spec};
use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a node may take to be ready with all its devices after its host is: the device plugin's pod restarts.
const RETURN_DEADLINE: Duration = Duration::from_secs(900);
/// Where kubelets renew the leases of their nodes, every 10 s by default (KubeletConfiguration, nodeLeaseDurationSeconds).
const NODE_LEASES: &str = "kube-node-lease";
/// A kubelet that has not renewed its lease by then does not run.
const LEASE_DEADLINE: Duration = Duration::from_secs(60);
/// A lease renewed so short a time ago is not renewed again: nodes are brought in side by side, and each asks.
const FRESH: Duration = Duration::from_secs(10);

#[async_trait]
impl Cluster for ClusterTarget {
    async fn nodes(&self) -> Result<Option<Nodes>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let what = "listing the nodes";
        match self.all_nodes(&link.client).await {
            Ok(live) => {
                let out = |node: &Value| node["spec"]["unschedulable"] == true || ready(node).is_err();
                let others = |node: &Value| {
                    let by_us = node["metadata"]["annotations"][CORDONED].is_string();
                    node["spec"]["unschedulable"] == true && !by_us
                };
                let those = |which: &dyn Fn(&Value) -> bool| {
                    let which = live.iter().filter(|(_, node)| which(node));
                    which.map(|(name, _)| HostName::new(name.clone())).collect()
                };
                Ok(Some(Nodes {
                    out_of_service: OutOfService { nodes: those(&out), kept: those(&others) },
                    all: live.into_keys().map(HostName::new).collect(),
                }))
            }
            Err(error) => {
                let mut failure = failure(what, &error);
                failure.kind = FailureKind::Unobserved;
                Err(failure)
            }
        }
    }

    async fn bare_pods(&self, nodes: &BTreeSet<HostName>) -> Result<BarePods, Failure> {
        ClusterTarget::bare_pods(self, nodes).await
    }

    async fn drain(
        &self,
        node: &HostName,
        deadline: Duration,
        may_lose: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        ClusterTarget::drain(self, node.as_str(), deadline, Some(may_lose)).await
    }

    async fn delete_pods(&self, node: &HostName) -> Result<(), Failure> {
        ClusterTarget::delete_pods(self, node.as_str()).await
    }

    async fn give_back(&self, node: &HostName) -> Result<(), Failure> {
        ClusterTarget::uncordon(self, node.as_str()).await
    }

    async fn uncordon(&self, node: &HostName) -> Result<(), Failure> {
        let want = self.wanted(node.as_str());
        if let Some(want) = want {
            // A run that ended early may have left the taint, and no labels: the device plugin would not run there.
            self.finish_join(want, Starting::Stays).await?;
        }
        self.await_service(node.as_str(), RETURN_DEADLINE).await?;
        self.await_lease(node.as_str()).await?;
        if let Some(want) = want {
            self.finish_join(want, Starting::Goes).await?;
        }
        ClusterTarget::uncordon(self, node.as_str()).await
    }

    async fn spare(&self, controller: &HostName) -> Result<(), Failure> {
        let mut pause = Pause::new(etcd::ETCD_DEADLINE);
        let mut said = String::new();
        loop {
            let answers = self.setup.access.run_on_controllers(&etcd::question()).await;
            let Some(why) = etcd::hindrance(&answers, controller) else { return Ok(()) };
            if why != said {
                let target = controller.to_string();
                self.setup.events.emit(Event::Waiting { target, reason: why.clone() });
                said.clone_from(&why);
            }
            if !pause.more().await {
                return Err(etcd::refused(controller, &why));
            }
        }
    }

    async fn hold(&self) -> Result<(), Failure> {
        let Some(me) = &self.holder else { return Ok(()) };
        let mut renewed = self.renewed.lock().await;
        if renewed.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        match self.take_lease(me, renewed.is_some()).await {
            Err(failure) if failure.kind == FailureKind::Locked => Err(failure),
            // This run may be there to fix an API that is down; each host has its own lock.
            Err(_) => Ok(()),
            Ok(taken) => {
                *renewed = taken.then(Instant::now);
                Ok(())
            }
        }
    }
}

impl ClusterTarget {
    /// Waits until the kubelet of a node renews its lease: the API calls a node Ready for 40 s after its kubelet has died.
    /// Only changes are looked at, no clocks are compared.
    async fn await_lease(&self, node: &str) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        if node_api(&link.client).get_opt(node).await.is_ok_and(|node| node.is_none()) {
            return Ok(());
        }
        let leases: Api<Lease> = Api::namespaced(link.client.clone(), NODE_LEASES);
        let read = || async {
            let lease = leases.get_opt(node).await.ok()??;
            lease.spec?.renew_time
        };
        let before = read().await;
        let reason = "waiting until its kubelet renews its lease".to_owned();
        self.setup.events.emit(Event::Waiting { target: node.to_owned(), reason });
        let mut pause = Pause::new(LEASE_DEADLINE);
        loop {
            let now = read().await;
            if now.is_some() && now != before {
                return Ok(());
            }
            if !self.more(&mut pause).await? {
                let seconds = LEASE_DEADLINE.as_secs();
                let message = format!("the kubelet of node {node} has not renewed its lease in {seconds} s");
                return Err(Failure::new(FailureKind::Step, "E-NOT-SERVING", message)
                    .hint("Look at the host with `journalctl -u k0sworker`, then apply again"));
            }
        }
    }

    /// Waits until a node is ready with all the devices that are wanted of it. One that the cluster does not have, or
    /// that nothing wants, need not be.
    pub async fn await_service(&self, node: &str, deadline: Duration) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let say = |reason| self.setup.events.emit(Event::Waiting { target: node.to_owned(), reason });
        self.await_devices(&link.client, node, self.wanted(node), deadline, false, say).await
    }

    /// Returns what is wanted of a node.
    fn wanted(&self, node: &str) -> Option<&Node> {
        self.setup.desired.iter().find_map(|r| match &r.spec {
            Spec::Node(want) if want.name == node => Some(want),
            _ => None,
        })
    }

    /// Finishes the join of a node that still has its starting taint: its labels, and once it serves, the taint goes.
    async fn finish_join(&self, want: &Node, starting: Starting) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let what = format!("bringing node {} back into service", want.name);
        let api = node_api(&link.client);
        let mut pause = Pause::new(RETURN_DEADLINE);
        loop {
            let live = match api.get_opt(&want.name).await {
                Ok(live) => serde_json::to_value(live).unwrap_or_default(),
                // Controllers restart too; another responds soon.
                Err(error) if may_pass(&error) && self.more(&mut pause).await? => continue,
                Err(error) => return Err(failure(&what, &error)),
            };
            if want.cordoned || !has_starting_taint(&live) {
                return Ok(());
            }
            let mut patch = patch(want, &live, starting);
            // Our own cordon goes last.
            if let Some(spec) = patch["spec"].as_object_mut() {
                spec.remove("unschedulable");
            }
            if let Some(annotations) = patch["metadata"]["annotations"].as_object_mut() {
                annotations.remove(CORDONED);
            }
            match api.patch(&want.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                // The same, or its kubelet has written in between.
                Err(error) if may_pass(&error) && self.more(&mut pause).await? => {}
                Err(error) => return Err(failure(&what, &error)),
            }
        }
    }
}
