//! The graph: every batch of every target as soon as what it needs is done. One bad host stops itself and what waits for
//! it, nothing else.

use super::journal::{Journal, Transition};
use crate::event::{Event, Events};
use crate::inventory::Inventory;
use crate::plan::{Batch, Plan, TargetPlan, batches, steps_of, unknown};
use crate::state::{Failure, FailureKind, Hazard, Lates, StepId, Target, TargetId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often a target is planned again for steps that could not be previewed.
const MOST_ROUNDS: usize = 3;

/// The operator's wish to stop.
#[derive(Clone)]
pub struct Cancel(watch::Receiver<u8>);

impl Cancel {
    /// Returns the wish and the means to express it: 1 stops new work, 2 detaches.
    pub fn new() -> (watch::Sender<u8>, Self) {
        let (sender, receiver) = watch::channel(0);
        (sender, Self(receiver))
    }

    fn level(&self) -> u8 {
        *self.0.borrow()
    }

    async fn detached(&mut self) {
        while self.level() < 2 {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What a run needs.
pub struct RunInput<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Everything it acts on.
    pub targets: BTreeMap<TargetId, Arc<dyn Target>>,
    /// Budgets and pools.
    pub inventory: &'a Inventory,
    /// Its id.
    pub run: String,
    /// Where intents are recorded.
    pub journal: Arc<Journal>,
    /// Where events go.
    pub events: Events,
    /// The operator's wish.
    pub cancel: Cancel,
}

/// How a target ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Observed to be as wanted; so many steps were carried out.
    Converged(usize),
    /// It failed.
    Failed(Box<Failure>),
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug)]
pub struct RunReport {
    /// Per target that had something to do or could not be observed.
    pub outcomes: BTreeMap<TargetId, Outcome>,
    /// How long it took.
    pub elapsed: Duration,
    /// The operator stopped it.
    pub interrupted: bool,
}

impl RunReport {
    /// Returns the failures.
    pub fn failures(&self) -> impl Iterator<Item = (&TargetId, &Failure)> {
        self.outcomes.iter().filter_map(|(target, outcome)| match outcome {
            Outcome::Failed(failure) => Some((target, failure.as_ref())),
            Outcome::Converged(_) => None,
        })
    }

    /// Returns the exit code: 130, 3, 4, 1, 0 in this order.
    pub fn exit_code(&self) -> u8 {
        let any = |kind| self.failures().any(|(_, f)| f.kind == kind);
        let converged = self.outcomes.values().any(|o| matches!(o, Outcome::Converged(_)));
        match () {
            () if self.interrupted => 130,
            () if any(FailureKind::Refused) => 3,
            () if any(FailureKind::Locked) && !converged => 4,
            () if self.failures().next().is_some() => 1,
            () => 0,
        }
    }
}

/// Shared by the tasks of a run.
#[derive(Clone)]
struct Board {
    done: watch::Sender<State>,
    events: Events,
    journal: Arc<Journal>,
    cancel: Cancel,
    budgets: Arc<BTreeMap<String, (usize, usize)>>,
}

#[derive(Clone, Default)]
struct State {
    done: BTreeSet<StepId>,
    failed: BTreeMap<StepId, String>,
    lates: Lates,
    failures_by_pool: BTreeMap<String, usize>,
}

fn interrupted() -> Failure {
    Failure::new(FailureKind::Interrupted, "E-INTERRUPTED", "stopped before its work began")
        .hint("run the same command again: what is done stays done")
}

impl Board {
    /// Waits for what a batch needs; fails when one of it failed, or the run is to stop.
    async fn wait(&self, target: &TargetId, pool: Option<&str>, batch: &Batch) -> Result<Lates, Failure> {
        let needs: Vec<StepId> = batch.steps.iter().flat_map(|s| s.needs.clone()).collect();
        let mut state = self.done.subscribe();
        let mut told = false;
        loop {
            {
                let now = state.borrow_and_update();
                if let Some((step, why)) = needs.iter().find_map(|n| now.failed.get_key_value(n)) {
                    return Err(Failure::new(
                        FailureKind::Blocked,
                        "E-BLOCKED",
                        format!("it waits for {step}, which failed"),
                    )
                    .cause(why.clone())
                    .hint("mend that one, then apply again"));
                }
                if let Some(pool) = pool
                    && let Some((allowed, _)) = self.budgets.get(pool)
                    && now.failures_by_pool.get(pool).is_some_and(|failed| failed > allowed)
                {
                    return Err(Failure::new(
                        FailureKind::Blocked,
                        "E-BUDGET",
                        format!("pool {pool} stopped: more than {allowed} of its hosts failed"),
                    )
                    .hint("mend the failed hosts, or raise disruption.maxFailed"));
                }
                if self.cancel.level() > 0 {
                    return Err(interrupted());
                }
                match needs.iter().find(|n| !now.done.contains(*n)) {
                    None => return Ok(now.lates.clone()),
                    Some(need) if !told => {
                        told = true;
                        self.events.emit(Event::Waiting {
                            target: target.to_string(),
                            reason: format!("waits for {need}"),
                        });
                    }
                    Some(_) => {}
                }
            }
            let mut cancel = self.cancel.clone();
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return Err(interrupted()); },
                _ = cancel.0.changed() => {}
            }
        }
    }

    fn succeed(&self, batch: &Batch, lates: Lates) {
        self.done.send_modify(|state| {
            state.done.extend(batch.steps.iter().map(|s| s.id.clone()));
            state.lates.extend(lates);
        });
    }

    /// A target that stops takes all its later steps with it.
    fn fail(&self, plan: &TargetPlan, failure: &Failure) {
        self.done.send_modify(|state| {
            for step in &plan.steps {
                if !state.done.contains(&step.id) {
                    state.failed.insert(step.id.clone(), failure.message.clone());
                }
            }
            if let Some(pool) = &plan.pool
                && !matches!(failure.kind, FailureKind::Blocked | FailureKind::Interrupted)
            {
                *state.failures_by_pool.entry(pool.clone()).or_default() += 1;
            }
        });
    }

    fn record(&self, transition: Transition, target: &TargetId, batch: usize, note: &str) {
        // A journal that cannot be kept must not stop a run: the hosts are the truth.
        if let Err(error) = self.journal.write(transition, &target.to_string(), batch, note) {
            self.events.emit(Event::Warning { target: None, message: error.to_string() });
        }
    }
}

/// Carries out a plan.
pub async fn execute(input: RunInput<'_>) -> RunReport {
    let began = Instant::now();
    let RunInput { plan, targets, inventory, run, journal, events, cancel } = input;
    let budgets = inventory
        .pools
        .values()
        .map(|pool| {
            let size = inventory.hosts_of(&pool.name).count();
            let (failed, down) =
                (pool.disruption.max_failed.of(size), pool.disruption.max_unavailable.of(size));
            (pool.name.to_string(), (failed, down))
        })
        .collect();
    let board = Board {
        done: watch::Sender::new(State::default()),
        events: events.clone(),
        journal,
        cancel: cancel.clone(),
        budgets: Arc::new(budgets),
    };
    let work: Vec<TargetPlan> = plan
        .targets
        .iter()
        .filter(|t| !t.steps.is_empty() || t.unobserved.is_some() || !t.unknown.is_empty())
        .cloned()
        .collect();
    events.emit(Event::RunStarted {
        run: run.clone(),
        inventory: plan.inventory.clone(),
        hosts: work.iter().filter(|t| t.target.host().is_some()).count(),
        steps: plan.steps(),
        lab: plan.lab,
    });
    board.record(Transition::Begun, &TargetId::Cluster, 0, &format!("{} steps", plan.steps()));
    let waves: BTreeMap<String, Arc<tokio::sync::Semaphore>> = board
        .budgets
        .iter()
        .map(|(pool, (_, down))| (pool.clone(), Arc::new(tokio::sync::Semaphore::new((*down).max(1)))))
        .collect();

    let mut tasks = JoinSet::new();
    for target_plan in work {
        let Some(target) = targets.get(&target_plan.target).cloned() else { continue };
        let board = board.clone();
        let wave = target_plan.pool.as_ref().and_then(|p| waves.get(p)).cloned();
        tasks.spawn(async move {
            let id = target_plan.target.clone();
            let began = Instant::now();
            let result = match &target_plan.unobserved {
                Some(failure) => Err(failure.clone()),
                None => one(&board, target.as_ref(), &target_plan, wave).await,
            };
            match &result {
                Ok(changed) => board.events.emit(Event::TargetDone {
                    target: id.to_string(),
                    changed: *changed,
                    elapsed: began.elapsed(),
                }),
                Err(failure) => {
                    board.fail(&target_plan, failure);
                    board.events.emit(Event::TargetFailed {
                        target: id.to_string(),
                        code: failure.code.clone(),
                        message: failure.message.clone(),
                    });
                }
            }
            (id, result)
        });
    }
    let mut outcomes = BTreeMap::new();
    let mut detach = cancel.clone();
    loop {
        let joined = tokio::select! {
            joined = tasks.join_next() => joined,
            () = detach.detached() => None, // what runs on the hosts goes on there
        };
        match joined {
            Some(Ok((id, Ok(changed)))) => {
                outcomes.insert(id, Outcome::Converged(changed));
            }
            Some(Ok((id, Err(failure)))) => {
                outcomes.insert(id, Outcome::Failed(Box::new(failure)));
            }
            Some(Err(_)) => {}
            None => break,
        }
    }
    let detached = cancel.level() > 1;
    if !detached {
        let mut ends = JoinSet::new();
        for target in targets.into_values() {
            ends.spawn(async move { (target.id(), target.finish().await) });
        }
        while let Some(Ok((id, result))) = ends.join_next().await {
            if let Err(failure) = result {
                let message = format!("could not be tidied up: {}", failure.message);
                events.emit(Event::Warning { target: Some(id.to_string()), message });
            }
        }
    }
    let report = RunReport { outcomes, elapsed: began.elapsed(), interrupted: cancel.level() > 0 };
    let failed = report.failures().count();
    let converged = report.outcomes.len() - failed;
    board.record(
        Transition::Finished,
        &TargetId::Cluster,
        0,
        &format!("{converged} converged, {failed} failed"),
    );
    events.emit(Event::RunFinished { run, converged, failed, elapsed: report.elapsed });
    report
}

/// Returns whether a batch takes its host out of service for a time.
fn disrupts(batch: &Batch) -> bool {
    batch.steps.iter().flat_map(|s| &s.hazards).any(|h| matches!(h, Hazard::Reboot | Hazard::Drain))
}

/// Returns whether a batch is one node of the cluster.
fn only_node(batch: &Batch) -> bool {
    batch.target == TargetId::Cluster
        && batch.steps.len() == 1
        && batch.steps[0].resource.as_str().starts_with("node/")
}

/// Brings one target to what is wanted, and proves it by observing it again.
async fn one(
    board: &Board,
    target: &dyn Target,
    plan: &TargetPlan,
    wave: Option<Arc<tokio::sync::Semaphore>>,
) -> Result<usize, Failure> {
    let id = &plan.target;
    let approved: BTreeSet<Hazard> = plan.steps.iter().flat_map(|s| s.hazards.clone()).collect();
    let mut current = plan.clone();
    let mut changed = 0;
    let mut number = 0;
    let mut left_out = BTreeSet::new();
    for round in 0..MOST_ROUNDS {
        for batch in batches(&current) {
            let lates = match board.wait(id, current.pool.as_deref(), &batch).await {
                Ok(lates) => lates,
                // A host that failed takes its own node with it, not the cluster.
                Err(failure) if failure.kind == FailureKind::Blocked && only_node(&batch) => {
                    board.events.emit(Event::Warning {
                        target: Some(id.to_string()),
                        message: format!("{} is left out: {}", batch.steps[0].what, failure.message),
                    });
                    left_out.extend(batch.steps.iter().map(|s| s.resource.clone()));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let _permit = match &wave {
                Some(wave) if disrupts(&batch) => wave.acquire().await.ok(),
                _ => None,
            };
            number += 1;
            let note = batch.steps.first().map(|s| s.what.as_str()).unwrap_or_default();
            board.record(Transition::Started, id, number, note);
            match target.enact(&batch.steps, &lates).await {
                Ok(lates) => {
                    board.record(Transition::Done, id, number, "");
                    changed += batch.steps.len();
                    board.succeed(&batch, lates);
                }
                Err(failure) => {
                    board.record(Transition::Failed, id, number, &failure.message);
                    return Err(failure);
                }
            }
        }
        let observed = target.observe().await?;
        // What cannot be told is not "as wanted".
        if let Some(what) = unknown(&observed).first() {
            return Err(Failure::new(
                FailureKind::Unobserved,
                "E-UNKNOWN",
                format!("it cannot be verified: {what}"),
            )
            .hint("provision plan --limit shows whether it can be told now"));
        }
        let (mut steps, _) = steps_of(&observed);
        steps.retain(|s| !left_out.contains(&s.resource));
        if steps.is_empty() {
            board.record(Transition::Verified, id, round + 1, "");
            return Ok(changed);
        }
        if let Some(hazard) = steps.iter().flat_map(|s| &s.hazards).find(|h| !approved.contains(*h)) {
            return Err(Failure::new(
                FailureKind::Refused,
                "E-HAZARD",
                format!("what was deferred turns out to need {hazard}, which was not approved"),
            )
            .hint("plan again: it shows it now"));
        }
        current.steps = steps;
    }
    let left: Vec<&str> = current.steps.iter().map(|s| s.what.as_str()).take(5).collect();
    Err(Failure::new(
        FailureKind::Step,
        "E-NOT-CONVERGED",
        format!("it is not as wanted after {MOST_ROUNDS} rounds: {}", left.join(", ")),
    )
    .hint("provision plan --limit names what differs"))
}
