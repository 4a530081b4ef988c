//! Nodes: what the inventory wants of each, compared with what the API says.

use crate::catalog::{ACCELERATOR_LABEL, POOL_LABEL, STARTING_TAINT_KEY};
use crate::inventory::{Accelerator, Inventory};
use crate::state::{Fields, Node, Observation, Resource, Seen, Spec};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Returns a resource per active host that is a node.
pub fn nodes(inventory: &Inventory) -> Vec<Resource> {
    inventory
        .active()
        .filter(|h| inventory.pool_of(h).role.is_worker())
        .map(|host| {
            let pool = inventory.pool_of(host);
            let mut labels = pool.labels.clone();
            labels.extend(host.labels.clone());
            labels.insert(POOL_LABEL.to_owned(), pool.name.to_string());
            let mut allocatable = BTreeMap::new();
            if let Some(accelerator) = &pool.accelerator {
                let vendor =
                    if matches!(accelerator, Accelerator::Nvidia { .. }) { "nvidia" } else { "neuron" };
                labels.insert(ACCELERATOR_LABEL.to_owned(), vendor.to_owned());
                allocatable
                    .insert(accelerator.extended_resource().to_owned(), u64::from(accelerator.count()));
            }
            let node = Node {
                name: host.name.to_string(),
                labels,
                taints: pool.taints.clone(),
                cordoned: false,
                allocatable,
            };
            Resource::new("node", Spec::Node(node))
        })
        .collect()
}

/// Reads the taints of a node as `key=value:Effect`.
fn taints(node: &Value) -> BTreeSet<String> {
    let text = |t: &Value, key: &str| t[key].as_str().unwrap_or_default().to_owned();
    node["spec"]["taints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|t| match text(t, "value").as_str() {
            "" => format!("{}:{}", text(t, "key"), text(t, "effect")),
            value => format!("{}={value}:{}", text(t, "key"), text(t, "effect")),
        })
        .collect()
}

pub(super) fn ready(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

pub(super) fn allocatable(node: &Value, resource: &str) -> u64 {
    node["status"]["allocatable"][resource].as_str().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Compares a node with what is wanted of it.
pub(super) fn observe(want: &Node, live: Option<&Value>) -> Observation {
    let Some(live) = live else { return Observation::Absent };
    let (mut now, mut wanted) = (Fields::new(), Fields::new());
    let mut field = |name: String, is: Option<String>, should: String| {
        if let Some(is) = is {
            now.insert(name.clone(), is);
        }
        wanted.insert(name, should);
    };
    field("ready".to_owned(), Some(if ready(live) { "yes" } else { "no" }.to_owned()), "yes".to_owned());
    for (key, value) in &want.labels {
        field(
            format!("label {key}"),
            live["metadata"]["labels"][key.as_str()].as_str().map(str::to_owned),
            value.clone(),
        );
    }
    let tainted = taints(live);
    for taint in &want.taints {
        let is = if tainted.contains(taint) { "there" } else { "missing" };
        field(format!("taint {taint}"), Some(is.to_owned()), "there".to_owned());
    }
    let starting = tainted.iter().any(|t| t.starts_with(STARTING_TAINT_KEY));
    field("starting".to_owned(), Some(if starting { "yes" } else { "no" }.to_owned()), "no".to_owned());
    for (resource, count) in &want.allocatable {
        field(
            format!("allocatable {resource}"),
            Some(allocatable(live, resource).to_string()),
            count.to_string(),
        );
    }
    Observation::Present(Seen { fields: now, wanted: Some(wanted), text: None })
}

/// Returns the merge patch that makes a node as wanted: our labels and taints, the starting taint gone; what others put
/// there stays.
pub(super) fn patch(want: &Node, live: &Value) -> Value {
    let mut taints: Vec<Value> = live["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.retain(|t| t["key"] != STARTING_TAINT_KEY);
    let present = self::taints(live);
    for taint in want.taints.iter().filter(|t| !present.contains(*t)) {
        let (rest, effect) = taint.rsplit_once(':').unwrap_or((taint, "NoSchedule"));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        taints.push(json!({"key": key, "value": value, "effect": effect}));
    }
    json!({"metadata": {"labels": want.labels}, "spec": {"taints": taints}})
}
