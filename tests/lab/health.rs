//! What hosts with accelerators have to show before their node takes work, and where it can be read afterwards.

use super::story::{Story, text};
use super::twin::DRIVERS;
use serde_json::Value;

/// Two hosts with GPUs and two with Trainium, in pools that go on when one of theirs fails.
const SITE: &str = r#"apiVersion: provision/v1
kind: Inventory
metadata: {name: gated}
ssh: {user: ubuntu, port: 2222, identities: [.lab/id_ed25519], hostKeys: {file: .lab/known_hosts}, agent: false}
cluster: {k0s: {version: v1.35.7+k0s.0}, network: {podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}
pools:
  control: {role: controller, hosts: {cp-1: {address: 127.77.0.11}}}
  h100:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: "580.178.04"}}
    disruption: {maxFailed: 9, maxUnavailable: 9}
    hosts: {"h-[1-2]": {address: "127.77.0.[21-22]"}}
  trn2:
    role: worker
    accelerator: {neuron: {product: trainium2, count: 16, sdk: "2.32.0"}}
    disruption: {maxFailed: 9, maxUnavailable: 9}
    hosts: {"t-[1-2]": {address: "127.77.0.[31-32]"}}
"#;

fn json(story: &Story, words: &[&str]) -> Value {
    let output = story.run(&[words, &["--output", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

/// Returns whether a node still has the taint that it joined with.
fn starts(story: &Story, node: &str) -> bool {
    let node = story.node(node).expect("it has joined");
    node["spec"]["taints"].as_array().into_iter().flatten().any(|t| t["key"] == "provision.dev/starting")
}

#[test]
fn a_host_that_fails_its_standard_level_keeps_its_taint_and_says_why() {
    let story = Story::of(SITE);
    let at = story.at();
    let up = story.run(&["lab", "up", &at, "--fault", "h-2=diag-fails", "--fault", "t-2=diag-fails"]);
    assert!(up.status.success(), "{}", text(&up));
    let output = story.apply(&[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (host, code) in [("h-2", "E-HEALTH-DCGMI"), ("t-2", "E-HEALTH-NCCOM-TEST")] {
        assert!(said.contains(&format!("{host} command/accelerator-standard FAILED [{code}]")), "{said}");
        assert!(!said.contains(&format!("{host} converged")) && starts(&story, host), "{host}: {said}");
    }
    for host in ["h-1", "t-1"] {
        assert!(said.contains(&format!("{host} converged")) && !starts(&story, host), "{host}: {said}");
    }
    // Kept with the run, one entry a host; and read again from the hosts.
    let kept = json(&story, &["verify", "-i", &at, "--last"]);
    let runs = story.kept("health");
    assert!(runs.join(format!("{}.json", kept["run"].as_str().expect("a run"))).exists());
    let status = json(&story, &["status", "-i", &at, "--health"]);
    for (from, hosts) in [("kept", &kept["hosts"]), ("status", &status["health"])] {
        assert_eq!(hosts.as_object().map(|h| h.len()), Some(4), "{from}: {hosts}");
        for (host, verdict) in
            [("h-1", "healthy"), ("t-1", "healthy"), ("h-2", "unhealthy"), ("t-2", "unhealthy")]
        {
            let health = &hosts[host];
            assert_eq!(
                (&health["verdict"], &health["level"]),
                (&verdict.into(), &"standard".into()),
                "{from} {host}"
            );
            assert!(health["tested_s"].as_i64().is_some_and(|t| t > 0), "{from} {host}: {health}");
        }
        assert_eq!(hosts["h-2"]["findings"][0]["code"], "E-HEALTH-DCGMI", "{from}");
        assert_eq!(hosts["h-1"]["measures"][0]["test"], "all-reduce", "{from}");
    }
    assert!(status.get("health").is_some() && json(&story, &["status", "-i", &at]).get("health").is_none());
    let shown = text(&story.run(&["status", "-i", &at, "--health"]));
    for line in [
        "h-1          healthy    all-reduce 477 GB/s",
        "h-2          unhealthy",
        "  [E-HEALTH-DCGMI] dcgmi: ",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    // Once what is wrong is mended, the next apply tests again and lets it in.
    story.run(&["lab", "down", &at]);
    let up = story.run(&["lab", "up", &at]);
    assert!(up.status.success(), "{}", text(&up));
    let output = story.apply(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!starts(&story, "h-2") && !starts(&story, "t-2"));
    let (code, plan) = story.plan();
    assert_eq!(code, 0, "{plan}");
    let status = json(&story, &["status", "-i", &at, "--health"]);
    assert_eq!(status["health"]["h-2"]["verdict"], "healthy", "{status}");
}

/// Only beside the others of its pool can a host be told to be slow: it serves, and the run says so at its end.
#[test]
fn a_host_far_below_its_pool_is_warned_of() {
    let story = Story::of(&SITE.replace(
        "\"h-[1-2]\": {address: \"127.77.0.[21-22]\"}",
        "\"h-[1-3]\": {address: \"127.77.0.[21-23]\"}",
    ));
    let at = story.at();
    let up = story.run(&["lab", "up", &at, "--fault", "h-2=slow-collective"]);
    assert!(up.status.success(), "{}", text(&up));
    let output = story.apply(&[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let slow = "[E-HEALTH-MEDIAN] all-reduce 445 GB/s is more than 5 % below the pool median of 477";
    let warned: Vec<&str> = said.lines().filter(|l| l.contains("E-HEALTH-MEDIAN")).collect();
    assert!(warned.len() == 1 && warned[0].contains("h-2") && warned[0].contains(slow), "{said}");
    let kept = json(&story, &["verify", "-i", &at, "--last"]);
    assert_eq!(kept["hosts"]["h-2"]["verdict"], "unhealthy", "{kept}");
    assert_eq!(kept["hosts"]["h-1"]["verdict"], "healthy", "{kept}");
}

/// One host first, on a site that was never applied whole: it is made ready and joins; what is missing is named at once.
#[test]
fn a_first_host_alone_is_told_that_nothing_brings_its_device_plugin() {
    let story = Story::of(SITE);
    story.up();
    let output = story.apply(&["--limit", "cp-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = story.apply(&["--limit", "h-1"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("h-1 converged") && said.contains("[E-DEVICE-PLUGIN] node h-1 has joined"),
        "{said}"
    );
    assert!(
        said.contains(&format!("Run `provision apply -i {}` without --limit to deploy it", story.at())),
        "{said}"
    );
    assert!(starts(&story, "h-1"), "it takes no pods yet");
    story.applied();
    assert!(!starts(&story, "h-1"));
    let output = story.apply(&["--limit", "h-1"]);
    assert!(output.status.success() && text(&output).contains("in sync"), "{}", text(&output));
}

/// What an Xid asks for is a step of the plan, with its reason; a host that has to be taken out is, and only that one.
#[test]
fn an_xid_is_a_step_and_takes_a_live_node_out_where_it_asks_for_that() {
    let story = Story::of(SITE);
    story.up();
    story.applied();
    let at = story.at();
    for fault in ["h-1=xid:54", "h-2=xid:119"] {
        let output = story.run(&["lab", "fault", &at, fault]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    for line in
        ["> command nvidia-isolate", "Xid 54 on 0000:0c:00", "> reboot nvidia", "Xid 119 on 0000:0c:00"]
    {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    assert!(plan.contains("drain 2") && plan.contains("reboot 1"), "{plan}");
    let output = story.apply(&["--limit", "h-1"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("h-1 command/nvidia-isolate FAILED [E-NV-XID]"), "{said}");
    let node = story.node("h-1").expect("the node");
    assert_eq!(node["spec"]["unschedulable"], true, "it takes no pods");
    assert_eq!(node["metadata"]["annotations"]["provision.dev/cordoned"], "drain");
    for other in ["h-2", "t-1", "t-2"] {
        assert!(story.node(other).expect("the node")["spec"]["unschedulable"].is_null(), "{other}");
    }
}

/// A driver is not changed under pods that may not be evicted in time: nothing is done to the host, and its node serves on.
#[test]
fn a_driver_change_is_refused_while_pods_may_not_be_evicted() {
    let story = Story::converged(1);
    story.edit("    hosts: {h-1:", "    disruption: {drainSeconds: 3}\n    hosts: {h-1:");
    story.api(async |client| {
        use k8s_openapi::api::policy::v1::PodDisruptionBudget;
        let api: kube::Api<PodDisruptionBudget> = kube::Api::namespaced(client, "models");
        let params = kube::api::PatchParams::apply("test").force();
        let body = serde_json::json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {}}}});
        api.patch("b", &params, &kube::api::Patch::Apply(body)).await.expect("accepted");
    });
    let before = story.tree();
    let packages = || std::fs::read_to_string(story.file("h-1", "/var/lib/lab/packages.json")).expect("read");
    let installed = packages();
    story.edit(DRIVERS[0], DRIVERS[1]);
    let output = story.apply(&["--limit", "h-1"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "[E-DRAIN]",
        "pod models/qwen",
        "was not evicted within 3 s",
        "needs 1 healthy pods",
        "nothing was changed on the host",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let changed: Vec<_> =
        story.tree().into_iter().filter(|(path, hash)| before.get(path) != Some(hash)).collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(packages(), installed);
    let node = story.node("h-1").expect("the node");
    assert!(node["spec"]["unschedulable"].is_null(), "it was given back: {node}");
    assert!(node["metadata"]["annotations"]["provision.dev/cordoned"].is_null());
}

/// GPUs are split as the inventory says, and pods can have the instances; another layout drains the node first.
#[test]
fn a_mig_layout_is_made_changed_and_taken_back() {
    let story = Story::of(SITE);
    let layout = |from: &str, to: &str| story.edit(from, to);
    layout("driver: \"580.178.04\"}", "driver: \"580.178.04\", mig: {1g.10gb: 7}}");
    story.up();
    story.applied();
    let offered = |resource: &str| {
        let node = story.node("h-1").expect("the node");
        node["status"]["allocatable"][resource].as_str().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0)
    };
    assert_eq!((offered("nvidia.com/mig-1g.10gb"), offered("nvidia.com/gpu")), (56, 0));
    let at = story.at();
    let status = json(&story, &["status", "-i", &at, "--health"]);
    assert_eq!(status["accelerators"][0]["allocatable"], 112, "{status}");
    assert_eq!(status["health"]["h-1"]["verdict"], "healthy", "{status}");

    layout("mig: {1g.10gb: 7}", "mig: {3g.40gb: 1, 1g.10gb: 4}");
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    let before = ["1g.10gb"; 7].join(" ");
    for line in ["drain 2", "> command nvidia-mig", &format!("GPU 0 has {before}")] {
        assert!(plan.contains(line), "{line}\n{plan}");
    }
    story.applied();
    assert_eq!((offered("nvidia.com/mig-3g.40gb"), offered("nvidia.com/mig-1g.10gb")), (8, 32));

    // What a person changed by hand is drift.
    story.on("h-1", "sudo -n nvidia-smi mig -i 3 -dci && sudo -n nvidia-smi mig -i 3 -dgi");
    let (code, plan) = story.plan();
    assert!(code == 2 && plan.contains("GPU 3 has no instances"), "{plan}");
    story.applied();

    layout("mig: {3g.40gb: 1, 1g.10gb: 4}", "mig: {}");
    story.applied();
    assert_eq!((offered("nvidia.com/gpu"), offered("nvidia.com/mig-3g.40gb")), (8, 0));
}

/// What pods can have is not what is healthy: `status` says what `verify` found, until it is looked at again.
#[test]
fn status_says_what_was_last_found_of_a_host() {
    let story = Story::of(SITE);
    let at = story.at();
    story.up();
    let none = json(&story, &["status", "-i", &at]);
    assert_eq!(none["accelerators"], serde_json::json!([]), "no cluster yet: {none}");
    story.applied();
    let shown = text(&story.run(&["status", "-i", &at]));
    assert!(shown.contains("h100 16/16 allocatable, healthy (apply "), "{shown}");

    let fault = story.run(&["lab", "fault", &at, "h-1=xid:79"]);
    assert!(fault.status.success(), "{}", text(&fault));
    let verify = story.run(&["verify", "-i", &at, "--limit", "h-1"]);
    assert_eq!(verify.status.code(), Some(1), "{}", text(&verify));
    let status = story.run(&["status", "-i", &at]);
    let shown = text(&status);
    assert_eq!(status.status.code(), Some(1), "{shown}");
    assert!(shown.contains("h100 16/16 allocatable, 1 host unhealthy (verify "), "{shown}");
    assert!(shown.contains("ago): h-1") && shown.contains("health of h-1: unhealthy (verify "), "{shown}");
    assert!(shown.contains("[E-NV-XID] Xid 79 on "), "{shown}");
    let view = json(&story, &["status", "-i", &at]);
    let gpus = &view["accelerators"][0];
    assert_eq!(
        (&gpus["allocatable"], &gpus["health"]["verdict"]),
        (&16.into(), &"unhealthy".into()),
        "{view}"
    );
    assert_eq!(gpus["health"]["troubled"][0]["code"], "E-NV-XID", "{view}");
    assert!(gpus["health"]["age_s"].is_u64() && gpus["health"]["healthy"] == 1, "{view}");
    assert_eq!(view["accelerators"][1]["health"]["verdict"], "healthy", "the other pool is: {view}");
}
