//! Nodes on a real API: labels and taints beside those of others, cordons, drains that real disruption budgets hold up, and
//! workloads whose status comes from the real controllers. A stand-in kubelet is all that is simulated.

use super::contract::Site;
use super::contract::rest::{Response, Rest, text};
use super::kit::{Bench, converge, names, ready, steps};
use super::servers::ControlPlane;
use super::{Test, tests};
use futures::FutureExt;
use provision::event::{Event, Events};
use provision::reconciler::{CauseKind, Retired};
use provision::state::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::task::JoinSet;

pub fn tests() -> Vec<Test> {
    tests!(nodes:
        labels_and_taints_of_others_stay,
        the_starting_taint_goes_when_devices_are_there,
        a_node_is_back_only_when_it_serves,
        a_plugin_that_reports_too_few_devices_is_started_anew,
        a_drain_waits_for_the_budget_and_leaves_daemons,
        a_drain_that_was_cut_off_is_undone_by_the_next_run,
        a_drain_outlives_an_api_that_restarts,
        a_dead_node_is_drained_without_its_kubelet_and_a_lost_one_is_forgotten,
        a_rollout_is_waited_for_and_says_what_holds_it_up,
        a_survey_says_why_workloads_do_not_serve,
        a_plan_knows_what_an_upgrade_takes_away,
    )
    .to_vec()
}

/// Plays the kubelet of some nodes until dropped: they are ready, their pods run, and what is told to end ends.
pub struct Kubelet(JoinSet<()>);

impl Kubelet {
    /// Registers nodes and keeps them. Taints are those of a first registration.
    pub async fn start(rest: &Rest, nodes: &[String], taints: Value) -> Self {
        for name in nodes {
            let node = json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
                "spec": {"taints": taints}});
            rest.post("/api/v1/nodes", &node).await.expect(201);
            // As if it were of the API server's binary, as with k0s.
            let version = rest.get("/version").await.expect(200)["gitVersion"].clone();
            let status = json!({"status": {"nodeInfo": {"kubeletVersion": version}}});
            let patch = "application/strategic-merge-patch+json";
            rest.patch(&format!("{}/status", path(name)), patch, &status).await.expect(200);
        }
        let (rest, nodes) = (rest.clone(), nodes.to_vec());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                for node in &nodes {
                    // The API may be away: a real kubelet goes on as well.
                    if rest.try_get("/readyz").await == Some(200) {
                        let round = async {
                            beat(&rest, node).await;
                            pods(&rest, node).await;
                        };
                        let _ = AssertUnwindSafe(round).catch_unwind().await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self(tasks)
    }

    /// Stops it, as when its machine dies: its nodes and pods stay as they are.
    async fn stop(mut self) {
        self.0.shutdown().await;
    }

    /// Ends it, and takes its nodes out of the cluster.
    pub async fn end(mut self, rest: &Rest, nodes: &[String]) {
        self.0.shutdown().await;
        for node in nodes {
            rest.delete(&format!("/api/v1/nodes/{node}"), &Value::Null).await;
        }
    }
}

/// Takes nodes, pods and their budgets out of the cluster that a case left there: the real scheduler would send its pods to the
/// node of the next one, where a budget that nobody needs any more would hold a drain.
pub async fn sweep(plane: &ControlPlane) {
    let rest = Rest::new(&plane.kubeconfig(), "default");
    rest.delete("/api/v1/nodes", &Value::Null).await;
    let all = rest.get("/api/v1/namespaces").await.expect(200);
    for namespace in all["items"].as_array().into_iter().flatten() {
        let name = text(namespace, "/metadata/name");
        let budgets = format!("/apis/policy/v1/namespaces/{name}/poddisruptionbudgets");
        rest.delete(&budgets, &Value::Null).await;
        rest.delete(&format!("/api/v1/namespaces/{name}/pods"), &json!({"gracePeriodSeconds": 0})).await;
    }
}

async fn beat(rest: &Rest, node: &str) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = json!({"status": {"capacity": {"cpu": "64", "memory": "512Gi", "pods": "110"},
        "allocatable": {"cpu": "64", "memory": "512Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a stand-in", "lastHeartbeatTime": now}]}});
    let path = format!("/api/v1/nodes/{node}/status?fieldManager=kubelet");
    rest.patch(&path, "application/strategic-merge-patch+json", &status).await;
}

async fn pods(rest: &Rest, node: &str) {
    let list = rest.get(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")).await;
    for pod in list.body["items"].as_array().into_iter().flatten() {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name")
        );
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            rest.delete(&path, &json!({"gracePeriodSeconds": 0})).await;
        } else if pod["status"]["phase"] == "Pending"
            && !["broken", "crashing"].iter().any(|w| text(pod, "/spec/containers/0/image").contains(w))
        {
            let status = json!({"status": {"phase": "Running", "podIP": "10.240.0.9", "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]}});
            rest.patch(&format!("{path}/status"), "application/strategic-merge-patch+json", &status).await;
        } else if text(pod, "/spec/containers/0/image").contains("crashing") {
            // Once more with every beat, without the pauses of a real one.
            let before = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
            let restarts = before.map_or(0, |n| n + 1);
            let status = json!({"status": {"phase": "Running", "containerStatuses": [{"name": text(pod, "/spec/containers/0/name"),
                "image": "x", "imageID": "", "ready": false, "restartCount": restarts, "lastState": {"terminated": {"exitCode": 1}},
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 2m40s restarting failed container"}}}]}});
            rest.patch(&format!("{path}/status"), "application/merge-patch+json", &status).await;
        } else if pod["status"]["phase"] == "Pending" {
            let status = json!({"status": {"containerStatuses": [{"name": text(pod, "/spec/containers/0/name"), "image": "x",
                "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}]}});
            rest.patch(&format!("{path}/status"), "application/merge-patch+json", &status).await;
        }
    }
}

fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        cordoned: false,
        allocatable: BTreeMap::new(),
        kubelet: None,
    }
}

fn resource(node: Node) -> Resource {
    let mut resource = Resource::new("node", Spec::Node(node));
    resource.deadline_s = 60;
    resource
}

fn path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

/// Keys of a node's taints, without those that the control plane keeps by itself.
fn taints(node: &Value) -> Vec<String> {
    let all = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut keys: Vec<String> =
        all.iter().map(|t| text(t, "/key")).filter(|k| !k.starts_with("node.kubernetes.io/")).collect();
    keys.sort();
    keys
}

pub async fn labels_and_taints_of_others_stay(plane: &ControlPlane) {
    let bench = Bench::new(plane, "labels").await;
    let names_of = ["labels-n-1".to_owned()];
    let name = &names_of[0];
    let kubelet = Kubelet::start(&bench.rest, &names_of, json!([])).await;
    let theirs = json!({"metadata": {"labels": {"theirs": "1"}}, "spec": {"taints": [
        {"key": "theirs", "value": "1", "effect": "NoSchedule"}]}});
    bench.rest.merge(&format!("{}?fieldManager=operator", path(name)), &theirs).await.expect(200);
    let mut first = node(name);
    first.labels = BTreeMap::from([("pool".into(), "h100".into()), ("team".into(), "search".into())]);
    first.taints = vec!["nvidia.com/gpu=true:NoSchedule".into(), "only:NoExecute".into()];
    let target = bench.target(vec![resource(first.clone())]);
    converge(&target).await;
    let live = bench.rest.get(&path(name)).await.expect(200);
    assert_eq!(taints(&live), ["nvidia.com/gpu", "only", "theirs"]);
    assert_eq!(live["metadata"]["labels"]["pool"], "h100");
    // One label off and one taint changed by hand: named, and put back.
    let edit = json!({"metadata": {"labels": {"team": null}}});
    bench.rest.merge(&path(name), &edit).await.expect(200);
    let todo = steps(&target).await;
    let fields: Vec<&str> = todo[0].change.fields.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(fields, ["label team"]);
    converge(&target).await;
    // What is named no more goes; what others put there stays.
    let mut second = first;
    second.labels.remove("team");
    second.taints.truncate(1);
    converge(&bench.target(vec![resource(second)])).await;
    let live = bench.rest.get(&path(name)).await.expect(200);
    assert_eq!(taints(&live), ["nvidia.com/gpu", "theirs"]);
    assert!(live["metadata"]["labels"]["team"].is_null() && live["metadata"]["labels"]["theirs"] == "1");
    // Maintenance cordons, its end uncordons.
    let mut away = node(name);
    away.cordoned = true;
    converge(&bench.target(vec![resource(away)])).await;
    assert_eq!(bench.rest.get(&path(name)).await.expect(200)["spec"]["unschedulable"], true);
    converge(&bench.target(vec![resource(node(name))])).await;
    assert!(bench.rest.get(&path(name)).await.expect(200)["spec"]["unschedulable"].is_null());
    kubelet.end(&bench.rest, &names_of).await;
}

pub async fn the_starting_taint_goes_when_devices_are_there(plane: &ControlPlane) {
    let bench = Bench::new(plane, "starting").await;
    let names_of = ["starting-n-1".to_owned()];
    let name = &names_of[0];
    let starting = json!([{"key": "provision.dev/starting", "value": "true", "effect": "NoSchedule"}]);
    let kubelet = Kubelet::start(&bench.rest, &names_of, starting).await;
    let mut wanted = node(name);
    wanted.labels = BTreeMap::from([("provision.dev/accelerator".into(), "nvidia".into())]);
    wanted.allocatable = BTreeMap::from([("nvidia.com/gpu".into(), 8)]);
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(vec![resource(wanted)], events);
    let todo = steps(&target).await;
    let enacting = async { target.enact(&todo, &StepOutputs::new()).await };
    let plugging = async {
        loop {
            match seen.recv().await {
                Some(Event::StepProgress { note, .. }) if note.contains("0/8 nvidia.com/gpu") => break,
                Some(_) => {}
                None => panic!("it never said what it waits for"),
            }
        }
        let live = bench.rest.get(&path(name)).await.expect(200);
        assert_eq!(taints(&live), ["provision.dev/starting"], "still there");
        assert_eq!(
            live["metadata"]["labels"]["provision.dev/accelerator"], "nvidia",
            "the plugin finds its node by it"
        );
        let status =
            json!({"status": {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "8"}}});
        bench.rest.merge(&format!("{}/status", path(name)), &status).await.expect(200);
    };
    let (enacted, ()) = tokio::join!(enacting, plugging);
    enacted.expect("enacted");
    assert_eq!(taints(&bench.rest.get(&path(name)).await.expect(200)), Vec::<String>::new());
    assert_eq!(steps(&target).await, []);
    kubelet.end(&bench.rest, &names_of).await;
}

/// A node that the API calls Ready is not back: its kubelet may be the old one, or dead with a lease that nobody renews, and
/// with its starting taint pods find no way to it.
pub async fn a_node_is_back_only_when_it_serves(plane: &ControlPlane) {
    let bench = Bench::new(plane, "back").await;
    let rest = &bench.rest;
    let names_of = ["back-n-1".to_owned()];
    let name = &names_of[0];
    let starting = json!([{"key": "provision.dev/starting", "value": "true", "effect": "NoSchedule"}]);
    let kubelet = Kubelet::start(rest, &names_of, starting).await;
    let mut wanted = node(name);
    wanted.labels = BTreeMap::from([("pool".into(), "h100".into())]);
    wanted.kubelet = Some("v1.99.1".into());
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(vec![resource(wanted)], events);
    target.drain(name, Duration::from_secs(60), None).await.expect("drained");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |at: &str| json!({"spec": {"renewTime": format!("2026-01-01T00:00:{at}.000000Z")}});
    let mut first = lease("00");
    first["metadata"] = json!({"name": name});
    rest.post(leases, &first).await.expect(201);
    let reports = async |version: &str| {
        let status = json!({"status": {"nodeInfo": {"kubeletVersion": version}}});
        let patch = "application/strategic-merge-patch+json";
        rest.patch(&format!("{}/status", path(name)), patch, &status).await.expect(200);
    };
    reports("v1.99.0+k0s").await;
    let node_name = HostName::new(name.clone());
    let mut returning = Cluster::uncordon(&target, &node_name);
    for (waits_for, then) in [("its kubelet is v1.99.0+k0s, not yet v1.99.1", "upgrade"), ("lease", "renew")]
    {
        let told = async {
            loop {
                match seen.recv().await {
                    Some(Event::Waiting { reason, .. }) if reason.contains(waits_for) => break,
                    Some(_) => {}
                    None => panic!("it never waited for {waits_for}"),
                }
            }
        };
        tokio::select! {
            ended = &mut returning => panic!("back before {then}: {ended:?}"),
            () = told => {}
        }
        let live = rest.get(&path(name)).await.expect(200);
        assert_eq!(
            (taints(&live), &live["spec"]["unschedulable"]),
            (vec!["provision.dev/starting".to_owned()], &json!(true))
        );
        match then {
            "upgrade" => reports("v1.99.1+k0s").await,
            _ => drop(rest.merge(&format!("{leases}/{name}"), &lease("10")).await.expect(200)),
        }
    }
    returning.await.expect("it serves");
    let live = rest.get(&path(name)).await.expect(200);
    assert_eq!((taints(&live), &live["spec"]["unschedulable"]), (Vec::new(), &Value::Null));
    assert_eq!(live["metadata"]["labels"]["pool"], "h100");
    kubelet.end(rest, &names_of).await;
}

/// The plugin's pod is found by its label and node, ended, and made again by the real controller.
pub async fn a_plugin_that_reports_too_few_devices_is_started_anew(plane: &ControlPlane) {
    let bench = Bench::new(plane, "plugin").await;
    let rest = &bench.rest;
    let names_of = ["plugin-n-1".to_owned()];
    let name = &names_of[0];
    let kubelet = Kubelet::start(rest, &names_of, json!([])).await;
    let sets = "/apis/apps/v1/namespaces/kube-system/daemonsets";
    let labels = json!({"app.kubernetes.io/name": "nvidia-device-plugin"});
    let mut pods = template("plugin", name);
    pods["metadata"]["labels"] = labels.clone();
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "plugin-of-a-test", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": labels}, "template": pods}});
    rest.post(sets, &set).await.expect(201);
    let theirs = format!("/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3D{name}");
    let running = |a: &super::contract::rest::Response| a.body["items"][0]["status"]["phase"] == "Running";
    let first = rest.until(&theirs, "a plugin that runs", running).await.expect(200);
    let report = async |count: &str| {
        let devices = json!({"nvidia.com/gpu": count});
        let status = json!({"status": {"capacity": devices, "allocatable": devices}});
        rest.merge(&format!("{}/status", path(name)), &status).await.expect(200);
    };
    report("7").await;
    let mut wanted = node(name);
    wanted.allocatable = BTreeMap::from([("nvidia.com/gpu".into(), 8)]);
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(vec![resource(wanted)], events).with_patience(Duration::from_secs(1));
    let todo = steps(&target).await;
    let plugging = async {
        loop {
            match seen.recv().await {
                Some(Event::StepProgress { note, .. }) if note.contains(": restarting ") => break,
                Some(_) => {}
                None => panic!("it was never restarted"),
            }
        }
        report("8").await;
    };
    let (enacted, ()) = tokio::join!(async { target.enact(&todo, &StepOutputs::new()).await }, plugging);
    enacted.expect("enacted");
    assert_eq!(steps(&target).await, []);
    let uid = |list: &Value| text(&list["items"][0], "/metadata/uid");
    let another = |a: &super::contract::rest::Response| {
        a.body["items"].as_array().is_some_and(|all| all.len() == 1) && uid(&a.body) != uid(&first)
    };
    rest.until(&theirs, "another pod of the plugin", another).await.expect(200);
    rest.delete(&format!("{sets}/plugin-of-a-test"), &Value::Null).await;
    kubelet.end(rest, &names_of).await;
}

fn template(app: &str, node: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1,
        "nodeSelector": {"kubernetes.io/hostname": node}, "tolerations": [{"key": "drain-test", "operator": "Exists"}], "containers": [{"name": "c", "image": "i:1"}]}})
}

/// Waits until so many pods with a label run.
async fn run(rest: &Rest, app: &str, count: usize) -> Vec<String> {
    let path = format!("{}?labelSelector=app%3D{app}", rest.core("pods"));
    let running = |a: &super::contract::rest::Response| {
        let items = a.body["items"].as_array().cloned().unwrap_or_default();
        items.len() == count && items.iter().all(|p| p["status"]["phase"] == "Running")
    };
    let list = rest.until(&path, &format!("{count} pods of {app}"), running).await.expect(200);
    list["items"].as_array().expect("items").iter().map(|p| text(p, "/metadata/name")).collect()
}

pub async fn a_drain_waits_for_the_budget_and_leaves_daemons(plane: &ControlPlane) {
    let bench = Bench::new(plane, "drain").await;
    let rest = &bench.rest;
    let names_of = ["drain-n-1".to_owned()];
    let name = &names_of[0];
    // Pending pods of other cases must not come here: their budgets would hold the drain.
    let own = json!([{"key": "drain-test", "value": "own", "effect": "NoSchedule"}]);
    let kubelet = Kubelet::start(rest, &names_of, own).await;
    let sets = [
        ("deployments", "Deployment", "guarded"),
        ("deployments", "Deployment", "free"),
        ("daemonsets", "DaemonSet", "daemon"),
    ];
    for (plural, kind, app) in sets {
        let mut spec = json!({"selector": {"matchLabels": {"app": app}}, "template": template(app, name)});
        if kind == "Deployment" {
            spec["replicas"] = json!(2);
        }
        let body = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": spec});
        rest.post(&rest.of("apps/v1", plural), &body).await.expect(201);
    }
    let guarded = run(rest, "guarded", 2).await;
    run(rest, "free", 2).await;
    let daemon = run(rest, "daemon", 1).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "guarded"}}}});
    rest.post(&rest.of("policy/v1", "poddisruptionbudgets"), &budget).await.expect(201);
    let one = rest.of("policy/v1", "poddisruptionbudgets/b");
    rest.until(&one, "a count", |a| a.body["status"]["currentHealthy"] == 2).await;

    let (events, mut seen) = Events::channel();
    let target = bench.target_with(Vec::new(), events);
    let failure = target.drain(name, Duration::from_secs(8), None).await.expect_err("the budget holds it");
    assert_eq!(failure.code, "E-DRAIN", "{failure:?}");
    assert!(
        failure.tail.iter().all(|l| l.contains("guarded-") && l.contains("The disruption budget b needs 2")),
        "{:?}",
        failure.tail
    );
    assert_eq!(failure.tail.len(), 2);
    let mut said = Vec::new();
    while let Ok(event) = seen.try_recv() {
        if let Event::Waiting { reason, .. } = event {
            said.push(reason);
        }
    }
    assert!(
        said.iter().any(|r| r.contains("The disruption budget b needs 2 healthy pods and has 2 currently")),
        "{said:?}"
    );
    let live = rest.get(&path(name)).await.expect(200);
    assert_eq!(live["spec"]["unschedulable"], true, "it stays cordoned");
    for pod in &guarded {
        rest.get(&rest.core(&format!("pods/{pod}"))).await.expect(200);
    }
    // The budget gives way while a drain waits.
    let draining = target.drain(name, Duration::from_secs(60), None);
    let giving_way = async {
        let waits = async { while !matches!(seen.recv().await, Some(Event::Waiting { .. })) {} };
        tokio::time::timeout(Duration::from_secs(30), waits).await.expect("the drain waits");
        rest.merge(&one, &json!({"spec": {"minAvailable": 0}})).await.expect(200);
    };
    let (drained, ()) = tokio::join!(draining, giving_way);
    drained.expect("drained");
    for pod in &guarded {
        rest.get(&rest.core(&format!("pods/{pod}"))).await.refused(404, "NotFound", "not found");
    }
    rest.get(&rest.core(&format!("pods/{}", daemon[0]))).await.expect(200);
    target.uncordon(name).await.expect("uncordoned");
    assert!(rest.get(&path(name)).await.expect(200)["spec"]["unschedulable"].is_null());
    run(rest, "guarded", 2).await;
    for (plural, _, app) in sets {
        rest.delete(&rest.of("apps/v1", &format!("{plural}/{app}")), &Value::Null).await.expect(200);
    }
    rest.until(&rest.core("pods"), "the end of the pods", |a| a.body["items"] == json!([])).await;
    kubelet.end(rest, &names_of).await;
}

pub async fn a_drain_that_was_cut_off_is_undone_by_the_next_run(plane: &ControlPlane) {
    let bench = Bench::new(plane, "drain_cut_off").await;
    let names_of = ["drain-cut-n-1".to_owned()];
    let name = &names_of[0];
    let kubelet = Kubelet::start(&bench.rest, &names_of, json!([])).await;
    let target = bench.target(vec![resource(node(name))]);
    converge(&target).await;
    target.drain(name, Duration::from_secs(20), None).await.expect("drained");
    assert_eq!(steps(&target).await, [], "its own drain is under way");
    let next = bench.target(vec![resource(node(name))]);
    assert_eq!(names(&steps(&next).await), [format!("node/{name}")]);
    converge(&next).await;
    assert!(bench.rest.get(&path(name)).await.expect(200)["spec"]["unschedulable"].is_null());
    // Somebody else's cordon is not ours to lift.
    bench.rest.merge(&path(name), &json!({"spec": {"unschedulable": true}})).await.expect(200);
    target.drain(name, Duration::from_secs(20), None).await.expect("drained");
    target.uncordon(name).await.expect("nothing to do");
    assert_eq!(bench.rest.get(&path(name)).await.expect(200)["spec"]["unschedulable"], true);
    kubelet.end(&bench.rest, &names_of).await;
}

pub async fn a_drain_outlives_an_api_that_restarts(plane: &ControlPlane) {
    let bench = Bench::new(plane, "drain_restart").await;
    let rest = &bench.rest;
    let names_of = ["drain-restart-n-1".to_owned()];
    let name = &names_of[0];
    let kubelet = Kubelet::start(rest, &names_of, json!([])).await;
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "guarded"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "guarded"}}, "template": template("guarded", name)}});
    rest.post(&rest.of("apps/v1", "deployments"), &body).await.expect(201);
    let pods = run(rest, "guarded", 1).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
    rest.post(&rest.of("policy/v1", "poddisruptionbudgets"), &budget).await.expect(201);
    let one = rest.of("policy/v1", "poddisruptionbudgets/b");
    rest.until(&one, "a count", |a| a.body["status"]["currentHealthy"] == 1).await;
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(Vec::new(), events);
    let draining = target.drain(name, Duration::from_secs(90), None);
    let restarting = async {
        loop {
            match seen.recv().await {
                Some(Event::Waiting { reason, .. }) if reason.contains("The disruption budget b") => break,
                Some(_) => {}
                None => panic!("it never said what it waits for"),
            }
        }
        plane.stop_apiserver();
        // Long enough for the drain to look while nobody answers.
        tokio::time::sleep(Duration::from_secs(3)).await;
        plane.resume_apiserver().await;
        rest.merge(&one, &json!({"spec": {"minAvailable": 0}})).await.expect(200);
    };
    let (drained, ()) = tokio::join!(draining, restarting);
    drained.expect("drained");
    rest.get(&rest.core(&format!("pods/{}", pods[0]))).await.refused(404, "NotFound", "not found");
    target.uncordon(name).await.expect("uncordoned");
    rest.delete(&rest.of("apps/v1", "deployments/guarded"), &Value::Null).await.expect(200);
    rest.until(&rest.core("pods"), "the end of the pods", |a| a.body["items"] == json!([])).await;
    kubelet.end(rest, &names_of).await;
}

/// A kubelet that just stops: the real node lifecycle controller finds out, and pods that were told to end stay. Where its host was
/// proven to run none of them, they are deleted; where the host is gone, only once that was confirmed.
pub async fn a_dead_node_is_drained_without_its_kubelet_and_a_lost_one_is_forgotten(plane: &ControlPlane) {
    let bench = Bench::new(plane, "dead").await;
    let rest = &bench.rest;
    let names_of = ["dead-n-1".to_owned()];
    let name = &names_of[0];
    let kubelet = Kubelet::start(rest, &names_of, json!([])).await;
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "engine"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "engine"}}, "template": template("engine", name)}});
    rest.post(&rest.of("apps/v1", "deployments"), &body).await.expect(201);
    let held = run(rest, "engine", 1).await.remove(0);
    kubelet.stop().await;
    let unknown = |a: &Response| {
        let conditions = a.body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "Unknown")
    };
    rest.until(&path(name), "the node controller's verdict", unknown).await.expect(200);

    let patience = Duration::from_secs(2);
    let target = bench.target(Vec::new()).with_patience(patience);
    let failure = target.drain(name, Duration::from_secs(60), None).await.expect_err("nothing ends its pod");
    assert_eq!(failure.code, "E-NODE-DEAD", "{failure}");
    assert!(failure.message.contains("NodeStatusUnknown"), "{failure}");
    let pod = rest.core(&format!("pods/{held}"));
    let live = rest.get(&pod).await.expect(200);
    assert!(live["metadata"]["deletionTimestamp"].is_string(), "the real API keeps it: {live}");
    target.delete_pods(name).await.expect("deleted");
    rest.get(&pod).await.refused(404, "NotFound", "not found");
    target.drain(name, Duration::from_secs(60), None).await.expect("nothing is left to drain");

    // The next pod of the engine can only be placed by hand: the node is cordoned, and dead.
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "again", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "engine", "uid": live["metadata"]["ownerReferences"][0]["uid"], "controller": true}],
        "labels": {"app": "engine"}}, "spec": {"nodeName": name, "containers": [{"name": "e", "image": "e"}],
        "tolerations": [{"operator": "Exists"}]}});
    rest.delete(&rest.of("apps/v1", "deployments/engine?propagationPolicy=Orphan"), &Value::Null).await;
    rest.post(&rest.core("pods"), &bound).await.expect(201);
    let retired = |lost: bool| {
        let host = HostName::new(name.clone());
        super::kit::retiring(
            plane,
            &rest.ns,
            Retired { host, member: None, drain: Duration::from_secs(60), lost },
        )
        .with_patience(patience)
    };
    let unsure = retired(false);
    let todo = steps(&unsure).await;
    assert_eq!((names(&todo), &todo[0].hazards), (vec![format!("node/{name}")], &vec![Hazard::Drain]));
    let failure = unsure.enact(&todo, &StepOutputs::new()).await.expect_err("it may still run");
    assert_eq!(failure.code, "E-NODE-DEAD", "{failure}");
    rest.get(&path(name)).await.expect(200);
    let sure = retired(true);
    let todo = steps(&sure).await;
    assert_eq!(todo[0].hazards, [Hazard::ForceDelete(name.clone())]);
    sure.enact(&todo, &StepOutputs::new()).await.expect("forgotten");
    rest.get(&path(name)).await.refused(404, "NotFound", "not found");
    rest.get(&rest.core("pods/again")).await.refused(404, "NotFound", "not found");
}

pub async fn a_rollout_is_waited_for_and_says_what_holds_it_up(plane: &ControlPlane) {
    let bench = Bench::new(plane, "rollout").await;
    let rest = &bench.rest;
    let names_of = ["rollout-n-1".to_owned()];
    let kubelet = Kubelet::start(rest, &names_of, json!([])).await;
    let with = |image: &str, cpu: u64| {
        let mut pod = template("d", &names_of[0]);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        let mut resource = ready(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": rest.ns},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}}, "template": pod}}),
            Ready::Available,
        );
        resource.deadline_s = 5;
        resource
    };
    let mut good = with("i:1", 1);
    good.deadline_s = 60;
    converge(&bench.target(vec![good])).await;
    let live = rest.get(&rest.of("apps/v1", "deployments/d")).await.expect(200);
    assert_eq!(live["status"]["availableReplicas"], 2, "the real controllers counted");
    for (resource, reason) in [
        (with("i:2", 1000), "not scheduled: 0/1 nodes are available: 1 Insufficient cpu"),
        (with("broken:1", 1), "ImagePullBackOff: Back-off pulling image"),
    ] {
        let target = bench.target(vec![resource]);
        let todo = steps(&target).await;
        let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("never available");
        assert_eq!(failure.code, "E-K8S-DEADLINE", "{failure:?}");
        assert!(failure.message.contains(reason), "{}", failure.message);
    }
    // What crashes again and again is given up long before an engine's deadline.
    let mut crashing = with("crashing:1", 1);
    crashing.deadline_s = 3600;
    let target = bench.target(vec![crashing]);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("never available");
    assert_eq!(failure.code, "E-CRASHES", "{failure:?}");
    assert!(failure.message.contains("container ended: exit code 1, "), "{}", failure.message);
    let mut again = with("i:3", 1);
    again.deadline_s = 60;
    converge(&bench.target(vec![again])).await;
    converge(&bench.target(Vec::new())).await;
    rest.until(&rest.core("pods"), "the end of the pods", |a| a.body["items"] == json!([])).await;
    kubelet.end(rest, &names_of).await;
}

/// The real scheduler, quota admission and controllers say why; the stand-in kubelet says what a real one would.
pub async fn a_survey_says_why_workloads_do_not_serve(plane: &ControlPlane) {
    let bench = Bench::new(plane, "survey").await;
    let rest = &bench.rest;
    let names_of = ["survey-n-1".to_owned()];
    let kubelet = Kubelet::start(rest, &names_of, json!([])).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "500"}}});
    rest.post(&rest.core("resourcequotas"), &quota).await.expect(201);
    let id = |kind: &str, name: &str| ObjectId {
        group: "apps".into(),
        kind: kind.into(),
        namespace: rest.ns.clone(),
        name: name.into(),
    };
    let meta = |name: &str| json!({"name": name, "namespace": rest.ns});
    for (name, image, cpu) in
        [("good", "i:1", 1), ("big", "i:1", 200), ("greedy", "i:1", 1000), ("gone", "broken:1", 1)]
    {
        let mut pod = template(name, &names_of[0]);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod});
        let body =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name), "spec": spec});
        rest.post(&rest.of("apps/v1", "deployments"), &body).await.expect(201);
    }
    let pods = rest.core("pods?labelSelector=app%3Dgone");
    let waits = "/items/0/status/containerStatuses/0/state/waiting/reason";
    let found = rest
        .until(&pods, "the kubelet's word", |a| a.body.pointer(waits) == Some(&json!("ImagePullBackOff")))
        .await;
    let pod = &found.body["items"][0];
    let failed = "Failed to pull image \"broken:1\": rpc error: code = NotFound desc = broken:1: not found";
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "gone.1"}, "type": "Warning", "reason": "Failed",
        "message": failed, "involvedObject": {"kind": "Pod", "namespace": rest.ns, "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"]}, "lastTimestamp": "2026-11-30T10:00:00Z"});
    rest.post(&rest.core("events"), &event).await.expect(201);
    let kinds = ["good", "big", "greedy", "gone", "absent"].map(|name| id("Deployment", name));
    let asked: BTreeSet<ObjectId> = kinds.into_iter().chain([id("DaemonSet", "good")]).collect();
    let target = bench.target(Vec::new());
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let survey = target.survey(&asked).await.expect("the API answers").expect("a cluster");
        let said: BTreeMap<&str, (u64, Vec<(CauseKind, &str)>)> = survey
            .workloads
            .iter()
            .map(|(id, w)| {
                (id.name.as_str(), (w.ready, w.causes.iter().map(|c| (c.kind, c.detail.as_str())).collect()))
            })
            .collect();
        let one = |name: &str, kind: CauseKind, phrase: &str| {
            let (ready, causes) = &said[name];
            *ready == 0 && causes.len() == 1 && causes[0].0 == kind && causes[0].1.contains(phrase)
        };
        let done = said.len() == 4
            && said["good"] == (1, Vec::new())
            && one("big", CauseKind::Unscheduled, "0/1 nodes are available: 1 Insufficient cpu")
            && one("greedy", CauseKind::Refused, "exceeded quota: q")
            && one("gone", CauseKind::Image, "code = NotFound");
        if done {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{said:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    kubelet.end(rest, &names_of).await;
}

/// The API server's own metrics tell what clients asked for and which gates cannot be switched any more.
pub async fn a_plan_knows_what_an_upgrade_takes_away(plane: &ControlPlane) {
    let bench = Bench::new(plane, "ahead").await;
    // Deprecated since 1.19, with no release that removes it (k8s.io/api/core/v1, ComponentStatus).
    bench.rest.get("/api/v1/componentstatuses").await.expect(200);
    let ahead = bench.target(Vec::new()).ahead().await.expect("an answer").expect("a cluster");
    let asked = ahead.apis.iter().find(|api| api.resource == "componentstatuses").expect("it is counted");
    assert_eq!((asked.version.as_str(), asked.removed), ("v1", None));
    // Stable since 1.33, and beta before 1.36.
    assert!(ahead.settled_gates.contains("SidecarContainers"), "{:?}", ahead.settled_gates);
    assert!(!ahead.settled_gates.contains("APIServerIdentity"), "{:?}", ahead.settled_gates);
}
