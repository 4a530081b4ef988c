//! `apply` and `attach`: carry out a plan, and follow batches of an earlier run.

use super::args::{At, Global, Output, Where};
use super::context::named_inventory;
use super::errors::{coded, usage};
use super::policy::{PolicyArgs, print_refused};
use super::prompt::confirm;
use super::session::{Session, source};
use super::terminal::{Annotation, annotate};
use super::{exit, hints, plan};
use crate::event::Events;
use crate::fleet::{
    Approvable, Error, Fleet, Purpose, RunAbout, Saved, Selection, Source, approvals, compare_saved,
};
use crate::plan::{Plan, load};
use crate::report::{Ended, Failed, Shown, count, run_summary};
use crate::run::{Cancel, KillAt, Outcome, RunReport};
use crate::state::plain_line;
use clap::Args;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Carry out the plan after confirmation
#[derive(Args)]
#[command(after_help = "Examples:
  provision apply -i site.yaml                 asks for confirmation
  provision apply -i site.yaml --yes           for CI
  provision apply plan.json                    exactly the saved plan; refused if anything has changed
  provision apply -i site.yaml --limit h-031   one host
  provision apply plan.json --require-approvals 2 --approvers policy:approvers     only if two people have approved it")]
pub(super) struct Apply {
    /// A plan saved by `plan -o`; it contains its inventory, lock file and selection of hosts
    plan: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
    /// Skip the confirmation prompt
    #[arg(long, short)]
    yes: bool,
    /// A retired host whose machine is off for good: its pods, which cannot be terminated, are treated as gone
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    lost: Vec<String>,
    /// With a saved plan: skip steps that are out of date, carry out the rest, exit 1
    #[arg(long)]
    skip_stale: bool,
    /// Refuse a saved plan that fewer people have approved with `provision approve`
    #[arg(long, value_name = "N", requires = "approvers")]
    require_approvals: Option<usize>,
    /// Who may approve: a file of allowed signers, as in ssh-keygen(1), or REV:PATH in this git repository
    #[arg(long, value_name = "FILE")]
    approvers: Option<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// For tests: kill@N or kill@TRANSITION kills this process right after that record of the journal
    #[arg(long, value_name = "FAULT", hide = true)]
    fault: Option<KillAt>,
}

/// Steps that are out of date are named up to this number, and then counted.
const MOST_STALE: usize = 20;

/// Carries out a plan with Ctrl-C and SIGTERM wired: the first stops, the second detaches.
pub(super) async fn carry_out(
    fleet: &Fleet,
    plan: &Plan,
    events: Events,
    kill_at: Option<KillAt>,
) -> anyhow::Result<RunReport> {
    let (stop, cancel) = Cancel::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let said = events.clone();
    let mut signals = JoinSet::new();
    signals.spawn(async move {
        for (level, what) in [
            (1, "Stopping: finishing running steps, starting no new ones; press Ctrl-C again to detach"),
            (2, "Detached: running steps continue on the hosts; `provision attach` follows them"),
        ] {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            said.note(what);
            if stop.send(level).is_err() {
                return;
            }
        }
    });
    Ok(fleet.apply(plan, events, cancel, kill_at).await?)
}

/// Prints the end of a run, or of a `saved` plan's; with `ends` the lab stops as well, so no command that needs it is suggested.
pub(super) fn print_end(
    fleet: &Fleet,
    report: &RunReport,
    shown: &Shown,
    (place, saved): (&Where, bool),
    ends: bool,
    global: &Global,
) {
    let ended = Ended {
        run: fleet.run.as_str(),
        targets: report.outcomes.len(),
        failures: fleet.failures(report),
        stopped: report.stopped().map(|(target, _)| target).collect(),
        steps: shown.steps,
        changed: &shown.changed,
        took: report.elapsed,
        interrupted: report.interrupted,
        lab: fleet.is_lab(),
        inventory: place.at.said(),
        place: (!ends).then(|| place.said()),
        saved,
    };
    if global.output != Output::Json {
        eprint!("{}", run_summary(&ended));
        for Failed { target, failure, .. } in &ended.failures {
            let title = format!("{target} {}", failure.code);
            annotate(Annotation::Error, &title, None, &failure.message);
        }
        return;
    }
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
}

impl Apply {
    /// Plans, asks for confirmation, applies.
    pub(super) async fn run(mut self, global: &Global) -> anyhow::Result<u8> {
        let judge = self.policy.clone().read()?;
        let (mut people, mut digest) = (Vec::new(), None);
        let saved = match &self.plan {
            Some(path) => {
                let (plan, sha256) = load(path).map_err(Error::from)?;
                digest = Some(sha256.clone());
                match self.approved(path, &plan, &sha256)? {
                    Some(found) => people = found,
                    None => return Ok(exit::REFUSED),
                }
                Some((path.clone(), plan))
            }
            None if self.require_approvals.is_some() || self.approvers.is_some() => {
                return Err(usage("Approvals are of saved plans", "Save one with `provision plan -o FILE`"));
            }
            None => None,
        };
        let mut session = match &saved {
            Some((path, saved)) => self.open_saved(path, saved, global).await?,
            None => Session::change(&self.place, &self.lost, global, true).await?,
        };
        session.fleet.none_in_progress()?;
        let (mut plan, took) = session.fleet.plan_to_apply(&session.events).await;
        let mut skipped = false;
        if let Some((path, saved)) = &saved {
            match self.without_stale(path, saved, &session.fleet, &mut plan)? {
                Some(some) => skipped = some,
                None => return Ok(exit::REFUSED),
            }
            session.fleet.carries_out(saved);
        }
        if plan.steps() > 0 {
            judge.evaluate(&session.fleet, &mut plan, "apply", people.clone())?;
        }
        if global.output != Output::Json {
            plan::print(&plan, global, false, Some(took), String::new());
        }
        if plan.steps() == 0 {
            for failure in session.fleet.finish().await {
                eprintln!("warning: cleanup failed: {failure}");
            }
            session.end().await?;
            return Ok(if plan.is_blind() || skipped { exit::FAILED } else { exit::DONE });
        }
        if judge.refuses(&session.fleet, &plan, Some(people.len())) {
            session.end().await?;
            print_refused(&plan, global);
            return Ok(exit::REFUSED);
        }
        if !self.yes && !confirm("Apply this?", "Review the plan, then add --yes")? {
            session.end().await?;
            eprintln!("Not applied; nothing was changed");
            return Ok(exit::PENDING);
        }
        session.fleet.describe_run(RunAbout { saved: digest, approvals: people, ..judge.about("apply") });
        let report = carry_out(&session.fleet, &plan, session.events.clone(), self.fault).await?;
        let (fleet, shown) = session.settle().await;
        print_end(&fleet, &report, &shown, (&self.place, saved.is_some()), false, global);
        fleet.close()?;
        let code = report.exit_code();
        Ok(if code == exit::DONE && skipped { exit::FAILED } else { code })
    }

    /// Returns who has approved a saved plan, after saying so; `None` if fewer people than required have.
    fn approved(&self, path: &Path, plan: &Plan, digest: &str) -> anyhow::Result<Option<Vec<String>>> {
        let Some(approvers) = &self.approvers else { return Ok(Some(Vec::new())) };
        let wanted = self.require_approvals.unwrap_or_default();
        let commit = plan.sources.as_ref().and_then(|s| s.commit.as_ref());
        let approvable = Approvable { path, digest, inventory: &plan.inventory, commit };
        let found = approvals(&approvable, approvers)?;
        for refused in &found.refused {
            eprintln!("warning: {refused}");
        }
        let people: Vec<&str> = found.people.iter().map(String::as_str).collect();
        if people.len() >= wanted {
            if !people.is_empty() {
                eprintln!("Approved by {}", plain_line(&people.join(", ")));
            }
            return Ok(Some(found.people.into_iter().collect()));
        }
        let by = if people.is_empty() {
            String::new()
        } else {
            format!(" (by {})", plain_line(&people.join(", ")))
        };
        eprintln!(
            "error[E-APPROVAL]: {} has {} of {wanted} required{by}; nothing was changed",
            path.display(),
            count(people.len(), "approval")
        );
        eprintln!("  = next: Have it approved with `provision approve {}`", path.display());
        Ok(None)
    }

    /// Opens what a saved plan is about: the inventory that it contains, or the one that `-i` names, and the hosts that it
    /// was made for. From here on the flags say the same.
    async fn open_saved(&mut self, path: &Path, saved: &Plan, global: &Global) -> anyhow::Result<Session> {
        let asked = self.place.selection(&self.lost);
        let (mut source, selection) =
            match (&self.place.at.inventory.clone().or_else(named_inventory), &saved.sources) {
                (Some(inventory), None) => (source(inventory, global), asked.clone()),
                (Some(inventory), Some(_)) => (source(inventory, global), Source::of_saved(saved, path)?.1),
                (None, _) => Source::of_saved(saved, path)?,
            };
        if asked != Selection::default() && asked != selection {
            let message = format!("{} was saved with a different selection of hosts", path.display());
            return Err(coded("E-PLAN", message, "Omit --limit, --lab and --lost: the plan contains them"));
        }
        source.mirror.clone_from(&global.mirror);
        hints::remember_path(&source.path, selection.lab);
        self.place = Where {
            at: At { inventory: Some(source.path.clone()) },
            limit: selection.limit.clone(),
            lab: selection.lab,
        };
        Session::of(&source, &selection, global, Purpose::Change, true).await
    }

    /// Drops steps that are out of date with a saved plan, if requested. Returns whether anything was left
    /// out; `None` where the saved plan must not be carried out.
    fn without_stale(
        &self,
        path: &Path,
        saved: &Plan,
        fleet: &Fleet,
        plan: &mut Plan,
    ) -> anyhow::Result<Option<bool>> {
        let moved = match compare_saved(saved, path, plan)? {
            Saved::Moved(moved) => moved,
            Saved::OtherInventory => {
                eprintln!(
                    "error[E-STALE]: the inventory or the lock file has changed since {} was saved",
                    path.display()
                );
                eprintln!("  = next: plan again");
                return Ok(None);
            }
        };
        for m in moved.iter().take(MOST_STALE) {
            let said = format!("error[E-STALE]: {} on {} {}", m.resource, m.target, m.what);
            eprintln!("{}", plain_line(&said));
        }
        if moved.len() > MOST_STALE {
            eprintln!("error[E-STALE]: and {} more", moved.len() - MOST_STALE);
        }
        if !moved.is_empty() && plan.steps() == 0 {
            eprintln!("  = note: hosts and cluster already match the plan; it may have been applied already");
        }
        if !moved.is_empty() && !self.skip_stale {
            eprintln!("  = next: plan again, or add --skip-stale to carry out the rest");
            return Ok(None);
        }
        fleet.leave_out(plan, &moved);
        let unapproved = fleet.narrow(plan, saved);
        for pool in &unapproved {
            eprintln!("error[E-STALE]: pool {pool}: hosts would leave service, and the saved plan lets none");
        }
        if !unapproved.is_empty() {
            eprintln!("  = next: plan again");
            return Ok(None);
        }
        Ok(Some(!moved.is_empty()))
    }
}

/// Follow batches that an earlier run left running on the hosts
#[derive(Args)]
#[command(after_help = "Example:
  provision attach -i site.yaml")]
pub(super) struct Attach {
    #[command(flatten)]
    place: Where,
}

impl Attach {
    /// Follows every batch that still runs.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::open(&self.place, global, Purpose::Look, true).await?;
        let mut code = exit::DONE;
        let mut found = 0;
        for (name, ended) in session.fleet.attach().await {
            match ended {
                Ok(n) => found += n,
                Err(failure) => {
                    eprintln!("{name} {failure}");
                    code = exit::FAILED;
                }
            }
        }
        session.end().await?;
        match found {
            0 => eprintln!("Nothing to attach to"),
            found => eprintln!("{} finished", count(found, "batch")),
        }
        Ok(code)
    }
}
