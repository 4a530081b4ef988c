//! Outbound access of hosts: proxy and certificates for apt, dnf, downloads and k0s.

use super::input::RoleInput;
use crate::state::PackageManager;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Returns proxy exceptions: those of the inventory, and what never leaves the cluster. Not each host:
/// with them in it, adding a host would restart k0s on all; `validate` wants them covered by the inventory's own list.
fn no_proxy(input: &RoleInput<'_>) -> Vec<String> {
    let cluster = &input.inventory.cluster;
    let ours = ["localhost", "127.0.0.1", "::1", ".svc", ".cluster.local"].map(str::to_owned);
    let networks = [cluster.pod_cidr.to_string(), cluster.service_cidr.to_string()];
    input.inventory.network.no_proxy.iter().cloned().chain(ours).chain(networks).collect()
}

/// Returns `network`: the proxy, and the certificates as files of the host's trust store.
pub(super) fn network(input: &RoleInput<'_>) -> Value {
    let network = &input.inventory.network;
    let dnf = input.facts.package_manager == Some(PackageManager::Dnf);
    let (folder, suffix, store, update) = match dnf {
        true => {
            ("/etc/pki/ca-trust/source/anchors", "pem", "/etc/pki/tls/certs/ca-bundle.crt", "update-ca-trust")
        }
        false => (
            "/usr/local/share/ca-certificates",
            "crt",
            "/etc/ssl/certs/ca-certificates.crt",
            "update-ca-certificates",
        ),
    };
    // One file a certificate: Debian's tool looks at the first of a file only.
    let certificates: Vec<Value> = network
        .ca_bundle
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let body: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
            json!({"path": format!("{folder}/provision-{}.{suffix}", n + 1), "text": text, "body": body})
        })
        .collect();
    let no_proxy = no_proxy(input);
    // apt knows hosts by name only, no networks.
    let direct: Vec<&String> =
        no_proxy.iter().filter(|n| !n.contains('/') && !n.starts_with(['.', ':'])).collect();
    json!({
        "proxy": network.proxy,
        "no_proxy": no_proxy.join(","),
        "direct": direct,
        "certificates": certificates,
        "store": store,
        "update": update,
        "files": format!("{folder}/provision-*.{suffix}"),
    })
}

/// Returns the unit drop-in that gives k0s the proxy, if there is one: containerd and kubelet inherit it.
pub(super) fn k0s_drop_in(input: &RoleInput<'_>) -> Option<String> {
    let proxy = input.inventory.network.proxy.as_ref()?;
    // In a unit `%` is a specifier.
    let line = |name: &str, value: &str| format!("Environment=\"{name}={}\"\n", value.replace('%', "%%"));
    let no_proxy = no_proxy(input).join(",");
    Some(format!(
        "[Service]\n{}{}{}",
        line("HTTP_PROXY", proxy),
        line("HTTPS_PROXY", proxy),
        line("NO_PROXY", &no_proxy)
    ))
}

/// Returns a digest of the trusted certificates: Go programs read the store once, when they start.
pub(super) fn certificates_digest(input: &RoleInput<'_>) -> String {
    let mut digest = Sha256::new();
    for text in &input.inventory.network.ca_bundle {
        digest.update(text.as_bytes());
    }
    match input.inventory.network.ca_bundle.is_empty() {
        true => String::new(),
        false => digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect(),
    }
}
