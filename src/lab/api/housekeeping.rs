//! What happens to objects by itself: definitions are established, budgets counted, namespaces emptied, and what has lost
//! its owners is deleted.

use super::{
    kinds::Kind,
    objects::{condition, is_ending, labels_of, now, place, text},
    reference::ObjectRef,
    remove::{DeleteOptions, Deleted},
    selector::label_selector,
    store::Store,
    write::Options,
};
use kube::core::SelectorExt;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc, time::Duration};

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
        count_budgets(&store);
        namespaces(&store);
        collect(&store);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Marks new definitions as established, which serves them.
fn establish(store: &Store) {
    for definition in store.list(DEFINITIONS).iter().filter(|d| !condition(d, "Established")) {
        let name = text(definition, "/metadata/name");
        let _ = store.edit(DEFINITIONS, "", &name, &Options::status_by("kube-apiserver"), |object| {
            let versions = object.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
            let stored: Vec<_> =
                versions.filter(|v| v["storage"] == true).map(|v| v["name"].clone()).collect();
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

/// Counts what disruption budgets allow, as the disruption controller does (pkg/controller/disruption).
fn count_budgets(store: &Store) {
    for budget in store.list(BUDGETS) {
        let (namespace, name) = place(&budget);
        let selector = label_selector(budget.pointer("/spec/selector"));
        let mut pods = store.list_in("pods", &namespace);
        pods.retain(|pod| {
            let ended = matches!(text(pod, "/status/phase").as_str(), "Succeeded" | "Failed");
            !ended && selector.as_ref().is_some_and(|s| s.matches(&labels_of(pod)))
        });
        let healthy = pods.iter().filter(|p| condition(p, "Ready") && !is_ending(p));
        let (healthy, expected) = (healthy.count() as u64, pods.len() as u64);
        let desired = match (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]) {
            (Value::Null, most) => expected.saturating_sub(amount(most, expected)),
            (least, _) => amount(least, expected),
        };
        let allowed = if expected == 0 { 0 } else { healthy.saturating_sub(desired) };
        let status = json!({"observedGeneration": budget["metadata"]["generation"], "disruptionsAllowed": allowed,
            "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected});
        let by = Options::status_by("kube-controller-manager");
        let _ = store.edit(BUDGETS, &namespace, &name, &by, |object| {
            // An eviction since the count has spent from it: what it changed is counted next.
            if object["status"] == budget["status"] {
                object["status"] = status.clone();
            }
        });
    }
}

/// Reads a count or a percentage, which rounds up.
fn amount(value: &Value, of: u64) -> u64 {
    match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok()) {
        Some(percent) => (of * percent).div_ceil(100),
        None => value.as_u64().unwrap_or(0),
    }
}

/// Gives namespaces their default service account and the cluster's authority; empties and removes those that are being
/// deleted.
fn namespaces(store: &Store) {
    for namespace in store.list("namespaces") {
        let name = text(&namespace, "/metadata/name");
        if is_ending(&namespace) {
            let kinds = store.kinds();
            let inside = kinds.iter().filter(|k| k.namespaced);
            let inside =
                inside.flat_map(|kind| store.list_in(&kind.id, &name).into_iter().map(move |o| (kind, o)));
            if inside.filter(|(kind, object)| !delete(store, kind, object)).count() == 0 {
                store.erase("namespaces", "", &name);
            }
            continue;
        }
        let account = json!({"metadata": {"name": "default", "namespace": name}});
        let published = json!({"metadata": {"name": ROOT_CA, "namespace": name},
            "data": {"ca.crt": "LAB: no pod here reads it\n"}});
        for (kind, body) in [("serviceaccounts", account), ("configmaps", published)] {
            if store.get(kind, &name, &text(&body, "/metadata/name")).is_none() {
                let _ = store.ensure(kind, body, "kube-controller-manager");
            }
        }
    }
}

/// Deletes an object; true when it is gone.
fn delete(store: &Store, kind: &Arc<Kind>, object: &Value) -> bool {
    let (namespace, name) = place(object);
    let Some(at) = ObjectRef::of(kind.clone(), &namespace, &name) else { return true };
    !matches!(store.remove(&at, &DeleteOptions::default()), Ok(Deleted::Ending(_)))
}

/// Deletes what has lost its owners.
fn collect(store: &Store) {
    let kinds = store.kinds();
    let all: Vec<_> =
        kinds.iter().flat_map(|kind| store.list(&kind.id).into_iter().map(move |o| (kind, o))).collect();
    let alive: HashSet<_> = all.iter().map(|(_, object)| text(object, "/metadata/uid")).collect();
    for (kind, object) in &all {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let lost =
            owners.is_some_and(|o| !o.is_empty() && o.iter().all(|o| !alive.contains(&text(o, "/uid"))));
        if lost && !is_ending(object) {
            delete(store, kind, object);
        }
    }
}
