//! What carrying out a plan would mean: kinds of change, hazards and turns per pool, the capacity that stays, and about
//! how long it takes. A pure function of the plan, the inventory, and what steps took in earlier runs.

use super::build::{parts, verified};
use super::{Plan, TargetPlan, kinds};
use crate::inventory::Inventory;
use crate::state::{Hazard, PoolName, Step, StepId, TargetId};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};

/// What steps took in earlier runs, in milliseconds, as means.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
pub struct Past {
    /// How many runs it comes from.
    pub runs: usize,
    /// By resource id.
    pub by_resource: BTreeMap<String, u64>,
    /// By resource kind.
    pub by_kind: BTreeMap<String, u64>,
}

impl Past {
    /// Returns what a step would take, if anything alike was done before.
    fn of(&self, step: &Step) -> Option<u64> {
        let id = step.resource.as_str();
        let kind = || self.by_kind.get(id.split_once('/').map_or(id, |(kind, _)| kind));
        self.by_resource.get(id).or_else(kind).copied()
    }
}

/// What carrying out a plan would mean.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct Outlook {
    /// Kinds of change: the same one on many hosts counts once.
    pub kinds: usize,
    /// Steps.
    pub steps: usize,
    /// Steps that cannot be previewed yet.
    pub deferred: usize,
    /// About how long it takes, in seconds; `None` if most of its steps were never done from this machine.
    pub about_s: Option<u64>,
    /// How many earlier runs that comes from.
    pub past_runs: usize,
    /// Per pool that changes.
    pub pools: Vec<PoolOutlook>,
}

/// What it means for one pool.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct PoolOutlook {
    /// The pool.
    pub pool: String,
    /// Its hosts that change.
    pub hosts: usize,
    /// Its active hosts.
    pub size: usize,
    /// Hosts that are no nodes of the cluster yet: nothing that they serve is at stake.
    pub joining: usize,
    /// Hosts by hazard: `drain`, `reboot`, `restart k0scontroller`, `data-loss …`, `quorum`.
    pub hazards: BTreeMap<String, usize>,
    /// In what order its hosts change.
    pub turns: Turns,
    /// What stays while it is carried out, where anything that serves goes down for a time.
    pub capacity: Option<Capacity>,
}

/// In what order the hosts of a pool change.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// All at once.
    AtOnce,
    /// One at a time, each gated on etcd.
    OneByOne,
    /// So many waves of up to so many hosts.
    Waves {
        /// Waves.
        waves: usize,
        /// Hosts down at once.
        of: usize,
    },
}

/// Capacity while a plan is carried out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Capacity {
    /// What is counted: `GPUs`, `Neuron devices` or `hosts`.
    pub unit: String,
    /// What serves now.
    pub all: usize,
    /// The least that serves at any moment.
    pub least: usize,
}

impl Capacity {
    /// Returns the least in percent, rounded down.
    pub fn percent(&self) -> usize {
        self.least * 100 / self.all.max(1)
    }
}

/// Returns whether steps take a node out of service for a time. A host that is no node yet may reboot as it likes.
fn drains(steps: &[Step]) -> bool {
    steps.iter().any(|s| s.hazards.contains(&Hazard::Drain))
}

/// Returns whether steps stop or start a member of the control plane, which is done to one at a time.
fn touches_control_plane(target: &TargetPlan, steps: &[Step]) -> bool {
    steps.iter().any(|s| {
        s.hazards.contains(&Hazard::Quorum)
            || s.late.iter().any(|l| l.as_str() == "token/controller")
            || (target.is_member && s.role == "k0s")
    })
}

/// Returns a target's hazards as a heading says them. A restart of a unit that the same plan starts is none.
fn hazards(target: &TargetPlan) -> BTreeSet<String> {
    let starts = |unit: &str| {
        target.steps.iter().any(|s| {
            s.resource.as_str().strip_prefix("unit/") == Some(unit)
                && s.change.fields.iter().any(|f| f.name == "active" && f.from.as_deref() != Some("yes"))
        })
    };
    let said = |hazard: &Hazard| match hazard {
        Hazard::Restart(unit) if starts(unit) => None,
        Hazard::Restart(unit) => Some(format!("restart {}", unit.trim_end_matches(".service"))),
        Hazard::DataLoss(what) => Some(format!("data loss ({what})")),
        other => Some(other.to_string()),
    };
    target.steps.iter().flat_map(|s| &s.hazards).filter_map(said).collect()
}

/// Returns what carrying out a plan would mean.
pub fn outlook(plan: &Plan, inventory: &Inventory, past: &Past) -> Outlook {
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
    let pools: Vec<PoolOutlook> = by_pool
        .iter()
        .map(|(name, targets)| {
            let pool = inventory.pools.get(*name);
            let size = sizes.get(&PoolName::from(*name)).copied().unwrap_or(targets.len());
            pool_outlook(name, pool, size, targets)
        })
        .collect();
    let hosts: Vec<&TargetPlan> = by_pool.values().flatten().copied().collect();
    let steps: usize = plan.steps();
    let unknown = plan.targets.iter().flat_map(|t| &t.steps).filter(|s| past.of(s).is_none()).count();
    // A few steps that were never done do not spoil the sum; many do.
    let known = past.runs > 0 && steps > 0 && unknown * 10 <= steps;
    Outlook {
        kinds: kinds(&hosts).len() + cluster.map_or(0, |t| kinds(&[t]).len()),
        steps,
        deferred: plan.targets.iter().flat_map(|t| &t.steps).filter(|s| s.deferred.is_some()).count(),
        about_s: known.then(|| duration(plan, &pools, past).div_ceil(1000)),
        past_runs: past.runs,
        pools,
    }
}

fn pool_outlook(
    name: &str,
    pool: Option<&crate::inventory::Pool>,
    size: usize,
    targets: &[&TargetPlan],
) -> PoolOutlook {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for hazard in targets.iter().flat_map(|t| hazards(t)) {
        *counts.entry(hazard).or_default() += 1;
    }
    let works = pool.is_some_and(|p| p.role.is_worker());
    let joining = targets.iter().filter(|t| works && !t.is_node).count();
    let down = targets.iter().filter(|t| drains(&t.steps)).count();
    let at_once = pool.map_or(1, |p| p.disruption.max_unavailable.of(size)).max(1);
    let several = pool.is_some_and(|p| p.role.is_controller()) && size > 1;
    let turns = match () {
        () if several && targets.iter().any(|t| touches_control_plane(t, &t.steps)) => Turns::OneByOne,
        () if down > 0 => Turns::Waves { waves: down.div_ceil(at_once), of: at_once.min(down) },
        () => Turns::AtOnce,
    };
    let accelerator = pool.and_then(|p| p.accelerator.as_ref());
    let each = accelerator.map_or(1, |a| a.count() as usize);
    let unit = match accelerator {
        Some(crate::inventory::Accelerator::Nvidia { .. }) => "GPUs",
        Some(crate::inventory::Accelerator::Neuron { .. }) => "Neuron devices",
        None => "hosts",
    };
    let all = size.saturating_sub(joining) * each;
    let least = all.saturating_sub(at_once.min(down) * each);
    PoolOutlook {
        pool: name.to_owned(),
        hosts: targets.len(),
        size,
        joining,
        hazards: counts,
        turns,
        capacity: (down > 0).then(|| Capacity { unit: unit.to_owned(), all, least }),
    }
}

/// What targets take turns on, in the simulation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Gate<'a> {
    /// A place out of service, of those that a pool's disruption allows.
    Pool(&'a str),
    /// The one turn of all controllers.
    ControlPlane,
}

/// A target in the simulation: its batches, the next one, and the gate that it holds from its first batch that needs it
/// to its end.
struct Actor<'a> {
    target: &'a TargetPlan,
    batches: Vec<&'a [Step]>,
    next: usize,
    running: bool,
    holds: Option<Gate<'a>>,
}

impl<'a> Actor<'a> {
    fn gate(&self, batch: &[Step]) -> Option<Gate<'a>> {
        if self.holds.is_some() {
            return None;
        }
        match &self.target.pool {
            Some(pool) if drains(batch) => Some(Gate::Pool(pool)),
            _ => touches_control_plane(self.target, batch).then_some(Gate::ControlPlane),
        }
    }
}

/// Plays the run: batches in order, needs awaited, each gate's places kept. Returns when the last one ends, in ms.
fn duration(plan: &Plan, pools: &[PoolOutlook], past: &Past) -> u64 {
    let all = || plan.targets.iter().flat_map(|t| &t.steps);
    let usual = past.by_kind.values().sum::<u64>() / (past.by_kind.len() as u64).max(1);
    let takes = |batch: &[Step]| batch.iter().map(|s| past.of(s).unwrap_or(usual)).sum::<u64>();
    let needed: HashSet<&StepId> = all().flat_map(|s| &s.needs).collect();
    let ends: Vec<StepId> = plan.targets.iter().map(|t| verified(&t.target)).collect();
    // A need that is no step of this plan is met already.
    let mut open: HashSet<&StepId> =
        all().map(|s| &s.id).chain(&ends).filter(|id| needed.contains(id)).collect();
    let mut free: HashMap<Gate<'_>, usize> = HashMap::from([(Gate::ControlPlane, 1)]);
    free.extend(pools.iter().filter_map(|p| match p.turns {
        Turns::Waves { of, .. } => Some((Gate::Pool(&p.pool), of)),
        _ => None,
    }));
    let mut queues: HashMap<Gate<'_>, VecDeque<usize>> = HashMap::new();
    let mut waiting: HashMap<&StepId, Vec<usize>> = HashMap::new();
    let mut actors: Vec<Actor<'_>> = plan
        .targets
        .iter()
        .map(|target| Actor { target, batches: parts(target), next: 0, running: false, holds: None })
        .collect();
    let mut events: BinaryHeap<Reverse<(u64, usize)>> = (0..actors.len()).map(|i| Reverse((0, i))).collect();
    let mut last = 0;
    while let Some(Reverse((now, i))) = events.pop() {
        last = last.max(now);
        let mut over: Vec<&StepId> = Vec::new();
        if actors[i].running {
            over.extend(actors[i].batches[actors[i].next].iter().map(|s| &s.id));
            actors[i].running = false;
            actors[i].next += 1;
        }
        if actors[i].next == actors[i].batches.len() {
            over.push(&ends[i]);
            if let Some(gate) = actors[i].holds.take() {
                *free.entry(gate).or_default() += 1;
                let next = queues.get_mut(&gate).and_then(VecDeque::pop_front);
                events.extend(next.map(|next| Reverse((now, next))));
            }
        }
        for step in over {
            open.remove(step);
            events.extend(waiting.remove(step).into_iter().flatten().map(|w| Reverse((now, w))));
        }
        let Some(batch) = actors[i].batches.get(actors[i].next).copied() else { continue };
        if let Some(need) = batch.iter().flat_map(|s| &s.needs).find(|n| open.contains(*n)) {
            waiting.entry(need).or_default().push(i);
            continue;
        }
        if let Some(gate) = actors[i].gate(batch) {
            let places = free.entry(gate).or_insert(1);
            if *places == 0 {
                queues.entry(gate).or_default().push_back(i);
                continue;
            }
            *places -= 1;
            actors[i].holds = Some(gate);
        }
        actors[i].running = true;
        events.push(Reverse((now + takes(batch), i)));
    }
    last
}
