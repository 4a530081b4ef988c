//! Properties of the planner, on any fleet: what is in place needs no plan, a plan that was carried out leaves none, order
//! does not depend on chance, and the graph can be walked to its end.

use proptest::prelude::*;
use provision::catalog::Catalog;
use provision::executor::diff;
use provision::inventory::{Inventory, load};
use provision::plan::{Past, Plan, PlanInput, batches, build, verified};
use provision::state::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

static SITE: LazyLock<Inventory> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/three-nodes");
    load(&path, &Catalog::builtin().expect("the catalog")).unwrap_or_else(|d| panic!("{d}")).inventory
});

/// A model of one host: what is wanted there, and how it is.
#[derive(Clone, Debug)]
struct Model {
    target: TargetId,
    desired: Vec<Resource>,
    state: BTreeMap<ResourceId, Observation>,
    orphans: Vec<Managed>,
}

impl Model {
    fn observed(&self) -> (TargetId, Result<Observed, Failure>) {
        let observed = Observed {
            target: self.target.clone(),
            facts: Facts::default(),
            desired: self.desired.clone(),
            seen: self.state.clone(),
            orphans: self.orphans.clone(),
            warnings: Vec::new(),
        };
        (self.target.clone(), Ok(observed))
    }

    /// Carries out one step as a host would: what it says becomes so, and nothing else.
    fn carry_out(&mut self, step: &Step) {
        if step.change.verb == Verb::Remove {
            self.orphans.retain(|m| m.id != step.resource.as_str());
            return;
        }
        // What is run because something else changed has then done what it is for, whatever was known of it before.
        if step.change.fields.iter().any(|f| f.name == "after") {
            let resource = self.desired.iter().find(|r| r.id == step.resource).expect("wanted");
            self.state.insert(step.resource.clone(), as_wanted(resource));
            return;
        }
        let mut fields = match self.state.get(&step.resource) {
            Some(Observation::Present(seen)) => seen.fields.clone(),
            _ => Fields::new(),
        };
        for field in &step.change.fields {
            match &field.to {
                Some(to) => fields.insert(field.name.clone(), to.clone()),
                None => fields.remove(&field.name),
            };
        }
        self.state.insert(step.resource.clone(), Observation::Present(Seen { fields, ..Seen::default() }));
    }
}

fn plan(models: &[Model]) -> Plan {
    let observed = models.iter().map(Model::observed).collect();
    build(PlanInput {
        inventory: &SITE,
        lock_digest: String::new(),
        lab: false,
        observed,
        nodes: Some(BTreeSet::new()),
        past: Past::default(),
    })
}

/// Returns how a resource is when it is as wanted.
fn as_wanted(resource: &Resource) -> Observation {
    let change = diff(resource, &Observation::Absent).expect("nothing is nothing as wanted");
    let fields = change.fields.into_iter().filter_map(|f| Some((f.name, f.to?))).collect();
    Observation::Present(Seen { fields, ..Seen::default() })
}

fn specs() -> impl Strategy<Value = Spec> {
    let name = (0..6u8).prop_map(|n| format!("r{n}"));
    prop_oneof![
        (name.clone(), "[a-z]{0,8}").prop_map(|(name, text)| Spec::File(File {
            path: format!("/etc/{name}"),
            content: Content::Text(text),
            mode: 0o644,
            owner: "root:root".into(),
            validate: None,
        })),
        (name.clone(), any::<bool>()).prop_map(|(name, hold)| Spec::Package(Package {
            name,
            version: hold.then(|| "1.2-3".into()),
            ensure: Ensure::Present,
            hold,
        })),
        name.clone().prop_map(|name| Spec::Package(Package {
            name: format!("no-{name}"),
            version: None,
            ensure: Ensure::Absent,
            hold: false,
        })),
        (name.clone(), 1..9u32).prop_map(|(name, value)| Spec::Sysctl(Sysctl {
            key: format!("vm.{name}"),
            value: value.to_string(),
            raise_only: false,
        })),
        (name.clone(), any::<bool>(), any::<bool>()).prop_map(|(name, enabled, active)| Spec::Unit(Unit {
            name: format!("{name}.service"),
            enabled: Some(enabled),
            active: Some(active),
            masked: false,
        })),
        name.clone()
            .prop_map(|name| Spec::Symlink(Symlink { path: format!("/l/{name}"), target: "/t".into() })),
        name.prop_map(|name| Spec::Command(Command {
            name,
            guard: "false".into(),
            apply: "true".into(),
            undo: None,
            wanted: "done".into(),
            when_changed: vec!["file//etc/r0".into()],
        })),
        Just(Spec::Swap(Swap {})),
        Just(Spec::Reboot(Reboot {
            name: "needed".into(),
            guard: "true".into(),
            when_changed: vec!["package/r1".into()],
        })),
    ]
}

/// How a resource may be: as wanted, missing, otherwise, or not to be told.
fn state(resource: &Resource) -> impl Strategy<Value = Observation> + use<> {
    let wanted = as_wanted(resource);
    let otherwise = match &wanted {
        Observation::Present(seen) => {
            let fields = seen.fields.keys().map(|k| (k.clone(), "otherwise".to_owned())).collect();
            Observation::Present(Seen { fields, ..Seen::default() })
        }
        other => other.clone(),
    };
    prop_oneof![
        4 => Just(wanted),
        3 => Just(Observation::Absent),
        3 => Just(otherwise),
        1 => Just(Observation::Unknown("timed out".into())),
    ]
}

fn model(host: HostName) -> impl Strategy<Value = Model> {
    let wanted = proptest::collection::vec((specs(), any::<bool>(), 0..4u8), 0..12);
    let orphans = proptest::collection::btree_set(0..5u8, 0..3);
    (wanted, orphans).prop_flat_map(move |(wanted, orphans)| {
        let mut seen = BTreeSet::new();
        let mut desired: Vec<Resource> = Vec::new();
        for (spec, k0s, token) in wanted {
            let mut resource = Resource::new(if k0s { "k0s" } else { "base" }, spec);
            if k0s && token == 0 {
                resource.late = vec!["token/worker".into()];
            }
            if matches!(resource.spec, Spec::Reboot(_)) {
                resource.hazards = vec![Hazard::Reboot];
            }
            if seen.insert(resource.id.clone()) {
                desired.push(resource);
            }
        }
        let managed = |n: u8| Managed {
            kind: "file".into(),
            id: format!("file//orphan/{n}"),
            hash: String::new(),
            undo: None,
            adopted: false,
        };
        let orphans: Vec<Managed> = orphans.into_iter().map(managed).collect();
        let states: Vec<_> = desired.iter().map(state).collect();
        let target = TargetId::Host(host.clone());
        states.prop_map(move |states| Model {
            target: target.clone(),
            state: desired.iter().map(|r| r.id.clone()).zip(states).collect(),
            desired: desired.clone(),
            orphans: orphans.clone(),
        })
    })
}

/// Every host of the site, and a cluster that wants nothing of its own.
fn fleet() -> impl Strategy<Value = Vec<Model>> {
    let hosts: Vec<_> = SITE.hosts.keys().cloned().map(model).collect();
    hosts.prop_map(|mut models| {
        // The first controller makes the cluster: it has nothing to wait for there.
        let first = SITE.controllers().next().map(|h| TargetId::Host(h.name.clone()));
        for resource in
            models.iter_mut().filter(|m| Some(&m.target) == first.as_ref()).flat_map(|m| &mut m.desired)
        {
            resource.late.clear();
        }
        models.push(Model {
            target: TargetId::Cluster,
            desired: Vec::new(),
            state: BTreeMap::new(),
            orphans: Vec::new(),
        });
        models
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_in_place_needs_no_plan(mut models in fleet()) {
        for model in &mut models {
            model.state = model.desired.iter().map(|r| (r.id.clone(), as_wanted(r))).collect();
            model.orphans.clear();
        }
        let plan = plan(&models);
        prop_assert_eq!(plan.steps(), 0);
        prop_assert!(!plan.is_blind());
        for (target, model) in plan.targets.iter().map(|t| (t, models.iter().find(|m| m.target == t.target))) {
            prop_assert_eq!(Some(target.in_sync), model.map(|m| m.desired.len()));
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_none(mut models in fleet()) {
        for target in &plan(&models).targets {
            let model = models.iter_mut().find(|m| m.target == target.target).expect("planned for it");
            for step in &target.steps {
                model.carry_out(step);
            }
        }
        let again = plan(&models);
        prop_assert_eq!(again.targets.iter().flat_map(|t| &t.steps).collect::<Vec<_>>(), Vec::<&Step>::new());
        // What could not be told still cannot: it was neither done nor forgotten.
        let unknown: usize = models.iter().map(|m| {
            m.state.values().filter(|o| matches!(o, Observation::Unknown(_))).count()
        }).sum();
        prop_assert_eq!(again.targets.iter().map(|t| t.unknown.len()).sum::<usize>(), unknown);
    }

    #[test]
    fn order_does_not_depend_on_chance(models in fleet(), turn in 0..8usize) {
        let first = plan(&models);
        let mut turned = models.clone();
        turned.rotate_left(turn % models.len());
        turned.reverse();
        prop_assert_eq!(&plan(&turned), &first);
        for target in first.targets.iter().filter(|t| t.target != TargetId::Cluster) {
            let model = models.iter().find(|m| m.target == target.target).expect("planned for it");
            let place = |step: &Step| match step.change.verb {
                Verb::Remove => {
                    let from_last = model.orphans.iter().rev().position(|m| m.id == step.resource.as_str());
                    model.desired.len() + from_last.expect("an orphan")
                }
                _ => model.desired.iter().position(|r| r.id == step.resource).expect("wanted"),
            };
            let places: Vec<usize> = target.steps.iter().map(place).collect();
            prop_assert!(places.is_sorted(), "as wanted, then what is removed, newest first: {places:?}");
        }
    }

    #[test]
    fn the_graph_can_be_walked_to_its_end(models in fleet()) {
        let plan = plan(&models);
        let mut waiting: Vec<Vec<&Step>> = plan.targets.iter().map(|t| t.steps.iter().rev().collect()).collect();
        let mut done = BTreeSet::new();
        // On each target in order; a step waits for what it needs of the others.
        loop {
            let mut moved = false;
            for (steps, target) in waiting.iter_mut().zip(&plan.targets) {
                while let Some(step) = steps.last() && step.needs.iter().all(|n| done.contains(n)) {
                    done.insert(step.id.clone());
                    steps.pop();
                    moved = true;
                }
                moved |= steps.is_empty() && done.insert(verified(&target.target));
            }
            if !moved {
                break;
            }
        }
        let stuck: Vec<_> = waiting.iter().flatten().map(|s| (s.id.clone(), s.needs.clone())).collect();
        prop_assert!(stuck.is_empty(), "{stuck:?}");
    }

    #[test]
    fn batches_are_all_steps_in_order_and_end_at_a_reboot(models in fleet()) {
        for target in &plan(&models).targets {
            let batches = batches(target);
            let steps: Vec<&Step> = batches.iter().flat_map(|b| &b.steps).collect();
            prop_assert_eq!(steps, target.steps.iter().collect::<Vec<_>>());
            for batch in &batches {
                prop_assert!(!batch.steps.is_empty());
                let (_, before) = batch.steps.split_last().expect("not empty");
                prop_assert!(before.iter().all(|s| !s.hazards.contains(&Hazard::Reboot)));
                let (_, after) = batch.steps.split_first().expect("not empty");
                // What the first of a batch waits for has come when the rest is carried out.
                prop_assert!(after.iter().all(|s| s.late.is_empty()));
                prop_assert!(target.target == TargetId::Cluster || after.iter().all(|s| {
                    s.needs.iter().all(|n| target.steps.iter().take_while(|t| t.id != s.id).any(|t| t.needs.contains(n)))
                }), "{batch:?}");
            }
        }
    }
}
