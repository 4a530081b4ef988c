//! `--junit FILE` of commands that check.

use crate::fleet::{Error, write_report};
use crate::inventory::{Diagnostics, Severity};
use crate::report::{Check, junit};
use clap::Args;
use std::path::PathBuf;

/// A file for the results of checks, in addition to the screen.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Junit {
    /// Also write the results as JUnit XML to this file, for CI services
    #[arg(long = "junit", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Junit {
    /// Writes the results of a command, if that was asked for.
    pub(super) fn write(&self, command: &str, checks: impl FnOnce() -> Vec<Check>) -> anyhow::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let xml = junit(command, &checks())?;
        Ok(write_report(path, xml.as_bytes())?)
    }

    /// Writes what is wrong with an inventory, if that is what an error is about.
    pub(super) fn write_error(&self, command: &str, error: &anyhow::Error) -> anyhow::Result<()> {
        match error.downcast_ref() {
            Some(Error::Inventory(found)) => self.write(command, || of_diagnostics(found)),
            _ => Ok(()),
        }
    }
}

/// Returns the errors of an inventory, a check each.
fn of_diagnostics(found: &Diagnostics) -> Vec<Check> {
    let errors = found.all.iter().filter(|d| d.severity == Severity::Error);
    errors
        .map(|d| {
            let place = d.span.as_ref().map(|s| format!("{}:{}", s.source.name, s.line));
            let name = place.unwrap_or_else(|| found.inventory.clone());
            let hint = d.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            Check::of(format!("{name} {}", d.code), vec![(d.code.to_owned(), format!("{}{hint}", d.message))])
        })
        .collect()
}
