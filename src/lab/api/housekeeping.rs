//! What happens to objects by itself: definitions are established, budgets counted, tokens that are over deleted;
//! namespaces empty themselves, owners take their dependents along.

use super::{
    identity,
    kinds::Kind,
    remove::{Removal, Removed},
    selector::LabelSelector,
    store::{Store, condition, now, text},
    write::{Options, Place},
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

const BUDGETS: &str = "poddisruptionbudgets.policy";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// What the root CA publisher puts into every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";
/// From a definition's creation to its being served: short, but long enough that not waiting fails.
const ESTABLISHING: Duration = Duration::from_millis(20);

/// Does it until dropped. Wakes on changes only.
pub async fn run(store: Arc<Store>) {
    let mut changes = store.changes();
    loop {
        changes.borrow_and_update();
        if store.list(DEFINITIONS).iter().any(|d| !condition(d, "Established")) {
            tokio::time::sleep(ESTABLISHING).await;
            establish(&store);
        }
        note_storage(&store);
        count_budgets(&store);
        clean_tokens(&store);
        namespaces(&store);
        collect(&store);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Marks new definitions as established, which serves them.
fn establish(store: &Store) {
    for definition in store.list(DEFINITIONS) {
        if condition(&definition, "Established") {
            continue;
        }
        let name = text(&definition, "/metadata/name");
        let _ = store.edit(DEFINITIONS, "", &name, &Options::status_by("kube-apiserver"), |object| {
            let stored: Vec<_> = object
                .pointer("/spec/versions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|v| v["storage"] == true)
                .map(|v| v["name"].clone())
                .collect();
            let condition = |kind: &str, reason: &str, message: &str| {
                json!({"type": kind, "status": "True", "reason": reason, "message": message,
                    "lastTransitionTime": now()})
            };
            object["status"] = json!({
                "acceptedNames": object.pointer("/spec/names"), "storedVersions": stored,
                "conditions": [
                    condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                    condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
                ],
            });
        });
    }
}

/// Adds a definition's storage version to those that objects may be stored in.
fn note_storage(store: &Store) {
    for definition in store.list(DEFINITIONS) {
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
        let storage =
            versions.into_iter().flatten().find(|v| v["storage"] == true).map(|v| v["name"].clone());
        let stored = definition.pointer("/status/storedVersions").and_then(Value::as_array);
        let (Some(storage), Some(stored)) = (storage, stored) else { continue };
        if !stored.contains(&storage) {
            let name = text(&definition, "/metadata/name");
            let _ = store.edit(DEFINITIONS, "", &name, &Options::status_by("kube-apiserver"), |object| {
                if let Some(Value::Array(stored)) = object.pointer_mut("/status/storedVersions") {
                    stored.push(storage.clone());
                }
            });
        }
    }
}

/// Counts what disruption budgets allow, as the disruption controller does (pkg/controller/disruption).
fn count_budgets(store: &Store) {
    for budget in store.list(BUDGETS) {
        let (namespace, name) = (text(&budget, "/metadata/namespace"), text(&budget, "/metadata/name"));
        let selector = LabelSelector::of(budget.pointer("/spec/selector"));
        let mut pods = store.list_in("pods", &namespace);
        pods.retain(|pod| {
            let ended = matches!(text(pod, "/status/phase").as_str(), "Succeeded" | "Failed");
            !ended && selector.as_ref().is_some_and(|s| s.matches(pod))
        });
        let going = |pod: &Value| pod.pointer("/metadata/deletionTimestamp").is_some();
        // Evicted and not seen to end yet.
        let mut disrupted = budget.pointer("/status/disruptedPods").cloned().unwrap_or_else(|| json!({}));
        if let Value::Object(map) = &mut disrupted {
            map.retain(|name, _| pods.iter().any(|p| p["metadata"]["name"] == *name && !going(p)));
        }
        let healthy = pods.iter().filter(|p| {
            condition(p, "Ready") && !going(p) && disrupted.get(text(p, "/metadata/name")).is_none()
        });
        let (healthy, expected) = (healthy.count() as u64, pods.len() as u64);
        let desired = match (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]) {
            (Value::Null, most) => expected.saturating_sub(amount(most, expected)),
            (least, _) => amount(least, expected),
        };
        let allowed = if expected == 0 { 0 } else { healthy.saturating_sub(desired) };
        let mut status = json!({"observedGeneration": budget["metadata"]["generation"], "disruptionsAllowed": allowed,
            "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected});
        if disrupted.as_object().is_some_and(|map| !map.is_empty()) {
            status["disruptedPods"] = disrupted;
        }
        if budget["status"] != status {
            let _ = store.edit(
                BUDGETS,
                &namespace,
                &name,
                &Options::status_by("kube-controller-manager"),
                |object| {
                    object["status"] = status.clone();
                },
            );
        }
    }
}

/// Reads a count or a percentage, which rounds up.
fn amount(value: &Value, of: u64) -> u64 {
    match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok()) {
        Some(percent) => (of * percent).div_ceil(100),
        None => value.as_u64().unwrap_or(0),
    }
}

/// Deletes bootstrap tokens that are over (the token cleaner, which k0s switches on).
fn clean_tokens(store: &Store) {
    for secret in store.list_in("secrets", "kube-system") {
        if secret["type"] == "bootstrap.kubernetes.io/token" && identity::is_over(&secret) {
            store.erase("secrets", "kube-system", &text(&secret, "/metadata/name"));
        }
    }
}

/// Gives namespaces their default service account and the cluster's authority; empties and ends those that are being deleted.
fn namespaces(store: &Store) {
    for namespace in store.list("namespaces") {
        let name = text(&namespace, "/metadata/name");
        if namespace.pointer("/metadata/deletionTimestamp").is_none() {
            if store.get("serviceaccounts", &name, "default").is_none() {
                let account = json!({"metadata": {"name": "default", "namespace": name}});
                let _ = store.ensure("serviceaccounts", account, "kube-controller-manager");
            }
            if store.get("configmaps", &name, ROOT_CA).is_none() {
                let published = json!({"metadata": {"name": ROOT_CA, "namespace": name},
                    "data": {"ca.crt": "LAB: no pod here reads it\n"}});
                let _ = store.ensure("configmaps", published, "kube-controller-manager");
            }
            continue;
        }
        let mut left = 0;
        for kind in store.kinds().iter().filter(|k| k.namespaced) {
            for object in store.list_in(&kind.id, &name) {
                left += usize::from(!delete(store, kind, &object));
            }
        }
        if left == 0 {
            store.erase("namespaces", "", &name);
        }
    }
}

/// Deletes an object; true when it is gone.
fn delete(store: &Store, kind: &Arc<Kind>, object: &Value) -> bool {
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let Some(place) = Place::of(kind.clone(), &namespace, &name) else { return true };
    !matches!(store.remove(&place, &Removal::default()), Ok(Removed::Ending(_)))
}

/// Deletes what has lost its owners and ends foreground and orphaning deletions.
fn collect(store: &Store) {
    let kinds = store.kinds();
    let mut alive: HashSet<String> = HashSet::new();
    let mut owned: Vec<(Arc<Kind>, Arc<Value>, Vec<(String, bool)>)> = Vec::new();
    let mut ending: Vec<(Arc<Kind>, Arc<Value>)> = Vec::new();
    for kind in &kinds {
        for object in store.list(&kind.id) {
            alive.insert(text(&object, "/metadata/uid"));
            let owners: Vec<_> = object
                .pointer("/metadata/ownerReferences")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|o| (text(o, "/uid"), o["blockOwnerDeletion"] == true))
                .collect();
            let waits = object
                .pointer("/metadata/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|all| all.iter().any(|f| f == "foregroundDeletion" || f == "orphan"));
            if waits && object.pointer("/metadata/deletionTimestamp").is_some() {
                ending.push((kind.clone(), object.clone()));
            }
            if !owners.is_empty() {
                owned.push((kind.clone(), object, owners));
            }
        }
    }
    let mut blocked: HashMap<String, bool> = HashMap::new();
    let foreground: HashSet<String> = ending
        .iter()
        .filter(|(_, o)| has_finalizer(o, "foregroundDeletion"))
        .map(|(_, o)| text(o, "/metadata/uid"))
        .collect();
    let orphaning: HashSet<String> = ending
        .iter()
        .filter(|(_, o)| has_finalizer(o, "orphan"))
        .map(|(_, o)| text(o, "/metadata/uid"))
        .collect();
    for (kind, object, owners) in &owned {
        if owners.iter().any(|(uid, _)| orphaning.contains(uid)) {
            let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
            let orphans = orphaning.clone();
            let _ = store.edit(&kind.id, &namespace, &name, &Options::by("kube-controller-manager"), |o| {
                if let Some(Value::Array(refs)) = o.pointer_mut("/metadata/ownerReferences") {
                    refs.retain(|r| !orphans.contains(&text(r, "/uid")));
                    if refs.is_empty()
                        && let Some(Value::Object(metadata)) = o.get_mut("metadata")
                    {
                        metadata.shift_remove("ownerReferences");
                    }
                }
            });
            continue;
        }
        let lost = owners.iter().all(|(uid, _)| !alive.contains(uid) || foreground.contains(uid));
        let gone =
            lost && object.pointer("/metadata/deletionTimestamp").is_none() && delete(store, kind, object);
        if !gone {
            for (uid, _) in owners.iter().filter(|(uid, _)| foreground.contains(uid)) {
                blocked.insert(uid.clone(), true);
            }
        }
    }
    for (kind, object) in ending {
        let uid = text(&object, "/metadata/uid");
        if blocked.contains_key(&uid) {
            continue;
        }
        let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        let _ = store.edit(&kind.id, &namespace, &name, &Options::by("kube-controller-manager"), |o| {
            if let Some(Value::Array(finalizers)) = o.pointer_mut("/metadata/finalizers") {
                finalizers.retain(|f| f != "foregroundDeletion" && f != "orphan");
            }
        });
    }
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.is_some_and(|all| all.iter().any(|f| f == name))
}
