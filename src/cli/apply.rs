//! `apply` and `attach`: carrying out a plan, and following what an earlier run left running.

use super::health::{Ask, Report, ask};
use super::site::{Site, journals};
use super::{Global, Output, Where, coded, exit, usage, watch};
use crate::plan::{load, stale};
use crate::report::{Ended, Failed, Shown, run_summary};
use crate::role::health::BELOW_POOL;
use crate::run::{Cancel, Journal, KillAt, Outcome, RunInput, RunReport, execute};
use crate::state::{FailureKind, Target, TargetId};
use clap::Args;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Carry out what plan shows, after asking
#[derive(Args)]
#[command(after_help = "Examples:
  provision apply -i site.yaml                 asks first
  provision apply -i site.yaml --yes           for CI
  provision apply plan.json -i site.yaml       exactly the saved plan; refused if anything moved
  provision apply -i site.yaml --limit h-031   one host")]
pub struct Apply {
    /// A plan saved by `plan -o`
    plan: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// With a saved plan: leave out what moved, do the rest, exit 1
    #[arg(long)]
    skip_stale: bool,
    /// For tests: kill@N or kill@TRANSITION kills this process right after that record of the journal
    #[arg(long, value_name = "FAULT", hide = true)]
    fault: Option<KillAt>,
}

/// Carries out a plan on a site, with Ctrl-C wired. Returns the report.
pub async fn carry_out(
    site: &Site,
    plan: &crate::plan::Plan,
    events: crate::event::Events,
    kill_at: Option<KillAt>,
) -> anyhow::Result<RunReport> {
    let _alone = alone(&site.inventory)?;
    let journal = Journal::create(&journals(&site.inventory).join(format!("{}.jsonl", site.run)), kill_at)?;
    let (stop, cancel) = Cancel::new();
    let mut signals = tokio::task::JoinSet::new();
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut int = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let said = events.clone();
    signals.spawn(async move {
        for (level, what) in [
            (1, "stopping: what runs finishes, nothing new begins; Ctrl-C again detaches"),
            (2, "detached: what runs on the hosts goes on there; provision attach follows it"),
        ] {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            said.note(what);
            if stop.send(level).is_err() {
                return;
            }
        }
    });
    let said = events.clone();
    let report = execute(RunInput {
        plan,
        targets: site.targets(),
        cluster: site.cluster.clone().map(|c| c as Arc<dyn crate::state::Cluster>),
        inventory: &site.inventory,
        run: site.run.to_string(),
        journal: Arc::new(journal),
        events,
        cancel,
    })
    .await;
    if !report.interrupted
        && let Err(error) = keep_health(site, &report, &said).await
    {
        // The hosts are as they are, whether it is written down here or not.
        said.emit(crate::event::Event::Warning { target: None, message: format!("{error:#}") });
    }
    Ok(report)
}

/// Writes down how well the accelerators are that the run had to do with, and warns of hosts that are far below the others
/// of their pool: no host can tell that by itself, so no step of one can. A host that could not be reached is not asked
/// again.
async fn keep_health(site: &Site, report: &RunReport, events: &crate::event::Events) -> anyhow::Result<()> {
    let asked = report.outcomes.iter().filter_map(|(target, outcome)| match outcome {
        Outcome::Converged(_) => target.host(),
        Outcome::Failed(failure) if failure.exit.is_some() => target.host(),
        Outcome::Failed(_) | Outcome::Stopped | Outcome::Detached => None,
    });
    let (run, lab) = (site.run.to_string(), site.lab.is_some());
    let hosts = ask(site, asked, Ask::Kept).await;
    if hosts.is_empty() {
        return Ok(());
    }
    for (host, health) in &hosts {
        for finding in health.findings.iter().filter(|f| f.code == BELOW_POOL) {
            let message = format!("[{}] {}", finding.code, finding.detail);
            events.emit(crate::event::Event::Warning { target: Some(host.clone()), message });
        }
    }
    Report { run, level: "apply".to_owned(), lab, hosts }.keep(&site.inventory.name).map(drop)
}

/// Keeps a second run of the same inventory from this machine out; the lock on each host is by owner and would let it in.
fn alone(inventory: &crate::inventory::Inventory) -> anyhow::Result<std::fs::File> {
    let folder = journals(inventory);
    std::fs::create_dir_all(&folder)?;
    let file = std::fs::File::create(folder.join("running"))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let message = format!("another run of {} is under way from this machine", inventory.name);
        return Err(coded("E-RUNNING", message, "wait for it, or stop it with Ctrl-C"));
    }
    Ok(file)
}

/// Returns the failures of a run, each with what it means for its pool.
fn failures<'a>(site: &'a Site, report: &'a RunReport) -> Vec<Failed<'a>> {
    let pool_of = |t: &TargetId| t.host().and_then(|h| site.inventory.hosts.get(h)).map(|h| h.pool.as_str());
    let mut taking_part: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (target, outcome) in &report.outcomes {
        let Some(pool) = pool_of(target) else { continue };
        let (all, failed) = taking_part.entry(pool).or_default();
        *all += 1;
        *failed += usize::from(matches!(outcome, Outcome::Failed(f) if f.kind != FailureKind::Blocked));
    }
    report
        .failures()
        .map(|(target, failure)| {
            let pool = pool_of(target).and_then(|name| site.inventory.pools.get(name));
            let (all, failed) =
                pool.and_then(|p| taking_part.get(p.name.as_str())).copied().unwrap_or_default();
            let budget = pool.map(|p| {
                let size = site.inventory.hosts_of(&p.name).count();
                (p.name.as_str(), failed, p.disruption.max_failed.of(size))
            });
            Failed { target, failure, budget, others: all.saturating_sub(failed) }
        })
        .collect()
}

/// Prints the end of a run; `ends` says that the twin goes down with it, so that no command is named that would look at it.
pub fn print_end(site: &Site, report: &RunReport, shown: &Shown, place: &Where, ends: bool, global: &Global) {
    let ended = Ended {
        run: site.run.as_str(),
        targets: report.outcomes.len(),
        failures: failures(site, report),
        stopped: report.stopped().map(|(target, _)| target).collect(),
        steps: shown.steps,
        changed: &shown.changed,
        took: report.elapsed,
        interrupted: report.interrupted,
        lab: site.lab.is_some(),
        inventory: format!("-i {}", place.inventory.display()),
        place: (!ends).then(|| place.said()),
    };
    if global.output == Output::Json {
        let failures: Vec<_> = ended
            .failures
            .iter()
            .map(|f| serde_json::json!({"target": f.target.to_string(), "failure": f.failure}))
            .collect();
        let names = |wanted: Outcome| {
            let targets = report.stopped().filter(|(_, outcome)| **outcome == wanted);
            targets.map(|(target, _)| target.to_string()).collect::<Vec<_>>()
        };
        println!(
            "{}",
            serde_json::json!({"run": ended.run, "exit": report.exit_code(), "exits": report.exit_codes(),
                "steps": ended.steps, "changed": ended.changed, "failures": failures,
                "stopped": names(Outcome::Stopped), "detached": names(Outcome::Detached)})
        );
    } else {
        eprint!("{}", run_summary(&ended));
    }
}

impl Apply {
    /// Plans, asks, does.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, true);
        let mut site = Site::open(&self.place, &events).await?;
        // What an earlier run left running on the hosts comes to its end first.
        // Who cannot be asked, or whose batch failed, shows in the plan.
        site.attach().await;
        let (mut observed, took) = site.observe(&events).await;
        site.probe_new(&mut observed).await;
        let mut plan = site.plan(observed);
        let mut skipped = false;
        if let Some(path) = &self.plan {
            let saved = load(path)?;
            if saved.inventory_digest != plan.inventory_digest || saved.lock_digest != plan.lock_digest {
                eprintln!(
                    "error[E-STALE]: the inventory or the lock file has changed since {} was made",
                    path.display()
                );
                eprintln!("  = next: provision plan again");
                return Ok(exit::REFUSED);
            }
            let moved = stale(&saved, &plan);
            for m in &moved {
                eprintln!("error[E-STALE]: {} on {} {}", m.resource, m.target, m.what);
            }
            if !moved.is_empty() && !self.skip_stale {
                eprintln!("  = next: provision plan again, or --skip-stale to do the rest");
                return Ok(exit::REFUSED);
            }
            for target in &mut plan.targets {
                target
                    .steps
                    .retain(|s| !moved.iter().any(|m| m.target == s.target && m.resource == s.resource));
            }
            skipped = !moved.is_empty();
        }
        if global.output != Output::Json {
            super::plan::print(&plan, global, false, took, String::new());
        }
        let unobserved = plan.is_blind();
        if plan.steps() == 0 {
            let ends = site.hosts.values().map(|host| host.finish());
            for failure in futures::future::join_all(ends).await.into_iter().filter_map(Result::err) {
                eprintln!("warning: could not be tidied up: {failure}");
            }
            super::lab::release(site.lab).await;
            return Ok(if unobserved || skipped { exit::FAILED } else { exit::DONE });
        }
        if !self.yes && !confirmed()? {
            super::lab::release(site.lab).await;
            return Ok(exit::PENDING);
        }
        let report = carry_out(&site, &plan, events, self.fault).await?;
        site.close();
        let shown = shown.end().await;
        print_end(&site, &report, &shown, &self.place, false, global);
        let code = report.exit_code();
        super::lab::release(site.lab).await;
        Ok(if code == exit::DONE && skipped { exit::FAILED } else { code })
    }
}

/// Asks on a terminal; elsewhere `--yes` is needed.
fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(usage("there is no terminal to ask on", "look at the plan, then say --yes"));
    }
    eprint!("\nApply this? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Follow what an earlier run left running on the hosts until it ends
#[derive(Args)]
#[command(after_help = "Example:
  provision attach -i site.yaml")]
pub struct Attach {
    #[command(flatten)]
    place: Where,
}

impl Attach {
    /// Follows every batch that still runs.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, true);
        let site = Site::open(&self.place, &events).await?;
        drop(events);
        let mut code = exit::DONE;
        let mut found = 0;
        for (name, ended) in site.attach().await {
            match ended {
                Ok(n) => found += n,
                Err(failure) => {
                    eprintln!("{name} {failure}");
                    code = exit::FAILED;
                }
            }
        }
        super::lab::release(site.lab).await;
        drop(site.hosts);
        shown.end().await;
        eprintln!("{found} batches were running");
        Ok(code)
    }
}
