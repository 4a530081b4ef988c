//! Properties of the planner on arbitrary fleets: a fleet in sync needs no plan, a plan that was carried out leaves none, order
//! is deterministic, and the graph has no deadlock.

use proptest::prelude::*;
use provision::catalog::Catalog;
use provision::executor::diff;
use provision::inventory::{Inventory, load};
use provision::plan::{Past, Plan, PlanInput, Scheduler, TargetPlan, build, nodes_to_drain, stale, wider};
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
    orphans: Vec<Orphan>,
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
            self.orphans.retain(|o| o.id != step.resource);
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
        out_of_service: Default::default(),
        bare_pods: Default::default(),
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
            when_changed: vec![ResourceId::host(HostKind::File, "/etc/r0")],
        })),
        Just(Spec::Swap(Swap {})),
        Just(Spec::Reboot(Reboot {
            name: "needed".into(),
            guard: "true".into(),
            when_changed: vec![ResourceId::host(HostKind::Package, "r1")],
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
                resource.inputs = vec![StepOutput::JoinToken(JoinRole::Worker)];
            }
            if matches!(resource.spec, Spec::Reboot(_)) {
                resource.hazards = vec![Hazard::Reboot];
            }
            if seen.insert(resource.id.clone()) {
                desired.push(resource);
            }
        }
        let orphan = |n: u8| Orphan {
            id: ResourceId::host(HostKind::File, format!("/orphan/{n}")),
            hazards: Vec::new(),
            managed: None,
        };
        let orphans: Vec<Orphan> = orphans.into_iter().map(orphan).collect();
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
            resource.inputs.clear();
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
                    let from_last = model.orphans.iter().rev().position(|o| o.id == step.resource);
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
                moved |= steps.is_empty() && done.insert(StepId::Verified(target.target.clone()));
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
            let batches: Vec<&[Step]> = target.batches.iter().map(|b| target.steps_of(b)).collect();
            let steps: Vec<&Step> = batches.iter().copied().flatten().collect();
            prop_assert_eq!(steps, target.steps.iter().collect::<Vec<_>>());
            for batch in &batches {
                prop_assert!(!batch.is_empty());
                let (_, before) = batch.split_last().expect("not empty");
                prop_assert!(before.iter().all(|s| !s.hazards.contains(&Hazard::Reboot)));
                let (_, after) = batch.split_first().expect("not empty");
                // What the first of a batch waits for has come when the rest is carried out.
                prop_assert!(after.iter().all(|s| s.inputs.is_empty()));
                prop_assert!(target.target == TargetId::Cluster || after.iter().all(|s| {
                    s.needs.iter().all(|n| target.steps.iter().take_while(|t| t.id != s.id).any(|t| t.needs.contains(n)))
                }), "{batch:?}");
            }
        }
    }

    /// Whatever is quick, slow or fails: no more of a pool are out of service than may be, the canary goes alone, a wave
    /// waits for all of the one before, controllers go one at a time, and everything comes to its end.
    #[test]
    fn no_wave_exceeds_its_budget(
        workers in 1..30usize,
        at_once in 1..5u32,
        canary in 0..3u32,
        turns in proptest::collection::vec((any::<proptest::sample::Index>(), 0..8u8), 400),
    ) {
        let inventory = wide(workers, at_once, canary.min(at_once));
        let plan = all_reboot(&inventory);
        let waves = plan.waves["w"].clone();
        let order: Vec<&HostName> = waves.waves.iter().flatten().collect();
        prop_assert_eq!(order.len(), workers);
        prop_assert!(waves.waves.iter().all(|w| w.len() <= at_once as usize));
        let mut scheduler = Scheduler::new(&plan.targets, &plan.waves);
        // Per target: its next batch, whether that runs, and whether it has ended.
        let mut actors = vec![(0usize, false, false); plan.targets.len()];
        let mut turns = turns.into_iter().cycle();
        let (mut out, mut down) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..20_000 {
            if actors.iter().all(|(.., ended)| *ended) {
                break;
            }
            let (index, luck) = turns.next().expect("a cycle");
            let i = index.index(actors.len());
            let target = &plan.targets[i];
            let (next, running, ended) = actors[i];
            if ended {
                continue;
            }
            let batch = &target.batches[next];
            if !running {
                if scheduler.may_begin(target, batch).is_ok() {
                    scheduler.begin(&target.target, batch);
                    actors[i].1 = true;
                    if batch.drains {
                        out.insert(i);
                        prop_assert!(out.len() <= at_once as usize, "{out:?}");
                        let host = target.target.host().expect("a host");
                        let wave = waves.waves.iter().position(|w| w.contains(host)).expect("it has one");
                        let before = waves.waves[..wave].iter().flatten();
                        for earlier in before {
                            let at = plan.targets.iter().position(|t| t.target.host() == Some(earlier));
                            prop_assert!(actors[at.expect("planned")].2, "{host} before {earlier}");
                        }
                    }
                } else if down.len() >= at_once as usize && batch.drains {
                    // As a run does: nobody will make place.
                    scheduler.ended(&target.target);
                    actors[i].2 = true;
                }
                continue;
            }
            // One in eight fails, and stays down if it was out of service.
            let fails = luck == 0;
            for step in target.steps_of(batch) {
                scheduler.done(&step.id);
            }
            scheduler.batch_ended(&target.target);
            actors[i] = (next + 1, false, false);
            if fails || next + 1 == target.batches.len() {
                scheduler.done(&StepId::Verified(target.target.clone()));
                if fails && out.contains(&i) {
                    down.insert(i);
                } else {
                    out.remove(&i);
                    scheduler.back(&target.target);
                }
                scheduler.ended(&target.target);
                actors[i].2 = true;
            }
        }
        prop_assert!(actors.iter().all(|(.., ended)| *ended), "stuck: {actors:?}");
    }
}

/// One controller and many workers.
fn wide(workers: usize, at_once: u32, canary: u32) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: t}}\ncluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  \
         network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\npools:\n  control:\n    role: controller\n    \
         hosts: {{cp-1: {{address: 10.0.0.1}}}}\n  w:\n    role: worker\n    \
         disruption: {{maxUnavailable: {at_once}, canary: {canary}}}\n    \
         hosts: {{\"w-[1-{workers}]\": {{address: \"10.0.1.[1-{workers}]\"}}}}\n"
    );
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    load(&dir.path().join("site.yaml"), &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
}

/// A plan in which each host changes a package, reboots, and changes a file.
fn all_reboot(inventory: &Inventory) -> Plan {
    let package =
        Spec::Package(Package { name: "a".into(), version: None, ensure: Ensure::Present, hold: false });
    let reboot = Spec::Reboot(Reboot { name: "r".into(), guard: "true".into(), when_changed: Vec::new() });
    let link = Spec::Symlink(Symlink { path: "/l".into(), target: "/t".into() });
    let observed = inventory.hosts.keys().map(|host| {
        let mut desired: Vec<Resource> =
            [&package, &reboot, &link].map(|spec| Resource::new("base", spec.clone())).into();
        desired[1].hazards = vec![Hazard::Reboot];
        let target = TargetId::Host(host.clone());
        let model = Model {
            target: target.clone(),
            state: desired.iter().map(|r| (r.id.clone(), Observation::Absent)).collect(),
            desired,
            orphans: Vec::new(),
        };
        model.observed()
    });
    build(PlanInput {
        out_of_service: Default::default(),
        bare_pods: Default::default(),
        inventory,
        lock_digest: String::new(),
        lab: false,
        observed: observed.collect(),
        nodes: Some(inventory.hosts_of(&"w".into()).map(|h| h.name.clone()).collect()),
        past: Past::default(),
    })
}

/// The hosts of a pool of workers that would all reboot, of which some take no pods already.
fn with_down(pool: &str, hosts: &[&str], down: &[&str]) -> Plan {
    let (at_once, canary) = pool.split_once('/').expect("two numbers");
    let inventory = wide(6, at_once.parse().expect("a number"), canary.parse().expect("a number"));
    let mut plan = all_reboot(&inventory);
    plan.targets.retain(|t| t.target.host().is_some_and(|h| hosts.contains(&h.as_str())));
    plan.out_of_service.nodes = down.iter().map(|h| HostName::from(*h)).collect();
    plan.reschedule(&inventory);
    plan.impact = provision::plan::impact(&plan, &inventory, &Past::default());
    plan
}

/// A host that failed in an earlier run stays cordoned; together with a new wave, more were down than may be.
#[test]
fn hosts_that_are_out_of_service_already_count() {
    let all = ["w-1", "w-2", "w-3", "w-4", "w-5", "w-6"];
    let waves = |plan: &Plan| -> Vec<String> {
        let named = |wave: &Vec<HostName>| wave.iter().map(|h| h.as_str()[2..].to_owned()).collect();
        plan.waves["w"].waves.iter().map(named).map(|w: Vec<String>| w.join("+")).collect()
    };
    // One that is not worked on leaves room for one less.
    let plan = with_down("2/1", &["w-3", "w-4", "w-5"], &["w-2"]);
    assert_eq!(waves(&plan), ["3", "4", "5"]);
    let capacity = plan.impact.pools[0].capacity.as_ref().expect("some serve");
    assert_eq!((capacity.all, capacity.least), (5, 4), "never fewer than four of six");
    // One that is worked on goes first, and its place is free afterwards.
    let plan = with_down("2/1", &all, &["w-4"]);
    assert_eq!(waves(&plan), ["4", "1+2", "3+5", "6"]);
    let mut scheduler = Scheduler::new(&plan.targets, &plan.waves);
    let target = |host: &str| plan.targets.iter().find(|t| t.target.to_string() == host).expect("planned");
    let may = |s: &Scheduler, host: &str| s.may_begin(target(host), &target(host).batches[0]).is_ok();
    assert!(may(&scheduler, "w-4") && !may(&scheduler, "w-1"));
    scheduler.begin(&target("w-4").target, &target("w-4").batches[0]);
    scheduler.ended(&target("w-4").target);
    assert!(may(&scheduler, "w-1"), "w-4 stays down: one place is left of two");
    scheduler.begin(&target("w-1").target, &target("w-1").batches[0]);
    assert!(!may(&scheduler, "w-2"), "and it is taken");
    // What somebody else has cordoned stays so when it is done, and frees no place.
    let mut plan = with_down("2/1", &all, &["w-4"]);
    plan.out_of_service.kept = plan.out_of_service.nodes.clone();
    plan.reschedule(&wide(6, 2, 1));
    assert_eq!(waves(&plan), ["4", "1", "2", "3", "5", "6"]);
    let mut scheduler = Scheduler::new(&plan.targets, &plan.waves);
    let target = |host: &str| plan.targets.iter().find(|t| t.target.to_string() == host).expect("planned");
    for (host, next) in [("w-4", "w-1"), ("w-1", "w-2")] {
        let (of, then) = (target(host), target(next));
        scheduler.begin(&of.target, &of.batches[0]);
        scheduler.back(&of.target);
        scheduler.ended(&of.target);
        assert!(scheduler.may_begin(then, &then.batches[0]).is_ok(), "{next} after {host}");
    }
    let (w2, w3) = (target("w-2"), target("w-3"));
    scheduler.begin(&w2.target, &w2.batches[0]);
    scheduler.ended(&w2.target);
    assert!(scheduler.may_begin(w3, &w3.batches[0]).is_err(), "w-2 stays down, beside w-4");
    assert_eq!(scheduler.stay_down(&"w".into()), (2, true));
    // As many as may be are down: no other goes, those that are may be repaired.
    let plan = with_down("2/1", &["w-1", "w-2", "w-3"], &["w-2", "w-6", "w-5"]);
    assert_eq!(waves(&plan), ["2"]);
    assert!(!Scheduler::new(&plan.targets, &plan.waves).may_leave(&TargetId::Host("w-1".into())));
}

#[test]
fn a_saved_plan_is_out_of_date_when_more_would_be_disturbed_than_it_says() {
    let saved = all_reboot(&wide(8, 2, 1));
    assert_eq!(wider(&saved, &saved), Vec::<PoolName>::new());
    for (at_once, canary) in [(3, 1), (2, 0), (2, 2)] {
        let fresh = all_reboot(&wide(8, at_once, canary));
        assert_eq!(wider(&saved, &fresh), ["w".into()], "{at_once} at once after {canary}");
    }
    // What may be wider by now is carried out as it was approved.
    for (at_once, canary) in [(3, 1), (2, 0), (2, 2), (8, 0)] {
        let mut fresh = all_reboot(&wide(8, at_once, canary));
        let going = |plan: &Plan| plan.waves["w"].waves.concat();
        let before = going(&fresh);
        assert_eq!(fresh.narrow(&saved), Vec::<PoolName>::new());
        assert_eq!(wider(&saved, &fresh), Vec::<PoolName>::new(), "{at_once} at once after {canary}");
        let sizes: Vec<usize> = fresh.waves["w"].waves.iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 8);
        assert!(sizes[0] == 1 && sizes.iter().all(|n| *n <= 2), "{sizes:?}");
        assert_eq!(going(&fresh), before, "in the same order");
    }
    let mut none = saved.clone();
    none.waves.clear();
    assert_eq!(all_reboot(&wide(8, 2, 1)).narrow(&none), ["w".into()], "no wave was approved");
    // One host alone needs no canary before it.
    let mut one = saved.clone();
    one.waves.insert("w".into(), all_reboot(&wide(1, 2, 1)).waves["w"].clone());
    assert_eq!(wider(&saved, &one), Vec::<PoolName>::new());
    let narrower = all_reboot(&wide(8, 1, 1));
    assert_eq!(wider(&saved, &narrower), Vec::<PoolName>::new(), "what disturbs less was approved too");
    // The same change, which now needs a restart as well.
    let mut fresh = saved.clone();
    let step = &mut fresh.targets[1].steps[0];
    step.hazards.push(Hazard::Restart("k0sworker.service".into()));
    let moved = stale(&saved, &fresh);
    assert_eq!(moved.len(), 1);
    assert_eq!(
        (moved[0].resource.what().as_str(), moved[0].what),
        ("package a", "has a hazard that the saved plan does not show")
    );
    assert!(stale(&fresh, &saved).is_empty(), "less than was approved");
    // The same change by another command.
    let mut fresh = saved.clone();
    fresh.targets[1].steps[0].digest = "0".repeat(16);
    assert_eq!(stale(&saved, &fresh)[0].what, "would be carried out differently");
    assert_eq!(saved.targets[1].steps[0].digest.len(), 16);
}

/// A host that was a worker and is to be a controller runs pods until it is drained.
#[test]
fn a_host_is_drained_for_what_it_is_in_the_cluster_and_not_for_what_it_is_to_be() {
    let inventory = wide(1, 1, 0);
    let mut input: Vec<_> = Vec::new();
    for host in ["cp-1", "w-1"] {
        let reboot =
            Spec::Reboot(Reboot { name: "r".into(), guard: "true".into(), when_changed: Vec::new() });
        let mut reboot = Resource::new("base", reboot);
        reboot.hazards = vec![Hazard::Reboot];
        let target = TargetId::Host(host.into());
        let state = [(reboot.id.clone(), Observation::Absent)].into();
        input.push(Model { target, desired: vec![reboot], state, orphans: Vec::new() }.observed());
    }
    let plan = build(PlanInput {
        out_of_service: Default::default(),
        bare_pods: Default::default(),
        inventory: &inventory,
        lock_digest: String::new(),
        lab: false,
        observed: input,
        nodes: Some(["cp-1".into()].into()),
        past: Past::default(),
    });
    let drains: Vec<bool> = plan.targets.iter().map(TargetPlan::drains).collect();
    assert_eq!(drains, [true, false], "the controller is a node of the cluster, the worker is none");
}

/// What a k0s host of three controllers and a worker wants, as far as order is concerned.
fn k0s_host(host: &str, state: &[(ResourceId, Observation)]) -> (TargetId, Result<Observed, Failure>) {
    let unit = if host.starts_with("cp") { "k0scontroller.service" } else { "k0sworker.service" };
    let binary = Spec::Download(Download {
        path: "/usr/local/bin/k0s".into(),
        urls: vec!["https://example.net/k0s".into()],
        sha256: "0".repeat(64),
        mode: 0o755,
        version: Some("v1.36.1+k0s.0".into()),
        from: None,
    });
    let config = Spec::File(File {
        path: "/etc/k0s/k0s.yaml".into(),
        content: Content::Text("x".into()),
        mode: 0o600,
        owner: "root:root".into(),
        validate: None,
    });
    let unit = Spec::Unit(Unit { name: unit.into(), enabled: Some(true), active: Some(true), masked: false });
    let ready = Spec::Command(Command {
        name: "k0s-ready".into(),
        guard: "false".into(),
        apply: "true".into(),
        undo: None,
        wanted: "up".into(),
        when_changed: Vec::new(),
    });
    let desired: Vec<Resource> = [binary, config, unit, ready].map(|s| Resource::new("k0s", s)).into();
    let joined = Managed {
        id: ResourceId::host(HostKind::Command, "k0s-ready"),
        hash: String::new(),
        undo: None,
        adopted: false,
        hazards: Vec::new(),
    };
    let mut seen: BTreeMap<ResourceId, Observation> =
        desired.iter().map(|r| (r.id.clone(), as_wanted(r))).collect();
    seen.extend(state.iter().cloned());
    let observed = Observed {
        target: TargetId::Host(host.into()),
        facts: Facts { managed: vec![joined], k0s_was_up: true, ..Facts::default() },
        desired,
        seen,
        orphans: Vec::new(),
        warnings: Vec::new(),
    };
    (observed.target.clone(), Ok(observed))
}

fn plan_of(observed: Vec<(TargetId, Result<Observed, Failure>)>) -> Plan {
    let dir = tempfile::tempdir().expect("a folder");
    let text = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: t}\ncluster:\n  k0s: {version: v1.35.7+k0s.0}\n  \
                network: {podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}\npools:\n  control:\n    role: controller\n    \
                hosts: {\"cp-[1-3]\": {address: \"10.0.0.[1-3]\"}}\n  w:\n    role: worker\n    hosts: {w-1: {address: 10.0.1.1}}\n";
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    let inventory = load(&dir.path().join("site.yaml"), &catalog).unwrap_or_else(|d| panic!("{d}")).inventory;
    build(PlanInput {
        out_of_service: Default::default(),
        bare_pods: Default::default(),
        inventory: &inventory,
        lock_digest: String::new(),
        lab: false,
        observed,
        nodes: Some(["w-1".into()].into()),
        past: Past::default(),
    })
}

fn field(resource: ResourceId, name: &str, value: &str) -> (ResourceId, Observation) {
    let fields = [(name.to_owned(), value.to_owned())].into();
    (resource, Observation::Present(Seen { fields, ..Seen::default() }))
}

/// The order in which targets come to their first step, each carried out whole as soon as it may.
fn order(plan: &Plan) -> Vec<String> {
    let mut scheduler = Scheduler::new(&plan.targets, &plan.waves);
    let mut order = Vec::new();
    loop {
        let may = |t: &&TargetPlan| {
            !order.contains(&t.target.to_string())
                && !t.batches.is_empty()
                && t.batches.iter().all(|b| scheduler.may_begin(t, b).is_ok())
        };
        let Some(target) = plan.targets.iter().find(may) else { return order };
        for step in &target.steps {
            scheduler.done(&step.id);
        }
        scheduler.done(&StepId::Verified(target.target.clone()));
        order.push(target.target.to_string());
    }
}

/// A real k0s waited in a circle: cp-3, stopped, for cp-2, that for cp-1, and that for etcd of cp-3.
#[test]
fn a_member_that_is_down_is_started_before_healthy_ones_are_touched() {
    let config = || field(ResourceId::host(HostKind::File, "/etc/k0s/k0s.yaml"), "sha256", "old");
    let stopped = field(ResourceId::host(HostKind::Unit, "k0scontroller.service"), "active", "no");
    let never_up = field(ResourceId::host(HostKind::Command, "k0s-ready"), "state", "not seen");
    for down in [stopped, never_up] {
        let hosts = vec![
            k0s_host("cp-1", &[config()]),
            k0s_host("cp-2", &[config()]),
            k0s_host("cp-3", &[config(), down.clone()]),
        ];
        assert_eq!(order(&plan_of(hosts)), ["cp-3", "cp-1", "cp-2"], "{down:?}");
    }
    let hosts = ["cp-1", "cp-2", "cp-3"].map(|host| k0s_host(host, &[config()]));
    assert_eq!(order(&plan_of(hosts.into())), ["cp-1", "cp-2", "cp-3"]);
}

/// What k0s refuses is known while the node still serves.
#[test]
fn a_node_is_drained_only_after_a_gate() {
    let binary = ResourceId::host(HostKind::Download, "/usr/local/bin/k0s");
    let (id, worker) = k0s_host("w-1", &[field(binary.clone(), "version", "v1.35.7+k0s.0")]);
    let mut worker = worker.expect("observed");
    let asks = Command {
        name: "k0s-preflight".into(),
        guard: "false".into(),
        apply: "true".into(),
        undo: None,
        wanted: "accepted".into(),
        when_changed: Vec::new(),
    };
    let mut gate = Resource::new("base", Spec::Command(asks));
    gate.gate = true;
    worker.seen.insert(gate.id.clone(), Observation::Absent);
    worker.desired.insert(0, gate);
    for resource in worker.desired.iter_mut().filter(|r| r.id == binary) {
        resource.hazards.push(Hazard::Drain);
    }
    let hosts = vec![k0s_host("cp-1", &[]), (id, Ok(worker))];
    let plan = plan_of(hosts);
    let worker = plan.targets.iter().find(|t| t.target == TargetId::Host("w-1".into())).expect("planned");
    let batches: Vec<_> = worker.batches.iter().map(|b| (b.steps.clone(), b.drains)).collect();
    assert_eq!(batches, [(0..1, false), (1..2, true)]);
}

/// A real worker got the new k0s while two controllers had the old one.
#[test]
fn a_worker_gets_its_k0s_after_every_controller() {
    let old =
        || field(ResourceId::host(HostKind::Download, "/usr/local/bin/k0s"), "version", "v1.35.7+k0s.0");
    let all = || ["w-1", "cp-1", "cp-2", "cp-3"].map(|host| k0s_host(host, &[old()]));
    assert_eq!(order(&plan_of(all().into())), ["cp-1", "cp-2", "cp-3", "w-1"]);
    // One that cannot be looked at may have the old minor: the worker waits for it, and with it fails.
    let unseen = Failure::new(FailureKind::Unobserved, "E-SSH", "no route");
    let mut hosts = vec![k0s_host("w-1", &[old()]), k0s_host("cp-1", &[])];
    hosts.push((TargetId::Host("cp-2".into()), Err(unseen.clone())));
    let plan = plan_of(hosts);
    let worker = plan.targets.iter().find(|t| t.target == TargetId::Host("w-1".into())).expect("planned");
    assert_eq!(worker.steps[0].needs, [StepId::Verified(TargetId::Host("cp-2".into()))]);
    // A patch of the same minor does not depend on it: one bad host stops itself.
    let patch = field(ResourceId::host(HostKind::Download, "/usr/local/bin/k0s"), "version", "v1.36.0+k0s.0");
    let hosts = vec![k0s_host("w-1", &[patch]), (TargetId::Host("cp-2".into()), Err(unseen))];
    assert!(plan_of(hosts).targets.iter().all(|t| t.steps.iter().all(|s| s.needs.is_empty())));
}

#[test]
fn a_drain_says_which_pods_it_loses() {
    let inventory = wide(2, 1, 0);
    let plan = |pods: BarePods| {
        let reboot =
            Spec::Reboot(Reboot { name: "r".into(), guard: "true".into(), when_changed: Vec::new() });
        let mut reboot = Resource::new("base", reboot);
        reboot.hazards = vec![Hazard::Reboot];
        let observed = ["w-1", "w-2"].map(|host| {
            let state = [(reboot.id.clone(), Observation::Absent)].into();
            let (target, desired) = (TargetId::Host(host.into()), vec![reboot.clone()]);
            Model { target, desired, state, orphans: Vec::new() }.observed()
        });
        let nodes: BTreeSet<HostName> = ["w-1".into(), "w-2".into()].into();
        assert_eq!(nodes_to_drain(&observed, &nodes), nodes);
        assert_eq!(nodes_to_drain(&observed, &BTreeSet::new()), BTreeSet::new(), "no node, no pods");
        build(PlanInput {
            out_of_service: Default::default(),
            bare_pods: pods,
            inventory: &inventory,
            lock_digest: String::new(),
            lab: false,
            observed: observed.into(),
            nodes: Some(nodes),
            past: Past::default(),
        })
    };
    let saved = plan(BarePods::new());
    let fresh = plan([("w-2".into(), ["default/debug".to_owned()].into())].into());
    let hazards: Vec<_> = fresh.targets.iter().map(|t| t.steps[0].hazards.clone()).collect();
    let lost = Hazard::lost_pod("default/debug");
    assert_eq!(hazards, [vec![Hazard::Reboot, Hazard::Drain], vec![Hazard::Reboot, Hazard::Drain, lost]]);
    assert!(
        fresh.targets[1].warnings[0].contains("loses pod default/debug"),
        "{:?}",
        fresh.targets[1].warnings
    );
    assert_eq!(fresh.impact.pools[0].hazards["data loss (pods)"], 1);
    assert_eq!(stale(&saved, &fresh).len(), 1, "a saved plan that does not show it is out of date");
}

/// A host that was retired and is active again: k0s runs on it, and would never register by itself.
#[test]
fn a_worker_whose_node_was_deleted_starts_its_k0s_again() {
    let planned = |node: &str, was_up: bool| {
        let (target, observed) = k0s_host("w-1", &[]);
        let mut observed = observed.expect("observed");
        observed.facts.k0s_was_up = was_up;
        let start = Spec::Command(Command {
            name: "k0s-started".into(),
            guard: "true".into(),
            apply: "systemctl try-restart k0sworker".into(),
            undo: None,
            wanted: "started".into(),
            when_changed: Vec::new(),
        });
        let start = Resource::new("k0s", start);
        observed.seen.insert(start.id.clone(), as_wanted(&start));
        observed.desired.insert(2, start);
        let plan = build(PlanInput {
            out_of_service: Default::default(),
            bare_pods: BarePods::new(),
            inventory: &wide(1, 1, 0),
            lock_digest: String::new(),
            lab: false,
            observed: vec![(target, Ok(observed))],
            nodes: Some([node.into()].into()),
            past: Past::default(),
        });
        plan.targets[0].steps.iter().map(|s| s.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(planned("w-1", true), Vec::<String>::new(), "it has its node");
    assert_eq!(planned("w-2", true), ["command k0s-started"]);
    assert_eq!(planned("w-2", false), Vec::<String>::new(), "it never came up, so there was no node");
}

/// A run that was cut short leaves nodes cordoned. What waits for its pods may have room nowhere else, so they come first; those of
/// hosts that have work to do are uncordoned when that is done.
#[test]
fn nodes_that_were_left_cordoned_take_pods_again_first() {
    let manifest = serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "router", "namespace": "r"}});
    let router = Object { stage: Stage::Component, manifest, ready: Ready::Available };
    let node = |name: &str| {
        let node = Node {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cordoned: false,
            allocatable: BTreeMap::new(),
            kubelet: None,
        };
        Resource::new("node", Spec::Node(node))
    };
    let desired = vec![Resource::new("router", Spec::Object(Box::new(router))), node("w-1"), node("h-1")];
    let differs = |field: &str, from: &str, to: &str| {
        let field = |text: &str| Fields::from([(field.to_owned(), text.to_owned())]);
        Observation::Present(Seen { fields: field(from), wanted: Some(field(to)), ..Seen::default() })
    };
    let seen = [
        differs("ready", "0/1 ready", "yes"),
        differs("cordoned", "by us: drain", "no"),
        differs("cordoned", "by us: drain", "no"),
    ];
    let state = desired.iter().map(|r| r.id.clone()).zip(seen).collect();
    let cluster = Model { target: TargetId::Cluster, desired, state, orphans: Vec::new() };
    let busy = Model {
        target: TargetId::Host("h-1".into()),
        desired: vec![Resource::new(
            "base",
            Spec::Symlink(Symlink { path: "/l".into(), target: "/t".into() }),
        )],
        state: BTreeMap::new(),
        orphans: Vec::new(),
    };
    let mut busy = busy;
    busy.state.insert(busy.desired[0].id.clone(), Observation::Absent);
    let plan = plan(&[cluster, busy]);
    let cluster = plan.targets.iter().find(|t| t.target == TargetId::Cluster).expect("planned");
    let order: Vec<String> = cluster.steps.iter().map(|s| s.resource.to_string()).collect();
    assert_eq!(order, ["node/w-1", "Deployment.apps/r/router", "node/h-1"]);
}
