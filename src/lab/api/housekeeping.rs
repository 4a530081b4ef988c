//! What happens to objects by itself: definitions are established, namespaces empty themselves, owners take their
//! dependents along.

use super::{
    kinds::Kind,
    remove::{Removal, Removed},
    store::{Store, condition, now, text},
    write::{Options, Place},
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
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

/// Gives namespaces their default service account; empties and ends those that are being deleted.
fn namespaces(store: &Store) {
    for namespace in store.list("namespaces") {
        let name = text(&namespace, "/metadata/name");
        if namespace.pointer("/metadata/deletionTimestamp").is_none() {
            if store.get("serviceaccounts", &name, "default").is_none() {
                let account = json!({"metadata": {"name": "default", "namespace": name}});
                let _ = store.ensure("serviceaccounts", account, "kube-controller-manager");
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
