//! The desired objects of serving: CRDs, device plugins, router, engines, gateways and routes.

use super::input::{ServingError, ServingInput};
use super::manifests::{self, DCGM, ENGINE, NEURON, NEURON_MONITOR, NVIDIA, Template, definition, resource};
use super::{edge, engine, router, routes};
use crate::catalog::Catalog;
use crate::catalog::{ACCELERATOR_LABEL, POOL_LABEL, STARTING_TAINT_KEY};
use crate::inventory::{Accelerator, Inventory, MODELS_NAMESPACE};
use crate::state::{Chat, ObjectId, Ready, Resource, Spec, Stage};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How long the router may take to be ready, in seconds. Its image is small; but the first node that it can run on may
/// be one that still builds a driver and reboots.
const ROUTER_DEADLINE_S: u64 = 3600;
/// How long anything else may take to be accepted, in seconds: the API may be starting, or changing hands.
const ACCEPT_DEADLINE_S: u64 = 120;

/// API groups whose definitions are of use here. Releases bundle more (Kthena's ModelServing alone is 1.4 MB).
const GROUPS: [&str; 3] =
    ["gateway.networking.k8s.io", "inference.networking.k8s.io", "networking.serving.volcano.sh"];

/// What only measures: accepted is enough, no model waits for it.
const METRICS: [&str; 2] = ["dcgm-exporter", "neuron-monitor"];

/// Pools with an accelerator of one vendor: whether there are any, and what their taints ask of a device plugin.
fn tolerations(inventory: &Inventory, vendor: impl Fn(&Accelerator) -> bool) -> Option<Vec<Value>> {
    let mut pools =
        inventory.pools.values().filter(|p| p.accelerator.as_ref().is_some_and(&vendor)).peekable();
    pools.peek()?;
    let taints: BTreeSet<&str> = pools.flat_map(|p| &p.taints).map(String::as_str).collect();
    let starting = json!({"key": STARTING_TAINT_KEY, "operator": "Exists", "effect": "NoSchedule"});
    Some(std::iter::once(starting).chain(taints.into_iter().map(engine::toleration)).collect())
}

/// Returns the objects, in the order in which they are applied.
pub fn desired(input: &ServingInput<'_>) -> Result<Vec<Resource>, ServingError> {
    let inventory = input.inventory;
    let missing = |what: String| ServingError::Catalog { what };
    let mut all = Vec::new();
    let mut add = |role: &str, stage: Stage, template: &Template, context: &Value, deadline_s: u64| {
        for manifest in template.documents(context)? {
            all.push(resource(role, stage, manifest, deadline_s));
        }
        Ok::<_, ServingError>(())
    };
    let nvidia = tolerations(inventory, |a| matches!(a, Accelerator::Nvidia { .. }));
    let neuron = tolerations(inventory, |a| matches!(a, Accelerator::Neuron { .. }));
    // `mixed` reports whole GPUs as before, and instances by their profile.
    let mig = inventory.pools.values().any(|p| p.accelerator.as_ref().is_some_and(|a| a.mig().is_some()));
    let components = [
        ("nvidia", "nvidia-device-plugin", &NVIDIA, &nvidia),
        ("nvidia", METRICS[0], &DCGM, &nvidia),
        ("neuron", "neuron-device-plugin", &NEURON, &neuron),
        ("neuron", METRICS[1], &NEURON_MONITOR, &neuron),
    ];
    for (vendor, name, template, tolerations) in components {
        let Some(tolerations) = tolerations else { continue };
        let component = input.catalog.component(name).ok_or_else(|| missing(format!("component {name}")))?;
        let context = json!({"image": component.image, "tolerations": tolerations, "mig": mig,
            "accelerator_label": ACCELERATOR_LABEL});
        add(vendor, Stage::Component, template, &context, ACCEPT_DEADLINE_S)?;
    }
    if let Some(router) = &inventory.router {
        let version = &router.version;
        let release =
            input.catalog.kthena(version).ok_or_else(|| missing(format!("Kthena release {version}")))?;
        let templates =
            manifests::kthena(version).ok_or_else(|| missing(format!("manifests for Kthena {version}")))?;
        let models: Vec<Value> = inventory.models.values().map(|m| engine::context(input, m)).collect();
        let scheduler = templates.scheduler.text(&router::scheduler(router))?;
        let context = json!({
            "image": release.router_image,
            "scheduler": scheduler,
            "scheduler_digest": manifests::digest(&scheduler),
            "replicas": router.replicas,
            "drain_s": router::drain_s(inventory),
            "budget": router.replicas > 1 && router::hosts(inventory) > 1,
            "gateway_api": router.gateway_api,
            "inference_extension": router.inference_extension,
            "accelerator_label": ACCELERATOR_LABEL,
            "starting_taint": STARTING_TAINT_KEY,
            "tenants": inventory.tenants.values().collect::<Vec<_>>(),
            "edge": router.edge.is_some(),
            "models": models,
            "routes": routes::context(inventory),
        });
        add("kthena", Stage::Component, &templates.router, &context, ROUTER_DEADLINE_S)?;
        if let Some(edge) = router.edge.as_ref().filter(|_| !inventory.tenants.is_empty()) {
            let image = edge.image.clone().or_else(|| Some(input.catalog.component("envoy")?.image.clone()));
            let image = image.ok_or_else(|| missing("component envoy".to_owned()))?;
            let context = edge::context(input, edge, &image)?;
            add("edge", Stage::Component, &manifests::EDGE, &context, ACCEPT_DEADLINE_S)?;
        }
        for model in &models {
            let name = model["name"].as_str().unwrap_or_default().to_owned();
            let context = json!({"model": model, "pool_label": POOL_LABEL});
            add(&name, Stage::Engine, &ENGINE, &context, engine::STARTUP_BUDGET_S)?;
        }
        add("tenants", Stage::Route, &templates.routes, &context, ACCEPT_DEADLINE_S)?;
        for crd in &input.crds {
            let group = crd.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default();
            if GROUPS.contains(&group) {
                all.push(resource("crds", Stage::Crd, definition(crd.clone()), ACCEPT_DEADLINE_S));
            }
        }
    }
    extra(inventory, &mut all)?;
    unresolved(input, &mut all);
    for resource in &mut all {
        if let Spec::Object(object) = &mut resource.spec
            && METRICS.iter().any(|name| object.manifest["metadata"]["name"] == *name)
        {
            object.ready = Ready::Accepted;
        }
    }
    all.sort_by_key(|r| match &r.spec {
        Spec::Object(object) if object.manifest["kind"] == "Namespace" => (Stage::Crd, false),
        Spec::Object(object) => (object.stage, true),
        _ => (Stage::Route, true),
    });
    Ok(all)
}

/// Adds the inventory's own objects, and the namespaces that they are in.
fn extra(inventory: &Inventory, all: &mut Vec<Resource>) -> Result<(), ServingError> {
    const ROLE: &str = "extra";
    for manifest in &inventory.extra_objects {
        let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or(MODELS_NAMESPACE);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let namespace = resource(ROLE, Stage::Base, namespace, ACCEPT_DEADLINE_S);
        if !all.iter().any(|r| r.id == namespace.id) {
            all.push(namespace);
        }
        let mut object = resource(ROLE, Stage::Route, manifest.clone(), ACCEPT_DEADLINE_S);
        if all.iter().any(|r| r.id == object.id) {
            return Err(ServingError::Duplicate { what: object.id.what() });
        }
        if let Spec::Object(object) = &mut object.spec {
            object.ready = Ready::Accepted;
        }
        all.push(object);
    }
    Ok(())
}

/// Records why Secrets without data have none.
fn unresolved(input: &ServingInput<'_>, all: &mut [Resource]) {
    for resource in all {
        let Spec::Object(object) = &resource.spec else { continue };
        if object.manifest["kind"] == "Secret" && object.manifest["data"].is_null() {
            let model = input.inventory.models.get(&resource.role);
            resource.why = Some(match model.and_then(engine::secret) {
                Some(secret) => format!("secret {secret} has no value on this machine"),
                None => "a private key of `tls` has no value on this machine".to_owned(),
            });
        }
    }
}

/// What a workload is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Clients reach it, and the router through it.
    Edge,
    /// Requests of all tenants go through it.
    Router,
    /// It answers them.
    Model,
    /// Nodes offer devices through it.
    DevicePlugin,
    /// It only measures.
    Metrics,
}

/// A workload that the inventory wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    /// What it is for.
    pub part: Part,
    /// Pods wanted of a Deployment; those of a DaemonSet are as many as there are nodes for it.
    pub replicas: Option<u64>,
}

/// Returns the Deployments and DaemonSets that the inventory wants, and what each is for. A model's has the model's name.
pub fn workloads(
    inventory: &Inventory,
    catalog: &Catalog,
) -> Result<BTreeMap<ObjectId, Workload>, ServingError> {
    let input = ServingInput { inventory, catalog, crds: Vec::new(), tokens: BTreeMap::new() };
    let mut found = BTreeMap::new();
    for resource in desired(&input)? {
        let Spec::Object(object) = &resource.spec else { continue };
        let id = ObjectId::of(&object.manifest);
        let part = match (id.kind.as_str(), object.stage) {
            // The inventory's own objects are not judged.
            (_, Stage::Route) => continue,
            ("Deployment" | "DaemonSet", Stage::Engine) => Part::Model,
            ("Deployment", _) => Part::Router,
            ("DaemonSet", _) if id.name == "edge" => Part::Edge,
            ("DaemonSet", _) if METRICS.contains(&id.name.as_str()) => Part::Metrics,
            ("DaemonSet", _) => Part::DevicePlugin,
            _ => continue,
        };
        let replicas = object.manifest.pointer("/spec/replicas").and_then(Value::as_u64);
        let replicas = (id.kind == "Deployment").then(|| replicas.unwrap_or(1));
        found.insert(id, Workload { part, replicas });
    }
    Ok(found)
}

/// Returns every object that the inventory wants in the cluster, definitions aside.
pub fn objects(inventory: &Inventory, catalog: &Catalog) -> Result<BTreeSet<ObjectId>, ServingError> {
    let input = ServingInput { inventory, catalog, crds: Vec::new(), tokens: BTreeMap::new() };
    let objects = desired(&input)?.into_iter().filter_map(|resource| match &resource.spec {
        Spec::Object(object) => Some(ObjectId::of(&object.manifest)),
        _ => None,
    });
    Ok(objects.collect())
}

/// Returns a question per tenant and served name: the proof that serving works.
pub fn chats(inventory: &Inventory) -> Vec<Resource> {
    inventory
        .tenants
        .values()
        .flat_map(|tenant| {
            tenant.routes.keys().map(|served| {
                let chat =
                    Chat { tenant: tenant.name.clone(), model: served.clone(), node_port: tenant.node_port };
                Resource::new(tenant.name.clone(), Spec::Chat(chat))
            })
        })
        .collect()
}
