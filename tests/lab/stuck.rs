//! Hosts that never come in, and what waits for them: a run ends by itself, and at the first signal.

use crate::story::{Story, text};
use crate::twin::{rest, signal, until_said};
use std::time::{Duration, Instant};

/// A run that waits for a cluster that never gets there ends within this time here, a busy machine included; what it
/// waited for before had deadlines of 10 minutes and more.
const MOST: Duration = Duration::from_secs(240);

/// Runs `lab run` with faults; returns its exit code and what it said, once it has ended and its hosts are down.
fn lab_run(faults: &[&str]) -> (Option<i32>, String) {
    let story = Story::new();
    let at = story.at();
    let mut words = vec!["lab", "run", &at];
    words.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
    // Not a pipe: nobody reads while it runs.
    let path = story.dir.path().join("said");
    let file = std::fs::File::create(&path).expect("made");
    let both = file.try_clone().expect("the same file");
    let mut child = story.command(&words).stdout(file).stderr(both).spawn().expect("it starts");
    let said = || std::fs::read_to_string(&path).expect("text");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("its state") {
            break status;
        }
        if began.elapsed() > MOST {
            child.kill().expect("ended");
            child.wait().expect("ended");
            panic!("{faults:?} did not end:\n{}", said());
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let lab = story.run(&["lab", "status", &at]);
    assert!(text(&lab).contains("LAB: not running"), "{}", text(&lab));
    (status.code(), said())
}

/// Every host that could be a node, with the same fault.
fn all_workers(kind: &str) -> [String; 4] {
    ["w-1", "h-1", "b-1", "t-1"].map(|host| format!("{host}={kind}"))
}

#[test]
fn without_any_worker_a_run_ends_and_says_what_the_scheduler_says() {
    for kind in ["disk-full", "lost"] {
        let faults = all_workers(kind);
        let (code, said) = lab_run(&faults.each_ref().map(String::as_str));
        assert_eq!(code, Some(1), "{kind}: {said}");
        let why = "not scheduled: no nodes available to schedule pods";
        assert!(said.contains("[E-UNSCHEDULABLE]") && said.contains(why), "{kind}: {said}");
    }
}

#[test]
fn without_one_worker_a_run_ends_and_the_others_serve() {
    let (code, said) = lab_run(&["w-1=disk-full"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("w-1 failed [E-NO-SPACE]") && said.contains("LAB echo from qwen-gpu-"), "{said}");
}

#[test]
fn a_run_that_waits_for_the_cluster_ends_at_the_first_signal() {
    let story = Story::new();
    let at = story.at();
    let faults = all_workers("disk-full");
    let mut words = vec!["lab", "up", &at];
    words.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
    let up = story.run(&words);
    assert!(up.status.success(), "{}", text(&up));
    let mut run = story.spawn(&["-v"]);
    let before = until_said(&mut run, "not scheduled: no nodes");
    signal(&run, rustix::process::Signal::TERM);
    let (code, said) = rest(run);
    assert_eq!(code, Some(130), "{before}{said}");
    assert!(!said.contains("E-UNSCHEDULABLE"), "it did not wait for that: {said}");
    let after = said.split_once("starting no new ones").map_or("", |(_, after)| after);
    assert!(!after.is_empty() && !after.contains(" started"), "{said}");
}
