//! A stand-in for the proxy in front of the router: it obeys what its files say of ports, keys and models, and nothing else of
//! them. Limits, networks and HTTPS are not simulated.

use super::router::{self, Gateway};
use crate::lab::api::{Body, Store, condition, json_answer, text};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

const NAMESPACE: &str = "kthena-system";

/// What the proxy has for one tenant.
#[derive(Clone)]
pub(super) struct Tenant {
    /// The gateway of the router behind it.
    pub gateway: Gateway,
    routes: Value,
    keys: Option<(Value, Value)>,
}

/// Reads a file of the proxy.
fn file(store: &Store, name: &str) -> Option<Value> {
    let config = store.get("configmaps", NAMESPACE, "edge")?;
    serde_saphyr::from_str(config["data"][name].as_str()?).ok()
}

/// Returns the tenant whose listener has a port. Only while a proxy is ready.
pub(super) fn behind(store: &Store, port: u64) -> Option<Tenant> {
    let is_edge = |p: &Value| text(p, "/metadata/labels/app.kubernetes.io~1component") == "edge";
    let pods = store.list("pods");
    let is_ready = |is: &dyn Fn(&Value) -> bool| pods.iter().any(|p| is(p) && condition(p, "Ready"));
    if !is_ready(&is_edge) || !is_ready(&router::is_router) {
        return None;
    }
    let listeners = file(store, "listeners.yaml")?;
    let listener = listeners["resources"]
        .as_array()?
        .iter()
        .find(|l| l.pointer("/address/socket_address/port_value").and_then(Value::as_u64) == Some(port))?;
    let name = text(listener, "/name");
    let clusters = file(store, "clusters.yaml")?;
    let cluster = clusters["resources"].as_array()?.iter().find(|c| c["name"] == name.as_str())?;
    let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
    let gateway = router::gateway_of(store, cluster.pointer(address)?.as_u64()?)?;
    let routes = file(store, &format!("routes-{name}.yaml"))?;
    let keys = file(store, &format!("keys-{name}.yaml"))
        .map(|keys| (keys, file(store, &format!("revoked-{name}.yaml")).unwrap_or_default()));
    Some(Tenant { gateway, routes, keys })
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    json_answer(status, &json!({"error": error}))
}

/// Returns whether a token is one of the tenant's keys.
fn is_key(token: &str, keys: &Value, revoked: &Value) -> Option<()> {
    let at = "/resources/0/typed_config/providers/keys";
    let provider = keys.pointer(at)?;
    let set: Value = serde_json::from_str(provider.pointer("/local_jwks/inline_string")?.as_str()?).ok()?;
    let public = URL_SAFE_NO_PAD.decode(set.pointer("/keys/0/x")?.as_str()?).ok()?;
    let (signed, signature) = token.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);
    key.verify(signed.as_bytes(), &signature).ok()?;
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?).ok()?;
    let ours = claims["iss"] == provider["issuer"] && claims["aud"] == provider["audiences"][0];
    let lasts = claims["exp"].as_i64()? > jiff::Timestamp::now().as_second();
    // Only an id can stand alone in quotes among the revoked.
    let listed = revoked.to_string().contains(&claims["jti"].to_string());
    (ours && lasts && !listed).then_some(())
}

/// Answers a request: in place of the router, or with what the router says.
pub(super) async fn answer(
    store: &Store,
    tenant: &Tenant,
    request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let bearer =
        request.headers().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Some((keys, revoked)) = &tenant.keys
        && bearer.and_then(|token| is_key(token, keys, revoked)).is_none()
    {
        let message = "The API key is missing, expired or not valid here.";
        return refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
    }
    let host = &tenant.routes["resources"][0]["virtual_hosts"][0];
    let path = request.uri().path().to_owned();
    let routes = host["routes"].as_array().cloned().unwrap_or_default();
    let is_here = |route: &Value| {
        let method = route.pointer("/match/headers/0/string_match/exact");
        route["match"]["path"] == path.as_str() && method.is_some_and(|m| m == request.method().as_str())
    };
    let Some(route) = routes.iter().find(|route| is_here(route)) else {
        return refuse(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address.");
    };
    if request.method() == Method::GET {
        let list = route.pointer("/direct_response/body/inline_string").and_then(Value::as_str);
        return json_answer(
            StatusCode::OK,
            &list.and_then(|l| serde_json::from_str(l).ok()).unwrap_or_default(),
        );
    }
    let (parts, body) = request.into_parts();
    let body = router::read(body).await;
    let Ok(question) = serde_json::from_slice::<Value>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "invalid_json", "The body is not a JSON object.");
    };
    let served = &host["typed_per_filter_config"]["openai"]["filter_context"]["models"];
    let name = question["model"].as_str().unwrap_or_default().to_owned();
    if served.get(Value::from(name.as_str()).to_string()).is_none() {
        return refuse(StatusCode::NOT_FOUND, "model_not_found", "The model does not exist here.");
    }
    let answer = router::answer(store, &tenant.gateway, Request::from_parts(parts, Full::new(body))).await;
    told(answer, &name).await
}

/// Returns the router's answer under the name that was asked for, and its bare words as an error of OpenAI's kind.
async fn told(answer: Response<Body>, name: &str) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let body = router::read(body).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    if parts.status.is_success() {
        let own = serde_json::from_str::<Value>(
            text.lines().find_map(|l| l.strip_prefix("data: ")).unwrap_or(&text),
        );
        let inner = own.unwrap_or_default()["model"].to_string();
        let named = text.replace(&format!("\"model\":{inner}"), &format!("\"model\":{}", json!(name)));
        let mut answer = Response::from_parts(parts, Full::new(bytes::Bytes::from(named)).boxed_unsync());
        answer.headers_mut().remove("content-length");
        return answer;
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(error) if error.get("error").is_some() => json_answer(parts.status, &error),
        _ if text.contains("model server") => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "The model has no replica that is ready. Try again.",
        ),
        _ => refuse(parts.status, "refused", text.trim_matches(['"', '\n'])),
    }
}
