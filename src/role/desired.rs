//! Which roles a host gets, and what they come to for it.

use super::entry::{self, Entry};
use super::findings::Finding;
use super::{context, host, preflight, repository, secret};
use crate::artifact::Lock;
use crate::catalog::Catalog;
use crate::inventory::{Accelerator, Host, Inventory};
use crate::state::{Facts, Failure, FailureKind, Resource, ResourceId, SecretText};
use crate::template::Scope;
use include_dir::{Dir, include_dir};
use std::collections::BTreeMap;
use std::path::Path;

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/roles");

/// What roles are made from.
#[derive(Clone, Copy)]
pub struct RoleInput<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The catalog.
    pub catalog: &'a Catalog,
    /// The lock file.
    pub lock: &'a Lock,
    /// The host.
    pub host: &'a Host,
    /// What it says of itself.
    pub facts: &'a Facts,
    /// Secrets that files of roles hold, by name.
    pub secrets: &'a BTreeMap<String, SecretText>,
}

/// Returns a file of a role and what errors call it: the user's if there is one, else the built-in.
fn source(mine: Option<&Path>, path: &str) -> Result<(String, String), String> {
    if let Some(file) = mine.map(|dir| dir.join(path)).filter(|file| file.exists()) {
        let name = file.display().to_string();
        return match std::fs::read_to_string(&file) {
            Ok(text) => Ok((name, text)),
            Err(e) => Err(format!("{name}: {e}")),
        };
    }
    match BUILTIN.get_file(path).and_then(|f| f.contents_utf8()) {
        Some(text) => Ok((format!("roles/{path}"), text.to_owned())),
        None => Err(format!("there is no roles/{path}")),
    }
}

/// Refuses folders beside the inventory that no host would ever get: a role that nothing lists is never ignored.
fn foreign(dir: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && BUILTIN.get_dir(name).is_none())
        .collect();
    names.sort();
    match names.first() {
        None => Ok(()),
        Some(name) => {
            let known: Vec<String> = BUILTIN.dirs().map(|d| d.path().display().to_string()).collect();
            Err(format!(
                "{}: roles of your own are not supported yet; a folder here takes the place of one of {}",
                dir.join(name).display(),
                known.join(", ")
            ))
        }
    }
}

fn stop(why: String) -> Vec<Failure> {
    let hint = "provision render --host NAME shows what roles come to";
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
    let refused = preflight::drop_ins(input, &resources);
    if refused.is_empty() { Ok(resources) } else { Err(refused) }
}

/// Returns the resources that a host should have, in order, whether or not it can have them.
pub fn resources(input: &RoleInput<'_>) -> Result<Vec<Resource>, Vec<Failure>> {
    let mine = input.inventory.roles_dir.as_deref();
    mine.map_or(Ok(()), foreign).map_err(stop)?;
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
    // Last: the node has joined, and nobody runs on it before this and what the cluster waits for are over.
    if input.inventory.pool_of(input.host).accelerator.is_some() {
        roles.push("health");
    }
    let scope = Scope::new(context::context(input).map_err(|f| vec![f])?);
    let mut resources: Vec<Resource> = Vec::new();
    let mut places: BTreeMap<ResourceId, String> = BTreeMap::new();
    for role in roles {
        let (name, text) = source(mine, &format!("{role}/role.yaml")).map_err(stop)?;
        let template = |file: &str, scope: &Scope| {
            let (name, text) = source(mine, &format!("{role}/templates/{file}"))?;
            scope.render(&name, &text).map_err(|e| e.to_string())
        };
        let entries: Vec<Entry> = entry::parse(&name, &text).map_err(stop)?;
        for entry in entries {
            for resource in entry.resources(role, &scope, &template).map_err(stop)? {
                let resource = repository::mirrored(resource, input.inventory);
                let resource = secret::reveal(resource, input.secrets)
                    .map_err(|why| stop(format!("{}: {why}", entry.place())))?;
                if let Some(other) = places.insert(resource.id.clone(), entry.place().to_owned()) {
                    return Err(stop(format!("{}: {} is already in {other}", entry.place(), resource.id)));
                }
                resources.push(resource);
            }
        }
    }
    Ok(resources)
}
