//! A model as an engine: image, command line, devices, weights.

use super::input::ServingInput;
use crate::inventory::{Accelerator, EngineKind, Model, ModelSource, Pool};
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where the host's folder of models is mounted: caches of downloads and of compiled graphs outlive the pod.
const CACHE: &str = "/models";
/// Where weights that are already on the host are mounted.
const WEIGHTS: &str = "/weights";
/// vLLM's own default.
const VLLM_PORT: u16 = 8000;
/// SGLang's own default.
const SGLANG_PORT: u16 = 30000;
/// Requests that vLLM on Neuron serves at once, unless `args` say otherwise.
const NEURON_SEQUENCES: &str = "8";

/// How long an engine may take to start, in seconds: it loads weights, and compiles.
pub(super) const STARTUP_BUDGET_S: u64 = 3600;

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
fn command(model: &Model, vendor: Vendor, degree: u32) -> (Vec<String>, u16) {
    let (weights, revision) = match &model.source {
        ModelSource::HuggingFace { repo, revision, .. } => (repo.as_str(), Some(revision)),
        ModelSource::Path { .. } => (WEIGHTS, None),
    };
    let tensor = degree.to_string();
    let given = |names: &[&str]| names.iter().any(|name| model.engine.has_arg(name));
    let mut words: Vec<&str> = Vec::new();
    let port = match model.engine.kind {
        EngineKind::Vllm => {
            words.extend(["vllm", "serve", weights, "--served-model-name", &model.name, "--port", "8000"]);
            if vendor != Vendor::None && !given(&["--tensor-parallel-size", "-tp"]) {
                words.extend(["--tensor-parallel-size", &tensor]);
            }
            // Each power of two up to it is one more compilation, of minutes; vLLM's own default is 256 and more.
            if vendor == Vendor::Neuron && !given(&["--max-num-seqs"]) {
                words.extend(["--max-num-seqs", NEURON_SEQUENCES]);
            }
            VLLM_PORT
        }
        EngineKind::Sglang => {
            words.extend(["python3", "-m", "sglang.launch_server", "--model-path", weights]);
            words.extend(["--served-model-name", &model.name, "--host", "0.0.0.0", "--port", "30000"]);
            if vendor != Vendor::None && !given(&["--tp", "--tp-size", "--tensor-parallel-size"]) {
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
    let more = model.engine.args.iter().map(String::as_str);
    (words.into_iter().chain(more).map(str::to_owned).collect(), port)
}

/// Returns how many ways a replica's weights are split: over its GPUs, or over the logical cores of its Neuron devices.
fn degree(input: &ServingInput<'_>, model: &Model, accelerator: Option<&Accelerator>) -> u32 {
    let devices = model.accelerators_per_replica;
    let Some(Accelerator::Neuron { product, lnc, .. }) = accelerator else { return devices };
    let Some(product) = input.catalog.product(product) else { return devices };
    // As the neuron role sets it on the host.
    let size = product.logical_cores.last().map_or(1, |most| lnc.unwrap_or(*most)).max(1);
    devices * product.cores.map_or(1, |cores| (cores / size).max(1))
}

/// Returns the environment of an engine, in the order of its names.
fn environment(model: &Model, vendor: Vendor, linked: bool) -> Vec<Value> {
    let vllm = model.engine.kind == EngineKind::Vllm;
    let mut env = BTreeMap::from([("HF_HOME", format!("{CACHE}/.cache"))]);
    if matches!(model.source, ModelSource::Path { .. }) {
        env.extend([("HF_HUB_OFFLINE", "1".to_owned()), ("TRANSFORMERS_OFFLINE", "1".to_owned())]);
    }
    if vllm {
        // Compiled graphs outlive the pod; on Neuron a cold compilation takes minutes per bucket.
        env.insert("VLLM_CACHE_ROOT", format!("{CACHE}/.vllm"));
    }
    if vllm && vendor == Vendor::Neuron {
        // The plugin gives up after 600 s by default, less than a first compilation takes (vllm-neuron, online serving).
        for timeout in ["VLLM_NEURON_COMPILATION_TIMEOUT", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] {
            env.insert(timeout, STARTUP_BUDGET_S.to_string());
        }
        if !linked {
            // Trn3 fails at its start where it looks for EFA devices in vain.
            env.insert("NEURON_SKIP_EFA_AFFINITY", "1".to_owned());
        }
    }
    env.extend(model.engine.env.iter().map(|(name, value)| (name.as_str(), value.clone())));
    env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
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
    let (command, port) = command(model, vendor, degree(input, model, accelerator));
    let resources = &model.engine.resources;
    let engine = if model.engine.kind == EngineKind::Vllm { "vllm" } else { "sglang" };
    let requests = input.catalog.engine_requests(engine);
    // An instance is a part of a GPU, and a host has many.
    let whole =
        if accelerator.is_some_and(|a| a.mig().is_some()) { 0 } else { model.accelerators_per_replica };
    let gib = |of: &Option<String>, gib: Option<u32>| of.clone().or_else(|| Some(format!("{}Gi", gib?)));
    let cpu = requests.map(|r| (r.cpu + r.cpu_per_accelerator * whole).to_string());
    let memory = requests.map(|r| r.memory_gib + r.memory_gib_per_accelerator * whole);
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
        "env": environment(model, vendor, pool.is_some_and(|p| p.efa.is_some())),
        "cpu": resources.cpu.clone().or(cpu),
        "memory": gib(&resources.memory, memory),
        "shm": gib(&resources.shm, requests.map(|r| r.shm_gib)),
        "startup_failures": STARTUP_BUDGET_S / 10,
        "progress_deadline_s": STARTUP_BUDGET_S + 60,
        "running": if engine == "vllm" { "vllm:num_requests_running" } else { "sglang:num_running_reqs" },
        "cache": CACHE,
        "cache_path": pool.map(|p| p.models_path.as_str()),
        "weights": WEIGHTS,
        "weights_path": weights,
        "tolerations": tolerations,
        "secret": token,
        "token": token.and_then(|name| input.tokens.get(name)).map(|t| encode(t.expose())),
    })
}
