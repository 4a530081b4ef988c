//! Draining: a node is cordoned, its pods are evicted as their disruption budgets allow, and it is uncordoned
//! afterwards. The cordon is marked as ours, so that the next apply undoes an interrupted drain but not the cordon of
//! somebody else.

use super::cluster::{ClusterTarget, Pause};
use super::errors::{failure, is_missing, may_pass, phrase};
use super::kinds::node_api;
use super::nodes::{CORDONED, ready};
use crate::event::Event;
use crate::state::{BarePods, Failure, FailureKind, HostName, NODE_DEAD};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Returns whether a pod has to leave: not one that a DaemonSet puts back at once, not a static one, not one that ended.
fn must_leave(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let daemon = owners.into_iter().any(|o| o.kind == "DaemonSet" && o.controller == Some(true));
    let mirror =
        pod.metadata.annotations.iter().flatten().any(|(key, _)| key == "kubernetes.io/config.mirror");
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !daemon && !mirror && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Returns whether nothing makes a pod again that is evicted, so that it is lost with what it wrote.
fn is_bare(pod: &Pod) -> bool {
    must_leave(pod) && !pod.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true))
}

/// Returns `namespace/name`.
fn id_of(pod: &Pod) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// Nodes whose pods are asked for one by one; of more, all pods of the cluster are listed.
const ONE_BY_ONE: usize = 20;
/// Pods in one page of a list.
const PAGE: u32 = 500;

impl ClusterTarget {
    /// Returns the pods of these nodes that nothing would make again.
    pub async fn bare_pods(&self, nodes: &BTreeSet<HostName>) -> Result<BarePods, Failure> {
        let mut found = BarePods::new();
        let Some(link) = self.link().await? else { return Ok(found) };
        let all: Api<Pod> = Api::all(link.client.clone());
        let of_node = |node: &HostName| ListParams::default().fields(&format!("spec.nodeName={node}"));
        let lists: Vec<ListParams> = match nodes.len() {
            0..=ONE_BY_ONE => nodes.iter().map(of_node).collect(),
            _ => vec![ListParams::default()],
        };
        for params in lists {
            let mut params = params.limit(PAGE);
            loop {
                let page = all.list(&params).await.map_err(|e| failure("listing pods", &e))?;
                let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
                for pod in page.items.iter().filter(|pod| is_bare(pod)) {
                    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
                    if nodes.contains(node.as_str()) {
                        found.entry(HostName::new(node)).or_default().insert(id_of(pod));
                    }
                }
                match next {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    /// Cordons a node and evicts its pods, honouring disruption budgets; returns when none is left. A node that the
    /// cluster does not have needs nothing. On failure the node stays cordoned, with our mark. A pod that nothing would
    /// make again is evicted only if it may be lost; `None` allows all.
    pub async fn drain(
        &self,
        node: &str,
        deadline: Duration,
        may_lose: Option<&BTreeSet<String>>,
    ) -> Result<(), Failure> {
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
        // Since when its kubelet has not answered.
        let mut dead: Option<Instant> = None;
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
                let id = id_of(pod);
                if is_bare(pod) && may_lose.is_some_and(|approved| !approved.contains(&id)) {
                    let message =
                        format!("{what}: pod {id} belongs to no controller, and losing it was not approved");
                    return Err(Failure::new(FailureKind::Refused, "E-HAZARD", message)
                        .hint("Plan again to review it, or delete the pod"));
                }
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
            dead = match self.unready(&link.client, node).await {
                Some(why) => {
                    let since = dead.unwrap_or_else(Instant::now);
                    if since.elapsed() >= self.patience.min(deadline) {
                        let message = format!("{what}: {why}, so nothing ends its {} pods", held.len());
                        return Err(Failure::new(FailureKind::Step, NODE_DEAD, message));
                    }
                    Some(since)
                }
                None => None,
            };
            let blocked = held.iter().find(|(_, why)| *why != "ending");
            let left = held.len();
            let s = if left == 1 { "" } else { "s" };
            let note = match blocked {
                Some((pod, why)) => format!("draining: {left} pod{s} left, {pod}: {why}"),
                None => format!("draining: {left} pod{s} left"),
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
                    format!("{what}: pod {pod} was not evicted within {} s ({why}){more}", deadline.as_secs()),
                )
                .hint("Relax the pod's PodDisruptionBudget or delete the pod, then apply again; nothing was changed on the host");
                stuck.tail = held.into_iter().map(|(pod, why)| format!("{pod}: {why}")).take(20).collect();
                return Err(stuck);
            }
        }
    }

    /// Returns why a node is not ready; `None` if it is, or cannot be asked for.
    async fn unready(&self, client: &kube::Client, node: &str) -> Option<String> {
        let live = node_api(client).get_opt(node).await.ok()??;
        ready(&serde_json::to_value(live).ok()?).err()
    }

    /// Deletes the pods of a node at once, without a kubelet that would end them.
    pub async fn delete_pods(&self, node: &str) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let all: Api<Pod> = Api::all(link.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let what = format!("deleting the pods of {node}");
        let pods = all.list(&on_node).await.map_err(|e| failure(&what, &e))?;
        for pod in pods.items.iter().filter(|p| must_leave(p)) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(link.client.clone(), namespace);
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &DeleteParams::default().grace_period(0)).await {
                Err(error) if !is_missing(&error) => return Err(failure(&what, &error)),
                _ => {}
            }
        }
        Ok(())
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
