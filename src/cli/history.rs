//! `history`: earlier runs from this machine.

use super::site::{journals, load};
use super::{Global, Output, exit};
use crate::run::{history, replay};
use clap::Args;
use std::path::PathBuf;

/// List earlier runs, or show one
#[derive(Args)]
#[command(after_help = "Examples:
  provision history -i site.yaml
  provision history -i site.yaml 8XKQ2")]
pub struct History {
    /// A run to show
    run: Option<String>,
    /// The inventory
    #[arg(long, short, env = "PROVISION_INVENTORY", default_value = ".")]
    inventory: PathBuf,
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
        .unwrap_or_default()
}

impl History {
    /// Prints the runs, newest first, or the records of one.
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (inventory, _) = load(&self.inventory)?;
        let folder = journals(&inventory);
        if let Some(run) = &self.run {
            for record in replay(&folder.join(format!("{run}.jsonl")))? {
                println!(
                    "{} {:?} {} {} {}",
                    time(record.at_s),
                    record.transition,
                    record.target,
                    record.batch,
                    record.note
                );
            }
            return Ok(exit::DONE);
        }
        let runs = history(&folder);
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&runs)?);
            return Ok(exit::DONE);
        }
        for run in &runs {
            let took = run.took_s.map_or_else(|| "-".to_owned(), |s| format!("{s} s"));
            println!(
                "{}  {}  {took:>6}  {} batches, {} failed  {}",
                run.run,
                time(run.began_s),
                run.done,
                run.failed,
                run.note
            );
        }
        if runs.is_empty() {
            eprintln!("no run of {} is recorded on this machine", inventory.name);
        }
        Ok(exit::DONE)
    }
}
