//! Reads the inventories of other tools as a start for one of `provision`. Nothing in them is run, followed or decrypted, and no
//! secret is copied: what is left out is named with its place and what to set instead.
//!
//! Each format has a file that fills `Found`; [`starter`] turns that into an inventory.

mod accelerators;
mod ansible;
mod ansible_groups;
mod ansible_ini;
mod ansible_variables;
mod ansible_yaml;
mod bastions;
mod error;
mod format;
mod found;
mod k0sctl;
mod names;
mod ranges;
mod skypilot;
mod ssh_config;
mod starter;
mod table;
mod valid;
mod words;

pub use error::ImportError;
pub use format::{FORMATS, Format};
pub use found::{Note, NoteKind, Place, note_lines};
pub use starter::{Imported, starter};
pub use table::COLUMNS;

use crate::inventory::Files;
use found::Found;
use std::path::{Component, Path};

/// What is read.
pub struct Input<'a> {
    /// Its path, as it is shown.
    pub path: &'a Path,
    /// Its text.
    pub text: String,
    /// Its format; `None` to tell from the text.
    pub format: Option<Format>,
    /// Columns of a CSV file by what they hold: `name` is in the column `Hostname`.
    pub columns: &'a [(String, String)],
    /// Files beside it: an Ansible inventory has variables there.
    pub beside: &'a dyn Files,
}

/// The hosts of another tool's inventory, before they are made an inventory.
pub struct Hosts(Found);

impl Hosts {
    /// Makes key files absolute that are outside the folder of the source (`../keys/id`): the inventory may be written elsewhere.
    pub fn resolve_keys(&mut self, folder: &Path) {
        for key in self.0.hosts.iter_mut().flat_map(|host| &mut host.identities) {
            let parents = || Path::new(key.as_str()).components().any(|part| part == Component::ParentDir);
            if Path::new(key.as_str()).is_absolute() || key.starts_with('~') || !parents() {
                continue;
            }
            let mut path = folder.to_owned();
            for part in Path::new(key.as_str()).components() {
                match part {
                    Component::ParentDir => drop(path.pop()),
                    Component::CurDir => {}
                    other => path.push(other),
                }
            }
            *key = path.display().to_string();
        }
    }
}

/// Reads an inventory of another tool.
pub fn read(mut input: Input<'_>) -> Result<(Format, Hosts), ImportError> {
    // Editors of Windows put a mark before the text.
    if let Some(text) = input.text.strip_prefix('\u{feff}') {
        input.text = text.to_owned();
    }
    let format = match input.format {
        Some(format) => format,
        None => format::detect(&input.path.display().to_string(), &input.text)?,
    };
    if !input.columns.is_empty() && format != Format::Csv {
        return Err(ImportError::Columns(format!(
            "--column is for CSV files, and this is {}",
            format.said()
        )));
    }
    let name = input.path.display().to_string();
    let found = match format {
        Format::Ansible => ansible::read(&name, input.text, input.path, input.beside),
        Format::K0sctl => k0sctl::read(&name, input.text),
        Format::SshConfig => ssh_config::read(&name, &input.text),
        Format::SkyPilot => skypilot::read(&name, input.text),
        Format::Csv => table::read(&name, &input.text, input.columns),
    }?;
    match found.hosts.is_empty() {
        true => Err(ImportError::Empty(note_lines(&found.notes))),
        false => Ok((format, Hosts(found))),
    }
}
