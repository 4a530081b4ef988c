//! `validate`: every mistake at once, no host contacted.

use super::site::load;
use super::{Global, exit};
use clap::Args;
use std::path::PathBuf;

/// Check an inventory; no host is contacted
#[derive(Args)]
#[command(after_help = "Example:
  provision validate -i inventories/h100-rack")]
pub struct Validate {
    /// The inventory
    #[arg(long, short, env = "PROVISION_INVENTORY", hide_env_values = true, default_value = ".")]
    inventory: PathBuf,
}

impl Validate {
    /// Loads, and says what there is.
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (inventory, _) = load(&self.inventory)?;
        if !global.quiet {
            println!(
                "{} is valid: {} hosts in {} pools, {} models, {} tenants; no host was contacted",
                inventory.name,
                inventory.hosts.len(),
                inventory.pools.len(),
                inventory.models.len(),
                inventory.tenants.len()
            );
        }
        Ok(exit::DONE)
    }
}
