//! Flags that commands share.

use super::context::{self, usual_inventory};
use super::context_file::Context;
use crate::fleet::{MirrorPlace, Selection};
use crate::state::HostName;
use crate::template::quote;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub(super) struct Global {
    /// Output format of results on stdout
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Print only results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show every step; -vv also shows what libraries log
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Append every event and message to this file, with secrets redacted [default: PROVISION_LOG_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Use the inventory and flags that this name stands for (see `provision contexts`)
    #[arg(
        long,
        short,
        global = true,
        value_name = "NAME",
        env = "PROVISION_CONTEXT",
        hide_env_values = true
    )]
    pub context: Option<String>,
    /// Also allow the inventory to read files in this folder, besides its own folder and files tracked by its git repository
    #[arg(long, global = true, value_name = "DIR")]
    pub allow_outside: Vec<PathBuf>,
    /// Download from this bundle only, a folder or a URL (see `provision bundle`); hosts get their downloads over SSH
    #[arg(long, global = true, value_name = "DIR|URL")]
    pub mirror: Option<MirrorPlace>,
}

impl Global {
    /// Takes from a context what the command line leaves open.
    pub(super) fn fill_in(&mut self, context: Option<&Context>) {
        let Some(context) = context else { return };
        self.mirror = self.mirror.take().or_else(|| context.mirror.clone());
        self.allow_outside.extend(context.allow_outside.iter().cloned());
    }
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum Output {
    /// Text for people.
    Text,
    /// JSON; for `apply`, one line per event.
    Json,
    /// Markdown, for a pull request (`diff` only).
    Markdown,
    /// Text, with annotations of GitHub Actions for what is wrong or pending.
    Github,
}

/// Reads `10m`, `8h` or `30d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit = |c: char| match c {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let seconds = text.chars().last().and_then(unit).and_then(|unit| {
        let number: u64 = text[..text.len() - 1].parse().ok()?;
        number.checked_mul(unit)
    });
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a number and s, m, h or d, such as 8h".to_owned())
}

/// Which inventory.
#[derive(Args, Clone, Debug)]
pub(super) struct At {
    /// The inventory: a file, or a folder whose files are merged [default: the context's, PROVISION_INVENTORY, or the current folder]
    #[arg(long, short)]
    pub inventory: Option<PathBuf>,
}

impl At {
    /// Returns the inventory's path.
    pub(super) fn path(&self) -> PathBuf {
        self.inventory.clone().or_else(usual_inventory).unwrap_or_else(|| PathBuf::from("."))
    }

    /// Returns this flag as on a command line, or the context's.
    pub(super) fn said(&self) -> String {
        match (&self.inventory, context::name()) {
            (None, Some(name)) => format!("-c {}", quote(name)),
            _ => format!("-i {}", quote(&self.path().display().to_string())),
        }
    }
}

/// Which inventory, and which part of it.
#[derive(Args, Clone, Debug)]
pub(super) struct Where {
    #[command(flatten)]
    pub at: At,
    /// Select hosts: names, pools, patterns (`h-*`), ranges (`h-[001-010]`), `!` to exclude; comma-separated
    #[arg(long, value_name = "HOSTS")]
    pub limit: Option<String>,
    /// Use simulated hosts on this machine instead of the inventory's hosts
    #[arg(long)]
    pub lab: bool,
}

impl Where {
    /// Returns the inventory's path. What the context and the environment name is a default: a saved plan has an inventory
    /// of its own.
    pub(super) fn inventory(&self) -> PathBuf {
        self.at.path()
    }

    /// Returns what of the inventory takes part; the machines of `lost` hosts are off for good.
    pub(super) fn selection(&self, lost: &[String]) -> Selection {
        let lost = lost.iter().map(|name| HostName::new(name.as_str())).collect();
        Selection { limit: self.limit.clone(), lab: self.lab, lost, ..Selection::default() }
    }

    /// Returns these flags as on a command line.
    pub(super) fn said(&self) -> String {
        let mut text = self.at.said();
        if let Some(limit) = &self.limit {
            text += &format!(" --limit '{limit}'");
        }
        if self.lab {
            text += " --lab";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "8", "h", "-1h", "8hours", "1.5h", "8µ", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
