//! The simulated machines on a real API: what it has is copied into the store that they look at, and what they change
//! there is written to it.

use super::client::Client;
use super::{PodPrograms, workloads};
use crate::lab::api::{Action, Change, Store};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// From one look at the API to the next.
const PAUSE: Duration = Duration::from_millis(150);
/// Kinds that the simulated machines look at. Definitions come first: they bring the kinds at the end.
const KINDS: [&str; 13] = [
    "customresourcedefinitions.apiextensions.k8s.io",
    "namespaces",
    "nodes",
    "configmaps",
    "pods",
    "secrets",
    "services",
    "deployments.apps",
    "daemonsets.apps",
    "gatewayclasses.gateway.networking.k8s.io",
    "gateways.gateway.networking.k8s.io",
    "modelroutes.networking.serving.volcano.sh",
    "modelservers.networking.serving.volcano.sh",
];

/// Writes to the API what changed in the store.
async fn push(client: &Client, store: &Store, change: &Change) {
    let object = &change.object;
    let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (at("/metadata/namespace"), at("/metadata/name"));
    let (Some(all), Some(one)) =
        (store.path(&change.kind, namespace, ""), store.path(&change.kind, namespace, name))
    else {
        return;
    };
    let (json, merge) = ("application/json", "application/merge-patch+json");
    let before = match (change.action, &change.before) {
        (Action::Deleted, _) => {
            let now = json!({"gracePeriodSeconds": 0});
            return client.send(reqwest::Method::DELETE, &one, json, &now).await;
        }
        (Action::Modified, Some(before)) => before,
        _ => return client.send(reqwest::Method::POST, &all, json, &without_servers_part(object)).await,
    };
    let mut patch = difference(&without_servers_part(before), &without_servers_part(object));
    let node = patch.pointer("/spec/nodeName").cloned().filter(|_| change.kind == "pods");
    if let Some(node) = node {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        client.send(reqwest::Method::POST, &format!("{one}/binding"), json, &binding).await;
        patch = json!({});
    }
    if patch != json!({}) {
        client.send(reqwest::Method::PATCH, &one, merge, &patch).await;
    }
    let status = difference(&json!({"status": before["status"]}), &json!({"status": object["status"]}));
    if status != json!({}) {
        client.send(reqwest::Method::PATCH, &format!("{one}/status"), merge, &status).await;
    }
}

/// Returns an object without its status and what the server keeps in its metadata.
fn without_servers_part(object: &Value) -> Value {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.shift_remove("status");
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        let ours = ["name", "namespace", "labels", "annotations", "ownerReferences"];
        metadata.retain(|key, _| ours.contains(&key.as_str()));
    }
    Value::Object(map)
}

/// Returns the merge patch that makes one value the other.
fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let set = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let set =
        set.map(|(key, value)| (key.clone(), difference(before.get(key).unwrap_or(&Value::Null), value)));
    Value::Object(set.chain(gone).collect::<Map<_, _>>())
}

/// Keeps the store and the API at one, and lets the machines run, until dropped.
pub(super) async fn run(
    client: Client,
    store: Arc<Store>,
    has_controllers: bool,
    programs: Option<Arc<PodPrograms>>,
) {
    let mut known = 0;
    loop {
        let (changes, revision) = store.changes_after(known);
        for change in &changes {
            push(&client, &store, change).await;
        }
        known = revision;
        let mut lists = Vec::new();
        for id in KINDS {
            match client.list(&store, id).await {
                Ok(items) => lists.push((id, items)),
                Err(error) => eprintln!("lab: {id}: {error}"),
            }
        }
        // What has changed here in the meantime is written first.
        if lists.len() == KINDS.len() && store.load(lists, known) {
            if let Some(programs) = &programs {
                programs.follow(&store);
            }
            workloads::step(&store, has_controllers, programs.as_deref()).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
