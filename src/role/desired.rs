//! The roles of a host, and the resulting resources.

use super::entry::{self, Entry};
use super::findings::Finding;
use super::input::RoleInput;
use super::{context, excluded, host, preflight, repository, secret};
use crate::inventory::{Accelerator, Inventory};
use crate::state::{Failure, FailureKind, Resource, ResourceId};
use crate::template::Scope;
use include_dir::{Dir, include_dir};
use std::collections::{BTreeMap, BTreeSet};

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/roles");

/// Returns a file of a role and what errors call it: the inventory's own if there is one, else the built-in.
pub(super) fn source(inventory: &Inventory, path: &str) -> Result<(String, String), String> {
    if let Some(text) = inventory.roles.get(path) {
        return Ok((inventory.root.join("roles").join(path).display().to_string(), text.clone()));
    }
    match BUILTIN.get_file(path).and_then(|f| f.contents_utf8()) {
        Some(text) => Ok((format!("roles/{path}"), text.to_owned())),
        None => Err(format!("roles/{path} does not exist")),
    }
}

/// Returns whether there is a built-in role of this name, which a folder next to the inventory overrides.
pub(super) fn is_builtin(role: &str) -> bool {
    BUILTIN.get_dir(role).is_some()
}

/// Returns the role folders next to the inventory that no host would use, in words: a role that nothing lists is never
/// ignored.
pub(super) fn foreign(inventory: &Inventory) -> Vec<String> {
    let names = inventory.roles.keys().filter_map(|path| Some(path.split_once('/')?.0));
    let unknown: BTreeSet<&str> = names.filter(|name| !is_builtin(name)).collect();
    let known: Vec<String> = BUILTIN.dirs().map(|d| d.path().display().to_string()).collect();
    let say = |name: &str| {
        let folder = inventory.root.join("roles").join(name);
        let known = known.join(", ");
        format!(
            "{}: custom roles are not supported yet; a folder here overrides one of {known}",
            folder.display()
        )
    };
    unknown.into_iter().map(say).collect()
}

fn stop(why: String) -> Vec<Failure> {
    let hint = "Run `provision render --host NAME` to see the result of roles";
    vec![Failure::new(FailureKind::Preflight, "E-ROLE", why).hint(hint)]
}

/// Returns the resources that a host should have, in order; or every reason why it cannot be one of this inventory's.
pub fn desired(input: &RoleInput<'_>) -> Result<Vec<Resource>, Vec<Failure>> {
    let stops = host::check(input).into_iter().filter(Finding::stops).map(|f| f.failure());
    let problems: Vec<Failure> = stops.chain(preflight::problems(input)).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let resources = resources(input)?;
    let mut refused = preflight::drop_ins(input, &resources);
    refused.extend(excluded::hidden(input, &resources));
    if refused.is_empty() { Ok(resources) } else { Err(refused) }
}

/// Returns the resources that a host should have, in order, whether or not it can have them.
pub fn resources(input: &RoleInput<'_>) -> Result<Vec<Resource>, Vec<Failure>> {
    if let Some(why) = foreign(input.inventory).into_iter().next() {
        return Err(stop(why));
    }
    let mut roles = vec!["base"];
    match &input.inventory.pool_of(input.host).accelerator {
        Some(Accelerator::Nvidia { .. }) => roles.push("nvidia"),
        Some(Accelerator::Neuron { .. }) => roles.push("neuron"),
        None => {}
    }
    if input.inventory.pool_of(input.host).is_linked() {
        roles.push("rdma");
    }
    roles.push("k0s");
    // Last: the node has joined, and no workload runs on it before this has passed.
    if input.inventory.pool_of(input.host).accelerator.is_some() {
        roles.push("health");
    }
    let scope = Scope::new(context::context(input).map_err(|f| vec![f])?);
    let mut resources: Vec<Resource> = Vec::new();
    let mut locations: BTreeMap<ResourceId, String> = BTreeMap::new();
    for role in roles {
        let (name, text) = source(input.inventory, &format!("{role}/role.yaml")).map_err(stop)?;
        let template = |file: &str, scope: &Scope| {
            let (name, text) = source(input.inventory, &format!("{role}/templates/{file}"))?;
            scope.render(&name, &text).map_err(|e| e.to_string())
        };
        let entries: Vec<Entry> =
            entry::parse(&name, &text).map_err(|mistake| stop(mistake.in_file(&name)))?;
        for entry in entries {
            for resource in entry.resources(role, &scope, &template).map_err(stop)? {
                let resource = repository::mirrored(resource, input.inventory);
                let resource = secret::reveal(resource, input.secrets)
                    .map_err(|why| stop(format!("{}: {why}", entry.location())))?;
                if let Some(other) = locations.insert(resource.id.clone(), entry.location().to_owned()) {
                    return Err(stop(format!(
                        "{}: {} is already defined in {other}",
                        entry.location(),
                        resource.id
                    )));
                }
                resources.push(resource);
            }
        }
    }
    Ok(resources)
}
