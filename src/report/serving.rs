//! What is served and what is not: the router, the models, device plugins and metrics, with reasons and affected tenants.

use super::words::{count, names};
use crate::reconciler::{Cause, CauseKind};
use crate::serving::Part;
use crate::state::ObjectId;
use serde::Serialize;

/// A workload of the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct WorkloadView {
    /// What it is for.
    pub part: Part,
    /// `Deployment` or `DaemonSet`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name; a model's is the model's.
    pub name: String,
    /// It is in the cluster.
    pub exists: bool,
    /// Pods that the inventory wants; of a DaemonSet, as many as there are ready nodes for it.
    pub wanted: u64,
    /// Pods that are ready.
    pub ready: u64,
    /// Why the others are not, most frequent first.
    pub causes: Vec<Cause>,
    /// The affected tenants, if it is the router or a model, with the served names of a model: `search (chat)`.
    pub tenants: Vec<String>,
}

impl WorkloadView {
    /// Returns the view of a workload that is not there.
    pub fn missing(part: Part, id: &ObjectId, wanted: u64) -> Self {
        Self {
            part,
            kind: id.kind.clone(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            exists: false,
            wanted,
            ready: 0,
            causes: Vec::new(),
            tenants: Vec::new(),
        }
    }

    /// Returns whether something is wrong with it, or not ready yet.
    pub fn is_troubled(&self) -> bool {
        !self.exists || self.ready < self.wanted || self.is_scaled()
    }

    fn is_scaled(&self) -> bool {
        self.causes.iter().any(|cause| cause.kind == CauseKind::Scaled)
    }
}

/// Returns the workloads that are in trouble, as text: those that most depends on first.
pub(super) fn troubled(workloads: &[WorkloadView], place: &str) -> String {
    let mut text = String::new();
    for workload in workloads.iter().filter(|w| w.is_troubled()) {
        let part = match workload.part {
            Part::Edge => "proxy",
            Part::Router => "router",
            Part::Model => "model",
            Part::DevicePlugin => "device plugin",
            Part::Metrics => "metrics",
        };
        let state = match workload.exists {
            true => format!("{}/{} ready", workload.ready, workload.wanted),
            false => format!("missing: no {} {}/{}", workload.kind, workload.namespace, workload.name),
        };
        text += &format!("{part} {}: {state}", workload.name);
        if !workload.tenants.is_empty() {
            text += &format!("; affects {}", workload.tenants.join(", "));
        }
        text += "\n";
        for cause in &workload.causes {
            let pods: Vec<&str> = cause.pods.iter().map(String::as_str).collect();
            let who = match (pods.as_slice(), &cause.node) {
                ([], _) => String::new(),
                ([one], Some(node)) => format!("{one} on {node}: "),
                ([one], None) => format!("{one}: "),
                (many, _) => format!("{}, such as {}: ", count(many.len(), "pod"), names(&many[..1])),
            };
            text += &format!("  {who}{}\n", cause.detail);
            for line in &cause.lines {
                text += &format!("    | {line}\n");
            }
        }
    }
    if workloads.iter().any(|w| !w.exists || w.is_scaled()) {
        text +=
            &format!("  = next: Run `provision apply {place}`, which restores what the inventory wants\n");
    }
    text
}
