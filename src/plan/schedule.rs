//! Order as data: the batches of a target with their gates, the waves of a pool, and the scheduler that says which batch may
//! begin. A run and its estimate use the same one.

use super::model::{Batch, Plan, TargetPlan, Waves, drains};
use crate::inventory::{Inventory, Pool};
use crate::state::{
    Hazard, HostName, JoinRole, OutOfService, PoolName, ResourceId, Step, StepId, StepOutput, TargetId,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Returns the sizes of the waves in which so many hosts of a pool leave service, at most `at_once` together, and whether
/// the first one is a canary. Where none may, there is no wave.
pub(super) fn sizes(pool: &Pool, at_once: usize, hosts: usize) -> (Vec<usize>, bool) {
    if at_once == 0 {
        return (Vec::new(), false);
    }
    let first = (pool.disruption.canary as usize).min(at_once);
    let canary = first > 0 && first < hosts;
    let mut sizes: Vec<usize> = canary.then_some(first).into_iter().collect();
    let mut left = hosts - sizes.iter().sum::<usize>();
    while left > 0 {
        sizes.push(left.min(at_once));
        left -= left.min(at_once);
    }
    (sizes, canary)
}

impl Waves {
    /// Divides the hosts of a pool that leave service. Those that are out of it already go first; others only as far as
    /// those that this plan does not bring back leave room.
    fn of(pool: &Pool, size: usize, hosts: Vec<HostName>, out: OutOfService) -> Self {
        let OutOfService { nodes: down, kept } = out;
        let at_once = pool.disruption.max_unavailable.of(size);
        let (first, others): (Vec<HostName>, Vec<HostName>) =
            hosts.into_iter().partition(|h| down.contains(h));
        let come_back = first.iter().filter(|h| !kept.contains(*h)).count();
        let room = at_once.saturating_sub(down.len() - come_back);
        let (mut divided, mut canary) = sizes(pool, at_once, first.len());
        let in_first = divided.iter().sum::<usize>();
        let (rest, starts) = sizes(pool, room, others.len());
        // A canary among those that are down already is one for all.
        match divided.is_empty() {
            true => (divided, canary) = (rest, starts),
            false => {
                let more = if rest.is_empty() { Vec::new() } else { chunks(others.len(), room) };
                canary = canary || (!more.is_empty() && pool.disruption.canary > 0);
                divided.extend(more);
            }
        }
        let mut going = first.into_iter().take(in_first).chain(others);
        let waves = divided.into_iter().map(|n| going.by_ref().take(n).collect()).collect();
        Self { waves, at_once, canary, down, kept }
    }
}

/// Divides so many hosts into groups of at most so many.
fn chunks(hosts: usize, most: usize) -> Vec<usize> {
    (0..hosts).step_by(most.max(1)).map(|n| most.min(hosts - n)).collect()
}

/// Returns whether steps stop or start a member of the control plane.
fn touches_control_plane(is_member: bool, steps: &[Step]) -> bool {
    steps.iter().any(|s| {
        s.hazards.contains(&Hazard::Quorum)
            || s.inputs.contains(&StepOutput::JoinToken(JoinRole::Controller))
            || (is_member && s.role == "k0s")
    })
}

/// Returns whether a step brings in one node; nodes are batches of their own, since each waits for its own host.
pub(super) fn is_node(step: &Step) -> bool {
    step.target == TargetId::Cluster && step.resource.node().is_some()
}

/// Splits a target's steps at gates: a step that needs what was not waited for yet, or takes another step's output, begins a
/// batch; a reboot and a gate end one. On the cluster a join token and a node are batches of their own, as hosts wait for the one
/// and a failed host leaves out the other; all else goes together, so that engines load side by side.
pub(super) fn batches(steps: &[Step], is_member: bool) -> Vec<Batch> {
    let mut cuts = Vec::new();
    let mut gate = true;
    let mut awaited: BTreeSet<&StepId> = BTreeSet::new();
    for (index, step) in steps.iter().enumerate() {
        let alone = is_node(step) || matches!(step.resource, ResourceId::JoinToken(_));
        let waits = step.needs.iter().any(|need| !awaited.contains(need));
        if gate || alone || waits || !step.inputs.is_empty() {
            cuts.push(index);
        }
        awaited.extend(&step.needs);
        gate = alone || step.hazards.contains(&Hazard::Reboot) || step.wanted().is_some_and(|r| r.gate);
    }
    let ends = cuts.iter().skip(1).copied().chain([steps.len()]);
    let batch = |(from, to): (&usize, usize)| {
        let of = &steps[*from..to];
        let host = of.first().is_some_and(|s| s.target != TargetId::Cluster);
        Batch {
            steps: *from..to,
            drains: host && drains(of),
            control_plane: host && touches_control_plane(is_member, of),
        }
    };
    cuts.iter().zip(ends).map(batch).collect()
}

/// Returns the waves of each pool from which a plan takes nodes out of service.
fn waves(
    targets: &[TargetPlan],
    inventory: &Inventory,
    out_of_service: &OutOfService,
) -> BTreeMap<PoolName, Waves> {
    let mut leaving: BTreeMap<PoolName, Vec<HostName>> = BTreeMap::new();
    for target in targets.iter().filter(|t| t.drains()) {
        if let (Some(pool), Some(host)) = (&target.pool, target.target.host()) {
            leaving.entry(PoolName::new(pool.clone())).or_default().push(host.clone());
        }
    }
    let divided = leaving.into_iter().filter_map(|(name, hosts)| {
        let pool = inventory.pools.get(&name)?;
        let size = inventory.hosts_of(&name).count();
        let of = |nodes: &BTreeSet<HostName>| {
            let own = inventory.hosts_of(&name).map(|h| &h.name);
            own.filter(|h| nodes.contains(*h)).cloned().collect()
        };
        let out = OutOfService { nodes: of(&out_of_service.nodes), kept: of(&out_of_service.kept) };
        let waves = Waves::of(pool, size, hosts, out);
        Some((name, waves))
    });
    divided.collect()
}

/// What a batch waits for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Wait {
    /// A step, or the end of a target.
    Step(StepId),
    /// The waves of its pool before its own, which is `wave` of `of`, counted from 1.
    Wave {
        /// The pool.
        pool: PoolName,
        /// Its own wave.
        wave: usize,
        /// All of them.
        of: usize,
    },
    /// Its pool, from which as many hosts are out of service as may be.
    Full(PoolName),
    /// Another member of the control plane that is being changed.
    ControlPlane,
}

/// Which batch may begin, given what has begun and ended.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pools: BTreeMap<PoolName, Places>,
    waves: HashMap<HostName, (PoolName, usize)>,
    /// Steps and ends that something needs and that have not come yet.
    open: HashSet<StepId>,
    /// Hosts that are out of service now, and their pools.
    out: HashMap<TargetId, PoolName>,
    control_plane: Option<TargetId>,
}

/// The places of a pool.
#[derive(Clone, Debug)]
struct Places {
    at_once: usize,
    taken: usize,
    /// Hosts that have a place already, since they were out of service before the run.
    down: HashSet<HostName>,
    /// Hosts that keep their place whatever is done to them: somebody else has cordoned them.
    kept: HashSet<HostName>,
    /// Hosts of each wave that have not ended.
    left: Vec<usize>,
}

impl Scheduler {
    /// Returns the scheduler of targets whose hosts leave service in these waves. A need that none of the targets has is
    /// met already.
    pub fn new(targets: &[TargetPlan], waves: &BTreeMap<PoolName, Waves>) -> Self {
        let steps = || targets.iter().flat_map(|t| &t.steps);
        let needed: HashSet<&StepId> = steps().flat_map(|s| &s.needs).collect();
        let ends = targets.iter().map(|t| StepId::Verified(t.target.clone()));
        let open = steps().map(|s| s.id.clone()).chain(ends).filter(|id| needed.contains(id)).collect();
        let taking_part: HashSet<&HostName> = targets.iter().filter_map(|t| t.target.host()).collect();
        let mut scheduler = Self {
            pools: BTreeMap::new(),
            waves: HashMap::new(),
            open,
            out: HashMap::new(),
            control_plane: None,
        };
        for (pool, of) in waves {
            let mut left = Vec::new();
            for (number, wave) in of.waves.iter().enumerate() {
                let hosts: Vec<&HostName> = wave.iter().filter(|h| taking_part.contains(h)).collect();
                left.push(hosts.len());
                let places = hosts.into_iter().map(|h| (h.clone(), (pool.clone(), number)));
                scheduler.waves.extend(places);
            }
            scheduler.pools.insert(
                pool.clone(),
                Places {
                    at_once: of.at_once,
                    taken: of.down.len(),
                    down: of.down.iter().cloned().collect(),
                    kept: of.kept.iter().cloned().collect(),
                    left,
                },
            );
        }
        scheduler
    }

    /// Returns what keeps a batch of a target from beginning. Once a node is out of service, nothing of its host waits for
    /// a place any more; so all that its later batches need is waited for before.
    pub fn may_begin(&self, plan: &TargetPlan, batch: &Batch) -> Result<(), Wait> {
        let out = self.out.contains_key(&plan.target);
        let gated = !out && (batch.drains || batch.control_plane);
        let to = if gated { plan.steps.len() } else { batch.steps.end };
        let needs = plan.steps[batch.steps.start..to].iter().flat_map(|s| &s.needs);
        if let Some(need) = needs.filter(|n| *n.target() != plan.target).find(|n| self.open.contains(*n)) {
            return Err(Wait::Step(need.clone()));
        }
        if !gated {
            return Ok(());
        }
        if batch.drains {
            let (Some((pool, wave)), Some(places)) = (self.wave_of(&plan.target), self.places(plan)) else {
                return Err(Wait::Full(plan.pool.clone().unwrap_or_default().into()));
            };
            if places.left.iter().take(*wave).any(|left| *left > 0) {
                let (pool, wave, of) = (pool.clone(), wave + 1, places.left.len());
                return Err(Wait::Wave { pool, wave, of });
            }
            let has_place = plan.target.host().is_some_and(|h| places.down.contains(h));
            if !has_place && places.taken >= places.at_once {
                return Err(Wait::Full(pool.clone()));
            }
        }
        match &self.control_plane {
            Some(other) if batch.control_plane && *other != plan.target => Err(Wait::ControlPlane),
            _ => Ok(()),
        }
    }

    fn wave_of(&self, target: &TargetId) -> Option<&(PoolName, usize)> {
        self.waves.get(target.host()?)
    }

    fn places(&self, plan: &TargetPlan) -> Option<&Places> {
        self.pools.get(plan.pool.as_deref()?)
    }

    /// Returns whether a host may be taken out of service at all: a plan has no wave for it where its pool allows none.
    pub fn may_leave(&self, target: &TargetId) -> bool {
        self.wave_of(target).is_some()
    }

    /// A batch begins that may: it takes its places.
    pub fn begin(&mut self, target: &TargetId, batch: &Batch) {
        if self.out.contains_key(target) {
            return;
        }
        if batch.drains
            && let Some((pool, _)) = target.host().and_then(|h| self.waves.get(h))
            && let Some(places) = self.pools.get_mut(pool)
        {
            // One that was out of service before has its place.
            places.taken += usize::from(!target.host().is_some_and(|h| places.down.remove(h)));
            self.out.insert(target.clone(), pool.clone());
        }
        if batch.control_plane {
            self.control_plane = Some(target.clone());
        }
    }

    /// A step is done.
    pub fn done(&mut self, step: &StepId) {
        self.open.remove(step);
    }

    /// Returns whether something needs a step that is not done.
    pub fn is_open(&self, step: &StepId) -> bool {
        self.open.contains(step)
    }

    /// A batch of a target ended; one whose node is out of service keeps its places.
    pub fn batch_ended(&mut self, target: &TargetId) {
        if !self.out.contains_key(target) {
            self.free_control_plane(target);
        }
    }

    /// A node is back in service, or its drain was given up.
    pub fn back(&mut self, target: &TargetId) {
        if let Some(places) = self.out.remove(target).and_then(|pool| self.pools.get_mut(&pool)) {
            places.taken -= usize::from(!target.host().is_some_and(|h| places.kept.contains(h)));
        }
        self.free_control_plane(target);
    }

    /// A target ended. A node that is out of service then stays so, and keeps its place. Returns the wave that waited for
    /// it, if it was the last of its own.
    pub fn ended(&mut self, target: &TargetId) -> Option<Wait> {
        self.free_control_plane(target);
        let (pool, wave) = self.waves.remove(target.host()?)?;
        let places = self.pools.get_mut(&pool)?;
        let left = places.left.get_mut(wave)?;
        *left -= 1;
        let next = places.left.iter().position(|left| *left > 0)?;
        (next > wave).then(|| Wait::Wave { wave: next + 1, of: places.left.len(), pool })
    }

    /// Returns how many hosts of a pool are out of service and will not be back in this run, and whether they take all its
    /// places.
    pub fn stay_down(&self, pool: &PoolName) -> (usize, bool) {
        let Some(places) = self.pools.get(pool) else { return (0, false) };
        let ended = |host: &HostName| !self.waves.contains_key(host);
        let out = self.out.iter().filter(|(_, of)| *of == pool).filter_map(|(target, _)| target.host());
        let down: HashSet<&HostName> =
            out.chain(&places.down).chain(&places.kept).filter(|h| ended(h)).collect();
        let down = down.len();
        (down, down >= places.at_once)
    }

    fn free_control_plane(&mut self, target: &TargetId) {
        if self.control_plane.as_ref() == Some(target) {
            self.control_plane = None;
        }
    }
}

impl Plan {
    /// Divides steps into batches and pools into waves again, after steps were left out.
    pub fn reschedule(&mut self, inventory: &Inventory) {
        for target in &mut self.targets {
            target.batches = batches(&target.steps, target.is_member);
        }
        self.waves = waves(&self.targets, inventory, &self.out_of_service);
    }
}
