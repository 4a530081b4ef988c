//! From observations to steps and their order.

use super::impact::{Past, impact};
use super::model::{FORMAT, Impact, Plan, TargetPlan};
use super::schedule::batches;
use super::{api_keys, ports};
use crate::catalog::K0sStep;
use crate::executor;
use crate::inventory::{Host, HostState, Inventory};
use crate::k0s::{self, CONTROLLER_UNIT, has_joined, may_have_joined};
use crate::state::{
    BarePods, Change, Ensure, Failure, FieldDiff, Hazard, HostKind, HostName, JoinRole, Managed, Observation,
    Observed, Origin, OutOfService, Resource, ResourceId, Spec, Step, StepId, StepOutput, TargetId, Verb,
    Work,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The input of a plan.
pub struct PlanInput<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// Digest of the lock file.
    pub lock_digest: String,
    /// It is made against the lab.
    pub lab: bool,
    /// What was observed, per target.
    pub observed: Vec<(TargetId, Result<Observed, Failure>)>,
    /// The cluster's nodes; if unknown, `None`, and hosts report themselves whether they joined.
    pub nodes: Option<BTreeSet<HostName>>,
    /// Nodes that take no pods already: they count for the limits of their pools.
    pub out_of_service: OutOfService,
    /// Pods that are lost when the nodes that they run on are drained.
    pub bare_pods: BarePods,
    /// What steps took in earlier runs.
    pub past: Past,
}

/// Finalises a host's hazards. Only a node is drained, before every reboot; only one of several controllers endangers the
/// quorum.
fn settle_hazards(steps: &mut [Step], is_node: bool, is_member: bool) {
    for step in steps {
        let reboots = step.hazards.contains(&Hazard::Reboot);
        let drains = is_node && (reboots || step.hazards.contains(&Hazard::Drain));
        let stops = |h: &Hazard| matches!(h, Hazard::Restart(unit) if unit == CONTROLLER_UNIT);
        let quorum = is_member && (reboots || step.hazards.iter().any(stops));
        step.hazards.retain(|h| !matches!(h, Hazard::Drain | Hazard::Quorum));
        step.hazards.extend(drains.then_some(Hazard::Drain));
        step.hazards.extend(quorum.then_some(Hazard::Quorum));
    }
}

/// Adds the pods that draining for a step loses.
fn lose_pods(step: &mut Step, pods: Option<&BTreeSet<String>>) {
    let drains = |h: &Hazard| matches!(h, Hazard::Drain | Hazard::ForceDelete(_));
    if step.hazards.iter().any(drains) {
        step.hazards.extend(pods.into_iter().flatten().map(|pod| Hazard::lost_pod(pod)));
    }
}

/// Returns the nodes that observed targets would be drained of.
pub fn nodes_to_drain(
    observed: &[(TargetId, Result<Observed, Failure>)],
    nodes: &BTreeSet<HostName>,
) -> BTreeSet<HostName> {
    let drains = |h: &Hazard| matches!(h, Hazard::Drain | Hazard::Reboot | Hazard::ForceDelete(_));
    let leaving = observed.iter().filter_map(|(_, seen)| seen.as_ref().ok()).flat_map(|seen| {
        let (steps, _) = steps_of(seen);
        let host = seen.target.host().cloned();
        let drained = steps.into_iter().filter(|s| s.hazards.iter().any(drains));
        drained.filter_map(move |s| s.resource.node().cloned().or(host.clone())).collect::<Vec<_>>()
    });
    leaving.filter(|host| nodes.contains(host)).collect()
}

/// Plans a target again inside a run, from a fresh observation and without `left_out`.
pub fn again(observed: &Observed, plan: &TargetPlan, left_out: &BTreeSet<ResourceId>) -> TargetPlan {
    let (mut steps, _) = steps_of(observed);
    steps.retain(|s| !left_out.contains(&s.resource) && !plan.left_out.contains(&s.resource));
    if observed.target != TargetId::Cluster {
        settle_hazards(&mut steps, plan.is_node, plan.is_member);
    }
    TargetPlan { batches: batches(&steps, plan.is_member), steps, ..plan.clone() }
}

/// Compares one resource of any target.
fn diff(resource: &Resource, seen: Option<&Observation>) -> Option<Change> {
    match &resource.spec {
        Spec::Object(_) | Spec::Node(_) | Spec::JoinToken(_) | Spec::Chat(_) => {
            let verb = if matches!(resource.spec, Spec::Chat(_)) { Verb::Run } else { Verb::Create };
            match seen? {
                Observation::Absent => Some(Change { verb, fields: Vec::new(), text: None }),
                Observation::Present(seen) => {
                    let wanted = seen.wanted.as_ref()?;
                    let names: BTreeSet<&String> = wanted.keys().chain(seen.fields.keys()).collect();
                    let fields: Vec<FieldDiff> = names
                        .into_iter()
                        .filter(|name| wanted.get(*name) != seen.fields.get(*name))
                        .map(|name| FieldDiff {
                            name: name.clone(),
                            from: seen.fields.get(name).cloned(),
                            to: wanted.get(name).cloned(),
                        })
                        .collect();
                    (!fields.is_empty()).then_some(Change { verb: Verb::Update, fields, text: None })
                }
                Observation::Unknown(_) | Observation::Deferred(_) => None,
            }
        }
        _ => executor::diff(resource, seen?),
    }
}

/// Returns what the difference of a resource comes from. A host has recorded what was applied to it; of the cluster only what
/// others have set is known.
fn origin(
    resource: &Resource,
    seen: Option<&Observation>,
    managed: Option<&Managed>,
    has_records: bool,
) -> Option<Origin> {
    match (&resource.spec, seen?) {
        (_, Observation::Unknown(_) | Observation::Deferred(_)) => None,
        (Spec::JoinToken(_), _) => Some(Origin::Inventory),
        (Spec::Object(_) | Spec::Node(_) | Spec::Chat(_), Observation::Absent) => None,
        (Spec::Object(_) | Spec::Node(_) | Spec::Chat(_), Observation::Present(seen)) => {
            /// What becomes of what is wanted: nobody sets them.
            const STATE: [&str; 3] = ["ready", "cordoned", "answers"];
            let wanted = seen.wanted.iter().flatten();
            let mut differ = wanted.filter(|(name, to)| seen.fields.get(*name) != Some(to));
            match differ.all(|(name, _)| STATE.contains(&name.as_str())) {
                true => Some(Origin::State),
                false => (!seen.changed_by.is_empty()).then_some(Origin::Drift),
            }
        }
        (spec, Observation::Absent | Observation::Present(_)) => match managed {
            Some(managed) if managed.hash == Managed::hash_of(spec) => Some(Origin::Drift),
            Some(_) => Some(Origin::Inventory),
            None if has_records => None,
            None => Some(Origin::Inventory),
        },
    }
}

/// Returns a digest of what is wanted; secrets are not part of it.
fn digest(spec: &Spec) -> String {
    let text = serde_json::to_vec(spec).unwrap_or_default();
    Sha256::digest(text).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Returns the packages that steps remove.
fn packages_that_go(steps: &[Step]) -> BTreeSet<String> {
    let goes = |step: &&Step| match &step.work {
        Work::Make { resource, .. } => {
            matches!(&resource.spec, Spec::Package(package) if package.ensure == Ensure::Absent)
        }
        Work::Remove(_) => true,
        Work::ById => false,
    };
    let packages = steps.iter().filter(goes).filter_map(|step| match &step.resource {
        ResourceId::Host(HostKind::Package, name) => Some(name.clone()),
        _ => None,
    });
    packages.collect()
}

/// Returns the steps that bring a target in sync, and how many resources already are.
pub fn steps_of(observed: &Observed) -> (Vec<Step>, usize) {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_sync = 0;
    let managed: BTreeMap<&ResourceId, &Managed> =
        observed.facts.managed.iter().map(|m| (&m.id, m)).collect();
    for resource in &observed.desired {
        let seen = observed.seen.get(&resource.id);
        let changed =
            |ids: &[ResourceId]| steps.iter().find(|s| ids.contains(&s.resource)).map(|s| s.what.clone());
        let because = match &resource.spec {
            Spec::Command(command) => changed(&command.when_changed),
            Spec::Reboot(reboot) => changed(&reboot.when_changed),
            _ => None,
        };
        let deferred = match seen {
            Some(Observation::Deferred(why)) => Some(why.clone()),
            _ => None,
        };
        let change = match (diff(resource, seen), &deferred, &because) {
            (Some(change), _, _) => change,
            (None, Some(_), _) => Change { verb: Verb::Create, fields: Vec::new(), text: None },
            (None, None, Some(cause)) => Change {
                verb: Verb::Run,
                fields: vec![FieldDiff { name: "after".to_owned(), from: None, to: Some(cause.clone()) }],
                text: None,
            },
            (None, None, None) => {
                in_sync += usize::from(!matches!(seen, None | Some(Observation::Unknown(_))));
                continue;
            }
        };
        let mut step = Step::make(&observed.target, resource, change);
        step.digest = digest(&resource.spec);
        step.deferred = deferred;
        step.origin = origin(resource, seen, managed.get(&resource.id).copied(), !managed.is_empty());
        if let Some(Observation::Present(seen)) = seen {
            step.changed_by.clone_from(&seen.changed_by);
        }
        if let Work::Make { found, .. } = &mut step.work {
            *found = match managed.get(&resource.id) {
                Some(known) => known.adopted,
                None => step.change.verb == Verb::Update,
            };
        }
        steps.push(step);
    }
    // What is about to be made is recorded before, and a run that fails or is killed ends there: of the newest record it is not known
    // whether it was ever so, while something else has yet to be applied.
    let unapplied = steps.iter().any(|step| step.origin != Some(Origin::Drift));
    let newest = observed.facts.managed.last().map(|managed| &managed.id).filter(|_| unapplied);
    for step in steps.iter_mut().filter(|step| Some(&step.resource) == newest) {
        step.origin = None;
    }
    // Removals of resources that are no longer wanted come last, newest first.
    for orphan in observed.orphans.iter().rev() {
        let mut step = Step::remove(&observed.target, orphan);
        let why = match orphan.id {
            ResourceId::Node(_) => "its host is retired: drain, then delete",
            ResourceId::EtcdMember(_) => "its host is retired",
            _ => "no longer in the inventory",
        };
        step.why = Some(why.to_owned());
        steps.push(step);
    }
    let gone = Arc::new(packages_that_go(&steps));
    for step in &mut steps {
        if let Work::Make { may_remove, .. } = &mut step.work {
            may_remove.clone_from(&gone);
        }
    }
    (steps, in_sync)
}

/// Returns the resources of a target in an unknown state: `unit/x: timed out`.
pub fn unknown(observed: &Observed) -> Vec<String> {
    observed
        .desired
        .iter()
        .filter_map(|r| match observed.seen.get(&r.id) {
            Some(Observation::Unknown(why)) => Some(format!("{}: {why}", r.id)),
            None => Some(format!("{}: no result", r.id)),
            _ => None,
        })
        .collect()
}

/// The command that starts k0s as it is wanted.
fn started() -> ResourceId {
    ResourceId::host(HostKind::Command, k0s::STARTED)
}

/// Returns whether a worker has joined, and its node was deleted: its kubelet registers again only when it starts.
fn lost_its_node(
    inventory: &Inventory,
    host: &Host,
    observed: &Observed,
    nodes: &BTreeSet<HostName>,
) -> bool {
    let works =
        inventory.pool_of(host).role.is_worker() && observed.desired.iter().any(|r| r.id == started());
    works && has_joined(&observed.facts) && !nodes.is_empty() && !nodes.contains(&host.name)
}

/// Returns whether a step changes k0s itself.
fn is_upgrade(step: &Step) -> bool {
    let binary = ResourceId::host(HostKind::Download, k0s::BINARY);
    step.change.verb == Verb::Update && step.resource == binary
}

/// Makes a plan.
pub fn build(input: PlanInput<'_>) -> Plan {
    let inventory = input.inventory;
    let several = inventory.controllers().nth(1).is_some();
    let mut backup_first = false;
    let mut targets: Vec<TargetPlan> = input
        .observed
        .into_iter()
        .map(|(target, observed)| {
            let host = target.host().and_then(|h| inventory.hosts.get(h));
            let pool = host.map(|h| h.pool.to_string());
            match observed {
                Ok(mut observed) => {
                    if let (Some(host), Some(nodes)) = (host, &input.nodes)
                        && lost_its_node(inventory, host, &observed, nodes)
                    {
                        observed.seen.insert(started(), Observation::Absent);
                    }
                    let (mut steps, in_sync) = steps_of(&observed);
                    let (mut is_node, mut is_member) = (false, false);
                    if let Some(host) = host {
                        let (role, joined) = (inventory.pool_of(host).role, may_have_joined(&observed.facts));
                        // What the cluster has as a node is drained, whatever the inventory makes of its host now.
                        is_node = match &input.nodes {
                            Some(nodes) => nodes.contains(&host.name),
                            None => role.is_worker() && joined,
                        };
                        is_member = role.is_controller() && joined && several;
                        settle_hazards(&mut steps, is_node, is_member);
                        backup_first |= role.is_controller() && joined && steps.iter().any(is_upgrade);
                    }
                    for step in &mut steps {
                        let node = step.resource.node().or(target.host());
                        lose_pods(step, node.and_then(|n| input.bare_pods.get(n)));
                    }
                    let mut warnings = observed.warnings.clone();
                    let lost: BTreeSet<&str> =
                        steps.iter().flat_map(|s| &s.hazards).filter_map(Hazard::pod).collect();
                    warnings.extend(
                        lost.into_iter()
                            .map(|pod| format!("draining loses pod {pod}: no controller would recreate it")),
                    );
                    let moved = ports::observed(inventory, &observed);
                    warnings.extend(moved.iter().map(ToString::to_string));
                    warnings.extend(api_keys::pending(inventory, &steps));
                    TargetPlan {
                        target,
                        pool,
                        is_node,
                        is_member,
                        leaves: false,
                        steps,
                        batches: Vec::new(),
                        in_sync,
                        unobserved: None,
                        unknown: unknown(&observed),
                        warnings,
                        left_out: BTreeSet::new(),
                    }
                }
                Err(failure) => TargetPlan {
                    target,
                    pool,
                    is_node: false,
                    is_member: false,
                    leaves: false,
                    steps: Vec::new(),
                    batches: Vec::new(),
                    in_sync: 0,
                    unobserved: Some(failure),
                    unknown: Vec::new(),
                    warnings: Vec::new(),
                    left_out: BTreeSet::new(),
                },
            }
        })
        .collect();
    targets.sort_by(|a, b| a.target.cmp(&b.target));
    let given_back = link(inventory, &mut targets);
    let skipped = inventory
        .hosts
        .values()
        .filter(|h| h.state != HostState::Active)
        .map(|h| (h.name.clone(), h.reason.clone().unwrap_or_else(|| "no reason given".to_owned())))
        .collect();
    let mut plan = Plan {
        format: FORMAT,
        inventory: inventory.name.clone(),
        inventory_digest: inventory.digest.clone(),
        lock_digest: input.lock_digest,
        lab: input.lab,
        targets,
        skipped,
        out_of_service: OutOfService::default(),
        waves: BTreeMap::new(),
        backup_first: backup_first && inventory.cluster.backup.before_upgrade,
        delivery: None,
        impact: Impact::default(),
        policy: None,
        sources: None,
    };
    // They serve again before any other node leaves.
    plan.out_of_service = input.out_of_service;
    plan.out_of_service.nodes.retain(|host| !given_back.contains(host));
    plan.reschedule(inventory);
    plan.impact = impact(&plan, inventory, &input.past);
    plan
}

/// How far a controller is from serving; those that are furthest are changed first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It is a member, and its k0s does not run.
    Stopped,
    /// It is a member, and did not come up after its last start, or its etcd does not respond.
    Broken,
    /// Nothing is known to be wrong with it, or it has yet to join.
    Healthy,
}

/// Returns how far a controller is from serving.
fn standing(plan: &TargetPlan) -> Standing {
    let step = |kind, name: &str| {
        let id = ResourceId::host(kind, name);
        plan.steps.iter().find(|s| s.resource == id)
    };
    let stopped = step(HostKind::Unit, CONTROLLER_UNIT).is_some_and(|s| {
        s.change.fields.iter().any(|f| f.name == "active" && f.from.as_deref() != Some("yes"))
    });
    let restarts = step(HostKind::Command, k0s::STARTED).is_some();
    match () {
        () if plan.is_member && stopped => Standing::Stopped,
        () if plan.is_member && step(HostKind::Command, k0s::READY).is_some() && !restarts => {
            Standing::Broken
        }
        () => Standing::Healthy,
    }
}

/// Returns the step that replaces the k0s of a host, and the versions before and after, if they are known.
fn replaces_k0s(plan: &TargetPlan) -> Option<(&Step, Option<(&str, &str)>)> {
    let id = ResourceId::host(HostKind::Download, k0s::BINARY);
    let step = plan.steps.iter().find(|s| s.resource == id)?;
    let version = step.change.fields.iter().find(|f| f.name == "version");
    Some((step, version.and_then(|f| Some((f.from.as_deref()?, f.to.as_deref()?)))))
}

/// Adds dependencies across targets: on tokens, on the previous controller, of the cluster on its first controller, of nodes
/// on their hosts, of a worker's k0s on that of the controllers.
fn link(inventory: &Inventory, targets: &mut [TargetPlan]) -> BTreeSet<HostName> {
    let mut controllers: Vec<HostName> = inventory.controllers().map(|h| h.name.clone()).collect();
    let first = controllers.first().cloned();
    // One that is down is started before any other is touched: etcd cannot spare a second one.
    let by_host: BTreeMap<HostName, Standing> =
        targets.iter().filter_map(|t| Some((t.target.host()?.clone(), standing(t)))).collect();
    controllers.sort_by_key(|host| by_host.get(host).copied().unwrap_or(Standing::Healthy));
    let k0s_step = |plan: &TargetPlan, last: bool| -> Option<StepId> {
        let mut steps = plan.steps.iter().filter(|s| s.role == "k0s");
        if last { steps.next_back().map(|s| s.id.clone()) } else { steps.next().map(|s| s.id.clone()) }
    };
    let of = |targets: &[TargetPlan], host: &HostName, last: bool| {
        targets.iter().find(|t| t.target.host() == Some(host)).and_then(|t| k0s_step(t, last))
    };
    // A first controller that joins waits for a token of the cluster, not the other way round.
    let joins = |host: &HostName| {
        let of_first = targets.iter().filter(|t| t.target.host() == Some(host)).flat_map(|t| &t.steps);
        of_first.flat_map(|s| &s.inputs).any(|input| *input == StepOutput::JoinToken(JoinRole::Controller))
    };
    let first_ready = first.filter(|host| !joins(host)).and_then(|host| of(targets, &host, true));
    let mut previous: Option<StepId> = None;
    for host in &controllers {
        let first = of(targets, host, false);
        if let (Some(first), Some(before)) = (first, previous.clone()) {
            add_need(targets, &first, before);
        }
        if let Some(last) = of(targets, host, true) {
            previous = Some(last);
        }
    }
    // A kubelet must not be of a newer minor than any API server, whichever is done first.
    let upgraded: Vec<StepId> = targets
        .iter()
        .filter(|t| t.target.host().is_some_and(|h| controllers.contains(h)))
        .filter(|t| replaces_k0s(t).is_some_and(|(step, _)| step.change.verb == Verb::Update))
        .filter_map(|t| k0s_step(t, true))
        .collect();
    let unseen: Vec<StepId> = targets
        .iter()
        .filter(|t| t.unobserved.is_some() && t.target.host().is_some_and(|h| controllers.contains(h)))
        .map(|t| StepId::Verified(t.target.clone()))
        .collect();
    for worker in targets.iter_mut().filter(|t| t.target.host().is_some_and(|h| !controllers.contains(h))) {
        let Some((step, versions)) = replaces_k0s(worker) else { continue };
        let new_minor = versions.is_none_or(|(from, to)| !K0sStep::same_minor(from, to));
        let id = step.id.clone();
        let needs = upgraded.iter().chain(unseen.iter().filter(|_| new_minor && worker.is_node)).cloned();
        let needs: Vec<StepId> = needs.collect();
        if let Some(step) = worker.steps.iter_mut().find(|s| s.id == id) {
            step.needs.extend(needs);
        }
    }
    // A host without steps is already in sync.
    let busy: BTreeSet<HostName> =
        targets.iter().filter(|t| t.has_work()).filter_map(|t| t.target.host().cloned()).collect();
    let inputs: BTreeSet<StepOutput> =
        targets.iter().flat_map(|t| &t.steps).flat_map(|s| &s.inputs).copied().collect();
    let mut given_back = BTreeMap::new();
    if let Some(cluster) = targets.iter_mut().find(|t| t.target == TargetId::Cluster) {
        // A run that was cut short left nodes without pods: what waits for its own may have room nowhere else.
        let at_once = |step: &Step| {
            step.change.uncordons() && step.resource.node().is_some_and(|host| !busy.contains(host))
        };
        cluster.steps.sort_by_key(|step| !at_once(step));
        let back = cluster.steps.iter().filter(|step| at_once(step));
        given_back = back.filter_map(|s| Some((s.resource.node()?.clone(), s.id.clone()))).collect();
        for output in inputs.into_iter().rev() {
            let resource = output.resource();
            let step = Step {
                id: TargetId::Cluster.step(&resource),
                target: TargetId::Cluster,
                resource,
                role: "k0s".to_owned(),
                what: format!("join {}, short-lived", output.text()),
                why: None,
                change: Change { verb: Verb::Run, fields: Vec::new(), text: None },
                origin: Some(Origin::Inventory),
                changed_by: Vec::new(),
                digest: String::new(),
                hazards: Vec::new(),
                needs: Vec::new(),
                inputs: Vec::new(),
                deferred: None,
                deadline_s: 60,
                work: Work::ById,
            };
            cluster.steps.insert(0, step);
        }
        for step in &mut cluster.steps {
            if let Some(ready) = &first_ready {
                step.needs.push(ready.clone());
            }
            if let Some(host) = step.resource.node().filter(|host| busy.contains(*host)) {
                step.needs.push(StepId::Verified(TargetId::Host(host.clone())));
            }
        }
    }
    // Nodes that are given back free their pool's places for others, which wait for that.
    for plan in targets.iter_mut().filter(|plan| plan.drains()) {
        let pool = plan.pool.clone();
        let of_pool = |host: &HostName| inventory.hosts.get(host).map(|h| h.pool.to_string()) == pool;
        let back: Vec<StepId> =
            given_back.iter().filter(|(host, _)| of_pool(host)).map(|(_, id)| id.clone()).collect();
        if let Some(step) = plan.steps.iter_mut().find(|step| step.hazards.contains(&Hazard::Drain)) {
            step.needs.extend(back);
        }
    }
    for plan in targets.iter_mut() {
        for step in &mut plan.steps {
            let made = step.inputs.iter().map(|output| TargetId::Cluster.step(&output.resource()));
            step.needs.extend(made);
        }
    }
    given_back.into_keys().collect()
}

fn add_need(targets: &mut [TargetPlan], step: &StepId, need: StepId) {
    if let Some(step) = targets.iter_mut().flat_map(|t| &mut t.steps).find(|s| &s.id == step) {
        step.needs.push(need);
    }
}
