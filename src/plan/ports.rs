//! Node ports of tenants that change: clients of the old port break, so it is reported as a breaking change.

use crate::inventory::Inventory;
use crate::state::{Observation, Observed};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// A tenant whose gateway changes its node port.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema, Debug)]
pub struct PortMove {
    /// The tenant.
    pub tenant: String,
    /// Its node port before.
    pub before: u16,
    /// Its node port afterwards.
    pub after: u16,
    /// What keeps it where it is, as the inventory spells it: `tenants.ads.gateway.nodePort: 30081`.
    pub keep: String,
}

impl PortMove {
    fn new(tenant: &str, before: u16, after: u16) -> Self {
        let keep = format!("tenants.{tenant}.gateway.nodePort: {before}");
        Self { tenant: tenant.to_owned(), before, after, keep }
    }
}

impl std::fmt::Display for PortMove {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tenant, before, after, keep } = self;
        write!(
            f,
            "breaking change of tenant {tenant}: its node port moves from {before} to {after}; set {keep} to keep it"
        )
    }
}

/// Returns the ports that move between two inventories.
pub(super) fn between(before: &Inventory, after: &Inventory) -> Vec<PortMove> {
    let moved = |tenant: &crate::inventory::Tenant| {
        let old = before.tenants.get(&tenant.name)?.node_port;
        (old != tenant.node_port).then(|| PortMove::new(&tenant.name, old, tenant.node_port))
    };
    after.tenants.values().filter_map(moved).collect()
}

/// Returns the ports that an observed cluster has otherwise than the inventory: an earlier version of this program derived
/// them in another way. A Service's ports are named after tenants.
pub(super) fn observed(inventory: &Inventory, observed: &Observed) -> Vec<PortMove> {
    let services = observed.seen.iter().filter(|(id, _)| id.kind() == "Service");
    let fields: BTreeMap<&str, u16> = services
        .filter_map(|(_, seen)| match seen {
            Observation::Present(seen) => Some(&seen.fields),
            _ => None,
        })
        .flatten()
        .filter_map(|(field, value)| {
            let tenant = field.strip_prefix("spec.ports[")?.strip_suffix("].nodePort")?;
            Some((tenant, value.parse().ok()?))
        })
        .collect();
    let moved = |(tenant, before): (&str, u16)| {
        let after = inventory.tenants.get(tenant)?.node_port;
        (before != after).then(|| PortMove::new(tenant, before, after))
    };
    fields.into_iter().filter_map(moved).collect()
}
