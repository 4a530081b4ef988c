//! Where and how clients reach the models of a tenant. Contacts no host.

use super::error::{Result, coded, one_of};
use crate::inventory::{Inventory, Tenant};
use serde::Serialize;

/// The endpoint of one tenant.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct TenantEndpoint {
    /// The tenant.
    pub tenant: String,
    /// Served model names: what `model` of a request may be.
    pub models: Vec<String>,
    /// The port, on every worker.
    pub node_port: u16,
    /// `http://ADDRESS:PORT/v1` of every worker, by name; OpenAI clients take one as their base URL.
    pub base_urls: Vec<String>,
    /// Requests need an API key, which `provision key create` makes.
    pub needs_key: bool,
}

/// Returns the endpoints of all tenants, or of one.
pub fn endpoints(inventory: &Inventory, only: Option<&str>) -> Result<Vec<TenantEndpoint>> {
    let workers: Vec<&str> = inventory
        .active()
        .filter(|host| inventory.has_gateways(&host.pool))
        .map(|host| host.address.as_str())
        .collect();
    if workers.is_empty() {
        let hint = "Add a host with the role worker, controller+worker or single";
        return Err(coded(
            "E-USAGE",
            "the inventory has no active worker, so no gateway has an address",
            hint,
        ));
    }
    let scheme = |tenant: &Tenant| if tenant.tls.is_some() { "https" } else { "http" };
    let url = |address: &&str, tenant: &Tenant| match address.contains(':') {
        true => format!("{}://[{address}]:{}/v1", scheme(tenant), tenant.node_port),
        false => format!("{}://{address}:{}/v1", scheme(tenant), tenant.node_port),
    };
    let found: Vec<TenantEndpoint> = inventory
        .tenants
        .values()
        .filter(|tenant| only.is_none_or(|name| tenant.name == name))
        .map(|tenant| TenantEndpoint {
            tenant: tenant.name.clone(),
            models: tenant.routes.keys().cloned().collect(),
            node_port: tenant.node_port,
            base_urls: workers.iter().map(|address| url(address, tenant)).collect(),
            needs_key: tenant.keys.is_some(),
        })
        .collect();
    if found.is_empty() {
        let names: Vec<String> = inventory.tenants.keys().cloned().collect();
        return Err(match (only, names.is_empty()) {
            (Some(name), false) => {
                coded("E-USAGE", format!("there is no tenant named `{name}`"), one_of(&names))
            }
            _ => coded("E-USAGE", "the inventory has no tenant", "Add a tenant with routes to the inventory"),
        });
    }
    Ok(found)
}
