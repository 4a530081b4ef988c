//! Package repositories of hosts: as in roles, or the inventory's mirrors of them.

use crate::inventory::Inventory;
use crate::state::{Resource, Spec};

/// Puts the inventory's mirrors in the place of the repositories that they mirror. What is signed stays signed by whom it was.
pub(super) fn mirrored(mut resource: Resource, inventory: &Inventory) -> Resource {
    if let Spec::PackageRepository(repository) = &mut resource.spec {
        for (host, mirror) in &inventory.repositories {
            let mirror = format!("{}/", mirror.trim_end_matches('/'));
            for scheme in ["https", "http"] {
                let there = format!("{scheme}://{host}");
                let text = repository.definition.replace(&format!("{there}/"), &mirror);
                // A repository at the top of its host ends with its name.
                let lines =
                    text.split_inclusive('\n').map(|line| match line.trim_end().strip_suffix(&there) {
                        Some(before) => format!("{before}{mirror}\n"),
                        None => line.to_owned(),
                    });
                repository.definition = lines.collect();
            }
        }
    }
    resource
}

/// Returns the URLs of the repositories among resources.
pub fn repositories(resources: &[Resource]) -> Vec<String> {
    let definitions = resources.iter().filter_map(|r| match &r.spec {
        Spec::PackageRepository(repository) => Some(repository.definition.lines()),
        _ => None,
    });
    let lines = definitions.flatten();
    let urls = lines.filter_map(|l| l.strip_prefix("URIs:").or_else(|| l.strip_prefix("baseurl=")));
    urls.map(|url| url.trim().to_owned()).collect()
}
