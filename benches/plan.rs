//! Planning observed hosts that all change: steps, order, waves, estimate. Bounds: 1,000 hosts in 1 s, 10,000 in 5 s, linear, and
//! under 100 KB a host.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::plan::{Past, PlanInput, build};
use provision::state::*;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Resources of each host.
const RESOURCES: usize = 40;
/// Runs of each size; the middle one counts.
const RUNS: usize = 3;
/// Hosts, and the most that planning them may take, in seconds.
const BOUNDS: [(usize, f64); 2] = [(1_000, 1.0), (10_000, 5.0)];
/// The most memory a host, in KB.
const MOST_KB: f64 = 100.0;

fn inventory(hosts: usize) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: bench}}\ncluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  \
         network: {{podCIDR: 10.128.0.0/9, serviceCIDR: 10.96.0.0/16}}\npools:\n  control:\n    role: controller\n    \
         hosts: {{\"cp-[1-3]\": {{address: \"172.31.0.[1-3]\"}}}}\n  w:\n    role: worker\n    disruption: {{maxUnavailable: 10%}}\n    \
         hosts: {{\"w-[00001-{hosts:05}]\": {{address: \"w-[00001-{hosts:05}].example.net\"}}}}\n"
    );
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    load(&dir.path().join("site.yaml"), &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
}

/// A host on which every resource differs, the last one a reboot.
fn observed(host: &HostName) -> (TargetId, Result<Observed, Failure>) {
    let file = |n: usize| {
        Spec::File(File {
            path: format!("/etc/bench/{n:02}.conf"),
            content: Content::Text(format!("a line of {n}\n").repeat(8)),
            mode: 0o644,
            owner: "root:root".into(),
            validate: None,
        })
    };
    let mut desired: Vec<Resource> = (1..RESOURCES).map(|n| Resource::new("base", file(n))).collect();
    let reboot = Reboot { name: "bench".into(), guard: "true".into(), when_changed: Vec::new() };
    let mut reboot = Resource::new("base", Spec::Reboot(reboot));
    reboot.hazards = vec![Hazard::Reboot];
    desired.push(reboot);
    let target = TargetId::Host(host.clone());
    let seen: BTreeMap<ResourceId, Observation> =
        desired.iter().map(|r| (r.id.clone(), Observation::Absent)).collect();
    let observed = Observed {
        target: target.clone(),
        facts: Facts::default(),
        desired,
        seen,
        orphans: Vec::new(),
        warnings: Vec::new(),
    };
    (target, Ok(observed))
}

/// The memory that this process holds, in KB.
fn held_kb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse().ok()).unwrap_or(0.0)
}

fn main() -> ExitCode {
    println!("{}", kit::machine());
    let past = Past {
        runs: 1,
        by_resource: BTreeMap::new(),
        by_kind: BTreeMap::from([("file".into(), 50), ("reboot".into(), 60_000)]),
        ..Past::default()
    };
    let mut bounds = kit::Bounds::default();
    let mut each: Vec<f64> = Vec::new();
    for (hosts, bound) in BOUNDS {
        let inventory = inventory(hosts);
        let mut times: Vec<Duration> = Vec::new();
        let mut kb = 0.0;
        for _ in 0..RUNS {
            let observed = inventory.hosts.keys().map(observed).collect();
            let (before, began) = (held_kb(), Instant::now());
            let plan = build(PlanInput {
                inventory: &inventory,
                lock_digest: String::new(),
                lab: false,
                observed,
                nodes: Some(inventory.hosts.keys().cloned().collect()),
                out_of_service: Default::default(),
                bare_pods: BarePods::new(),
                past: past.clone(),
            });
            times.push(began.elapsed());
            kb = f64::max(kb, (held_kb() - before) / hosts as f64);
            assert_eq!(plan.steps(), (hosts + 3) * RESOURCES);
            assert_eq!(plan.waves["w"].waves.len(), 11, "a canary, and 10 % of the others at once");
        }
        let seconds = kit::median(&times).as_secs_f64();
        each.push(seconds / hosts as f64);
        bounds.hold(&format!("planning {hosts} hosts of {RESOURCES} changes"), seconds, bound, "s");
        bounds.hold("memory of the plan", kb, MOST_KB, "KB a host");
    }
    bounds.hold("a host among 10,000 compared with one among 1,000", each[1] / each[0], 2.0, "times as long");
    bounds.verdict()
}
