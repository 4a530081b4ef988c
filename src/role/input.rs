//! What roles are made from, and what several of them ask it.

use crate::artifact::Lock;
use crate::catalog::Catalog;
use crate::inventory::{Host, Inventory};
use crate::k0s;
use crate::state::{Facts, Failure, FailureKind, SecretText};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The operating systems that NVIDIA's repository has folders for and that AWS tests its driver on, by their names in
/// NVIDIA's repository (accelerators.md §1.5, §2.2).
pub(super) const REPOSITORIES: [&str; 6] =
    ["debian12", "ubuntu2204", "ubuntu2404", "ubuntu2604", "rhel9", "amzn2023"];

/// Returns the name of a host's operating system in NVIDIA's repository. Rebuilds of RHEL use RHEL's.
pub(super) fn repository(facts: &Facts) -> Option<&'static str> {
    let slug = facts.os_slug();
    let like = facts.os.get("ID_LIKE").map(String::as_str).unwrap_or_default();
    let version = facts.os.get("VERSION_ID").map(String::as_str).unwrap_or_default();
    let name = match slug.as_str() {
        _ if like.split_whitespace().any(|l| l == "rhel") && version.split('.').next() == Some("9") => {
            "rhel9"
        }
        slug => slug,
    };
    REPOSITORIES.into_iter().find(|known| *known == name)
}

/// What roles are made from.
#[derive(Clone, Copy)]
pub struct RoleInput<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The catalog.
    pub catalog: &'a Catalog,
    /// The lock file.
    pub lock: &'a Lock,
    /// The host.
    pub host: &'a Host,
    /// Its own description.
    pub facts: &'a Facts,
    /// Secrets that files of roles hold, by name.
    pub secrets: &'a BTreeMap<String, SecretText>,
    /// The cluster exists already: a first controller that is new joins it instead of making one.
    pub joins: bool,
}

/// Returns a reason not to begin.
pub(super) fn stop(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Preflight, code, message)
}

/// Returns the address that etcd, kubelet and the API use.
pub(super) fn address(host: &Host) -> String {
    host.cluster_address.map(|a| a.to_string()).unwrap_or_else(|| host.address.clone())
}

/// Returns the IPv4 address of an interface.
pub(super) fn interface_address(facts: &Facts, interface: &str) -> Option<String> {
    let mut own =
        facts.addresses.iter().filter(|(name, address)| name == interface && !address.contains(':'));
    own.next().and_then(|(_, address)| address.split('/').next()).map(str::to_owned)
}

/// Returns the host's own address in the cluster: what is declared, else that of the pool's clusterInterface.
pub(super) fn own_address(input: &RoleInput<'_>) -> String {
    let pool = input.inventory.pool_of(input.host);
    let asked = pool.cluster_interface.as_ref().filter(|_| !input.host.node_ip);
    asked.and_then(|i| interface_address(input.facts, i)).unwrap_or_else(|| address(input.host))
}

/// Returns a locked artifact as a download to `path`.
pub(super) fn download(input: &RoleInput<'_>, name: &str, path: &str, mode: u32) -> Result<Value, Failure> {
    let locked = input.lock.get(name).ok_or_else(|| {
        stop("E-LOCK", format!("{name} is missing from provision.lock")).hint(
            "Run `provision lock`; if the catalog's hostArch excludes it, add your own row for the product",
        )
    })?;
    Ok(json!({"path": path, "urls": locked.urls, "sha256": locked.sha256, "mode": mode}))
}

/// Returns whether a host has yet to start k0s.
pub fn is_new(facts: &Facts) -> bool {
    !k0s::has_joined(facts)
}

/// Returns the day of a moment in seconds since 1970, in UTC.
pub(super) fn day(seconds: i64) -> String {
    let known = jiff::Timestamp::from_second(seconds);
    known.map_or_else(|_| "an unknown day".to_owned(), |t| t.strftime("%Y-%m-%d").to_string())
}
