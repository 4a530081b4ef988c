//! The proxy in front of the router: Envoy with files of our own, one listener per tenant. It decides which client may use which
//! model; the router only chooses among the pods of a model.

use super::engine::toleration;
use super::input::{ServingError, ServingInput};
use super::manifests::{EDGE_FILES, EDGE_START, EDGE_TENANT_FILES, digest};
use crate::catalog::POOL_LABEL;
use crate::inventory::{Edge, Inventory, Tenant};
use crate::state::{ObjectId, ResourceId};
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The headless Service of the router's pods: each has an address of its own, so that a request which one refuses can go to another.
const ROUTER_PODS: &str = "kthena-router-pods.kthena-system.svc";
/// The domain of the cluster unless k0s is told another.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The largest ConfigMap, in bytes (the API's own bound is 1 MiB, for keys and values together).
const MOST_FILES: usize = 1 << 20;

/// What the proxy can hold at least of a request or an answer, in bytes: a limit on requests does not limit answers.
const LEAST_BUFFER: u64 = 8 << 20;

/// What the proxy says when it refuses a request itself, in OpenAI's terms: status, code, kind, words.
const REPLIES: [(u16, &str, &str, &str); 15] = [
    (400, "invalid_request", "invalid_request_error", "The request is not valid HTTP."),
    (401, "invalid_api_key", "invalid_request_error", "The API key is missing, expired or not valid here."),
    (403, "invalid_api_key", "invalid_request_error", "The API key was revoked, or is of another tenant."),
    (
        404,
        "not_found",
        "invalid_request_error",
        "There is nothing at this address. Requests go to /v1/chat/completions, /v1/completions and /v1/models.",
    ),
    (405, "method_not_allowed", "invalid_request_error", "This method is not served."),
    (408, "timeout", "invalid_request_error", "The request did not arrive in time."),
    (413, "request_too_large", "invalid_request_error", "The request is larger than this tenant may send."),
    (415, "invalid_request", "invalid_request_error", "The request is not of a kind that is served here."),
    (
        426,
        "invalid_request",
        "invalid_request_error",
        "The request is of a version of HTTP that is not served.",
    ),
    (
        429,
        "rate_limit_exceeded",
        "requests",
        "Too many requests. Try again after the seconds in Retry-After.",
    ),
    (431, "invalid_request", "invalid_request_error", "The request has too many headers, or too long ones."),
    (500, "internal_error", "server_error", "The request could not be handled."),
    (501, "invalid_request", "invalid_request_error", "The request is encoded in a way that is not served."),
    (503, "unavailable", "server_error", "The model cannot be reached now. Try again."),
    (504, "timeout", "server_error", "The model did not answer in time."),
];

/// Returns the issuer of an inventory's keys: those of another inventory's tenant with the same name are not valid here.
pub fn issuer(inventory: &Inventory) -> String {
    format!("provision/{}", inventory.name)
}

/// Returns what a tenant's files are filled with.
fn tenant(inventory: &Inventory, tenant: &Tenant) -> Value {
    // As a name is written in a request, quotes included.
    let served: BTreeMap<String, bool> =
        tenant.routes.keys().map(|name| (Value::from(name.as_str()).to_string(), true)).collect();
    let list: Vec<Value> = tenant
        .routes
        .keys()
        .map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": tenant.name}))
        .collect();
    // `provision` itself connects from a node that runs the proxy, through its bridge, which is in the pod network. Hosts are not
    // listed here: a changed listener cuts streams.
    let mut allowed = tenant.allow_from.clone();
    allowed.push(inventory.cluster.pod_cidr);
    let allowed = ipnet::IpNet::aggregate(&allowed);
    let limits = tenant.limits;
    let most_bytes = u64::from(limits.request_kilobytes) * 1024;
    json!({
        "name": tenant.name,
        "port": tenant.port,
        "node_port": tenant.node_port,
        "allow_from": allowed.iter().map(|n| json!({"address": n.network(), "length": n.prefix_len()})).collect::<Vec<_>>(),
        "auth": tenant.keys.as_ref().map(|keys| json!({
            "issuer": issuer(inventory),
            "jwks": json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "x": keys.public}]}).to_string(),
            "revoked": keys.revoked(),
        })),
        "limits": (limits.requests.is_some() || limits.requests_per_key.is_some()).then(|| json!({
            // The limiter wants one for everybody; without a limit it is more than a node answers.
            "tenant": limits.requests.unwrap_or(u32::MAX),
            "key": limits.requests_per_key,
        })),
        "most_bytes": most_bytes,
        "buffer_bytes": most_bytes.max(LEAST_BUFFER),
        "served": served,
        "list": json!({"object": "list", "data": list}).to_string(),
        "tls": tenant.tls.is_some(),
    })
}

/// Returns the name of a file of the proxy for one tenant; `of` is what it is about, such as `keys`.
pub fn proxy_file(of: &str, tenant: &str) -> String {
    format!("{of}-{tenant}.yaml")
}

/// Returns whether a resource is the ConfigMap with the proxy's files.
pub fn is_proxy_files(id: &ResourceId) -> bool {
    let is = |o: &ObjectId| {
        (o.group.as_str(), o.kind.as_str(), o.namespace.as_str(), o.name.as_str())
            == ("", "ConfigMap", "kthena-system", "edge")
    };
    matches!(id, ResourceId::Object(object) if is(object))
}

/// Returns the files of the proxy, by name.
fn files(inventory: &Inventory) -> Result<BTreeMap<String, String>, ServingError> {
    let tenants: Vec<Value> = inventory.tenants.values().map(|t| tenant(inventory, t)).collect();
    let mut files: BTreeMap<String, String> =
        EDGE_START.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let reply = |(status, code, kind, message)| json!({"status": status, "code": code, "type": kind, "message": message});
    let domain = inventory.cluster.k0s_config.pointer("/spec/network/clusterDomain").and_then(Value::as_str);
    let upstream = format!("{ROUTER_PODS}.{}", domain.unwrap_or(CLUSTER_DOMAIN));
    let replies: Vec<Value> = REPLIES.into_iter().map(reply).collect();
    for (name, template) in &EDGE_FILES {
        files.insert(
            (*name).to_owned(),
            template.text(&json!({"tenants": tenants, "upstream": upstream, "replies": replies}))?,
        );
    }
    for tenant in &tenants {
        for (name, template) in &EDGE_TENANT_FILES {
            let wanted = match *name {
                "keys" | "revoked" => !tenant["auth"].is_null(),
                "tls" => tenant["tls"] == true,
                _ => true,
            };
            if wanted {
                let file = proxy_file(name, tenant["name"].as_str().unwrap_or_default());
                files.insert(file, template.text(&json!({"tenant": tenant}))?);
            }
        }
    }
    Ok(files)
}

/// Returns what the template of the proxy's objects is filled with.
pub(super) fn context(input: &ServingInput<'_>, edge: &Edge, image: &str) -> Result<Value, ServingError> {
    let inventory = input.inventory;
    let pools: Vec<_> = inventory.pools.values().filter(|pool| inventory.has_gateways(&pool.name)).collect();
    let taints: BTreeSet<&str> = pools.iter().flat_map(|pool| &pool.taints).map(String::as_str).collect();
    // A tenant's first certificate is in another volume, which may be updated after the files that name it: only a new pod has both.
    let https =
        inventory.tenants.values().filter(|tenant| tenant.tls.is_some()).map(|tenant| tenant.name.as_str());
    let start: String = EDGE_START.iter().map(|(_, text)| *text).chain(https).collect();
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let certificate = |tenant: &Tenant| {
        let tls = tenant.tls.as_ref()?;
        let key = input.tokens.get(&tls.key).map(|key| encode(key.expose()));
        Some(json!({"tenant": tenant.name, "chain": encode(&tls.chain.concat()), "key": key}))
    };
    let secrets: Vec<Value> = inventory.tenants.values().filter_map(certificate).collect();
    let files = files(inventory)?;
    let bytes: usize = files.iter().map(|(name, text)| name.len() + text.len()).sum();
    if bytes > MOST_FILES {
        return Err(ServingError::TooLarge { bytes, most: MOST_FILES });
    }
    Ok(json!({
        "image": image,
        "files": files,
        "start_digest": digest(&start),
        "pool_label": POOL_LABEL,
        "pools": if edge.pools.is_empty() { Vec::new() } else { pools.iter().map(|pool| pool.name.as_str()).collect() },
        "tolerations": taints.into_iter().map(toleration).collect::<Vec<_>>(),
        "tenants": inventory.tenants.values().map(|t| json!({"name": t.name, "port": t.port, "node_port": t.node_port})).collect::<Vec<_>>(),
        "certificates": secrets,
        // All private keys or none: applying the Secret without one of them would remove it.
        "certificates_known": secrets.iter().all(|s| !s["key"].is_null()),
    }))
}
