//! `init`: a commented inventory to start from. Asks on a terminal, takes flags in a pipe.

use super::{Global, exit};
use crate::catalog::{Catalog, Vendor};
use crate::inventory::{Init as Told, init_text};
use anyhow::{Context, bail};
use clap::Args;
use std::io::{IsTerminal, Write};

/// Write a commented inventory to start from
#[derive(Args)]
#[command(after_help = "Examples:
  provision init > site.yaml                                      asks, on a terminal
  provision init --name ams --controllers 10.0.0.1 --workers 10.0.0.2,10.0.0.3 --accelerator l40s --count 1 > site.yaml")]
pub struct Init {
    /// The cluster's name
    #[arg(long)]
    name: Option<String>,
    /// Login name
    #[arg(long)]
    user: Option<String>,
    /// Addresses of controllers
    #[arg(long, value_delimiter = ',')]
    controllers: Vec<String>,
    /// Addresses of workers; none makes the controllers workers too
    #[arg(long, value_delimiter = ',')]
    workers: Vec<String>,
    /// Catalog slug of the accelerator, such as l40s
    #[arg(long)]
    accelerator: Option<String>,
    /// Accelerators a host
    #[arg(long, default_value_t = 8)]
    count: u32,
}

fn ask(question: &str, default: &str) -> anyhow::Result<String> {
    eprint!("{question} [{default}] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(if answer.trim().is_empty() { default.to_owned() } else { answer.trim().to_owned() })
}

impl Init {
    /// Prints the inventory.
    pub fn run(self, _: &Global) -> anyhow::Result<u8> {
        let list = |text: String| {
            text.split([',', ' ']).filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let (mut name, mut user, mut controllers, mut workers, mut accelerator) =
            (self.name, self.user, self.controllers, self.workers, self.accelerator);
        if controllers.is_empty() {
            if !std::io::stdin().is_terminal() {
                bail!("there is no terminal to ask on; say at least --controllers ADDRESS");
            }
            name = Some(ask("Name of the cluster?", "site")?);
            user = Some(ask("Login name on the hosts?", "ubuntu")?);
            controllers = list(ask("Addresses of controllers?", "10.0.0.1")?);
            workers = list(ask("Addresses of workers (none: the controllers work too)?", "none")?);
            workers.retain(|w| w != "none");
            accelerator = Some(ask("Accelerator (catalog slug, or none)?", "none")?).filter(|a| a != "none");
        }
        let catalog = Catalog::builtin().context("cannot load the catalog")?;
        let product = match &accelerator {
            None => None,
            Some(slug) => {
                Some(catalog.product(slug).with_context(|| format!("`{slug}` is not in the catalog"))?)
            }
        };
        let told = Told {
            name: name.unwrap_or_else(|| "site".to_owned()),
            user: user.unwrap_or_else(|| "ubuntu".to_owned()),
            controllers,
            workers,
            neuron: product.is_some_and(|p| p.vendor == Vendor::Neuron),
            accelerator: accelerator.map(|slug| (slug, self.count)),
        };
        print!("{}", init_text(&told));
        Ok(exit::DONE)
    }
}
