//! Nodes: desired state compared with the API, and the changes in between. Only the labels and taints in the inventory
//! are managed; an annotation records them, so that one that is no longer wanted is removed and others stay.

use super::cluster::ClusterTarget;
use super::errors::phrase;
use super::kinds::node_api;
use crate::catalog::{ACCELERATOR_LABEL, POOL_LABEL, STARTING_TAINT_KEY};
use crate::inventory::{Accelerator, HostState, Inventory};
use crate::state::{Failure, Fields, Node, Observation, Resource, Seen, Spec, Step};
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The managed labels and taints of a node.
pub(super) const MANAGED: &str = "provision.dev/managed";
/// Why provision cordoned a node: `maintenance`, `drain`, or `short` of devices. Cordons without it are left alone.
pub(super) const CORDONED: &str = "provision.dev/cordoned";
/// Why a node is cordoned whose devices are not all there.
pub(super) const SHORT: &str = "short";
/// Until a node is as wanted once its host is done, in seconds: the device plugin's image is pulled.
const NODE_DEADLINE_S: u64 = 900;

/// Returns a resource per host that is a node: active ones as their pool wants them, those in maintenance cordoned.
pub fn nodes(inventory: &Inventory) -> Vec<Resource> {
    inventory
        .hosts
        .values()
        .filter(|h| h.state != HostState::Retired && inventory.pool_of(h).role.is_worker())
        .map(|host| {
            let pool = inventory.pool_of(host);
            let mut node = Node {
                name: host.name.to_string(),
                labels: BTreeMap::new(),
                taints: Vec::new(),
                cordoned: host.state == HostState::Maintenance,
                allocatable: BTreeMap::new(),
                kubelet: None,
            };
            if !node.cordoned {
                node.kubelet = Some(kubernetes(&inventory.cluster.k0s_version).to_owned());
                node.labels.extend(pool.labels.clone());
                node.labels.extend(host.labels.clone());
                node.labels.insert(POOL_LABEL.to_owned(), pool.name.to_string());
                node.taints = pool.taints.clone();
                if let Some(accelerator) = &pool.accelerator {
                    let vendor = match accelerator {
                        Accelerator::Nvidia { .. } => "nvidia",
                        Accelerator::Neuron { .. } => "neuron",
                    };
                    node.labels.insert(ACCELERATOR_LABEL.to_owned(), vendor.to_owned());
                    node.allocatable = accelerator.offers();
                }
            }
            let reason = host.reason.clone().filter(|_| node.cordoned);
            let mut resource = Resource::new("node", Spec::Node(node));
            resource.why = reason;
            resource.deadline_s = NODE_DEADLINE_S;
            resource
        })
        .collect()
}

/// A taint. Kubernetes identifies taints by key and effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Taint {
    key: String,
    effect: String,
    value: String,
}

impl Taint {
    /// Reads `key=value:Effect` or `key:Effect`.
    fn parse(text: &str) -> Self {
        let (rest, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        Self { key: key.to_owned(), effect: effect.to_owned(), value: value.to_owned() }
    }

    fn of(taint: &Value) -> Self {
        let text = |key: &str| taint[key].as_str().unwrap_or_default().to_owned();
        Self { key: text("key"), effect: text("effect"), value: text("value") }
    }

    /// Returns what identifies it.
    fn slot(&self) -> String {
        format!("{}:{}", self.key, self.effect)
    }

    fn to_json(&self) -> Value {
        let mut taint = json!({"key": self.key, "effect": self.effect});
        if !self.value.is_empty() {
            taint["value"] = json!(self.value);
        }
        taint
    }
}

fn taints(node: &Value) -> Vec<Value> {
    node["spec"]["taints"].as_array().cloned().unwrap_or_default()
}

/// Returns whether a node still has the taint that it registered with.
pub(super) fn has_starting_taint(node: &Value) -> bool {
    taints(node).iter().any(|t| t["key"] == STARTING_TAINT_KEY)
}

/// Returns whether a node is ready, or why not.
pub(super) fn ready(node: &Value) -> Result<(), String> {
    let conditions = node["status"]["conditions"].as_array();
    let condition = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    match condition {
        Some(c) if c["status"] == "True" => Ok(()),
        Some(c) => Err(format!(
            "the node is not ready: {} {}",
            c["reason"].as_str().unwrap_or_default(),
            c["message"].as_str().unwrap_or_default()
        )
        .trim_end()
        .to_owned()),
        None => Err("the node is not ready: its kubelet has not reported".to_owned()),
    }
}

fn allocatable(node: &Value, resource: &str) -> u64 {
    node["status"]["allocatable"][resource].as_str().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Returns whether a node takes pods again, once it is no more cordoned: it is ready, and all its devices are there.
pub(super) fn in_service(want: Option<&Node>, live: &Value) -> Result<(), String> {
    ready(live)?;
    for (resource, count) in want.iter().flat_map(|w| &w.allocatable) {
        let have = allocatable(live, resource);
        if have != *count {
            return Err(format!("waiting for the device plugin: {have}/{count} {resource} allocatable"));
        }
    }
    Ok(())
}

/// Returns the Kubernetes version in a version of k0s or of a kubelet of it: `v1.35.7` in `v1.35.7+k0s.0`.
pub(super) fn kubernetes(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

/// Returns the version of a node's kubelet, if it is not the wanted one.
pub(super) fn other_kubelet<'a>(want: Option<&Node>, live: &'a Value) -> Option<&'a str> {
    let wanted = want?.kubelet.as_deref()?;
    let has = live["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or("of no known version");
    (kubernetes(has) != wanted).then_some(has)
}

/// Returns a resource of which a ready node has another number than is wanted.
pub(super) fn short_of<'a>(want: &'a Node, live: &Value) -> Option<&'a str> {
    ready(live).ok()?;
    want.allocatable
        .iter()
        .find(|(name, count)| allocatable(live, name) != **count)
        .map(|(name, _)| name.as_str())
}

/// The managed keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Ours {
    labels: BTreeSet<String>,
    taints: BTreeSet<String>,
}

impl Ours {
    fn wanted(want: &Node) -> Self {
        Self {
            labels: want.labels.keys().cloned().collect(),
            taints: want.taints.iter().map(|t| Taint::parse(t).slot()).collect(),
        }
    }

    fn recorded(node: &Value) -> Self {
        let text = node["metadata"]["annotations"][MANAGED].as_str().unwrap_or("{}");
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let set = |key: &str| {
            let words = value[key].as_array().into_iter().flatten();
            words.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Self { labels: set("labels"), taints: set("taints") }
    }

    fn to_text(&self) -> String {
        json!({"labels": self.labels, "taints": self.taints}).to_string()
    }
}

/// Compares a node with its desired state. `draining` leaves our own cordon alone.
pub(super) fn observe(want: &Node, live: Option<&Value>, draining: bool) -> Observation {
    let cordon = |node: &Value| node["metadata"]["annotations"][CORDONED].as_str().map(str::to_owned);
    let Some(live) = live else {
        // A host in maintenance need not have a node.
        let gone = Observation::Present(Seen::default());
        return if want.cordoned { gone } else { Observation::Absent };
    };
    let (mut now, mut wanted) = (Fields::new(), Fields::new());
    let mut field = |name: String, is: Option<String>, should: Option<String>| {
        now.extend(is.map(|is| (name.clone(), is)));
        wanted.extend(should.map(|should| (name, should)));
    };
    let word = |yes: bool| Some(if yes { "yes" } else { "no" }.to_owned());
    let unschedulable = live["spec"]["unschedulable"] == true;
    if want.cordoned {
        field("cordoned".to_owned(), word(unschedulable), word(true));
        return Observation::Present(Seen { fields: now, wanted: Some(wanted), ..Seen::default() });
    }
    if let Some(why) = cordon(live).filter(|_| !draining) {
        field("cordoned".to_owned(), Some(format!("by us: {why}")), word(false));
    }
    field("ready".to_owned(), word(ready(live).is_ok()), word(true));
    let recorded = Ours::recorded(live);
    let label = |key: &str| live["metadata"]["labels"][key].as_str().map(str::to_owned);
    for (key, value) in &want.labels {
        field(format!("label {key}"), label(key), Some(value.clone()));
    }
    for key in recorded.labels.iter().filter(|k| !want.labels.contains_key(*k)) {
        field(format!("label {key}"), label(key), None);
    }
    let there: Vec<Taint> = taints(live).iter().map(Taint::of).collect();
    let ours = Ours::wanted(want);
    for taint in want.taints.iter().map(|t| Taint::parse(t)) {
        let is = there.iter().find(|t| t.slot() == taint.slot()).map(|t| format!("={}", t.value));
        field(format!("taint {}", taint.slot()), is, Some(format!("={}", taint.value)));
    }
    for taint in &there {
        if recorded.taints.contains(&taint.slot()) && !ours.taints.contains(&taint.slot()) {
            field(format!("taint {}", taint.slot()), Some(format!("={}", taint.value)), None);
        }
    }
    field("starting".to_owned(), word(has_starting_taint(live)), word(false));
    for (resource, count) in &want.allocatable {
        let have = allocatable(live, resource).to_string();
        field(format!("allocatable {resource}"), Some(have), Some(count.to_string()));
    }
    Observation::Present(Seen { fields: now, wanted: Some(wanted), ..Seen::default() })
}

/// Whether the startup taint goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Starting {
    Stays,
    Goes,
}

/// Returns the merge patch that makes a node as wanted; what others put there stays. It holds only against the node as it
/// was read, since taints are replaced as a whole.
pub(super) fn patch(want: &Node, live: &Value, starting: Starting) -> Value {
    // Short of devices: not before they are there.
    let annotated = match live["metadata"]["annotations"][CORDONED].as_str() {
        Some(SHORT) => starting == Starting::Goes,
        why => why.is_some(),
    };
    let version = &live["metadata"]["resourceVersion"];
    if want.cordoned {
        return json!({"metadata": {"resourceVersion": version, "annotations": {CORDONED: "maintenance"}},
            "spec": {"unschedulable": true}});
    }
    let (recorded, ours) = (Ours::recorded(live), Ours::wanted(want));
    let mut labels: Map<String, Value> = want.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    for stale in recorded.labels.difference(&ours.labels) {
        labels.insert(stale.clone(), Value::Null);
    }
    let mut kept = taints(live);
    kept.retain(|t| {
        let slot = Taint::of(t).slot();
        let gone = starting == Starting::Goes && t["key"] == STARTING_TAINT_KEY;
        !gone && !recorded.taints.contains(&slot) && !ours.taints.contains(&slot)
    });
    kept.extend(want.taints.iter().map(|t| Taint::parse(t).to_json()));
    let mut patch = json!({"metadata": {"resourceVersion": version, "labels": labels,
        "annotations": {MANAGED: ours.to_text()}}, "spec": {"taints": kept}});
    if annotated {
        patch["metadata"]["annotations"][CORDONED] = Value::Null;
        patch["spec"]["unschedulable"] = Value::Null;
    }
    patch
}

impl ClusterTarget {
    /// Brings a node to what is wanted: labels and taints as soon as it is there, the startup taint off when its devices
    /// can be allocated.
    pub(super) async fn bring_node(
        &self,
        client: &kube::Client,
        step: &Step,
        node: &Node,
    ) -> Result<(), Failure> {
        let api = &node_api(client);
        let deadline = Duration::from_secs(step.deadline_s);
        let read = || async move {
            let live = api.get_opt(&node.name).await.map_err(|e| phrase(&e))?;
            Ok::<_, String>(live.map(|l| serde_json::to_value(l).unwrap_or_default()))
        };
        let write = |patch: Value| async move {
            let written = api.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            written.map_err(|e| phrase(&e))
        };
        if node.cordoned {
            let cordon = || -> futures::future::BoxFuture<'_, Result<(), String>> {
                Box::pin(async move {
                    let Some(live) = read().await? else { return Ok(()) };
                    write(patch(node, &live, Starting::Stays)).await.map(|_| ())
                })
            };
            return self.until(step, deadline, cordon).await;
        }
        self.until(step, deadline, || {
            Box::pin(async move {
                let live = read().await?.ok_or("waiting for the node to register")?;
                // The device plugin finds its node by label, so labels come before devices.
                write(patch(node, &live, Starting::Stays)).await.map(|_| ())
            })
        })
        .await?;
        let say = |why| self.progress(step, why);
        self.await_devices(client, &node.name, Some(node), deadline, true, say).await?;
        self.until(step, deadline, || {
            Box::pin(async move {
                let live = read().await?.ok_or("waiting for the node to register")?;
                if has_starting_taint(&live) || live["metadata"]["annotations"][CORDONED] == SHORT {
                    write(patch(node, &live, Starting::Goes)).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Node {
        Node {
            name: "h-1".into(),
            labels: BTreeMap::from([("example.com/team".into(), "search".into())]),
            taints: vec!["example.com/gpu=yes:NoSchedule".into()],
            cordoned: false,
            allocatable: BTreeMap::from([("nvidia.com/gpu".into(), 8)]),
            kubelet: None,
        }
    }

    fn live() -> Value {
        json!({"metadata": {"name": "h-1", "resourceVersion": "7", "labels": {"kubernetes.io/os": "linux"}},
            "spec": {"taints": [{"key": STARTING_TAINT_KEY, "value": "true", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": "8"}}})
    }

    /// Applies a merge patch (RFC 7386).
    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().expect("an object").remove(key);
            } else {
                merge(&mut target[key], value);
            }
        }
    }

    /// Does to a node what the target would.
    fn bring(node: &mut Value, want: &Node, starting: Starting) {
        let patch = patch(want, node, starting);
        merge(node, &patch);
    }

    fn differences(want: &Node, live: &Value) -> Vec<String> {
        let Observation::Present(seen) = observe(want, Some(live), false) else { panic!("present") };
        let wanted = seen.wanted.unwrap_or_default();
        let names: BTreeSet<&String> = wanted.keys().chain(seen.fields.keys()).collect();
        names.into_iter().filter(|n| wanted.get(*n) != seen.fields.get(*n)).cloned().collect()
    }

    #[test]
    fn a_node_is_brought_to_what_is_wanted_and_nothing_of_others_is_touched() {
        let (want, mut node) = (wanted(), live());
        assert_eq!(
            differences(&want, &node),
            ["label example.com/team", "starting", "taint example.com/gpu:NoSchedule"]
        );
        let first = patch(&want, &node, Starting::Stays);
        assert_eq!(first["metadata"]["resourceVersion"], "7", "only against what was read");
        merge(&mut node, &first);
        assert!(has_starting_taint(&node), "not before its devices are there");
        let second = patch(&want, &node, Starting::Goes);
        merge(&mut node, &second);
        assert_eq!(differences(&want, &node), Vec::<String>::new());
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
        let keys: Vec<_> = taints(&node).iter().map(|t| Taint::of(t).slot()).collect();
        assert_eq!(keys, ["node.kubernetes.io/not-ready:NoExecute", "example.com/gpu:NoSchedule"]);
    }

    #[test]
    fn what_is_named_no_more_is_taken_off() {
        let mut node = live();
        bring(&mut node, &wanted(), Starting::Goes);
        let mut less = wanted();
        less.labels.clear();
        less.taints.clear();
        assert_eq!(differences(&less, &node), ["label example.com/team", "taint example.com/gpu:NoSchedule"]);
        bring(&mut node, &less, Starting::Goes);
        assert_eq!(differences(&less, &node), Vec::<String>::new());
        assert!(node["metadata"]["labels"]["example.com/team"].is_null());
    }

    #[test]
    fn a_taint_with_another_value_is_replaced_not_doubled() {
        let mut node = live();
        node["spec"]["taints"] = json!([{"key": "example.com/gpu", "value": "no", "effect": "NoSchedule"}]);
        assert!(differences(&wanted(), &node).contains(&"taint example.com/gpu:NoSchedule".to_owned()));
        bring(&mut node, &wanted(), Starting::Goes);
        assert_eq!(
            taints(&node),
            [json!({"key": "example.com/gpu", "value": "yes", "effect": "NoSchedule"})]
        );
    }

    #[test]
    fn only_our_own_cordon_is_lifted() {
        let mut node = live();
        bring(&mut node, &wanted(), Starting::Goes);
        node["spec"]["unschedulable"] = json!(true);
        assert_eq!(differences(&wanted(), &node), Vec::<String>::new(), "somebody else's stays");
        let maintenance = Node { cordoned: true, ..wanted() };
        node["spec"]["unschedulable"] = json!(false);
        assert_eq!(differences(&maintenance, &node), ["cordoned"]);
        bring(&mut node, &maintenance, Starting::Stays);
        assert_eq!(differences(&maintenance, &node), Vec::<String>::new());
        assert_eq!(differences(&wanted(), &node), ["cordoned"], "back from maintenance");
        bring(&mut node, &wanted(), Starting::Stays);
        assert!(node["spec"]["unschedulable"].is_null());
        let Observation::Present(_) = observe(&maintenance, None, false) else {
            panic!("a host in maintenance needs no node")
        };
    }
}
