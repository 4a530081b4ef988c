//! A tenant's routes: served names and their models.

use crate::inventory::Inventory;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Longest name of a route's object; a label value's length, as the router puts it into one.
const LONGEST: usize = 63;

/// Returns the name of a route's object. Served names are free text (`Qwen/Qwen3-8B`), object names are not, so a served
/// name that had to be bent gets a digest: two of them must not meet in one object.
fn object_name(tenant: &str, served: &str) -> String {
    let bent: String = served
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect::<String>()
        .trim_matches('-')
        .to_owned();
    let name = format!("{tenant}-{bent}");
    if bent == served && name.len() <= LONGEST {
        return name;
    }
    let digest = Sha256::digest(format!("{tenant}/{served}"));
    let mark: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    let room = LONGEST - mark.len() - 1;
    let kept: String = name.chars().take(room).collect();
    format!("{}-{mark}", kept.trim_end_matches('-'))
}

/// Returns what the template of routes is filled with.
pub(super) fn context(inventory: &Inventory) -> Vec<Value> {
    let mut routes = Vec::new();
    for tenant in inventory.tenants.values() {
        for (served, route) in &tenant.routes {
            let targets = |to: &BTreeMap<String, u32>| -> Vec<Value> {
                to.iter().map(|(model, weight)| json!({"model": model, "weight": weight})).collect()
            };
            let earlier = route.rules.iter().map(
                |rule| json!({"name": rule.name, "headers": rule.headers, "targets": targets(&rule.to)}),
            );
            let last = json!({"name": "default", "headers": null, "targets": targets(&route.to)});
            let rules: Vec<Value> = earlier.chain([last]).collect();
            let object = object_name(&tenant.name, served);
            routes.push(json!({"tenant": tenant.name, "served": served, "object": object, "rules": rules}));
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_names_never_meet_in_one_object() {
        assert_eq!(object_name("ads", "qwen"), "ads-qwen");
        let bent = ["Qwen/Qwen3-8B", "qwen-qwen3-8b", "qwen.qwen3-8b", "qwen/qwen3-8b"];
        let names: std::collections::BTreeSet<String> = bent.iter().map(|s| object_name("ads", s)).collect();
        assert_eq!(names.len(), bent.len(), "{names:?}");
        for name in names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
        let long = object_name("ads", &"x".repeat(200));
        assert!(long.len() <= LONGEST && !long.ends_with('-'), "{long}");
    }
}
