//! What the tasks of a run share: what is done, what failed, who may take a node out of service, and the operator's wish.

use super::journal::{Journal, Transition};
use crate::event::{Event, Events};
use crate::inventory::{DRAIN_SECONDS, Inventory};
use crate::plan::{Batch, TargetPlan, verified};
use crate::state::{Cluster, Failure, FailureKind, Lates, StepId, TargetId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The operator's wish to stop.
#[derive(Clone)]
pub struct Cancel(watch::Receiver<u8>);

impl Cancel {
    /// Returns the wish and the means to express it: 1 stops new work, 2 detaches.
    pub fn new() -> (watch::Sender<u8>, Self) {
        let (sender, receiver) = watch::channel(0);
        (sender, Self(receiver))
    }

    pub(super) fn level(&self) -> u8 {
        *self.0.borrow()
    }

    /// Returns when the wish is at least this strong.
    pub(super) async fn reached(&mut self, level: u8) {
        while self.level() < level {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What a pool allows.
#[derive(Clone)]
struct Budget {
    /// Hosts that may fail before the pool stops.
    failed: usize,
    /// Hosts that may be out of service at once.
    down: usize,
    /// How long pods may take to leave a node.
    drain: Duration,
    /// A place for each of those.
    places: Arc<Semaphore>,
    /// Its hosts that go out of service in this run.
    leaving: usize,
    /// Those of them that have asked for a place; they get it in that order.
    asked: Arc<AtomicUsize>,
}

#[derive(Clone, Default)]
struct State {
    done: BTreeSet<StepId>,
    failed: BTreeMap<StepId, String>,
    lates: Lates,
    failures_by_pool: BTreeMap<String, usize>,
    /// Hosts that failed while they were out of service: they keep their place.
    down_by_pool: BTreeMap<String, usize>,
    /// No new work any more, and why.
    halted: Option<Failure>,
}

/// Shared by the tasks of a run.
#[derive(Clone)]
pub(super) struct Board {
    state: watch::Sender<State>,
    pub events: Events,
    journal: Arc<Journal>,
    pub cancel: Cancel,
    pub cluster: Option<Arc<dyn Cluster>>,
    budgets: Arc<BTreeMap<String, Budget>>,
    /// Controllers go one at a time.
    controllers: Arc<Semaphore>,
    /// Every step that somebody will do; a wait for any other would never end.
    known: Arc<BTreeSet<StepId>>,
}

/// What a host in the middle of its work may disregard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// Nothing was done to it yet.
    No,
    /// Its node is out of service: it goes on although its pool stops.
    Drained,
}

fn interrupted() -> Failure {
    Failure::new(FailureKind::Interrupted, "E-INTERRUPTED", "stopped before the rest of its work began")
        .hint("run the same command again: what is done stays done")
}

impl Board {
    pub fn new(
        work: &[TargetPlan],
        inventory: &Inventory,
        journal: Arc<Journal>,
        events: Events,
        cancel: Cancel,
        cluster: Option<Arc<dyn Cluster>>,
    ) -> Self {
        let budget = |pool: &crate::inventory::Pool| {
            let size = inventory.hosts_of(&pool.name).count();
            let down = pool.disruption.max_unavailable.of(size).max(1);
            let failed = pool.disruption.max_failed.of(size);
            let drain = Duration::from_secs(pool.disruption.drain_s.into());
            let leaving = work.iter().filter(|t| t.pool.as_deref() == Some(pool.name.as_str()) && t.drains());
            Budget {
                failed,
                down,
                drain,
                places: Arc::new(Semaphore::new(down)),
                leaving: leaving.count(),
                asked: Arc::default(),
            }
        };
        let steps = work.iter().flat_map(|t| t.steps.iter().map(|s| s.id.clone()));
        let ends = work.iter().map(|t| verified(&t.target));
        Self {
            state: watch::Sender::new(State::default()),
            events,
            journal,
            cancel,
            cluster,
            budgets: Arc::new(inventory.pools.values().map(|p| (p.name.to_string(), budget(p))).collect()),
            controllers: Arc::new(Semaphore::new(1)),
            known: Arc::new(steps.chain(ends).collect()),
        }
    }

    /// Returns why no new work of a pool may begin.
    fn forbids(&self, now: &State, pool: Option<&str>, begun: Begun) -> Option<Failure> {
        if self.cancel.level() > 0 {
            return Some(interrupted());
        }
        if let Some(failure) = &now.halted {
            return Some(failure.clone());
        }
        let pool = pool.filter(|_| begun == Begun::No)?;
        let allowed = self.budgets.get(pool)?.failed;
        (now.failures_by_pool.get(pool).copied().unwrap_or(0) > allowed).then(|| {
            Failure::new(
                FailureKind::Blocked,
                "E-BUDGET",
                format!("pool {pool} stopped: more than {allowed} of its hosts failed"),
            )
            .hint("mend the failed hosts, or raise disruption.maxFailed")
        })
    }

    /// Waits for steps; fails when one of them failed, or no new work may begin.
    pub async fn wait(
        &self,
        plan: &TargetPlan,
        needs: &BTreeSet<StepId>,
        begun: Begun,
    ) -> Result<Lates, Failure> {
        let blocked = |step: &StepId, why: &str| {
            Failure::new(FailureKind::Blocked, "E-BLOCKED", format!("it waits for {step}, which {why}"))
        };
        if let Some(stray) = needs.iter().find(|n| !self.known.contains(*n)) {
            return Err(blocked(stray, "is not part of this run").hint("plan again, without leaving it out"));
        }
        let mut state = self.state.subscribe();
        let mut told = false;
        loop {
            {
                let now = state.borrow_and_update();
                if let Some(failure) = self.forbids(&now, plan.pool.as_deref(), begun) {
                    return Err(failure);
                }
                if let Some((step, why)) = needs.iter().find_map(|n| now.failed.get_key_value(n)) {
                    let failure = blocked(step, "failed").cause(why.clone());
                    return Err(failure.hint("mend that one, then apply again"));
                }
                match needs.iter().find(|n| !now.done.contains(*n)) {
                    None => return Ok(now.lates.clone()),
                    Some(need) if !told => {
                        told = true;
                        self.waiting(&plan.target, format!("waits for {need}"));
                    }
                    Some(_) => {}
                }
            }
            let mut cancel = self.cancel.clone();
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return Err(interrupted()); },
                () = cancel.reached(1) => {}
            }
        }
    }

    /// Waits until all of these have ended, well or not, and returns those that failed.
    pub async fn ended(&self, all: &BTreeSet<StepId>) -> BTreeSet<StepId> {
        let mut state = self.state.subscribe();
        let over = |s: &State| all.iter().all(|n| s.done.contains(n) || s.failed.contains_key(n));
        match state.wait_for(over).await {
            Ok(now) => all.iter().filter(|n| now.failed.contains_key(*n)).cloned().collect(),
            Err(_) => BTreeSet::new(),
        }
    }

    /// Waits for a place among the hosts of a pool that may be out of service at once.
    pub async fn place(&self, plan: &TargetPlan) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let Some((pool, budget)) = plan.pool.as_ref().and_then(|p| self.budgets.get_key_value(p)) else {
            return Ok(None);
        };
        let places = &budget.places;
        let before = budget.asked.fetch_add(1, Ordering::Relaxed);
        if places.available_permits() == 0 {
            let down = budget.down;
            // Each goes as soon as one of an earlier wave is back.
            let waves = budget.leaving.max(before + 1).div_ceil(down);
            let wave = before / down + 1;
            self.waiting(
                &plan.target,
                format!("wave {wave} of {waves}: at most {down} of {pool} out of service at once"),
            );
        }
        let mut state = self.state.subscribe();
        let acquire = places.clone().acquire_owned();
        tokio::pin!(acquire);
        loop {
            {
                let now = state.borrow_and_update();
                if let Some(failure) = self.forbids(&now, Some(pool), Begun::No) {
                    return Err(failure);
                }
                if now.down_by_pool.get(pool).copied().unwrap_or(0) >= budget.down {
                    let message = format!(
                        "pool {pool} stopped: {} of its hosts failed while out of service, as many as may be at once",
                        budget.down
                    );
                    return Err(Failure::new(FailureKind::Blocked, "E-BUDGET", message)
                        .hint("mend the failed hosts, or raise disruption.maxUnavailable"));
                }
            }
            let mut cancel = self.cancel.clone();
            tokio::select! {
                permit = &mut acquire => return Ok(permit.ok()),
                changed = state.changed() => if changed.is_err() { return Err(interrupted()); },
                () = cancel.reached(1) => {}
            }
        }
    }

    /// Returns how long pods may take to leave a host's node.
    pub fn patience(&self, plan: &TargetPlan) -> Duration {
        let budget = plan.pool.as_ref().and_then(|p| self.budgets.get(p));
        budget.map_or(Duration::from_secs(DRAIN_SECONDS.into()), |b| b.drain)
    }

    /// Waits for a controller's turn.
    pub async fn turn(&self) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let mut cancel = self.cancel.clone();
        tokio::select! {
            permit = self.controllers.clone().acquire_owned() => Ok(permit.ok()),
            () = cancel.reached(1) => Err(interrupted()),
        }
    }

    /// Does something that may take long and may be given up at any moment.
    pub async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut cancel = self.cancel.clone();
        tokio::select! {
            result = work => result,
            () = cancel.reached(1) => Err(interrupted()),
        }
    }

    /// Says what a target waits for.
    pub fn waiting(&self, target: &TargetId, reason: String) {
        self.events.emit(Event::Waiting { target: target.to_string(), reason });
    }

    /// A batch is done.
    pub fn succeed(&self, batch: &Batch, lates: Lates) {
        self.state.send_modify(|state| {
            state.done.extend(batch.steps.iter().map(|s| s.id.clone()));
            state.lates.extend(lates);
        });
    }

    /// A target was brought to what is wanted.
    pub fn finish(&self, plan: &TargetPlan) {
        self.state.send_modify(|state| {
            state.done.insert(verified(&plan.target));
        });
    }

    /// A step is left out, with what waits for it.
    pub fn leave_out(&self, batch: &Batch, failure: &Failure) {
        self.state.send_modify(|state| {
            for step in &batch.steps {
                state.failed.insert(step.id.clone(), failure.message.clone());
            }
        });
    }

    /// A target that stops takes all its later steps with it.
    pub fn fail(&self, plan: &TargetPlan, failure: &Failure) {
        self.state.send_modify(|state| {
            let left = plan.steps.iter().map(|s| s.id.clone()).chain([verified(&plan.target)]);
            for step in left.filter(|id| !state.done.contains(id)).collect::<Vec<_>>() {
                state.failed.insert(step, failure.message.clone());
            }
            if let Some(pool) = &plan.pool
                && !matches!(failure.kind, FailureKind::Blocked | FailureKind::Interrupted)
            {
                *state.failures_by_pool.entry(pool.clone()).or_default() += 1;
            }
        });
    }

    /// A host stopped while it was out of service: its place is not given to another.
    pub fn stays_down(&self, plan: &TargetPlan, place: Option<OwnedSemaphorePermit>) {
        let Some((pool, place)) = plan.pool.as_ref().zip(place) else { return };
        place.forget();
        self.state.send_modify(|state| *state.down_by_pool.entry(pool.clone()).or_default() += 1);
    }

    /// No new work begins from now on.
    pub fn halt(&self, failure: Failure) {
        self.state.send_modify(|state| state.halted = Some(failure));
    }

    /// Returns why no new work begins, if that is so.
    pub fn halted(&self) -> Option<Failure> {
        self.state.borrow().halted.clone()
    }

    pub fn record(&self, transition: Transition, target: &TargetId, batch: usize, note: &str) {
        // A journal that cannot be kept must not stop a run: the hosts are the truth.
        if let Err(error) = self.journal.write(transition, &target.to_string(), batch, note) {
            self.events.emit(Event::Warning { target: None, message: error.to_string() });
        }
    }
}
