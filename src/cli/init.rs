//! `init`: a commented starter inventory. Prompts on a terminal, uses flags otherwise.

use super::args::Global;
use super::errors::usage;
use super::exit;
use crate::fleet::FirstInventory;
use anyhow::Context;
use clap::Args;
use std::io::{BufRead, IsTerminal, Write};

/// Write a commented starter inventory
#[derive(Args)]
#[command(after_help = "Examples:
  provision init > site.yaml                                      interactive
  provision init --name ams --controllers 10.0.0.1 --workers 10.0.0.2,10.0.0.3 --accelerator l40s --count 1 > site.yaml")]
pub(super) struct Init {
    /// The cluster's name
    #[arg(long)]
    name: Option<String>,
    /// Login name
    #[arg(long)]
    user: Option<String>,
    /// Addresses of controllers
    #[arg(long, value_delimiter = ',')]
    controllers: Vec<String>,
    /// Addresses of workers; without any, the controllers also run workloads
    #[arg(long, value_delimiter = ',')]
    workers: Vec<String>,
    /// Catalog slug of the accelerator, such as l40s
    #[arg(long)]
    accelerator: Option<String>,
    /// Accelerators per host
    #[arg(long, default_value_t = 8)]
    count: u32,
}

/// Asks one question; an empty answer takes the default. The end of the input is an error.
fn ask(from: &mut dyn BufRead, to: &mut dyn Write, question: &str, default: &str) -> anyhow::Result<String> {
    write!(to, "{question} [{default}] ")?;
    to.flush()?;
    let mut answer = String::new();
    if from.read_line(&mut answer)? == 0 {
        return Err(usage(
            "end of input before all questions were answered",
            "Pass the answers as flags: see `provision init --help`",
        ));
    }
    Ok(if answer.trim().is_empty() { default.to_owned() } else { answer.trim().to_owned() })
}

impl Init {
    /// Prompts for everything.
    fn asked(mut self, from: &mut dyn BufRead, to: &mut dyn Write) -> anyhow::Result<Self> {
        let list = |text: String| {
            text.split([',', ' ']).filter(|t| !t.is_empty() && *t != "none").map(str::to_owned).collect()
        };
        self.name = Some(ask(from, to, "Name of the cluster?", self.name.as_deref().unwrap_or("site"))?);
        let user = self.user.as_deref().unwrap_or("ubuntu");
        self.user = Some(ask(from, to, "Login user on the hosts?", user)?);
        self.controllers = list(ask(from, to, "Addresses of controllers?", "10.0.0.1")?);
        let question = "Addresses of workers (none: controllers also run workloads)?";
        self.workers = list(ask(from, to, question, "none")?);
        let accelerator = ask(from, to, "Accelerator (catalog slug, or none)?", "none")?;
        self.accelerator = Some(accelerator).filter(|a| a != "none");
        if self.accelerator.is_some() {
            let count = ask(from, to, "Accelerators per host?", &self.count.to_string())?;
            self.count = count.parse().with_context(|| format!("Expected a number, got `{count}`"))?;
        }
        Ok(self)
    }

    /// Prints the inventory.
    pub(super) fn run(mut self, _: &Global) -> anyhow::Result<u8> {
        if self.controllers.is_empty() {
            if !std::io::stdin().is_terminal() {
                return Err(usage("no terminal to prompt on", "Add at least --controllers ADDRESS"));
            }
            self = self.asked(&mut std::io::stdin().lock(), &mut std::io::stderr())?;
        }
        print!("{}", self.told().text()?);
        Ok(exit::DONE)
    }

    fn told(self) -> FirstInventory {
        FirstInventory {
            name: self.name.unwrap_or_else(|| "site".to_owned()),
            user: self.user.unwrap_or_else(|| "ubuntu".to_owned()),
            controllers: self.controllers,
            workers: self.workers,
            accelerator: self.accelerator,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::fleet::Error;

    fn blank() -> Init {
        Init {
            name: None,
            user: None,
            controllers: Vec::new(),
            workers: Vec::new(),
            accelerator: None,
            count: 8,
        }
    }

    #[test]
    fn what_is_asked_becomes_an_inventory_that_validates() {
        let mut questions = Vec::new();
        let told = "ams\n\n10.0.0.1 10.0.0.2,10.0.0.3\n10.0.0.4\nb200-sxm\n4\n";
        let init = blank().asked(&mut told.as_bytes(), &mut questions).expect("answered");
        let text = init.told().text().expect("valid");
        assert!(text.contains("name: ams") && text.contains("user: ubuntu"), "{text}");
        assert!(text.contains("cp-3: {address: \"10.0.0.3\"}") && text.contains("count: 4"), "{text}");
        assert_eq!(String::from_utf8_lossy(&questions).matches("? [").count(), 6);
        assert!(blank().asked(&mut "ams\n".as_bytes(), &mut Vec::new()).is_err(), "the input ends too early");
    }

    #[test]
    fn every_product_of_the_catalog_gets_a_driver_or_sdk_that_fits() {
        let catalog = Catalog::builtin().expect("the catalog");
        let mut without = Vec::new();
        for product in catalog.products() {
            let controllers = vec!["10.0.0.1".to_owned()];
            let init = Init { accelerator: Some(product.slug.clone()), controllers, ..blank() };
            match init.told().text() {
                Ok(_) => {}
                Err(Error::Inventory(mistakes)) => panic!("{}: {mistakes}", product.slug),
                Err(_) => without.push(product.slug.as_str()),
            }
        }
        assert!(without.len() * 5 < catalog.products().len(), "{without:?}");
    }

    #[test]
    fn what_would_not_validate_is_not_written() {
        let controllers = vec!["10.0.0.1".to_owned()];
        let mistakes = Init { name: Some("Not a name".to_owned()), controllers, ..blank() }.told().text();
        assert!(mistakes.expect_err("refused").to_string().contains("E-NAME"));
    }
}
