//! The proxy in front of the router, and what a tenant asks of it: who may connect, API keys, limits, HTTPS.

use super::diagnostic::{Diagnostic, Problems};
use super::model::*;
use super::reader::{Reader, certificates, some_of, text, texts};
use super::tree::{Entry, Node, Value, document};
use crate::state::PoolName;
use base64::Engine as _;
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where clients are unless `allowFrom` says otherwise: private networks, shared address space (RFC 6598), loopback, link-local.
const PRIVATE: [&str; 9] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
];
/// Networks of one tenant: each is compared for every connection.
const MOST_NETWORKS: usize = 1_000;
/// Keys of one tenant: revoked ones are compared for every request (5,000 of them take two thirds of the requests per second).
pub const MOST_KEYS: usize = 5_000;
/// Requests in a minute that a limit may name.
const MOST_REQUESTS: u32 = 10_000_000;
/// Kilobytes of a request: each is held whole before it is sent on.
const MOST_KILOBYTES: u32 = 65_536;
/// Bytes of an Ed25519 public key (RFC 8032).
const PUBLIC_KEY: usize = 32;

/// Returns the file that lists a tenant's keys, beside the inventory.
pub fn keys_file(tenant: &str) -> PathBuf {
    PathBuf::from("keys").join(format!("{tenant}.yaml"))
}

/// Reads `router.edge`.
pub(super) fn proxy(router: &Node) -> Option<Edge> {
    let node = router.get("edge");
    if node.is_some_and(|node| matches!(node.value, Value::Text(_))) {
        return None;
    }
    let pools = texts(node, "pools").into_iter().map(PoolName::new).collect();
    Some(Edge { image: text(node, "image"), pools })
}

/// Reads `allowFrom`.
pub(super) fn allowed(r: &mut Reader<'_>, tenant: &Node) -> Vec<IpNet> {
    let parse = |text: &str| {
        text.parse::<IpNet>()
            .map(|n| n.trunc())
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
    };
    let Some(node) = tenant.get("allowFrom") else {
        return PRIVATE.iter().filter_map(|network| parse(network).ok()).collect();
    };
    let hint =
        "List networks, such as allowFrom: [203.0.113.0/24]; [0.0.0.0/0, \"::/0\"] lets everybody connect";
    let written = texts(Some(tenant), "allowFrom");
    if matches!(node.value, Value::List(_)) && (written.is_empty() || written.len() > MOST_NETWORKS) {
        let message = format!("`allowFrom` has {} networks; list 1 to {MOST_NETWORKS}", written.len());
        r.error("E-NETWORK", node, message, hint);
    }
    let mut networks = Vec::new();
    for text in written.iter().take(MOST_NETWORKS) {
        match parse(text) {
            Ok(network) => networks.push(network),
            Err(_) => r.error("E-NETWORK", node, format!("`{text}` is not a network"), hint),
        }
    }
    networks
}

/// Reads `limits`.
pub(super) fn limits(r: &mut Reader<'_>, tenant: &Node) -> TenantLimits {
    let node = tenant.get("limits");
    let mut count = |key: &str, most: u32| {
        let found: u32 = r.at_most(node, key, most)?;
        if found == 0
            && let Some(at) = node.and_then(|n| n.get(key))
        {
            r.error("E-VALUE", at, format!("`{key}` is 0"), "Use 1 or more, or remove the limit");
        }
        Some(found)
    };
    TenantLimits {
        requests: count("requestsPerMinute", MOST_REQUESTS),
        requests_per_key: count("requestsPerMinutePerKey", MOST_REQUESTS),
        request_kilobytes: count("requestKilobytes", MOST_KILOBYTES)
            .unwrap_or(TenantLimits::default().request_kilobytes),
    }
}

/// Reads `tls`.
pub(super) fn tls(
    r: &mut Reader<'_>,
    tenant: &Node,
    secrets: &BTreeMap<String, SecretSource>,
) -> Option<Tls> {
    let node = tenant.get("tls")?;
    let certificate = node.get("certificate")?;
    let chain = certificates(r, certificate, "tls.certificate");
    Some(Tls { chain, file: certificate.text()?, key: r.secret(Some(node), "key", secrets)? })
}

/// Reads `keys`, and the file that lists them.
pub(super) fn keys(
    r: &mut Reader<'_>,
    tenant: &Entry,
    secrets: &BTreeMap<String, SecretSource>,
) -> Option<ApiKeys> {
    let node = tenant.node.get("keys")?;
    let signing = r.secret(Some(node), "signing", secrets)?;
    let file = keys_file(&tenant.key);
    let mut keys = ApiKeys { signing, file, public: None, issued: BTreeMap::new() };
    let path = r.root.join(&keys.file);
    let create = format!(
        "Restore it if there was one, or revoked keys will be valid again. Only for the tenant's first key: \
         `provision key create -i INVENTORY {} --name NAME`",
        tenant.key
    );
    let text = match r.files.read(&path) {
        Ok(text) => text,
        Err(error) => {
            r.error("E-KEYS", node, format!("cannot read {}: {error}", path.display()), create);
            return Some(keys);
        }
    };
    match listed(&path.display().to_string(), text) {
        Ok((public, issued)) => {
            keys.public = Some(public);
            keys.issued = issued;
        }
        Err(why) => {
            let hint = "Restore the committed version; only provision should write this file";
            r.error("E-KEYS", node, format!("{}: {why}", path.display()), hint);
        }
    }
    Some(keys)
}

/// Reads a file of keys: the public key, and the keys by their ids.
fn listed(name: &str, list: String) -> Result<(String, BTreeMap<String, IssuedKey>), String> {
    let tree = document(name, list).map_err(|d| {
        d.all.first().map_or_else(|| "it is not YAML".to_owned(), |first| first.message.clone())
    })?;
    for (key, wanted) in [("apiVersion", "provision/v1"), ("kind", "ApiKeys")] {
        if text(Some(&tree), key).as_deref() != Some(wanted) {
            return Err(format!("`{key}` is not {wanted}"));
        }
    }
    let public = text(Some(&tree), "publicKey").ok_or("`publicKey` is missing")?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&public);
    if !bytes.is_ok_and(|bytes| bytes.len() == PUBLIC_KEY) {
        return Err("`publicKey` is not an Ed25519 key in base64url".to_owned());
    }
    let all = tree.get("keys").map(Node::entries).unwrap_or_default();
    if all.len() > MOST_KEYS {
        return Err(format!("{} keys; {MOST_KEYS} are possible", all.len()));
    }
    let key = |entry: &Entry| {
        let of = |key: &str| text(Some(&entry.node), key);
        let lacks = |key: &str| format!("key `{}` has no `{key}`", entry.key);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if entry.key.is_empty() || entry.key.len() > 64 || !entry.key.chars().all(plain) {
            return Err("a key's id has other characters than letters, digits and `-`".to_owned());
        }
        let issued = IssuedKey {
            name: of("name").ok_or_else(|| lacks("name"))?,
            created: of("created").ok_or_else(|| lacks("created"))?,
            expires: of("expires").ok_or_else(|| lacks("expires"))?,
            revoked: of("revoked"),
        };
        Ok((entry.key.clone(), issued))
    };
    Ok((public, all.iter().map(key).collect::<Result<_, String>>()?))
}

/// Returns what files beside the inventory say of tenants, as fields that a comparison shows.
pub(super) fn written(tenants: &BTreeMap<String, Tenant>) -> Vec<(String, WrittenField)> {
    let mut fields = Vec::new();
    for tenant in tenants.values() {
        let mut add = |field: &str, value: String, place: String| {
            fields.push((format!("tenants.{}.{field}", tenant.name), WrittenField { value, place }));
        };
        if let Some(keys) = &tenant.keys {
            let place = || keys.file.display().to_string();
            add("keys.publicKey", keys.public.clone().unwrap_or_default(), place());
            let revoked = keys.revoked();
            let revoked = if revoked.is_empty() { "none".to_owned() } else { revoked.join(", ") };
            add("keys.revoked", revoked, place());
        }
        if let Some(tls) = &tenant.tls {
            let sum: String = Sha256::digest(tls.chain.concat()).iter().map(|b| format!("{b:02x}")).collect();
            add("tls.certificate.sha256", sum, tls.file.clone());
        }
    }
    fields
}

/// What only the proxy does.
const OF_THE_PROXY: [&str; 4] = ["allowFrom", "keys", "limits", "tls"];

/// Checks what the proxy and the tenants ask of each other and of the pools.
pub(super) fn check(inventory: &Inventory, top: &Node, problems: &mut Problems) {
    let mut error = |code, path: &[&str], message: String, hint: &str| {
        problems.push(Diagnostic::error(code, message).at(&top.at(path).span).hint(hint));
    };
    let edge = inventory.router.as_ref().and_then(|router| router.edge.as_ref());
    let written = top.at(&["router"]).get("edge");
    // Of a word that is none of ours, only that is told.
    if edge.is_none() && written.and_then(Node::text).is_some_and(|word| word != "none") {
        return;
    }
    if let Some(pools) = written.and_then(|edge| edge.get("pools"))
        && matches!(&pools.value, Value::List(pools) if pools.is_empty())
    {
        let hint = "Name pools, or remove the field for all with workers";
        error("E-UNKNOWN-POOL", &["router", "edge", "pools"], "`pools` is empty".to_owned(), hint);
    }
    for name in edge.into_iter().flat_map(|edge| &edge.pools) {
        let path = ["router", "edge", "pools"];
        match inventory.pools.get(name) {
            Some(pool) if pool.role.is_worker() => {}
            Some(_) => error(
                "E-UNKNOWN-POOL",
                &path,
                format!("pool `{name}` runs no pods"),
                "Name pools with the role worker, controller+worker or single",
            ),
            None => {
                let hint = format!(
                    "Use one of the pools: {}",
                    some_of(inventory.pools.keys().map(PoolName::as_str))
                );
                error("E-UNKNOWN-POOL", &path, format!("unknown pool `{name}`"), &hint);
            }
        }
    }
    for tenant in inventory.tenants.values() {
        let at = |key| ["tenants", tenant.name.as_str(), key];
        if let (Some(_), None) = (&inventory.router, edge) {
            let node = top.at(&at("gateway")[..2]);
            for key in OF_THE_PROXY.into_iter().filter(|key| node.get(key).is_some()) {
                let hint = "Remove edge: none from `router`, or remove this field";
                error(
                    "E-NO-EDGE",
                    &at(key),
                    format!("`{key}` needs the proxy, but router.edge is none"),
                    hint,
                );
            }
            continue;
        }
        if tenant.keys.is_none() && tenant.limits.requests_per_key.is_some() {
            let message = "`requestsPerMinutePerKey` needs `keys`".to_owned();
            error(
                "E-KEYS",
                &at("limits"),
                message,
                "Add keys: {signing: {secret: NAME}}, or use requestsPerMinute",
            );
        }
        for served in tenant.routes.keys() {
            // The proxy compares names as they are written in requests, where clients escape other characters in their own ways.
            if !served.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')) {
                let hint = "Use letters, digits and punctuation without quotes and backslashes, such as Qwen/Qwen3-8B";
                error(
                    "E-VALUE",
                    &["tenants", &tenant.name, "routes", served],
                    format!("`{served}` is not a valid model name"),
                    hint,
                );
            }
        }
    }
}
