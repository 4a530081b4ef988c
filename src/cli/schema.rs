//! `schema`: JSON Schemas of inventories, and of what commands print and save as JSON.

use super::exit;
use crate::plan::{Drift, Facts, InventoryDiff, Plan};
use clap::{Args, ValueEnum};
use schemars::schema_for;

/// Print the JSON Schema of the inventory, or another
#[derive(Args)]
#[command(after_help = "Examples:
  provision schema > schema.json     then, first line of an inventory:
  # yaml-language-server: $schema=schema.json
  provision schema plan              of `plan --output json`, `show --output json` and saved plans

A schema says what this version writes. Later versions may add properties.")]
pub(super) struct Schema {
    /// Of what
    #[arg(value_enum, default_value_t = Of::Inventory)]
    of: Of,
}

#[derive(Clone, Copy, ValueEnum)]
enum Of {
    /// An inventory
    Inventory,
    /// A plan: `plan --output json`, and the files of `plan -o`
    Plan,
    /// `drift --output json`, and what `watch` posts
    Drift,
    /// `diff --output json`
    Diff,
    /// The variables of policies
    Policy,
}

impl Schema {
    /// Prints it.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let schema = match self.of {
            Of::Inventory => crate::inventory::schema(),
            Of::Plan => schema_for!(Plan).to_value(),
            Of::Drift => schema_for!(Drift).to_value(),
            Of::Diff => schema_for!(InventoryDiff).to_value(),
            Of::Policy => schema_for!(Facts).to_value(),
        };
        println!("{}", serde_json::to_string_pretty(&schema)?);
        Ok(exit::DONE)
    }
}
