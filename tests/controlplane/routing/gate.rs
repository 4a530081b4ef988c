//! The tenants' proxy as the product renders it: its files for an inventory with keys, limits and certificates, the real Envoy on
//! them, and API keys signed here and not by the product, so that the two share no mistake.

use super::cluster::{object, render};
use super::envoy::Edge;
use super::sandbox::Sandbox;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use provision::state::SecretText;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The host name by which Envoy finds the router's pods.
pub const UPSTREAM: &str = "kthena-router-pods.kthena-system.svc.cluster.local";
/// The variable with the key that signs.
const SIGNING: &str = "PROVISION_TEST_SIGNING";
/// An hour, in seconds.
pub const HOUR: i64 = 3600;

/// What the inventory says of tenants; cases change it and look at what the proxy then does.
pub struct Config {
    /// The tenants' lines: gateway port, routes, and what a case adds.
    tenants: BTreeMap<&'static str, (u16, &'static str, String)>,
    signers: BTreeMap<&'static str, KeyPair>,
    revoked: BTreeSet<String>,
    /// Lists of keys that `provision key` wrote, by tenant.
    lists: BTreeMap<&'static str, String>,
    /// A certificate and its key, of every tenant that has `tls`.
    certificate: Option<(String, String)>,
}

fn signer() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key")
}

impl Config {
    /// The tenants of the cluster; two of them want keys.
    pub fn new() -> Self {
        let tenants = BTreeMap::from([
            ("search", (8081, "qwen: {to: {large: 100}}", String::new())),
            ("ads", (8082, "qwen: {to: {medium: 100}}", String::new())),
            ("mix", (8083, "blend: {to: {large: 70, medium: 30}}, tiny: {to: {small: 100}}", String::new())),
        ]);
        let signers = BTreeMap::from([("search", signer()), ("ads", signer())]);
        Self { tenants, signers, revoked: BTreeSet::new(), lists: BTreeMap::new(), certificate: None }
    }

    /// Adds lines to a tenant.
    pub fn with(mut self, tenant: &str, more: &str) -> Self {
        self.tenants.get_mut(tenant).expect("a tenant").2 += &format!(", {more}");
        self
    }

    /// Adds a tenant.
    pub fn add(&mut self, tenant: &'static str, port: u16, routes: &'static str) {
        self.tenants.insert(tenant, (port, routes, String::new()));
    }

    /// Removes a tenant.
    pub fn remove(&mut self, tenant: &str) {
        self.tenants.remove(tenant);
    }

    /// Revokes a key.
    pub fn revoke(&mut self, id: &str) {
        self.revoked.insert(id.to_owned());
    }

    /// Runs `provision key` on a folder with this inventory, and takes over the list of keys that it writes; returns what it said.
    pub fn run_key(&mut self, folder: &Path, verb: &str, tenant: &'static str, args: &[&str]) -> Value {
        let (site, files) = self.site();
        std::fs::create_dir_all(folder.join("keys")).expect("made");
        for (name, text) in files.iter().filter(|(name, _)| *name != format!("keys/{tenant}.yaml")) {
            std::fs::write(folder.join(name), text).expect("written");
        }
        std::fs::write(folder.join("site.yaml"), site).expect("written");
        let output = Command::new(env!("CARGO_BIN_EXE_provision"))
            .args(["key", verb, "-i", "site.yaml", "--output", "json", tenant])
            .args(args)
            .current_dir(folder)
            .env("HOME", folder)
            .env("XDG_STATE_HOME", folder)
            .env(SIGNING, self.signers[tenant].serialize_pem())
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let list = std::fs::read_to_string(folder.join(format!("keys/{tenant}.yaml"))).expect("a list");
        self.lists.insert(tenant, list);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Gives a tenant HTTPS.
    pub fn with_tls(mut self, tenant: &str, chain: &str, key: &str) -> Self {
        self.replace_certificate(chain, key);
        self.with(tenant, "tls: {certificate: chain.pem, key: {secret: tls}}")
    }

    /// Changes the certificate.
    pub fn replace_certificate(&mut self, chain: &str, key: &str) {
        self.certificate = Some((chain.to_owned(), key.to_owned()));
    }

    /// Returns the inventory, and the files beside it.
    pub fn site(&self) -> (String, Vec<(String, String)>) {
        let (before, _) = super::cluster::SITE.split_once("tenants:\n").expect("tenants");
        let mut text =
            format!("{before}secrets: {{signing: {{env: {SIGNING}}}, tls: {{env: UNUSED}}}}\ntenants:\n");
        let mut files = Vec::new();
        for (name, (port, routes, more)) in &self.tenants {
            let keys =
                if self.signers.contains_key(name) { ", keys: {signing: {secret: signing}}" } else { "" };
            text += &format!("  {name}: {{gateway: {{port: {port}}}, routes: {{{routes}}}{keys}{more}}}\n");
        }
        for (name, signer) in &self.signers {
            let mut keys = format!(
                "apiVersion: provision/v1\nkind: ApiKeys\npublicKey: {}\nkeys:\n  k-1: {{name: a, created: \"2026-01-01T00:00:00Z\", expires: \"2046-01-01T00:00:00Z\"}}\n",
                URL_SAFE_NO_PAD.encode(signer.der_bytes())
            );
            for id in &self.revoked {
                keys += &format!(
                    "  {id}: {{name: a, created: \"2026-01-01T00:00:00Z\", expires: \"2046-01-01T00:00:00Z\", revoked: \"2026-02-01T00:00:00Z\"}}\n"
                );
            }
            let keys = self.lists.get(name).unwrap_or(&keys).clone();
            files.push((format!("keys/{name}.yaml"), keys));
        }
        if let Some((chain, _)) = &self.certificate {
            files.push(("chain.pem".to_owned(), chain.clone()));
        }
        (text, files)
    }

    /// Returns the files of the proxy, those of the Secret among them, and its arguments.
    pub fn rendered(&self) -> (BTreeMap<String, String>, Vec<String>) {
        let (site, files) = self.site();
        let tokens =
            self.certificate.iter().map(|(_, key)| ("tls".to_owned(), SecretText::new(key.as_str())));
        let all = render(&site, &files, Vec::new(), tokens.collect());
        let map = object(&all, "ConfigMap/kthena-system/edge");
        let mut data: BTreeMap<String, String> = serde_json::from_value(map["data"].clone()).expect("texts");
        if self.certificate.is_some() {
            let secret = object(&all, "Secret/kthena-system/edge-tls");
            for (name, text) in secret["data"].as_object().expect("data") {
                let text = base64::engine::general_purpose::STANDARD.decode(text.as_str().expect("a text"));
                data.insert(name.clone(), String::from_utf8(text.expect("base64")).expect("a text"));
            }
        }
        let set = object(&all, "DaemonSet/kthena-system/edge");
        let args = &set["spec"]["template"]["spec"]["containers"][0]["args"];
        (data, serde_json::from_value(args.clone()).expect("texts"))
    }

    /// Starts Envoy on it, and waits until all tenants' ports listen.
    pub async fn start(&self) -> Edge {
        self.start_before("127.0.0.1").await
    }

    /// Starts Envoy in front of a router at an address.
    pub async fn start_before(&self, router: &str) -> Edge {
        let envoy = super::super::assets::envoy().expect("fetched before");
        let (data, args) = self.rendered();
        let replacements = [(UPSTREAM, router), ("/etc/edge-tls", "{dir}"), ("/etc/edge", "{dir}")];
        let ports: Vec<u16> = self.tenants.keys().map(|name| self.port(name)).collect();
        Edge::start(None, &envoy, &args, &data, &replacements, &ports).await
    }

    /// Starts Envoy in a pod's network, where it finds the router's pods by their name.
    pub async fn start_in(&self, sandbox: &Sandbox) -> Edge {
        let envoy = super::super::assets::envoy().expect("fetched before");
        let (data, args) = self.rendered();
        let replacements = [("/etc/edge-tls", "{dir}"), ("/etc/edge", "{dir}")];
        let ports: Vec<u16> = self.tenants.keys().map(|name| self.port(name)).collect();
        Edge::start(Some(sandbox), &envoy, &args, &data, &replacements, &ports).await
    }

    /// Gives a running Envoy the files of what is wanted now.
    pub fn update(&self, edge: &mut Edge) {
        edge.update(&self.rendered().0);
    }

    /// Returns the port at which a tenant's clients ask.
    pub fn port(&self, tenant: &str) -> u16 {
        let (site, files) = self.site();
        super::cluster::inventory(&site, &files).tenants[tenant].node_port
    }

    /// Returns a header with a key of a tenant that is good for an hour.
    pub fn key(&self, tenant: &str, id: &str) -> String {
        self.signed(
            tenant,
            &json!({"iss": "provision/routing", "aud": tenant, "jti": id, "exp": now() + HOUR}),
        )
    }

    /// Returns a header with claims that the signer of a tenant signed.
    pub fn signed(&self, tenant: &str, claims: &Value) -> String {
        bearer(&json!({"alg": "EdDSA", "typ": "JWT"}), claims, |text| {
            self.signers[tenant].sign(text).expect("signed")
        })
    }
}

/// Returns a header with a token.
pub fn bearer(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("Bearer {signed}.{signature}")
}

/// Returns the seconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
