//! The stand-in of Kthena's router 1.0.0, and of the engines behind it. It obeys Gateway, ModelRoute and ModelServer, in the words
//! of the real one; not token limits, LoRA, prefill and decode apart, HTTPRoute, and what its scheduler filters. Engines
//! answer with an echo that says it is a stand-in.

use crate::lab::api::{Body, Store, condition, json_answer, text};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeSet, convert::Infallible};

const SERVERS: &str = "modelservers.networking.serving.volcano.sh";
const ROUTES: &str = "modelroutes.networking.serving.volcano.sh";
const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
const CLASS: &str = "kthena-router";

/// A gateway: namespace and name.
pub(super) type Gateway = (String, String);

/// Returns whether a pod is one of the router.
pub(super) fn is_router(pod: &Value) -> bool {
    text(pod, "/metadata/labels/app.kubernetes.io~1component") == "kthena-router"
}

/// Returns the items of a list in an object.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Makes what the router makes when it starts. It crash-loops without the kinds that it watches.
pub(super) fn start_router(store: &Store, pod: &Value) -> bool {
    if items(pod, "/spec/containers/0/args").any(|arg| arg == "--enable-gateway-api=true") {
        let (group, namespace) = ("gateway.networking.k8s.io", text(pod, "/metadata/namespace"));
        if store.kind(group, "gateways").is_none() {
            return false;
        }
        let version = format!("{group}/v1");
        let class = json!({"apiVersion": version, "kind": "GatewayClass", "metadata": {"name": CLASS},
            "spec": {"controllerName": "volcano.sh/kthena-router"}});
        let gateway = json!({"apiVersion": version, "kind": "Gateway", "metadata": {"name": "default", "namespace": namespace},
            "spec": {"gatewayClassName": CLASS, "listeners": [{"name": "default", "port": 8080, "protocol": "HTTP",
                "allowedRoutes": {"namespaces": {"from": "All"}}}]}});
        let _ = store.ensure(&format!("gatewayclasses.{group}"), class, "kthena-router");
        let _ = store.ensure(GATEWAYS, gateway, "kthena-router");
    }
    true
}

/// Returns whether a pod is ready and has the labels of a selector.
pub(super) fn is_selected(pod: &Value, selector: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    condition(pod, "Ready")
        && selector.as_object().into_iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
}

/// Returns the gateway of a port of the router: namespace and name.
pub(super) fn gateway_of(store: &Store, port: u64) -> Option<Gateway> {
    let gateways = store.list(GATEWAYS);
    let gateway = gateways.iter().filter(|g| g["spec"]["gatewayClassName"] == CLASS);
    let mut gateway = gateway.filter(|g| items(g, "/spec/listeners").any(|l| l["port"] == port));
    gateway.next().map(|g| (text(g, "/metadata/namespace"), text(g, "/metadata/name")))
}

/// Returns the gateway behind a node port of the router's own. Only while a router pod of its Service is ready.
pub(super) fn gateway_behind(store: &Store, service: &Value, entry: &Value) -> Option<Gateway> {
    let pods = store.list_in("pods", &text(service, "/metadata/namespace"));
    pods.iter().find(|pod| is_router(pod) && is_selected(pod, &service["spec"]["selector"]))?;
    gateway_of(store, entry["targetPort"].as_u64().or_else(|| entry["port"].as_u64())?)
}

/// An answer of the router's own; its errors are bare JSON strings, not OpenAI objects.
fn own(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = json_answer(status, value);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// The longest body that is read, in bytes: whatever runs on a simulated host may send it.
const MOST_BODY: usize = 16 << 20;

/// Reads a body; one that is longer, or ends early, is empty.
pub(super) async fn read<B: hyper::body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>>(
    body: B,
) -> Bytes {
    http_body_util::Limited::new(body, MOST_BODY)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default()
}

/// Returns how far a body could be read, as Go counts.
fn offset(body: &[u8], error: &serde_json::Error) -> usize {
    let before = body.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len);
    before.sum::<usize>() + error.column()
}

/// Returns the targets of the first rule that a request matches.
fn targets<'a>(route: &'a Value, model: &str, path: &str, headers: &HeaderMap) -> Option<&'a Value> {
    let is = |wanted: &Value, value: &str| match (&wanted["exact"], &wanted["prefix"], &wanted["regex"]) {
        (Value::String(exact), ..) => value == exact,
        (_, Value::String(prefix), _) => value.starts_with(prefix),
        (.., Value::String(regex)) => regex::Regex::new(regex).is_ok_and(|regex| regex.is_match(value)),
        _ => true,
    };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let rule = items(route, "/spec/rules").find(|rule| {
        let wanted = &rule["modelMatch"];
        wanted["headers"].as_object().into_iter().flatten().all(|(name, wanted)| is(wanted, header(name)))
            && wanted["body"]["model"].as_str().is_none_or(|name| name == model)
            && is(&wanted["uri"], path)
    })?;
    Some(&rule["targetModels"])
}

/// Answers a request that came to a gateway.
pub(super) async fn answer<
    B: hyper::body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
>(
    store: &Store,
    gateway: &Gateway,
    request: Request<B>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let mut routes = store.list(ROUTES);
    if head.method == Method::GET && path == "/v1/models" {
        // Of all tenants, on every port.
        let names =
            routes.iter().flat_map(|r| items(r, "/spec/loraAdapters").chain([&r["spec"]["modelName"]]));
        let names: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
        let model = |name| json!({"id": name, "object": "model", "created": 0, "owned_by": "kthena"});
        let data: Vec<Value> = names.into_iter().map(model).collect();
        return own(StatusCode::OK, &json!({"object": "list", "data": data}));
    }
    let refuse = |words: &str| own(StatusCode::NOT_FOUND, &json!(words));
    let body = read(body).await;
    let body: Value = match serde_json::from_slice(&body) {
        Ok(value) => value,
        Err(error) => return own(StatusCode::BAD_REQUEST, &json!({"Offset": offset(&body, &error)})),
    };
    let Some(model) = body["model"].as_str().filter(|name| !name.trim().is_empty()) else {
        return refuse("model not found");
    };
    if !body["prompt"].is_string() && items(&body, "/messages").next().is_none() {
        return refuse("prompt not found");
    }
    // The oldest first.
    routes.sort_by_key(|r| text(r, "/metadata/creationTimestamp"));
    let found = routes.iter().filter(|r| r["spec"]["modelName"] == model).find_map(|route| {
        let namespace = text(route, "/metadata/namespace");
        let attached = items(route, "/spec/parentRefs").any(|p| {
            p["name"] == gateway.1.as_str() && p["namespace"].as_str().unwrap_or(&namespace) == gateway.0
        });
        Some((targets(route, model, path, &head.headers).filter(|_| attached)?, namespace))
    });
    let Some((targets, namespace)) = found else { return refuse("route not found") };
    let weight = |t: &Value| t["weight"].as_u64().unwrap_or(100);
    let mut pick = rand::random_range(0..items(targets, "").map(weight).sum::<u64>().max(1));
    let target = items(targets, "").find(|t| {
        let here = pick < weight(t);
        pick = pick.saturating_sub(weight(t));
        here
    });
    let name = target.map(|t| text(t, "/modelServerName")).unwrap_or_default();
    let server = store.get(SERVERS, &namespace, &name);
    let pods = store.list_in("pods", &namespace);
    let found = server.as_ref().and_then(|server| {
        let selector = &server["spec"]["workloadSelector"]["matchLabels"];
        Some((server, pods.iter().find(|pod| is_selected(pod, selector))?))
    });
    // In 1.0.0 the same words for both.
    let Some((server, pod)) = found else {
        return refuse(&format!("can't find model server: {namespace}/{name}"));
    };
    engine(pod, server["spec"]["model"].as_str().unwrap_or(model), path, &body).unwrap_or_else(|| {
        // Whatever an engine refuses: two strings, one after the other.
        let words = "\"request to all pods failed\"\"request processing failed\"";
        let mut response = refuse("");
        *response.body_mut() = http_body_util::Full::new(Bytes::from(words)).boxed_unsync();
        response
    })
}

/// Returns the word after a flag of a pod's command.
pub(super) fn flag<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let container = &pod["spec"]["containers"][0];
    let mut words = ["command", "args"].iter().flat_map(|key| items(&container[*key], ""));
    words.find(|word| *word == name)?;
    words.next()?.as_str()
}

/// The echo engine: answers only to the name that its pod serves.
pub(super) fn engine(pod: &Value, asked: &str, path: &str, body: &Value) -> Option<Response<Body>> {
    let served = flag(pod, "--served-model-name");
    let chat = path == "/v1/chat/completions";
    if served.is_none_or(|name| name != asked) || !(chat || path == "/v1/completions") {
        return None;
    }
    let said = items(body, "/messages").last().map(|m| text(m, "/content"));
    let question = said.filter(|_| chat).unwrap_or_else(|| text(body, "/prompt"));
    let (name, node) = (text(pod, "/metadata/name"), text(pod, "/spec/nodeName"));
    let content = format!("LAB echo from {name} on {node}: {question}");
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
    let (id, object, part) = match chat {
        true => ("chatcmpl-lab", "chat.completion", "chat.completion.chunk"),
        false => ("cmpl-lab", "text_completion", "text_completion"),
    };
    let choice = |key: &str, words: &str, end: Option<&str>| match chat {
        true => json!([{"index": 0, "finish_reason": end, key: {"role": "assistant", "content": words}}]),
        false => json!([{"index": 0, "finish_reason": end, "text": words}]),
    };
    let whole = |object: &str, choices: Value| json!({"id": id, "object": object, "created": 0, "model": asked, "choices": choices});
    if body["stream"] != true {
        let mut answer = whole(object, choice("message", &content, Some("stop")));
        answer["usage"] = usage;
        return Some(json_answer(StatusCode::OK, &answer));
    }
    let chunk = |word: &str| whole(part, choice("delta", word, None));
    let mut chunks: Vec<Value> = content.split_inclusive(' ').map(chunk).collect();
    chunks.push(whole(part, choice("delta", "", Some("stop"))));
    if body["stream_options"]["include_usage"] == true {
        chunks.push(whole(part, json!([])));
        chunks.last_mut()?["usage"] = usage;
    }
    let events = chunks.into_iter().map(|c| c.to_string()).chain(["[DONE]".to_owned()]);
    let frame = |event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("data: {event}\n\n"))));
    let frames: Vec<_> = events.map(frame).collect();
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    Some(response)
}
