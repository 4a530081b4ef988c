//! The API over HTTP/1.1: paths, queries, credentials and answers.

use super::{
    discovery,
    identity::{self, Identity},
    kinds::{self, Kind, Version},
    refusal::Refusal,
    remove::{Removal, Removed},
    schema,
    selector::{FieldSelector, LabelSelector},
    store::{Store, text},
    subresource,
    watch::{self, Watch},
    write::{Options, Patch, Place},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{collections::HashMap, convert::Infallible, sync::Arc};

/// An answer's body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Longest request body, as in kube-apiserver.
const BODY_LIMIT: usize = 3 << 20;

/// What answers requests of one connection.
#[derive(Clone)]
pub struct Service {
    /// The objects.
    pub store: Arc<Store>,
    /// What `/version` says.
    pub version: String,
    /// Who the connection's client certificate belongs to.
    pub caller: Option<Identity>,
}

/// One request for a resource, taken apart.
pub struct Ask {
    /// The kind asked for.
    pub kind: Arc<Kind>,
    /// The version asked for.
    pub version: Version,
    /// The namespace, empty for all or none.
    pub namespace: String,
    /// The name, empty for the collection.
    pub name: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The query.
    pub query: HashMap<String, String>,
    /// The `Accept` header.
    pub accept: String,
    /// Who writes when the query does not say.
    pub agent: String,
}

impl Ask {
    /// Returns a query's value, or nothing.
    pub fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    /// Returns the options of a write.
    pub fn options(&self) -> Options {
        let manager = match self.query("fieldManager") {
            "" => self.agent.clone(),
            named => named.to_owned(),
        };
        Options {
            manager,
            dry_run: self.query("dryRun") == "All",
            strict: self.query("fieldValidation") == "Strict",
            force: matches!(self.query("force"), "true" | "1"),
            subresource: self.subresource.clone(),
        }
    }

    /// Returns where a write goes.
    pub fn place(&self) -> Place {
        Place {
            kind: self.kind.clone(),
            version: self.version.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Returns an object in the version asked for.
    pub fn present(&self, object: &Value) -> Value {
        let mut object = object.clone();
        // What was stored before a default was there has it when it is read.
        if let Some(schema) = &self.version.schema {
            schema::fill_defaults(&mut object, schema);
        }
        object["kind"] = json!(self.kind.kind);
        object["apiVersion"] = json!(self.kind.api_version(&self.version.name));
        if self.accept.contains("as=PartialObjectMetadata") {
            object = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
        }
        object
    }
}

impl Service {
    /// Answers a request; a refusal is an answer too.
    pub async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let result = match http_body_util::Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => self.dispatch(&parts, &body.to_bytes()),
            Err(_) => Err(Refusal::bad_request("the request body could not be read")),
        };
        Ok(result.unwrap_or_else(|refusal| refused(&refusal)))
    }

    fn dispatch(&self, parts: &http::request::Parts, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let path = parts.uri.path();
        let segments: Vec<String> =
            path.split('/').filter(|s| !s.is_empty()).map(|s| decoded(s, false)).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let ["healthz" | "livez" | "readyz", ..] = segments.as_slice() {
            let up = self.store.quorum();
            let status = if up { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            return Ok(text_answer(status, if up { "ok" } else { "[-]etcd failed: reason withheld" }));
        }
        let who = self.authenticate(&parts.headers)?;
        if !self.store.quorum() {
            return Err(Refusal::internal("etcdserver: request timed out"));
        }
        let accept = header_text(&parts.headers, header::ACCEPT);
        let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2");
        let found = match segments.as_slice() {
            ["api"] if aggregated => Some(discovery::aggregated(&self.store.kinds(), true)),
            ["apis"] if aggregated => Some(discovery::aggregated(&self.store.kinds(), false)),
            ["api"] => Some(discovery::core_versions()),
            ["apis"] => Some(discovery::group_list(&self.store.kinds())),
            ["api", version] => discovery::resource_list(&self.store.kinds(), "", version),
            ["version"] => Some(discovery::version(&self.version)),
            // No path of this server: not a refusal of the API, which serves no such group.
            ["apis", group, ..] if !self.store.serves(group) => {
                return Ok(text_answer(StatusCode::NOT_FOUND, "404 page not found\n"));
            }
            ["apis", group] => discovery::group(&self.store.kinds(), group),
            ["apis", group, version] => discovery::resource_list(&self.store.kinds(), group, version),
            ["api" | "apis", ..] => {
                let ask = self.ask(&segments, parts, accept)?;
                return self.resource(&who, &ask, parts, body);
            }
            other => return Err(Refusal::not_simulated(&format!("/{}", other.join("/")))),
        };
        let found = found.ok_or_else(Refusal::unserved)?;
        let mut answer = json_answer(StatusCode::OK, &found);
        if aggregated {
            let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        }
        Ok(answer)
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let authorization = header_text(headers, header::AUTHORIZATION);
        if let Some(token) = authorization.strip_prefix("Bearer ") {
            return identity::by_token(&self.store, token.trim()).ok_or_else(Refusal::unauthorized);
        }
        self.caller.clone().ok_or_else(Refusal::unauthorized)
    }

    fn ask(&self, segments: &[&str], parts: &http::request::Parts, accept: String) -> Result<Ask, Refusal> {
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(Refusal::unserved()),
        };
        let (namespace, rest) = match rest {
            // `namespaces/<name>/status` is about the namespace, `namespaces/<name>/pods` about what is in it.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, inner @ ..] => (*namespace, inner),
            _ => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", String::new()),
            [plural, name] => (*plural, *name, String::new()),
            [plural, name, subresource @ ..] => (*plural, *name, subresource.join("/")),
            [] => return Err(Refusal::unserved()),
        };
        if plural == "watch" {
            return Err(Refusal::not_simulated("the deprecated /watch/ paths"));
        }
        if kinds::is_left_out(group, plural) {
            let dot = if group.is_empty() { "" } else { "." };
            return Err(Refusal::not_simulated(&format!("{plural}{dot}{group}")));
        }
        let kind = self.store.kind(group, plural).ok_or_else(Refusal::unserved)?;
        let version = kind.version(version).cloned().ok_or_else(Refusal::unserved)?;
        let agent = header_text(&parts.headers, header::USER_AGENT);
        let agent = agent.split(['/', ' ']).next().filter(|a| !a.is_empty()).unwrap_or("unknown").to_owned();
        Ok(Ask {
            namespace: if kind.namespaced { namespace.to_owned() } else { String::new() },
            kind,
            version,
            name: name.to_owned(),
            subresource,
            query: query(parts.uri.query().unwrap_or_default()),
            accept,
            agent,
        })
    }

    fn resource(
        &self,
        who: &Identity,
        ask: &Ask,
        parts: &http::request::Parts,
        body: &Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let watching = matches!(ask.query("watch"), "true" | "1");
        let verb = match (&parts.method, ask.name.is_empty()) {
            (&Method::GET, true) if watching => "watch",
            (&Method::GET, true) => "list",
            (&Method::GET, false) if watching => "watch",
            (&Method::GET, false) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, false) => "update",
            (&Method::PATCH, false) => "patch",
            (&Method::DELETE, false) => "delete",
            (&Method::DELETE, true) => "deletecollection",
            _ => return Err(Refusal::method_not_allowed()),
        };
        let content_type = header_text(&parts.headers, header::CONTENT_TYPE);
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let parsed = if body.is_empty() { Value::Null } else { parse(body, &content_type)? };
        identity::authorize(who, verb, &ask.kind, &ask.namespace, &ask.name, Some(&parsed))?;
        if ask.kind.namespaced
            && ask.namespace.is_empty()
            && matches!(verb, "create" | "update" | "patch" | "delete")
        {
            return Err(Refusal::method_not_allowed());
        }
        if !matches!(ask.subresource.as_str(), "" | "status") {
            return subresource::answer(&self.store, ask, verb, &parsed, &content_type);
        }
        if ask.subresource == "status" && !ask.version.status {
            return Err(Refusal::unserved());
        }
        match verb {
            "watch" => watch::answer(Watch::new(self.store.clone(), ask)?),
            "list" => self.list(ask),
            "get" => {
                let found = self.store.get(&ask.kind.id, &ask.namespace, &ask.name);
                let found = found.ok_or_else(|| Refusal::not_found(&ask.kind, &ask.name))?;
                Ok(json_answer(StatusCode::OK, &ask.present(&found)))
            }
            "create" => {
                let mut place = ask.place();
                place.name = text(&parsed, "/metadata/name");
                let made = self.store.create(&place, parsed, &ask.options())?;
                Ok(json_answer(StatusCode::CREATED, &ask.present(&made)))
            }
            "update" => {
                let made = self.store.replace(&ask.place(), parsed, &ask.options())?;
                Ok(json_answer(StatusCode::OK, &ask.present(&made)))
            }
            "patch" => {
                let change = patch_of(&content_type, parsed)?;
                let apply = matches!(change, Patch::Apply(_));
                if apply && ask.query("fieldManager").is_empty() {
                    let why = "Required value: is required for apply patch";
                    return Err(Refusal::patch_option("fieldManager", "FieldValueRequired", why));
                }
                if !apply && ask.query.contains_key("force") {
                    let why = "Forbidden: may not be specified for non-apply patch";
                    return Err(Refusal::patch_option("force", "FieldValueForbidden", why));
                }
                let (made, new) = self.store.patch(&ask.place(), &change, &ask.options())?;
                let status = if new { StatusCode::CREATED } else { StatusCode::OK };
                Ok(json_answer(status, &ask.present(&made)))
            }
            "delete" => {
                let removed = self.store.remove(&ask.place(), &removal(ask, &parsed))?;
                Ok(json_answer(StatusCode::OK, &removed_body(ask, &removed)))
            }
            _ => self.delete_all(ask, &parsed),
        }
    }

    fn selected(&self, ask: &Ask, at: Option<u64>) -> Result<(Vec<Arc<Value>>, u64), Refusal> {
        let labels = LabelSelector::parse(ask.query("labelSelector"))?;
        let fields = FieldSelector::of(&ask.kind, ask.query("fieldSelector"))?;
        let namespace = (!ask.namespace.is_empty()).then_some(ask.namespace.as_str());
        let (mut found, revision) = match at {
            None => self.store.snapshot(&ask.kind.id, namespace),
            Some(revision) => {
                let found = self.store.snapshot_at(&ask.kind.id, namespace, revision);
                (found.map_err(|oldest| Refusal::expired(revision, oldest))?, revision)
            }
        };
        found.retain(|object| labels.matches(object) && fields.matches(object));
        Ok((found, revision))
    }

    /// Takes one page out of a list; what is left is said in the list's metadata.
    fn page(ask: &Ask, after: &Option<PageKey>, found: &mut Vec<Arc<Value>>, revision: u64) -> Value {
        found.retain(|object| after.as_ref().is_none_or(|after| page_key(object) > *after));
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        let limit = ask.query("limit").parse().unwrap_or(0);
        if limit > 0 && found.len() > limit {
            let left = found.len() - limit;
            found.truncate(limit);
            let last = found.last().map(|object| page_key(object)).unwrap_or_default();
            metadata["continue"] = json!(STANDARD.encode(json!({"rv": revision, "after": last}).to_string()));
            // With a selector the real one cannot tell how many are left.
            if ask.query("labelSelector").is_empty() && ask.query("fieldSelector").is_empty() {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        metadata
    }

    fn list(&self, ask: &Ask) -> Result<Response<Body>, Refusal> {
        let (at, after) = match ask.query("continue") {
            "" => (None, None),
            token => {
                let read = STANDARD.decode(token).ok().and_then(|t| serde_json::from_slice::<Value>(&t).ok());
                let read = read.ok_or_else(|| {
                    Refusal::bad_request("continue key is not valid: illegal base64 data or not an object")
                })?;
                (read["rv"].as_u64(), Some((text(&read, "/after/0"), text(&read, "/after/1"))))
            }
        };
        let (mut found, revision) = self.selected(ask, at)?;
        let metadata = Self::page(ask, &after, &mut found, revision);
        let partial = ask.accept.contains("as=PartialObjectMetadataList");
        let items: Vec<_> = found
            .iter()
            .map(|object| {
                let mut item = ask.present(object);
                // The items of a built-in list do not repeat their type, which clients have stumbled over.
                if !ask.kind.custom
                    && !partial
                    && let Value::Object(map) = &mut item
                {
                    map.shift_remove("kind");
                    map.shift_remove("apiVersion");
                }
                item
            })
            .collect();
        let (kind, api_version) = if partial {
            ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
        } else {
            (format!("{}List", ask.kind.kind), ask.kind.api_version(&ask.version.name))
        };
        let list = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items});
        Ok(json_answer(StatusCode::OK, &list))
    }

    fn delete_all(&self, ask: &Ask, body: &Value) -> Result<Response<Body>, Refusal> {
        let (found, _) = self.selected(ask, None)?;
        for object in found {
            let mut place = ask.place();
            place.namespace = text(&object, "/metadata/namespace");
            place.name = text(&object, "/metadata/name");
            match self.store.remove(&place, &removal(ask, body)) {
                Err(refusal) if refusal.code != 404 => return Err(refusal),
                _ => {}
            }
        }
        self.list(ask)
    }
}

/// What lists are sorted by: namespace and name.
type PageKey = (String, String);

fn page_key(object: &Value) -> PageKey {
    (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

/// Reads a deletion's options out of query and body.
pub fn removal(ask: &Ask, body: &Value) -> Removal {
    let option = |key: &str| {
        body[key]
            .as_str()
            .map(str::to_owned)
            .or_else(|| ask.query.get(key).cloned())
            .filter(|v| !v.is_empty())
    };
    let precondition = |key: &str| body.pointer(&format!("/preconditions/{key}")).and_then(Value::as_str);
    Removal {
        dry_run: ask.query("dryRun") == "All"
            || body["dryRun"].as_array().is_some_and(|d| d.contains(&json!("All"))),
        grace_s: body["gracePeriodSeconds"].as_i64().or_else(|| ask.query("gracePeriodSeconds").parse().ok()),
        propagation: option("propagationPolicy"),
        uid: precondition("uid").map(str::to_owned),
        resource_version: precondition("resourceVersion").map(str::to_owned),
    }
}

fn removed_body(ask: &Ask, removed: &Removed) -> Value {
    match removed {
        Removed::Ending(object) => ask.present(object),
        Removed::Gone(object) if ask.kind.id == "pods" => ask.present(object),
        Removed::Gone(object) => {
            let mut details =
                json!({"name": ask.name, "kind": ask.kind.plural, "uid": text(object, "/metadata/uid")});
            if !ask.kind.group.is_empty() {
                details["group"] = json!(ask.kind.group);
            }
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        }
    }
}

/// Reads a patch by its content type.
pub fn patch_of(content_type: &str, body: Value) -> Result<Patch, Refusal> {
    Ok(match content_type {
        "application/apply-patch+yaml" | "application/apply-patch+json" => Patch::Apply(body),
        "application/merge-patch+json" => Patch::Merge(body),
        "application/json-patch+json" => Patch::Json(body),
        "application/strategic-merge-patch+json" => Patch::Strategic(body),
        other => return Err(Refusal::unsupported_patch(other)),
    })
}

fn parse(body: &Bytes, content_type: &str) -> Result<Value, Refusal> {
    if content_type.contains("protobuf") {
        return Err(Refusal::not_simulated("protobuf bodies"));
    }
    let read = if content_type.contains("yaml") && !body.starts_with(b"{") {
        std::str::from_utf8(body)
            .map_err(|e| e.to_string())
            .and_then(|t| serde_saphyr::from_str::<Value>(t).map_err(|e| e.to_string()))
    } else {
        serde_json::from_slice(body).map_err(|e| e.to_string())
    };
    read.map_err(|why| Refusal::bad_request(format!("the object provided is unrecognized: {why}")))
}

/// Returns a JSON answer.
pub fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    answer(status, "application/json", value.to_string())
}

/// Returns a plain text answer.
pub fn text_answer(status: StatusCode, text: &str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", text.to_owned())
}

/// Returns a refusal as an answer.
pub fn refused(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &refusal.body())
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

fn query(text: &str) -> HashMap<String, String> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            (decoded(key, true), decoded(value, true))
        })
        .collect()
}

/// Undoes percent-encoding; `+` is a space in queries only.
fn decoded(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                found.push(byte);
                at += 2;
            }
            (b'+', _) if plus => found.push(b' '),
            (byte, _) => found.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&found).into_owned()
}
