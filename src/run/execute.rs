//! The graph: every batch of every target as soon as what it needs is done. One bad host stops itself and what waits for
//! it, nothing else.

use super::board::{Board, Cancel};
use super::journal::{Journal, Transition};
use super::report::{Outcome, RunReport};
use super::target::{Course, Homes, ends_of_hosts, homes};
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
    /// Everything it acts on.
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
    /// The operator's wish.
    pub cancel: Cancel,
}

/// Returns what a run has to do with. A cluster that nothing is wanted of is looked at all the same when nodes leave
/// service: what runs on them has to be as wanted again afterwards.
fn work(plan: &Plan) -> Vec<TargetPlan> {
    let drains = plan.targets.iter().any(TargetPlan::drains);
    let wanted = |t: &&TargetPlan| t.has_work() || (drains && t.target == TargetId::Cluster);
    plan.targets.iter().filter(wanted).cloned().collect()
}

/// Carries out a plan.
pub async fn execute(input: RunInput<'_>) -> RunReport {
    let began = Instant::now();
    let RunInput { plan, targets, cluster, inventory, run, journal, events, cancel } = input;
    let work = work(plan);
    let board = Board::new(&work, inventory, journal, events.clone(), cancel.clone(), cluster.clone());
    events.emit(Event::RunStarted {
        run: run.clone(),
        inventory: plan.inventory.clone(),
        hosts: work.iter().filter(|t| t.target.host().is_some()).count(),
        steps: plan.steps(),
        lab: plan.lab,
        about_s: plan.outlook.about_s,
    });
    for target in &work {
        let steps = target.steps.len();
        events.emit(Event::TargetPlanned { target: target.target.to_string(), steps });
    }
    board.record(Transition::Begun, &TargetId::Cluster, 0, &format!("{} steps", plan.steps()));
    let mut renewal = JoinSet::new();
    if let Some(cluster) = &cluster {
        match cluster.hold().await {
            Ok(()) => drop(renewal.spawn(renew(cluster.clone(), board.clone()))),
            Err(failure) => board.halt(failure),
        }
    }

    let hosts = Arc::new((ends_of_hosts(&work), homes(inventory)));
    let mut tasks = JoinSet::new();
    let mut outcomes = BTreeMap::new();
    let mut under_way = HashMap::new();
    for target_plan in work {
        let target = targets.get(&target_plan.target).cloned();
        let (board, hosts, plan) = (board.clone(), hosts.clone(), target_plan.clone());
        // Until it says how it ended: it may go on without us.
        outcomes.insert(target_plan.target.clone(), Outcome::Detached);
        let task = tasks.spawn(async move { one(&board, target, &plan, &hosts).await });
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
            // A mistake in this program: others must not wait for its end for ever.
            let failure = Failure::new(FailureKind::Step, "E-PANIC", format!("its task broke off: {error}"));
            board.fail(&ended, &failure);
            Outcome::Failed(Box::new(failure))
        });
        outcomes.insert(ended.target, outcome);
    }
    renewal.shutdown().await;
    if cancel.level() < 2 {
        tidy(targets, &events).await;
    }
    // Who could not begin for want of the lease is not what failed.
    if let Some(failure) = board.halted() {
        outcomes.insert(TargetId::Cluster, Outcome::Failed(Box::new(failure)));
    }
    let report = RunReport { outcomes, elapsed: began.elapsed(), interrupted: cancel.level() > 0 };
    let (converged, failed, stopped) = report.counts();
    let note = format!("{converged} converged, {failed} failed, {stopped} stopped");
    board.record(Transition::Finished, &TargetId::Cluster, 0, &note);
    events.emit(Event::RunFinished { run, converged, failed, elapsed: report.elapsed });
    report
}

/// Takes one target its way, and says how it ended.
async fn one(
    board: &Board,
    target: Option<Arc<dyn Target>>,
    plan: &TargetPlan,
    (hosts, homes): &(BTreeSet<crate::state::StepId>, Homes),
) -> Outcome {
    let id = &plan.target;
    let began = Instant::now();
    let none = BTreeSet::new();
    let after = if *id == TargetId::Cluster { hosts } else { &none };
    let result = match (&plan.unobserved, &target) {
        (Some(failure), _) => Err(failure.clone()),
        (None, Some(target)) => Course { board, target: target.as_ref(), plan, after, homes }.run().await,
        (None, None) => {
            Err(Failure::new(FailureKind::Step, "E-PLAN", "it is no target of this run").hint("plan again"))
        }
    };
    match result {
        Ok(changed) => {
            board.finish(plan);
            board.events.emit(Event::TargetDone {
                target: id.to_string(),
                changed,
                elapsed: began.elapsed(),
            });
            Outcome::Converged(changed)
        }
        Err(failure) => {
            board.fail(plan, &failure);
            if *id == TargetId::Cluster && failure.kind == FailureKind::Locked {
                board.halt(failure.clone());
            }
            board.events.emit(Event::TargetFailed {
                target: id.to_string(),
                code: failure.code.clone(),
                message: failure.message.clone(),
            });
            let halted = board.halted().is_some_and(|h| h == failure);
            if halted || failure.kind == FailureKind::Interrupted {
                Outcome::Stopped
            } else {
                Outcome::Failed(Box::new(failure))
            }
        }
    }
}

/// Keeps the lease of the cluster while the run goes on. A run that lost it begins nothing more.
async fn renew(cluster: Arc<dyn Cluster>, board: Board) {
    loop {
        tokio::time::sleep(RENEW).await;
        if let Err(failure) = cluster.hold().await {
            return board.halt(failure);
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
        if let Ok((id, Err(failure))) = joined {
            let message = format!("could not be tidied up: {}", failure.message);
            events.emit(Event::Warning { target: Some(id.to_string()), message });
        }
    }
}
