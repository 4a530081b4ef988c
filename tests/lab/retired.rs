//! Hosts that leave: retired ones are taken out of the cluster, those in maintenance are kept out of service.

use super::story::Story;
use super::twin::{rest, site, until_said};
use serde_json::Value;

impl Story {
    /// Returns the members of etcd.
    pub fn members(&self) -> Vec<String> {
        self.members_on("cp-1")
    }

    /// Returns the members of etcd that a controller knows.
    pub fn members_on(&self, controller: &str) -> Vec<String> {
        let list = self.on(controller, "sudo /usr/local/bin/k0s etcd member-list");
        let line = list.lines().find(|l| l.starts_with('{')).expect("JSON");
        let list: Value = serde_json::from_str(line).expect("JSON");
        list["members"].as_object().expect("members").keys().cloned().collect()
    }
}

#[test]
fn a_retired_host_leaves_the_cluster_and_one_in_maintenance_is_kept_out_of_service() {
    let workers = ("w-1: {address: 127.77.0.21}", "\"w-[1-3]\": {address: \"127.77.0.[21-23]\"}");
    let text_of_site = site(3).replace(workers.0, workers.1);
    assert!(text_of_site.contains(workers.1));
    let story = Story::of(&text_of_site);
    story.up();
    story.applied();
    assert_eq!(story.members(), ["cp-1", "cp-2", "cp-3"]);

    // In maintenance: cordoned and listed, nothing else; and back.
    let with = |more: &str| format!("      w-2: {{state: maintenance, reason: RMA 4711}}\n{more}");
    let pool = "  h100:\n";
    story.edit(pool, &format!("{}{pool}", with("")));
    let (code, shown) = story.plan();
    assert_eq!(code, 2, "{shown}");
    assert!(shown.contains("RMA 4711") && shown.contains("node w-2"), "{shown}");
    story.applied();
    let node = story.node("w-2").expect("the node");
    assert_eq!(node["spec"]["unschedulable"], true);
    story.edit(&with(""), "");
    story.applied();
    assert!(story.node("w-2").expect("the node")["spec"]["unschedulable"].is_null(), "back in service");

    // Retired: the node goes once it is drained, the member leaves; the hosts themselves are left alone.
    let hosts = story.tree();
    story.edit(pool, &format!("      w-2: {{state: retired, reason: returned}}\n{pool}"));
    story.edit("\"cp-[1-3]\": {", "cp-3: {state: retired}, \"cp-[1-3]\": {");
    let steps = story.steps(&[]);
    // Retired hosts are not counted among those of their pool.
    let (_, shown) = story.plan();
    for heading in ["control (2 hosts, 1 retired)", "general (2 hosts, 1 retired)"] {
        assert!(shown.lines().any(|line| line.starts_with(heading)), "{heading}: {shown}");
    }
    let all: Vec<(&str, Vec<&str>)> = steps["cluster"]
        .iter()
        .map(|(step, hazards)| (step.as_str(), hazards.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(all, [("node/w-2", vec!["drain"]), ("etcd-member/cp-3", vec!["quorum"])]);
    let (_, shown) = story.plan();
    assert!(
        shown.lines().any(|l| l.starts_with("cluster  ") && l.ends_with(" drain 1 · quorum 1"))
            && shown.contains("- node w-2")
            && shown.contains("its host is retired: drain, then delete"),
        "{shown}"
    );
    // k0s is stopped on the hosts afterwards, and stays there.
    let stopped = |host: &str| steps[host].iter().map(|(step, _)| step.as_str()).collect::<Vec<_>>();
    assert_eq!(stopped("w-2"), ["unit/k0sworker.service"]);
    assert_eq!(stopped("cp-3"), ["unit/k0scontroller.service"]);
    // A member does not leave while those that stay would be no quorum.
    story.on("cp-2", "sudo systemctl stop k0scontroller.service");
    let mut run = story.spawn(&["--limit", "cp-3"]);
    until_said(&mut run, "unhealthy etcd members: cp-2");
    assert_eq!(story.members(), ["cp-1", "cp-2", "cp-3"]);
    story.on("cp-2", "sudo systemctl start k0scontroller.service");
    let (code, said) = rest(run);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(story.members(), ["cp-1", "cp-2"]);
    story.applied();
    assert!(story.node("w-2").is_none());
    let touched = story.tree().into_iter().find(|(path, hash)| {
        let of_retired = ["/w-2/", "/cp-3/"].iter().any(|h| path.to_string_lossy().contains(h));
        of_retired && hosts.get(path) != Some(hash)
    });
    assert_eq!(touched, None, "no file of theirs is changed");
    for (host, unit) in [("w-2", "k0sworker.service"), ("cp-3", "k0scontroller.service")] {
        let said = story.on(host, &format!("systemctl show -p ActiveState -p UnitFileState {unit}"));
        assert!(said.contains("=inactive") && said.contains("=disabled"), "{host}: {said}");
    }

    // One that cannot be reached is forgotten all the same.
    story.control().inject("w-3=lost").expect("it answers").expect("injected");
    story.edit(pool, &format!("      w-3: {{state: retired, reason: lost}}\n{pool}"));
    let (code, shown) = story.plan();
    assert_eq!(code, 2, "{shown}");
    assert!(
        shown.contains("k0s on retired host w-3 was not stopped") && shown.contains("- node w-3"),
        "{shown}"
    );
    story.edit(&format!("      w-3: {{state: retired, reason: lost}}\n{pool}"), pool);

    // A host that is only dropped from the inventory keeps its node, and the plan says so.
    story.edit("\"w-[1-3]\"", "\"w-[1-2]\"");
    story.edit("[21-23]", "[21-22]");
    let (code, shown) = story.plan();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("node w-3 was added by provision and is not in the inventory"), "{shown}");
}

/// A host that is moved between workers and controllers is reset first: nothing is tried that cannot come to an end.
#[test]
fn a_host_that_changes_its_role_is_refused_until_it_is_reset() {
    let workers =
        ("w-1: {address: 127.77.0.21}", "w-1: {address: 127.77.0.21}\n      w-2: {address: 127.77.0.22}");
    let story = Story::of(&site(3).replace(workers.0, workers.1));
    story.up();
    story.applied();
    let at = story.at();
    let address = |host: &str| {
        let text = std::fs::read_to_string(story.inventory.join("inventory.yaml")).expect("read");
        let line = text
            .lines()
            .find(|l| l.trim_start().starts_with(&format!("{host}: ")))
            .expect("the host")
            .to_owned();
        line.trim().to_owned()
    };
    // A worker becomes a controller.
    let w2 = address("w-2");
    story.edit(&format!("      {w2}\n"), "");
    story.edit("hosts: {\"cp-[1-3]\"", &format!("hosts: {{{w2}, \"cp-[1-3]\""));
    let moved = |host: &str, role: &str| {
        let (code, shown) = story.plan();
        assert_eq!(code, 1, "{shown}");
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains(&format!("{host} failed preflight [E-K0S-ROLE]")), "{shown}");
        assert!(shown.contains(&format!("the inventory makes it {role}")), "{shown}");
        assert!(shown.contains(&format!("`provision reset -i {at} {host}`")), "{shown}");
        let reset = story.run(&["reset", "-i", &at, host, "--yes"]);
        assert_eq!(reset.status.code(), Some(0), "{}", crate::story::text(&reset));
    };
    moved("w-2", "a controller");
    assert!(story.node("w-2").is_none());
    story.applied();
    assert_eq!(story.members(), ["cp-1", "cp-2", "cp-3", "w-2"]);
    // And back: the member leaves etcd, though the inventory has it among the workers by now.
    story.edit(&format!("{w2}, "), "");
    story.edit("  h100:\n", &format!("      {w2}\n  h100:\n"));
    moved("w-2", "a worker");
    assert_eq!(story.members(), ["cp-1", "cp-2", "cp-3"]);
    story.applied();
    assert!(story.node("w-2").is_some());
}

/// What is found while the inventory is opened stands in the plan; other commands need -v for it.
#[test]
fn a_plan_shows_the_warnings_of_the_opening() {
    let story = Story::of(&site(1));
    story.up();
    story.applied();
    let known = story.lab().join("known_hosts");
    let text = std::fs::read_to_string(&known).expect("read");
    std::fs::write(&known, text + "nonsense\n").expect("written");
    let (code, shown) = story.plan();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("warning: cluster: ") && shown.contains("known_hosts"), "{shown}");
    let json = story.run(&["plan", "-i", &story.at(), "--output", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let targets = json["targets"].as_array().expect("targets");
    let told = targets.iter().flat_map(|t| t["warnings"].as_array().expect("warnings"));
    assert_eq!(told.filter(|w| w.as_str().is_some_and(|w| w.contains("known_hosts"))).count(), 1);
}
