//! A rack of 69 hosts in the lab: how long it takes, how much memory the whole process tree holds, that a second apply has
//! nothing to do, and what a driver upgrade of all of it would mean. Minutes, so it is not part of `cargo test`;
//! `tests/run` runs it.

use crate::story::{Story, text};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most that the tree may hold, in KiB.
const MOST_KIB: u64 = 4 << 20;

/// Returns the memory of a process and all below it, in KiB. Pages that several share, such as those of the one program that
/// nearly all of them are, count once between them (`Pss`, proc_pid_smaps(5)); of a process that does not tell, in full.
fn tree_kib(top: u32) -> u64 {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut memory: HashMap<u32, u64> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
        let rollup = read("smaps_rollup");
        let share =
            rollup.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().split(' ').next()?.parse().ok());
        // A process that ended meanwhile holds nothing.
        let pages = || read("statm").split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0u64);
        let all = || pages() * rustix::param::page_size() as u64 / 1024;
        memory.insert(pid, share.unwrap_or_else(all));
    }
    let (mut total, mut left) = (0, vec![top]);
    while let Some(pid) = left.pop() {
        total += memory.get(&pid).copied().unwrap_or(0);
        left.extend(children.get(&pid).into_iter().flatten());
    }
    total
}

/// Returns the process of the lab, as `lab status` names it.
fn lab_pid(story: &Story) -> u32 {
    let said = text(&story.run(&["lab", "status", &story.at()]));
    let pid = said.split_once("(pid ").and_then(|(_, rest)| rest.split_once(')')).map(|(pid, _)| pid);
    pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("it is up: {said}"))
}

fn json(story: &Story, words: &[&str]) -> Value {
    let output = story.run(&[words, &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(2), "changes are pending: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

#[test]
#[ignore = "takes minutes: tests/run runs it"]
fn a_rack_of_69_hosts_applies_within_five_minutes_and_4_gib() {
    let rack = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack/inventory.yaml");
    let story = Story::of(&std::fs::read_to_string(rack).expect("the example"));
    let at = story.at();
    let began = Instant::now();
    story.up();
    let lab = lab_pid(&story);
    let mut apply = story.command(&["apply", "--yes", "-i", &at, "--lab"]);
    let out = std::fs::File::create(story.dir.path().join("out")).expect("made");
    apply.stdout(out.try_clone().expect("a copy")).stderr(out);
    let mut apply = apply.spawn().expect("the binary runs");
    let mut peak = 0;
    let status = loop {
        peak = (tree_kib(apply.id()) + tree_kib(lab)).max(peak);
        if let Some(status) = apply.try_wait().expect("waited for") {
            break status;
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let took = began.elapsed();
    let shown = std::fs::read_to_string(story.dir.path().join("out")).expect("read");
    println!("69 hosts: {} s, {} MiB at the most in the whole process tree", took.as_secs(), peak >> 10);
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.contains("70/70 targets converged"), "{shown}");
    assert!(peak > 0 && peak < MOST_KIB, "{} MiB", peak >> 10);

    second_apply_is_empty(&story);
    driver_upgrade_is_told(&story);
}

fn second_apply_is_empty(story: &Story) {
    let at = story.at();
    let output = story.run(&["apply", "--yes", "-i", &at, "--lab"]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("in sync: 69 hosts, 1 cluster"), "{shown}");
}

/// The plan of a driver upgrade lists drains, restarts and reboots per wave, and `diff` says the same of the inventories.
fn driver_upgrade_is_told(story: &Story) {
    let at = story.at();
    let file = story.inventory.join("inventory.yaml");
    let text_before = std::fs::read_to_string(&file).expect("read");
    let before = story.dir.path().join("before.yaml");
    std::fs::write(&before, &text_before).expect("written");
    let after = text_before.replace("580.178.04", "595.91.07");
    assert_ne!(after, text_before, "the example has the older driver");
    std::fs::write(&file, after).expect("written");

    let plan = json(story, &["plan", "-i", &at, "--lab"]);
    let pools = plan["outlook"]["pools"].as_array().expect("pools");
    assert_eq!(pools.len(), 1, "only the GPU hosts change: {pools:?}");
    let pool = &pools[0];
    assert_eq!((&pool["pool"], &pool["hosts"], &pool["joining"]), (&"h100".into(), &64.into(), &0.into()));
    let hazards = serde_json::json!({"drain": 64, "reboot": 64, "restart nvidia-fabricmanager": 64});
    assert_eq!(pool["hazards"], hazards);
    // 10 % of 64 hosts are 6 at once, after one that goes alone.
    assert_eq!(pool["turns"], serde_json::json!({"waves": {"waves": 12, "of": 6}}));
    let capacity = &pool["capacity"];
    let least = (64 - 6) * 8;
    assert_eq!((&capacity["all"], &capacity["least"]), (&512.into(), &least.into()));
    for target in plan["targets"].as_array().expect("targets") {
        let steps = target["steps"].as_array().expect("steps");
        let with = |hazard: &str| {
            steps
                .iter()
                .filter(|s| s["hazards"].as_array().expect("hazards").iter().any(|h| h == hazard))
                .count()
        };
        let gpu = target["pool"] == "h100";
        assert_eq!((with("drain") > 0, with("reboot")), (gpu, usize::from(gpu)), "{}", target["target"]);
    }

    let diff = json(story, &["diff", &before.display().to_string(), &file.display().to_string()]);
    let changed = diff["pools"].as_array().expect("pools");
    assert_eq!(changed.len(), 1, "{changed:?}");
    let told = &changed[0];
    assert_eq!(told["pool"], "h100");
    let field = &told["fields"][0];
    let said = [&field["name"], &field["before"], &field["after"]];
    assert_eq!(said, ["accelerator.nvidia.driver", "580.178.04", "595.91.07"], "{field}");
    // The same hosts drain and reboot, and the same capacity stays.
    assert_eq!(told["drains"], pool["hazards"]["drain"]);
    assert_eq!(told["waves"], serde_json::json!([12, 6]));
    assert_eq!(told["reboots"], pool["hazards"]["reboot"]);
    assert_eq!(told["restarts"], serde_json::json!({"nvidia-fabricmanager": 64}));
    assert_eq!(told["capacity"], serde_json::json!([512, least]));
    assert_eq!((&diff["drains"], &diff["reboots"]), (&64.into(), &64.into()));
}
