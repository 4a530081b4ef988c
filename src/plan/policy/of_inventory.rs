//! An inventory, and two that are compared, as policies see them.

use super::super::compare::{FieldChange, InventoryDiff, PoolChange};
use super::facts::{
    AcceleratorFacts, CapacityFacts, ChangeFacts, FieldFacts, HostFacts, HostPlanFacts, InventoryFacts,
    ModelFacts, PlanFacts, PoolFacts, PoolPlanFacts, TenantFacts,
};
use crate::inventory::{
    Accelerator, Endpoint, Host, Inventory, Model, ModelSource, Pool, Route, SecretSource, Tenant,
};
use crate::state::PoolName;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Returns a value of one word as it is written.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Returns a part of a whole in percent, rounded up.
pub(super) fn percent(part: usize, whole: usize) -> usize {
    (part * 100).div_ceil(whole.max(1))
}

fn accelerators(model: &Model) -> usize {
    model.replicas as usize * model.accelerators_per_replica as usize
}

fn models_of(tenant: &Tenant) -> BTreeSet<&str> {
    tenant.routes.values().flat_map(Route::targets).flat_map(|to| to.keys().map(String::as_str)).collect()
}

fn secret(source: &SecretSource) -> &'static str {
    match source {
        SecretSource::Env(_) => "env",
        SecretSource::File(_) => "file",
        SecretSource::Age { .. } => "age",
        SecretSource::Sops { .. } => "sops",
        SecretSource::Exec(_) => "exec",
    }
}

fn host_facts(host: &Host) -> HostFacts {
    HostFacts {
        pool: host.pool.to_string(),
        address: host.address.clone(),
        state: word(&host.state),
        reason: host.reason.clone(),
        rack: host.rack.clone(),
        labels: host.labels.clone(),
    }
}

fn pool_facts(pool: &Pool, size: usize, used: usize) -> PoolFacts {
    let accelerator = pool.accelerator.as_ref().map(|accelerator| {
        let (vendor, driver) = match accelerator {
            Accelerator::Nvidia { driver, .. } => ("nvidia", driver),
            Accelerator::Neuron { sdk, .. } => ("neuron", sdk),
        };
        AcceleratorFacts {
            vendor: vendor.to_owned(),
            product: accelerator.product().to_owned(),
            count: accelerator.count(),
            driver: driver.clone(),
        }
    });
    let disks = [&pool.data_disk, &pool.models_disk].into_iter().flatten();
    PoolFacts {
        role: word(&pool.role),
        hosts: size,
        accelerators: size * accelerator.as_ref().map_or(0, |a| a.count as usize),
        accelerators_used: used,
        accelerator,
        labels: pool.labels.clone(),
        taints: pool.taints.clone(),
        max_unavailable: pool.disruption.max_unavailable.of(size),
        max_failed: pool.disruption.max_failed.of(size),
        canary: pool.disruption.canary,
        drain_seconds: pool.disruption.drain_s,
        erases: disks.filter(|disk| disk.erase.is_some()).map(|disk| disk.disk.clone()).collect(),
    }
}

fn model_facts(model: &Model, inventory: &Inventory) -> ModelFacts {
    let (repo, revision) = match &model.source {
        ModelSource::HuggingFace { repo, revision, .. } => (Some(repo.clone()), Some(revision.clone())),
        ModelSource::Path { .. } => (None, None),
    };
    let routes = |tenant: &&Tenant| models_of(tenant).contains(model.name.as_str());
    ModelFacts {
        pool: model.pool.to_string(),
        engine: word(&model.engine.kind),
        image: model.engine.image.clone(),
        digest: model.engine.image.contains("@sha256:"),
        replicas: model.replicas,
        accelerators: accelerators(model),
        repo,
        revision,
        tenants: inventory.tenants.values().filter(routes).map(|tenant| tenant.name.clone()).collect(),
    }
}

impl InventoryFacts {
    /// Returns an inventory as policies see it.
    pub fn of(inventory: &Inventory) -> Self {
        let mut sizes: HashMap<&PoolName, usize> = HashMap::new();
        for host in inventory.active() {
            *sizes.entry(&host.pool).or_default() += 1;
        }
        let used = |pool: &PoolName| {
            inventory.models.values().filter(|m| m.pool == *pool).map(accelerators).sum::<usize>()
        };
        let pools = inventory.pools.iter().map(|(name, pool)| {
            let size = sizes.get(name).copied().unwrap_or_default();
            (name.to_string(), pool_facts(pool, size, used(name)))
        });
        let pools: BTreeMap<String, PoolFacts> = pools.collect();
        let tenant = |tenant: &Tenant| {
            let models = models_of(tenant);
            TenantFacts {
                node_port: tenant.node_port,
                accelerators: models.iter().filter_map(|m| inventory.models.get(*m)).map(accelerators).sum(),
                models: models.into_iter().map(str::to_owned).collect(),
                routes: tenant
                    .routes
                    .iter()
                    .map(|(served, route)| (served.clone(), route.to.clone()))
                    .collect(),
            }
        };
        Self {
            name: inventory.name.clone(),
            k0s_version: inventory.cluster.k0s_version.clone(),
            endpoint: match &inventory.cluster.endpoint {
                Endpoint::NodeLocal => "nodeLocal",
                Endpoint::External { .. } => "external",
                Endpoint::Vip { .. } => "vip",
            }
            .to_owned(),
            controllers: inventory.controllers().count(),
            accelerators: pools.values().map(|pool| pool.accelerators).sum(),
            pools,
            hosts: inventory.hosts.iter().map(|(name, host)| (name.to_string(), host_facts(host))).collect(),
            models: inventory.models.iter().map(|(n, m)| (n.clone(), model_facts(m, inventory))).collect(),
            tenants: inventory.tenants.iter().map(|(name, t)| (name.clone(), tenant(t))).collect(),
            router_version: inventory.router.as_ref().map(|router| router.version.clone()),
            secrets: inventory.secrets.iter().map(|(n, s)| (n.clone(), secret(s).to_owned())).collect(),
            registries: inventory.registries.iter().map(|(n, r)| (n.clone(), r.mirror.clone())).collect(),
        }
    }
}

fn change(pool: &str, hosts: usize, field: &FieldChange) -> ChangeFacts {
    let verb = match (&field.before, &field.after) {
        (None, _) => "create",
        (_, None) => "remove",
        _ => "update",
    };
    let (name, from, to) = (field.name.clone(), field.before.clone(), field.after.clone());
    ChangeFacts {
        pool: pool.to_owned(),
        what: field.name.clone(),
        kind: "field".to_owned(),
        verb: verb.to_owned(),
        hosts,
        fields: vec![FieldFacts { name, from, to }],
    }
}

fn pool_plan(pool: &PoolChange) -> PoolPlanFacts {
    let hosts = pool.drains.max(pool.reboots).max(pool.restarts.values().copied().max().unwrap_or_default());
    let (waves, at_once) = pool.waves.unwrap_or_default();
    let mut hazards =
        BTreeMap::from([("drain".to_owned(), pool.drains), ("reboot".to_owned(), pool.reboots)]);
    hazards.retain(|_, hosts| *hosts > 0);
    hazards.extend(pool.restarts.iter().map(|(unit, hosts)| (format!("restart {unit}"), *hosts)));
    PoolPlanFacts {
        name: pool.pool.clone(),
        size: pool.hosts,
        hosts,
        percent: percent(hosts, pool.hosts),
        joining: 0,
        drains: pool.drains,
        reboots: pool.reboots,
        waves,
        down_at_once: at_once,
        down_percent: percent(at_once, pool.hosts),
        hazards,
        capacity: pool.capacity.map(|(all, least)| CapacityFacts {
            unit: pool.unit.clone(),
            all,
            least,
            percent: least * 100 / all.max(1),
        }),
    }
}

impl PlanFacts {
    /// Returns what a comparison of two inventories tells of a plan.
    pub fn of_diff(diff: &InventoryDiff) -> Self {
        let host = |name: &String, pool: &String, node, leaves| HostPlanFacts {
            name: name.clone(),
            pool: pool.clone(),
            node,
            leaves,
            drains: leaves,
            ..HostPlanFacts::default()
        };
        let added = diff.added.iter().map(|(name, pool)| host(name, pool, false, false));
        let retired = diff.retired.iter().map(|(name, pool)| host(name, pool, true, true));
        let site = diff.site.iter().map(|field| change("", 0, field));
        let of_pools = diff.pools.iter().flat_map(|p| p.fields.iter().map(|f| change(&p.pool, p.hosts, f)));
        Self {
            estimated: true,
            hosts: added.chain(retired).collect(),
            pools: diff.pools.iter().map(pool_plan).collect(),
            changes: site.chain(of_pools).collect(),
            ..Self::default()
        }
    }
}
