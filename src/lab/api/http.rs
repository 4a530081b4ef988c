//! The API over HTTP/1.1: which verb a request is, and its answer.

use super::{
    discovery,
    errors::{ApiError, details},
    identity::Identity,
    objects::{place, text},
    reference::ObjectRef,
    remove::Deleted,
    request::{ResourceRequest, header_text},
    store::Store,
    watch::{self, Watch},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};

/// An answer's body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Longest request body, as in kube-apiserver.
const BODY_LIMIT: usize = 3 << 20;
/// What `/metrics` says: no deprecated API is served here, and one gate that is stable stands for all.
const METRICS: &str = "kubernetes_feature_enabled{name=\"SidecarContainers\",stage=\"\"} 1\n";

/// What answers requests of one connection.
#[derive(Clone)]
pub(super) struct Service {
    /// The objects.
    pub store: Arc<Store>,
    /// What `/version` says.
    pub version: String,
    /// Who the connection's client certificate belongs to.
    pub caller: Option<Identity>,
}

impl Service {
    /// Answers a request; an error is an answer too.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let result = match http_body_util::Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => self.dispatch(&parts, &body.to_bytes()),
            Err(_) => Err(ApiError::bad_request("the request body could not be read")),
        };
        Ok(result.unwrap_or_else(|error| {
            let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json_answer(status, &error.body())
        }))
    }

    fn dispatch(&self, parts: &http::request::Parts, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let segments: Vec<&str> = parts.uri.path().split('/').filter(|s| !s.is_empty()).collect();
        if let ["healthz" | "livez" | "readyz", ..] = segments.as_slice() {
            return Ok(text_answer(StatusCode::OK, "ok"));
        }
        // Bearer tokens are not accepted: join tokens are checked when a host joins, and there are no others.
        let token = parts.headers.contains_key(header::AUTHORIZATION);
        let caller = self.caller.as_ref().filter(|_| !token).ok_or_else(ApiError::unauthorized)?;
        let kinds = self.store.kinds();
        let found = match segments.as_slice() {
            ["api"] => Some(discovery::core_versions()),
            ["apis"] => Some(discovery::group_list(&kinds)),
            ["api", version] => discovery::resource_list(&kinds, "", version),
            ["version"] => Some(discovery::version(&self.version)),
            ["metrics"] => return Ok(text_answer(StatusCode::OK, METRICS)),
            // No path of this server: not an error of the API, which serves no such group.
            ["apis", group, ..] if !self.store.serves(group) => {
                return Ok(text_answer(StatusCode::NOT_FOUND, "404 page not found\n"));
            }
            ["apis", group] => discovery::group(&kinds, group),
            ["apis", group, version] => discovery::resource_list(&kinds, group, version),
            ["api" | "apis", ..] => {
                let request = ResourceRequest::read(&self.store, &segments, parts)?;
                return self.resource(caller, &request, parts, body);
            }
            other => return Err(ApiError::not_simulated(&format!("/{}", other.join("/")))),
        };
        Ok(json_answer(StatusCode::OK, &found.ok_or_else(ApiError::not_served)?))
    }

    fn resource(
        &self,
        caller: &Identity,
        request: &ResourceRequest,
        parts: &http::request::Parts,
        body: &Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let (at, store) = (&request.at, &self.store);
        let watching = matches!(request.query("watch"), "true" | "1");
        let verb = match (&parts.method, at.name.is_empty()) {
            (&Method::GET, _) if watching => "watch",
            (&Method::GET, true) => "list",
            (&Method::GET, false) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, false) => "update",
            (&Method::PATCH, false) => "patch",
            (&Method::DELETE, false) => "delete",
            (&Method::DELETE, true) => "deletecollection",
            _ => return Err(ApiError::method_not_allowed()),
        };
        if !caller.is_admin() {
            let why = format!("User {:?} cannot {verb} resource {:?}", caller.user, at.kind.plural);
            return Err(ApiError::forbidden(&at.kind, &at.name, why));
        }
        if at.kind.namespaced && at.namespace.is_empty() && !matches!(verb, "list" | "watch" | "get") {
            return Err(ApiError::method_not_allowed());
        }
        let content_type = header_text(&parts.headers, header::CONTENT_TYPE);
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
        let body = body.map_err(|why| {
            ApiError::bad_request(format!("the object provided is unrecognized: {content_type}: {why}"))
        })?;
        let ok = |object: &Value| Ok(json_answer(StatusCode::OK, &at.present(object)));
        match (verb, request.subresource.as_str()) {
            ("create", "eviction") if at.kind.id == "pods" => {
                store.evict(at, &request.delete_options(&body["deleteOptions"])?)?;
                let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                Ok(json_answer(StatusCode::CREATED, &done))
            }
            (_, "status") if !at.version.status => Err(ApiError::not_served()),
            ("get", "" | "status") => {
                let found = store.get(&at.kind.id, &at.namespace, &at.name);
                let found = found.ok_or_else(|| ApiError::not_found(&at.kind, &at.name))?;
                ok(&found)
            }
            ("update", "" | "status") => {
                let made = store.replace(at, body, &request.options())?;
                ok(&made)
            }
            ("patch", "" | "status") => {
                let change = request.patch(content_type, body)?;
                let (made, new) = store.patch(at, &change, &request.options())?;
                let status = if new { StatusCode::CREATED } else { StatusCode::OK };
                Ok(json_answer(status, &at.present(&made)))
            }
            ("create", "") => {
                let at = ObjectRef { name: text(&body, "/metadata/name"), ..at.clone() };
                let made = store.create(&at, body, &request.options())?;
                Ok(json_answer(StatusCode::CREATED, &at.present(&made)))
            }
            ("delete", "") => match store.remove(at, &request.delete_options(&body)?)? {
                Deleted::Ending(object) => ok(&object),
                Deleted::Gone(object) if at.kind.id == "pods" => ok(&object),
                Deleted::Gone(object) => Ok(json_answer(StatusCode::OK, &deleted(at, &object))),
            },
            ("list", "") => self.list(request),
            ("watch", "") => {
                let events = watch::events(Watch::new(store.clone(), request)?);
                Ok(answer(StatusCode::OK, "application/json", events.boxed_unsync()))
            }
            (verb, subresource) => {
                let what = format!("{verb} of {}/{subresource}", at.kind.id);
                Err(ApiError::not_simulated(what.trim_end_matches('/')))
            }
        }
    }

    /// Lists what is there now. A page begins after the last object of the one before, whatever has happened since.
    fn list(&self, request: &ResourceRequest) -> Result<Response<Body>, ApiError> {
        let at = &request.at;
        let after: Option<(String, String)> = match request.query("continue") {
            "" => None,
            token => {
                let read = STANDARD.decode(token).ok().and_then(|t| serde_json::from_slice(&t).ok());
                let wrong = || ApiError::bad_request("continue key is not valid");
                Some(read.ok_or_else(wrong)?)
            }
        };
        let (mut found, revision) = self.store.snapshot(&at.kind.id, &request.selection()?);
        found.retain(|object| after.as_ref().is_none_or(|after| place(object) > *after));
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        let limit = request.query("limit").parse().unwrap_or(0);
        if limit > 0 && found.len() > limit {
            found.truncate(limit);
            let last = found.last().map(|object| place(object)).unwrap_or_default();
            metadata["continue"] = json!(STANDARD.encode(json!(last).to_string()));
        }
        let mut items: Vec<_> = found.iter().map(|object| at.present(object)).collect();
        // The items of a built-in list do not repeat their type, which clients have stumbled over.
        for item in items.iter_mut().filter(|_| !at.kind.custom).filter_map(Value::as_object_mut) {
            item.retain(|name, _| name != "kind" && name != "apiVersion");
        }
        let list = json!({"kind": format!("{}List", at.kind.kind), "apiVersion": at.api_version(),
            "metadata": metadata, "items": items});
        Ok(json_answer(StatusCode::OK, &list))
    }
}

fn deleted(at: &ObjectRef, object: &Value) -> Value {
    let mut details = details(&at.name, &at.kind.group, &at.kind.plural);
    details["uid"] = object["metadata"]["uid"].clone();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Returns a JSON answer.
pub fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    answer(status, "application/json", Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn text_answer(status: StatusCode, text: &'static str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", Full::new(Bytes::from(text)).boxed_unsync())
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
