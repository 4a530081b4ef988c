//! The graph: each batch of each target runs as soon as its dependencies are done. A failing host stops only itself and what
//! depends on it.

use super::journal::{Journal, Transition};
use super::report::{Outcome, RunReport};
use super::state::{Cancel, RunState};
use super::target::{Placements, TargetRun, hosts_of, placements};
use crate::event::{Event, Events};
use crate::inventory::Inventory;
use crate::plan::{Plan, TargetPlan};
use crate::state::{Cluster, Failure, FailureKind, Target, TargetId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Between two renewals of the cluster's lease; a lease outlives several of them (`reconciler/lease.rs`).
const RENEW: Duration = Duration::from_secs(30);

/// What a run needs.
pub struct RunInput<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// All targets.
    pub targets: BTreeMap<TargetId, Arc<dyn Target>>,
    /// The cluster, where nodes are drained and the run is announced.
    pub cluster: Option<Arc<dyn Cluster>>,
    /// Budgets and pools.
    pub inventory: &'a Inventory,
    /// Its id.
    pub run: String,
    /// Where intents are recorded.
    pub journal: Arc<Journal>,
    /// Where events go.
    pub events: Events,
    /// The operator's request to stop.
    pub cancel: Cancel,
    /// Between two renewals of the lock of a host that waits, say for its wave: less than a lock lasts.
    pub renew_locks: Duration,
}

/// Returns the targets of a run. The cluster is included whenever nodes leave service, even without changes of its own:
/// its workloads must be verified afterwards.
fn work(plan: &Plan) -> Vec<TargetPlan> {
    let drains = plan.targets.iter().any(TargetPlan::drains);
    let wanted = |t: &&TargetPlan| t.has_work() || (drains && t.target == TargetId::Cluster);
    plan.targets.iter().filter(wanted).cloned().collect()
}

/// Carries out a plan.
pub async fn execute(input: RunInput<'_>) -> RunReport {
    let began = Instant::now();
    let RunInput { plan, targets, cluster, inventory, run, journal, events, cancel, renew_locks } = input;
    let work = work(plan);
    let mut state =
        RunState::new(plan, &work, inventory, journal, events.clone(), cancel.clone(), cluster.clone());
    state.renew_locks = renew_locks;
    events.emit(Event::RunStarted {
        run: run.clone(),
        inventory: plan.inventory.clone(),
        hosts: work.iter().filter(|t| t.target.host().is_some()).count(),
        steps: plan.steps(),
        lab: plan.lab,
        about_s: plan.impact.about_s,
    });
    for target in &work {
        let steps = target.steps.len();
        events.emit(Event::TargetPlanned { target: target.target.to_string(), steps });
    }
    state.record(Transition::Begun, &TargetId::Cluster, 0, &format!("{} steps", plan.steps()));
    let mut renewal = JoinSet::new();
    if let Some(cluster) = &cluster {
        // Another run's lease may take minutes to judge; a run that is stopped meanwhile starts nothing.
        let mut stop = cancel.clone();
        let held = tokio::select! { held = cluster.hold() => held, () = stop.reached(1) => Ok(()) };
        match held {
            Ok(()) => drop(renewal.spawn(renew(cluster.clone(), state.clone()))),
            Err(failure) => state.halt(failure),
        }
    }

    let hosts = Arc::new((hosts_of(&work), placements(inventory)));
    let mut tasks = JoinSet::new();
    let mut outcomes = BTreeMap::new();
    let mut under_way = HashMap::new();
    for target_plan in work {
        let target = targets.get(&target_plan.target).cloned();
        let (state, hosts, plan) = (state.clone(), hosts.clone(), target_plan.clone());
        // Until it reports how it ended: it may continue without us.
        outcomes.insert(target_plan.target.clone(), Outcome::Detached);
        let task = tasks.spawn(async move { one(&state, target, &plan, &hosts).await });
        under_way.insert(task.id(), target_plan);
    }
    let mut detach = cancel.clone();
    loop {
        let joined = tokio::select! {
            joined = tasks.join_next_with_id() => joined,
            () = detach.reached(2) => None, // what runs on the hosts goes on there
        };
        let (task, outcome) = match joined {
            Some(Ok((task, outcome))) => (task, Ok(outcome)),
            Some(Err(error)) => (error.id(), Err(error)),
            None => break,
        };
        let Some(ended) = under_way.remove(&task) else { continue };
        let outcome = outcome.unwrap_or_else(|error| {
            // A bug in this program: others must not wait for it forever.
            let failure = Failure::new(FailureKind::Step, "E-PANIC", format!("internal error: {error}"));
            state.fail(&ended, &failure);
            Outcome::Failed(Box::new(failure))
        });
        outcomes.insert(ended.target, outcome);
    }
    renewal.shutdown().await;
    if cancel.level() < 2 {
        tidy(targets, &events).await;
    }
    // Targets that never started because the lease was lost did not fail themselves.
    if let Some(failure) = state.halted() {
        outcomes.insert(TargetId::Cluster, Outcome::Failed(Box::new(failure)));
    }
    let report = RunReport { outcomes, elapsed: began.elapsed(), interrupted: cancel.level() > 0 };
    let (converged, failed, stopped) = report.counts();
    let note = format!("{converged} converged, {failed} failed, {stopped} stopped");
    state.record(Transition::Finished, &TargetId::Cluster, 0, &note);
    events.emit(Event::RunFinished { run, converged, failed, elapsed: report.elapsed });
    report
}

/// Runs one target and returns how it ended.
async fn one(
    state: &RunState,
    target: Option<Arc<dyn Target>>,
    plan: &TargetPlan,
    (hosts, placements): &(BTreeSet<TargetId>, Placements),
) -> Outcome {
    let id = &plan.target;
    let began = Instant::now();
    let none = BTreeSet::new();
    let after = if *id == TargetId::Cluster { hosts } else { &none };
    let result = match (&plan.unobserved, &target) {
        (Some(failure), _) => Err(failure.clone()),
        (None, Some(target)) => {
            TargetRun { state, target: target.as_ref(), plan, after, placements }.run().await
        }
        (None, None) => {
            Err(Failure::new(FailureKind::Step, "E-PLAN", "not a target of this run").hint("Plan again"))
        }
    };
    match result {
        Ok(changed) => {
            state.finish(plan);
            state.events.emit(Event::TargetDone {
                target: id.to_string(),
                changed,
                elapsed: began.elapsed(),
            });
            Outcome::Converged(changed)
        }
        Err(failure) => {
            state.fail(plan, &failure);
            if *id == TargetId::Cluster && failure.kind == FailureKind::Locked {
                state.halt(failure.clone());
            }
            state.events.emit(Event::TargetFailed {
                target: id.to_string(),
                code: failure.code.clone(),
                message: failure.message.clone(),
            });
            let halted = state.halted().is_some_and(|h| h == failure);
            if halted || failure.kind == FailureKind::Interrupted {
                Outcome::Stopped
            } else {
                Outcome::Failed(Box::new(failure))
            }
        }
    }
}

/// Renews the lease of the cluster during the run. A run that lost it starts no further steps.
async fn renew(cluster: Arc<dyn Cluster>, state: RunState) {
    loop {
        tokio::time::sleep(RENEW).await;
        if let Err(failure) = cluster.hold().await {
            return state.halt(failure);
        }
    }
}

/// Ends the run on every target.
async fn tidy(targets: BTreeMap<TargetId, Arc<dyn Target>>, events: &Events) {
    let mut ends: JoinSet<(TargetId, Result<(), Failure>)> = JoinSet::new();
    for target in targets.into_values() {
        ends.spawn(async move { (target.id(), target.finish().await) });
    }
    while let Some(joined) = ends.join_next().await {
        let (target, why) = match joined {
            Ok((_, Ok(()))) => continue,
            Ok((id, Err(failure))) => (Some(id.to_string()), failure.message),
            Err(error) => (None, format!("internal error: {error}")),
        };
        events.emit(Event::Warning { target, message: format!("cleanup failed: {why}") });
    }
}
