//! The way of one target: its batches in order, out of service and back where that is needed, and the proof by a fresh
//! observation.

use super::board::{Begun, Board};
use super::journal::Transition;
use crate::event::Event;
use crate::inventory::Inventory;
use crate::plan::{Batch, TargetPlan, again, batches, unknown, verified};
use crate::state::{Failure, FailureKind, Hazard, HostName, ResourceId, Step, StepId, Target, TargetId};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::OwnedSemaphorePermit;

/// How often a target is planned again for steps that could not be previewed.
const MOST_ROUNDS: usize = 3;

/// A node that is out of service, from its drain until it takes pods again. What it holds is held for so long.
struct Absence {
    node: HostName,
    place: Option<OwnedSemaphorePermit>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// One target under way.
pub(super) struct Course<'a> {
    pub board: &'a Board,
    pub target: &'a dyn Target,
    pub plan: &'a TargetPlan,
    /// What the target was verified to be only when all of these have ended: on the cluster, the hosts.
    pub after: &'a BTreeSet<StepId>,
    /// Which nodes could carry what a resource of the cluster asks for; what is not here asks for none in particular.
    pub homes: &'a Homes,
}

/// The nodes that could carry a resource, by resource.
pub(super) type Homes = BTreeMap<ResourceId, BTreeSet<ResourceId>>;

fn needs(batches: &[Batch]) -> BTreeSet<StepId> {
    let own: BTreeSet<&StepId> = batches.iter().flat_map(|b| &b.steps).map(|s| &s.id).collect();
    let all = batches.iter().flat_map(|b| &b.steps).flat_map(|s| &s.needs);
    all.filter(|n| !own.contains(*n)).cloned().collect()
}

/// Returns whether a batch stops or starts k0s on a controller, or takes a member of etcd down.
fn touches_control_plane(plan: &TargetPlan, batch: &Batch) -> bool {
    let starts = |s: &Step| s.late.iter().any(|l| l.as_str() == "token/controller");
    batch.steps.iter().any(|s| s.hazards.contains(&Hazard::Quorum) || starts(s))
        || (plan.is_member && batch.steps.iter().any(|s| s.role == "k0s"))
}

impl Course<'_> {
    /// Brings the target to what is wanted, and proves it. Returns how many steps were carried out.
    pub async fn run(&self) -> Result<usize, Failure> {
        let mut absence = None;
        let result = self.rounds(&mut absence).await;
        if let Some(absence) = absence {
            self.board.stays_down(self.plan, absence.place);
            self.board.events.emit(Event::Warning {
                target: Some(self.plan.target.to_string()),
                message: format!("node {} stays cordoned until an apply has mended its host", absence.node),
            });
        }
        result
    }

    async fn rounds(&self, absence: &mut Option<Absence>) -> Result<usize, Failure> {
        let (board, id) = (self.board, &self.plan.target);
        let approved: BTreeSet<Hazard> = self.plan.steps.iter().flat_map(|s| s.hazards.clone()).collect();
        let mut current = self.plan.clone();
        let (mut changed, mut number) = (0, 0);
        let mut left_out = BTreeSet::new();
        for round in 0..MOST_ROUNDS {
            changed += self.batches(&current, &mut number, absence, &mut left_out).await?;
            // What hosts do to the cluster is over before it is looked at.
            for end in board.ended(self.after).await {
                let node = end.as_str().trim_end_matches(":verified");
                left_out.insert(ResourceId::new(format!("node/{node}")));
            }
            let observed = self.target.observe().await?;
            // What cannot be told is not "as wanted".
            if let Some(what) = unknown(&observed).first() {
                return Err(Failure::new(
                    FailureKind::Unobserved,
                    "E-UNKNOWN",
                    format!("it cannot be verified: {what}"),
                )
                .hint("provision plan --limit shows whether it can be told now"));
            }
            let mut steps = again(&observed, self.plan);
            steps.retain(|s| !left_out.contains(&s.resource));
            if steps.is_empty() {
                board.record(Transition::Verified, id, round + 1, "");
                self.back(absence).await?;
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

    /// Carries out the batches of one round.
    async fn batches(
        &self,
        current: &TargetPlan,
        number: &mut usize,
        absence: &mut Option<Absence>,
        left_out: &mut BTreeSet<ResourceId>,
    ) -> Result<usize, Failure> {
        let all = batches(current);
        let mut changed = 0;
        let mut rest = all.as_slice();
        while let Some(batch) = rest.first() {
            // Nodes wait for their hosts, each for its own; a failed host takes its own node with it, not the cluster.
            let nodes = rest.iter().take_while(|b| b.is_node()).count();
            if nodes > 0 {
                let (together, others) = rest.split_at(nodes);
                let first = *number + 1;
                *number += nodes;
                let ways = together.iter().enumerate().map(|(n, b)| self.node(b, first + n));
                for (batch, way) in together.iter().zip(join_all(ways).await) {
                    if way? {
                        changed += 1;
                    } else {
                        left_out.extend(batch.steps.iter().map(|s| s.resource.clone()));
                    }
                }
                rest = others;
                continue;
            }
            let whole;
            let mut batch = batch;
            if !left_out.is_empty() {
                whole = self.without_homeless(batch, left_out);
                batch = &whole;
            }
            if batch.steps.is_empty() {
                rest = &rest[1..];
                continue;
            }
            let mut turn = None;
            if batch.drains() && absence.is_none() {
                // Nothing is waited for any more once a place is held: who holds one holds up nobody but its pool.
                self.board.wait(self.plan, &needs(rest), Begun::No).await?;
                *absence = Some(self.leave(batch).await?);
            } else if touches_control_plane(self.plan, batch) && absence.is_none() {
                self.board.wait(self.plan, &needs(rest), Begun::No).await?;
                turn = self.board.turn().await?;
                self.spare().await?;
            }
            let begun = if absence.is_some() { Begun::Drained } else { Begun::No };
            *number += 1;
            self.enact(batch, *number, begun).await?;
            changed += batch.steps.len();
            drop(turn);
            rest = &rest[1..];
        }
        Ok(changed)
    }

    /// Leaves out what none of its nodes came in for: waiting for an engine that has nowhere to run would take its whole
    /// deadline.
    fn without_homeless(&self, batch: &Batch, left_out: &mut BTreeSet<ResourceId>) -> Batch {
        let homeless = |s: &Step| {
            self.homes.get(&s.resource).is_some_and(|homes| homes.iter().all(|home| left_out.contains(home)))
        };
        let (out, steps): (Vec<Step>, Vec<Step>) = batch.steps.iter().cloned().partition(homeless);
        for step in out {
            self.board.events.emit(Event::Warning {
                target: Some(self.plan.target.to_string()),
                message: format!("{} is left out: no host that it could run on came in", step.what),
            });
            left_out.insert(step.resource);
        }
        Batch { target: batch.target.clone(), steps }
    }

    /// Carries out one batch, once what it needs is done.
    async fn enact(&self, batch: &Batch, number: usize, begun: Begun) -> Result<(), Failure> {
        let (board, id) = (self.board, &self.plan.target);
        let lates = board.wait(self.plan, &needs(std::slice::from_ref(batch)), begun).await?;
        let note = match &batch.steps[..] {
            [one] => one.what.clone(),
            [first, others @ ..] => format!("{} and {} more", first.what, others.len()),
            [] => String::new(),
        };
        board.record(Transition::Started, id, number, &note);
        match self.target.enact(&batch.steps, &lates).await {
            Ok(lates) => {
                board.record(Transition::Done, id, number, "");
                board.succeed(batch, lates);
                Ok(())
            }
            Err(failure) => {
                board.record(Transition::Failed, id, number, &failure.message);
                Err(failure)
            }
        }
    }

    /// Brings one node to what is wanted; `false` if its host failed, so that it is left out.
    async fn node(&self, batch: &Batch, number: usize) -> Result<bool, Failure> {
        match self.enact(batch, number, Begun::No).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.kind == FailureKind::Blocked => {
                let what = batch.steps.first().map_or("", |s| s.what.as_str());
                self.board.events.emit(Event::Warning {
                    target: Some(self.plan.target.to_string()),
                    message: format!("{what} is left out: {}", failure.message),
                });
                self.board.leave_out(batch, &failure);
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Waits until etcd can spare this controller.
    async fn spare(&self) -> Result<(), Failure> {
        match (&self.board.cluster, self.plan.target.host()) {
            (Some(cluster), Some(host)) => self.board.unless_stopped(cluster.spare(host)).await,
            _ => Ok(()),
        }
    }

    /// Takes the host's node out of service: a place in its pool, etcd's leave if it is a controller, then the drain. If
    /// it comes to nothing the node is given back, as nothing was done to its host.
    async fn leave(&self, batch: &Batch) -> Result<Absence, Failure> {
        let (board, id) = (self.board, &self.plan.target);
        let missing = || {
            Failure::new(
                FailureKind::Step,
                "E-NO-CLUSTER",
                "it has to be drained, and no controller can be asked",
            )
            .hint("provision status shows the controllers")
        };
        let (Some(cluster), Some(node)) = (&board.cluster, id.host()) else { return Err(missing()) };
        let place = board.place(self.plan).await?;
        let mut turn = None;
        if touches_control_plane(self.plan, batch) {
            turn = board.turn().await?;
            self.spare().await?;
        }
        board.record(Transition::Draining, id, 0, node.as_str());
        board.waiting(id, format!("draining node {node}"));
        match board.unless_stopped(cluster.drain(node, board.patience(self.plan))).await {
            Ok(()) => {
                board.record(Transition::Drained, id, 0, "");
                Ok(Absence { node: node.clone(), place, _turn: turn })
            }
            Err(mut failure) => {
                board.record(Transition::Failed, id, 0, &failure.message);
                match cluster.give_back(node).await {
                    Ok(()) => board.record(Transition::Uncordoned, id, 0, "nothing was done to its host"),
                    Err(why) => failure.tail.push(format!("node {node} stays cordoned: {}", why.message)),
                }
                Err(failure)
            }
        }
    }

    /// Brings the node back into service, now that its host was verified.
    async fn back(&self, absence: &mut Option<Absence>) -> Result<(), Failure> {
        let (Some(out), Some(cluster)) = (absence.as_ref(), &self.board.cluster) else { return Ok(()) };
        self.board.waiting(&self.plan.target, format!("node {} comes back into service", out.node));
        cluster.uncordon(&out.node).await?;
        self.board.record(Transition::Uncordoned, &self.plan.target, 0, "");
        *absence = None;
        Ok(())
    }
}

/// Returns which nodes could carry engines, and with them the questions to their models.
pub(super) fn homes(inventory: &Inventory) -> Homes {
    let of = |model: &str| -> BTreeSet<ResourceId> {
        let pool = inventory.models.get(model).map(|m| &m.pool);
        let hosts = pool.into_iter().flat_map(|p| inventory.hosts_of(p));
        hosts.map(|h| ResourceId::new(format!("node/{}", h.name))).collect()
    };
    let engines = inventory.models.keys().map(|m| (format!("Deployment/models/{m}"), of(m)));
    let chats = inventory.tenants.values().flat_map(|tenant| {
        tenant.routes.iter().map(|(served, to)| {
            let homes = to.keys().flat_map(|model| of(model)).collect();
            (format!("chat/{}/{served}", tenant.name), homes)
        })
    });
    let all = engines.chain(chats).filter(|(_, homes): &(String, BTreeSet<ResourceId>)| !homes.is_empty());
    all.map(|(id, homes)| (ResourceId::new(id), homes)).collect()
}

/// Returns what the cluster is looked at after: the ends of all hosts that this run has to do with.
pub(super) fn ends_of_hosts(work: &[TargetPlan]) -> BTreeSet<StepId> {
    let hosts = work.iter().filter(|t| t.target != TargetId::Cluster);
    hosts.map(|t| verified(&t.target)).collect()
}
