//! What runs on the simulated nodes: pods of Deployments and DaemonSets, and device plugins.

use super::PodPrograms;
use super::router::{is_router, items, start_router};
use crate::lab::api::{Options, Store, condition, is_ending, now, place, text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const DEPLOYMENTS: &str = "deployments.apps";
const DAEMONSETS: &str = "daemonsets.apps";

/// Where a pod names its owner.
const OWNER: &str = "/metadata/annotations/lab~1owner";

/// From a pod's deletion to its end. Real pods take minutes to start and end; the order is what the lab keeps.
const STOP: Duration = Duration::from_millis(20);
/// From a pod's scheduling to its being ready: an image pull and an engine's start.
const START: Duration = Duration::from_millis(80);

/// Pods of all Deployments: whoever administers a simulated cluster must not stop the machine that it is simulated on.
const MOST_REPLICAS: u64 = 2_000;

/// Runs the controllers, the scheduler and the kubelets until dropped. Wakes on changes only.
pub(super) async fn run(store: Arc<Store>) {
    let mut changes = store.changes();
    loop {
        changes.borrow_and_update();
        let before = store.revision();
        step(&store, false, None).await;
        if store.revision() == before && changes.changed().await.is_err() {
            return;
        }
    }
}

/// Between two renewals of a node's lease; a real kubelet takes 10 s.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Renews the leases of nodes whose kubelets run, until dropped.
pub(super) async fn heartbeats(store: Arc<Store>) {
    const LEASES: &str = "leases.coordination.k8s.io";
    const NAMESPACE: &str = "kube-node-lease";
    loop {
        for node in store.list("nodes").iter().filter(|node| condition(node, "Ready")) {
            let name = text(node, "/metadata/name");
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"holderIdentity": name}});
            let _ = store.ensure(LEASES, lease, "kubelet");
            let _ = store.edit(LEASES, NAMESPACE, &name, &Options::by("kubelet"), |lease| {
                lease["spec"]["renewTime"] = json!(format!("{:.6}", jiff::Timestamp::now()));
            });
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Does once what is due. Where real controllers and a real scheduler run, only what kubelets do; where there are programs of
/// pods, those run.
pub(super) async fn step(store: &Store, has_controllers: bool, programs: Option<&PodPrograms>) {
    if !has_controllers {
        owners(store);
    }
    if store.list("pods").iter().any(|p| is_ending(p)) {
        tokio::time::sleep(STOP).await;
        end(store);
    }
    if !has_controllers {
        schedule(store);
    }
    if store.list("pods").iter().any(|p| waits(p)) {
        tokio::time::sleep(START).await;
        start(store, programs).await;
    }
    plugins(store);
}

/// Makes the pods of Deployments and DaemonSets, and ends those that none of them wants.
fn owners(store: &Store) {
    let (mut wanted, mut owners) = (BTreeSet::new(), Vec::new());
    for deployment in store.list(DEPLOYMENTS) {
        let replicas = deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        let replicas = replicas.min(MOST_REPLICAS.saturating_sub(wanted.len() as u64));
        let names = (0..replicas).map(|n| (n.to_string(), None)).collect();
        wanted.extend(pods_of(store, &deployment, "Deployment", names));
        owners.push((DEPLOYMENTS, deployment, replicas));
    }
    for set in store.list(DAEMONSETS) {
        let nodes = store.list("nodes");
        let nodes = nodes.iter().filter(|n| allows(n, &set["spec"]["template"]["spec"]));
        let on: Vec<_> = nodes.map(|n| text(n, "/metadata/name")).map(|n| (n.clone(), Some(n))).collect();
        let count = on.len() as u64;
        wanted.extend(pods_of(store, &set, "DaemonSet", on));
        owners.push((DAEMONSETS, set, count));
    }
    for pod in store.list("pods") {
        let (namespace, name) = place(&pod);
        if !text(&pod, OWNER).is_empty() && !wanted.contains(&(namespace.clone(), name.clone())) {
            store.erase("pods", &namespace, &name);
        }
    }
    for (list, owner, count) in owners {
        status_of(store, list, &owner, count);
    }
}

/// Makes the pods of one owner, and returns where they are.
fn pods_of(
    store: &Store,
    owner: &Value,
    kind: &str,
    wanted: Vec<(String, Option<String>)>,
) -> Vec<(String, String)> {
    let (namespace, name) = place(owner);
    let template = &owner["spec"]["template"];
    let hash = format!("{:08x}", crc(&template.to_string()));
    let mut places = Vec::new();
    for (suffix, node) in wanted {
        let pod_name = format!("{name}-{hash}-{suffix}");
        places.push((namespace.clone(), pod_name.clone()));
        if store.get("pods", &namespace, &pod_name).is_some() {
            continue;
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name, "namespace": namespace,
            "labels": template["metadata"]["labels"], "annotations": {"lab/owner": format!("{kind}/{name}")},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": owner["metadata"]["uid"],
                "controller": true}]},
            "spec": template["spec"]});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        let _ = store.ensure("pods", pod, "kube-controller-manager");
    }
    places
}

/// Pods that were asked to end, end; their owner makes others.
fn end(store: &Store) {
    for pod in store.list("pods").iter().filter(|p| is_ending(p)) {
        // A kubelet that does not run ends nothing.
        let node = store.get("nodes", "", &text(pod, "/spec/nodeName"));
        if node.is_none_or(|node| condition(&node, "Ready")) {
            let (namespace, name) = place(pod);
            store.erase("pods", &namespace, &name);
        }
    }
}

/// FNV-1a, for names that follow from a template.
fn crc(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn status_of(store: &Store, list: &str, owner: &Value, wanted: u64) {
    let (namespace, name) = place(owner);
    let mine = format!("{}/{name}", if list == DEPLOYMENTS { "Deployment" } else { "DaemonSet" });
    let pods = store.list_in("pods", &namespace);
    let ready = pods.iter().filter(|p| text(p, OWNER) == mine && condition(p, "Ready")).count() as u64;
    let generation = owner["metadata"]["generation"].clone();
    let status = if list == DEPLOYMENTS {
        let available = if ready >= wanted { "True" } else { "False" };
        json!({"observedGeneration": generation, "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready,
            "availableReplicas": ready, "conditions": [{"type": "Available", "status": available}]})
    } else {
        json!({"observedGeneration": generation, "desiredNumberScheduled": wanted, "currentNumberScheduled": wanted,
            "updatedNumberScheduled": wanted, "numberReady": ready, "numberAvailable": ready, "numberMisscheduled": 0})
    };
    set_status(store, list, owner, "kube-controller-manager", &status);
}

/// Writes an object's status, if it is another than it has.
fn set_status(store: &Store, kind: &str, object: &Value, manager: &str, status: &Value) {
    if object["status"] != *status {
        let (namespace, name) = place(object);
        let by = Options::status_by(manager);
        let _ = store.edit(kind, &namespace, &name, &by, |o| o["status"] = status.clone());
    }
}

/// Returns why a node takes no pod of this kind, in the scheduler's words; `None` if it does.
fn refuses(node: &Value, pod: &Value) -> Option<String> {
    if node["spec"]["unschedulable"] == true {
        return Some("node(s) were unschedulable".to_owned());
    }
    if !condition(node, "Ready") {
        return Some("node(s) had untolerated taint {node.kubernetes.io/not-ready: }".to_owned());
    }
    if !selected(node, pod) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let taint = untolerated(node, pod)?;
    let value = taint["value"].as_str().unwrap_or_default();
    Some(format!("node(s) had untolerated taint {{{}: {value}}}", text(&taint, "/key")))
}

/// Whether labels and taints agree. That is all a DaemonSet asks: its pods tolerate cordons and nodes that are not ready.
fn allows(node: &Value, pod: &Value) -> bool {
    selected(node, pod) && untolerated(node, pod).is_none()
}

fn selected(node: &Value, pod: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    pod["nodeSelector"].as_object().into_iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
}

/// Returns the first taint of a node that keeps a pod away.
fn untolerated(node: &Value, pod: &Value) -> Option<Value> {
    let tolerated = |taint: &Value| {
        items(pod, "/tolerations").any(|t| {
            let key = t["key"].as_str().is_none_or(|k| taint["key"] == k);
            let effect = t["effect"].as_str().is_none_or(|e| taint["effect"] == e);
            let value = t["operator"] == "Exists"
                || t["value"].as_str().unwrap_or("") == taint["value"].as_str().unwrap_or("");
            key && effect && value
        })
    };
    let mut taints = items(node, "/spec/taints").filter(|t| t["effect"] != "PreferNoSchedule");
    taints.find(|taint| !tolerated(taint)).cloned()
}

/// Reads a quantity, such as `500m`, `9` or `68Gi`, in thousandths.
fn quantity(value: &Value) -> Option<u64> {
    let written = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let end = written.find(|c: char| !c.is_ascii_digit()).unwrap_or(written.len());
    let (number, unit) = written.split_at(end);
    let (base, letter) = unit.strip_suffix('i').map_or((1000u64, unit), |letter| (1024, letter));
    let size = match letter {
        "" => 1000,
        "m" => 1,
        letter => 1000 * base.pow("KMGT".find(&letter.to_uppercase())? as u32 + 1),
    };
    number.parse::<u64>().ok()?.checked_mul(size)
}

/// What a pod asks for that the scheduler counts: CPUs, memory and devices, in thousandths.
fn asks(pod: &Value) -> BTreeMap<String, u64> {
    let mut asked = BTreeMap::new();
    for container in items(pod, "/spec/containers") {
        let resources = &container["resources"];
        let of = |kind: &str| resources[kind].as_object().into_iter().flatten();
        let devices = of("limits").filter(|(key, _)| key.contains('/'));
        let shares = of("requests").filter(|(key, _)| matches!(key.as_str(), "cpu" | "memory"));
        for (key, amount) in devices.chain(shares).filter_map(|(key, value)| Some((key, quantity(value)?))) {
            let sum: &mut u64 = asked.entry(key.clone()).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    asked
}

fn schedule(store: &Store) {
    for pod in store.list("pods") {
        if !text(&pod, "/spec/nodeName").is_empty() {
            continue;
        }
        let wanted = asks(&pod);
        // What a node has too little of.
        let lacks = |node: &Value| {
            let name = text(node, "/metadata/name");
            let lacking = wanted.iter().find(|&(key, amount)| {
                let all = quantity(&node["status"]["allocatable"][key.as_str()]).unwrap_or(0);
                let used: u64 = store
                    .list("pods")
                    .iter()
                    .filter(|p| text(p, "/spec/nodeName") == name)
                    .filter_map(|p| asks(p).get(key).copied())
                    .fold(0, u64::saturating_add);
                all < used.saturating_add(*amount)
            });
            lacking.map(|(key, _)| format!("Insufficient {key}"))
        };
        let (namespace, name) = place(&pod);
        let nodes = store.list("nodes");
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let found = nodes.iter().find(|node| {
            let reason = refuses(node, &pod["spec"]).or_else(|| lacks(node));
            reason.map(|reason| *reasons.entry(reason).or_default() += 1).is_none()
        });
        let Some(node) = found else {
            unschedulable(store, &pod, &reasons, nodes.len());
            continue;
        };
        let _ = store.edit("pods", &namespace, &name, &Options::by("kube-scheduler"), |p| {
            p["spec"]["nodeName"] = node["metadata"]["name"].clone();
        });
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()});
        let status = json!({"phase": "Pending", "conditions": [scheduled]});
        set_status(store, "pods", &pod, "kube-scheduler", &status);
    }
}

/// Says of a pod that no node takes it, and why, as kube-scheduler does.
fn unschedulable(store: &Store, pod: &Value, reasons: &BTreeMap<String, usize>, nodes: usize) {
    let counted: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
    let message = match nodes {
        0 => "no nodes available to schedule pods".to_owned(),
        _ => format!("0/{nodes} nodes are available: {}.", counted.join(", ")),
    };
    if items(pod, "/status/conditions").any(|c| c["type"] == "PodScheduled" && c["message"] == message) {
        return;
    }
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message, "lastTransitionTime": now()}]});
    set_status(store, "pods", pod, "kube-scheduler", &status);
}

fn waits(pod: &Value) -> bool {
    !text(pod, "/spec/nodeName").is_empty() && !condition(pod, "Ready")
}

async fn start(store: &Store, programs: Option<&PodPrograms>) {
    for pod in store.list("pods").iter().filter(|p| waits(p)) {
        let address = match programs {
            Some(programs) => programs.run(store, pod).await.map(|address| address.to_string()),
            None => (!is_router(pod) || start_router(store, pod)).then(|| "10.240.0.9".to_owned()),
        };
        let Some(address) = address else { continue };
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}]});
        set_status(store, "pods", pod, "kubelet", &status);
    }
}

/// A running device plugin makes its node's devices allocatable.
fn plugins(store: &Store) {
    for pod in store.list("pods").iter().filter(|p| condition(p, "Ready")) {
        let image = text(pod, "/spec/containers/0/image");
        let resource = match () {
            () if image.contains("k8s-device-plugin") => "nvidia.com/gpu",
            () if image.contains("neuron-device-plugin") => "aws.amazon.com/neuron",
            () => continue,
        };
        let node = text(pod, "/spec/nodeName");
        let Some(found) = store.get("nodes", "", &node) else { continue };
        let count = text(&found, "/metadata/annotations/lab~1accelerators");
        let env = |name: &str, value: &str| {
            items(pod, "/spec/containers/0/env").any(|e| e["name"] == name && e["value"] == value)
        };
        let mig: BTreeMap<String, u32> =
            serde_json::from_str(&text(&found, "/metadata/annotations/lab~1mig"))
                .ok()
                .filter(|_| env("MIG_STRATEGY", "mixed") && resource == "nvidia.com/gpu")
                .unwrap_or_default();
        // Instances are only shown to a plugin with both (k8s-device-plugin, its Helm chart); without, it ends.
        let mut added = items(pod, "/spec/containers/0/securityContext/capabilities/add");
        let sees_instances = added.any(|c| c == "SYS_ADMIN") && env("NVIDIA_MIG_MONITOR_DEVICES", "all");
        if !mig.is_empty() && !sees_instances {
            continue;
        }
        // A GPU is offered whole, or by its instances; what was offered before and is gone counts 0.
        let offered = found["status"]["allocatable"].as_object().into_iter().flatten();
        let stale = offered.filter(|(name, _)| name.starts_with("nvidia.com/mig-"));
        let stale = stale.map(|(name, _)| (name.clone(), "0".to_owned()));
        let split =
            mig.iter().map(|(p, n)| (format!("nvidia.com/mig-{}", p.replace('+', ".")), n.to_string()));
        let mut wanted: BTreeMap<String, String> = stale.chain(split).collect();
        if mig.is_empty() {
            wanted.insert(resource.to_owned(), count);
        } else if found["status"]["allocatable"].get(resource).is_some() {
            wanted.insert(resource.to_owned(), "0".to_owned());
        }
        if wanted.iter().any(|(name, count)| found["status"]["allocatable"][name.as_str()] != *count) {
            // Only these: a kubelet that falls silent at the same time keeps its last word.
            let _ = store.edit("nodes", "", &node, &Options::status_by("kubelet"), |n| {
                for (name, count) in &wanted {
                    n["status"]["capacity"][name.as_str()] = json!(count);
                    n["status"]["allocatable"][name.as_str()] = json!(count);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever administers a simulated cluster may ask for anything.
    #[test]
    fn replicas_without_number_are_not_made() {
        let store = Store::new();
        let named = |name: &str| json!({"name": name, "namespace": "default"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        store.ensure("namespaces", namespace, "test").expect("made");
        for name in ["a", "b"] {
            let spec = json!({"replicas": 2_000_000_000, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i",
                    "resources": {"requests": {"cpu": "18446744073709551615"}}}]}}});
            let body =
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named(name), "spec": spec});
            store.ensure(DEPLOYMENTS, body, "test").expect("made");
        }
        owners(&store);
        assert_eq!(store.list("pods").len() as u64, MOST_REPLICAS);
        schedule(&store);
    }
}
