//! The run of one target: its batches in order, out of service and back where needed, and verification by a fresh
//! observation.

use super::journal::Transition;
use super::state::{Begun, RunState};
use crate::event::Event;
use crate::inventory::Inventory;
use crate::plan::{Batch, TargetPlan, again, unknown};
use crate::state::{
    Cluster, Failure, FailureKind, Hazard, HostName, NODE_DEAD, ObjectId, ResourceId, Step, StepOutputs,
    Target, TargetId,
};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// How often a target is planned again for steps that could not be previewed.
const MOST_ROUNDS: usize = 3;

/// The run of one target.
pub(super) struct TargetRun<'a> {
    pub state: &'a RunState,
    pub target: &'a dyn Target,
    pub plan: &'a TargetPlan,
    /// Targets that must have ended before this one is verified: for the cluster, all hosts.
    pub after: &'a BTreeSet<TargetId>,
    /// Which nodes can run a resource of the cluster; a resource that is not listed can run anywhere.
    pub placements: &'a Placements,
}

/// The nodes that can run a resource, by resource.
pub(super) type Placements = BTreeMap<ResourceId, BTreeSet<ResourceId>>;

impl TargetRun<'_> {
    /// Brings the target in sync and verifies it. Returns the number of steps carried out.
    pub(super) async fn run(&self) -> Result<usize, Failure> {
        self.state.may_ever(self.plan)?;
        let mut begun = Begun::No;
        let result = self.rounds(&mut begun).await;
        if begun == Begun::Drained {
            self.state.events.emit(Event::Warning {
                target: Some(self.plan.target.to_string()),
                message: format!(
                    "node {} stays cordoned until an apply succeeds on its host",
                    self.plan.target
                ),
            });
        }
        result
    }

    async fn rounds(&self, begun: &mut Begun) -> Result<usize, Failure> {
        let (state, id) = (self.state, &self.plan.target);
        let approved: BTreeSet<Hazard> = self.plan.steps.iter().flat_map(|s| s.hazards.clone()).collect();
        let mut current = self.plan.clone();
        let (mut changed, mut number) = (0, 0);
        let mut left_out = BTreeSet::new();
        for round in 0..MOST_ROUNDS {
            changed += self.batches(&current, &mut number, begun, &mut left_out).await?;
            // The cluster is observed after all hosts have finished changing it.
            let failed = state.ended(self.after).await;
            left_out.extend(failed.iter().filter_map(|t| t.host().cloned().map(ResourceId::Node)));
            let observed = self.target.observe().await?;
            // An unknown state is not "in sync".
            if let Some(what) = unknown(&observed).first() {
                return Err(Failure::new(
                    FailureKind::Unobserved,
                    "E-UNKNOWN",
                    format!("cannot verify {what}"),
                )
                .hint("Run `provision plan --limit HOST` to check again"));
            }
            current = again(&observed, self.plan, &left_out);
            if current.steps.is_empty() {
                state.record(Transition::Verified, id, round + 1, "");
                self.back(begun).await?;
                return Ok(changed);
            }
            let hazards = current.steps.iter().flat_map(|s| &s.hazards);
            if let Some(hazard) = hazards.into_iter().find(|h| !approved.contains(*h)) {
                return Err(Failure::new(
                    FailureKind::Refused,
                    "E-HAZARD",
                    format!("a deferred step needs {hazard}, which was not approved"),
                )
                .hint("Plan again to review it"));
            }
        }
        let left: Vec<&str> = current.steps.iter().map(|s| s.what.as_str()).take(5).collect();
        Err(Failure::new(
            FailureKind::Step,
            "E-NOT-CONVERGED",
            format!("not converged after {MOST_ROUNDS} rounds: {}", left.join(", ")),
        )
        .hint("Run `provision plan --limit HOST` to see the differences"))
    }

    /// Carries out the batches of one round.
    async fn batches(
        &self,
        current: &TargetPlan,
        number: &mut usize,
        begun: &mut Begun,
        left_out: &mut BTreeSet<ResourceId>,
    ) -> Result<usize, Failure> {
        let mut changed = 0;
        let mut rest = current.batches.as_slice();
        while let Some(batch) = rest.first() {
            // Nodes wait for their hosts, each for its own; a failed host takes its own node with it, not the cluster.
            let is_node = |b: &&Batch| matches!(current.steps_of(b), [one] if self.brings_node(one));
            let nodes = rest.iter().take_while(is_node).count();
            if nodes > 0 {
                let (together, others) = rest.split_at(nodes);
                let first = *number + 1;
                *number += nodes;
                let ways = together.iter().enumerate().map(|(n, b)| self.node(current, b, first + n));
                for (batch, way) in together.iter().zip(join_all(ways).await) {
                    if way? {
                        changed += 1;
                    } else {
                        left_out.extend(current.steps_of(batch).iter().map(|s| s.resource.clone()));
                    }
                }
                rest = others;
                continue;
            }
            rest = &rest[1..];
            let steps = self.without_unplaceable(current.steps_of(batch), left_out);
            if steps.is_empty() {
                continue;
            }
            *number += 1;
            self.batch(current, batch, &steps, *number, begun).await?;
            changed += steps.len();
        }
        Ok(changed)
    }

    fn brings_node(&self, step: &Step) -> bool {
        self.plan.target == TargetId::Cluster && step.resource.node().is_some()
    }

    /// Carries out one batch, once it may begin; a node leaves service for it.
    async fn batch(
        &self,
        current: &TargetPlan,
        batch: &Batch,
        steps: &[Step],
        number: usize,
        begun: &mut Begun,
    ) -> Result<(), Failure> {
        let state = self.state;
        let outputs = {
            let begin = state.begin(current, batch, *begun);
            tokio::pin!(begin);
            loop {
                tokio::select! {
                    outputs = &mut begin => break outputs?,
                    () = tokio::time::sleep(state.renew_locks) => {
                        // A host that cannot be reached now says so when it is its turn.
                        let _ = self.target.renew_lock().await;
                    }
                }
            }
        };
        if *begun == Begun::No && (batch.drains || batch.control_plane) {
            if let Err(failure) = self.prepare(batch).await {
                state.back(&current.target);
                return Err(failure);
            }
            if batch.drains {
                *begun = Begun::Drained;
            }
        }
        let ended = self.enact(steps, &outputs, number).await;
        state.batch_ended(&current.target);
        ended
    }

    /// Leaves out resources whose nodes all failed to join: waiting for an engine that has nowhere to run would take its whole
    /// deadline.
    fn without_unplaceable(&self, steps: &[Step], left_out: &mut BTreeSet<ResourceId>) -> Vec<Step> {
        let unplaceable = |s: &Step| {
            self.placements
                .get(&s.resource)
                .is_some_and(|nodes| nodes.iter().all(|node| left_out.contains(node)))
        };
        let (out, steps): (Vec<Step>, Vec<Step>) = steps.iter().cloned().partition(unplaceable);
        for step in out {
            self.state.events.emit(Event::Warning {
                target: Some(self.plan.target.to_string()),
                message: format!("{} is skipped: none of the hosts that it can run on has joined", step.what),
            });
            left_out.insert(step.resource);
        }
        steps
    }

    /// Has the target carry out steps.
    async fn enact(&self, steps: &[Step], outputs: &StepOutputs, number: usize) -> Result<(), Failure> {
        let (state, id) = (self.state, &self.plan.target);
        let note = match steps {
            [one] => one.what.clone(),
            [first, others @ ..] => format!("{} and {} more", first.what, others.len()),
            [] => String::new(),
        };
        state.record(Transition::Started, id, number, &note);
        let enacted = {
            let mut cancel = state.cancel.clone();
            let enact = self.target.enact(steps, outputs);
            tokio::pin!(enact);
            tokio::select! {
                ended = &mut enact => ended,
                () = cancel.reached(1) => {
                    self.target.stop();
                    enact.await
                }
            }
        };
        match enacted {
            Ok(outputs) => {
                state.record(Transition::Done, id, number, "");
                state.succeed(steps, outputs);
                Ok(())
            }
            Err(failure) => {
                state.record(Transition::Failed, id, number, &failure.message);
                Err(failure)
            }
        }
    }

    /// Brings one node in sync; `false` if its host failed, so that it is skipped.
    async fn node(&self, current: &TargetPlan, batch: &Batch, number: usize) -> Result<bool, Failure> {
        let steps = current.steps_of(batch);
        let ended = match self.state.begin(current, batch, Begun::No).await {
            Ok(outputs) => self.enact(steps, &outputs, number).await,
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(()) => Ok(true),
            Err(failure) if failure.kind == FailureKind::Blocked => {
                let what = steps.first().map_or("", |s| s.what.as_str());
                self.state.events.emit(Event::Warning {
                    target: Some(self.plan.target.to_string()),
                    message: format!("{what} is skipped: {}", failure.message),
                });
                self.state.leave_out(steps, &failure);
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Waits until etcd can spare this controller.
    async fn spare(&self) -> Result<(), Failure> {
        match (&self.state.cluster, self.plan.target.host()) {
            (Some(cluster), Some(host)) => self.state.unless_stopped(cluster.spare(host)).await,
            _ => Ok(()),
        }
    }

    /// Makes ready for a batch that has its places: waits until etcd can spare the controller, then drains the node. If it
    /// fails, the node is uncordoned, as nothing was changed on its host.
    async fn prepare(&self, batch: &Batch) -> Result<(), Failure> {
        let (state, id) = (self.state, &self.plan.target);
        if batch.control_plane {
            self.spare().await?;
        }
        if !batch.drains {
            return Ok(());
        }
        let missing = || {
            Failure::new(
                FailureKind::Step,
                "E-NO-CLUSTER",
                "it has to be drained, and no controller responds",
            )
            .hint("Check the controllers with `provision status`")
        };
        let (Some(cluster), Some(node)) = (&state.cluster, id.host()) else { return Err(missing()) };
        state.record(Transition::Draining, id, 0, node.as_str());
        let began = Instant::now();
        state.waiting(id, format!("draining node {node}"));
        let hazards = self.plan.steps.iter().flat_map(|s| &s.hazards);
        let may_lose = hazards.filter_map(|h| h.pod().map(str::to_owned)).collect();
        let drain = cluster.drain(node, state.patience(self.plan), &may_lose);
        let drained = match state.unless_stopped(drain).await {
            Err(dead) if dead.code == NODE_DEAD => self.stop_dead_node(cluster.as_ref(), node, &dead).await,
            drained => drained,
        };
        match drained {
            Ok(()) => {
                state.record(Transition::Drained, id, 0, "");
                state.events.emit(Event::Drained { target: id.to_string(), elapsed: began.elapsed() });
                Ok(())
            }
            Err(mut failure) => {
                state.record(Transition::Failed, id, 0, &failure.message);
                match cluster.give_back(node).await {
                    Ok(()) => state.record(Transition::Uncordoned, id, 0, "nothing was changed on its host"),
                    Err(why) => failure.tail.push(format!("node {node} stays cordoned: {}", why.message)),
                }
                Err(failure)
            }
        }
    }

    /// Ends the pods of a node whose kubelet does not answer, on its host, and then deletes them.
    async fn stop_dead_node(
        &self,
        cluster: &dyn Cluster,
        node: &HostName,
        dead: &Failure,
    ) -> Result<(), Failure> {
        let (state, id) = (self.state, &self.plan.target);
        state.events.emit(Event::Warning {
            target: Some(id.to_string()),
            message: format!("{}; k0s and the pods are stopped on the host", dead.message),
        });
        if self.plan.is_member {
            self.spare().await?;
        }
        self.target.stop_pods().await?;
        cluster.delete_pods(node).await
    }

    /// Brings the node back into service, now that its host was verified.
    async fn back(&self, begun: &mut Begun) -> Result<(), Failure> {
        let (state, id) = (self.state, &self.plan.target);
        let (Begun::Drained, Some(cluster), Some(node)) = (*begun, &state.cluster, id.host()) else {
            return Ok(());
        };
        let began = Instant::now();
        state.waiting(id, format!("waiting until k0s stays up on {node}"));
        state.unless_stopped(self.target.serves()).await?;
        state.waiting(id, format!("uncordoning node {node}"));
        cluster.uncordon(node).await?;
        state.record(Transition::Uncordoned, id, 0, "");
        state.events.emit(Event::InService { target: id.to_string(), elapsed: began.elapsed() });
        *begun = Begun::No;
        state.back(id);
        Ok(())
    }
}

/// Returns which nodes can run each engine, and with it the chat checks of its model.
pub(super) fn placements(inventory: &Inventory) -> Placements {
    let of = |model: &str| -> BTreeSet<ResourceId> {
        let pool = inventory.models.get(model).map(|m| &m.pool);
        let hosts = pool.into_iter().flat_map(|p| inventory.hosts_of(p));
        hosts.map(|h| ResourceId::Node(h.name.clone())).collect()
    };
    let engine = |model: &String| {
        let [group, kind, namespace, name] = ["apps", "Deployment", "models", model].map(str::to_owned);
        (ResourceId::Object(ObjectId { group, kind, namespace, name }), of(model))
    };
    let engines = inventory.models.keys().map(engine);
    let chats = inventory.tenants.values().flat_map(|tenant| {
        tenant.routes.iter().map(|(served, route)| {
            let nodes = route.to.keys().flat_map(|model| of(model)).collect();
            (ResourceId::Chat { tenant: tenant.name.to_string(), model: served.to_string() }, nodes)
        })
    });
    engines.chain(chats).filter(|(_, nodes): &(ResourceId, BTreeSet<ResourceId>)| !nodes.is_empty()).collect()
}

/// Returns the targets after which the cluster is observed: all hosts of this run.
pub(super) fn hosts_of(work: &[TargetPlan]) -> BTreeSet<TargetId> {
    work.iter().map(|t| &t.target).filter(|t| **t != TargetId::Cluster).cloned().collect()
}
