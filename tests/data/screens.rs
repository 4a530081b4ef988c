//! Golden files of screens, each reviewed by a person.

use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::plan::{Past, Plan, RolloutOrder, TargetPlan, impact};
use provision::reconciler::{Cause, CauseKind};
use provision::report::{
    AcceleratorView, CertificateView, ControllerView, Ended, Failed, NodesView, PlanView, PoolHealth,
    Problem, RouteView, StatusView, WorkloadView, plan_text, run_summary, status_text,
};
use provision::role::health::{Finding, Health, Verdict};
use provision::serving::Part;
use provision::state::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

fn rack() -> Inventory {
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
fn upgrade(inventory: &Inventory, past: &Past) -> Plan {
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
    });
    let mut plan = Plan {
        format: 1,
        inventory: inventory.name.clone(),
        inventory_digest: String::new(),
        lock_digest: "3f2a91c".into(),
        lab: false,
        targets,
        skipped: BTreeMap::from([("h-063".into(), "RMA 4711".to_owned())]),
        out_of_service: Default::default(),
        waves: BTreeMap::new(),
        backup_first: false,
        impact: Default::default(),
        sources: None,
    };
    plan.reschedule(inventory);
    plan.impact = impact(&plan, inventory, past);
    plan
}

fn past() -> Past {
    let minutes = |m: u64| m * 60_000;
    Past {
        runs: 5,
        by_resource: BTreeMap::from([("reboot/nvidia".into(), minutes(5))]),
        by_kind: [("package", 1), ("file", 0), ("command", 0), ("ModelRoute", 0)]
            .map(|(k, m)| (k.to_owned(), minutes(m)))
            .into(),
    }
}

fn view(hosts: bool, verbose: bool) -> PlanView {
    let observed_in = Some(Duration::from_millis(900));
    PlanView { hosts, verbose, observed_in, place: "-i inventories/ams".into() }
}

#[test]
fn a_plan_says_what_changes_how_and_for_how_long() {
    let inventory = rack();
    let plan = upgrade(&inventory, &past());
    insta::assert_snapshot!("plan", plan_text(&plan, &view(false, false)));
    let impact = &plan.impact;
    // 64 hosts: one, then 10 % of them at once, 12 waves of two packages and a reboot, 7 minutes each.
    assert_eq!(impact.about_s, Some(12 * 7 * 60));
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

#[test]
fn a_failure_is_shown_with_its_cause_its_budget_and_what_to_do() {
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
    insta::assert_snapshot!("summary", run_summary(&ended));
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
    insta::assert_snapshot!("status", status_text(&view));
}

#[test]
fn what_pods_can_have_is_not_called_healthy() {
    let mut view = troubled();
    assert!(!status_text(&view).contains("/512 healthy"));
    let health = &mut view.accelerators[0].health;
    *health = PoolHealth { not_tested: vec!["h-001".into(), "h-002".into()], ..PoolHealth::default() };
    assert!(status_text(&view).contains("h100 503/512 allocatable, not tested"), "{}", status_text(&view));
    let health = &mut view.accelerators[0].health;
    health.add("h-003".into(), &Health { verdict: Verdict::Healthy, ..unhealthy() }, 300, "verify");
    let text = status_text(&view);
    assert!(text.contains("allocatable, 1/3 hosts healthy (verify 5 min ago), 2 hosts not tested"), "{text}");
}

#[test]
fn a_status_of_a_healthy_cluster_is_short() {
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
    assert!(!view.is_troubled());
    insta::assert_snapshot!("status-healthy", status_text(&view));
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
