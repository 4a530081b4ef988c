//! The record of runs on a lab: complete after runs from two machines, and found out where somebody edits it, removes from it or cuts
//! it off.

use crate::story::{Story, text};
use std::path::PathBuf;

struct Kept {
    story: Story,
}

impl Kept {
    fn folder(&self) -> PathBuf {
        self.story.kept("runs").join("records-lab")
    }

    fn chain(&self) -> String {
        std::fs::read_to_string(self.folder().join("chain")).expect("the chain")
    }

    fn write_chain(&self, text: &str) {
        std::fs::write(self.folder().join("chain"), text).expect("written");
    }

    /// Verifies, here alone or with hosts and cluster; returns whether all is well, and what was said.
    fn verify(&self, more: &[&str]) -> (bool, String) {
        let at = self.story.at();
        let output = self.story.run(&[&["history", "verify", "-i", &at], more].concat());
        (output.status.success(), text(&output))
    }

    fn wrong(&self, more: &[&str], why: &str) {
        let (ok, said) = self.verify(more);
        assert!(!ok && said.contains(why) && said.contains("error[E-RECORD]"), "{why}: {said}");
    }

    fn apply(&self) {
        let output = self.story.apply(&[]);
        assert!(output.status.success(), "{}", text(&output));
    }

    fn edit(&self, to: &str) {
        let file = self.story.inventory.join("inventory.yaml");
        let before = std::fs::read_to_string(&file).expect("read");
        let os = before.lines().position(|line| line.starts_with("os:"));
        let mut lines: Vec<String> = before.lines().map(str::to_owned).collect();
        let line = format!("os: {{sysctls: {{fs.inotify.max_user_instances: \"{to}\"}}}}");
        match os {
            Some(at) => lines[at] = line,
            None => lines.push(line),
        }
        std::fs::write(&file, lines.join("\n") + "\n").expect("written");
    }
}

#[test]
fn records_are_complete_and_whoever_touches_them_is_found_out() {
    let kept = Kept { story: Story::new() };
    let story = &kept.story;
    story.up();
    kept.apply();
    let (ok, said) = kept.verify(&[]);
    assert!(ok && said.contains("2 records, ") && said.contains(": complete; head 2 "), "{said}");
    let (ok, said) = kept.verify(&["--offline"]);
    assert!(ok, "{said}");

    // Who, what, every step.
    let list = text(&story.run(&["history", "-i", &story.at()]));
    let run = list.split_whitespace().next().expect("a run").to_owned();
    let shown = text(&story.run(&["history", "show", &run, "-i", &story.at()]));
    assert!(
        shown.contains("apply by ") && shown.contains("ended at ") && shown.contains("exit code 0"),
        "{shown}"
    );
    let json = story.run(&["history", "show", &run, "-i", &story.at(), "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let begun = &json["record"]["begun"];
    assert!(
        begun["plan"].as_str().is_some_and(|digest| digest.len() == 64) && begun["lab"] == true,
        "{begun}"
    );
    let steps = std::fs::read_to_string(kept.folder().join(&run).join("w-1.json")).expect("steps");
    let steps: serde_json::Value = serde_json::from_str(&steps).expect("JSON");
    let steps = steps.as_array().expect("a list");
    assert!(
        steps.len() > 10
            && steps.iter().all(|s| s["result"] != "failed" && s["started"].is_string())
            && steps.iter().any(|s| s["result"] == "done" && s["ended"].is_string()),
        "{steps:#?}"
    );
    // The hosts have theirs, and the cluster the head.
    let on_host =
        std::fs::read_to_string(story.file("w-1", "/var/lib/provision/records/chain")).expect("on the host");
    assert_eq!(on_host, kept.chain());
    assert!(story.file("w-1", &format!("/var/lib/provision/records/{run}.steps.json")).is_file());

    // A second run, and one from another machine without any of this.
    kept.edit("16384");
    kept.apply();
    assert_eq!(kept.chain().lines().count(), 4);
    let whole = kept.chain();
    let elsewhere = story.dir.path().join("elsewhere");
    std::fs::rename(kept.folder(), &elsewhere).expect("moved away");
    kept.edit("32768");
    kept.apply();
    let theirs = kept.chain();
    assert!(theirs.starts_with("{\"sequence\":5,") && theirs.contains("\"continued\":true"), "{theirs}");
    // The same machine by its name: what is only on hosts was made here.
    kept.wrong(&[], "was made on this machine and is only on");
    std::fs::rename(kept.folder(), story.dir.path().join("theirs")).expect("moved away");
    std::fs::rename(&elsewhere, kept.folder()).expect("back");
    kept.wrong(&[], "record 5 was made on this machine and is only on");
    for entry in std::fs::read_dir(story.dir.path().join("theirs")).expect("read").flatten() {
        if entry.file_name() != "chain" {
            std::fs::rename(entry.path(), kept.folder().join(entry.file_name())).expect("moved");
        }
    }
    kept.write_chain(&(whole.clone() + &theirs));
    let (ok, said) = kept.verify(&[]);
    assert!(ok && said.contains("6 records"), "{said}");
    let whole = kept.chain();
    let lines: Vec<&str> = whole.lines().collect();

    // Cut off at the end: only others can tell.
    kept.write_chain(&(lines[..4].join("\n") + "\n"));
    let (ok, said) = kept.verify(&["--offline"]);
    assert!(ok, "{said}");
    kept.wrong(&[], "record 5 was made on this machine and is only on");
    for host in ["cp-1", "w-1", "h-1", "b-1", "t-1"] {
        let _ = std::fs::remove_file(story.file(host, "/var/lib/provision/records/chain"));
    }
    kept.wrong(&[], "records 5 to 6 are missing: the cluster knows of 6");
    // Removed, moved, edited: nobody else is needed.
    let without: Vec<&str> =
        lines.iter().enumerate().filter(|(n, _)| *n != 2).map(|(_, line)| *line).collect();
    kept.write_chain(&(without.join("\n") + "\n"));
    kept.wrong(&["--offline"], "record 3 is missing");
    kept.write_chain(
        &[lines[1], lines[0], lines[2], lines[3], lines[4], lines[5]].map(|l| format!("{l}\n")).concat(),
    );
    kept.wrong(&["--offline"], "record 1 is out of order");
    kept.write_chain(&whole.replacen("\"machine\":\"", "\"machine\":\"x", 1));
    kept.wrong(&["--offline"], "record 2 does not follow the one before it");
    kept.write_chain(&whole);
    let file = kept.folder().join(format!("{run}.begun.json"));
    let before = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, before.replacen("\"steps\": ", "\"steps\": 1", 1)).expect("edited");
    kept.wrong(&["--offline"], &format!("the record of run {run} (begun) was changed"));
    std::fs::write(&file, before).expect("restored");
    let file = kept.folder().join(&run).join("w-1.json");
    let before = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, before.replacen("done", "failed", 1)).expect("edited");
    kept.wrong(&["--offline"], &format!("the steps of run {run} on w-1 were changed"));
    std::fs::remove_file(&file).expect("removed");
    kept.wrong(&["--offline"], &format!("the steps of run {run} on w-1 are missing"));
    std::fs::write(&file, before).expect("restored");
    let (ok, said) = kept.verify(&[]);
    assert!(ok, "{said}");
}

/// A run that was killed is on record: it began, and has no end.
#[test]
fn a_run_that_was_killed_is_on_record() {
    let kept = Kept { story: Story::new() };
    kept.story.up();
    let killed = kept.story.apply(&["--fault", "kill@5"]);
    assert!(!killed.status.success());
    let (ok, said) = kept.verify(&["--offline"]);
    assert!(
        ok && said.contains("1 record, ") && said.contains("runs without an end, in progress or cut off: "),
        "{said}"
    );
    kept.apply();
    let (ok, said) = kept.verify(&[]);
    assert!(ok && said.contains("3 records, "), "{said}");
}
