//! Deleting objects: preconditions, grace, finalizers, evictions against budgets.

use super::{
    kinds::Kind,
    refusal::Refusal,
    selector::LabelSelector,
    store::{Inner, Store, condition, now, text},
    write::Place,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Grace of a pod whose spec says nothing.
const DEFAULT_GRACE_S: i64 = 30;

/// How a deletion is asked for.
#[derive(Clone, Default, Debug)]
pub struct Removal {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `gracePeriodSeconds`.
    pub grace_s: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
}

/// What a deletion leaves.
#[derive(Clone, Debug)]
pub enum Removed {
    /// It is gone; its last state.
    Gone(Arc<Value>),
    /// It waits for finalizers, a kubelet or its namespace's content.
    Ending(Arc<Value>),
}

impl Store {
    /// Deletes an object.
    pub fn remove(&self, place: &Place, removal: &Removal) -> Result<Removed, Refusal> {
        let mut inner = self.lock();
        let removed = remove(&mut inner, place, removal)?;
        let revision = inner.revision;
        drop(inner);
        self.announce(revision);
        if place.kind.id == "pods" && matches!(removed, Removed::Gone(_)) && !removal.dry_run {
            self.forget_logs(&place.namespace, &place.name);
        }
        Ok(removed)
    }

    /// Deletes an object at once, whatever it waits for; for what the machinery itself ends.
    pub fn erase(&self, kind: &str, namespace: &str, name: &str) {
        let mut inner = self.lock();
        let Some(kind) = inner.kinds.by_id(kind) else { return };
        inner.take(&kind, namespace, name);
        let revision = inner.revision;
        drop(inner);
        self.announce(revision);
        if kind.id == "pods" {
            self.forget_logs(namespace, name);
        }
    }

    /// Evicts a pod unless a budget forbids it.
    pub fn evict(&self, place: &Place, removal: &Removal) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let pod = inner
            .get("pods", &place.namespace, &place.name)
            .ok_or_else(|| Refusal::not_found(&place.kind, &place.name))?;
        let phase = text(&pod, "/status/phase");
        let free = matches!(phase.as_str(), "Succeeded" | "Failed" | "Pending")
            || pod.pointer("/metadata/deletionTimestamp").is_some();
        if !free {
            spend_budget(&mut inner, &pod, removal.dry_run)?;
        }
        remove(&mut inner, place, removal)?;
        let revision = inner.revision;
        drop(inner);
        self.announce(revision);
        Ok(())
    }
}

fn remove(inner: &mut Inner, place: &Place, removal: &Removal) -> Result<Removed, Refusal> {
    let kind = &place.kind;
    let live = inner
        .get(&kind.id, &place.namespace, &place.name)
        .ok_or_else(|| Refusal::not_found(kind, &place.name))?;
    check_preconditions(kind, &place.name, &live, removal)?;
    let mut object = Value::clone(&live);
    let mut finalizers: Vec<String> = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let wanted = match removal.propagation.as_deref() {
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        _ => None,
    };
    if let Some(wanted) = wanted
        && object.pointer("/metadata/deletionTimestamp").is_none()
        && !finalizers.iter().any(|f| f == wanted)
    {
        finalizers.push(wanted.to_owned());
        object["metadata"]["finalizers"] = json!(finalizers);
    }
    let grace = grace(kind, &object, removal);
    let held = kind.id == "namespaces" || !finalizers.is_empty() || grace > 0;
    if removal.dry_run {
        return Ok(if held { Removed::Ending(live) } else { Removed::Gone(live) });
    }
    if !held {
        let gone = inner.take(kind, &place.namespace, &place.name);
        return Ok(Removed::Gone(gone.unwrap_or(live)));
    }
    let ending = object.pointer("/metadata/deletionTimestamp").is_some();
    let shorter =
        object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) > grace;
    if ending && !shorter {
        return Ok(Removed::Ending(live));
    }
    object["metadata"]["deletionTimestamp"] = json!(now());
    object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    if kind.id == "namespaces" {
        object["status"]["phase"] = json!("Terminating");
        if let Value::Object(metadata) = &mut object["metadata"] {
            metadata.shift_remove("deletionGracePeriodSeconds");
        }
    }
    if let Some(generation) = object.pointer("/metadata/generation").and_then(Value::as_i64) {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(Removed::Ending(inner.put(kind, object)))
}

/// Only a pod that a kubelet holds ends gracefully.
fn grace(kind: &Kind, object: &Value, removal: &Removal) -> i64 {
    let phase = text(object, "/status/phase");
    if kind.id != "pods"
        || text(object, "/spec/nodeName").is_empty()
        || matches!(phase.as_str(), "Succeeded" | "Failed")
    {
        return 0;
    }
    let of_spec = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    removal.grace_s.unwrap_or_else(|| of_spec.unwrap_or(DEFAULT_GRACE_S))
}

fn check_preconditions(kind: &Kind, name: &str, live: &Value, removal: &Removal) -> Result<(), Refusal> {
    for (what, wanted, pointer) in [
        ("UID", &removal.uid, "/metadata/uid"),
        ("ResourceVersion", &removal.resource_version, "/metadata/resourceVersion"),
    ] {
        let real = text(live, pointer);
        if let Some(wanted) = wanted
            && *wanted != real
        {
            let then = if what == "UID" { "deleted and then recreated" } else { "modified" };
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({real}). \
                 The object might have been {then}"
            );
            return Err(Refusal::stale(kind, name, &why));
        }
    }
    Ok(())
}

fn spend_budget(inner: &mut Inner, pod: &Value, dry_run: bool) -> Result<(), Refusal> {
    let namespace = text(pod, "/metadata/namespace");
    let budgets: Vec<_> = inner
        .list("poddisruptionbudgets.policy", Some(&namespace))
        .into_iter()
        .filter(|b| LabelSelector::of(b.pointer("/spec/selector")).is_some_and(|s| s.matches(pod)))
        .collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Refusal::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (healthy, wanted) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    let ready = condition(pod, "Ready");
    if !ready && healthy >= wanted && wanted > 0 {
        return Ok(());
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed < 1 || number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(Refusal::disruption_budget(&text(budget, "/metadata/name"), wanted, healthy));
    }
    if !dry_run && let Some(kind) = inner.kinds.by_id("poddisruptionbudgets.policy") {
        let mut spent = Value::clone(budget);
        spent["status"]["disruptionsAllowed"] = json!(allowed - 1);
        spent["status"]["disruptedPods"][text(pod, "/metadata/name")] = json!(now());
        inner.put(&kind, spent);
    }
    Ok(())
}
