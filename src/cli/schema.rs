//! `schema`: the JSON Schema of inventories.

use super::exit;
use clap::Args;

/// Print the JSON Schema of the inventory
#[derive(Args)]
#[command(after_help = "Example:
  provision schema > schema.json     then, first line of an inventory:
  # yaml-language-server: $schema=schema.json")]
pub(super) struct Schema {}

impl Schema {
    /// Prints it.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        println!("{}", serde_json::to_string_pretty(&crate::inventory::schema())?);
        Ok(exit::DONE)
    }
}
