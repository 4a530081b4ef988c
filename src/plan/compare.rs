//! Two inventories compared, with no host touched: what changes, and how far it reaches.

use crate::inventory::{Accelerator, Host, HostState, Inventory, Pool};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// What differs between two inventories.
#[derive(Clone, PartialEq, Serialize, Debug, Default)]
pub struct InventoryDiff {
    /// The inventory's name.
    pub name: String,
    /// Hosts that come, with their pools.
    pub added: BTreeMap<String, String>,
    /// Hosts that go, with their pools.
    pub removed: BTreeMap<String, String>,
    /// Hosts that change.
    pub changed: Vec<HostChange>,
    /// Pools that change.
    pub pools: Vec<PoolChange>,
    /// Everything outside pools and hosts: field, before, after.
    pub site: Vec<(String, String, String)>,
    /// Hosts that are drained.
    pub drains: usize,
    /// Hosts that reboot.
    pub reboots: usize,
    /// Hosts on which k0s restarts.
    pub restarts: usize,
}

/// A host that changes.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct HostChange {
    /// Its name.
    pub host: String,
    /// Field, before, after.
    pub fields: Vec<(String, String, String)>,
}

/// A pool that changes.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct PoolChange {
    /// Its name.
    pub pool: String,
    /// Active hosts in it.
    pub hosts: usize,
    /// Field, before, after.
    pub fields: Vec<(String, String, String)>,
    /// Accelerators of the pool before, and the least that are up while it is carried out.
    pub capacity: Option<(usize, usize)>,
    /// Models that lose replicas for a time.
    pub models: Vec<String>,
}

/// Returns the fields in which two serialisable things differ, by JSON path.
fn fields(before: &impl Serialize, after: &impl Serialize, skip: &[&str]) -> Vec<(String, String, String)> {
    let json = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "(none)".to_owned(),
        other => other.to_string(),
    };
    fn walk(
        path: &str,
        a: &serde_json::Value,
        b: &serde_json::Value,
        out: &mut Vec<(String, serde_json::Value, serde_json::Value)>,
    ) {
        match (a, b) {
            (serde_json::Value::Object(x), serde_json::Value::Object(y)) => {
                let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
                keys.sort();
                keys.dedup();
                for key in keys {
                    let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let none = serde_json::Value::Null;
                    walk(&below, x.get(key).unwrap_or(&none), y.get(key).unwrap_or(&none), out);
                }
            }
            (a, b) if a != b => out.push((path.to_owned(), a.clone(), b.clone())),
            _ => {}
        }
    }
    let (Ok(a), Ok(b)) = (serde_json::to_value(before), serde_json::to_value(after)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    walk("", &a, &b, &mut out);
    out.into_iter()
        .filter(|(path, ..)| !skip.iter().any(|s| path == s || path.starts_with(&format!("{s}."))))
        .map(|(path, a, b)| (path, json(&a), json(&b)))
        .collect()
}

/// Compares two inventories.
pub fn compare(before: &Inventory, after: &Inventory) -> InventoryDiff {
    let takes_part = |h: &&Host| h.state != HostState::Retired;
    let mut diff = InventoryDiff { name: after.name.clone(), ..InventoryDiff::default() };
    for host in after.hosts.values().filter(takes_part) {
        match before.hosts.get(&host.name).filter(takes_part) {
            None => {
                diff.added.insert(host.name.to_string(), host.pool.to_string());
            }
            Some(old) if old != host => {
                let changed = fields(old, host, &[]);
                diff.changed.push(HostChange { host: host.name.to_string(), fields: changed });
            }
            Some(_) => {}
        }
    }
    for host in before.hosts.values().filter(takes_part) {
        if after.hosts.get(&host.name).filter(takes_part).is_none() {
            diff.removed.insert(host.name.to_string(), host.pool.to_string());
        }
    }
    let k0s = before.cluster.k0s_version != after.cluster.k0s_version;
    for pool in after.pools.values() {
        let hosts = after.hosts_of(&pool.name).count();
        let Some(old) = before.pools.get(&pool.name) else { continue };
        let changed = fields(old, pool, &[]);
        let driver = driver(old) != driver(pool);
        if driver {
            diff.reboots += hosts;
            diff.drains += hosts;
        }
        if k0s {
            diff.restarts += hosts;
            diff.drains += if pool.role.is_worker() && !driver { hosts } else { 0 };
        }
        if changed.is_empty() && !k0s {
            continue;
        }
        let disrupted = driver || (k0s && pool.role.is_worker());
        let per_host = pool.accelerator.as_ref().map_or(0, |a| a.count() as usize);
        let down = pool.disruption.max_unavailable.of(hosts).min(hosts);
        diff.pools.push(PoolChange {
            pool: pool.name.to_string(),
            hosts,
            fields: changed,
            capacity: (disrupted && per_host > 0).then_some((hosts * per_host, (hosts - down) * per_host)),
            models: if disrupted {
                after.models.values().filter(|m| m.pool == pool.name).map(|m| m.name.clone()).collect()
            } else {
                Vec::new()
            },
        });
    }
    diff.site = fields(&site(before), &site(after), &["ssh.known_hosts"]);
    diff
}

/// Returns all of an inventory but its pools and hosts, and where it lies: thousands of hosts are not made into JSON to be
/// left out again. A field that is added to inventories must be given its place here, or this does not compile.
fn site(inventory: &Inventory) -> serde_json::Value {
    let Inventory {
        name,
        root: _,
        digest: _,
        ssh,
        network,
        registries,
        os,
        cluster,
        pools: _,
        hosts: _,
        router,
        models,
        tenants,
        secrets,
        roles_dir: _,
        catalog_dir: _,
    } = inventory;
    json!({"name": name, "ssh": ssh, "network": network, "registries": registries, "os": os, "cluster": cluster,
        "router": router, "models": models, "tenants": tenants, "secrets": secrets})
}

fn driver(pool: &Pool) -> Option<&str> {
    match pool.accelerator.as_ref()? {
        Accelerator::Nvidia { driver, .. } => Some(driver),
        Accelerator::Neuron { sdk, .. } => Some(sdk),
    }
}

impl InventoryDiff {
    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.pools.is_empty()
            && self.site.is_empty()
    }
}
