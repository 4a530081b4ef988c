//! Golden files of screens, each reviewed by a person.

use crate::inventory::GOOD;
use proptest::prelude::*;
use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::plan::{Drift, Past, Plan, RolloutOrder, TargetPlan, Unobserved, compare, impact};
use provision::reconciler::{Cause, CauseKind};
use provision::report::{
    AcceleratorView, CertificateView, ControllerView, Ended, Failed, NodesView, PlanView, PoolHealth,
    Problem, RouteView, StatusView, WorkloadView, catalog_text, comparison_text, drift_text, fit,
    health_lines, plan_text, preflight_lines, product_text, run_summary, status_text,
};
use provision::role::health::{Finding, Health, Measure, Verdict};
use provision::serving::Part;
use provision::state::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

pub fn rack() -> Inventory {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack");
    load(&example, &Catalog::builtin().expect("the catalog")).unwrap_or_else(|d| panic!("{d}")).inventory
}

fn field(name: &str, from: &str, to: &str) -> FieldDiff {
    let some = |v: &str| (!v.is_empty()).then(|| v.to_owned());
    FieldDiff { name: name.into(), from: some(from), to: some(to) }
}

fn step(target: &TargetId, id: &str, verb: Verb, fields: Vec<FieldDiff>) -> Step {
    let resource: ResourceId = id.parse().expect("an id");
    Step {
        id: target.step(&resource),
        target: target.clone(),
        what: id.replacen('/', " ", 1),
        resource,
        role: if id.contains("k0s") { "k0s" } else { "nvidia" }.into(),
        why: None,
        change: Change { verb, fields, text: None },
        origin: None,
        changed_by: Vec::new(),
        digest: String::new(),
        hazards: Vec::new(),
        needs: Vec::new(),
        inputs: Vec::new(),
        deferred: None,
        deadline_s: 600,
        work: Work::ById,
    }
}

/// A driver upgrade of the rack, beside a change of the API's names, one hand-edited file and one deferred check.
pub fn upgrade(inventory: &Inventory, past: &Past) -> Plan {
    let mut targets = Vec::new();
    let mut before: Option<StepId> = None;
    for host in inventory.active() {
        let target = TargetId::Host(host.name.clone());
        let mut steps = Vec::new();
        match host.pool.as_str() {
            "h100" => {
                let version = || vec![field("version", "580.126.09", "580.178.04")];
                let mut driver = step(&target, "package/nvidia-open-580", Verb::Update, version());
                driver.hazards = vec![Hazard::Drain];
                let mut fabric = step(&target, "package/nvidia-fabricmanager", Verb::Update, version());
                fabric.why = Some("must match the driver version".into());
                let mut reboot = step(&target, "reboot/nvidia", Verb::Run, Vec::new());
                reboot.hazards = vec![Hazard::Reboot];
                let mut check = step(&target, "command/allocatable", Verb::Run, Vec::new());
                check.deferred = Some("after the driver".into());
                steps = vec![driver, fabric, reboot, check];
                if host.name.as_str() == "h-017" {
                    let content = vec![field("content", "1f0c", "8e21")];
                    let mut file =
                        step(&target, "file//etc/sysctl.d/90-provision.conf", Verb::Update, content);
                    file.origin = Some(Origin::Drift);
                    file.change.text =
                        Some("@@ -1 +1 @@\n-vm.max_map_count = 65530\n+vm.max_map_count = 262144\n".into());
                    steps.insert(0, file);
                }
            }
            "control" => {
                let names = vec![field("spec.api.sans", "[]", "[\"ams.example.net\"]")];
                let mut config = step(&target, "file//etc/k0s/k0s.yaml", Verb::Update, names);
                config.hazards = vec![Hazard::Restart("k0scontroller.service".into()), Hazard::Quorum];
                config.needs.extend(before.take());
                before = Some(config.id.clone());
                steps = vec![config];
            }
            _ => {}
        }
        let pool = Some(host.pool.to_string());
        let worker = host.pool.as_str() != "control";
        targets.push(TargetPlan {
            target,
            pool,
            is_node: worker,
            is_member: !worker,
            leaves: false,
            steps,
            batches: vec![],
            in_sync: 40,
            unobserved: None,
            unknown: vec![],
            warnings: vec![],
            left_out: Default::default(),
        });
    }
    let cluster = TargetId::Cluster;
    let route = step(&cluster, "ModelRoute/models/ads-deepseek-r1", Verb::Create, Vec::new());
    targets.push(TargetPlan {
        target: cluster,
        pool: None,
        is_node: false,
        is_member: false,
        leaves: false,
        steps: vec![route],
        batches: vec![],
        in_sync: 90,
        unobserved: None,
        unknown: vec![],
        warnings: vec![],
        left_out: Default::default(),
    });
    let mut plan = Plan {
        format: 2,
        inventory: inventory.name.clone(),
        inventory_digest: String::new(),
        lock_digest: "3f2a91c".into(),
        lab: false,
        targets,
        skipped: BTreeMap::from([("h-063".into(), "RMA 4711".to_owned())]),
        out_of_service: Default::default(),
        waves: BTreeMap::new(),
        backup_first: false,
        delivery: None,
        impact: Default::default(),
        policy: None,
        sources: None,
    };
    plan.reschedule(inventory);
    plan.impact = impact(&plan, inventory, past);
    plan
}

pub fn past() -> Past {
    let minutes = |m: u64| m * 60_000;
    Past {
        runs: 5,
        by_resource: BTreeMap::from([("reboot/nvidia".into(), minutes(5))]),
        by_kind: [("package", 1), ("file", 0), ("command", 0), ("ModelRoute", 0)]
            .map(|(k, m)| (k.to_owned(), minutes(m)))
            .into(),
        ..Past::default()
    }
}

fn view(hosts: bool, verbose: bool) -> PlanView {
    let observed_in = Some(Duration::from_millis(900));
    PlanView { hosts, verbose, observed_in, place: "-i inventories/ams".into(), width: None }
}

#[test]
fn a_plan_says_what_changes_how_and_for_how_long() {
    let inventory = rack();
    let plan = upgrade(&inventory, &past());
    insta::assert_snapshot!("plan", plan_text(&plan, &view(false, false)));
    let impact = &plan.impact;
    // 64 hosts: one, then 10 % of them at once, 12 waves of two packages and a reboot, 7 minutes each.
    assert_eq!(impact.about_s, Some(12 * 7 * 60));
    // Each of them is drained, and takes a while to serve again.
    let slow = Past { drain: 2 * 60_000, return_to_service: 60_000, ..past() };
    assert_eq!(upgrade(&inventory, &slow).impact.about_s, Some(12 * 10 * 60));
    let capacity = impact.pools.iter().find_map(|p| p.capacity.as_ref()).expect("the pool serves");
    assert_eq!((capacity.all, capacity.least), (512, 464));
    let json = serde_json::to_value(&plan).expect("plain data");
    assert_eq!(json["outlook"]["pools"][1]["turns"]["waves"]["waves"], 12, "JSON has it too");
    let saved: Plan = serde_json::from_value(json).expect("read back");
    assert_eq!(saved, plan);
}

#[test]
fn a_plan_that_was_never_done_says_so() {
    let inventory = rack();
    let plan = upgrade(&inventory, &Past::default());
    assert_eq!(plan.impact.about_s, None);
    assert!(plan_text(&plan, &view(false, false)).contains("Estimated time: unknown (no comparable run)"));
}

#[test]
fn hosts_that_join_risk_no_capacity() {
    let inventory = rack();
    let mut plan = upgrade(&inventory, &past());
    for target in &mut plan.targets {
        target.is_node = false;
        target.steps.iter_mut().for_each(|s| s.hazards.retain(|h| *h != Hazard::Drain));
    }
    plan.reschedule(&inventory);
    let impact = impact(&plan, &inventory, &past());
    let pool = impact.pools.iter().find(|p| p.pool == "h100").expect("the pool");
    assert_eq!((pool.joining, pool.capacity.as_ref(), pool.order), (64, None, RolloutOrder::AtOnce));
    assert_eq!(impact.about_s, Some(7 * 60), "all at once, as nothing of theirs serves yet");
}

#[test]
fn a_plan_by_host_shows_each_and_verbose_says_why() {
    let inventory = rack();
    let mut plan = upgrade(&inventory, &past());
    plan.targets.retain(|t| ["cp-1", "h-017"].contains(&t.target.to_string().as_str()));
    plan.reschedule(&inventory);
    plan.impact = impact(&plan, &inventory, &past());
    insta::assert_snapshot!("plan-hosts", plan_text(&plan, &view(true, true)));
}

/// The end of a run with one failure, and hosts that were skipped because of it.
fn summary() -> String {
    let target = TargetId::Host("h-031".into());
    let mut failure =
        Failure::new(FailureKind::Step, "E-HEADERS", "package nvidia-open-580 failed (exit 100)");
    failure.step =
        Some(StepId::Step(TargetId::Host("h-031".into()), "package/nvidia-open-580".parse().expect("an id")));
    (failure.exit, failure.after) = (Some(100), Some(Duration::from_secs(12)));
    failure.tail = vec!["dpkg: error processing package nvidia-dkms-open (--configure):".into()];
    failure.cause = Some("the headers of the running kernel are not installed (known: E-HEADERS)".into());
    failure.hint = Some("Install linux-headers-6.8.0-60-generic, then apply again".into());
    let blocked =
        Failure::new(FailureKind::Blocked, "E-BUDGET", "pool h100 stopped: more than 3 of its hosts failed")
            .hint("Fix the failed hosts, or raise disruption.maxFailed");
    let left: Vec<TargetId> = (40..=64).map(|n| TargetId::Host(format!("h-{n:03}").into())).collect();
    let budget = Some(("h100", 1, 3));
    let mut failures = vec![Failed { target: &target, failure: &failure, budget, others: 63 }];
    failures.extend(left.iter().map(|target| Failed { target, failure: &blocked, budget, others: 63 }));
    let changed = BTreeMap::from([("package", 62), ("reboot", 31), ("ModelRoute", 1), ("Deployment", 1)]);
    let changed = changed.into_iter().map(|(k, n)| (k.to_owned(), n)).collect();
    let ended = Ended {
        run: "8XKQ2",
        targets: 71,
        failures,
        stopped: Vec::new(),
        steps: 95,
        changed: &changed,
        took: Duration::from_secs(2172),
        interrupted: false,
        lab: false,
        inventory: "-i inventories/ams".into(),
        place: Some("-i inventories/ams".into()),
        saved: false,
    };
    run_summary(&ended)
}

#[test]
fn a_failure_is_shown_with_its_cause_its_budget_and_what_to_do() {
    insta::assert_snapshot!("summary", summary());
}

fn unhealthy() -> Health {
    let code = "E-NV-XID".to_owned();
    let detail = "Xid 79 on 0000:0c:00 requires a reboot".to_owned();
    Health::of(Finding { verdict: Verdict::Unhealthy, code, detail })
}

fn pool_health() -> PoolHealth {
    let mut health = PoolHealth { not_tested: vec!["h-063".into(), "h-064".into()], ..PoolHealth::default() };
    health.healthy = 60;
    health.add("h-001".into(), &unhealthy(), 300, "verify");
    health.add(
        "h-002".into(),
        &Health::of(Finding::unknown("E-NV-HUNG", "nvidia-smi did not answer in 10 s")),
        7200,
        "apply",
    );
    health
}

/// A cluster with one of everything that can be wrong.
fn troubled() -> StatusView {
    let problem = |code: &str, message: &str, next: &str| Problem {
        code: code.into(),
        message: message.into(),
        next: Some(next.into()),
    };
    let controller = |host: &str| ControllerView {
        host: host.into(),
        k0s: Some("v1.35.7+k0s.0".into()),
        ready: true,
        etcd: true,
        problem: None,
    };
    let route = |tenant: &str, ready, port: u16| RouteView {
        rule: None,
        tenant: tenant.into(),
        route: "deepseek-r1".into(),
        model: "r1-qwen32b".into(),
        weight: 100,
        ready,
        wanted: 2,
        address: format!("http://10.20.0.21:{port}/v1"),
    };
    let workload = |part, kind: &str, namespace: &str, name: &str| {
        let id = ObjectId {
            group: "apps".into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        WorkloadView::missing(part, &id, 2)
    };
    let cause = |kind, detail: &str, pods: &[&str], node: Option<&str>, lines: &[&str]| Cause {
        kind,
        detail: detail.into(),
        pods: pods.iter().map(|p| (*p).to_owned()).collect(),
        node: node.map(str::to_owned),
        lines: lines.iter().map(|l| (*l).to_owned()).collect(),
    };
    let out_of_memory = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB.";
    let workloads = vec![
        WorkloadView {
            tenants: vec!["ads".into(), "search".into()],
            ..workload(Part::Router, "Deployment", "kthena-system", "kthena-router")
        },
        WorkloadView {
            exists: true,
            tenants: vec!["ads (deepseek-r1)".into(), "search (deepseek-r1)".into()],
            causes: vec![
                cause(
                    CauseKind::Unscheduled,
                    "not scheduled: 0/66 nodes are available: 66 Insufficient nvidia.com/gpu",
                    &["r1-qwen32b-7d9f-abcde", "r1-qwen32b-7d9f-fghij"],
                    None,
                    &[],
                ),
                cause(
                    CauseKind::Crash,
                    "container ended: exit code 1, 4 restarts",
                    &["r1-qwen32b-7d9f-klmno"],
                    Some("h-002"),
                    &["INFO: loading weights", out_of_memory],
                ),
            ],
            ..workload(Part::Model, "Deployment", "models", "r1-qwen32b")
        },
    ];
    StatusView {
        workloads,
        inventory: "ams".into(),
        place: "-i inventories/ams".into(),
        k0s_wanted: "v1.35.7+k0s.0".into(),
        controllers: vec![
            controller("cp-1"),
            controller("cp-2"),
            ControllerView {
                ready: false,
                etcd: false,
                k0s: None,
                problem: Some("it does not answer".into()),
                ..controller("cp-3")
            },
        ],
        nodes: Some(NodesView {
            all: 68,
            ready: 66,
            versions: [("v1.34.10+k0s", 8), ("v1.35.7+k0s", 59)].map(|(v, n)| (v.to_owned(), n)).into(),
            maintenance: vec![("h-017".into(), "RMA 4711".into())],
            failed: vec![("h-031".into(), "its kubelet stopped reporting".into())],
            cordoned: ["h-001", "h-002", "h-003"].map(str::to_owned).into(),
        }),
        accelerators: vec![AcceleratorView {
            pool: "h100".into(),
            allocatable: 503,
            all: 512,
            short: vec![("h-005".into(), 7, 8)],
            health: pool_health(),
        }],
        certificate: Some(CertificateView {
            host: "cp-2".into(),
            file: "/var/lib/k0s/pki/server.crt".into(),
            days: 12,
            expires: "2026-12-06T00:00:00Z".into(),
        }),
        routes: vec![route("ads", Some(0), 30082), route("search", Some(0), 30081)],
        unreachable: vec![(
            "cp-3".into(),
            problem("E-SSH-UNREACHABLE", "10.20.0.13:22 does not answer", "by hand: nc -vz 10.20.0.13 22"),
        )],
        working: vec![("h-002".into(), "eva@desk (run 8XKQ2)".into())],
        ..StatusView::default()
    }
}

#[test]
fn a_status_says_what_is_wrong_and_what_to_do() {
    let view = troubled();
    assert!(view.is_troubled());
    insta::assert_snapshot!("status", status_text(&view, None));
}

#[test]
fn what_pods_can_have_is_not_called_healthy() {
    let mut view = troubled();
    assert!(!status_text(&view, None).contains("/512 healthy"));
    let health = &mut view.accelerators[0].health;
    *health = PoolHealth { not_tested: vec!["h-001".into(), "h-002".into()], ..PoolHealth::default() };
    assert!(
        status_text(&view, None).contains("h100 503/512 allocatable, not tested"),
        "{}",
        status_text(&view, None)
    );
    let health = &mut view.accelerators[0].health;
    health.add("h-003".into(), &Health { verdict: Verdict::Healthy, ..unhealthy() }, 300, "verify");
    let text = status_text(&view, None);
    assert!(text.contains("allocatable, 1/3 hosts healthy (verify 5 min ago), 2 hosts not tested"), "{text}");
}

fn healthy() -> StatusView {
    let mut view = troubled();
    view.controllers.truncate(2);
    view.unreachable.clear();
    view.working.clear();
    view.accelerators[0].short.clear();
    view.accelerators[0].allocatable = 512;
    let health = &mut view.accelerators[0].health;
    (health.verdict, health.healthy) = (Some(Verdict::Healthy), 64);
    health.troubled.clear();
    health.not_tested.clear();
    view.certificate.as_mut().expect("one").days = 341;
    for route in &mut view.routes {
        route.ready = Some(2);
    }
    for workload in &mut view.workloads {
        (workload.exists, workload.ready) = (true, 2);
    }
    let nodes = view.nodes.as_mut().expect("nodes");
    (nodes.failed, nodes.cordoned, nodes.ready) = (Vec::new(), Vec::new(), 67);
    view
}

#[test]
fn a_status_of_a_healthy_cluster_is_short() {
    let view = healthy();
    assert!(!view.is_troubled());
    insta::assert_snapshot!("status-healthy", status_text(&view, None));
}

/// A site in a git repository: a folder that extends a base outside it, with a host list.
#[test]
fn a_revision_is_compared_with_the_working_tree() {
    let dir = tempfile::tempdir().expect("a folder");
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.net", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(dir.path())
            .output();
        // git is what the command reads revisions with; without it there is nothing to be tested.
        output.map(|o| assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr))).is_ok()
    };
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let rack = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack/inventory.yaml"),
    )
    .expect("the example");
    let listed = rack.replace(
        "    hosts: {\"h-[001-064]\": {address: \"10.20.1.[1-64]\", bmc: \"10.21.1.[1-64]\"}}\n",
        "    hostsFrom: hosts.csv\n",
    );
    assert_ne!(listed, rack, "the example's pool is listed in a file instead");
    write("base/inventory.yaml", &listed);
    write("base/hosts.csv", "name,address\nh-001,10.20.1.1\nh-002,10.20.1.2\n");
    write("sites/ams/site.yaml", "extends: ../../base\nmetadata: {name: ams}\n");
    write("sites/ams/hosts.csv", "name,address\nh-001,10.20.1.1\nh-002,10.20.1.2\n");
    if !git(&["init", "-q"]) {
        return;
    }
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    write("base/inventory.yaml", &listed.replace("580.178.04", "595.91.07"));
    let hosts = "name,address\nh-001,10.20.1.1\nh-002,10.20.1.2\nh-003,10.20.1.3\n";
    write("sites/ams/hosts.csv", hosts);
    write("base/hosts.csv", hosts);
    let diff = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
            .arg("diff")
            .args(arguments)
            .current_dir(dir.path().join("sites"))
            .output()
            .expect("the binary runs")
    };
    let output = diff(&["main:ams/site.yaml", "ams/site.yaml", "--output", "markdown"]);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    insta::assert_snapshot!("diff-markdown", said);
    let text = diff(&["HEAD:ams/site.yaml", "ams/site.yaml"]);
    insta::assert_snapshot!("diff-text", String::from_utf8_lossy(&text.stdout));
    assert_eq!(diff(&["HEAD:ams/site.yaml", "main:ams/site.yaml"]).status.code(), Some(0));
    assert_eq!(diff(&["main..HEAD", "ams/site.yaml"]).status.code(), Some(0), "one path at two revisions");
    git(&["commit", "-qam", "two"]);
    let range = diff(&["HEAD~1..HEAD", "ams/site.yaml"]);
    let said = String::from_utf8_lossy(&range.stdout).into_owned();
    assert!(range.status.code() == Some(2) && said.contains("580.178.04 -> 595.91.07"), "{said}");
    // A change that puts a file, or a folder, of such a name there does not stand in for the revision.
    write("sites/HEAD~1:ams/site.yaml", "x: 1\n");
    write("sites/HEAD~1..HEAD", "x: 1\n");
    assert_eq!(diff(&["HEAD~1:ams/site.yaml", "HEAD:ams/site.yaml"]).stdout, range.stdout);
    assert_eq!(diff(&["HEAD~1..HEAD", "ams/site.yaml"]).stdout, range.stdout);
    let none = diff(&["v9:ams/site.yaml", "ams/site.yaml"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(1));
    assert!(said.contains("error[E-GIT]") && said.contains("= next: Run `git fetch`"), "{said}");
}

/// Hazards of removals come from the records of hosts.
#[test]
fn a_hazard_that_a_host_names_writes_nothing_to_the_terminal() {
    let inventory = rack();
    let mut plan = upgrade(&inventory, &past());
    let hostile = Hazard::Restart("x\u{1b}]0;owned\u{7}\u{202e}.service".into());
    plan.targets[3].steps[0].hazards.push(hostile);
    plan.reschedule(&inventory);
    plan.impact = impact(&plan, &inventory, &past());
    let text = plan_text(&plan, &view(false, false));
    assert!(text.contains("owned") && !text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
}

/// A screen, by the columns of the terminal.
type Screen = Box<dyn Fn(Option<usize>) -> String>;

/// The screens that people meet, each as it is printed.
fn screens() -> Vec<(&'static str, Screen)> {
    let inventory = rack();
    let mut plan = upgrade(&inventory, &past());
    // Names and values as long as they get.
    let host = TargetId::Host("h-001".into());
    let drop_in = "file//etc/systemd/system/nvidia-persistenced.service.d/90-provision.conf";
    let args =
        field("spec.api.extraArgs", "{}", "{\"audit-log-path\": \"/var/log/audit.log\", \"v\": \"2\"}");
    let config = step(&host, "file//etc/k0s/k0s-of-workers.yaml", Verb::Update, vec![args]);
    let gone = step(&host, "package/nvidia-cuda-compat", Verb::Remove, Vec::new());
    let gone =
        Step { why: Some("No longer in the inventory; it was installed in an earlier run".into()), ..gone };
    let at = plan.targets.iter().position(|t| t.target == host).expect("the host");
    plan.targets[at].steps.extend([step(&host, drop_in, Verb::Create, Vec::new()), config, gone]);
    plan.targets[at].warnings =
        vec!["the clock is 3 s behind that of this machine; chrony corrects it".into()];
    plan.reschedule(&inventory);
    plan.impact = impact(&plan, &inventory, &past());
    let by_host = {
        let mut plan = plan.clone();
        plan.targets.retain(|t| ["cp-1", "h-001"].contains(&t.target.to_string().as_str()));
        plan
    };
    let catalog = Catalog::builtin().expect("the catalog");
    let dir = tempfile::tempdir().expect("a folder");
    let site = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        load(&path, &catalog).map_err(|found| {
            let place = dir.path().display().to_string();
            let text = |width, color| found.render_within(color, width).replace(&place, "inventories/ams");
            [false, true].map(|color| [Some(60), Some(100), Some(200)].map(|width| text(width, color)))
        })
    };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack/inventory.yaml");
    let example = std::fs::read_to_string(example).expect("the example");
    let upgraded = example
        .replace("580.178.04", "595.91.07")
        .replace("nodePort: 30081", "nodePort: 30090")
        .replace("h-[001-064]\": {address: \"10.20.1.[1-64]\"", "h-[002-065]\": {address: \"10.20.1.[2-65]\"")
        .replace("10.21.1.[1-64]", "10.21.1.[2-65]");
    let upgraded = site("upgraded.yaml", upgraded).unwrap_or_else(|_| panic!("it is valid")).inventory;
    let diff = comparison_text(&compare(&inventory, &upgraded, &catalog));
    let diff = diff.replace(&dir.path().display().to_string(), "inventories/ams");
    let mistakes = GOOD
        .replacen("role: controller", "rol: controller", 1)
        .replace("secret: hf", "secret: hff")
        .replace("count: 8", "count: 8, cuont: 9")
        .replace("replicas: 2", "replicas: -2");
    let Err([plain, coloured]) = site("mistakes.yaml", mistakes) else { panic!("it has mistakes") };
    let by_width = |texts: [String; 3]| -> Screen {
        Box::new(move |width| match width {
            Some(60) => texts[0].clone(),
            Some(100) => texts[1].clone(),
            _ => texts[2].clone(),
        })
    };
    let measure = |test: &str, value, unit: &str| Measure {
        test: test.into(),
        value,
        unit: unit.into(),
        floor: None,
        median: None,
    };
    let mut sick = unhealthy();
    sick.measures = vec![
        measure("all-reduce", 412.5, "GB/s"),
        measure("h2d", 55.1, "GB/s"),
        measure("copy", 2710.0, "GB/s"),
    ];
    let health = health_lines("h-001", &sick, false) + &health_lines("h-002.ams.example.net", &sick, true);
    let kind = FailureKind::Preflight;
    let stop = Failure::new(
        kind,
        "E-DISK",
        "/var/lib/k0s has 11 GiB free, and the images of its models need 96 GiB",
    )
    .hint("Free up disk space, or mount a larger file system there (check with: df -h /var/lib/k0s)");
    let mut port = Failure::new(kind, "E-PORT", "port 6443 is in use by another program")
        .hint("Stop it; `provision support cp-1 -i inventories/ams` collects what is known");
    port.tail =
        vec!["LISTEN 0 4096 *:6443 *:* users:((\"haproxy\",pid=812,fd=7)) since 2026-11-20 04:05".into()];
    let warning = provision::role::Finding {
        code: "W-CLOCK",
        message: "the clock is 3 s behind that of this machine".into(),
        hint: "Nothing to do: `apply` sets up chrony".into(),
    };
    let preflight =
        preflight_lines("cp-1", &[stop, port], &[warning], false) + &preflight_lines("cp-2", &[], &[], false);
    let of_plan = |plan: Plan, hosts: bool, verbose: bool| -> Screen {
        Box::new(move |width| plan_text(&plan, &PlanView { width, ..view(hosts, verbose) }))
    };
    let mut drift = Drift::of(&plan);
    for difference in &mut drift.differences {
        match difference.resource.kind().as_str() {
            "package" | "reboot" => difference.origin = Some(Origin::Inventory),
            "ModelRoute" => difference.changed_by = vec!["kubectl-edit".into(), "argocd-controller".into()],
            _ => {}
        }
    }
    let timeout = Unobserved {
        target: "h-031".into(),
        code: Some("E-SSH-TIMEOUT".into()),
        message: "10.20.1.31:22 does not answer within 15 s".into(),
    };
    drift.unobserved.push(timeout);
    let product = catalog.product("h100-sxm5-80gb").expect("known").into_owned();
    let products = catalog.clone();
    vec![
        ("plan", of_plan(plan, false, false)),
        ("plan-hosts", of_plan(by_host, true, true)),
        ("drift", Box::new(move |width| drift_text(&drift, "-i inventories/ams", width))),
        ("summary", Box::new(|_| summary())),
        ("status", Box::new(|width| status_text(&troubled(), width))),
        ("status-healthy", Box::new(|width| status_text(&healthy(), width))),
        ("diff", Box::new(move |_| diff.clone())),
        ("validate", by_width(plain)),
        ("validate-coloured", by_width(coloured)),
        ("preflight", Box::new(move |_| preflight.clone())),
        ("verify", Box::new(move |_| health.clone())),
        ("catalog", Box::new(move |width| catalog_text(&catalog, width))),
        ("catalog-product", Box::new(move |width| product_text(&products, &product, width))),
    ]
}

#[test]
fn every_screen_has_a_golden_text_at_60_100_and_200_columns() {
    for (name, screen) in screens() {
        let at = |width| format!("{width} columns\n{}", fit(&screen(Some(width)), Some(width)));
        let all = [60, 100, 200].map(at).join("\n");
        insta::assert_snapshot!(format!("columns-{name}"), all.replace('\u{1b}', "␛"));
    }
}

/// Returns whether a line has nothing that it could be broken at: a mark, and one word or one command.
fn is_unbreakable(line: &str) -> bool {
    let line = line.trim_start();
    let line = ["= ", "| ", "--> ", "~ ", "+ ", "- ", "> "]
        .iter()
        .find_map(|m| line.strip_prefix(m))
        .unwrap_or(line);
    !line.contains(' ') || line.starts_with("provision ") || line.starts_with('`')
}

#[test]
fn no_line_of_a_screen_is_wider_than_the_terminal() {
    let screens = screens();
    for width in 60..=200 {
        for (name, screen) in screens.iter().filter(|(name, _)| !name.starts_with("validate")) {
            let text = screen(Some(width));
            for line in fit(&text, Some(width)).lines() {
                assert!(line.width() <= width || is_unbreakable(line), "{name} at {width}: {line}");
            }
            assert_eq!(fit(&text, None), text, "{name}: no limit without a terminal");
        }
    }
}

proptest! {
    #[test]
    fn wrapped_text_has_all_words_and_fits(
        words in prop::collection::vec("[a-z0-9日e\u{301}.·|=~]{1,24}", 1..60),
        lead in 0usize..8,
        width in 60usize..=200,
    ) {
        let text = " ".repeat(lead) + &words.join(" ");
        let fitted = fit(&text, Some(width));
        for line in fitted.lines() {
            prop_assert!(line.width() <= width, "{line}");
        }
        let words = |text: &str| text.split_whitespace().filter(|w| *w != "|").collect::<String>();
        prop_assert_eq!(words(&fitted), words(&text));
        prop_assert_eq!(fit(&fitted, Some(width)), fitted);
    }
}

/// Returns what a command prints on a terminal of so many columns.
fn on_terminal(columns: u16, arguments: &[&str]) -> String {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use std::io::Read;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let ours = openpt(flags).expect("a terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal of this user");
    let theirs = ioctl_tiocgptpeer(&ours, flags).expect("its other end");
    let size = rustix::termios::Winsize { ws_col: columns, ws_row: 50, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).expect("a size");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null())
        .stdout(theirs.try_clone().expect("a copy"))
        .stderr(theirs)
        .spawn()
        .expect("the binary runs");
    let mut text = Vec::new();
    // The end of a terminal is an error.
    let _ = std::fs::File::from(ours).read_to_end(&mut text);
    child.wait().expect("it ends");
    String::from_utf8_lossy(&text).replace('\r', "")
}

#[test]
fn a_terminal_gets_lines_that_fit_and_a_pipe_gets_them_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("site.yaml");
    std::fs::write(&path, GOOD.replace("count: 8", "count: 8, cuont: 9")).expect("written");
    let broken = ["validate", "-i", path.to_str().expect("text")];
    for arguments in [&broken[..], &["catalog"], &["catalog", "h100-sxm5-80gb"], &["history", "show"]] {
        for width in [60, 100, 200] {
            let text = on_terminal(width, arguments);
            assert!(!text.is_empty(), "{arguments:?}");
            for line in text.lines() {
                let fits = line.width() <= usize::from(width);
                assert!(fits || is_unbreakable(line), "{arguments:?} at {width}: {line}");
            }
        }
    }
    let piped = std::process::Command::new(env!("CARGO_BIN_EXE_provision")).arg("catalog").output();
    let piped = String::from_utf8_lossy(&piped.expect("the binary runs").stdout).into_owned();
    assert_eq!(piped, catalog_text(&Catalog::builtin().expect("the catalog"), None));
}
