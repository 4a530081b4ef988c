//! `--junit FILE` of commands that check.

use super::errors::{failure_of, print_error};
use crate::fleet::{Error, write_report};
use crate::inventory::{Diagnostics, Severity};
use crate::report::{Check, junit};
use clap::Args;
use std::cell::Cell;
use std::path::PathBuf;

/// A file for the results of checks, in addition to the screen.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Junit {
    /// Also write the results as JUnit XML to this file, for CI services
    #[arg(long = "junit", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Results were written, or could not be.
    #[arg(skip)]
    written: Cell<bool>,
}

impl Junit {
    /// Writes the results of a command, if that was asked for.
    pub(super) fn write(&self, command: &str, checks: impl FnOnce() -> Vec<Check>) -> anyhow::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        self.written.set(true);
        let xml = junit(command, &checks())?;
        Ok(write_report(path, xml.as_bytes())?)
    }

    /// Writes why a command had no results, if it ends with an error before it had any: a file of an earlier run would be taken
    /// for its own. Returns what the command does.
    pub(super) fn or_error<T>(&self, command: &str, ran: anyhow::Result<T>) -> anyhow::Result<T> {
        let Err(error) = &ran else { return ran };
        if !self.written.get() {
            let checks = || match error.downcast_ref() {
                Some(Error::Inventory(found)) => of_diagnostics(found),
                _ => vec![of_error(command, error)],
            };
            if let Err(error) = self.write(command, checks) {
                print_error(&error);
            }
        }
        ran
    }
}

/// Returns an error as a check that failed.
fn of_error(command: &str, error: &anyhow::Error) -> Check {
    let failure = failure_of(error);
    let code = if failure.code.is_empty() { "error".to_owned() } else { failure.code };
    let hint = failure.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    let cause = failure.cause.map(|cause| format!("\ncause: {cause}")).unwrap_or_default();
    Check::of(format!("{command} {code}"), vec![(code, format!("{}{cause}{hint}", failure.message))])
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
