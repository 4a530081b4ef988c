//! Data tests of `plan`: comparing inventories without contacting hosts.

use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::plan::{FieldChange, compare};
use provision::report::{comparison_markdown, comparison_text};
use std::path::Path;

fn catalog() -> Catalog {
    Catalog::builtin().expect("the catalog")
}

fn rack(change: impl Fn(String) -> String) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack/inventory.yaml");
    let text = change(std::fs::read_to_string(example).expect("the example"));
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    load(&dir.path().join("site.yaml"), &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory
}

#[test]
fn a_driver_upgrade_shows_its_blast_radius() {
    let diff = compare(&rack(|t| t), &rack(|t| t.replace("580.178.04", "595.91.07")), &catalog());
    assert_eq!((diff.drains, diff.reboots), (64, 64));
    assert_eq!(diff.restarts, [("nvidia-fabricmanager".to_owned(), 64)].into());
    let pool = &diff.pools[0];
    assert_eq!((pool.pool.as_str(), pool.capacity), ("h100", Some((512, 464))));
    assert_eq!(pool.models, ["r1-qwen32b"]);
    let text = comparison_text(&diff);
    assert!(
        text.contains("580.178.04 -> 595.91.07")
            && text.contains(
                "64 drained, 64 rebooted, 64 with nvidia-fabricmanager restarted, in 12 waves of up to 6"
            ),
        "{text}"
    );
    let markdown = comparison_markdown(&diff);
    assert!(
        markdown.contains("| hosts | | 64 drained, 64 rebooted, 64 with nvidia-fabricmanager restarted |"),
        "{markdown}"
    );
    assert!(markdown.contains("| minimum capacity during apply | 512 GPUs | 464 (90 %) |"), "{markdown}");
}

#[test]
fn a_tenants_node_port_that_moves_is_a_breaking_change() {
    let moved = |t: String| t.replace("nodePort: 30081", "nodePort: 30090");
    let diff = compare(&rack(|t| t), &rack(moved), &catalog());
    let text = comparison_text(&diff);
    let said = "breaking change of tenant ads: its node port moves from 30081 to 30090; \
                set tenants.ads.gateway.nodePort: 30081 to keep it";
    assert!(
        text.contains(&format!("  ! {said}\n")) && text.contains("breaking: node port of 1 tenant moved"),
        "{text}"
    );
    let markdown = comparison_markdown(&diff);
    assert!(
        markdown.contains(
            "of tenant ads: its node port moves from 30081 to 30090; set tenants.ads.gateway.nodePort: 30081"
        ),
        "{markdown}"
    );
    let json = serde_json::to_value(&diff).expect("JSON");
    assert_eq!(json["ports"][0]["keep"], "tenants.ads.gateway.nodePort: 30081");
    assert_eq!((&json["ports"][0]["before"], &json["ports"][0]["after"]), (&30081.into(), &30090.into()));
}

/// What a pool's hosts are drained, rebooted and restarted for, as their roles have it.
#[test]
fn each_change_of_a_host_reaches_as_far_as_its_steps() {
    let closed = |t: String| t.replace("driver: \"580.178.04\"", "driver: \"580.178.04\", module: closed");
    let kernel =
        |t: String| t.replace("    rdma: {count: 8}", "    kernel: 6.8.0-60-generic\n    rdma: {count: 8}");
    let unlinked = |t: String| t.replace("    rdma: {count: 8}", "");
    let of = |before: Inventory, after: Inventory| {
        let diff = compare(&before, &after, &catalog());
        (diff.drains, diff.reboots, diff.restarts.into_iter().collect::<Vec<_>>())
    };
    let k0s = || vec![("k0sworker".to_owned(), 64)];
    assert_eq!(of(rack(unlinked), rack(|t| closed(unlinked(t)))), (64, 64, vec![]));
    assert_eq!(of(rack(|t| t), rack(kernel)), (64, 64, vec![]));
    assert_eq!(of(rack(|t| t), rack(unlinked)), (64, 0, k0s()));
    assert_eq!(of(rack(unlinked), rack(|t| t)), (64, 0, k0s()));
    assert_eq!(of(rack(|t| t), rack(|t| t.replace("{count: 8}  ", "{count: 4}  "))), (0, 0, vec![]));
}

#[test]
fn hosts_that_come_go_and_change_are_named() {
    let before = rack(|t| t);
    assert!(compare(&before, &rack(|t| t), &catalog()).is_empty());
    let fewer = rack(|t| {
        t.replace("h-[001-064]", "h-[001-063]")
            .replace("10.20.1.[1-64]", "10.20.1.[1-63]")
            .replace("10.21.1.[1-64]", "10.21.1.[1-63]")
    });
    let diff = compare(&before, &fewer, &catalog());
    assert_eq!(diff.removed.keys().collect::<Vec<_>>(), ["h-064"]);
    assert_eq!(compare(&fewer, &before, &catalog()).added.keys().collect::<Vec<_>>(), ["h-064"]);
    let text = comparison_text(&diff);
    assert!(text.contains("- 1 host of h100: h-064 (left as they are;"), "nothing is done to it: {text}");
    assert!(text.ends_with("  blast radius: 1 removed\n"), "what is not touched is not counted: {text}");
}

/// Fields as the inventory spells them, with the line that each stands on, and no field that nobody wrote.
#[test]
fn changes_are_named_as_the_inventory_spells_them_and_placed() {
    let changed = |t: String| {
        t.replace("maxFailed: 3", "maxFailed: 3, drainSeconds: 1200")
            .replace(
                "h-[001-064]\":",
                "h-008\": {state: retired}, \"h-009\": {state: maintenance, reason: RMA}, \"h-[001-064]\":",
            )
            .replace("vllm-openai:v0.11.0", "vllm-openai:v0.12.0")
    };
    let diff = compare(&rack(|t| t), &rack(changed), &catalog());
    let shown = |change: &FieldChange| {
        let place = change.place.as_deref().and_then(|p| p.rsplit_once('/')).map_or("", |(_, name)| name);
        format!("{} {:?} {:?} {place}", change.name, change.before.as_deref(), change.after.as_deref())
    };
    let pool: Vec<String> = diff.pools.iter().flat_map(|p| &p.fields).map(shown).collect();
    assert_eq!(pool, ["disruption.drainSeconds None Some(\"1200\") site.yaml:27"]);
    let site: Vec<String> = diff.site.iter().map(shown).collect();
    let image = "models.r1-qwen32b.engine.vllm.image Some(\"vllm/vllm-openai:v0.11.0\") Some(\"vllm/vllm-openai:v0.12.0\")";
    assert_eq!(site, [format!("{image} site.yaml:33")]);
    // A host that retires is drained; one in maintenance is kept, and no longer takes pods.
    assert_eq!(
        (diff.retired.keys().map(String::as_str).collect::<Vec<_>>(), diff.drains),
        (vec!["h-008"], 1)
    );
    let [host] = diff.changed.as_slice() else { panic!("{:?}", diff.changed) };
    assert!(
        host.host == "h-009" && host.place.as_deref().is_some_and(|p| p.ends_with("site.yaml:28")),
        "{host:?}"
    );
    assert_eq!(host.fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["reason", "state"]);
    let text = comparison_text(&diff);
    assert!(text.contains("- 1 host of h100: h-008 (retired: drained, their nodes deleted)"), "{text}");
    assert!(text.ends_with("  blast radius: 1 drained, 1 retired, 1 changed\n"), "{text}");
}

/// What cannot be told is neither in sync nor absent: the plan says so, and is no success.
#[test]
fn an_unknown_resource_is_not_in_sync() {
    use provision::plan::{Past, PlanInput, build};
    use provision::report::{PlanView, plan_text};
    use provision::state::*;
    let inventory = rack(|t| t);
    let target = TargetId::Host("w-1".into());
    let swap = Resource::new("base", Spec::Swap(Swap {}));
    let plan = |observation: Option<Observation>| {
        let seen = observation.map(|o| (swap.id.clone(), o)).into_iter().collect();
        let observed = Observed {
            target: target.clone(),
            facts: Facts::default(),
            desired: vec![swap.clone()],
            seen,
            orphans: Vec::new(),
            warnings: Vec::new(),
        };
        let observed = vec![(target.clone(), Ok(observed))];
        build(PlanInput {
            out_of_service: Default::default(),
            bare_pods: Default::default(),
            inventory: &inventory,
            lock_digest: String::new(),
            lab: false,
            observed,
            nodes: None,
            past: Past::default(),
        })
    };
    let view =
        PlanView { hosts: false, verbose: false, observed_in: None, place: String::new(), width: None };
    for observation in [Some(Observation::Unknown("timed out".into())), None] {
        let blind = plan(observation);
        assert!(blind.is_blind() && blind.steps() == 0);
        assert_eq!(blind.targets[0].in_sync, 0);
        let text = plan_text(&blind, &view);
        assert!(text.contains("unknown: w-1: swap/all: ") && !text.contains("in sync"), "{text}");
    }
    let fields = [("in use", "none"), ("fstab", "none")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let told = plan(Some(Observation::Present(Seen { fields, ..Seen::default() })));
    assert!(!told.is_blind() && told.targets[0].in_sync == 1);
    assert!(plan_text(&told, &view).starts_with("in sync: 1 host"));
}

#[test]
fn a_k0s_that_cannot_be_reached_is_an_error_of_the_comparison() {
    // Whether the catalog knows the versions is another question.
    let at = |version: &str| {
        let mut inventory = rack(|t| t);
        inventory.cluster.k0s_version = version.to_owned();
        inventory
    };
    let of = |from: &str, to: &str| compare(&at(from), &at(to), &catalog());
    let skips = of("v1.34.10+k0s.0", "v1.36.3+k0s.2");
    let expected = "[E-K0S-SKEW] k0s v1.34.10+k0s.0 -> v1.36.3+k0s.2 skips a minor version; upgrade Kubernetes one minor version at a time";
    assert_eq!(skips.errors, [expected]);
    assert!(comparison_text(&skips).contains(&format!("  error{expected}\n")), "{}", comparison_text(&skips));
    let markdown = comparison_markdown(&skips);
    assert!(
        markdown.contains("**error** ") && markdown.contains("skips a minor version; upgrade Kubernetes"),
        "{markdown}"
    );
    let back = of("v1.35.7+k0s.0", "v1.34.10+k0s.0");
    assert!(back.errors[0].contains("goes back a minor"), "{:?}", back.errors);
    let patch = of("v1.35.7+k0s.0", "v1.35.6+k0s.0");
    assert!(
        patch.errors.is_empty()
            && patch.warnings[0].starts_with("[W-K0S-DOWNGRADE] k0s v1.35.7+k0s.0 -> v1.35.6")
    );
    assert!(comparison_text(&patch).contains("  warning[W-K0S-DOWNGRADE]"));
    let up = of("v1.35.7+k0s.0", "v1.36.3+k0s.2");
    assert!(up.errors.is_empty() && up.warnings.is_empty());
}
