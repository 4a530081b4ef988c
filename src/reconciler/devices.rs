//! The gate on devices: a node must be able to allocate all devices of its host. A device plugin that reports fewer on a
//! healthy host is restarted once, as it considers a device unhealthy until then (k8s-device-plugin#234). If that does
//! not help, the node is cordoned with our mark, so that no pod waits for missing devices.

use super::cluster::{ClusterTarget, Pause};
use super::errors::{failure, is_unreachable, phrase};
use super::kinds::node_api;
use super::nodes::{self, CORDONED, SHORT};
use crate::catalog::device_plugin;
use crate::state::{Failure, FailureKind, Node};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where device plugins run (`templates/manifests/{nvidia,neuron}`).
const NAMESPACE: &str = "kube-system";

/// What was seen of the plugin of one node, and done about it.
struct Plugin {
    patience: Duration,
    /// Pods, and since when each was seen ready.
    ready: BTreeMap<String, Instant>,
    restarted: bool,
}

/// Returns whether a pod is ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

impl Plugin {
    /// Returns the pods that have been ready for so long that what they report counts; none while any is younger.
    fn settled(&mut self, pods: &[Pod]) -> Vec<String> {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let ready: Vec<&Pod> = pods.iter().filter(|p| is_ready(p)).collect();
        self.ready.retain(|known, _| ready.iter().any(|p| uid(p) == *known));
        let young = ready
            .iter()
            .filter(|p| self.ready.entry(uid(p)).or_insert_with(Instant::now).elapsed() < self.patience)
            .count();
        if young > 0 || ready.len() < pods.len() {
            return Vec::new();
        }
        ready.iter().filter_map(|p| p.metadata.name.clone()).collect()
    }
}

impl ClusterTarget {
    /// Waits until a node is ready with all its desired devices; its host was verified, so it is healthy. A
    /// node that the cluster does not have is waited for only if `must_register`.
    pub(super) async fn await_devices(
        &self,
        client: &kube::Client,
        name: &str,
        want: Option<&Node>,
        deadline: Duration,
        must_register: bool,
        mut say: impl FnMut(String) + Send,
    ) -> Result<(), Failure> {
        let api = node_api(client);
        let mut plugin = Plugin { patience: self.patience, ready: BTreeMap::new(), restarted: false };
        let mut pause = Pause::new(deadline);
        let mut said = String::new();
        loop {
            let why = match api.get_opt(name).await {
                Ok(None) if must_register => "waiting for the node to register".to_owned(),
                Ok(None) => return Ok(()),
                Ok(Some(live)) => {
                    let live = serde_json::to_value(live).unwrap_or_default();
                    match nodes::in_service(want, &live) {
                        Ok(()) => match self.old_kubelet(client, want, &live).await {
                            None => return Ok(()),
                            Some(why) => why,
                        },
                        Err(why) => {
                            let short = want.and_then(|w| nodes::short_of(w, &live));
                            match short {
                                Some(resource) => self
                                    .nudge(client, name, resource, &why, &mut plugin)
                                    .await?
                                    .unwrap_or(why),
                                None => why,
                            }
                        }
                    }
                }
                // Controllers change too; another answers soon.
                Err(error) if is_unreachable(&error) => phrase(&error),
                Err(error) => return Err(failure(&format!("reading node {name}"), &error)),
            };
            if why != said {
                say(why.clone());
                said.clone_from(&why);
            }
            if !self.more(&mut pause).await? {
                let message = format!("node {name} is not ready after {} s: {why}", deadline.as_secs());
                return Err(Failure::new(FailureKind::Step, "E-K8S-DEADLINE", message).hint(
                    "Run `k0s kubectl describe node` on a controller; the next apply uncordons the node",
                ));
            }
        }
    }

    /// Returns why a ready node's kubelet is not the wanted one. The API server is of the same binary of k0s, and is upgraded
    /// first: a kubelet as new as it is the one of that binary, whatever its k0s is called.
    async fn old_kubelet(&self, client: &kube::Client, want: Option<&Node>, live: &Value) -> Option<String> {
        let has = nodes::other_kubelet(want, live)?;
        let served = client.apiserver_version().await.ok().map(|v| v.git_version);
        if served.is_some_and(|served| nodes::kubernetes(&served) == nodes::kubernetes(has)) {
            return None;
        }
        let wanted = want.and_then(|w| w.kubelet.as_deref()).unwrap_or_default();
        Some(format!("its kubelet is {has}, not yet {wanted}"))
    }

    /// Restarts the plugin of a ready node with missing devices, once; cordons the node if that does not help.
    /// Returns what it did.
    async fn nudge(
        &self,
        client: &kube::Client,
        node: &str,
        resource: &str,
        why: &str,
        plugin: &mut Plugin,
    ) -> Result<Option<String>, Failure> {
        let Some(name) = device_plugin(resource) else { return Ok(None) };
        if self.partial {
            // Nothing deploys it in this run, so waiting for it would be in vain.
            let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
            let theirs = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
            if sets.list(&theirs).await.is_ok_and(|found| found.items.is_empty()) {
                let message = format!(
                    "node {node} has joined but is not schedulable yet: {name} is not deployed, and --limit leaves out cluster components"
                );
                return Err(Failure::new(FailureKind::Step, "E-DEVICE-PLUGIN", message)
                    .hint("Run `provision apply` without --limit to deploy it; the host is done"));
            }
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let theirs = ListParams::default()
            .labels(&format!("app.kubernetes.io/name={name}"))
            .fields(&format!("spec.nodeName={node}"));
        // Whatever cannot be asked now is asked again.
        let Ok(found) = pods.list(&theirs).await else { return Ok(None) };
        let settled = plugin.settled(&found.items);
        if settled.is_empty() {
            return Ok(None);
        }
        if plugin.restarted {
            let cordoned = self.cordon_as(client, node, SHORT).await;
            let stays = cordoned.err().map(|e| format!("; it could not be cordoned: {}", e.message));
            let message = format!(
                "node {node}: {name} was restarted and still reports too few devices: {why}{}",
                stays.unwrap_or_else(|| "; the node is cordoned".to_owned())
            );
            return Err(Failure::new(FailureKind::Step, "E-ALLOCATABLE", message).hint(format!(
                "Run `provision verify --limit {node}`, and on a controller `k0s kubectl -n {NAMESPACE} logs {}`",
                settled.join(" ")
            )));
        }
        for pod in &settled {
            let what = format!("deleting pod {NAMESPACE}/{pod}");
            match pods.delete(pod, &DeleteParams::default()).await {
                Err(error) if !super::errors::is_missing(&error) => return Err(failure(&what, &error)),
                _ => {}
            }
        }
        plugin.restarted = true;
        Ok(Some(format!("{why}: restarting {name} on {node}")))
    }

    /// Cordons a node that is not cordoned yet, with the reason; an existing cordon is left alone.
    async fn cordon_as(&self, client: &kube::Client, node: &str, reason: &str) -> Result<(), Failure> {
        let what = format!("cordoning {node}");
        let api = node_api(client);
        let live = api.get(node).await.map_err(|e| failure(&what, &e))?;
        if live.data["spec"]["unschedulable"] == true {
            return Ok(());
        }
        let patch: Value =
            json!({"metadata": {"annotations": {CORDONED: reason}}, "spec": {"unschedulable": true}});
        let written = api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await;
        written.map(|_| ()).map_err(|e| failure(&what, &e))
    }
}
