//! `validate`: all errors of an inventory at once, without contacting hosts.

use super::args::{At, Global, Output};
use super::exit;
use super::junit::Junit;
use super::session::load;
use crate::fleet::LockState;
use crate::report::{Check, count};
use clap::Args;

/// Check an inventory without contacting hosts
#[derive(Args)]
#[command(after_help = "Examples:
  provision validate -i inventories/h100-rack
  provision validate -i site.yaml --output github           errors as annotations of a pull request
  provision validate -i site.yaml --junit results.xml       for other CI services")]
pub(super) struct Validate {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    junit: Junit,
}

impl Validate {
    /// Loads the inventory, compares it with the lock file if there is one, and prints a summary.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.junit.or_error("validate", self.check(global))
    }

    fn check(&self, global: &Global) -> anyhow::Result<u8> {
        let loaded = load(&self.at.path(), global)?;
        let lock = loaded.lock_state()?;
        let inventory = &loaded.inventory;
        if global.output == Output::Json {
            let result = serde_json::json!({"inventory": inventory.name, "valid": true, "hosts": inventory.hosts.len(),
                "pools": inventory.pools.len(), "models": inventory.models.len(), "tenants": inventory.tenants.len(),
                "lockMissing": lock == LockState::Missing});
            println!("{result}");
        } else if !global.quiet {
            screen!(
                "{} is valid: {} in {}, {}, {} (no host was contacted)\n",
                inventory.name,
                count(inventory.hosts.len(), "host"),
                count(inventory.pools.len(), "pool"),
                count(inventory.models.len(), "model"),
                count(inventory.tenants.len(), "tenant")
            );
            if lock == LockState::Missing {
                eprintln!("next: {}", ["provision lock", &self.at.said()].join(" "));
            }
        }
        self.junit.write("validate", || vec![Check::of(loaded.inventory.name.as_str(), Vec::new())])?;
        Ok(exit::DONE)
    }
}
