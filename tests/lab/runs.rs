//! Runs as a user has them: the binary, a twin with a cluster, real signals.

use super::story::{Story, text};
use super::twin::{DRIVERS, rest, signal, site, until_said};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn drift_is_named_exactly_and_only_that_is_mended() {
    let story = Story::converged(1);
    story.patch_node("w-1", json!({"metadata": {"labels": {"example.com/team": null}}}));
    std::fs::remove_file(story.file("w-1", "/etc/security/limits.d/90-provision.conf")).expect("removed");
    story.on("cp-1", "systemctl stop chrony.service");
    let found = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
        let names = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        pairs.iter().map(|(target, steps)| ((*target).to_owned(), names(steps))).collect()
    };
    let expected = found(&[
        ("cluster", &["node/w-1"]),
        ("cp-1", &["unit/chrony.service"]),
        ("w-1", &["file//etc/security/limits.d/90-provision.conf"]),
    ]);
    assert_eq!(story.pending(), expected);
    let (code, shown) = story.plan();
    assert_eq!(code, 2);
    assert!(shown.contains("label example.com/team (none) -> search"), "{shown}");
    assert!(!shown.contains("drain"), "nothing of this disturbs a pod: {shown}");
    let before = story.tree();
    let said = story.applied();
    assert!(said.contains("changed: 3 steps"), "{said}");
    let changed: Vec<PathBuf> =
        story.tree().into_iter().filter(|(p, h)| before.get(p) != Some(h)).map(|(p, _)| p).collect();
    assert_eq!(
        changed,
        [story.file("w-1", "/etc/security/limits.d/90-provision.conf")],
        "only that was mended"
    );

    // With a limit, the node of that host is looked at, and nothing else of the cluster.
    story.patch_node("w-1", json!({"metadata": {"labels": {"example.com/team": null}}}));
    story.patch_node("h-1", json!({"metadata": {"labels": {"provision.dev/pool": null}}}));
    let at = story.at();
    let output = story.run(&["apply", "--yes", "-i", &at, "--limit", "w-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(story.pending(), found(&[("cluster", &["node/h-1"])]));
}

#[test]
fn what_a_role_drops_is_planned_as_a_removal_and_removed() {
    let story = Story::converged(1);
    let limits = "/etc/security/limits.d/90-provision.conf";
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/base/role.yaml");
    let role = std::fs::read_to_string(role).expect("the built-in role");
    let line = role.lines().find(|l| l.contains(limits)).expect("it writes that file");
    let mine = story.inventory.join("roles/base");
    std::fs::create_dir_all(&mine).expect("made");
    std::fs::write(mine.join("role.yaml"), role.replace(line, "")).expect("written");
    let (code, shown) = story.plan();
    assert_eq!(code, 2);
    assert!(
        shown.contains(&format!("- file {limits}")) && shown.contains("no longer in the inventory"),
        "{shown}"
    );
    let hosts: Vec<String> = story.pending().into_keys().collect();
    assert_eq!(hosts, ["cp-1", "h-1", "w-1"]);
    assert!(story.file("w-1", limits).exists());
    story.applied();
    assert!(!story.file("w-1", limits).exists() && !story.file("h-1", limits).exists());
}

#[test]
fn a_driver_is_changed_on_a_drained_node_and_a_cordon_of_the_operator_stays() {
    let story = Story::converged(1);
    story.edit(DRIVERS[0], DRIVERS[1]);
    let steps = story.steps(&[]);
    let drained: Vec<&String> =
        steps["h-1"].iter().filter(|(_, h)| h.contains(&"drain".to_owned())).map(|(s, _)| s).collect();
    assert!(drained.iter().any(|s| s.starts_with("package/nvidia")), "{steps:?}");
    assert!(drained.contains(&&"reboot/nvidia".to_owned()), "{steps:?}");
    // Cut off while it is out of service: a kill between drain and uncordon.
    let mut run = story.spawn(&["-v"]);
    until_said(&mut run, "h-1 draining node h-1");
    until_said(&mut run, "h-1 package/");
    signal(&run, rustix::process::Signal::KILL);
    rest(run);
    let node = story.node("h-1").expect("the node");
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(node["metadata"]["annotations"]["provision.dev/cordoned"], "drain");
    story.all_up();
    story.applied();
    let node = story.node("h-1").expect("the node");
    assert!(
        node["spec"]["unschedulable"].is_null()
            && node["metadata"]["annotations"]["provision.dev/cordoned"].is_null()
    );

    // The operator's own cordon is honoured: drained, and left cordoned.
    story.patch_node("h-1", json!({"spec": {"unschedulable": true}}));
    story.edit(DRIVERS[1], DRIVERS[0]);
    let output = story.apply(&["--limit", "h-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(story.node("h-1").expect("the node")["spec"]["unschedulable"], true, "it stays theirs");
    story.patch_node("h-1", json!({"spec": {"unschedulable": null}}));
    let waits = Instant::now();
    while story.plan().0 != 0 {
        assert!(waits.elapsed() < Duration::from_secs(30), "the model is served again");
    }
}

#[test]
fn a_disruption_budget_holds_a_drain_until_it_has_room() {
    let story = Story::converged(1);
    // Counted from the pods, as the real disruption controller does.
    let budget = |least: u64| {
        story.api(async |client| {
            use k8s_openapi::api::policy::v1::PodDisruptionBudget;
            let api: kube::Api<PodDisruptionBudget> = kube::Api::namespaced(client, "models");
            let params = kube::api::PatchParams::apply("test").force();
            let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
                "spec": {"minAvailable": least, "selector": {"matchLabels": {}}}});
            api.patch("b", &params, &kube::api::Patch::Apply(body)).await.expect("accepted");
        });
    };
    budget(1);
    std::fs::remove_file(story.file("h-1", "/var/lib/provision/k0s.started")).expect("there");
    let mut run = story.spawn(&[]);
    // Others on the node may still be ending when it first says so.
    until_said(&mut run, "draining: 1 pod left, models/qwen");
    until_said(&mut run, "needs 1 healthy pods");
    assert_eq!(story.node("h-1").expect("the node")["spec"]["unschedulable"], true);
    // Ctrl-C: nothing was done to the host, so its node is given back.
    signal(&run, rustix::process::Signal::INT);
    let (code, said) = rest(run);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("Interrupted.") && said.contains("1 stopped"), "{said}");
    assert!(story.node("h-1").expect("the node")["spec"]["unschedulable"].is_null());

    let mut run = story.spawn(&[]);
    until_said(&mut run, "needs 1 healthy pods");
    budget(0);
    let (code, said) = rest(run);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(story.plan().0, 0);
}

#[test]
fn ctrl_c_once_finishes_what_runs_and_twice_detaches_what_another_machine_follows() {
    let story = Story::of(&site(1));
    story.up();
    // Or the run may be over by the time that a busy machine has shown what it waits for.
    story.control().inject("h-1=slow:1500").expect("it answers").expect("injected");
    let mut run = story.spawn(&["-v"]);
    until_said(&mut run, "h-1 package nvidia");
    signal(&run, rustix::process::Signal::INT);
    let said = until_said(&mut run, "starting no new ones");
    let (code, more) = rest(run);
    assert_eq!(code, Some(130), "{said}{more}");
    assert!(more.contains(" stopped · run") && !more.contains("failed ·"), "stopped is not failed: {more}");
    let facts = |story: &Story| std::fs::read_to_string(story.file("h-1", "/var/lib/provision/lock"));
    assert_eq!(facts(&story).expect("there").trim(), "", "the lock was given back");

    let mut run = story.spawn(&["-v"]);
    until_said(&mut run, " started");
    signal(&run, rustix::process::Signal::INT);
    until_said(&mut run, "starting no new ones");
    signal(&run, rustix::process::Signal::INT);
    let (code, said) = rest(run);
    assert_eq!(code, Some(130), "{said}");
    // As from another machine: no journal, another user.
    let at = story.at();
    std::fs::remove_dir_all(story.dir.path().join("state/provision/runs")).expect("there");
    let mut attach = story.command(&["attach", "-i", &at]);
    attach.env("USER", "eva");
    let output = attach.output().expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for host in ["cp-1", "w-1", "h-1"] {
        let runs = story.file(host, "/var/lib/provision/runs");
        for run in std::fs::read_dir(runs).into_iter().flatten().flatten() {
            assert!(run.path().join("rc").exists(), "followed to its end: {}", run.path().display());
        }
    }
    story.applied();
}

#[test]
fn a_second_machine_is_refused_by_the_lease_with_its_owner_and_how_to_clear_it() {
    let story = Story::converged(1);
    let lease = |change: Value| {
        story.api(async |client| {
            use k8s_openapi::api::coordination::v1::Lease;
            let api: kube::Api<Lease> = kube::Api::namespaced(client, "kube-system");
            let params = kube::api::PatchParams::apply("other").force();
            api.patch("provision-runs", &params, &kube::api::Patch::Apply(change)).await.expect("accepted");
        });
    };
    // The other machine's clock is years behind: only renewals count.
    let held = |second: u32, lasts: u32| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "provision-runs", "annotations": {"provision.dev/run": "EVA11"}},
            "spec": {"holderIdentity": "eva@desk_0123456789abcdef0123456789abcdef", "leaseDurationSeconds": lasts,
                "renewTime": format!("2001-01-01T00:00:{second:02}.000000Z")}})
    };
    lease(held(0, 120));
    let limits = story.file("w-1", "/etc/security/limits.d/90-provision.conf");
    std::fs::remove_file(&limits).expect("removed");
    let mut refused = story.spawn(&[]);
    let waits = until_said(&mut refused, "not renewed within 120 s");
    lease(held(30, 120));
    let (code, said) = rest(refused);
    let said = waits + &said;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("E-LEASE") && said.contains("eva@desk (run EVA11"), "{said}");
    assert!(said.contains("kubectl -n kube-system delete lease provision-runs"), "{said}");
    assert!(!limits.exists(), "nothing was done");
    // A stop does not wait until that run is judged.
    let mut stopped = story.spawn(&[]);
    until_said(&mut stopped, "not renewed within 120 s");
    signal(&stopped, rustix::process::Signal::INT);
    let (code, said) = rest(stopped);
    assert_eq!(code, Some(130), "{said}");
    assert!(!limits.exists(), "nothing was done");
    // It is not renewed any more.
    lease(held(59, 2));
    story.applied();
    let gone = story.api(async |client| {
        let api: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
            kube::Api::namespaced(client, "kube-system");
        api.get_opt("provision-runs").await.expect("an answer").is_none()
    });
    assert!(gone, "given back at the end");
}

/// Its batches are not followed as if nobody else did, however long they take.
#[test]
fn a_second_run_on_this_machine_is_refused_at_once() {
    let story = Story::of(&site(1));
    story.up();
    story.control().inject("w-1=slow:3000").expect("it answers").expect("injected");
    let at = story.at();
    let words = ["apply", "--yes", "-i", &at];
    let mut first =
        story.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let began = Instant::now();
    while !text(&story.run(&["history", "-i", &at])).contains("in progress (process ") {
        assert!(began.elapsed() < Duration::from_secs(60), "it never applies");
        std::thread::sleep(Duration::from_millis(100));
    }
    let second = story.run(&words);
    assert_eq!(second.status.code(), Some(4), "{}", text(&second));
    assert!(
        text(&second).contains("error[E-RUNNING]: run ") && !text(&second).contains("waiting for batch"),
        "{}",
        text(&second)
    );
    signal(&first, rustix::process::Signal::INT);
    first.wait().expect("it ends");
}
