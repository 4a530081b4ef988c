//! `catalog`: accelerators, drivers, SDK releases, k0s and engine images, with the source of each fact.

use super::args::{Global, Output};
use super::context::usual_inventory;
use super::session::source;
use super::{exit, terminal};
use crate::catalog::Catalog;
use crate::fleet::{Error, no_product};
use crate::report::{catalog_text, product_text};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

/// Show the catalog: accelerators, driver branches, SDK releases, k0s versions, engine images
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  provision catalog                     every product
  provision catalog b300-sxm            one product: ids, drivers, fabric, baselines, sources
  provision catalog 10de:3182           the same by PCI id
  provision catalog check -i site       the catalog with the files of site/catalog/; exit 1 on contradictions")]
pub(super) struct CatalogCommand {
    /// A product, or a PCI id such as 10de:2330
    product: Option<String>,
    /// The inventory whose catalog/ folder extends the built-in catalog [default: the context's, or PROVISION_INVENTORY]
    #[arg(long, short)]
    inventory: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Find contradictory rows
    #[command(after_help = "Example:
  provision catalog check -i site")]
    Check {
        /// The inventory whose catalog/ folder extends the built-in catalog [default: the context's, or PROVISION_INVENTORY]
        #[arg(long, short)]
        inventory: Option<PathBuf>,
    },
}

fn load(inventory: Option<&PathBuf>, global: &Global) -> anyhow::Result<Catalog> {
    Ok(match inventory.cloned().or_else(usual_inventory) {
        Some(path) => source(&path, global).catalog()?,
        None => Catalog::builtin().map_err(Error::from)?,
    })
}

impl CatalogCommand {
    /// Shows, or checks.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        if let Some(Part::Check { inventory }) = &self.command {
            let catalog = load(inventory.as_ref(), global)?;
            if !global.quiet {
                println!(
                    "Catalog OK: {} products, {} driver branches, {} SDK releases, {} engine images",
                    catalog.products().len(),
                    catalog.branches().len(),
                    catalog.neuron_sdks().len(),
                    catalog.engine_images().len()
                );
            }
            return Ok(exit::DONE);
        }
        let catalog = load(self.inventory.as_ref(), global)?;
        let Some(wanted) = &self.product else {
            match global.output {
                Output::Json => println!(
                    "{}",
                    serde_json::to_string_pretty(&json!({
                        "asOf": catalog.as_of(),
                        "products": catalog.products(),
                        "branches": catalog.branches(),
                        "neuronSdks": catalog.neuron_sdks(),
                        "k0sLines": catalog.k0s_lines(),
                        "engineImages": catalog.engine_images(),
                        "unconfirmed": catalog
                            .unconfirmed()
                            .into_iter()
                            .map(|(row, why)| json!({"row": row, "why": why}))
                            .collect::<Vec<_>>(),
                    }))?
                ),
                _ => screen!("{}", catalog_text(&catalog, terminal::width())),
            }
            return Ok(exit::DONE);
        };
        let by_id = wanted.split_once(':').map(|(vendor, device)| {
            catalog.products().iter().filter(|p| p.has(vendor, device)).cloned().collect::<Vec<_>>()
        });
        let mut found = by_id.unwrap_or_default();
        if found.is_empty() {
            found.extend(catalog.product(wanted).map(std::borrow::Cow::into_owned));
        }
        if found.is_empty() {
            return Err(no_product(&catalog, wanted).into());
        }
        match global.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
            _ => {
                let text = |product| product_text(&catalog, product, terminal::width());
                screen!("{}", found.iter().map(text).collect::<Vec<_>>().join("\n"));
            }
        }
        Ok(exit::DONE)
    }
}
