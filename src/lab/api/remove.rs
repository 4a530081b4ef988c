//! Deleting objects: preconditions, grace, finalizers, evictions against budgets.

use super::{
    errors::ApiError,
    kinds::Kind,
    objects::{condition, is_ending, labels_of, now, text},
    reference::ObjectRef,
    selector::label_selector,
    store::{Inner, Store},
};
use kube::core::SelectorExt;
use serde_json::{Value, json};
use std::sync::Arc;

/// Grace of a pod whose spec says nothing.
const DEFAULT_GRACE_S: i64 = 30;

/// How a deletion is asked for.
#[derive(Clone, Default, Debug)]
pub struct DeleteOptions {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `gracePeriodSeconds`.
    pub grace_s: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
}

/// What a deletion leaves.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// It is gone; its last state.
    Gone(Arc<Value>),
    /// It waits for finalizers, a kubelet or its namespace's content.
    Ending(Arc<Value>),
}

impl Store {
    /// Deletes an object.
    pub fn remove(&self, at: &ObjectRef, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        self.change(|inner| remove(inner, at, options))
    }

    /// Deletes an object at once, whatever it waits for; for what the cluster itself ends.
    pub fn erase(&self, kind: &str, namespace: &str, name: &str) {
        self.change(|inner| {
            if let Some(kind) = inner.kinds.get(kind).cloned() {
                inner.take(&kind, namespace, name);
            }
        });
    }

    /// Evicts a pod unless a budget forbids it.
    pub fn evict(&self, at: &ObjectRef, options: &DeleteOptions) -> Result<(), ApiError> {
        self.change(|inner| {
            let pod = inner.get("pods", &at.namespace, &at.name);
            let pod = pod.ok_or_else(|| ApiError::not_found(&at.kind, &at.name))?;
            let phase = text(&pod, "/status/phase");
            let free = matches!(phase.as_str(), "Succeeded" | "Failed" | "Pending") || is_ending(&pod);
            if !free {
                spend_budget(inner, &pod, options.dry_run)?;
            }
            remove(inner, at, options).map(|_| ())
        })
    }
}

fn remove(inner: &mut Inner, at: &ObjectRef, options: &DeleteOptions) -> Result<Deleted, ApiError> {
    let kind = &at.kind;
    let live = inner.get(&kind.id, &at.namespace, &at.name);
    let live = live.ok_or_else(|| ApiError::not_found(kind, &at.name))?;
    check_preconditions(kind, &at.name, &live, options)?;
    let grace = grace(kind, &live, options);
    let finalizers = live.pointer("/metadata/finalizers").and_then(Value::as_array);
    let held = kind.id == "namespaces" || finalizers.is_some_and(|all| !all.is_empty()) || grace > 0;
    if options.dry_run {
        return Ok(if held { Deleted::Ending(live) } else { Deleted::Gone(live) });
    }
    if !held {
        let gone = inner.take(kind, &at.namespace, &at.name);
        return Ok(Deleted::Gone(gone.unwrap_or(live)));
    }
    let mut object = Value::clone(&live);
    let before = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if is_ending(&object) && before <= grace {
        return Ok(Deleted::Ending(live));
    }
    object["metadata"]["deletionTimestamp"] = json!(now());
    if kind.id == "namespaces" {
        object["status"]["phase"] = json!("Terminating");
    } else {
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
    if let Some(generation) = object.pointer("/metadata/generation").and_then(Value::as_i64) {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(Deleted::Ending(inner.put(kind, object)))
}

/// Only a pod that a kubelet holds ends gracefully.
fn grace(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    let phase = text(object, "/status/phase");
    let bound = kind.id == "pods" && !text(object, "/spec/nodeName").is_empty();
    if !bound || matches!(phase.as_str(), "Succeeded" | "Failed") {
        return 0;
    }
    let of_spec = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_s.or(of_spec).unwrap_or(DEFAULT_GRACE_S)
}

fn check_preconditions(
    kind: &Kind,
    name: &str,
    live: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    for (what, wanted, pointer) in [
        ("UID", &options.uid, "/metadata/uid"),
        ("ResourceVersion", &options.resource_version, "/metadata/resourceVersion"),
    ] {
        let real = text(live, pointer);
        if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != real) {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({real})"
            );
            return Err(ApiError::stale(kind, name, &why));
        }
    }
    Ok(())
}

/// Takes one disruption from a pod's budget. The pod ends in the same change, so the next count sees it ending; a real
/// API server, whose controller counts from a cache, also notes the pod in `disruptedPods`.
fn spend_budget(inner: &mut Inner, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let mut budgets = inner.list("poddisruptionbudgets.policy", Some(&text(pod, "/metadata/namespace")));
    budgets
        .retain(|b| label_selector(b.pointer("/spec/selector")).is_some_and(|s| s.matches(&labels_of(pod))));
    let [budget] = budgets.as_slice() else {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return if budgets.is_empty() { Ok(()) } else { Err(ApiError::internal(why)) };
    };
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (healthy, wanted) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    if !condition(pod, "Ready") && healthy >= wanted && wanted > 0 {
        return Ok(());
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed < 1 || number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(ApiError::disruption_budget(&text(budget, "/metadata/name"), wanted, healthy));
    }
    if let Some(kind) = inner.kinds.get("poddisruptionbudgets.policy").cloned().filter(|_| !dry_run) {
        let mut spent = Value::clone(budget);
        spent["status"]["disruptionsAllowed"] = json!(allowed - 1);
        inner.put(&kind, spent);
    }
    Ok(())
}
