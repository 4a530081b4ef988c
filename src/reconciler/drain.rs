//! Draining: a node is cordoned, its pods are evicted as their disruption budgets allow, and afterwards it takes pods
//! again. The cordon is marked as ours, so that a drain that was cut off is undone by the next apply and a cordon of
//! somebody else is not.

use super::errors::{failure, is_missing, may_pass, phrase};
use super::kinds::node_api;
use super::nodes::CORDONED;
use super::target::{ClusterTarget, Pause};
use crate::event::Event;
use crate::state::{Failure, FailureKind};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Returns whether a pod has to leave: not one that a DaemonSet puts back at once, not a static one, not one that ended.
fn must_leave(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let daemon = owners.into_iter().any(|o| o.kind == "DaemonSet" && o.controller == Some(true));
    let mirror =
        pod.metadata.annotations.iter().flatten().any(|(key, _)| key == "kubernetes.io/config.mirror");
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !daemon && !mirror && !matches!(phase, Some("Succeeded" | "Failed"))
}

impl ClusterTarget {
    /// Cordons a node and evicts its pods, honouring disruption budgets; returns when none is left. A node that the
    /// cluster does not have needs nothing. On failure the node stays cordoned, marked as ours.
    pub async fn drain(&self, node: &str, deadline: Duration) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let what = format!("draining {node}");
        if !self.cordon(&link.client, node).await? {
            return Ok(());
        }
        self.draining().insert(node.to_owned());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let all: Api<Pod> = Api::all(link.client.clone());
        let mut pause = Pause::new(deadline);
        let mut said = String::new();
        loop {
            let mut held: BTreeMap<String, String> = BTreeMap::new();
            let pods = match all.list(&on_node).await {
                Ok(pods) => pods.items,
                // Another controller answers soon.
                Err(error) if may_pass(&error) && !is_missing(&error) => {
                    held.insert("the API".to_owned(), phrase(&error));
                    Vec::new()
                }
                Err(error) => return Err(failure(&what, &error)),
            };
            for pod in pods.iter().filter(|p| must_leave(p)) {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                let id = format!("{namespace}/{name}");
                if pod.metadata.deletion_timestamp.is_some() {
                    held.insert(id, "ending".to_owned());
                    continue;
                }
                let api: Api<Pod> = Api::namespaced(link.client.clone(), &namespace);
                match api.evict(&name, &EvictParams::default()).await {
                    Ok(_) => drop(held.insert(id, "ending".to_owned())),
                    Err(error) if is_missing(&error) => {}
                    // A budget allows no more at this moment; or the API is busy.
                    Err(kube::Error::Api(status)) if status.code == 429 => {
                        let causes = status.details.iter().flat_map(|d| &d.causes);
                        let why = causes.map(|c| c.message.clone()).next().unwrap_or(status.message.clone());
                        held.insert(id, why);
                    }
                    Err(error) if may_pass(&error) => drop(held.insert(id, phrase(&error))),
                    Err(error) => return Err(failure(&format!("evicting {id}"), &error)),
                }
            }
            if held.is_empty() {
                return Ok(());
            }
            let blocked = held.iter().find(|(_, why)| *why != "ending");
            let left = held.len();
            let note = match blocked {
                Some((pod, why)) => format!("draining: {left} pods left, {pod}: {why}"),
                None => format!("draining: {left} pods left"),
            };
            if note != said {
                let target = node.to_owned();
                self.setup.events.emit(Event::Waiting { target, reason: note.clone() });
                said = note;
            }
            if !pause.more().await {
                let (pod, why) = blocked.or(held.iter().next()).map_or(("", ""), |(p, w)| (p, w));
                let more = if left > 1 { format!(", and {} more", left - 1) } else { String::new() };
                let mut stuck = Failure::new(
                    FailureKind::Step,
                    "E-DRAIN",
                    format!("{what}: after {} s pod {pod} will not go ({why}){more}", deadline.as_secs()),
                )
                .hint("nothing was changed on the host: give the pod's disruption budget room, or end the pod, then apply again");
                stuck.tail = held.into_iter().map(|(pod, why)| format!("{pod}: {why}")).take(20).collect();
                return Err(stuck);
            }
        }
    }

    /// Lets a node take pods again, if it was us who cordoned it.
    pub async fn uncordon(&self, node: &str) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let what = format!("uncordoning {node}");
        let api = node_api(&link.client);
        let live = api.get_opt(node).await.map_err(|e| failure(&what, &e))?;
        let ours = live.is_some_and(|n| n.metadata.annotations.is_some_and(|a| a.contains_key(CORDONED)));
        if ours {
            let patch = json!({"metadata": {"annotations": {CORDONED: Value::Null}}, "spec": {"unschedulable": Value::Null}});
            api.patch(node, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(|e| failure(&what, &e))?;
        }
        self.draining().remove(node);
        Ok(())
    }

    /// Cordons a node; returns whether there is one.
    async fn cordon(&self, client: &kube::Client, node: &str) -> Result<bool, Failure> {
        let what = format!("cordoning {node}");
        let api = node_api(client);
        let Some(live) = api.get_opt(node).await.map_err(|e| failure(&what, &e))? else { return Ok(false) };
        let live = serde_json::to_value(live).unwrap_or_default();
        if live["spec"]["unschedulable"] == true {
            return Ok(true);
        }
        let patch =
            json!({"metadata": {"annotations": {CORDONED: "drain"}}, "spec": {"unschedulable": true}});
        let cordoned = api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await;
        cordoned
            .map(|_| true)
            .map_err(|e| Failure::new(FailureKind::Step, "E-DRAIN", format!("{what}: {}", phrase(&e))))
    }
}
