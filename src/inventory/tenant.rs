//! A tenant: its gateway and routes, and what it asks of the proxy in front of the router.

use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A tenant: a gateway of its own and its routes.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Tenant {
    /// Its name, DNS-1123.
    pub name: String,
    /// The gateway's port inside the router.
    pub port: u16,
    /// The node port on which the gateway is reached: `gateway.nodePort`, or derived from `gateway.port`.
    pub node_port: u16,
    /// Routes by served model name.
    pub routes: BTreeMap<String, Route>,
    /// Networks whose clients may connect.
    pub allow_from: Vec<IpNet>,
    /// API keys; without, whoever may connect is answered.
    pub keys: Option<ApiKeys>,
    /// Limits of each proxy.
    pub limits: TenantLimits,
    /// HTTPS.
    pub tls: Option<Tls>,
}

/// A tenant's API keys: signed tokens. The private key that signs them stays with whoever issues them.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeys {
    /// The name of the secret with the private key.
    pub signing: String,
    /// The file beside the inventory that lists the keys.
    pub file: PathBuf,
    /// The public key, as base64url; `None` while the file does not exist.
    pub public: Option<String>,
    /// The keys that were made, by their ids. None of them is here: only what is known of it.
    pub issued: BTreeMap<String, IssuedKey>,
}

impl ApiKeys {
    /// Returns the ids of the keys that were revoked, in their order.
    pub fn revoked(&self) -> Vec<&str> {
        self.issued.iter().filter(|(_, key)| key.revoked.is_some()).map(|(id, _)| id.as_str()).collect()
    }
}

/// What is known of an API key.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct IssuedKey {
    /// Whose it is, or what it is for.
    pub name: String,
    /// When it was made, as written (RFC 3339).
    pub created: String,
    /// Until when it works, as written (RFC 3339).
    pub expires: String,
    /// When it was revoked, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

/// Limits of a tenant, each counted by every proxy on its own.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct TenantLimits {
    /// Requests in a minute.
    pub requests: Option<u32>,
    /// Requests of one key in a minute.
    pub requests_per_key: Option<u32>,
    /// Size of a request, in kilobytes of 1,024 bytes.
    pub request_kilobytes: u32,
}

impl Default for TenantLimits {
    fn default() -> Self {
        // A prompt of 128,000 tokens is under a megabyte; images in it are more.
        Self { requests: None, requests_per_key: None, request_kilobytes: 8192 }
    }
}

/// What a gateway presents to its clients.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The certificate and its chain, as PEM, one after the other.
    pub chain: Vec<String>,
    /// Their file, as written.
    pub file: String,
    /// The name of the secret with the private key.
    pub key: String,
}

/// Where requests for a served name go.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct Route {
    /// The first whose headers all match decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RouteRule>,
    /// Where all others go: model -> weight (0 to 100).
    pub to: BTreeMap<String, u32>,
}

impl Route {
    /// Returns the targets of every rule, those of all other requests last.
    pub fn targets(&self) -> impl Iterator<Item = &BTreeMap<String, u32>> {
        self.rules.iter().map(|rule| &rule.to).chain([&self.to])
    }

    /// Returns whether requests may go to a model.
    pub fn leads_to(&self, model: &str) -> bool {
        self.targets().any(|to| to.get(model).is_some_and(|weight| *weight > 0))
    }
}

/// Where requests with certain headers go.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct RouteRule {
    /// Its name.
    pub name: String,
    /// What each header's value has to be, by the header's name.
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Model -> weight (0 to 100).
    pub to: BTreeMap<String, u32>,
}

/// What a header's value has to be.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum HeaderMatch {
    /// This.
    Exact(String),
    /// Something that starts so.
    Prefix(String),
    /// Something in which this regular expression is found.
    Regex(String),
}
