//! Changes of who may use a tenant's gateway: clients that are let in today and would not be afterwards, or the other way round.

use crate::inventory::{ApiKeys, Inventory, Tenant};
use crate::state::{FieldDiff, Step};
use std::collections::BTreeMap;

/// Characters of a key's id.
const ID: usize = 16;

/// What is known of a tenant's keys before a change.
struct Before<'a> {
    /// Whether keys are checked.
    checked: bool,
    /// Whether a key that fits this public key is accepted.
    accepts: Box<dyn Fn(&str) -> bool + 'a>,
    revoked: Vec<&'a str>,
}

/// Returns what clients of a tenant notice.
fn changes(tenant: &Tenant, before: &Before<'_>) -> Vec<String> {
    let name = &tenant.name;
    let Some(ApiKeys { public, .. }) = &tenant.keys else {
        let off =
            format!("tenant {name}: API keys are no longer checked, so whoever may connect is answered");
        return if before.checked { vec![off] } else { Vec::new() };
    };
    let public = public.as_deref().unwrap_or_default();
    if !before.checked {
        return vec![format!("tenant {name}: clients without an API key are refused from then on")];
    }
    if !(before.accepts)(public) {
        return vec![format!("tenant {name}: another key signs, so all earlier API keys become invalid")];
    }
    let revoked = tenant.keys.iter().flat_map(ApiKeys::revoked).collect::<Vec<_>>();
    let again: Vec<&str> = before.revoked.iter().copied().filter(|id| !revoked.contains(id)).collect();
    match again.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "tenant {name}: revoked API keys become valid again, unless they have expired: {}",
            again.join(", ")
        )],
    }
}

/// Returns what changes between two inventories.
pub(super) fn between(before: &Inventory, after: &Inventory) -> Vec<String> {
    let of = |tenant: &Tenant| {
        let keys = before.tenants.get(&tenant.name)?.keys.as_ref();
        let known = Before {
            checked: keys.is_some(),
            accepts: Box::new(move |public| keys.and_then(|k| k.public.as_deref()) == Some(public)),
            revoked: keys.into_iter().flat_map(ApiKeys::revoked).collect(),
        };
        Some(changes(tenant, &known))
    };
    after.tenants.values().filter_map(of).flatten().collect()
}

/// Returns what the steps of a cluster change: the files of the proxies have the names of tenants.
pub(super) fn pending(inventory: &Inventory, steps: &[Step]) -> Vec<String> {
    let maps = steps.iter().filter(|step| step.resource.kind() == "ConfigMap");
    let fields: BTreeMap<&str, &FieldDiff> =
        maps.flat_map(|step| &step.change.fields).map(|field| (field.name.as_str(), field)).collect();
    let of = |tenant: &Tenant| {
        let file = |of: &str| fields.get(format!("data[\"{of}-{}.yaml\"]", tenant.name).as_str()).copied();
        // A tenant that is to come has no clients yet.
        if file("routes").is_some_and(|field| field.from.is_none()) {
            return None;
        }
        let keys = file("keys");
        let revoked = file("revoked").and_then(|field| field.from.as_deref());
        let ids = revoked.into_iter().flat_map(|text| text.split('"'));
        let known = Before {
            checked: keys.map_or(tenant.keys.is_some(), |field| field.from.is_some()),
            accepts: Box::new(move |public| {
                keys.and_then(|field| field.from.as_ref()).is_none_or(|text| text.contains(public))
            }),
            revoked: ids.filter(|id| id.len() == ID && id.chars().all(|c| c.is_ascii_hexdigit())).collect(),
        };
        Some(changes(tenant, &known))
    };
    inventory.tenants.values().filter_map(of).flatten().collect()
}
