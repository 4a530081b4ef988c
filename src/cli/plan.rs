//! `plan`: what would change.

use super::site::Site;
use super::{Global, Output, Where, exit, watch};
use crate::plan::{Plan, save};
use crate::report::{PlanView, plan_text};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Show what would change; exit 2 if anything would
#[derive(Args)]
#[command(after_help = "Examples:
  provision plan -i site.yaml
  provision plan -i site.yaml --limit h-031 -v
  provision plan -i site.yaml -o plan.json      then: provision apply plan.json -i site.yaml
  provision plan -i inventories/h100-rack --lab on simulated hosts")]
pub struct PlanCommand {
    #[command(flatten)]
    place: Where,
    /// Save the plan, for `apply FILE`
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show every host on its own
    #[arg(long)]
    hosts: bool,
}

/// Prints a plan.
pub fn print(plan: &Plan, global: &Global, hosts: bool, observed_in: Duration, place: String) {
    match global.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(plan).unwrap_or_default()),
        _ => print!("{}", plan_text(plan, &PlanView { hosts, verbose: global.verbose, observed_in, place })),
    }
}

/// Returns the exit code of a plan.
pub fn code(plan: &Plan) -> u8 {
    match () {
        () if plan.is_blind() => exit::FAILED,
        () if plan.steps() > 0 => exit::PENDING,
        () => exit::DONE,
    }
}

impl PlanCommand {
    /// Observes, plans, prints.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let site = Site::open(&self.place, &events).await?;
        let (observed, took) = site.observe(&events).await;
        let plan = site.plan(observed);
        drop(events);
        shown.end().await;
        print(&plan, global, self.hosts, took, self.place.said());
        if let Some(path) = &self.out {
            save(&plan, path)?;
            eprintln!(
                "saved; to carry out exactly this: provision apply {} -i {}",
                path.display(),
                self.place.inventory.display()
            );
        }
        super::lab::release(site.lab).await;
        Ok(code(&plan))
    }
}
