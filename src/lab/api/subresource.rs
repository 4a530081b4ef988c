//! Subresources other than `/status`: scale, eviction, binding, log, finalize.

use super::{
    http::{Ask, Body, json_answer, patch_of, removal, text_answer},
    patch,
    refusal::Refusal,
    store::{Store, text},
    write::{Options, Patch},
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// Answers a request for a subresource.
pub fn answer(
    store: &Store,
    ask: &Ask,
    verb: &str,
    body: &Value,
    content_type: &str,
) -> Result<Response<Body>, Refusal> {
    match (ask.kind.id.as_str(), ask.subresource.as_str(), verb) {
        (_, "scale", "get" | "update" | "patch") => scale(store, ask, verb, body, content_type),
        ("pods", "eviction", "create") => {
            let options = body.get("deleteOptions").unwrap_or(&Value::Null);
            store.evict(&ask.place(), &removal(ask, options))?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(json_answer(StatusCode::CREATED, &done))
        }
        ("pods", "binding", "create") => {
            let node = text(body, "/target/name");
            let bound = store.edit("pods", &ask.namespace, &ask.name, &Options::by(&ask.agent), |pod| {
                pod["spec"]["nodeName"] = json!(node);
            })?;
            bound.ok_or_else(|| Refusal::not_found(&ask.kind, &ask.name))?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(json_answer(StatusCode::CREATED, &done))
        }
        ("pods", "log", "get") => {
            store
                .get("pods", &ask.namespace, &ask.name)
                .ok_or_else(|| Refusal::not_found(&ask.kind, &ask.name))?;
            let lines = store.logs(&ask.namespace, &ask.name);
            let tail = ask.query("tailLines").parse().unwrap_or(lines.len()).min(lines.len());
            let lines: String = lines[lines.len() - tail..].iter().map(|line| format!("{line}\n")).collect();
            Ok(text_answer(StatusCode::OK, &lines))
        }
        ("namespaces", "finalize", "update") => {
            let finalizers = body.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            let edited = store.edit("namespaces", "", &ask.name, &Options::by(&ask.agent), |namespace| {
                namespace["spec"]["finalizers"] = finalizers.clone();
            })?;
            let edited = edited.ok_or_else(|| Refusal::not_found(&ask.kind, &ask.name))?;
            Ok(json_answer(StatusCode::OK, &ask.present(&edited)))
        }
        (_, subresource, verb) => {
            Err(Refusal::not_simulated(&format!("{verb} of {}/{subresource}", ask.kind.id)))
        }
    }
}

fn scale(
    store: &Store,
    ask: &Ask,
    verb: &str,
    body: &Value,
    content_type: &str,
) -> Result<Response<Body>, Refusal> {
    let paths = ask.version.scale.clone().ok_or_else(Refusal::unserved)?;
    let missing = || Refusal::not_found(&ask.kind, &ask.name);
    let live = store.get(&ask.kind.id, &ask.namespace, &ask.name).ok_or_else(missing)?;
    let view = |object: &Value| {
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let selector = match &paths.selector {
            Some(pointer) => text(object, pointer),
            None => object
                .pointer("/spec/selector/matchLabels")
                .and_then(Value::as_object)
                .map(|m| {
                    let pairs: Vec<_> =
                        m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
                    pairs.join(",")
                })
                .unwrap_or_default(),
        };
        let metadata = json!({
            "name": ask.name, "namespace": ask.namespace, "uid": text(object, "/metadata/uid"),
            "resourceVersion": text(object, "/metadata/resourceVersion"),
            "creationTimestamp": text(object, "/metadata/creationTimestamp"),
        });
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": number(&paths.spec)},
            "status": {"replicas": number(&paths.status), "selector": selector},
        })
    };
    if verb == "get" {
        return Ok(json_answer(StatusCode::OK, &view(&live)));
    }
    let mut wanted = view(&live);
    match verb {
        "update" => wanted = body.clone(),
        _ => match patch_of(content_type, body.clone())? {
            Patch::Json(steps) => patch::json(&mut wanted, &steps)?,
            Patch::Merge(change) | Patch::Strategic(change) | Patch::Apply(change) => {
                patch::merge(&mut wanted, &change);
            }
        },
    }
    let asked = text(&wanted, "/metadata/resourceVersion");
    if !asked.is_empty() && asked != text(&live, "/metadata/resourceVersion") {
        return Err(Refusal::stale(&ask.kind, &ask.name, "the object has been modified"));
    }
    let replicas = wanted.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        return Err(Refusal::bad_request("spec.replicas must be greater than or equal to 0"));
    }
    let options = Options { subresource: String::new(), ..ask.options() };
    let path = paths.spec.clone();
    let edited = store.edit(&ask.kind.id, &ask.namespace, &ask.name, &options, |object| {
        if let Some((parent, last)) = path.rsplit_once('/')
            && let Some(Value::Object(map)) = object.pointer_mut(parent)
        {
            map.insert(last.to_owned(), json!(replicas));
        }
    })?;
    let edited = edited.ok_or_else(missing)?;
    Ok(json_answer(StatusCode::OK, &view(&edited)))
}
