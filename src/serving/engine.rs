//! A model as an engine: image, command line, devices, weights.

use super::input::ServingInput;
use crate::inventory::{Accelerator, EngineKind, Model, ModelSource, Pool};
use base64::Engine as _;
use serde_json::{Value, json};

/// Where the host's folder of models is mounted: caches of downloads and of compiled graphs outlive the pod.
const CACHE: &str = "/models";
/// Where weights that are already on the host are mounted.
const WEIGHTS: &str = "/weights";
/// vLLM's own default.
const VLLM_PORT: u16 = 8000;
/// SGLang's own default.
const SGLANG_PORT: u16 = 30000;

/// What makes accelerators.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    None,
    Nvidia,
    Neuron,
}

impl Vendor {
    fn of(model: &Model, pool: Option<&Pool>) -> Self {
        match pool.and_then(|p| p.accelerator.as_ref()).filter(|_| model.accelerators_per_replica > 0) {
            None => Vendor::None,
            Some(Accelerator::Nvidia { .. }) => Vendor::Nvidia,
            Some(Accelerator::Neuron { .. }) => Vendor::Neuron,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Vendor::None => "",
            Vendor::Nvidia => "nvidia",
            Vendor::Neuron => "neuron",
        }
    }
}

/// Returns a taint as the toleration of every value of it.
pub(super) fn toleration(taint: &str) -> Value {
    let (key, effect) = taint.rsplit_once(':').unwrap_or((taint, "NoSchedule"));
    json!({"key": key.split('=').next(), "operator": "Exists", "effect": effect})
}

/// Returns the command line of an engine, and its port. The engine answers to the model's own name, whatever tenants
/// call it: their ModelServer rewrites the name, and the engine refuses any other.
fn command(model: &Model, vendor: Vendor) -> (Vec<String>, u16) {
    let (weights, revision) = match &model.source {
        ModelSource::HuggingFace { repo, revision, .. } => (repo.as_str(), Some(revision)),
        ModelSource::Path { .. } => (WEIGHTS, None),
    };
    let tensor = model.accelerators_per_replica.to_string();
    let mut words: Vec<&str> = Vec::new();
    let port = match model.engine.kind {
        EngineKind::Vllm => {
            words.extend(["vllm", "serve", weights, "--served-model-name", &model.name, "--port", "8000"]);
            // On Neuron the degree counts logical cores, not devices: left to the image's plugin and to `args`.
            if vendor == Vendor::Nvidia {
                words.extend(["--tensor-parallel-size", &tensor]);
            }
            VLLM_PORT
        }
        EngineKind::Sglang => {
            words.extend(["python3", "-m", "sglang.launch_server", "--model-path", weights]);
            words.extend(["--served-model-name", &model.name, "--host", "0.0.0.0", "--port", "30000"]);
            if vendor != Vendor::None {
                words.extend(["--tp", &tensor]);
            }
            // The router schedules by these metrics.
            words.push("--enable-metrics");
            SGLANG_PORT
        }
    };
    if let Some(revision) = revision {
        words.extend(["--revision", revision]);
    }
    let given = model.engine.args.iter().map(String::as_str);
    (words.into_iter().chain(given).map(str::to_owned).collect(), port)
}

/// Returns the name of the secret that a model's weights are fetched with.
pub(super) fn secret(model: &Model) -> Option<&str> {
    match &model.source {
        ModelSource::HuggingFace { token, .. } => token.as_deref(),
        ModelSource::Path { .. } => None,
    }
}

/// Returns what the template of an engine is filled with.
pub(super) fn context(input: &ServingInput<'_>, model: &Model) -> Value {
    let pool = input.inventory.pools.get(&model.pool);
    let vendor = Vendor::of(model, pool);
    let accelerator = pool.and_then(|p| p.accelerator.as_ref()).filter(|_| vendor != Vendor::None);
    let (command, port) = command(model, vendor);
    let token = secret(model);
    let weights = match &model.source {
        ModelSource::Path { path } => Some(path.as_str()),
        ModelSource::HuggingFace { .. } => None,
    };
    let tolerations: Vec<Value> = pool.into_iter().flat_map(|p| &p.taints).map(|t| toleration(t)).collect();
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "name": model.name,
        "image": model.engine.image,
        "command": command,
        "port": port,
        "engine_name": if model.engine.kind == EngineKind::Vllm { "vLLM" } else { "SGLang" },
        "replicas": model.replicas,
        "pool": model.pool,
        "vendor": vendor.as_str(),
        // One kind, or `validate` would have refused the placement.
        "resource": accelerator.and_then(|a| a.offers().into_keys().next()),
        "accelerators": model.accelerators_per_replica,
        "cache": CACHE,
        "cache_path": pool.map(|p| p.models_path.as_str()),
        "weights": WEIGHTS,
        "weights_path": weights,
        "tolerations": tolerations,
        "secret": token,
        "token": token.and_then(|name| input.tokens.get(name)).map(|t| encode(t.expose())),
    })
}
