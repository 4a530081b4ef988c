//! A rack of 69 hosts in the lab: how long it takes and how much memory the whole process tree holds. Minutes, so it is not
//! part of `cargo test`; `tests/run` runs it.

use crate::story::{Story, text};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The most that the tree may hold, in KiB.
const MOST_KIB: u64 = 4 << 20;
/// The most that bringing the rack up and applying may take. A bound of the product, not of this machine: two processors
/// keep it with a debug build while other builds run.
const MOST_TIME: Duration = Duration::from_secs(300);

/// Returns the resident memory of a process and all below it, in KiB. Shared pages count once for each.
fn tree_kib(top: u32) -> u64 {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut resident: HashMap<u32, u64> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
        // A process that ended meanwhile holds nothing.
        let pages = read("statm").split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0u64);
        resident.insert(pid, pages * rustix::param::page_size() as u64 / 1024);
    }
    let (mut total, mut left) = (0, vec![top]);
    while let Some(pid) = left.pop() {
        total += resident.get(&pid).copied().unwrap_or(0);
        left.extend(children.get(&pid).into_iter().flatten());
    }
    total
}

#[test]
#[ignore = "takes minutes: tests/run runs it"]
fn a_rack_of_69_hosts_applies_within_five_minutes_and_4_gib() {
    let rack = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack/inventory.yaml");
    let story = Story::of(&std::fs::read_to_string(rack).expect("the example"));
    let at = story.at();
    let began = Instant::now();
    let mut apply = story.command(&["apply", "--yes", "-i", &at, "--lab"]);
    let out = std::fs::File::create(story.dir.path().join("out")).expect("made");
    apply.stdout(out.try_clone().expect("a copy")).stderr(out);
    let mut apply = apply.spawn().expect("the binary runs");
    // The lab is brought up by the command, and so in its tree.
    let mut peak = 0;
    let status = loop {
        peak = tree_kib(apply.id()).max(peak);
        if let Some(status) = apply.try_wait().expect("waited for") {
            break status;
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let took = began.elapsed();
    let shown = std::fs::read_to_string(story.dir.path().join("out")).expect("read");
    println!("69 hosts: {} s, {} MiB at the most in the whole process tree", took.as_secs(), peak >> 10);
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.contains("70 of 70 targets converged"), "{shown}");
    assert!(peak > 0 && peak < MOST_KIB, "{} MiB", peak >> 10);
    assert!(took < MOST_TIME, "{} s", took.as_secs());
    let down = story.run(&["lab", "down", &at]);
    assert!(text(&down).contains("was not up"), "it ended with the command that brought it up");
}
