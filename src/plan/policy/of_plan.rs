//! A plan as policies see it.

use super::super::kinds::{Kind, kinds};
use super::super::model::{Plan, PoolImpact, TargetPlan};
use super::facts::{
    CapacityFacts, ChangeFacts, ClusterPlanFacts, FieldFacts, HostPlanFacts, ObjectFacts, PlanFacts,
    PoolPlanFacts,
};
use super::of_inventory::{percent, word};
use crate::inventory::Inventory;
use crate::state::{Hazard, ResourceId, Step, TargetId};
use std::collections::BTreeMap;

fn has(target: &TargetPlan, hazard: &Hazard) -> bool {
    target.steps.iter().any(|step| step.hazards.contains(hazard))
}

/// Returns what of a target's hazards has a name.
fn named<'a>(target: &'a TargetPlan, name: impl Fn(&'a Hazard) -> Option<&'a String>) -> Vec<String> {
    let mut found: Vec<String> =
        target.steps.iter().flat_map(|step| &step.hazards).filter_map(name).cloned().collect();
    found.sort();
    found.dedup();
    found
}

fn data_loss(target: &TargetPlan) -> Vec<String> {
    named(target, |hazard| match hazard {
        Hazard::DataLoss(what) => Some(what),
        _ => None,
    })
}

fn host(target: &TargetPlan, name: &str, inventory: &Inventory) -> HostPlanFacts {
    let pool = target.pool.clone().unwrap_or_default();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for step in &target.steps {
        *kinds.entry(step.resource.kind()).or_default() += 1;
    }
    HostPlanFacts {
        name: name.to_owned(),
        controller: inventory.pools.get(pool.as_str()).is_some_and(|pool| pool.role.is_controller()),
        pool,
        node: target.is_node,
        leaves: target.leaves,
        steps: target.steps.len(),
        kinds,
        drains: target.drains(),
        reboots: has(target, &Hazard::Reboot),
        restarts: named(target, |hazard| match hazard {
            Hazard::Restart(unit) => Some(unit),
            _ => None,
        }),
        data_loss: data_loss(target),
        quorum: has(target, &Hazard::Quorum),
        force_delete: target
            .steps
            .iter()
            .any(|s| s.hazards.iter().any(|h| matches!(h, Hazard::ForceDelete(_)))),
    }
}

fn object(step: &Step) -> Option<ObjectFacts> {
    let verb = word(&step.change.verb);
    let of = |kind: &str, namespace: &str, name: &str| ObjectFacts {
        verb: verb.clone(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    match &step.resource {
        ResourceId::Object(id) => Some(of(&id.kind, &id.namespace, &id.name)),
        ResourceId::Node(name) => Some(of("Node", "", name.as_str())),
        _ => None,
    }
}

fn cluster(target: &TargetPlan) -> ClusterPlanFacts {
    ClusterPlanFacts {
        steps: target.steps.len(),
        objects: target.steps.iter().filter_map(object).collect(),
        data_loss: data_loss(target),
        quorum: has(target, &Hazard::Quorum),
    }
}

fn change(pool: &str, kind: &Kind<'_>) -> ChangeFacts {
    let fields = kind.change.fields.iter().map(|field| FieldFacts {
        name: field.name.clone(),
        from: field.from.clone(),
        to: field.to.clone(),
    });
    ChangeFacts {
        pool: pool.to_owned(),
        what: kind.step.what.clone(),
        kind: kind.step.resource.kind(),
        verb: word(&kind.change.verb),
        hosts: kind.hosts.len(),
        fields: fields.collect(),
    }
}

fn pool(impact: &PoolImpact, plan: &Plan) -> PoolPlanFacts {
    let hazard = |name: &str| impact.hazards.get(name).copied().unwrap_or_default();
    let waves = plan.waves.get(impact.pool.as_str());
    let at_once = waves.into_iter().flat_map(|w| &w.waves).map(Vec::len).max().unwrap_or_default();
    PoolPlanFacts {
        name: impact.pool.clone(),
        size: impact.size,
        hosts: impact.hosts,
        percent: percent(impact.hosts, impact.size),
        joining: impact.joining,
        drains: hazard("drain"),
        reboots: hazard("reboot"),
        waves: waves.map_or(0, |w| w.waves.len()),
        down_at_once: at_once,
        down_percent: percent(at_once, impact.size),
        hazards: impact.hazards.clone(),
        capacity: impact.capacity.as_ref().map(|capacity| CapacityFacts {
            unit: capacity.unit.clone(),
            all: capacity.all,
            least: capacity.least,
            percent: capacity.percent(),
        }),
    }
}

impl PlanFacts {
    /// Returns a plan as policies see it.
    pub fn of(plan: &Plan, inventory: &Inventory) -> Self {
        let changed = || plan.targets.iter().filter(|target| !target.steps.is_empty());
        let hosts = changed().filter_map(|t| Some(host(t, t.target.host()?.as_str(), inventory))).collect();
        let mut by_pool: BTreeMap<&str, Vec<&TargetPlan>> = BTreeMap::new();
        for target in changed() {
            let pool =
                if target.target == TargetId::Cluster { Some("cluster") } else { target.pool.as_deref() };
            by_pool.entry(pool.unwrap_or_default()).or_default().push(target);
        }
        let changes = by_pool.iter().flat_map(|(pool, targets)| {
            kinds(targets).iter().map(|kind| change(pool, kind)).collect::<Vec<_>>()
        });
        Self {
            estimated: false,
            lab: plan.lab,
            steps: plan.steps(),
            deferred: plan.impact.deferred,
            seconds: plan.impact.about_s,
            hosts,
            pools: plan.impact.pools.iter().map(|impact| pool(impact, plan)).collect(),
            cluster: changed().find(|t| t.target == TargetId::Cluster).map(cluster).unwrap_or_default(),
            changes: changes.collect(),
            unobserved: plan.unobserved().map(|(target, _)| target.to_string()).collect(),
            skipped: plan.skipped.iter().map(|(host, why)| (host.to_string(), why.clone())).collect(),
        }
    }
}
