//! Carries out a plan, and follows batches of an earlier run.

use super::error::{Result, coded};
use super::health::{HealthReport, Query, now_s};
use super::load::Source;
use super::open::{Fleet, Selection};
use super::revision::commit_of;
use super::run_lock::{RunLock, Runner, absolute};
use super::tasks::on_each;
use crate::artifact::LOCK_FILE;
use crate::event::{Event, Events};
use crate::executor::HostTarget;
use crate::inventory::needs;
use crate::plan::{Moved, Plan, Sources, impact, save, stale};
use crate::report::Failed;
use crate::role::health::BELOW_POOL;
use crate::run::{Cancel, Journal, KillAt, Outcome, RunInput, RunReport, execute};
use crate::state::{Cluster, Failure, FailureKind, HostName, PoolName, Target, TargetId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A lock on a host lasts an hour without renewal (`executor/batch.rs`).
const RENEW_LOCKS: Duration = Duration::from_secs(20 * 60);

/// How a plan that was saved stands to one that was made just now.
pub enum Saved {
    /// Inventory or lock file are other ones.
    OtherInventory,
    /// Made for the same; these resources are no longer as they were.
    Moved(Vec<Moved>),
}

impl Fleet {
    /// Plans for `apply`: follows what an earlier run left running first, then observes, and tries hosts that are new.
    /// Returns the plan, and how long observing took.
    pub async fn plan_to_apply(&self, events: &Events) -> (Plan, Duration) {
        // Unreachable hosts and failed batches show up in the plan.
        self.attach().await;
        let observation = self.observe(events).await;
        let took = observation.took;
        (self.plan(observation), took)
    }

    /// Follows what earlier runs left running on the hosts until it ends, on all hosts at once. Returns how many batches
    /// there were on each.
    pub async fn attach(&self) -> BTreeMap<HostName, std::result::Result<usize, Failure>> {
        let follow = |(name, host): (&HostName, &Arc<HostTarget>)| {
            let host = host.clone();
            (name.clone(), async move { host.attach().await })
        };
        on_each(self.hosts.iter().map(follow)).await
    }

    /// Carries out a plan until all is done, has failed, or `cancel` stops it. Dropping the future leaves what runs on the
    /// hosts running there; `attach` follows it.
    pub async fn apply(
        &self,
        plan: &Plan,
        events: Events,
        cancel: Cancel,
        kill_at: Option<KillAt>,
    ) -> Result<RunReport> {
        let _alone = self.alone()?;
        let mut cancel = cancel;
        if plan.backup_first {
            tokio::select! {
                made = self.backup_first(&events) => made?,
                // Nothing begins from here on.
                () = cancel.reached(1) => {}
            }
        }
        if self.selection.restore.is_some() && self.may_upload().await? {
            let uploaded = tokio::select! {
                uploaded = self.upload_backup(&events) => Some(uploaded),
                () = cancel.reached(1) => None,
            };
            if !matches!(uploaded, Some(Ok(()))) {
                self.drop_upload().await;
            }
            uploaded.unwrap_or(Ok(()))?;
        }
        if let Some(mirror) = &self.mirror {
            self.deliver(mirror, plan, &events, cancel.clone()).await?;
        }
        let journal = self.source.state.journals(&self.inventory)?.join(format!("{}.jsonl", self.run));
        let journal = Journal::create(&journal, kill_at)?;
        let said = events.clone();
        let log = self.steps.clone();
        let recording = self.record_begin(plan, &said).await?;
        let report = execute(RunInput {
            plan,
            targets: self.targets(),
            cluster: self.cluster.clone().map(|c| c as Arc<dyn Cluster>),
            inventory: &self.inventory,
            run: self.run.to_string(),
            journal: Arc::new(journal),
            events: events.tapped(move |event| log.take(event)),
            cancel,
            renew_locks: RENEW_LOCKS,
        })
        .await;
        self.record_end(recording, &report, &said).await;
        if !report.interrupted
            && let Err(error) = self.keep_health(&report, &said).await
        {
            // The hosts are as they are, whether it is written down here or not.
            said.emit(Event::Warning { target: None, message: error.failure().to_string() });
        }
        Ok(report)
    }

    /// Saves a plan with all that it was made from. Returns what carrying it out reads besides.
    pub fn save(&self, plan: &Plan, path: &Path) -> Result<Vec<String>> {
        let mut files = self.snapshot.clone();
        // A lab makes its lock file and its secrets itself.
        if !self.is_lab() {
            files.insert(&self.inventory.root.join(LOCK_FILE), self.lock.text());
        }
        let needs = if self.is_lab() { Vec::new() } else { needs(&self.inventory) };
        let Selection { limit, lab, lost, .. } = self.selection.clone();
        let at = std::path::absolute(&self.source.path).unwrap_or_else(|_| self.source.path.clone());
        let sources =
            Sources { commit: commit_of(&at), path: at, files, limit, lab, lost, needs: needs.clone() };
        save(&Plan { sources: Some(sources), ..plan.clone() }, path)?;
        Ok(needs)
    }

    /// Says which saved plan is carried out, for its commit.
    pub fn carries_out(&mut self, saved: &Plan) {
        self.made_from = saved.sources.clone();
    }

    /// Takes the steps of these resources out of a plan, also of what is planned again while it is carried out.
    pub fn leave_out(&self, plan: &mut Plan, moved: &[Moved]) {
        for target in &mut plan.targets {
            let its = moved.iter().filter(|m| m.target == target.target);
            target.left_out.extend(its.map(|m| m.resource.clone()));
            target.steps.retain(|s| !moved.iter().any(|m| m.target == s.target && m.resource == s.resource));
        }
        plan.reschedule(&self.inventory);
        plan.impact = impact(plan, &self.inventory, &self.past());
    }

    /// Has hosts leave service in no larger waves than a saved plan says, whatever else is out of service by now. Returns the pools
    /// of which it lets none leave.
    pub fn narrow(&self, plan: &mut Plan, saved: &Plan) -> Vec<PoolName> {
        let unapproved = plan.narrow(saved);
        plan.impact = impact(plan, &self.inventory, &self.past());
        unapproved
    }

    /// Releases what an earlier run left locked, where there is nothing to apply. Returns what could not be.
    pub async fn finish(&self) -> Vec<Failure> {
        let end = |(name, host): (&HostName, &Arc<HostTarget>)| {
            let host = host.clone();
            (name.clone(), async move { host.finish().await })
        };
        on_each(self.hosts.iter().map(end)).await.into_values().filter_map(std::result::Result::err).collect()
    }

    /// Writes down how well the accelerators are that the run had to do with, and warns of hosts that are far below the
    /// others of their pool: no host can tell that by itself, so no step of one can. A host that could not be reached is
    /// not asked again.
    async fn keep_health(&self, report: &RunReport, events: &Events) -> Result<()> {
        let asked = report.outcomes.iter().filter_map(|(target, outcome)| match outcome {
            Outcome::Converged(_) => target.host(),
            Outcome::Failed(failure) if failure.exit.is_some() => target.host(),
            Outcome::Failed(_) | Outcome::Stopped | Outcome::Detached => None,
        });
        let look = self.health(asked, Query::Kept).await;
        for (host, health) in &look.hosts {
            for finding in health.findings.iter().filter(|f| f.code == BELOW_POOL) {
                let message = format!("[{}] {}", finding.code, finding.detail);
                events.emit(Event::Warning { target: Some(host.clone()), message });
            }
        }
        if look.hosts.is_empty() {
            return Ok(());
        }
        HealthReport { level: "apply".to_owned(), ..look }.keep(&self.source.state, &self.inventory).map(drop)
    }

    /// Keeps a second run of the same inventory from this machine out; the lock on each host is by owner and would let it
    /// in.
    fn alone(&self) -> Result<RunLock> {
        let runner = Runner {
            owner: self.holder.owner.clone(),
            pid: std::process::id(),
            run: self.run.to_string(),
            inventory: absolute(&self.source.path),
            began_s: now_s(),
            lease: self.holder.identity.clone(),
            ended: Vec::new(),
        };
        let lock = RunLock::take(&self.source.state, &self.inventory, self.source.lab.as_ref(), runner)?;
        self.holder.have_ended(&lock.ended);
        Ok(lock)
    }

    /// Fails where another run of the inventory is in progress on this machine, whose batches would be followed as if they were left.
    /// A run takes the lock itself once it begins.
    pub fn none_in_progress(&self) -> Result<()> {
        self.alone().map(drop)
    }

    /// Returns the failures of a run, each with what it means for its pool.
    pub fn failures<'a>(&'a self, report: &'a RunReport) -> Vec<Failed<'a>> {
        let inventory = &self.inventory;
        let pool_of = |t: &TargetId| t.host().and_then(|h| inventory.hosts.get(h)).map(|h| h.pool.as_str());
        let mut taking_part: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (target, outcome) in &report.outcomes {
            let Some(pool) = pool_of(target) else { continue };
            let (all, failed) = taking_part.entry(pool).or_default();
            *all += 1;
            *failed += usize::from(matches!(outcome, Outcome::Failed(f) if f.kind != FailureKind::Blocked));
        }
        let stops = |code: &str| matches!(code, "E-CANARY" | "E-BUDGET");
        let stopped: BTreeSet<Option<&str>> =
            report.failures().filter(|(_, f)| stops(&f.code)).map(|(target, _)| pool_of(target)).collect();
        report
            .failures()
            .map(|(target, failure)| {
                let pool = pool_of(target).and_then(|name| inventory.pools.get(name));
                let (all, failed) =
                    pool.and_then(|p| taking_part.get(p.name.as_str())).copied().unwrap_or_default();
                let budget = pool.map(|p| {
                    let size = inventory.hosts_of(&p.name).count();
                    (p.name.as_str(), failed, p.disruption.max_failed.of(size))
                });
                // A pool that stopped has no others that continue.
                let others = if stopped.contains(&pool_of(target)) { 0 } else { all.saturating_sub(failed) };
                Failed { target, failure, budget, others }
            })
            .collect()
    }
}

impl Source {
    /// Returns the inventory that a saved plan carries, and what of it takes part.
    pub fn of_saved(plan: &Plan, path: &Path) -> Result<(Self, Selection)> {
        let sources = plan.sources.clone().ok_or_else(|| {
            let message = format!("{} does not contain its inventory", path.display());
            coded("E-PLAN", message, "Name the inventory with -i, or save the plan with `plan -o FILE`")
        })?;
        let Sources { path, files, limit, lab, lost, needs: _, commit: _ } = sources;
        let source = Self { snapshot: Some(Arc::new(files)), ..Self::at(path) };
        Ok((source, Selection { limit, lab, lost, ..Selection::default() }))
    }
}

/// Compares a plan that was just made with a saved one, that of the file at `path`.
pub fn compare_saved(saved: &Plan, path: &Path, plan: &Plan) -> Result<Saved> {
    let same = saved.inventory_digest == plan.inventory_digest && saved.lock_digest == plan.lock_digest;
    if saved.inventory != plan.inventory {
        let message = format!(
            "{} is a plan of inventory {}, not of {}",
            path.display(),
            saved.inventory,
            plan.inventory
        );
        return Err(coded("E-PLAN", message, "Name its inventory with -i"));
    }
    if !same {
        return Ok(Saved::OtherInventory);
    }
    Ok(Saved::Moved(stale(saved, plan)))
}
