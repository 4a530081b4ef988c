//! Changes of who may use a tenant's gateway: clients that are let in today and would not be afterwards, or the other way round.

use crate::inventory::{ApiKeys, Inventory, Tenant};
use crate::serving::{is_proxy_files, issuer, proxy_file};
use crate::state::Step;

/// Characters of a key's id.
const ID: usize = 16;

/// A tenant's keys before a change.
struct Before<'a> {
    /// The public key, or a text that contains it; `None` if keys are not checked.
    public: Option<&'a str>,
    /// The ids of revoked keys.
    revoked: Vec<&'a str>,
}

/// Returns the warning about what clients of a tenant notice, if they notice anything.
fn changes(tenant: &Tenant, before: &Before<'_>) -> Option<String> {
    let what = match (&tenant.keys, before.public) {
        (None, None) => return None,
        (None, Some(_)) => "API keys are no longer checked; anyone who can connect is answered".to_owned(),
        (Some(_), None) => "clients without an API key are refused from then on".to_owned(),
        (Some(after), Some(public)) => {
            if after.public.as_deref().is_some_and(|after| !public.contains(after)) {
                "the signing key changes, so all earlier API keys become invalid".to_owned()
            } else {
                let revoked = after.revoked();
                let again = before.revoked.iter().copied().filter(|id| !revoked.contains(id));
                let again = again.collect::<Vec<_>>().join(", ");
                if again.is_empty() {
                    return None;
                }
                format!("revoked API keys become valid again, unless they have expired: {again}")
            }
        }
    };
    Some(warning(tenant, &what))
}

fn warning(tenant: &Tenant, what: &str) -> String {
    format!("[W-KEYS] tenant {}: {what}", tenant.name)
}

/// Returns what changes between two inventories.
pub(super) fn between(before: &Inventory, after: &Inventory) -> Vec<String> {
    let renamed = issuer(before) != issuer(after);
    let of = |tenant: &Tenant| {
        let keys = before.tenants.get(&tenant.name)?.keys.as_ref();
        // Keys say which inventory they are of.
        if renamed && keys.is_some() && tenant.keys.is_some() {
            return Some(warning(
                tenant,
                "the inventory's name changes, so all earlier API keys become invalid",
            ));
        }
        let known = Before {
            public: keys.map(|keys| keys.public.as_deref().unwrap_or_default()),
            revoked: keys.map(ApiKeys::revoked).unwrap_or_default(),
        };
        changes(tenant, &known)
    };
    after.tenants.values().filter_map(of).collect()
}

/// Returns what the steps of a cluster change, by the files of the proxies.
pub(super) fn pending(inventory: &Inventory, steps: &[Step]) -> Vec<String> {
    let Some(step) = steps.iter().find(|step| is_proxy_files(&step.resource)) else { return Vec::new() };
    let of = |tenant: &Tenant| {
        let file = |of: &str| {
            let name = format!("data[\"{}\"]", proxy_file(of, &tenant.name));
            step.change.fields.iter().find(|field| field.name == name)
        };
        // A tenant that is to come has no clients yet.
        if file("routes").is_some_and(|field| field.from.is_none()) {
            return None;
        }
        let unchanged = tenant.keys.as_ref().and_then(|keys| keys.public.as_deref());
        let revoked = file("revoked").and_then(|field| field.from.as_deref());
        let ids = revoked.into_iter().flat_map(|text| text.split('"'));
        let known = Before {
            public: file("keys").map_or(unchanged, |field| field.from.as_deref()),
            revoked: ids.filter(|id| id.len() == ID && id.chars().all(|c| c.is_ascii_hexdigit())).collect(),
        };
        changes(tenant, &known)
    };
    inventory.tenants.values().filter_map(of).collect()
}
