//! Compares two inventories without contacting hosts: the changes and their impact.

use super::api_keys;
use super::policy::PolicyReport;
use super::ports::{self, PortMove};
use super::schedule::sizes;
use crate::catalog::{Catalog, K0sStep, Product};
use crate::inventory::{Accelerator, Host, HostState, Inventory, ModuleFlavour, Pool};
use crate::k0s;
use crate::state::PoolName;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A field that differs, named as the inventory spells it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, JsonSchema, Debug)]
pub struct FieldChange {
    /// The field: `disruption.maxUnavailable`.
    pub name: String,
    /// Its value before; `None` if it was not set.
    pub before: Option<String>,
    /// Its value after; `None` if it is not set.
    pub after: Option<String>,
    /// Where the later value stands, or the earlier one if it is gone: `inventory.yaml:12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What differs between two inventories.
#[derive(Clone, PartialEq, Serialize, JsonSchema, Debug, Default)]
pub struct InventoryDiff {
    /// The inventory's name.
    pub name: String,
    /// Hosts that come, with their pools.
    pub added: BTreeMap<String, String>,
    /// Hosts that are no longer in the inventory, with their pools: nothing is done to them or to their nodes.
    pub removed: BTreeMap<String, String>,
    /// Hosts that retire, with their pools: their nodes are drained and deleted.
    pub retired: BTreeMap<String, String>,
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
    /// What differs outside pools and hosts.
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
    /// What policies say of it, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyReport>,
}

/// A host that changes.
#[derive(Clone, PartialEq, Serialize, JsonSchema, Debug)]
pub struct HostChange {
    /// Its name.
    pub host: String,
    /// What differs.
    pub fields: Vec<FieldChange>,
    /// Where it stands: `inventory.yaml:12`, `hosts.csv:3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// A pool that changes, or whose hosts are disturbed by what changes elsewhere.
#[derive(Clone, PartialEq, Serialize, JsonSchema, Debug)]
pub struct PoolChange {
    /// Its name.
    pub pool: String,
    /// Active hosts in it.
    pub hosts: usize,
    /// What differs.
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

/// Returns what differs among the written fields below a prefix, which is left out of their names.
fn fields(before: &Inventory, after: &Inventory, wanted: impl Fn(&str) -> Option<&str>) -> Vec<FieldChange> {
    let (old, new) = (&before.written.fields, &after.written.fields);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |path: &String| {
        let (was, is) = (old.get(path), new.get(path));
        let name = wanted(path).filter(|_| was.map(|f| &f.value) != is.map(|f| &f.value))?;
        Some(FieldChange {
            name: name.to_owned(),
            before: was.map(|f| f.value.clone()),
            after: is.map(|f| f.value.clone()),
            place: is.or(was).map(|f| f.place.clone()),
        })
    };
    names.into_iter().filter_map(change).collect()
}

/// Returns what a host is, field by field.
fn host_fields(host: &Host) -> BTreeMap<String, String> {
    let state = serde_json::to_value(host.state).unwrap_or_default();
    let fields = [
        ("pool", Some(host.pool.to_string())),
        ("address", Some(host.address.clone())),
        ("port", host.port.map(|port| port.to_string())),
        ("user", host.user.clone()),
        ("clusterAddress", host.cluster_address.filter(|_| host.node_ip).map(|a| a.to_string())),
        ("state", state.as_str().map(str::to_owned)),
        ("reason", host.reason.clone()),
        ("until", host.until.clone()),
        ("rack", host.rack.clone()),
        ("bmc", host.bmc.clone()),
        ("serial", host.serial.clone()),
    ];
    let labels = host.labels.iter().map(|(key, value)| (format!("labels.{key}"), value.clone()));
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).chain(labels).collect()
}

/// Returns how a host differs.
fn host_change(old: &Host, host: &Host, place: Option<&String>) -> HostChange {
    let (was, is) = (host_fields(old), host_fields(host));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let change = |name: &String| {
        let (before, after) = (was.get(name).cloned(), is.get(name).cloned());
        (before != after).then(|| FieldChange { name: name.clone(), before, after, place: None })
    };
    HostChange {
        host: host.name.to_string(),
        fields: names.into_iter().filter_map(change).collect(),
        place: place.cloned(),
    }
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
                diff.changed.push(host_change(old, host, after.written.hosts.get(&host.name)));
            }
            Some(_) => {}
        }
    }
    for host in before.hosts.values().filter(takes_part) {
        let (name, pool) = (host.name.to_string(), host.pool.to_string());
        match after.hosts.get(&host.name) {
            None => drop(diff.removed.insert(name, pool)),
            Some(now) if now.state == HostState::Retired => {
                let works = before.pools.get(&host.pool).is_some_and(|p| p.role.is_worker());
                diff.drains += usize::from(works);
                diff.retired.insert(name, pool);
            }
            Some(_) => {}
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
        let change = pool_change((before, after), old, pool, product.as_deref(), size, reach);
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
    diff.site = fields(before, after, |path| (!path.starts_with("pools.")).then_some(path));
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
    diff.warnings.extend(api_keys::between(before, after));
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
    (before, after): (&Inventory, &Inventory),
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
        fields: fields(before, after, |path| {
            path.strip_prefix("pools.")?.strip_prefix(pool.name.as_str())?.strip_prefix('.')
        }),
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
            && self.retired.is_empty()
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
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
        for change in self.site.iter().filter(|change| change.name == "cluster.k0s.version") {
            parts.push(format!("k0s {} → {}", shown(&change.before), shown(&change.after)));
        }
        for pool in &self.pools {
            let versions = pool.fields.iter().filter_map(|change| {
                let what = change.name.strip_prefix("accelerator.")?.split_once('.')?.1;
                matches!(what, "driver" | "sdk").then(|| (what, shown(&change.before), shown(&change.after)))
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
        let counts = [
            (self.added.len(), "added"),
            (self.removed.len(), "removed"),
            (self.retired.len(), "retired"),
            (self.changed.len(), "changed"),
        ];
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
