//! State shared by the tasks of a run: done and failed steps, permits to take nodes out of service, and cancellation.

use super::journal::{Journal, Transition};
use crate::event::{Event, Events};
use crate::inventory::{DRAIN_SECONDS, Inventory};
use crate::plan::{Batch, Plan, Scheduler, TargetPlan, Wait};
use crate::state::{Cluster, Failure, FailureKind, HostName, Step, StepId, StepOutputs, TargetId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The operator's request to stop.
#[derive(Clone)]
pub struct Cancel(watch::Receiver<u8>);

impl Cancel {
    /// Returns the request and its sender: 1 stops new steps, 2 detaches.
    pub fn new() -> (watch::Sender<u8>, Self) {
        let (sender, receiver) = watch::channel(0);
        (sender, Self(receiver))
    }

    pub(super) fn level(&self) -> u8 {
        *self.0.borrow()
    }

    /// Waits until the level is at least this high.
    pub async fn reached(&mut self, level: u8) {
        while self.level() < level {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The limits of a pool.
#[derive(Clone, Copy)]
struct Budget {
    /// Hosts that may fail before the pool stops.
    failed: usize,
    /// Hosts that may be out of service at once.
    down: usize,
    /// How long pods may take to leave a node.
    drain: Duration,
}

#[derive(Clone)]
struct Progress {
    /// What may begin.
    scheduler: Scheduler,
    failed: BTreeMap<StepId, String>,
    outputs: StepOutputs,
    failures_by_pool: BTreeMap<String, usize>,
    /// Pools whose canary failed, and that host.
    failed_canaries: BTreeMap<String, TargetId>,
    /// Ends of targets, well or not.
    ended: BTreeSet<TargetId>,
    /// No new work any more, and why.
    halted: Option<Failure>,
}

/// Shared by the tasks of a run.
#[derive(Clone)]
pub(super) struct RunState {
    progress: watch::Sender<Progress>,
    pub events: Events,
    journal: Arc<Journal>,
    pub cancel: Cancel,
    pub cluster: Option<Arc<dyn Cluster>>,
    budgets: Arc<BTreeMap<String, Budget>>,
    /// Hosts of first waves that others wait for.
    canaries: Arc<BTreeSet<HostName>>,
    /// Between two renewals of the lock of a host that waits.
    pub renew_locks: Duration,
    /// All steps of this run; waiting for any other would never end.
    known: Arc<BTreeSet<StepId>>,
}

impl Progress {
    fn end(&mut self, target: &TargetId) {
        self.scheduler.ended(target);
        self.ended.insert(target.clone());
    }
}

/// How far a host is, which decides what still stops it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// Nothing was changed on it yet.
    No,
    /// Its node is out of service: it continues even if its pool stops.
    Drained,
}

fn interrupted() -> Failure {
    Failure::new(FailureKind::Interrupted, "E-INTERRUPTED", "stopped before its remaining steps")
        .hint("Run the same command again; completed steps are skipped")
}

impl RunState {
    pub(super) fn new(
        plan: &Plan,
        work: &[TargetPlan],
        inventory: &Inventory,
        journal: Arc<Journal>,
        events: Events,
        cancel: Cancel,
        cluster: Option<Arc<dyn Cluster>>,
    ) -> Self {
        let budget = |pool: &crate::inventory::Pool| {
            let size = inventory.hosts_of(&pool.name).count();
            Budget {
                failed: pool.disruption.max_failed.of(size),
                down: pool.disruption.max_unavailable.of(size),
                drain: Duration::from_secs(pool.disruption.drain_s.into()),
            }
        };
        let steps = work.iter().flat_map(|t| t.steps.iter().map(|s| s.id.clone()));
        let ends = work.iter().map(|t| StepId::Verified(t.target.clone()));
        let canaries = plan.waves.values().filter(|w| w.canary).filter_map(|w| w.waves.first()).flatten();
        let progress = Progress {
            scheduler: Scheduler::new(work, &plan.waves),
            failed: BTreeMap::new(),
            outputs: StepOutputs::new(),
            failures_by_pool: BTreeMap::new(),
            failed_canaries: BTreeMap::new(),
            ended: BTreeSet::new(),
            halted: None,
        };
        Self {
            progress: watch::Sender::new(progress),
            events,
            journal,
            cancel,
            cluster,
            budgets: Arc::new(inventory.pools.values().map(|p| (p.name.to_string(), budget(p))).collect()),
            renew_locks: Duration::MAX,
            canaries: Arc::new(canaries.cloned().collect()),
            known: Arc::new(steps.chain(ends).collect()),
        }
    }

    /// Returns why a pool may not start new work.
    fn forbids(&self, now: &Progress, plan: &TargetPlan, begun: Begun) -> Option<Failure> {
        if self.cancel.level() > 0 {
            return Some(interrupted());
        }
        if let Some(failure) = &now.halted {
            return Some(failure.clone());
        }
        let pool = plan.pool.as_deref().filter(|_| begun == Begun::No)?;
        let blocked = |code: &str, message: String| Failure::new(FailureKind::Blocked, code, message);
        if let Some(canary) = now.failed_canaries.get(pool).filter(|_| plan.drains()) {
            let message = format!(
                "the canary host {canary} of pool {pool} failed, so no other host of the pool leaves service"
            );
            return Some(
                blocked("E-CANARY", message).hint(format!("Fix {canary}, then run `provision apply`")),
            );
        }
        let allowed = self.budgets.get(pool)?.failed;
        (now.failures_by_pool.get(pool).copied().unwrap_or(0) > allowed).then(|| {
            blocked("E-BUDGET", format!("pool {pool} stopped: more than {allowed} of its hosts failed"))
                .hint("Fix the failed hosts, or raise disruption.maxFailed")
        })
    }

    /// Returns why a host that a batch takes out of service will never get a place.
    fn no_place(&self, now: &Progress, plan: &TargetPlan) -> Option<Failure> {
        let pool = plan.pool.as_deref()?;
        let down = self.budgets.get(pool)?.down;
        let (stay_down, full) = now.scheduler.stay_down(&pool.into());
        let message = if !now.scheduler.may_leave(&plan.target) {
            format!("no host of pool {pool} may leave service: its disruption.maxUnavailable is {down}")
        } else if full {
            format!(
                "pool {pool} stopped: {stay_down} of its hosts failed while out of service, which is the limit"
            )
        } else {
            return None;
        };
        let failure = Failure::new(FailureKind::Blocked, "E-BUDGET", message);
        Some(failure.hint("Fix the failed hosts, or raise disruption.maxUnavailable"))
    }

    /// Fails if a target could never be brought in sync: nothing is begun on it then.
    pub(super) fn may_ever(&self, plan: &TargetPlan) -> Result<(), Failure> {
        let never = plan.drains().then(|| self.no_place(&self.progress.borrow(), plan)).flatten();
        never.map_or(Ok(()), Err)
    }

    /// Waits until a batch may begin, and takes its places; fails if a step that it needs failed, or if no new work may
    /// start. Returns the outputs of steps so far.
    pub(super) async fn begin(
        &self,
        plan: &TargetPlan,
        batch: &Batch,
        begun: Begun,
    ) -> Result<StepOutputs, Failure> {
        let blocked = |step: &StepId, why: &str| {
            Failure::new(FailureKind::Blocked, "E-BLOCKED", format!("it depends on {step}, which {why}"))
        };
        let needs = || plan.steps_of(batch).iter().flat_map(|s| &s.needs);
        if let Some(stray) = needs().find(|n| !self.known.contains(*n)) {
            return Err(blocked(stray, "is not part of this run").hint("Plan again, including that target"));
        }
        let mut progress = self.progress.subscribe();
        let mut said = String::new();
        loop {
            progress.mark_unchanged();
            let mut wait = None;
            let mut taken = Err(interrupted());
            self.progress.send_if_modified(|now| {
                if let Some(failure) = self.forbids(now, plan, begun) {
                    taken = Err(failure);
                    return false;
                }
                if let Some((step, why)) = needs().find_map(|n| now.failed.get_key_value(n)) {
                    let failure = blocked(step, "failed").cause(why.clone());
                    taken = Err(failure.hint("Fix that failure, then apply again"));
                    return false;
                }
                match now.scheduler.may_begin(plan, batch) {
                    Ok(()) => {
                        now.scheduler.begin(&plan.target, batch);
                        taken = Ok(now.outputs.clone());
                        return batch.drains || batch.control_plane;
                    }
                    // A step that a later batch needs may have failed: that batch says so when it is its turn.
                    Err(Wait::Step(need)) if now.failed.contains_key(&need) => {
                        let why = now.failed.get(&need).cloned().unwrap_or_default();
                        let failure = blocked(&need, "failed").cause(why);
                        taken = Err(failure.hint("Fix that failure, then apply again"));
                    }
                    Err(why) => match self.no_place(now, plan).filter(|_| batch.drains && begun == Begun::No)
                    {
                        Some(failure) => taken = Err(failure),
                        None => wait = Some(why),
                    },
                }
                false
            });
            let Some(wait) = wait else { return taken };
            let reason = self.reason(plan, &wait);
            if reason != said {
                self.waiting(&plan.target, reason.clone());
                said = reason;
            }
            let mut cancel = self.cancel.clone();
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Err(interrupted()); },
                () = cancel.reached(1) => {}
            }
        }
    }

    fn reason(&self, plan: &TargetPlan, wait: &Wait) -> String {
        let down = |pool: &str| self.budgets.get(pool).map_or(0, |b| b.down);
        match wait {
            Wait::Step(need) => format!("waiting for {need}"),
            Wait::Wave { pool, wave, of } => format!(
                "waiting for wave {wave} of {of}: at most {} of {pool} out of service at once",
                down(pool.as_str())
            ),
            Wait::Full(_) => {
                let pool = plan.pool.as_deref().unwrap_or_default();
                format!("waiting for a host of {pool}: at most {} out of service at once", down(pool))
            }
            Wait::ControlPlane => "waiting for another controller".to_owned(),
        }
    }

    /// Waits until all of these targets have ended, and returns those that failed.
    pub(super) async fn ended(&self, all: &BTreeSet<TargetId>) -> BTreeSet<TargetId> {
        let mut progress = self.progress.subscribe();
        let failed = |now: &Progress, t: &TargetId| now.failed.contains_key(&StepId::Verified(t.clone()));
        match progress.wait_for(|now| all.iter().all(|t| now.ended.contains(t))).await {
            Ok(now) => all.iter().filter(|t| failed(&now, t)).cloned().collect(),
            Err(_) => BTreeSet::new(),
        }
    }

    /// Returns how long pods may take to leave a host's node.
    pub(super) fn patience(&self, plan: &TargetPlan) -> Duration {
        let budget = plan.pool.as_ref().and_then(|p| self.budgets.get(p));
        budget.map_or(Duration::from_secs(DRAIN_SECONDS.into()), |b| b.drain)
    }

    /// Runs work that may take long and may be cancelled at any moment.
    pub(super) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut cancel = self.cancel.clone();
        tokio::select! {
            result = work => result,
            () = cancel.reached(1) => Err(interrupted()),
        }
    }

    /// Reports what a target waits for.
    pub(super) fn waiting(&self, target: &TargetId, reason: String) {
        self.events.emit(Event::Waiting { target: target.to_string(), reason });
    }

    /// Steps of a batch are done.
    pub(super) fn succeed(&self, steps: &[Step], outputs: StepOutputs) {
        self.progress.send_modify(|progress| {
            for step in steps {
                progress.scheduler.done(&step.id);
            }
            progress.outputs.extend(outputs);
        });
    }

    /// A batch of a target ended: unless its node is out of service, its places are free.
    pub(super) fn batch_ended(&self, target: &TargetId) {
        self.progress.send_modify(|progress| progress.scheduler.batch_ended(target));
    }

    /// A node is back in service, or was never taken out.
    pub(super) fn back(&self, target: &TargetId) {
        self.progress.send_modify(|progress| progress.scheduler.back(target));
    }

    /// A target is in sync.
    pub(super) fn finish(&self, plan: &TargetPlan) {
        self.progress.send_modify(|progress| {
            progress.scheduler.done(&StepId::Verified(plan.target.clone()));
            progress.end(&plan.target);
        });
    }

    /// Steps are skipped, with their dependents.
    pub(super) fn leave_out(&self, steps: &[Step], failure: &Failure) {
        self.progress.send_modify(|progress| {
            for step in steps {
                progress.failed.insert(step.id.clone(), failure.message.clone());
            }
        });
    }

    /// A target that stops fails all its remaining steps.
    pub(super) fn fail(&self, plan: &TargetPlan, failure: &Failure) {
        self.progress.send_modify(|progress| {
            let end = StepId::Verified(plan.target.clone());
            let left = plan.steps.iter().map(|s| s.id.clone()).chain([end]);
            for step in left.filter(|id| progress.scheduler.is_open(id)).collect::<Vec<_>>() {
                progress.failed.insert(step, failure.message.clone());
            }
            progress.failed.insert(StepId::Verified(plan.target.clone()), failure.message.clone());
            if let Some(pool) = &plan.pool {
                if !matches!(failure.kind, FailureKind::Blocked | FailureKind::Interrupted) {
                    *progress.failures_by_pool.entry(pool.clone()).or_default() += 1;
                }
                if plan.target.host().is_some_and(|h| self.canaries.contains(h)) {
                    progress.failed_canaries.insert(pool.clone(), plan.target.clone());
                }
            }
            progress.end(&plan.target);
        });
    }

    /// Stops all new work.
    pub(super) fn halt(&self, failure: Failure) {
        self.progress.send_modify(|progress| progress.halted = Some(failure));
    }

    /// Returns why new work is stopped, if it is.
    pub(super) fn halted(&self) -> Option<Failure> {
        self.progress.borrow().halted.clone()
    }

    pub(super) fn record(&self, transition: Transition, target: &TargetId, batch: usize, note: &str) {
        // A journal that cannot be written must not stop a run: the hosts are the source of truth.
        if let Err(error) = self.journal.write(transition, &target.to_string(), batch, note) {
            self.events.emit(Event::Warning { target: None, message: error.to_string() });
        }
    }
}
