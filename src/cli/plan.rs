//! `plan`: show pending changes.

use super::args::{Global, Output, Where};
use super::policy::PolicyArgs;
use super::session::Session;
use super::terminal::{self, Annotation};
use crate::plan::Plan;
use crate::report::{PlanView, count, plan_text};
use crate::state::plain_line;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Show pending changes; exit 2 if there are any
#[derive(Args)]
#[command(after_help = "Examples:
  provision plan -i site.yaml
  provision plan -i site.yaml --limit h-031 -v
  provision plan -i site.yaml -o plan.json      then: provision apply plan.json
  provision plan -i inventories/h100-rack --lab   on simulated hosts
  provision plan -i site.yaml --policies main:policies   evaluate the policies of a git revision

Exit codes: 0 in sync, 2 changes pending, 1 not everything could be observed, 3 refused by policy.")]
pub(super) struct PlanCommand {
    #[command(flatten)]
    place: Where,
    /// Save the plan for `apply FILE`
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A retired host whose machine is off for good: its pods, which cannot be terminated, are treated as gone
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    lost: Vec<String>,
    /// List every host separately
    #[arg(long)]
    hosts: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// Returns the commit that a saved plan was made from, as a line; `None` where it was in no repository.
pub(super) fn commit_line(plan: &Plan) -> Option<String> {
    let commit = plan.sources.as_ref()?.commit.as_ref()?;
    let more = if commit.modified { ", with changes that are not committed" } else { "" };
    Some(plain_line(&format!("Inventory of commit {} by {}{more}", commit.id, commit.author)).into_owned())
}

/// Prints a plan.
pub(super) fn print(plan: &Plan, global: &Global, hosts: bool, observed_in: Option<Duration>, place: String) {
    match global.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(plan).unwrap_or_default()),
        _ => {
            let (verbose, width) = (global.verbose > 0, terminal::width());
            screen!("{}", plan_text(plan, &PlanView { hosts, verbose, observed_in, place, width }));
            if plan.steps() > 0 {
                let changes = format!("{} pending", count(plan.steps(), "change"));
                terminal::annotate(Annotation::Notice, "Plan", None, &changes);
            }
        }
    }
}

impl PlanCommand {
    /// Observes, plans, prints.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let judge = self.policy.read()?;
        let session = Session::change(&self.place, &self.lost, global, false).await?;
        let observation = session.fleet.observe(&session.events).await;
        let took = observation.took;
        let mut plan = session.fleet.plan(observation);
        let (fleet, _) = session.settle().await;
        judge.evaluate(&fleet, &mut plan, "plan", Vec::new())?;
        // What is saved is told below instead.
        let place = if self.out.is_some() { String::new() } else { self.place.said() };
        print(&plan, global, self.hosts, Some(took), place);
        judge.refuses(&fleet, &plan, None);
        if let Some(path) = &self.out {
            let needs = fleet.save(&plan, path)?;
            eprintln!("Saved. To carry out exactly this plan: provision apply {}", path.display());
            if !needs.is_empty() {
                eprintln!("It contains the inventory and the lock file. It also needs:");
            }
            for need in needs {
                eprintln!("  {}", plain_line(&need));
            }
        }
        fleet.close()?;
        Ok(plan.exit_code())
    }
}
