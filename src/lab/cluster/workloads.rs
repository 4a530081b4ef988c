//! What runs on the simulated nodes: pods of Deployments and DaemonSets, device plugins, engines, and the router that
//! obeys Gateway, ModelRoute and ModelServer. Engines answer with an echo that says it is a stand-in.

use crate::lab::api::{Body, Options, Store, condition, is_ending, json_answer, now, place, text};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const DEPLOYMENTS: &str = "deployments.apps";
const DAEMONSETS: &str = "daemonsets.apps";
const SERVERS: &str = "modelservers.networking.serving.volcano.sh";
const ROUTES: &str = "modelroutes.networking.serving.volcano.sh";
const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";

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
        step(&store, false).await;
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

/// Does once what is due. Where real controllers and a real scheduler run, only what kubelets do.
pub(super) async fn step(store: &Store, has_controllers: bool) {
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
        start(store);
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
    let tolerations = pod["tolerations"].as_array().cloned().unwrap_or_default();
    let tolerated = |taint: &Value| {
        tolerations.iter().any(|t| {
            let key = t["key"].as_str().is_none_or(|k| taint["key"] == k);
            let effect = t["effect"].as_str().is_none_or(|e| taint["effect"] == e);
            let value = t["operator"] == "Exists"
                || t["value"].as_str().unwrap_or("") == taint["value"].as_str().unwrap_or("");
            key && effect && value
        })
    };
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.into_iter().filter(|t| t["effect"] != "PreferNoSchedule").find(|taint| !tolerated(taint))
}

/// Reads a quantity, such as `500m`, `9` or `68Gi`, in thousandths.
fn quantity(value: &Value) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("Ki", 1000 << 10),
        ("Mi", 1000 << 20),
        ("Gi", 1000 << 30),
        ("Ti", 1000 << 40),
        ("m", 1),
        ("k", 1_000_000),
        ("M", 1_000_000_000),
        ("G", 1_000_000_000_000),
        ("T", 1_000_000_000_000_000),
    ];
    let written = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let unit = UNITS.into_iter().find_map(|(unit, size)| Some((written.strip_suffix(unit)?, size)));
    let (number, size) = unit.unwrap_or((&written, 1000));
    number.parse::<u64>().ok()?.checked_mul(size)
}

/// What a pod asks for that the scheduler counts: CPUs, memory and devices, in thousandths.
fn asks(pod: &Value) -> BTreeMap<String, u64> {
    let mut asked = BTreeMap::new();
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
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
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    if conditions
        .is_some_and(|all| all.iter().any(|c| c["type"] == "PodScheduled" && c["message"] == message))
    {
        return;
    }
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message, "lastTransitionTime": now()}]});
    set_status(store, "pods", pod, "kube-scheduler", &status);
}

fn waits(pod: &Value) -> bool {
    !text(pod, "/spec/nodeName").is_empty() && !condition(pod, "Ready")
}

fn start(store: &Store) {
    for pod in store.list("pods").iter().filter(|p| waits(p)) {
        // The router crash-loops without the kinds that it watches.
        if is_router(pod) && store.kind("gateway.networking.k8s.io", "gateways").is_none() {
            continue;
        }
        let status = json!({"phase": "Running", "podIP": "10.240.0.9",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}]});
        set_status(store, "pods", pod, "kubelet", &status);
    }
}

fn is_router(pod: &Value) -> bool {
    text(pod, "/metadata/labels/app.kubernetes.io~1component") == "kthena-router"
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
            let all = pod.pointer("/spec/containers/0/env").and_then(Value::as_array);
            all.is_some_and(|env| env.iter().any(|e| e["name"] == name && e["value"] == value))
        };
        let mig: BTreeMap<String, u32> =
            serde_json::from_str(&text(&found, "/metadata/annotations/lab~1mig"))
                .ok()
                .filter(|_| env("MIG_STRATEGY", "mixed") && resource == "nvidia.com/gpu")
                .unwrap_or_default();
        // Instances are only shown to a plugin with both (k8s-device-plugin, its Helm chart); without, it ends.
        let added = pod.pointer("/spec/containers/0/securityContext/capabilities/add");
        let admin = added.and_then(Value::as_array).is_some_and(|all| all.iter().any(|c| c == "SYS_ADMIN"));
        let sees_instances = admin && env("NVIDIA_MIG_MONITOR_DEVICES", "all");
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

/// A gateway: namespace and name.
pub(super) type Gateway = (String, String);

/// Returns the gateway that listens on a port of the router. Only while a router pod is ready.
pub(super) fn gateway_at(store: &Store, port: u64) -> Option<Gateway> {
    store.list("pods").iter().find(|p| is_router(p) && condition(p, "Ready"))?;
    store.list(GATEWAYS).iter().find_map(|gateway| {
        let listeners = gateway.pointer("/spec/listeners")?.as_array()?;
        listeners.iter().find(|l| l["port"] == port)?;
        Some((text(gateway, "/metadata/namespace"), text(gateway, "/metadata/name")))
    })
}

fn refuse(status: StatusCode, words: &str) -> Response<Body> {
    // The router's errors are bare JSON strings, not OpenAI objects.
    json_answer(status, &json!(words))
}

/// Answers a request as the router does.
pub(super) async fn answer<B: hyper::body::Body<Error: Send> + Send>(
    store: &Store,
    gateway: &Gateway,
    request: Request<B>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET && path == "/v1/models" {
        let models: Vec<Value> = store
            .list(ROUTES)
            .iter()
            .map(|r| json!({"id": r["spec"]["modelName"], "object": "model", "created": 0, "owned_by": "kthena"}))
            .collect();
        return json_answer(StatusCode::OK, &json!({"object": "list", "data": models}));
    }
    if path != "/v1/chat/completions" {
        return refuse(StatusCode::NOT_FOUND, "route not found");
    }
    let body = request.into_body().collect().await.ok().map(|body| body.to_bytes());
    let Some(body) = body.and_then(|body| serde_json::from_slice::<Value>(&body).ok()) else {
        return refuse(StatusCode::BAD_REQUEST, "invalid request body");
    };
    let Some(model) = body["model"].as_str() else { return refuse(StatusCode::NOT_FOUND, "model not found") };
    let attached = |route: &Value| {
        let namespace = text(route, "/metadata/namespace");
        route["spec"]["parentRefs"].as_array().into_iter().flatten().any(|p| {
            p["name"] == gateway.1.as_str() && p["namespace"].as_str().unwrap_or(&namespace) == gateway.0
        })
    };
    let routes = store.list(ROUTES);
    let Some(route) = routes.iter().find(|r| r["spec"]["modelName"] == model && attached(r)) else {
        return refuse(StatusCode::NOT_FOUND, "route not found");
    };
    let namespace = text(route, "/metadata/namespace");
    let targets = route["spec"]["rules"][0]["targetModels"].as_array().cloned().unwrap_or_default();
    let weight = |t: &Value| t["weight"].as_u64().unwrap_or(100);
    let mut pick = rand::random_range(0..targets.iter().map(weight).sum::<u64>().max(1));
    let target = targets.iter().find(|t| {
        let here = pick < weight(t);
        pick = pick.saturating_sub(weight(t));
        here
    });
    let server_name = target.map(|t| text(t, "/modelServerName")).unwrap_or_default();
    let lost =
        || refuse(StatusCode::NOT_FOUND, &format!("can't find model server: {namespace}/{server_name}"));
    let Some(server) = store.get(SERVERS, &namespace, &server_name) else { return lost() };
    let selector = server["spec"]["workloadSelector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let pods = store.list_in("pods", &namespace);
    let pod = pods.iter().find(|p| {
        condition(p, "Ready") && selector.iter().all(|(k, v)| p["metadata"]["labels"].get(k) == Some(v))
    });
    let Some(pod) = pod else { return lost() };
    let asked = server["spec"]["model"].as_str().unwrap_or(model);
    engine(pod, asked, &body)
}

/// The echo engine: answers only to the name that its pod serves.
fn engine(pod: &Value, asked: &str, body: &Value) -> Response<Body> {
    let container = &pod["spec"]["containers"][0];
    let words: Vec<&str> = ["command", "args"]
        .iter()
        .flat_map(|key| container[*key].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let served =
        words.iter().position(|w| *w == "--served-model-name").and_then(|n| words.get(n + 1)).copied();
    if served != Some(asked) {
        let message = format!("The model `{asked}` does not exist.");
        let error =
            json!({"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}});
        return json_answer(StatusCode::NOT_FOUND, &error);
    }
    let question =
        body["messages"].as_array().and_then(|m| m.last()).map(|m| text(m, "/content")).unwrap_or_default();
    let (name, node) = (text(pod, "/metadata/name"), text(pod, "/spec/nodeName"));
    let content = format!("LAB echo from {name} on {node}: {question}");
    if body["stream"] == true {
        return streamed(asked, &content);
    }
    json_answer(
        StatusCode::OK,
        &json!({"id": "chatcmpl-lab", "object": "chat.completion", "created": 0, "model": asked,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}),
    )
}

/// The same as a stream: a chunk for each word.
fn streamed(model: &str, content: &str) -> Response<Body> {
    let chunk = |word: &str| {
        json!({"id": "chatcmpl-lab", "object": "chat.completion.chunk", "created": 0, "model": model,
            "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": null}]})
    };
    let events: String =
        content.split_inclusive(' ').map(|word| format!("data: {}\n\n", chunk(word))).collect();
    let body = Full::new(bytes::Bytes::from(events + "data: [DONE]\n\n")).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
    response
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
