//! `facts`: show host facts.

use super::args::{Global, Output, Where};
use super::session::Session;
use super::{exit, terminal};
use crate::catalog::Catalog;
use crate::report::{Columns, Last, count};
use crate::state::{Facts as HostFacts, HostName, PciFunction};
use clap::Args;
use std::collections::BTreeMap;

/// Show host facts
#[derive(Args)]
#[command(after_help = "Examples:
  provision facts -i site.yaml
  provision facts -i site.yaml --limit h-001 --output json")]
pub(super) struct Facts {
    #[command(flatten)]
    place: Where,
}

/// Returns the accelerators of a host: `8 GPUs`. A GPU has audio and bridge functions too, which only `-v` counts.
fn accelerators(facts: &HostFacts, catalog: &Catalog, verbose: bool) -> String {
    let is_gpu =
        |f: &&PciFunction| f.vendor == "10de" && (f.class.starts_with("0300") || f.class.starts_with("0302"));
    let is_neuron = |f: &&PciFunction| {
        f.vendor == "1d0f"
            && catalog.by_pci(&f.vendor, &f.device, &f.subsystem_vendor, &f.subsystem_device).is_some()
    };
    let gpus = facts.pci.iter().filter(is_gpu).count();
    let neuron = facts.pci.iter().filter(is_neuron).count();
    let text = match (gpus, neuron) {
        (0, 0) => "no accelerators".to_owned(),
        (0, neuron) => count(neuron, "Neuron device"),
        (gpus, _) => count(gpus, "GPU"),
    };
    if verbose { format!("{text} ({})", count(facts.pci.len(), "PCI function")) } else { text }
}

impl Facts {
    /// Queries every host and prints a line each, or all as JSON.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::look(&self.place, global).await?;
        let answers = session.fleet.facts().await;
        let catalog = session.fleet.catalog.clone();
        session.end().await?;
        let mut all = BTreeMap::new();
        let mut code = exit::DONE;
        for (name, result) in answers {
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
            let cells = |(name, facts): (&HostName, &HostFacts)| {
                vec![
                    name.to_string(),
                    facts.os_slug(),
                    facts.kernel.clone(),
                    format!("{:>3} CPUs", facts.cpus),
                    format!("{:>6} GiB", facts.memory_kib >> 20),
                    accelerators(facts, &catalog, global.verbose > 0),
                ]
            };
            let rows: Vec<Vec<String>> = all.iter().map(cells).collect();
            let columns = Columns { indent: 0, most: &[usize::MAX; 5], below: 3, last: Last::Wrap };
            screen!("{}", columns.rows(&rows, terminal::width()).concat());
        }
        Ok(code)
    }
}
