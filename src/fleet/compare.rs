//! Compares two inventories without contacting hosts: files, folders, or revisions of this git repository.

use super::error::Error;
use super::load::Source;
use super::policies::{FOLDER, policies_in};
use super::policy::judge_diff;
use super::revision::{Revision, revision};
use crate::catalog::Catalog;
use crate::inventory::{self, Diagnostics, Files, Inventory, load_from};
use crate::plan::{InventoryDiff, Policies, changed_roles, compare};
use std::path::PathBuf;

/// One side: the inventory, the catalog that it was read with, and the policies beside it.
struct Side {
    inventory: Inventory,
    catalog: Catalog,
    policies: Policies,
}

/// Why two inventories cannot be compared.
#[derive(Debug)]
pub enum CompareError {
    /// A side is not a valid inventory: its name and its errors.
    Invalid(String, Diagnostics),
    /// A side cannot be read.
    Unreadable(Error),
}

impl From<Error> for CompareError {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

fn read(said: &str, allow_outside: &[PathBuf]) -> std::result::Result<Side, CompareError> {
    let (files, path): (Box<dyn Files>, PathBuf) = match revision(said) {
        Some((revision, path)) => {
            let path = if path.is_empty() { "." } else { path };
            (Box::new(Revision::open(revision)?), PathBuf::from(path))
        }
        None => {
            let source = Source { allow_outside: allow_outside.to_owned(), ..Source::at(said) };
            (source.files()?, source.path)
        }
    };
    let catalog = inventory::catalog_beside(files.as_ref(), &path).map_err(Error::from)?;
    match load_from(files.as_ref(), &path, &catalog) {
        Ok(loaded) => {
            let policies = loaded.inventory.root.join(FOLDER);
            let policies = policies_in(files.as_ref(), &policies, &policies.display().to_string(), false)?;
            Ok(Side { inventory: loaded.inventory, catalog, policies })
        }
        Err(found) => Err(CompareError::Invalid(said.to_owned(), found)),
    }
}

/// Two inventories compared, and the policies that this was judged by.
pub struct Comparison {
    /// What differs.
    pub diff: InventoryDiff,
    /// The policies.
    pub policies: Policies,
}

/// Compares two inventories, judged by these policies, or those beside the earlier one: a change does not choose what it is judged by.
/// Each side is a file, a folder whose files merge, or `REV:PATH` of the git repository here.
pub fn compare_inventories(
    before: &str,
    after: &str,
    allow_outside: &[PathBuf],
    policies: Option<&Policies>,
) -> std::result::Result<Comparison, CompareError> {
    // `main..HEAD PATH` is `main:PATH HEAD:PATH`.
    let sides = before.split_once("..").filter(|(old, new)| {
        let named = |part: &str| part.starts_with(|c: char| c.is_alphanumeric()) && !part.contains(':');
        named(old) && named(new)
    });
    let sides = sides.map(|(old, new)| (format!("{old}:{after}"), format!("{new}:{after}")));
    let (before, after) = sides.as_ref().map_or((before, after), |(old, new)| (old.as_str(), new.as_str()));
    // Side by side: reading is most of the work.
    let (old, new) = std::thread::scope(|threads| {
        let old = threads.spawn(|| read(before, allow_outside));
        let new = read(after, allow_outside);
        (old.join(), new)
    });
    let (old, new) = (old.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, new?);
    let mut diff = compare(&old.inventory, &new.inventory, &new.catalog);
    diff.roles = changed_roles(&old.inventory.roles, &new.inventory.roles);
    let policies = policies.cloned().unwrap_or(old.policies);
    if !policies.is_empty() {
        diff.policy = Some(judge_diff(&policies, &diff, &old.inventory, &new.inventory));
    }
    Ok(Comparison { diff, policies })
}
