//! Runs cut short by `kill -9`: at every record of the journal, and at random moments.

use super::story::{Story, text};
use super::twin::site;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// What managed files may be at any moment: as they were, or as they will be. `/etc/hosts` is managed by the line.
struct Halves {
    old: BTreeMap<PathBuf, String>,
    seen: Vec<(String, BTreeMap<PathBuf, String>)>,
}

impl Halves {
    fn new(story: &Story) -> Self {
        Self { old: story.tree(), seen: Vec::new() }
    }

    /// Looks at all files, right after a kill.
    fn look(&mut self, story: &Story, when: String) {
        self.seen.push((when, story.tree()));
    }

    /// Asserts that none was ever anything but the old or the new one.
    fn settle(self, story: &Story) {
        let new = story.tree();
        let managed = story.managed();
        assert!(managed.len() > 10, "{managed:?}");
        for (when, seen) in &self.seen {
            for path in &managed {
                let now = seen.get(path);
                assert!(
                    now == self.old.get(path) || now == new.get(path),
                    "{} is neither the old nor the new one, {when}",
                    path.display()
                );
            }
            for (path, now) in seen.iter().filter(|(path, _)| path.ends_with("etc/hosts")) {
                let lines = |tree: &BTreeMap<PathBuf, String>| -> BTreeSet<String> {
                    tree.get(path).into_iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
                };
                let (old, new, now_lines) = (lines(&self.old), lines(&new), lines(seen));
                assert!(new.len() > 1, "a line of ours is in it: {new:?}");
                assert!(
                    old.intersection(&new).all(|l| now_lines.contains(l))
                        && now_lines.iter().all(|l| old.contains(l) || new.contains(l))
                        && (now.is_empty() || now.ends_with('\n')),
                    "a line of {} is neither the old nor the new one, {when}: {now}",
                    path.display()
                );
            }
        }
    }
}

#[test]
#[ignore = "minutes, and by itself: tests/run runs it"]
fn killed_at_every_journal_record_a_run_is_made_good() {
    let story = Story::of(&site(1));
    story.up();
    let mut points = Vec::new();
    let mut kill = |story: &Story, halves: &mut Halves, at: &str| -> bool {
        let output = story.apply(&["--fault", &format!("kill@{at}")]);
        halves.look(story, format!("killed at record {at}"));
        match output.status.code() {
            Some(0) => false,
            None => {
                let last = story.last_record().expect("a record");
                let journal_too = points.len().is_multiple_of(2);
                points.push(last);
                if journal_too {
                    story.forget_journals(); // the journal is only a cache
                }
                true
            }
            code => panic!("{code:?}: {}", text(&output)),
        }
    };
    // From nothing to a served model, cut ever later.
    let mut halves = Halves::new(&story);
    let cuts = (1..).take_while(|n| kill(&story, &mut halves, &n.to_string())).count();
    assert!(cuts > 5, "{cuts} cuts");
    story.all_up();
    story.applied();
    halves.settle(&story);
    story.is_tidy();

    // Small drift on a running site, one that drains; made anew before each cut.
    let drift = || {
        let _ = std::fs::remove_file(story.file("w-1", "/etc/security/limits.d/90-provision.conf"));
        let _ = std::fs::remove_file(story.file("h-1", "/var/lib/provision/k0s.started"));
    };
    drift();
    let mut halves = Halves::new(&story);
    story.applied();
    let records = story.records();
    for n in 1.. {
        // What a cut leaves makes the next run longer; the last records are reached from a site that was as wanted.
        if n + 3 > records {
            story.applied();
        }
        drift();
        if !kill(&story, &mut halves, &n.to_string()) {
            assert!(n + 3 > records, "it ended before record {n} of {records}");
            break;
        }
    }
    // Targets run side by side, so which record is the Nth changes from run to run; each kind once for certain.
    let every = ["begun", "started", "done", "draining", "drained", "verified", "uncordoned", "finished"];
    for transition in every {
        story.applied();
        drift();
        assert!(kill(&story, &mut halves, transition), "no record {transition} was written");
    }
    story.applied();
    let node = story.node("h-1").expect("the node");
    assert!(node["spec"]["unschedulable"].is_null(), "back in service: {node}");
    halves.settle(&story);
    story.is_tidy();
    let missing: Vec<&str> = every.into_iter().filter(|k| !points.iter().any(|p| p == k)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "every kind of record was a cut: {points:?}");
}

/// A small generator (SplitMix64), so that a seed makes the same moments again.
struct Moments(u64);

impl Moments {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

#[test]
#[ignore = "minutes, and by itself: tests/run runs it"]
fn killed_at_random_moments_a_run_is_made_good() {
    let seed = std::env::var("PROVISION_KILL_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("PROVISION_KILL_SEED={seed} makes the same moments again");
    let mut moments = Moments(seed);
    let story = Story::of(&site(1));
    story.up();
    let mut halves = Halves::new(&story);
    for n in 0..10 {
        let mut child = story.spawn(&["--quiet"]);
        let moment = Duration::from_millis(moments.below(2500));
        std::thread::sleep(moment);
        let _ = child.kill();
        let _ = child.wait();
        halves.look(&story, format!("killed at {moment:?}, number {n} of seed {seed}"));
        if moments.below(2) == 0 {
            story.forget_journals();
        }
    }
    story.all_up();
    story.applied();
    halves.settle(&story);
    story.is_tidy();
}
