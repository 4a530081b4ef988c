//! Makes an inventory to start from of another tool's, and checks it as `validate` does.

use super::error::{Error, Result, cannot, coded};
use crate::catalog::Catalog;
use crate::import::{COLUMNS, FORMATS, ImportError, Input, Note, read, starter};
use crate::inventory::{Diagnostics, Disk, Snapshot, load_from};
use crate::state::{plain_line, read_regular};
use std::path::{Path, PathBuf};

/// The largest file that is imported, in bytes: that of a file of an inventory.
const MOST_FILE: u64 = 8 << 20;

/// What is imported.
#[derive(Clone, Debug)]
pub struct Import {
    /// The file.
    pub path: PathBuf,
    /// Its format, by its name in [`formats`]; `None` to tell from its text.
    pub format: Option<String>,
    /// Columns of a CSV file by what they hold, from [`read_column`].
    pub columns: Vec<(String, String)>,
    /// The cluster's name, in place of what the file says.
    pub name: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct ImportResult {
    /// What the file is: `ansible`.
    pub format: &'static str,
    /// The same with its article: `an Ansible inventory`.
    pub said: &'static str,
    /// The inventory, YAML with comments.
    pub inventory: String,
    /// How many hosts it has.
    pub hosts: usize,
    /// How many pools it has.
    pub pools: usize,
    /// What was left out, assumed, renamed, or is to be filled in.
    pub notes: Vec<Note>,
    /// What `validate` says of the inventory.
    pub findings: Diagnostics,
}

/// Returns the names of the formats that can be imported.
pub fn formats() -> Vec<&'static str> {
    FORMATS.iter().map(|(name, _)| *name).collect()
}

/// Reads `WHAT=HEADER`: which column of a CSV file holds what.
pub fn read_column(text: &str) -> std::result::Result<(String, String), String> {
    let known: Vec<&str> = COLUMNS.iter().map(|(what, _)| *what).collect();
    match text.split_once('=') {
        Some((what, header)) if known.contains(&what) && !header.is_empty() => {
            Ok((what.to_owned(), header.to_owned()))
        }
        _ => Err(format!("expected WHAT=HEADER, where WHAT is one of {}", known.join(", "))),
    }
}

impl Import {
    /// Reads the file, and the variables beside an Ansible inventory, and makes an inventory of its hosts.
    pub fn run(self) -> Result<ImportResult> {
        let path = self.path.as_path();
        let bytes = read_regular(path, MOST_FILE).map_err(cannot("read", path))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| Error::Malformed { what: cannot_import(path), source: error.into() })?;
        let beside = Disk::of(path, &[]).map_err(cannot("read", path))?;
        let format = self.format.as_ref().and_then(|name| FORMATS.iter().find(|(known, _)| known == name));
        let input = Input {
            path,
            text,
            format: format.map(|(_, format)| *format),
            columns: &self.columns,
            beside: &beside,
        };
        let (format, mut hosts) = read(input).map_err(|error| refused(path, error))?;
        if let Some(folder) = std::path::absolute(path).ok().as_deref().and_then(Path::parent) {
            hosts.resolve_keys(folder);
        }
        let catalog = Catalog::builtin()?;
        let imported = starter(hosts, self.name.as_deref(), &catalog);
        Ok(ImportResult {
            format: format.name(),
            said: format.said(),
            findings: findings(&imported.inventory, &catalog),
            inventory: imported.inventory,
            hosts: imported.hosts,
            pools: imported.pools,
            notes: imported.notes,
        })
    }
}

/// Returns what `validate` says of a text.
fn findings(inventory: &str, catalog: &Catalog) -> Diagnostics {
    let made = Path::new("the imported inventory");
    match load_from(&Snapshot::from_iter([(made, inventory.to_owned())]), made, catalog) {
        Ok(loaded) => loaded.diagnostics,
        Err(found) => found,
    }
}

fn cannot_import(path: &Path) -> String {
    format!("cannot import {}", plain_line(&path.display().to_string()))
}

fn refused(path: &Path, error: ImportError) -> Error {
    let formats = formats().join(", ");
    let hint = match &error {
        ImportError::Format(_) => format!("Name it: --from {}", formats.replace(", ", "|")),
        ImportError::Program => {
            "Save what it prints as an inventory: ansible-inventory -i FILE --list --yaml --output hosts.yaml"
                .to_owned()
        }
        ImportError::Columns(_) => {
            "Name a column by its header: --column name=HEADER --column address=HEADER".to_owned()
        }
        ImportError::Empty(_) => format!("Check the format: --from {}", formats.replace(", ", "|")),
        ImportError::TooMany | ImportError::TooComplex => {
            "Split it: one inventory describes one cluster".to_owned()
        }
        ImportError::Yaml(_) => String::new(),
    };
    let message = format!("{}: {error}", cannot_import(path));
    match error {
        ImportError::Yaml(found) => Error::Inventory(found),
        ImportError::Empty(left_out) => match coded("E-IMPORT", message, hint) {
            Error::Failure(mut failure) => {
                failure.tail = left_out;
                Error::Failure(failure)
            }
            other => other,
        },
        _ => coded("E-IMPORT", message, hint),
    }
}
