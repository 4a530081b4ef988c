//! From observations to steps and their order.

use super::outlook::{Outlook, Past, outlook};
use crate::executor;
use crate::inventory::{HostState, Inventory};
use crate::state::{
    Change, Failure, FieldDiff, Hazard, HostName, LateName, Observation, Observed, Resource, Spec, Step,
    StepId, TargetId, Verb,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that would change.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Plan {
    /// Version of this format.
    pub format: u32,
    /// The inventory's name.
    pub inventory: String,
    /// Its digest.
    pub inventory_digest: String,
    /// The lock file's digest.
    pub lock_digest: String,
    /// It was made against the lab.
    pub lab: bool,
    /// Per target; hosts by name, the cluster last.
    pub targets: Vec<TargetPlan>,
    /// Hosts that take no part, and why.
    pub skipped: BTreeMap<HostName, String>,
    /// What carrying it out would mean.
    #[serde(default)]
    pub outlook: Outlook,
}

/// The format that this version writes.
pub(super) const FORMAT: u32 = 1;

/// What would change on one target.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct TargetPlan {
    /// The target.
    pub target: TargetId,
    /// Its pool, for a host.
    pub pool: Option<String>,
    /// The host is a node of the cluster already, so what takes it out of service drains it first.
    #[serde(default)]
    pub is_node: bool,
    /// The host is one of several controllers already, so what stops it is a matter of etcd's quorum.
    #[serde(default)]
    pub is_member: bool,
    /// What would be done, in order.
    pub steps: Vec<Step>,
    /// Resources that are as wanted.
    pub in_sync: usize,
    /// It could not be observed.
    pub unobserved: Option<Failure>,
    /// Resources of which nothing could be told, and why: neither in sync nor to be changed.
    #[serde(default)]
    pub unknown: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What a plan is made from.
pub struct PlanInput<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// Digest of the lock file.
    pub lock_digest: String,
    /// It is made against the lab.
    pub lab: bool,
    /// What was observed, per target.
    pub observed: Vec<(TargetId, Result<Observed, Failure>)>,
    /// The cluster's nodes; `None` where they could not be asked for, and hosts tell themselves whether they joined.
    pub nodes: Option<BTreeSet<HostName>>,
    /// What steps took in earlier runs.
    pub past: Past,
}

/// The step that a host has once it was observed to be as wanted and, if it was drained, is back in service. No plan
/// holds it; steps on other targets wait for it.
pub fn verified(target: &TargetId) -> StepId {
    StepId::new(format!("{target}:verified"))
}

/// Whether k0s has come up on a host at some time: its role leaves this record then.
fn has_joined(observed: &Observed) -> bool {
    observed.facts.managed.iter().any(|m| m.id == "command/k0s-ready")
}

/// Settles what a host's hazards come to. Only a node is drained, and it is before every reboot; only a controller among
/// several puts a quorum at stake.
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

/// The unit of a controller's k0s.
const CONTROLLER_UNIT: &str = "k0scontroller.service";

/// Plans a target again inside a run, from a fresh observation.
pub fn again(observed: &Observed, plan: &TargetPlan) -> Vec<Step> {
    let (mut steps, _) = steps_of(observed);
    if observed.target != TargetId::Cluster {
        settle_hazards(&mut steps, plan.is_node, plan.is_member);
    }
    steps
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
                    let names = wanted.keys().chain(seen.fields.keys());
                    let mut fields: Vec<FieldDiff> = names
                        .filter(|name| wanted.get(*name) != seen.fields.get(*name))
                        .map(|name| FieldDiff {
                            name: name.clone(),
                            from: seen.fields.get(name).cloned(),
                            to: wanted.get(name).cloned(),
                        })
                        .collect();
                    fields.dedup();
                    (!fields.is_empty()).then_some(Change { verb: Verb::Update, fields, text: None })
                }
                Observation::Unknown(_) | Observation::Deferred(_) => None,
            }
        }
        _ => executor::diff(resource, seen?),
    }
}

/// Returns a resource as a plan calls it: `package nvidia-open-580`.
fn what(id: &str) -> String {
    id.replacen('/', " ", 1)
}

/// Returns the steps that would bring one target to what is wanted, and how many resources already are.
pub fn steps_of(observed: &Observed) -> (Vec<Step>, usize) {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_sync = 0;
    for resource in &observed.desired {
        let seen = observed.seen.get(&resource.id);
        let changed = |ids: &[crate::state::ResourceId]| {
            steps.iter().find(|s| ids.contains(&s.resource)).map(|s| s.what.clone())
        };
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
        let mut hazards = resource.hazards.clone();
        hazards.extend(resource.restarts.iter().map(|unit| Hazard::Restart(unit.clone())));
        steps.push(Step {
            id: observed.target.step(&resource.id),
            target: observed.target.clone(),
            resource: resource.id.clone(),
            role: resource.role.clone(),
            what: what(resource.id.as_str()),
            why: resource.why.clone(),
            change,
            hazards,
            needs: Vec::new(),
            late: resource.late.clone(),
            deferred,
            deadline_s: resource.deadline_s,
        });
    }
    // What nothing wants any more goes last, newest first.
    for orphan in observed.orphans.iter().rev() {
        let resource = crate::state::ResourceId::new(orphan.id.clone());
        let (why, hazards) = match orphan.kind.as_str() {
            "node" => ("its host is retired: drained, then deleted", vec![Hazard::Drain]),
            "etcd-member" => ("its host is retired", vec![Hazard::Quorum]),
            _ => ("no role wants it any more", Vec::new()),
        };
        steps.push(Step {
            id: observed.target.step(&resource),
            target: observed.target.clone(),
            what: what(&orphan.id),
            resource,
            role: "removed".to_owned(),
            why: Some(why.to_owned()),
            change: executor::removal(orphan),
            hazards,
            needs: Vec::new(),
            late: Vec::new(),
            deferred: None,
            deadline_s: crate::state::DEFAULT_DEADLINE_S,
        });
    }
    (steps, in_sync)
}

/// Returns what could not be told on a target, if anything: `unit/x: timed out`.
pub fn unknown(observed: &Observed) -> Vec<String> {
    observed
        .desired
        .iter()
        .filter_map(|r| match observed.seen.get(&r.id) {
            Some(Observation::Unknown(why)) => Some(format!("{}: {why}", r.id)),
            None => Some(format!("{}: no answer", r.id)),
            _ => None,
        })
        .collect()
}

/// Makes a plan.
pub fn build(input: PlanInput<'_>) -> Plan {
    let inventory = input.inventory;
    let several = inventory.controllers().nth(1).is_some();
    let mut targets: Vec<TargetPlan> = input
        .observed
        .into_iter()
        .map(|(target, observed)| {
            let host = target.host().and_then(|h| inventory.hosts.get(h));
            let pool = host.map(|h| h.pool.to_string());
            match observed {
                Ok(observed) => {
                    let (mut steps, in_sync) = steps_of(&observed);
                    let (mut is_node, mut is_member) = (false, false);
                    if let Some(host) = host {
                        let (role, joined) = (inventory.pool_of(host).role, has_joined(&observed));
                        let known = input.nodes.as_ref().map_or(joined, |nodes| nodes.contains(&host.name));
                        is_node = role.is_worker() && known;
                        is_member = role.is_controller() && joined && several;
                        settle_hazards(&mut steps, is_node, is_member);
                    }
                    TargetPlan {
                        target,
                        pool,
                        is_node,
                        is_member,
                        steps,
                        in_sync,
                        unobserved: None,
                        unknown: unknown(&observed),
                        warnings: observed.warnings.clone(),
                    }
                }
                Err(failure) => TargetPlan {
                    target,
                    pool,
                    is_node: false,
                    is_member: false,
                    steps: Vec::new(),
                    in_sync: 0,
                    unobserved: Some(failure),
                    unknown: Vec::new(),
                    warnings: Vec::new(),
                },
            }
        })
        .collect();
    targets.sort_by(|a, b| a.target.cmp(&b.target));
    link(inventory, &mut targets);
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
        outlook: Outlook::default(),
    };
    plan.outlook = outlook(&plan, inventory, &input.past);
    plan
}

/// Adds what orders steps across targets: tokens, controllers one by one, the cluster after its first controller, nodes
/// after their hosts.
fn link(inventory: &Inventory, targets: &mut [TargetPlan]) {
    let controllers: Vec<HostName> = inventory.controllers().map(|h| h.name.clone()).collect();
    let k0s = |plan: &TargetPlan, last: bool| -> Option<StepId> {
        let mut steps = plan.steps.iter().filter(|s| s.role == "k0s");
        if last { steps.next_back().map(|s| s.id.clone()) } else { steps.next().map(|s| s.id.clone()) }
    };
    let of = |targets: &[TargetPlan], host: &HostName, last: bool| {
        targets.iter().find(|t| t.target.host() == Some(host)).and_then(|t| k0s(t, last))
    };
    let first_ready = controllers.first().and_then(|host| of(targets, host, true));
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
    // A host that has nothing to do is as wanted already.
    let busy: BTreeSet<String> =
        targets.iter().filter(|t| t.has_work()).filter_map(|t| Some(t.target.host()?.to_string())).collect();
    let late: Vec<LateName> = targets.iter().flat_map(|t| &t.steps).flat_map(|s| &s.late).cloned().collect();
    if let Some(cluster) = targets.iter_mut().find(|t| t.target == TargetId::Cluster) {
        for name in ["token/controller", "token/worker"] {
            if late.iter().any(|l| l.as_str() == name) {
                let resource = crate::state::ResourceId::new(name);
                let step = Step {
                    id: TargetId::Cluster.step(&resource),
                    target: TargetId::Cluster,
                    resource,
                    role: "k0s".to_owned(),
                    what: format!("join {name}, short-lived"),
                    why: None,
                    change: Change { verb: Verb::Run, fields: Vec::new(), text: None },
                    hazards: Vec::new(),
                    needs: Vec::new(),
                    late: Vec::new(),
                    deferred: None,
                    deadline_s: 60,
                };
                cluster.steps.insert(0, step);
            }
        }
        for step in &mut cluster.steps {
            if let Some(ready) = &first_ready {
                step.needs.push(ready.clone());
            }
            if let Some(host) = step.resource.as_str().strip_prefix("node/")
                && busy.contains(host)
            {
                step.needs.push(verified(&TargetId::Host(HostName::new(host))));
            }
        }
    }
    for plan in targets.iter_mut() {
        for step in &mut plan.steps {
            for name in step.late.clone() {
                step.needs.push(StepId::new(format!("cluster:{name}")));
            }
        }
    }
}

fn add_need(targets: &mut [TargetPlan], step: &StepId, need: StepId) {
    if let Some(step) = targets.iter_mut().flat_map(|t| &mut t.steps).find(|s| &s.id == step) {
        step.needs.push(need);
    }
}

/// The longest run of steps of a target with no gate between them.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// Its target.
    pub target: TargetId,
    /// Its steps.
    pub steps: Vec<Step>,
}

impl Batch {
    /// Returns whether it takes its host out of service for a time.
    pub fn drains(&self) -> bool {
        self.steps.iter().any(|s| s.hazards.contains(&Hazard::Drain))
    }

    /// Returns whether it is the node of one host.
    pub fn is_node(&self) -> bool {
        matches!(&self.steps[..], [step] if is_node(step))
    }
}

fn is_node(step: &Step) -> bool {
    step.target == TargetId::Cluster && step.resource.as_str().starts_with("node/")
}

/// Splits a target's steps at gates: a step that needs what was not waited for yet, or takes a late value, begins a
/// batch; a reboot ends one. On the cluster a join token and a node are batches of their own, as hosts wait for the one
/// and a failed host leaves out the other; all else goes together, so that engines load side by side.
pub fn batches(plan: &TargetPlan) -> Vec<Batch> {
    let batch = |steps: &[Step]| Batch { target: plan.target.clone(), steps: steps.to_vec() };
    parts(plan).into_iter().map(batch).collect()
}

/// Returns the parts of a target's steps that are a batch each.
pub(super) fn parts(plan: &TargetPlan) -> Vec<&[Step]> {
    let mut cuts = Vec::new();
    let mut gate = true;
    let mut awaited: BTreeSet<&StepId> = BTreeSet::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let alone = is_node(step) || step.resource.as_str().starts_with("token/");
        let waits = step.needs.iter().any(|need| !awaited.contains(need));
        if gate || alone || waits || !step.late.is_empty() {
            cuts.push(index);
        }
        awaited.extend(&step.needs);
        gate = alone || step.hazards.contains(&Hazard::Reboot);
    }
    let ends = cuts.iter().skip(1).copied().chain([plan.steps.len()]);
    cuts.iter().zip(ends).map(|(from, to)| &plan.steps[*from..to]).collect()
}

impl TargetPlan {
    /// Returns whether a run has to do with it: steps, or something that could not be told.
    pub fn has_work(&self) -> bool {
        !self.steps.is_empty() || self.unobserved.is_some() || !self.unknown.is_empty()
    }

    /// Returns whether carrying it out takes a node out of service.
    pub fn drains(&self) -> bool {
        self.steps.iter().any(|s| s.hazards.contains(&Hazard::Drain))
    }
}

impl Plan {
    /// Returns the number of steps.
    pub fn steps(&self) -> usize {
        self.targets.iter().map(|t| t.steps.len()).sum()
    }

    /// Returns whether anything could not be observed: a whole target, or one of its resources.
    pub fn is_blind(&self) -> bool {
        self.targets.iter().any(|t| t.unobserved.is_some() || !t.unknown.is_empty())
    }

    /// Returns the hosts and cluster that could not be observed.
    pub fn unobserved(&self) -> impl Iterator<Item = (&TargetId, &Failure)> {
        self.targets.iter().filter_map(|t| Some((&t.target, t.unobserved.as_ref()?)))
    }
}
