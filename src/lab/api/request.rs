//! One request for a resource, taken apart: which object, which subresource, which options.

use super::{
    errors::ApiError,
    kinds,
    reference::ObjectRef,
    remove::DeleteOptions,
    selector::Selection,
    store::Store,
    write::{Options, Patch},
};
use http::{HeaderMap, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A request for a resource.
pub(super) struct ResourceRequest {
    /// What it is about; without a name the collection.
    pub at: ObjectRef,
    /// The subresource, or empty.
    pub subresource: String,
    query: BTreeMap<String, String>,
    /// Who writes when the query does not say.
    agent: String,
}

impl ResourceRequest {
    /// Reads a path below `/api` or `/apis`.
    pub(super) fn read(
        store: &Store,
        segments: &[&str],
        parts: &http::request::Parts,
    ) -> Result<Self, ApiError> {
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(ApiError::not_served()),
        };
        let (namespace, rest) = match rest {
            // `namespaces/<name>/status` is about the namespace, `namespaces/<name>/pods` about what is in it.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, inner @ ..] => (*namespace, inner),
            _ => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", String::new()),
            [plural, name, subresource @ ..] => (*plural, *name, subresource.join("/")),
            [] => return Err(ApiError::not_served()),
        };
        let kind = store.kind(group, plural).ok_or_else(|| {
            let what = kinds::id(group, plural);
            if kinds::is_built_in(group) { ApiError::not_simulated(&what) } else { ApiError::not_served() }
        })?;
        let version = kind.version(version).cloned().ok_or_else(ApiError::not_served)?;
        let agent = header_text(&parts.headers, header::USER_AGENT);
        let agent = agent.split(['/', ' ']).next().filter(|a| !a.is_empty()).unwrap_or("unknown").to_owned();
        let url =
            reqwest::Url::parse(&format!("http://api{}", parts.uri)).map_err(|_| ApiError::not_served())?;
        let query = url.query_pairs().into_owned().collect();
        let namespace = if kind.namespaced { namespace.to_owned() } else { String::new() };
        Ok(Self {
            at: ObjectRef { kind, version, namespace, name: name.to_owned() },
            subresource,
            query,
            agent,
        })
    }

    /// Returns a query's value, or nothing.
    pub(super) fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    /// Returns what a list or a watch is about; one of an object selects it by its name.
    pub(super) fn selection(&self) -> Result<Selection, ApiError> {
        let name = format!("metadata.name={}", self.at.name);
        let fields = if self.at.name.is_empty() { self.query("fieldSelector") } else { &name };
        Selection::parse(&self.at.namespace, self.query("labelSelector"), fields)
    }

    /// Returns the options of a write.
    pub(super) fn options(&self) -> Options {
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

    /// Returns the options of a deletion, out of query and body.
    pub(super) fn delete_options(&self, body: &Value) -> Result<DeleteOptions, ApiError> {
        let propagation = body["propagationPolicy"].as_str().unwrap_or(self.query("propagationPolicy"));
        if !matches!(propagation, "" | "Background") {
            return Err(ApiError::not_simulated(&format!("propagationPolicy {propagation}")));
        }
        let precondition = |key: &str| body["preconditions"][key].as_str().map(str::to_owned);
        let grace = self.query("gracePeriodSeconds").parse().ok();
        Ok(DeleteOptions {
            dry_run: self.query("dryRun") == "All" || body["dryRun"] == json!(["All"]),
            grace_s: body["gracePeriodSeconds"].as_i64().or(grace),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        })
    }

    /// Returns the patch in a body of a content type.
    pub(super) fn patch(&self, content_type: &str, body: Value) -> Result<Patch, ApiError> {
        match content_type {
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                if self.query("fieldManager").is_empty() {
                    return Err(ApiError::no_field_manager());
                }
                Ok(Patch::Apply(body))
            }
            "application/merge-patch+json" => Ok(Patch::Merge(body)),
            "application/strategic-merge-patch+json" if !self.at.kind.custom => Ok(Patch::Strategic(body)),
            "application/json-patch+json" => Err(ApiError::not_simulated("JSON patches")),
            _ => Err(ApiError::unsupported_patch()),
        }
    }
}

/// Returns a header's text, or nothing.
pub(super) fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}
