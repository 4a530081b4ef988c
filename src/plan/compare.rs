//! Compares two inventories without contacting hosts: the changes and their impact.

use super::ports::{self, PortMove};
use super::schedule::sizes;
use crate::catalog::{Catalog, K0sStep, Product};
use crate::inventory::{Accelerator, Host, HostState, Inventory, ModuleFlavour, Pool};
use crate::k0s;
use crate::state::PoolName;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A field with its value before and after.
pub type FieldChange = (String, String, String);

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
    /// Pools that come.
    pub new_pools: Vec<String>,
    /// Pools that go.
    pub gone_pools: Vec<String>,
    /// Roles next to the inventory whose files differ; only a lab or a plan shows the effect.
    pub roles: Vec<String>,
    /// Everything outside pools and hosts: field, before, after.
    pub site: Vec<FieldChange>,
    /// Tenants whose node port moves, which breaks their clients.
    pub ports: Vec<PortMove>,
    /// Hosts that are drained.
    pub drains: usize,
    /// Hosts that reboot.
    pub reboots: usize,
    /// Hosts on which a service restarts, by its name: `k0scontroller`, `k0sworker`, `nvidia-fabricmanager`.
    pub restarts: BTreeMap<String, usize>,
    /// Why the change cannot be carried out, each with its code.
    pub errors: Vec<String>,
    /// What to know before it is, each with its code.
    pub warnings: Vec<String>,
}

/// A host that changes.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct HostChange {
    /// Its name.
    pub host: String,
    /// Field, before, after.
    pub fields: Vec<FieldChange>,
}

/// A pool that changes, or whose hosts are disturbed by what changes elsewhere.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct PoolChange {
    /// Its name.
    pub pool: String,
    /// Active hosts in it.
    pub hosts: usize,
    /// Field, before, after.
    pub fields: Vec<FieldChange>,
    /// Its hosts that are drained.
    pub drains: usize,
    /// In so many waves, of up to so many hosts at once.
    pub waves: Option<(usize, usize)>,
    /// Its hosts that reboot.
    pub reboots: usize,
    /// Its hosts on which a service restarts, by its name.
    pub restarts: BTreeMap<String, usize>,
    /// What `capacity` counts: `GPUs` or `Neuron devices`.
    pub unit: String,
    /// Accelerators of the pool before, and the least that are up while it is carried out.
    pub capacity: Option<(usize, usize)>,
    /// Models that lose replicas for a time.
    pub models: Vec<String>,
    /// The same: model, replicas that may be down at once, all of them.
    pub replicas: Vec<(String, u32, u32)>,
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "(none)".to_owned(),
        other => other.to_string(),
    }
}

fn walk(path: &str, a: &Value, b: &Value, out: &mut Vec<FieldChange>) {
    match (a, b) {
        (a, b) if a == b => {}
        (Value::Object(x), Value::Object(y)) => {
            let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&below, x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), out);
            }
        }
        // Additions and removals of a whole object are reported field by field too.
        (Value::Object(x), Value::Null) if !x.is_empty() => {
            walk(path, a, &Value::Object(serde_json::Map::new()), out);
        }
        (Value::Null, Value::Object(y)) if !y.is_empty() => {
            walk(path, &Value::Object(serde_json::Map::new()), b, out);
        }
        (a, b) => out.push((path.to_owned(), shown(a), shown(b))),
    }
}

/// Returns the fields in which two serialisable things differ, by JSON path below `name`.
fn fields(name: &str, before: &impl Serialize, after: &impl Serialize) -> Vec<FieldChange> {
    let mut out = Vec::new();
    if let (Ok(a), Ok(b)) = (serde_json::to_value(before), serde_json::to_value(after)) {
        walk(name, &a, &b, &mut out);
    }
    out
}

/// Returns what differs outside pools and hosts; those are many and have their own sections.
fn site(before: &Inventory, after: &Inventory) -> Vec<FieldChange> {
    let mut all = fields("name", &before.name, &after.name);
    // Where known_hosts lies depends on where an inventory was read from.
    all.extend(
        fields("ssh", &before.ssh, &after.ssh).into_iter().filter(|(path, ..)| path != "ssh.known_hosts"),
    );
    all.extend(fields("network", &before.network, &after.network));
    all.extend(fields("registries", &before.registries, &after.registries));
    all.extend(fields("repositories", &before.repositories, &after.repositories));
    all.extend(fields("os", &before.os, &after.os));
    all.extend(fields("cluster", &before.cluster, &after.cluster));
    all.extend(fields("router", &before.router, &after.router));
    all.extend(fields("models", &before.models, &after.models));
    all.extend(fields("tenants", &before.tenants, &after.tenants));
    all.extend(fields("secrets", &before.secrets, &after.secrets));
    all
}

/// Compares two inventories; the catalog is that of the later one.
pub fn compare(before: &Inventory, after: &Inventory, catalog: &Catalog) -> InventoryDiff {
    let takes_part = |h: &&Host| h.state != HostState::Retired;
    let mut diff = InventoryDiff { name: after.name.clone(), ..InventoryDiff::default() };
    let mut sizes: BTreeMap<&PoolName, Size> = BTreeMap::new();
    for host in after.active() {
        let size = sizes.entry(&host.pool).or_default();
        size.all += 1;
        let was = before.hosts.get(&host.name);
        size.serving += usize::from(was.is_some_and(|h| h.state == HostState::Active && h.pool == host.pool));
    }
    for host in after.hosts.values().filter(takes_part) {
        match before.hosts.get(&host.name).filter(takes_part) {
            None => {
                diff.added.insert(host.name.to_string(), host.pool.to_string());
            }
            Some(old) if old != host => {
                diff.changed.push(HostChange { host: host.name.to_string(), fields: fields("", old, host) });
            }
            Some(_) => {}
        }
    }
    for host in before.hosts.values().filter(takes_part) {
        if after.hosts.get(&host.name).filter(takes_part).is_none() {
            diff.removed.insert(host.name.to_string(), host.pool.to_string());
        }
    }
    let reach = Reach {
        version: before.cluster.k0s_version != after.cluster.k0s_version,
        config: before.cluster.k0s_config != after.cluster.k0s_config
            || before.cluster.endpoint != after.cluster.endpoint,
    };
    for pool in after.pools.values() {
        let Some(old) = before.pools.get(&pool.name) else {
            diff.new_pools.push(pool.name.to_string());
            continue;
        };
        let size = sizes.get(&pool.name).copied().unwrap_or_default();
        let product = pool.accelerator.as_ref().and_then(|a| catalog.product(a.product()));
        let change = pool_change(after, old, pool, product.as_deref(), size, reach);
        diff.drains += change.drains;
        diff.reboots += change.reboots;
        for (service, hosts) in &change.restarts {
            *diff.restarts.entry(service.clone()).or_default() += hosts;
        }
        if !change.fields.is_empty() || change.drains + change.reboots > 0 || !change.restarts.is_empty() {
            diff.pools.push(change);
        }
    }
    let gone = before.pools.keys().filter(|name| !after.pools.contains_key(*name));
    diff.gone_pools = gone.map(ToString::to_string).collect();
    diff.site = site(before, after);
    let (from, to) = (&before.cluster.k0s_version, &after.cluster.k0s_version);
    if let Some(step) = K0sStep::between(from, to) {
        match step.refusal() {
            Some(why) => diff.errors.push(format!("[E-K0S-SKEW] k0s {from} -> {to} {why}")),
            None if step == K0sStep::PatchDown => diff.warnings.push(format!(
                "[W-K0S-DOWNGRADE] k0s {from} -> {to} is a downgrade to an earlier patch release"
            )),
            None => {}
        }
    }
    diff.ports = ports::between(before, after);
    diff
}

/// Active hosts of a pool.
#[derive(Clone, Copy, Default)]
struct Size {
    /// All of them, afterwards.
    all: usize,
    /// Those that were there before: only they can be drained.
    serving: usize,
}

/// What of the site's own settings reaches every host.
#[derive(Clone, Copy)]
struct Reach {
    /// The k0s release.
    version: bool,
    /// What controllers are configured with.
    config: bool,
}

/// Returns the services that restart on the hosts of a pool.
fn restarting(
    old: &Pool,
    pool: &Pool,
    product: Option<&Product>,
    version: bool,
    reach: Reach,
) -> Vec<&'static str> {
    let mut services = Vec::new();
    // With links between hosts, containers may lock memory, which is set in k0s's unit.
    if reach.version || (reach.config && pool.role.is_controller()) || old.is_linked() != pool.is_linked() {
        services.push(k0s::unit(pool.role.is_controller()).trim_end_matches(".service"));
    }
    if let Some(product) = product.filter(|_| version) {
        // No host was asked for its switches: boards of up to four have none (accelerators.md §1.7).
        let switch = pool.accelerator.as_ref().is_some_and(|a| a.count() > 4);
        services.extend(product.fabric_units(switch).iter().map(|unit| unit.trim_end_matches(".service")));
    }
    services
}

fn pool_change(
    after: &Inventory,
    old: &Pool,
    pool: &Pool,
    product: Option<&Product>,
    size: Size,
    reach: Reach,
) -> PoolChange {
    let version = driver(old) != driver(pool);
    let driver = version || flavour(old) != flavour(pool);
    // A host that runs it already need not; no host was asked.
    let kernel = pool.accelerator.is_some() && pool.kernel.is_some() && old.kernel != pool.kernel;
    let links = (old.efa.is_some(), old.rdma.is_some()) != (pool.efa.is_some(), pool.rdma.is_some());
    let split = |p: &Pool| p.accelerator.as_ref().and_then(Accelerator::mig).cloned();
    let drained =
        pool.role.is_worker() && (driver || kernel || links || split(old) != split(pool) || reach.version);
    let each = pool.accelerator.as_ref().map_or(0, |a| a.count());
    let units = pool.accelerator.as_ref().map_or(0, |a| a.offers().into_values().sum::<u64>() as u32);
    let hosts = size.serving;
    let down = pool.disruption.max_unavailable.of(size.all).min(hosts);
    let replicas: Vec<(String, u32, u32)> = after
        .models
        .values()
        .filter(|m| drained && m.pool == pool.name && m.replicas > 0)
        .map(|m| {
            // As many as fit on the hosts that may be down at once: the worst that the scheduler can have done.
            let on_a_host = units.checked_div(m.accelerators_per_replica).unwrap_or(1).max(1);
            (m.name.clone(), m.replicas.min(on_a_host * down as u32), m.replicas)
        })
        .collect();
    let each = each as usize;
    PoolChange {
        pool: pool.name.to_string(),
        hosts: size.all,
        fields: fields("", old, pool),
        drains: if drained { hosts } else { 0 },
        waves: Some(sizes(pool, pool.disruption.max_unavailable.of(size.all), hosts).0)
            .filter(|waves| drained && !waves.is_empty())
            .map(|waves| (waves.len(), waves.into_iter().max().unwrap_or_default())),
        reboots: if driver || kernel { hosts } else { 0 },
        restarts: restarting(old, pool, product, version, reach)
            .into_iter()
            .filter(|_| hosts > 0)
            .map(|service| (service.to_owned(), hosts))
            .collect(),
        unit: match pool.accelerator {
            Some(Accelerator::Neuron { .. }) => "Neuron devices".to_owned(),
            _ => "GPUs".to_owned(),
        },
        capacity: (drained && each > 0 && hosts > 0).then_some((hosts * each, (hosts - down) * each)),
        models: replicas.iter().map(|(name, ..)| name.clone()).collect(),
        replicas,
    }
}

fn driver(pool: &Pool) -> Option<&str> {
    match pool.accelerator.as_ref()? {
        Accelerator::Nvidia { driver, .. } => Some(driver),
        Accelerator::Neuron { sdk, .. } => Some(sdk),
    }
}

/// Returns the flavour of its kernel module, where the inventory asks for one.
fn flavour(pool: &Pool) -> Option<ModuleFlavour> {
    match pool.accelerator.as_ref()? {
        Accelerator::Nvidia { module, .. } => *module,
        Accelerator::Neuron { .. } => None,
    }
}

/// Returns the roles whose files differ; the maps hold each file's text by its path below `roles/`.
pub fn changed_roles(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let differ = before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path));
    let mut roles: Vec<String> =
        differ.map(|path| path.split('/').next().unwrap_or(path).to_owned()).collect();
    roles.sort();
    roles.dedup();
    roles
}

impl InventoryDiff {
    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.pools.is_empty()
            && self.new_pools.is_empty()
            && self.gone_pools.is_empty()
            && self.roles.is_empty()
            && self.site.is_empty()
    }

    /// Returns what it is about, in one line: `driver 580.126.09 → 580.178.04 on h100 (64 hosts); 2 hosts added`.
    pub fn headline(&self) -> String {
        let mut parts = Vec::new();
        for (path, before, after) in &self.site {
            if path == "cluster.k0s_version" {
                parts.push(format!("k0s {before} → {after}"));
            }
        }
        for pool in &self.pools {
            let versions = pool.fields.iter().filter_map(|(path, before, after)| {
                let what = path.strip_prefix("accelerator.")?.split_once('.')?.1;
                matches!(what, "driver" | "sdk").then(|| (what, before, after))
            });
            for (what, before, after) in versions {
                parts.push(format!(
                    "{what} {before} → {after} on {} ({} host{})",
                    pool.pool,
                    pool.hosts,
                    if pool.hosts == 1 { "" } else { "s" }
                ));
            }
        }
        if !self.ports.is_empty() {
            let n = self.ports.len();
            parts.push(format!(
                "breaking: node port{0} of {n} tenant{0} moved",
                if n == 1 { "" } else { "s" }
            ));
        }
        let counts =
            [(self.added.len(), "added"), (self.removed.len(), "removed"), (self.changed.len(), "changed")];
        for (n, what) in counts.into_iter().filter(|(n, _)| *n > 0) {
            parts.push(format!("{n} host{} {what}", if n == 1 { "" } else { "s" }));
        }
        if parts.is_empty() {
            let fields = self.site.len() + self.pools.iter().map(|p| p.fields.len()).sum::<usize>();
            parts.push(format!("{fields} field{}", if fields == 1 { "" } else { "s" }));
        }
        parts.join("; ")
    }
}
