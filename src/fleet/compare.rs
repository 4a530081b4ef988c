//! Compares two inventories without contacting hosts: files, folders, or revisions of this git repository.

use super::error::{Error, Result, coded};
use super::load::Source;
use crate::catalog::Catalog;
use crate::inventory::{self, Diagnostics, Files, Inventory, load_from};
use crate::plan::{InventoryDiff, changed_roles, compare};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

/// The most output of git for one object, in bytes: a file of an inventory, or the list of its files.
const MOST_SAID: u64 = 8 << 20;

/// Runs git with bounded output.
fn git(at: &Path, arguments: &[&str]) -> std::io::Result<String> {
    use std::io::{Error, Read};
    let mut command = inventory::git(at);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |out| out.take(MOST_SAID + 1).read_to_end(&mut said));
    if said.len() as u64 > MOST_SAID {
        child.kill()?;
        child.wait()?;
        return Err(Error::other(format!("larger than the limit of {MOST_SAID} bytes")));
    }
    let ended = child.wait_with_output()?;
    read?;
    if !ended.status.success() {
        return Err(Error::other(String::from_utf8_lossy(&ended.stderr).trim().to_owned()));
    }
    String::from_utf8(said).map_err(Error::other)
}

/// The files of a git revision. Paths are as seen from the folder that the command was given in.
struct Revision {
    top: PathBuf,
    prefix: PathBuf,
    commit: String,
}

impl Revision {
    fn open(revision: &str) -> Result<Self> {
        let here = Path::new(".");
        let failed = |why: std::io::Error, hint: &str| {
            let message = format!("cannot read revision `{revision}`: {why}");
            coded("E-GIT", message, hint)
        };
        let places = git(here, &["rev-parse", "--show-toplevel", "--show-prefix"])
            .map_err(|e| failed(e, "Run this inside the git repository of the inventory"))?;
        let mut lines = places.lines();
        let top = PathBuf::from(lines.next().unwrap_or_default());
        let prefix = PathBuf::from(lines.next().unwrap_or_default());
        let commit = git(
            here,
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")],
        )
        .map_err(|_| {
            failed(
                std::io::Error::other("no such commit in this repository"),
                "Run `git fetch`; CI checkouts are often shallow (set fetch-depth: 0)",
            )
        })?;
        Ok(Self { top, prefix, commit: commit.trim().to_owned() })
    }

    /// Returns a path as the revision has it, without `.` and `..`.
    fn inside(&self, path: &Path) -> String {
        let from_top = path.strip_prefix(&self.top).map_or_else(|_| self.prefix.join(path), Path::to_owned);
        let mut clean = PathBuf::new();
        for part in from_top.components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::Normal(name) => clean.push(name),
                _ => {}
            }
        }
        clean.display().to_string()
    }
}

impl Files for Revision {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        git(&self.top, &["cat-file", "blob", &format!("{}:{}", self.commit, self.inside(path))])
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let inside = self.inside(folder);
        let tree = format!("{}:{inside}", self.commit);
        let list = git(&self.top, &["ls-tree", "-r", "--name-only", "-z", &tree])?;
        let hidden = |p: &Path| p.components().any(|c| c.as_os_str().to_string_lossy().starts_with('.'));
        let mut found: Vec<PathBuf> =
            list.split('\0').filter(|n| !n.is_empty()).map(PathBuf::from).filter(|p| !hidden(p)).collect();
        found.sort();
        Ok(found.into_iter().map(|p| folder.join(p)).collect())
    }

    fn is_folder(&self, path: &Path) -> bool {
        git(&self.top, &["cat-file", "-t", &format!("{}:{}", self.commit, self.inside(path))])
            .is_ok_and(|t| t.trim() == "tree")
    }
}

/// One side: the inventory, and the catalog that it was read with.
struct Side {
    inventory: Inventory,
    catalog: Catalog,
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
    let (files, path): (Box<dyn Files>, PathBuf) =
        match said.split_once(':').filter(|_| !Path::new(said).exists()) {
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
        Ok(loaded) => Ok(Side { inventory: loaded.inventory, catalog }),
        Err(found) => Err(CompareError::Invalid(said.to_owned(), found)),
    }
}

/// Compares two inventories. Each side is a file, a folder whose files merge, or `REV:PATH` of the git repository here.
pub fn compare_inventories(
    before: &str,
    after: &str,
    allow_outside: &[PathBuf],
) -> std::result::Result<InventoryDiff, CompareError> {
    // Side by side: reading is most of the work.
    let (old, new) = std::thread::scope(|threads| {
        let old = threads.spawn(|| read(before, allow_outside));
        let new = read(after, allow_outside);
        (old.join(), new)
    });
    let (old, new) = (old.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, new?);
    let mut diff = compare(&old.inventory, &new.inventory, &new.catalog);
    diff.roles = changed_roles(&old.inventory.roles, &new.inventory.roles);
    Ok(diff)
}
