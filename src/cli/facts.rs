//! `facts`: what hosts say of themselves.

use super::site::{Need, Site};
use super::{Global, Output, Where, exit, watch};
use clap::Args;
use std::collections::BTreeMap;

/// Show what hosts say of themselves
#[derive(Args)]
#[command(after_help = "Examples:
  provision facts -i site.yaml
  provision facts -i site.yaml --limit h-001 --output json")]
pub struct Facts {
    #[command(flatten)]
    place: Where,
}

impl Facts {
    /// Asks every host, prints a line each, or all as JSON.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let site = Site::open_for(&self.place, Need::Look, &events).await?;
        drop(events);
        let mut tasks = tokio::task::JoinSet::new();
        for (name, host) in site.hosts.clone() {
            tasks.spawn(async move { (name, host.facts().await) });
        }
        let mut all = BTreeMap::new();
        let mut code = exit::DONE;
        while let Some(Ok((name, result))) = tasks.join_next().await {
            match result {
                Ok(facts) => {
                    all.insert(name, facts);
                }
                Err(failure) => {
                    eprintln!("{name}: {failure}");
                    code = exit::FAILED;
                }
            }
        }
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            for (name, facts) in &all {
                println!(
                    "{name:<12} {:<12} {:<28} {:>3} cpus {:>6} GiB  {} accelerator functions",
                    facts.os_slug(),
                    facts.kernel,
                    facts.cpus,
                    facts.memory_kib >> 20,
                    facts.pci.len()
                );
            }
        }
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        Ok(code)
    }
}
