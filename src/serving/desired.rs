//! What serving wants in the cluster.

use crate::catalog::{ACCELERATOR_LABEL, Catalog, POOL_LABEL, STARTING_TAINT_KEY};
use crate::inventory::{EngineKind, Inventory, Model, ModelSource};
use crate::state::{Chat, Object, Ready, Resource, SecretText, Spec, Stage};
use crate::template;
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NVIDIA: &str = include_str!("../../templates/manifests/nvidia/device-plugin.yaml.j2");
const NEURON: &str = include_str!("../../templates/manifests/neuron/device-plugin.yaml.j2");
const ROUTER: &str = include_str!("../../templates/manifests/kthena-v1.0.0/router.yaml.j2");
const ROUTES: &str = include_str!("../../templates/manifests/kthena-v1.0.0/routes.yaml.j2");
const ENGINE: &str = include_str!("../../templates/manifests/engines/engine.yaml.j2");

/// How long a model may take to be ready, in seconds: weights are loaded, Neuron compiles.
const ENGINE_DEADLINE_S: u64 = 3600;

/// What serving is made from.
pub struct ServingInput<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The catalog.
    pub catalog: &'a Catalog,
    /// Definitions of custom resources, from the locked artifacts.
    pub crds: Vec<Value>,
    /// Hugging Face tokens, by the secret's name.
    pub tokens: BTreeMap<String, SecretText>,
}

/// Why the objects could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// A template.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    /// What a template made is no YAML.
    #[error("{name}, as rendered: {why}")]
    Yaml {
        /// The template.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn documents(name: &'static str, source: &str, context: &Value) -> Result<Vec<Value>, ServingError> {
    let text = template::render(name, source, context)?;
    let yaml = |e: serde_saphyr::Error| ServingError::Yaml { name, why: e.to_string() };
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(&text).map_err(yaml)?;
    Ok(documents.into_iter().flatten().filter(|d| d.is_object()).collect())
}

fn resource(role: &str, stage: Stage, manifest: Value, deadline_s: u64) -> Resource {
    let ready = match (stage, manifest["kind"].as_str()) {
        (Stage::Crd, _) => Ready::Established,
        (_, Some("Deployment")) => Ready::Available,
        _ => Ready::Accepted,
    };
    let mut resource = Resource::new(role, Spec::Object(Box::new(Object { stage, manifest, ready })));
    resource.deadline_s = deadline_s;
    resource
}

/// Returns the command line of a model's engine, and its port.
fn command(model: &Model, vendor: &str) -> (Vec<String>, u16) {
    let source = match &model.source {
        ModelSource::HuggingFace { repo, .. } => repo.clone(),
        // The host's folder of models is mounted at /models.
        ModelSource::Path { path } => format!("/models/{}", path.rsplit('/').next().unwrap_or_default()),
    };
    let revision = match &model.source {
        ModelSource::HuggingFace { revision, .. } => vec!["--revision".to_owned(), revision.clone()],
        ModelSource::Path { .. } => Vec::new(),
    };
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let tensor = model.accelerators_per_replica.to_string();
    let (mut command, port) = match model.engine.kind {
        EngineKind::Vllm => {
            let mut command =
                words(&["vllm", "serve", &source, "--served-model-name", &model.name, "--port", "8000"]);
            // On Neuron the degree counts logical cores, not devices: left to the image's plugin and `args`.
            if vendor == "nvidia" {
                command.extend(words(&["--tensor-parallel-size", &tensor]));
            }
            (command, 8000)
        }
        EngineKind::Sglang => (
            words(&[
                "python3",
                "-m",
                "sglang.launch_server",
                "--model-path",
                &source,
                "--served-model-name",
                &model.name,
                "--host",
                "0.0.0.0",
                "--port",
                "30000",
                "--tp",
                &tensor,
                "--enable-metrics",
            ]),
            30000,
        ),
    };
    command.extend(revision);
    command.extend(model.engine.args.iter().cloned());
    (command, port)
}

fn model_context(input: &ServingInput<'_>, model: &Model) -> Value {
    let pool = input.inventory.pools.get(&model.pool);
    let accelerator =
        pool.and_then(|p| p.accelerator.as_ref()).filter(|_| model.accelerators_per_replica > 0);
    let vendor = accelerator
        .map_or("", |a| if a.extended_resource().starts_with("nvidia") { "nvidia" } else { "neuron" });
    let (command, port) = command(model, vendor);
    let token = match &model.source {
        ModelSource::HuggingFace { token: Some(name), .. } => input.tokens.get(name),
        _ => None,
    };
    let tolerations: Vec<Value> = pool
        .into_iter()
        .flat_map(|p| &p.taints)
        .map(|taint| {
            let (key, effect) = taint.rsplit_once(':').unwrap_or((taint, "NoSchedule"));
            json!({"key": key.split('=').next(), "operator": "Exists", "effect": effect})
        })
        .collect();
    json!({
        "name": model.name,
        "image": model.engine.image,
        "command": command,
        "port": port,
        "engine_name": if model.engine.kind == EngineKind::Vllm { "vLLM" } else { "SGLang" },
        "replicas": model.replicas,
        "pool": model.pool,
        "vendor": vendor,
        "resource": accelerator.map(|a| a.extended_resource()),
        "accelerators": model.accelerators_per_replica,
        "offline": matches!(model.source, ModelSource::Path { .. }),
        "models_path": pool.map(|p| p.models_path.as_str()),
        "tolerations": tolerations,
        "token": token.map(|t| base64::engine::general_purpose::STANDARD.encode(t.expose())),
    })
}

/// Returns the objects, in the order in which they are applied.
pub fn desired(input: &ServingInput<'_>) -> Result<Vec<Resource>, ServingError> {
    let inventory = input.inventory;
    let image = |name: &str| input.catalog.component(name).map(|c| c.image.clone());
    let release = inventory.router.as_ref().and_then(|r| input.catalog.kthena(&r.version));
    let models: Vec<Value> = inventory.models.values().map(|m| model_context(input, m)).collect();
    let routes: Vec<Value> = inventory
        .tenants
        .values()
        .flat_map(|tenant| {
            tenant.routes.iter().map(|(served, targets)| {
                let slug: String = served
                    .to_lowercase()
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                    .collect();
                let targets: Vec<Value> =
                    targets.iter().map(|(model, weight)| json!({"model": model, "weight": weight})).collect();
                json!({"tenant": tenant.name, "served": served, "slug": slug, "targets": targets})
            })
        })
        .collect();
    let context = json!({
        "accelerator_label": ACCELERATOR_LABEL,
        "pool_label": POOL_LABEL,
        "starting_taint": STARTING_TAINT_KEY,
        "images": {"nvidia": image("nvidia-device-plugin"), "neuron": image("neuron-device-plugin")},
        "router": inventory.router.as_ref().map(|r| json!({"image": release.map(|k| k.router_image.clone()),
            "gateway_api": r.gateway_api, "inference_extension": r.inference_extension})),
        "tenants": inventory.tenants.values().collect::<Vec<_>>(),
        "models": models,
        "routes": routes,
    });
    let mut all = Vec::new();
    let uses = |vendor: &str| {
        inventory
            .pools
            .values()
            .filter_map(|p| p.accelerator.as_ref())
            .any(|a| a.extended_resource().starts_with(vendor))
    };
    for crd in &input.crds {
        all.push(resource("crds", Stage::Crd, crd.clone(), 120));
    }
    let mut add = |role: &str, stage: Stage, documents: Vec<Value>, deadline_s: u64| {
        for manifest in documents {
            let base = !matches!(manifest["kind"].as_str(), Some("Deployment" | "DaemonSet"));
            let stage = if base && stage == Stage::Component { Stage::Base } else { stage };
            all.push(resource(role, stage, manifest, deadline_s));
        }
    };
    if uses("nvidia") {
        add("nvidia", Stage::Component, documents("nvidia/device-plugin", NVIDIA, &context)?, 120);
    }
    if uses("aws") {
        add("neuron", Stage::Component, documents("neuron/device-plugin", NEURON, &context)?, 120);
    }
    if inventory.router.is_some() {
        add("kthena", Stage::Component, documents("kthena/router", ROUTER, &context)?, 900);
        if !inventory.models.is_empty() {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}});
            add("models", Stage::Base, vec![namespace], 60);
        }
        for model in &models {
            let name = model["name"].as_str().unwrap_or_default().to_owned();
            let mut own = context.clone();
            own["model"] = model.clone();
            add(&name, Stage::Engine, documents("engines/engine", ENGINE, &own)?, ENGINE_DEADLINE_S);
        }
        add("tenants", Stage::Route, documents("kthena/routes", ROUTES, &context)?, 120);
    }
    all.sort_by_key(|r| match &r.spec {
        Spec::Object(object) => object.stage,
        _ => Stage::Route,
    });
    Ok(all)
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
