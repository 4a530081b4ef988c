//! Templates, and the manifests rendered from them. Owns no values.

use super::input::ServingError;
use crate::state::{Object, Ready, Resource, Spec, Stage};
use crate::template;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A template of manifests.
pub(super) struct Template {
    name: &'static str,
    source: &'static str,
}

macro_rules! template {
    ($path:literal) => {
        Template { name: $path, source: include_str!(concat!("../../templates/manifests/", $path)) }
    };
}

/// NVIDIA's device plugin and the runtime class that its pods need.
pub(super) const NVIDIA: Template = template!("nvidia/device-plugin.yaml.j2");
/// Metrics of NVIDIA GPUs.
pub(super) const DCGM: Template = template!("nvidia/dcgm-exporter.yaml.j2");
/// Metrics of Neuron devices.
pub(super) const NEURON_MONITOR: Template = template!("neuron/monitor.yaml.j2");
/// The Neuron device plugin.
pub(super) const NEURON: Template = template!("neuron/device-plugin.yaml.j2");
/// The proxy in front of the router.
pub(super) const EDGE: Template = template!("edge/edge.yaml.j2");
/// Its configuration of all tenants, by the names of the files.
pub(super) const EDGE_FILES: [(&str, Template); 2] = [
    ("clusters.yaml", template!("edge/clusters.yaml.j2")),
    ("listeners.yaml", template!("edge/listeners.yaml.j2")),
];
/// Its configuration of each tenant, by what the names of the files begin with: what changes while it runs.
pub(super) const EDGE_TENANT_FILES: [(&str, Template); 4] = [
    ("routes", template!("edge/routes.yaml.j2")),
    ("keys", template!("edge/keys.yaml.j2")),
    ("revoked", template!("edge/revoked.yaml.j2")),
    ("tls", template!("edge/tls.yaml.j2")),
];
/// What it reads when it starts.
pub(super) const EDGE_START: [(&str, &str); 3] = [
    ("bootstrap.yaml", include_str!("../../templates/manifests/edge/bootstrap.yaml")),
    ("openai.lua", include_str!("../../templates/manifests/edge/openai.lua")),
    ("retry-after.lua", include_str!("../../templates/manifests/edge/retry-after.lua")),
];
/// An engine.
pub(super) const ENGINE: Template = template!("engines/engine.yaml.j2");

/// What a Kthena release is installed from.
pub(super) struct Kthena {
    /// The router.
    pub router: Template,
    /// Gateways, model servers and routes.
    pub routes: Template,
    /// The router's own configuration: which of a model's pods a request goes to.
    pub scheduler: Template,
}

/// Returns the templates of a Kthena release, if there are any for it.
pub(super) fn kthena(version: &str) -> Option<Kthena> {
    match version {
        "v1.0.0" => Some(Kthena {
            router: template!("kthena-v1.0.0/router.yaml.j2"),
            routes: template!("kthena-v1.0.0/routes.yaml.j2"),
            scheduler: template!("kthena-v1.0.0/scheduler.yaml.j2"),
        }),
        _ => None,
    }
}

impl Template {
    /// Renders the template.
    pub(super) fn text(&self, context: &Value) -> Result<String, ServingError> {
        Ok(template::render(self.name, self.source, context)?)
    }

    /// Renders the template and reads the documents that it makes.
    pub(super) fn documents(&self, context: &Value) -> Result<Vec<Value>, ServingError> {
        let text = self.text(context)?;
        let yaml = |e: serde_saphyr::Error| ServingError::Yaml { name: self.name, why: e.to_string() };
        let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(&text).map_err(yaml)?;
        Ok(documents.into_iter().flatten().filter(Value::is_object).collect())
    }
}

/// Returns a short digest of what a pod reads only when it starts.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(6).map(|b| format!("{b:02x}")).collect()
}

/// Returns the stage of a component's object: what runs comes after what it runs with.
fn stage_of(manifest: &Value, stage: Stage) -> Stage {
    let runs = matches!(manifest["kind"].as_str(), Some("Deployment" | "DaemonSet"));
    if stage == Stage::Component && !runs { Stage::Base } else { stage }
}

/// Returns a manifest as a resource.
pub(super) fn resource(role: &str, stage: Stage, manifest: Value, deadline_s: u64) -> Resource {
    let stage = stage_of(&manifest, stage);
    let ready = match (stage, manifest["kind"].as_str()) {
        (Stage::Crd, _) => Ready::Established,
        (_, Some("Deployment")) => Ready::Available,
        // A DaemonSet's pods are the nodes' business: one bad host must not hold up the cluster. Each node waits for
        // its own devices.
        _ => Ready::Accepted,
    };
    let mut resource = Resource::new(role, Spec::Object(Box::new(Object { stage, manifest, ready })));
    resource.deadline_s = deadline_s;
    resource
}

/// Returns a definition as it is applied: without what only the API writes, which some releases ship.
pub(super) fn definition(mut crd: Value) -> Value {
    if let Some(map) = crd.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = crd["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    crd
}
