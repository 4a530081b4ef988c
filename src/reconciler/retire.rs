//! Retired hosts: the node is drained and deleted, and the member leaves etcd. The host itself, which may no longer exist,
//! is not contacted.

use super::cluster::{ClusterTarget, Pause};
use super::errors::{failure, is_missing};
use super::kinds::node_api;
use crate::event::Event;
use crate::k0s::{self, etcd};
use crate::state::{Failure, FailureKind, Hazard, HostName, NODE_DEAD, Orphan, ResourceId, Spec, Step};
use crate::template::quote;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Tells Kubernetes that a node's machine is off, so that volumes of its pods are detached
/// (<https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown>).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl ClusterTarget {
    /// Returns what retired hosts have left in the cluster, and what is unknown.
    pub(super) async fn retired(&self, nodes: &BTreeMap<String, Value>) -> (Vec<Orphan>, Vec<String>) {
        let (mut left, mut warnings) = (Vec::new(), Vec::new());
        let hosts = &self.setup.retired;
        // Removals go from the end: a node leaves before its member does.
        if hosts.iter().any(|r| r.member.is_some()) {
            let answers = self.setup.access.run_on_controllers(&etcd::question()).await;
            match etcd::members(&answers) {
                Some(members) => left.extend(hosts.iter().filter_map(|r| {
                    etcd::find(&members, &r.host, r.member.as_deref()?)?;
                    let id = ResourceId::EtcdMember(r.host.clone());
                    Some(Orphan { id, hazards: vec![Hazard::Quorum], managed: None })
                })),
                None => {
                    warnings.push("no controller reports etcd members: retired members may remain".to_owned())
                }
            }
        }
        left.extend(hosts.iter().filter_map(|r| {
            let live = nodes.get(r.host.as_str())?;
            let hazard = match r.lost && super::nodes::ready(live).is_err() {
                true => Hazard::ForceDelete(r.host.to_string()),
                false => Hazard::Drain,
            };
            Some(Orphan { id: ResourceId::Node(r.host.clone()), hazards: vec![hazard], managed: None })
        }));
        (left, warnings)
    }

    /// Returns a warning for each node that was brought in by a provision and that the inventory does not name.
    pub(super) fn strangers(&self, nodes: &BTreeMap<String, Value>) -> Vec<String> {
        let named = |spec: &Spec| match spec {
            Spec::Node(node) => Some(node.name.clone()),
            _ => None,
        };
        let wanted: BTreeSet<String> = self.setup.desired.iter().filter_map(|r| named(&r.spec)).collect();
        let ours = |node: &Value| node["metadata"]["annotations"][super::nodes::MANAGED].is_string();
        let retired = |name: &str| self.setup.retired.iter().any(|r| r.host.as_str() == name);
        nodes
            .iter()
            .filter(|(name, node)| ours(node) && !wanted.contains(*name) && !retired(name))
            .map(|(name, _)| {
                format!(
                    "node {name} was added by provision and is not in the inventory; to drain and delete it, add \
                     `{name}: {{state: retired}}` to its pool"
                )
            })
            .collect()
    }

    /// Takes what a retired host left out of the cluster; `None` if the step is about something else.
    pub(super) async fn forget(&self, client: &kube::Client, step: &Step) -> Option<Result<(), Failure>> {
        match &step.resource {
            ResourceId::Node(host) => {
                let may_lose = step.hazards.iter().filter_map(|h| h.pod().map(str::to_owned)).collect();
                Some(self.forget_node(client, host.as_str(), &may_lose).await)
            }
            ResourceId::EtcdMember(host) => Some(self.forget_member(host).await),
            _ => None,
        }
    }

    async fn forget_node(
        &self,
        client: &kube::Client,
        host: &str,
        may_lose: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        let retired = self.setup.retired.iter().find(|r| r.host.as_str() == host);
        let (deadline, lost) = retired.map_or((Duration::ZERO, false), |r| (r.drain, r.lost));
        match self.drain(host, deadline, Some(may_lose)).await {
            Err(dead) if dead.code == NODE_DEAD && lost => {
                let taint = json!({"spec": {"taints": [{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]}});
                let tainted =
                    node_api(client).patch(host, &PatchParams::default(), &Patch::Strategic(taint)).await;
                tainted.map_err(|error| failure(&format!("tainting node {host}"), &error))?;
                self.delete_pods(host).await?;
            }
            Err(dead) if dead.code == NODE_DEAD => {
                return Err(dead.hint(format!(
                    "If its machine is off for good, run `provision apply --lost {host}`; else repair it, or run \
                     `k0s stop` on it and reboot it"
                )));
            }
            ended => ended?,
        }
        let deleted = node_api(client).delete(host, &DeleteParams::default()).await;
        self.draining().remove(host);
        match deleted {
            Err(error) if !is_missing(&error) => Err(failure(&format!("deleting node {host}"), &error)),
            _ => Ok(()),
        }
    }

    /// Waits until etcd has a quorum without the member, then has it leave.
    async fn forget_member(&self, host: &HostName) -> Result<(), Failure> {
        let known = self.setup.retired.iter().find(|r| r.host == *host).and_then(|r| r.member.clone());
        let mut pause = Pause::new(etcd::ETCD_DEADLINE);
        let (mut said, mut answer) = (String::new(), String::new());
        loop {
            let answers = self.setup.access.run_on_controllers(&etcd::question()).await;
            let mut why = "no controller reports etcd members".to_owned();
            if let Some(members) = etcd::members(&answers) {
                let Some(address) = etcd::find(&members, host, known.as_deref().unwrap_or_default()) else {
                    return Ok(());
                };
                match etcd::without(&answers, host, &address) {
                    Some(hindrance) => why = hindrance,
                    None => {
                        // The next list of members shows whether it has left, not this output.
                        let program =
                            format!("{} etcd leave --peer-address {} 2>&1", k0s::BINARY, quote(&address));
                        let asked = self.setup.access.on_controller(&program).await;
                        let said = asked.unwrap_or_else(|failure| failure.message);
                        why = if answer.is_empty() { "leaving".to_owned() } else { answer };
                        answer = said.lines().last().unwrap_or_default().to_owned();
                    }
                }
            }
            if why != said {
                self.setup.events.emit(Event::Waiting { target: host.to_string(), reason: why.clone() });
                said.clone_from(&why);
            }
            if !self.more(&mut pause).await? {
                return Err(Failure::new(
                    FailureKind::Step,
                    "E-ETCD",
                    format!("{host} is still an etcd member: {why}"),
                )
                .hint(
                    "Run `k0s etcd member-list` on a controller, repair unhealthy members, then apply again",
                ));
            }
        }
    }
}
