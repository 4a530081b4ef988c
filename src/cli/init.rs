//! `init`: a commented inventory to start from. Asks on a terminal, takes flags in a pipe.

use super::{Global, coded, exit, usage};
use crate::catalog::Catalog;
use crate::inventory::{Accelerator, Files, Init as Told, init_text, load_from, newest};
use anyhow::Context;
use clap::Args;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

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

/// The one file of an inventory that is not written yet.
struct InMemory(String);

impl Files for InMemory {
    fn read(&self, _: &Path) -> std::io::Result<String> {
        Ok(self.0.clone())
    }

    fn list(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }
}

/// Asks one question; an empty answer takes the default. The end of the input is no answer.
fn ask(from: &mut dyn BufRead, to: &mut dyn Write, question: &str, default: &str) -> anyhow::Result<String> {
    write!(to, "{question} [{default}] ")?;
    to.flush()?;
    let mut answer = String::new();
    if from.read_line(&mut answer)? == 0 {
        return Err(usage(
            "the input ended before all questions were answered",
            "flags answer them too: --help",
        ));
    }
    Ok(if answer.trim().is_empty() { default.to_owned() } else { answer.trim().to_owned() })
}

impl Init {
    /// Asks for everything.
    fn asked(mut self, from: &mut dyn BufRead, to: &mut dyn Write) -> anyhow::Result<Self> {
        let list = |text: String| {
            text.split([',', ' ']).filter(|t| !t.is_empty() && *t != "none").map(str::to_owned).collect()
        };
        self.name = Some(ask(from, to, "Name of the cluster?", self.name.as_deref().unwrap_or("site"))?);
        let user = self.user.as_deref().unwrap_or("ubuntu");
        self.user = Some(ask(from, to, "Login name on the hosts?", user)?);
        self.controllers = list(ask(from, to, "Addresses of controllers?", "10.0.0.1")?);
        let question = "Addresses of workers (none: the controllers work too)?";
        self.workers = list(ask(from, to, question, "none")?);
        let accelerator = ask(from, to, "Accelerator (catalog slug, or none)?", "none")?;
        self.accelerator = Some(accelerator).filter(|a| a != "none");
        if self.accelerator.is_some() {
            let count = ask(from, to, "How many a host?", &self.count.to_string())?;
            self.count = count.parse().with_context(|| format!("`{count}` is no number"))?;
        }
        Ok(self)
    }

    /// Prints the inventory.
    pub fn run(mut self, _: &Global) -> anyhow::Result<u8> {
        if self.controllers.is_empty() {
            if !std::io::stdin().is_terminal() {
                return Err(usage("there is no terminal to ask on", "say at least --controllers ADDRESS"));
            }
            self = self.asked(&mut std::io::stdin().lock(), &mut std::io::stderr())?;
        }
        match self.text()? {
            Ok(text) => {
                print!("{text}");
                Ok(exit::DONE)
            }
            Err(mistakes) => {
                eprint!("{mistakes}");
                Ok(exit::FAILED)
            }
        }
    }

    /// Returns the inventory, or what is wrong with it: nothing is written that `validate` would refuse.
    fn text(self) -> anyhow::Result<Result<String, String>> {
        let catalog = Catalog::builtin().context("cannot load the catalog")?;
        let accelerator: Option<Accelerator> = match &self.accelerator {
            None => None,
            Some(slug) => {
                let product = catalog.product(slug).ok_or_else(|| {
                    let near = catalog.products().iter().min_by_key(|p| strsim::osa_distance(&p.slug, slug));
                    let near = near.map(|p| p.slug.as_str()).unwrap_or_default();
                    let message = format!("`{slug}` is not in the catalog");
                    coded("E-PRODUCT", message, format!("did you mean `{near}`? provision catalog lists all"))
                })?;
                let fitting = newest(&catalog, &product, self.count);
                Some(fitting.ok_or_else(|| {
                    let message = format!("the catalog has no driver or SDK for `{slug}`");
                    coded("E-PRODUCT", message, format!("provision catalog {slug} shows what there is"))
                })?)
            }
        };
        let told = Told {
            name: self.name.unwrap_or_else(|| "site".to_owned()),
            user: self.user.unwrap_or_else(|| "ubuntu".to_owned()),
            controllers: self.controllers,
            workers: self.workers,
            accelerator,
        };
        let text = init_text(&told);
        Ok(match load_from(&InMemory(text.clone()), Path::new("what was told"), &catalog) {
            Ok(_) => Ok(text),
            Err(mistakes) => Err(mistakes.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = init.text().expect("made").expect("valid");
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
            match init.text() {
                Ok(text) => drop(text.unwrap_or_else(|d| panic!("{}: {d}", product.slug))),
                Err(_) => without.push(product.slug.as_str()),
            }
        }
        assert!(without.len() * 5 < catalog.products().len(), "{without:?}");
    }

    #[test]
    fn what_would_not_validate_is_not_written() {
        let controllers = vec!["10.0.0.1".to_owned()];
        let mistakes = Init { name: Some("Not a name".to_owned()), controllers, ..blank() }.text();
        assert!(mistakes.expect("made").expect_err("refused").contains("E-NAME"));
    }
}
