//! The impact of carrying out a plan: distinct changes, hazards and rollout order per pool, the minimum capacity, and about
//! how long it takes. A pure function of the plan, the inventory, and what steps took in earlier runs.

use super::kinds::kinds;
use super::model::{Capacity, Impact, Plan, PoolImpact, RolloutOrder, TargetPlan, Waves, drains};
use super::schedule::{Scheduler, Wait};

use crate::inventory::Inventory;
use crate::state::{Hazard, HostKind, HostName, PoolName, ResourceId, Step, StepId, TargetId};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};

/// What steps took in earlier runs, in milliseconds, as means.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
pub struct Past {
    /// How many runs it comes from.
    pub runs: usize,
    /// By resource id.
    pub by_resource: BTreeMap<String, u64>,
    /// By resource kind.
    pub by_kind: BTreeMap<String, u64>,
    /// Draining a node.
    #[serde(default)]
    pub drain: u64,
    /// Until a drained node serves again, once its host is as wanted.
    #[serde(default)]
    pub return_to_service: u64,
}

impl Past {
    /// Returns what a step would take, if anything alike was done before.
    fn of(&self, step: &Step) -> Option<u64> {
        let kind = || self.by_kind.get(&step.resource.kind());
        self.by_resource.get(&step.resource.text()).or_else(kind).copied()
    }
}

/// Returns a target's hazards for a heading. Restarting a unit that the same plan starts is not a hazard.
fn hazards(target: &TargetPlan) -> BTreeSet<String> {
    let starts = |unit: &str| {
        target.steps.iter().any(|s| {
            matches!(&s.resource, ResourceId::Host(HostKind::Unit, name) if name == unit)
                && s.change.fields.iter().any(|f| f.name == "active" && f.from.as_deref() != Some("yes"))
        })
    };
    let said = |hazard: &Hazard| match hazard {
        Hazard::Restart(unit) if starts(unit) => None,
        Hazard::Restart(unit) => Some(format!("restart {}", unit.trim_end_matches(".service"))),
        lost if lost.pod().is_some() => Some("data loss (pods)".to_owned()),
        Hazard::DataLoss(what) => Some(format!("data loss ({what})")),
        other => Some(other.to_string()),
    };
    target.steps.iter().flat_map(|s| &s.hazards).filter_map(said).collect()
}

/// Returns the impact of carrying out a plan.
pub fn impact(plan: &Plan, inventory: &Inventory, past: &Past) -> Impact {
    let mut by_pool: BTreeMap<&str, Vec<&TargetPlan>> = BTreeMap::new();
    let mut cluster = None;
    for target in plan.targets.iter().filter(|t| !t.steps.is_empty()) {
        match (&target.target, &target.pool) {
            (TargetId::Cluster, _) => cluster = Some(target),
            (_, Some(pool)) => by_pool.entry(pool).or_default().push(target),
            _ => {}
        }
    }
    let mut sizes: HashMap<&PoolName, usize> = HashMap::new();
    for host in inventory.active() {
        *sizes.entry(&host.pool).or_default() += 1;
    }
    let pools: Vec<PoolImpact> = by_pool
        .iter()
        .map(|(name, targets)| {
            let pool = inventory.pools.get(*name);
            let size = sizes.get(&PoolName::from(*name)).copied().unwrap_or(targets.len());
            pool_impact(name, pool, size, targets, plan.waves.get(*name))
        })
        .collect();
    let hosts: Vec<&TargetPlan> = by_pool.values().flatten().copied().collect();
    let steps: usize = plan.steps();
    let unknown = plan.targets.iter().flat_map(|t| &t.steps).filter(|s| past.of(s).is_none()).count();
    // A few steps that were never done do not spoil the sum; many do.
    let known = past.runs > 0 && steps > 0 && unknown * 10 <= steps;
    Impact {
        kinds: kinds(&hosts).len() + cluster.map_or(0, |t| kinds(&[t]).len()),
        steps,
        deferred: plan.targets.iter().flat_map(|t| &t.steps).filter(|s| s.deferred.is_some()).count(),
        about_s: known.then(|| duration(plan, past).div_ceil(1000)),
        past_runs: past.runs,
        pools,
    }
}

fn pool_impact(
    name: &str,
    pool: Option<&crate::inventory::Pool>,
    size: usize,
    targets: &[&TargetPlan],
    waves: Option<&Waves>,
) -> PoolImpact {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for hazard in targets.iter().flat_map(|t| hazards(t)) {
        *counts.entry(hazard).or_default() += 1;
    }
    let works = pool.is_some_and(|p| p.role.is_worker());
    let joining = targets.iter().filter(|t| works && !t.is_node && !t.leaves).count();
    let down = targets.iter().filter(|t| drains(&t.steps)).count();
    // Those that are out of service now serve nothing; in the worst wave those that stay out come on top.
    let out = waves.map_or(0, |w| w.down.len());
    let going: BTreeSet<&HostName> = waves.into_iter().flat_map(|w| w.waves.iter().flatten()).collect();
    let stay =
        waves.map_or(0, |w| w.down.iter().filter(|h| !going.contains(h) || w.kept.contains(*h)).count());
    let leaving =
        |w: &Waves| w.waves.iter().map(|wave| wave.iter().filter(|h| !w.kept.contains(*h)).count()).max();
    let largest = waves.and_then(leaving).unwrap_or(0);
    let worst = out.max(stay + largest);
    let several = pool.is_some_and(|p| p.role.is_controller()) && size > 1;
    let order = match () {
        () if several && targets.iter().any(|t| t.batches.iter().any(|b| b.control_plane)) => {
            RolloutOrder::OneByOne
        }
        () if down > 0 => {
            let sizes = || waves.into_iter().flat_map(|w| &w.waves).map(Vec::len);
            RolloutOrder::Waves { waves: sizes().count(), of: sizes().max().unwrap_or(0) }
        }
        () => RolloutOrder::AtOnce,
    };
    let accelerator = pool.and_then(|p| p.accelerator.as_ref());
    let each = accelerator.map_or(1, |a| a.count() as usize);
    let unit = match accelerator {
        Some(crate::inventory::Accelerator::Nvidia { .. }) => "GPUs",
        Some(crate::inventory::Accelerator::Neuron { .. }) => "Neuron devices",
        None => "hosts",
    };
    let all = size.saturating_sub(joining) * each;
    let least = all.saturating_sub(worst * each);
    let all = all.saturating_sub(out * each);
    PoolImpact {
        pool: name.to_owned(),
        hosts: targets.len(),
        size,
        joining,
        hazards: counts,
        order,
        capacity: (down > 0).then(|| Capacity { unit: unit.to_owned(), all, least }),
    }
}

/// A target in the simulation: the batch that it is at, and whether that runs.
#[derive(Clone, Copy, Default)]
struct Actor {
    next: usize,
    running: bool,
}

/// Simulates the run on the scheduler that it uses. Returns when the last batch ends, in ms.
fn duration(plan: &Plan, past: &Past) -> u64 {
    let usual = past.by_kind.values().sum::<u64>() / (past.by_kind.len() as u64).max(1);
    // A node is drained once, before the first batch that wants it, and serves again after the last one.
    let takes = |target: &TargetPlan, at: usize| {
        let steps = target.steps_of(&target.batches[at]);
        let steps: u64 = steps.iter().map(|s| past.of(s).unwrap_or(usual)).sum();
        let first = target.batches.iter().position(|batch| batch.drains);
        let drain = if first == Some(at) { past.drain } else { 0 };
        let back = first.is_some() && at + 1 == target.batches.len();
        steps + drain + if back { past.return_to_service } else { 0 }
    };
    let targets = &plan.targets;
    let mut scheduler = Scheduler::new(targets, &plan.waves);
    let mut waiting: HashMap<Wait, VecDeque<usize>> = HashMap::new();
    let mut actors = vec![Actor::default(); targets.len()];
    let mut events: BinaryHeap<Reverse<(u64, usize)>> = (0..actors.len()).map(|i| Reverse((0, i))).collect();
    let mut last = 0;
    while let Some(Reverse((now, i))) = events.pop() {
        let (target, actor) = (&targets[i], &mut actors[i]);
        last = last.max(now);
        let mut over: Vec<Wait> = Vec::new();
        if actor.running {
            let batch = &target.batches[actor.next];
            for step in target.steps_of(batch) {
                scheduler.done(&step.id);
                over.push(Wait::Step(step.id.clone()));
            }
            scheduler.batch_ended(&target.target);
            over.extend(batch.control_plane.then_some(Wait::ControlPlane));
            actor.running = false;
            actor.next += 1;
        }
        if actor.next == target.batches.len() {
            let end = StepId::Verified(target.target.clone());
            scheduler.done(&end);
            over.push(Wait::Step(end));
            scheduler.back(&target.target);
            over.push(Wait::ControlPlane);
            over.extend(scheduler.ended(&target.target));
        }
        for wait in over {
            // Who finds that it has to wait on waits again.
            events.extend(waiting.remove(&wait).into_iter().flatten().map(|w| Reverse((now, w))));
        }
        let Some(batch) = target.batches.get(actors[i].next) else { continue };
        match scheduler.may_begin(target, batch) {
            Ok(()) => {
                scheduler.begin(&target.target, batch);
                actors[i].running = true;
                events.push(Reverse((now + takes(target, actors[i].next), i)));
            }
            Err(wait) => waiting.entry(wait).or_default().push_back(i),
        }
    }
    last
}
