//! The whole life of one cluster: from one controller to three, one lost and replaced, two minors up with kills on the way, hosts
//! added, retired and reset, all of it backed up, destroyed and restored.

use super::story::{Story, text};
use super::twin::site;
use std::process::Output;

const MINORS: [&str; 3] = ["v1.34.10+k0s.0", "v1.35.7+k0s.0", "v1.36.4+k0s.1"];
/// Every kind of record at which a run can be cut short.
const RECORDS: [&str; 8] =
    ["begun", "started", "done", "draining", "drained", "verified", "uncordoned", "finished"];

/// Controllers of a stage of its life.
fn controllers(hosts: &[(&str, u8)]) -> String {
    let hosts: Vec<String> =
        hosts.iter().map(|(name, last)| format!("\"{name}\": {{address: 127.77.0.{last}}}")).collect();
    format!("    hosts: {{{}}}", hosts.join(", "))
}

/// The lab has all hosts from the start; the inventory takes them in as the cluster grows.
fn all_hosts() -> String {
    let workers = ("w-1: {address: 127.77.0.21}", "\"w-[1-2]\": {address: \"127.77.0.[21-22]\"}");
    let text = site(4).replace(workers.0, workers.1).replace(MINORS[1], MINORS[0]);
    assert!(text.contains(workers.1) && text.contains(MINORS[0]));
    text
}

impl Story {
    fn version_of(&self, node: &str) -> String {
        let node = self.node(node).unwrap_or_else(|| panic!("no node {node}"));
        assert!(node["spec"]["unschedulable"].is_null(), "in service: {node}");
        node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default().to_owned()
    }

    fn ended(&self, words: &[&str], code: i32) -> String {
        let output: Output = self.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
        text(&output)
    }
}

#[test]
fn a_cluster_lives_from_its_first_controller_to_its_restore() {
    let story = Story::of(&all_hosts());
    story.up();
    let at = story.at();
    let file = story.inventory.join("inventory.yaml");
    let whole = std::fs::read_to_string(&file).expect("read");
    let net =
        whole.split("127.").nth(1).and_then(|rest| rest.rsplit_once("[11-")).expect("addresses").0.to_owned();
    let own = |line: &str| line.replace("127.77.0.", &format!("127.{net}"));
    let control = whole.lines().find(|line| line.contains("cp-[1-4]")).expect("controllers").to_owned();
    let stage = |hosts: &[(&str, u8)]| {
        let before = std::fs::read_to_string(&file).expect("read");
        let line = before.lines().find(|line| line.contains("\"cp-")).expect("controllers").to_owned();
        std::fs::write(&file, before.replace(&line, &own(&controllers(hosts)))).expect("written");
    };
    assert!(control.contains("hosts"));

    // One controller, then three.
    stage(&[("cp-1", 11)]);
    story.edit("\"w-[1-2]\": {address: \"127.", "w-1: {address: \"127.");
    story.edit(".[21-22]\"", ".21\"");
    story.applied();
    assert_eq!(story.members(), ["cp-1"]);
    stage(&[("cp-1", 11), ("cp-2", 12), ("cp-3", 13)]);
    story.applied();
    assert_eq!(story.members(), ["cp-1", "cp-2", "cp-3"]);

    // One is lost, and another machine takes its place.
    story.control().inject("cp-2=lost").expect("it answers").expect("injected");
    story.ended(&["reset", "-i", &at, "cp-2", "--lost", "cp-2", "--yes"], 0);
    stage(&[("cp-1", 11), ("cp-3", 13), ("cp-4", 14)]);
    story.applied();
    assert_eq!(story.members(), ["cp-1", "cp-3", "cp-4"]);

    // A minor may not be skipped.
    story.edit(MINORS[0], MINORS[2]);
    let skipped = story.ended(&["plan", "-i", &at], 1);
    assert!(skipped.contains("[E-K0S-SKEW]"), "{skipped}");
    // The next one is planned with what it takes away, and done whatever cuts it short.
    story.edit(
        &format!("version: {}", MINORS[2]),
        &format!(
            "version: {}, config: {{spec: {{featureGates: [{{name: SidecarContainers, enabled: true}}]}}}}",
            MINORS[1]
        ),
    );
    let planned = story.ended(&["plan", "-i", &at], 2);
    assert!(planned.contains("[W-FEATURE-GATE] feature gate SidecarContainers"), "{planned}");
    assert!(planned.contains("quorum 3 · restart k0scontroller 3 · one at a time"), "{planned}");
    // Not even where the controllers are left out.
    for limit in ["w-1", "cp-1,w-1"] {
        let early = story.ended(&["plan", "-i", &at, "--limit", limit], 1);
        assert!(early.contains("[E-K0S-SKEW]") && early.contains("cp-4 (v1.34.10+k0s.0)"), "{early}");
    }
    story.edit(", config: {spec: {featureGates: [{name: SidecarContainers, enabled: true}]}}", "");
    let cut = RECORDS.map(|record| {
        let output = story.apply(&["--fault", &format!("kill@{record}")]);
        assert!(matches!(output.status.code(), None | Some(0)), "{record}: {}", text(&output));
        output.status.code().is_none()
    });
    assert!(cut.iter().filter(|cut| **cut).count() >= 4, "{cut:?}");
    story.applied();
    for node in ["w-1", "h-1"] {
        assert_eq!(story.version_of(node), "v1.35.7+k0s", "{node}");
    }
    let drop_in =
        || std::fs::read_to_string(story.file("h-1", "/etc/k0s/containerd.d/nvidia.toml")).expect("read");
    assert!(drop_in().starts_with("version = 2"), "{}", drop_in());

    // A worker that fails is the canary; the other pools and the controllers are not held up by it, and it is carried on.
    story.edit(MINORS[1], MINORS[2]);
    let upgraded = story.applied();
    let at_line = |what: &str| upgraded.find(what).unwrap_or_else(|| panic!("no `{what}` in {upgraded}"));
    for worker in ["w-1", "h-1"] {
        for controller in ["cp-1", "cp-3", "cp-4"] {
            let (up, began) = (format!("{controller} command/k0s-ready"), format!("draining node {worker}"));
            assert!(at_line(&up) < at_line(&began), "{worker} before {controller}: {upgraded}");
        }
        assert_eq!(story.version_of(worker), "v1.36.4+k0s", "{worker}");
    }
    assert!(drop_in().starts_with("version = 3"), "{}", drop_in());
    assert!(text(&story.run(&["backup", "-i", &at, "--list"])).contains(MINORS[1]));

    // A worker joins, one is retired, one is reset and joins again.
    story.edit("w-1: {address: \"127.", "\"w-[1-2]\": {address: \"127.");
    story.edit(".21\"", ".[21-22]\"");
    story.applied();
    assert_eq!(story.version_of("w-2"), "v1.36.4+k0s");
    let workers = std::fs::read_to_string(&file).expect("read");
    let line = workers.lines().find(|line| line.contains("w-[1-2]")).expect("workers").to_owned();
    story.edit(&line, &format!("{line}\n      w-2: {{state: retired, reason: RMA}}"));
    story.applied();
    assert!(story.node("w-2").is_none());
    assert!(!story.on("w-2", "systemctl is-active k0sworker || true").starts_with("active"));
    story.ended(&["reset", "-i", &at, "w-1", "--yes"], 0);
    assert!(story.node("w-1").is_none());
    story.applied();
    assert_eq!(story.version_of("w-1"), "v1.36.4+k0s");

    // Backed up, destroyed, restored.
    story.ended(&["backup", "-i", &at], 0);
    story.ended(&["destroy", "-i", &at, "--yes"], 0);
    let listed = story.run(&["backup", "-i", &at, "--list", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let newest = listed[0]["file"].as_str().expect("a file").to_owned();
    assert_eq!(listed[0]["k0s"], MINORS[2]);
    story.ended(&["restore", "-i", &at, &newest, "--yes"], 0);
    let (code, shown) = story.plan();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(story.members(), ["cp-1", "cp-3", "cp-4"]);
    assert_eq!(story.version_of("h-1"), "v1.36.4+k0s");
}

/// Whatever `--limit` leaves out: nobody goes on to a minor while somebody is two behind it.
#[test]
fn no_two_members_are_two_minors_apart() {
    let story = Story::of(&site(3).replace(MINORS[1], MINORS[0]));
    story.up();
    story.applied();
    let at = story.at();
    story.edit(MINORS[0], MINORS[1]);
    story.ended(&["apply", "--yes", "-i", &at, "--limit", "cp-2"], 0);
    story.edit(MINORS[1], MINORS[2]);
    for limit in [&["--limit", "cp-2"][..], &[]] {
        let refused = story.ended(&[&["plan", "-i", &at][..], limit].concat(), 1);
        assert!(
            refused.contains("cp-1, cp-3 (v1.34.10+k0s.0)") && refused.contains("h-1, w-1 (v1.34.10+k0s)"),
            "{refused}"
        );
        assert!(refused.contains("Set cluster.k0s.version to a 1.35 release"), "{refused}");
        assert!(!refused.contains("To apply"), "nothing is left to apply: {refused}");
    }
    story.edit(MINORS[2], MINORS[1]);
    story.applied();
    story.edit(MINORS[1], MINORS[2]);
    story.applied();
    assert_eq!(story.version_of("w-1"), "v1.36.4+k0s");
}

/// A run that is killed when a host is done and its node not yet in service: the next one goes on with the others.
#[test]
fn a_node_that_was_left_out_of_service_frees_its_place_for_the_next() {
    let workers = ("w-1: {address: 127.77.0.21}", "\"w-[1-3]\": {address: \"127.77.0.[21-23]\"}");
    let story = Story::of(&site(1).replace(workers.0, workers.1).replace(MINORS[1], MINORS[0]));
    story.up();
    story.applied();
    story.edit(MINORS[0], MINORS[1]);
    // The controller is verified first, and drained nodes after it: until one of them is left so.
    let left = (1..60).find(|_| {
        let killed = story.apply(&["--fault", "kill@verified"]);
        assert!(matches!(killed.status.code(), None | Some(0)), "{}", text(&killed));
        let cordoned = |n: &str| story.node(n).is_some_and(|node| node["spec"]["unschedulable"] == true);
        killed.status.code() == Some(0) || ["w-1", "w-2", "w-3"].into_iter().any(cordoned)
    });
    assert!(left.is_some());
    let (_, shown) = story.plan();
    assert!(!shown.contains("not possible"), "{shown}");
    story.applied();
    for node in ["w-1", "w-2", "w-3"] {
        assert_eq!(story.version_of(node), "v1.35.7+k0s");
    }
}

/// The commands of the how-to, word for word.
#[test]
fn the_how_to_does_what_it_says() {
    let story = Story::new();
    story.up();
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/upgrade.md");
    let page = std::fs::read_to_string(page).expect("read");
    let version = page.lines().find_map(|l| l.trim().strip_prefix("k0s: {version: ")?.strip_suffix('}'));
    story.edit(MINORS[1], version.expect("a version"));
    let commands =
        page.lines().filter_map(|l| l.strip_prefix("$ provision ")).filter(|c| c.contains("inventories/lab"));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        let own = command.replace("inventories/lab", &story.at());
        let code = if own.starts_with("plan") { 2 } else { 0 };
        story.ended(&own.split_whitespace().collect::<Vec<_>>(), code);
    }
    assert_eq!(story.version_of("w-1"), "v1.36.4+k0s");
    assert_eq!(story.plan().0, 0);
}
