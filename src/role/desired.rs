//! Which roles a host gets, and what they come to for it.

use super::context;
use super::entry::Entry;
use crate::artifact::Lock;
use crate::catalog::Catalog;
use crate::inventory::{Accelerator, Host, Inventory};
use crate::state::{Facts, Failure, FailureKind, Resource};
use crate::template;
use include_dir::{Dir, include_dir};

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
}

/// Returns a file of a role: the user's if there is one, else the built-in.
fn source(input: &RoleInput<'_>, path: &str) -> Result<String, String> {
    if let Some(dir) = &input.inventory.roles_dir {
        let mine = dir.join(path);
        if mine.exists() {
            return std::fs::read_to_string(&mine).map_err(|e| format!("{}: {e}", mine.display()));
        }
    }
    BUILTIN
        .get_file(path)
        .and_then(|f| f.contents_utf8())
        .map(str::to_owned)
        .ok_or_else(|| format!("there is no {path}"))
}

/// Returns the resources that a host should have, in order; or every reason why it cannot be one of this inventory's.
pub fn desired(input: &RoleInput<'_>) -> Result<Vec<Resource>, Vec<Failure>> {
    let problems = context::preflight(input);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut roles = vec!["base"];
    match &input.inventory.pool_of(input.host).accelerator {
        Some(Accelerator::Nvidia { .. }) => roles.push("nvidia"),
        Some(Accelerator::Neuron { .. }) => roles.push("neuron"),
        None => {}
    }
    roles.push("k0s");
    let context = context::context(input).map_err(|f| vec![f])?;
    let mut resources = Vec::new();
    for role in roles {
        let failed =
            |why: String| vec![Failure::new(FailureKind::Preflight, "E-ROLE", format!("role {role}: {why}"))];
        let path = format!("{role}/role.yaml");
        let text = source(input, &path).map_err(failed)?;
        let rendered = template::render(&path, &text, &context).map_err(|e| failed(e.to_string()))?;
        let entries: Vec<Entry> =
            serde_saphyr::from_str(&rendered).map_err(|e| failed(format!("as rendered: {e}")))?;
        let render = |name: &str| {
            let path = format!("{role}/templates/{name}");
            let text = source(input, &path)?;
            template::render(&path, &text, &context).map_err(|e| e.to_string())
        };
        for entry in entries {
            resources.push(entry.resource(role, &render).map_err(failed)?);
        }
    }
    context::link_reboots(&mut resources);
    Ok(resources)
}
