//! `reset` and `destroy`: hosts as they were before their first apply.

use super::apply::{carry_out, print_end};
use super::args::{At, Global, Output, Where};
use super::policy::PolicyArgs;
use super::prompt::confirm_typed;
use super::session::{Session, source};
use super::{exit, plan};
use crate::fleet::{Fleet, Purpose, Reset, Selection};
use crate::report::count;
use crate::run::KillAt;
use crate::state::{Failure, HostName};
use clap::Args;

/// Take hosts out of the cluster and remove everything that provision made on them
///
/// Drains and deletes the node, has the member leave etcd, stops k0s and its pods, runs `k0s reset`, then removes our files,
/// packages, units and mounts, and our own records last. What was there before the first apply stays. The next apply treats
/// a host that is still in the inventory as new; to keep it out, set `state: retired` or remove it.
#[derive(Args)]
#[command(after_help = "Examples:
  provision reset -i site.yaml w-2                asks you to type the name
  provision reset -i site.yaml w-2 --dry-run      shows the plan only; exit 2
  provision reset -i site.yaml h-031 --lost h-031   its machine is off for good
  provision reset -i site.yaml 'h-[001-004]' --yes  for CI")]
pub(super) struct ResetCommand {
    /// The hosts: names, pools, patterns (`h-*`), ranges (`h-[001-010]`)
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Reset all hosts of the inventory and destroy the cluster
///
/// The cluster and everything in it are gone afterwards.
///
/// Nothing is drained. What was there before the first apply stays, and so do file systems, unless --wipe-data is given.
#[derive(Args)]
#[command(after_help = "Examples:
  provision destroy -i site.yaml                  asks you to type the inventory's name
  provision destroy -i site.yaml --dry-run        shows the plan only; exit 2
  provision destroy -i site.yaml --lost h-031     without a host whose machine is off for good")]
pub(super) struct Destroy {
    #[command(flatten)]
    how: How,
}

/// Flags of both.
#[derive(Args)]
struct How {
    #[command(flatten)]
    at: At,
    /// Use simulated hosts on this machine instead of the inventory's hosts
    #[arg(long)]
    lab: bool,
    /// A host whose machine is off for good: it is not contacted, and its pods are treated as gone
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    lost: Vec<String>,
    /// Also wipe filesystems that provision made; everything on them is lost
    #[arg(long)]
    wipe_data: bool,
    /// Show the plan and change nothing; exit 2 if there is anything to do
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Skip the confirmation prompt
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    policy: PolicyArgs,
    /// For tests: kill@N or kill@TRANSITION kills this process right after that record of the journal
    #[arg(long, value_name = "FAULT", hide = true)]
    fault: Option<KillAt>,
}

impl ResetCommand {
    /// Plans, asks for confirmation, resets.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let limit = self.hosts.join(",");
        run(self.how, Some(limit), global).await
    }
}

impl Destroy {
    /// Plans, asks for confirmation, resets all hosts.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        run(self.how, None, global).await
    }
}

/// Returns what is asked, and what has to be typed: the host's name, or the inventory's for several.
fn question(fleet: &Fleet, resets: &[&HostName], destroys: bool) -> (String, String) {
    let site = &fleet.inventory.name;
    match resets {
        _ if destroys => {
            let hosts = count(resets.len(), "host");
            (
                format!(
                    "This destroys cluster {site} and resets {hosts}. Type the inventory's name ({site})"
                ),
                site.clone(),
            )
        }
        [one] => (format!("This resets {one}. Type its name"), one.to_string()),
        several => {
            let hosts = count(several.len(), "host");
            (format!("This resets {hosts} of {site}. Type the inventory's name ({site})"), site.clone())
        }
    }
}

pub(super) fn print_refused(refused: &[Failure], global: &Global) {
    if global.output == Output::Json {
        println!("{}", serde_json::json!({"exit": exit::REFUSED, "refused": refused}));
    }
    for failure in refused {
        eprintln!("error[{}]: {}", failure.code, failure.message);
        if let Some(hint) = &failure.hint {
            eprintln!("  = next: {hint}");
        }
    }
}

async fn run(how: How, limit: Option<String>, global: &Global) -> anyhow::Result<u8> {
    let destroys = limit.is_none();
    let judge = how.policy.clone().read()?;
    let place = Where { at: how.at, limit, lab: how.lab };
    let selection =
        Selection { reset: Some(Reset { wipe_data: how.wipe_data }), ..place.selection(&how.lost) };
    let source = source(&place.inventory(), global);
    let mut session = Session::of(&source, &selection, global, Purpose::Look, !how.dry_run).await?;
    let json = global.output == Output::Json;
    let (mut plan, took, refused) = session.fleet.plan_to_reset(&session.events).await?;
    if !json || how.dry_run {
        plan::print(&plan, global, false, Some(took), String::new());
        if destroys && !json && plan.steps() > 0 {
            eprintln!("The cluster is destroyed, and everything stored in it is lost");
        }
    }
    if !refused.is_empty() {
        session.end().await?;
        print_refused(&refused, global);
        return Ok(exit::REFUSED);
    }
    let word = if destroys { "destroy" } else { "reset" };
    if plan.steps() > 0 && judge.stops(&session.fleet, &mut plan, word, global)? {
        session.end().await?;
        return Ok(exit::REFUSED);
    }
    if how.dry_run {
        session.end().await?;
        return Ok(plan.exit_code());
    }
    if plan.steps() == 0 {
        let failures = session.fleet.finish().await;
        for failure in &failures {
            eprintln!("warning: cleanup failed: {failure}");
        }
        session.end().await?;
        return Ok(if failures.is_empty() { exit::DONE } else { exit::FAILED });
    }
    let all = session.fleet.resets();
    let (asked, typed) = question(&session.fleet, &all.iter().collect::<Vec<_>>(), destroys);
    if !how.yes && !confirm_typed(&asked, &typed, "Review the plan with --dry-run, then add --yes")? {
        session.end().await?;
        eprintln!("Not confirmed; nothing was changed");
        return Ok(exit::PENDING);
    }
    session.fleet.describe_run(judge.about(word));
    let report = carry_out(&session.fleet, &plan, session.events.clone(), how.fault).await?;
    let (fleet, shown) = session.settle().await;
    // Whatever is left to do, it is not an apply.
    print_end(&fleet, &report, &shown, (&place, false), true, global);
    let code = report.exit_code();
    if !json && !global.quiet {
        match code {
            // A machine that is off for good is not rebooted.
            exit::DONE if all.iter().all(|host| selection.lost.contains(host)) => {}
            exit::DONE => eprintln!(
                "A reboot of the hosts is recommended: k0s leaves network interfaces and rules behind"
            ),
            _ => {
                eprintln!("next: Fix the failures and run the same {word} again; completed steps are skipped")
            }
        }
    }
    fleet.close()?;
    Ok(code)
}
