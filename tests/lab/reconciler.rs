//! The cluster target against the API stand-in, in one process: over TLS, without SSH.

use async_trait::async_trait;
use provision::event::{Event, Events};
use provision::k0s::ControllerOutput;
use provision::lab::api::{self, Api, Authority, Identity, Options, Store, kubeconfig};
use provision::lab::cluster::{Cluster, ClusterSpec, ControllerStart, HostSpec, WorkerStart};
use provision::plan::steps_of;
use provision::reconciler::{Access, ClusterSetup, ClusterTarget, Holder, Retired};
use provision::state::Cluster as _;
use provision::state::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn refused(what: &str) -> Failure {
    Failure::new(FailureKind::Unobserved, "E-SSH-REFUSED", format!("{what} is closed"))
}

/// A store behind TLS, with nothing running on it but what a control plane does by itself.
struct Bench {
    store: Arc<Store>,
    access: Arc<OneApi>,
    // Ends what runs on it when the test ends.
    _tasks: JoinSet<()>,
}

struct OneApi {
    api: Api,
    admin: String,
    up: Mutex<bool>,
    connections: Mutex<JoinSet<()>>,
}

#[async_trait]
impl Access for OneApi {
    async fn controller(&self, port: u16) -> Result<BoxStream, Failure> {
        if port != 6443 || !*self.up.lock().expect("no panic") {
            return Err(refused("the API"));
        }
        let (near, far) = tokio::io::duplex(256 << 10);
        let api = self.api.clone();
        self.connections.lock().expect("no panic").spawn(async move { api.serve_tls(far).await });
        Ok(Box::new(near))
    }

    async fn worker(&self, _: u16) -> Result<BoxStream, Failure> {
        Err(refused("the node port"))
    }

    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(Some(self.admin.clone().into_bytes()))
    }

    async fn run_on_controllers(&self, _: &str) -> Vec<ControllerOutput> {
        Vec::new()
    }

    async fn on_controller(&self, program: &str) -> Result<String, Failure> {
        panic!("nothing runs on a controller here: {program}")
    }
}

impl Bench {
    fn new() -> Self {
        provider();
        let authority = Arc::new(Authority::new().expect("an authority"));
        let tls = authority.server(&["kubernetes".to_owned()]).expect("a server");
        let store = Arc::new(Store::new());
        for name in ["default", "kube-system"] {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            store.ensure("namespaces", body, "kube-apiserver").expect("made");
        }
        let pair = authority.client(&Identity::admin()).expect("a certificate");
        let ca = authority.certificate().to_owned();
        let admin = kubeconfig(&ca, "https://localhost:6443", "local", "Default", "user", &pair);
        let mut tasks = JoinSet::new();
        tasks.spawn(api::housekeeping::run(store.clone()));
        let api = Api { store: store.clone(), authority, version: "v1.35.7+k0s".into(), tls };
        Self {
            store,
            access: Arc::new(OneApi { api, admin, up: Mutex::new(true), connections: Mutex::default() }),
            _tasks: tasks,
        }
    }

    fn target(&self, desired: Vec<Resource>) -> ClusterTarget {
        self.target_with(desired, Events::none())
    }

    fn target_with(&self, desired: Vec<Resource>, events: Events) -> ClusterTarget {
        ClusterTarget::new(ClusterSetup {
            desired,
            access: self.access.clone(),
            address: "10.0.0.1".into(),
            name: "test".into(),
            retired: Vec::new(),
            events,
        })
    }

    fn make(&self, kind: &str, body: Value) {
        self.store.ensure(kind, body, "somebody").expect("accepted");
    }

    /// A node whose kubelet says this of it.
    fn node(&self, name: &str, ready: &str) {
        self.make("nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        let says = |o: &mut Value| {
            o["status"] =
                json!({"conditions": [{"type": "Ready", "status": ready, "reason": "NodeStatusUnknown"}]})
        };
        self.store.edit("nodes", "", name, &Options::status_by("kubelet"), says).expect("accepted");
    }

    fn edit(&self, kind: &str, namespace: &str, name: &str, by: &str, change: impl Fn(&mut Value)) {
        let edited = self.store.edit(kind, namespace, name, &Options::by(by), change).expect("accepted");
        assert!(edited.is_some(), "{kind} {name} exists");
    }
}

fn object(manifest: Value) -> Resource {
    let object = Object { stage: Stage::Base, manifest, ready: Ready::Accepted };
    Resource::new("test", Spec::Object(Box::new(object)))
}

fn config(name: &str, value: &str) -> Resource {
    object(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
        "data": {"key": value}}),
    )
}

/// Observes, and returns the steps that a plan would have.
async fn steps(target: &ClusterTarget) -> Vec<Step> {
    let observed = target.observe().await.expect("observed");
    // Of fields that somebody else has set there is one, whose step fails.
    let others = observed.warnings.iter().filter(|warning| !warning.contains("E-K8S-CONFLICT"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    steps_of(&observed).0
}

/// Brings the cluster to what is wanted, and asserts that nothing is left to do.
async fn converge(target: &ClusterTarget) {
    let todo = steps(target).await;
    target.enact(&todo, &StepOutputs::new()).await.expect("enacted");
    assert_eq!(steps(target).await, [], "the second plan is empty");
}

fn names(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|s| s.resource.text()).collect()
}

#[tokio::test]
async fn a_field_edited_by_hand_is_named_and_taken_back() {
    let bench = Bench::new();
    let target = bench.target(vec![config("a", "wanted"), config("b", "wanted")]);
    converge(&target).await;
    bench.edit("configmaps", "default", "a", "kubectl-edit", |o| o["data"]["key"] = json!("by hand"));
    let todo = steps(&target).await;
    assert_eq!(names(&todo), ["ConfigMap/default/a"]);
    let expected =
        FieldDiff { name: "data.key".into(), from: Some("by hand".into()), to: Some("wanted".into()) };
    assert_eq!(todo[0].change.fields, [expected]);
    converge(&target).await;
    assert_eq!(bench.store.get("configmaps", "default", "a").expect("there")["data"]["key"], "wanted");
}

#[tokio::test]
async fn a_field_that_another_controller_sets_is_a_conflict_with_names() {
    let bench = Bench::new();
    let target = bench.target(vec![config("a", "wanted")]);
    converge(&target).await;
    bench.edit("configmaps", "default", "a", "other-controller", |o| o["data"]["key"] = json!("theirs"));
    let warnings = target.observe().await.expect("observed").warnings;
    assert!(warnings[0].starts_with("ConfigMap default/a was changed by other-controller"), "{warnings:?}");
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-CONFLICT", "{failure:?}");
    assert!(failure.message.contains(".data.key is owned by other-controller"), "{}", failure.message);
    assert_eq!(bench.store.get("configmaps", "default", "a").expect("there")["data"]["key"], "theirs");
}

#[tokio::test]
async fn what_nothing_wants_any_more_goes_and_what_was_there_before_us_stays() {
    let bench = Bench::new();
    let before = config("before", "wanted");
    let Spec::Object(foreign) = &before.spec else { panic!("an object") };
    bench.make("configmaps", foreign.manifest.clone());
    let service = object(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}}),
    );
    converge(&bench.target(vec![
        before.clone(),
        config("ours", "wanted"),
        config("stays", "wanted"),
        service,
    ]))
    .await;
    // Another inventory's objects are none of ours.
    let other = ClusterTarget::new(ClusterSetup {
        desired: vec![config("other", "x")],
        access: bench.access.clone(),
        address: String::new(),
        name: "another".into(),
        retired: Vec::new(),
        events: Events::none(),
    });
    converge(&other).await;

    let fewer = bench.target(vec![config("stays", "wanted")]);
    let todo = steps(&fewer).await;
    let removals: Vec<String> =
        todo.iter().filter(|s| s.change.verb == Verb::Remove).map(|s| s.resource.text()).collect();
    assert_eq!(removals, ["Service/default/s", "ConfigMap/default/ours"], "what came last goes first");
    converge(&fewer).await;
    let left = |name: &str| bench.store.get("configmaps", "default", name).is_some();
    assert!(left("before") && left("stays") && left("other") && !left("ours"));
}

#[tokio::test]
async fn an_unknown_field_is_refused_not_dropped() {
    let bench = Bench::new();
    let target = bench.target(vec![object(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [{"port": 80, "nodePrt": 30080}]}}))]);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-INVALID", "{failure:?}");
    assert!(failure.message.contains("nodePrt"), "{}", failure.message);
}

#[tokio::test]
async fn a_secret_is_applied_compared_and_never_shown() {
    const CANARY: &str = "Y2FuYXJ5LTJlN2E=";
    let bench = Bench::new();
    let secret = |data: &str| {
        object(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf", "namespace": "default"},
            "type": "Opaque", "data": {"token": data}}),
        )
    };
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(vec![secret(CANARY)], events);
    converge(&target).await;
    assert_eq!(bench.store.get("secrets", "default", "hf").expect("there")["data"]["token"], CANARY);
    bench.edit("secrets", "default", "hf", "kubectl-edit", |o| o["data"]["token"] = json!("b3RoZXI="));
    let todo = steps(&target).await;
    let shown = serde_json::to_string(&todo).expect("json");
    assert!(shown.contains("<secret>") && !shown.contains(CANARY) && !shown.contains("b3RoZXI="), "{shown}");
    converge(&target).await;
    drop(target);
    while let Some(event) = seen.recv().await {
        assert!(!format!("{event:?}").contains(CANARY));
    }

    // A laptop without the value neither takes it away nor pretends that it could set it.
    let unknown = object(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf", "namespace": "default"},
        "type": "Opaque"}),
    );
    assert_eq!(steps(&bench.target(vec![unknown.clone()])).await, []);
    bench.store.erase("secrets", "default", "hf");
    let target = bench.target(vec![unknown]);
    let todo = steps(&target).await;
    assert!(todo[0].deferred.is_some(), "{todo:?}");
    assert_eq!(target.enact(&todo, &StepOutputs::new()).await.expect_err("it has no value").code, "E-SECRET");
}

#[tokio::test]
async fn an_api_that_is_down_defers_and_is_never_taken_for_an_empty_cluster() {
    let bench = Bench::new();
    let target = bench.target(vec![config("a", "wanted")]);
    converge(&target).await;
    *bench.access.up.lock().expect("no panic") = false;
    let fresh = bench.target(vec![config("a", "wanted")]);
    let observed = fresh.observe().await.expect("an answer");
    assert!(observed.seen.values().all(|s| matches!(s, Observation::Deferred(_))), "{:?}", observed.seen);
    assert!(observed.orphans.is_empty() && observed.warnings.len() == 1, "{:?}", observed.warnings);
    *bench.access.up.lock().expect("no panic") = true;
    assert_eq!(steps(&fresh).await, [], "and it is back");
}

fn pod(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"nodeName": "n-1", "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_drain_honours_budgets_leaves_daemons_and_is_undone() {
    let bench = Bench::new();
    bench.node("n-1", "True");
    bench.make(
        "daemonsets.apps",
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ds", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
    );
    let owner = bench.store.get("daemonsets.apps", "default", "ds").expect("there");
    let mut daemon = pod("daemon", json!({}));
    daemon["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "ds",
        "uid": owner["metadata"]["uid"], "controller": true}]);
    for body in [pod("guarded", json!({"app": "a"})), pod("free", json!({})), daemon] {
        let name = body["metadata"]["name"].as_str().expect("a name").to_owned();
        bench.make("pods", body);
        let running = |o: &mut Value| {
            o["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        };
        bench
            .store
            .edit("pods", "default", &name, &Options::status_by("kubelet"), running)
            .expect("accepted");
    }
    bench.make("poddisruptionbudgets.policy", json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "default"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}}));
    // The kubelet's part: pods that were asked to end, end.
    let store = bench.store.clone();
    let mut kubelet = JoinSet::new();
    kubelet.spawn(async move {
        loop {
            for pod in store.list("pods") {
                if !pod["metadata"]["deletionTimestamp"].is_null() {
                    store.erase("pods", "default", pod["metadata"]["name"].as_str().unwrap_or_default());
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(Vec::new(), events);
    let failure =
        target.drain("n-1", Duration::from_millis(500), None).await.expect_err("the budget holds it");
    assert_eq!(failure.code, "E-DRAIN");
    assert!(
        failure.tail.len() == 1 && failure.tail[0].starts_with("default/guarded: "),
        "{:?}",
        failure.tail
    );
    let exists = |name: &str| bench.store.get("pods", "default", name).is_some();
    assert!(exists("guarded") && exists("daemon") && !exists("free"));
    let node = || bench.store.get("nodes", "", "n-1").expect("the node");
    assert_eq!(node()["spec"]["unschedulable"], true);

    bench.edit("poddisruptionbudgets.policy", "default", "b", "kubectl", |o| {
        o["spec"]["minAvailable"] = json!(0)
    });
    target.drain("n-1", Duration::from_secs(20), None).await.expect("drained");
    assert!(!exists("guarded") && exists("daemon"));
    target.uncordon("n-1").await.expect("uncordoned");
    assert!(node()["spec"]["unschedulable"].is_null(), "{}", node());
    kubelet.abort_all();
    let said = seen.try_recv().expect("it says what it waits for");
    assert!(matches!(said, Event::Waiting { ref target, .. } if target == "n-1"), "{said:?}");

    // Somebody else's cordon is not ours to lift.
    bench.edit("nodes", "", "n-1", "kubectl", |o| o["spec"]["unschedulable"] = json!(true));
    target.drain("n-1", Duration::from_secs(20), None).await.expect("drained");
    target.uncordon("n-1").await.expect("nothing to do");
    assert_eq!(node()["spec"]["unschedulable"], true);
}

/// What nothing would make again is named before, and never evicted unasked.
#[tokio::test]
async fn a_pod_of_no_controller_is_evicted_only_if_it_may_be_lost() {
    let bench = Bench::new();
    bench.node("n-1", "True");
    bench.make("pods", pod("debug", json!({})));
    let mut owned = pod("engine", json!({}));
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1", "controller": true}]);
    bench.make("pods", owned);
    let target = bench.target(Vec::new());
    let bare = target.bare_pods(&["n-1".into(), "n-2".into()].into()).await.expect("listed");
    let debug = BTreeSet::from(["default/debug".to_owned()]);
    assert_eq!(bare, BTreeMap::from([("n-1".into(), debug.clone())]));
    let none = BTreeSet::new();
    let failure = target.drain("n-1", Duration::from_secs(5), Some(&none)).await.expect_err("refused");
    assert_eq!((failure.code.as_str(), failure.kind), ("E-HAZARD", FailureKind::Refused));
    assert!(failure.message.contains("pod default/debug belongs to no controller"), "{failure}");
    let debug_pod = bench.store.get("pods", "default", "debug").expect("it is there");
    assert!(debug_pod["metadata"]["deletionTimestamp"].is_null());
    let evicts = async { target.drain("n-1", Duration::from_secs(5), Some(&debug)).await };
    let ends = async {
        while bench
            .store
            .get("pods", "default", "debug")
            .is_some_and(|p| p["metadata"]["deletionTimestamp"].is_null())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.store.erase("pods", "default", "debug");
        bench.store.erase("pods", "default", "engine");
    };
    let (drained, ()) = tokio::join!(evicts, ends);
    drained.expect("approved");
}

/// A pod of a node that has no kubelet stays ending for ever.
fn held_by_a_dead_kubelet(bench: &Bench, name: &str) {
    let mut owned = pod(name, json!({}));
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1", "controller": true}]);
    bench.make("pods", owned);
    let running = |o: &mut Value| {
        o["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
    };
    bench.store.edit("pods", "default", name, &Options::status_by("kubelet"), running).expect("accepted");
}

#[tokio::test]
async fn a_drain_of_a_dead_node_says_so_and_its_pods_can_be_deleted_without_it() {
    let bench = Bench::new();
    bench.node("n-1", "Unknown");
    held_by_a_dead_kubelet(&bench, "engine");
    let target = bench.target(Vec::new()).with_patience(Duration::from_millis(300));
    let failure = target.drain("n-1", Duration::from_secs(60), None).await.expect_err("nothing ends its pod");
    assert_eq!(failure.code, "E-NODE-DEAD", "{failure}");
    assert!(failure.message.contains("not ready: NodeStatusUnknown"), "{failure}");
    let held = bench.store.get("pods", "default", "engine").expect("it is still there");
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    target.delete_pods("n-1").await.expect("deleted");
    assert!(bench.store.get("pods", "default", "engine").is_none());
    target.drain("n-1", Duration::from_secs(60), None).await.expect("nothing is left to drain");
}

/// A retired host whose machine is gone: nothing of it goes until somebody says that it is off for good.
#[tokio::test]
async fn a_lost_node_is_forgotten_once_its_loss_is_confirmed() {
    let bench = Bench::new();
    let target = |lost: bool| {
        ClusterTarget::new(ClusterSetup {
            desired: Vec::new(),
            access: bench.access.clone(),
            address: "10.0.0.1".into(),
            name: "test".into(),
            retired: vec![Retired { host: "n-1".into(), member: None, drain: Duration::from_secs(60), lost }],
            events: Events::none(),
        })
        .with_patience(Duration::from_millis(300))
    };
    bench.node("n-1", "Unknown");
    held_by_a_dead_kubelet(&bench, "engine");
    let unsure = target(false);
    let todo = steps(&unsure).await;
    assert_eq!(todo[0].hazards, [Hazard::Drain]);
    let failure = unsure.enact(&todo, &StepOutputs::new()).await.expect_err("it may still run");
    assert_eq!(failure.code, "E-NODE-DEAD");
    assert!(failure.hint.as_deref().is_some_and(|h| h.contains("--lost n-1")), "{failure:?}");
    assert!(bench.store.get("nodes", "", "n-1").is_some());
    let sure = target(true);
    let todo = steps(&sure).await;
    assert_eq!(todo[0].hazards, [Hazard::ForceDelete("n-1".into())], "a hazard of its own");
    sure.enact(&todo, &StepOutputs::new()).await.expect("forgotten");
    assert!(
        bench.store.get("nodes", "", "n-1").is_none()
            && bench.store.get("pods", "default", "engine").is_none()
    );
    // One that answers is drained, whatever was said of it.
    bench.node("n-1", "True");
    assert_eq!(steps(&target(true)).await[0].hazards, [Hazard::Drain]);
}

#[tokio::test]
async fn a_drain_that_was_cut_off_is_undone_by_the_next_run_and_not_by_its_own() {
    let bench = Bench::new();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n-1"}});
    bench.make("nodes", node);
    let ready = |o: &mut Value| o["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    bench.store.edit("nodes", "", "n-1", &Options::status_by("kubelet"), ready).expect("accepted");
    let wanted = || {
        let node = Node {
            name: "n-1".into(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            taints: Vec::new(),
            cordoned: false,
            allocatable: BTreeMap::new(),
            kubelet: None,
        };
        vec![Resource::new("node", Spec::Node(node))]
    };
    let target = bench.target(wanted());
    converge(&target).await;
    target.drain("n-1", Duration::from_secs(20), None).await.expect("drained");
    assert_eq!(steps(&target).await, [], "its own drain is under way");
    let next = bench.target(wanted());
    assert_eq!(names(&steps(&next).await), ["node/n-1"]);
    converge(&next).await;
    assert!(bench.store.get("nodes", "", "n-1").expect("the node")["spec"]["unschedulable"].is_null());
}

/// A kubelet's part for one node: the plugin's pod runs, ends when asked to, comes again, and reports `counts` in turn.
fn plugin(bench: &Bench, counts: &'static [u64]) -> JoinSet<()> {
    let store = bench.store.clone();
    let mut kubelet = JoinSet::new();
    kubelet.spawn(async move {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for (start, count) in counts.iter().enumerate() {
            let name = format!("nvidia-device-plugin-{start}");
            let mut body = pod(&name, json!({"app.kubernetes.io/name": "nvidia-device-plugin"}));
            body["metadata"]["namespace"] = json!("kube-system");
            store.ensure("pods", body, "kube-controller-manager").expect("made");
            let by = Options::status_by("kubelet");
            let running = |o: &mut Value| o["status"] = json!({"phase": "Running", "conditions": ready});
            store.edit("pods", "kube-system", &name, &by, running).expect("accepted");
            let report = |o: &mut Value| {
                o["status"] =
                    json!({"conditions": ready, "allocatable": {"nvidia.com/gpu": count.to_string()}});
            };
            store.edit("nodes", "", "n-1", &by, report).expect("accepted");
            while store
                .get("pods", "kube-system", &name)
                .is_some_and(|p| p["metadata"]["deletionTimestamp"].is_null())
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            store.erase("pods", "kube-system", &name);
        }
    });
    kubelet
}

fn eight_gpus() -> Vec<Resource> {
    let allocatable = BTreeMap::from([("nvidia.com/gpu".to_owned(), 8)]);
    let (labels, taints) = (BTreeMap::new(), Vec::new());
    let node = Node { name: "n-1".into(), labels, taints, cordoned: false, allocatable, kubelet: None };
    let mut node = Resource::new("node", Spec::Node(node));
    node.deadline_s = 60;
    vec![node]
}

/// The host was verified, so it is the plugin: it is started anew, and the node comes in.
#[tokio::test]
async fn a_plugin_that_reports_too_few_devices_is_started_anew() {
    let bench = Bench::new();
    bench.make(
        "nodes",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n-1"},
        "spec": {"taints": [{"key": "provision.dev/starting", "value": "true", "effect": "NoSchedule"}]}}),
    );
    let kubelet = plugin(&bench, &[7, 8]);
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(eight_gpus(), events).with_patience(Duration::from_millis(300));
    converge(&target).await;
    let node = bench.store.get("nodes", "", "n-1").expect("the node");
    assert!(
        node["spec"]["unschedulable"].is_null()
            && node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
    );
    assert!(bench.store.get("pods", "kube-system", "nvidia-device-plugin-1").is_some());
    drop((target, kubelet));
    let mut notes = Vec::new();
    while let Some(event) = seen.recv().await {
        if let Event::StepProgress { note, .. } = event {
            notes.push(note);
        }
    }
    let short = "waiting for the device plugin: 7/8 nvidia.com/gpu allocatable";
    assert!(notes.contains(&short.to_owned()), "{notes:?}");
    assert!(notes.contains(&format!("{short}: restarting nvidia-device-plugin on n-1")), "{notes:?}");
}

/// Starting it anew did not help: the node takes no pods, and says so, until its devices are there.
#[tokio::test]
async fn a_node_that_stays_short_of_devices_is_cordoned_until_they_are_there() {
    let bench = Bench::new();
    bench.make("nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n-1"}}));
    let mut kubelet = plugin(&bench, &[7, 7, 7]);
    let patient = || bench.target(eight_gpus()).with_patience(Duration::from_millis(300));
    let target = patient();
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("7 are not 8");
    assert_eq!(failure.code, "E-ALLOCATABLE");
    assert!(failure.message.contains("7/8 nvidia.com/gpu allocatable; the node is cordoned"), "{failure}");
    let hint = failure.hint.unwrap_or_default();
    assert!(
        hint.contains("provision verify --limit n-1") && hint.contains("nvidia-device-plugin-1"),
        "{hint}"
    );
    let node = || bench.store.get("nodes", "", "n-1").expect("the node");
    assert_eq!(node()["spec"]["unschedulable"], true);
    assert_eq!(node()["metadata"]["annotations"]["provision.dev/cordoned"], "short");
    // The next apply does not lift it before the devices are there.
    let next = patient();
    let todo = steps(&next).await;
    assert!(todo[0].change.fields.iter().any(|f| f.from.as_deref() == Some("by us: short")), "{todo:?}");
    assert_eq!(next.enact(&todo, &StepOutputs::new()).await.expect_err("still 7").code, "E-ALLOCATABLE");
    assert_eq!(node()["spec"]["unschedulable"], true);
    kubelet.abort_all();
    let _whole = plugin(&bench, &[8]);
    converge(&patient()).await;
    assert!(node()["spec"]["unschedulable"].is_null());
    assert!(node()["metadata"]["annotations"]["provision.dev/cordoned"].is_null());
}

#[tokio::test]
async fn waiting_says_why() {
    let bench = Bench::new();
    let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let mut engine = Resource::new(
        "test",
        Spec::Object(Box::new(Object { stage: Stage::Engine, manifest, ready: Ready::Available })),
    );
    engine.deadline_s = 1;
    let mut body = pod("d-1", json!({"app": "d"}));
    body["spec"]["nodeName"] = json!(null);
    bench.make("pods", body);
    let unscheduled = |o: &mut Value| {
        o["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]});
    };
    bench
        .store
        .edit("pods", "default", "d-1", &Options::status_by("kube-scheduler"), unscheduled)
        .expect("accepted");
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(vec![engine], events);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("never available");
    assert_eq!(failure.code, "E-K8S-DEADLINE");
    assert!(
        failure.message.contains("0/1 ready: not scheduled: 0/3 nodes are available"),
        "{}",
        failure.message
    );
    drop(target);
    let mut notes = Vec::new();
    while let Some(event) = seen.recv().await {
        if let Event::StepProgress { note, .. } = event {
            notes.push(note);
        }
    }
    assert!(notes.iter().any(|n| n.contains("Insufficient nvidia.com/gpu")), "{notes:?}");
}

/// A simulated cluster, reached as through SSH.
struct Twin {
    cluster: Arc<Cluster>,
    admin: Mutex<Option<String>>,
}

#[async_trait]
impl Access for Twin {
    async fn controller(&self, port: u16) -> Result<BoxStream, Failure> {
        let stream = self.cluster.dial("cp-1", port).await.ok_or_else(|| refused("the API"))?;
        Ok(Box::new(stream))
    }

    async fn worker(&self, port: u16) -> Result<BoxStream, Failure> {
        let stream = self.cluster.dial("w-1", port).await.ok_or_else(|| refused("the node port"))?;
        Ok(Box::new(stream))
    }

    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.admin.lock().expect("no panic").clone().map(String::into_bytes))
    }

    async fn run_on_controllers(&self, _: &str) -> Vec<ControllerOutput> {
        Vec::new()
    }

    async fn on_controller(&self, program: &str) -> Result<String, Failure> {
        panic!("nothing runs on a controller here: {program}")
    }
}

#[tokio::test]
async fn a_host_joins_with_a_token_that_ends_with_the_run_and_gets_its_label_and_devices() {
    provider();
    let host = |n: u8| HostSpec { addresses: vec![format!("10.0.0.{n}")], ..HostSpec::default() };
    let mut gpu = host(3);
    gpu.accelerators = Some(8);
    let hosts = BTreeMap::from([("cp-1".into(), host(1)), ("w-1".into(), host(2)), ("h-1".into(), gpu)]);
    let cluster = Arc::new(Cluster::new(ClusterSpec { hosts }, Events::none()));
    let twin = Arc::new(Twin { cluster: cluster.clone(), admin: Mutex::new(None) });
    let node = Node {
        name: "h-1".into(),
        labels: BTreeMap::from([("provision.dev/accelerator".into(), "nvidia".into())]),
        taints: Vec::new(),
        cordoned: false,
        allocatable: BTreeMap::from([("nvidia.com/gpu".into(), 8)]),
        kubelet: None,
    };
    let plugin = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "p", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": {"app": "p"}}, "template": {"metadata": {"labels": {"app": "p"}},
            "spec": {"nodeSelector": {"provision.dev/accelerator": "nvidia"},
                "tolerations": [{"key": "provision.dev/starting", "operator": "Exists", "effect": "NoSchedule"}],
                "containers": [{"name": "p", "image": "nvcr.io/nvidia/k8s-device-plugin:v0"}]}}}});
    let token = Resource::new("k0s", Spec::JoinToken(JoinToken { role: JoinRole::Worker }));
    let target = ClusterTarget::new(ClusterSetup {
        desired: vec![token, object(plugin), Resource::new("node", Spec::Node(node))],
        access: twin.clone(),
        address: "10.0.0.1".into(),
        name: "test".into(),
        retired: Vec::new(),
        events: Events::none(),
    });
    let observed = target.observe().await.expect("observed");
    assert!(observed.seen.values().all(|s| *s == Observation::Absent), "no cluster: {:?}", observed.seen);

    let files = cluster.start_controller("cp-1", ControllerStart::default()).await.expect("a controller");
    *twin.admin.lock().expect("no panic") = files.get("/var/lib/k0s/pki/admin.conf").cloned();
    let mut todo = steps(&target).await;
    let step = Step {
        id: TargetId::Cluster.step(&ResourceId::JoinToken(JoinRole::Worker)),
        resource: ResourceId::JoinToken(JoinRole::Worker),
        change: Change { verb: Verb::Run, fields: Vec::new(), text: None },
        ..todo[0].clone()
    };
    let outputs = target.enact(&[step], &StepOutputs::new()).await.expect("a token");
    let token = outputs[&StepOutput::JoinToken(JoinRole::Worker)].expose().to_owned();
    let start = |token: &str| WorkerStart {
        token: Some(token.to_owned()),
        taints: vec!["provision.dev/starting=true:NoSchedule".into()],
        ..WorkerStart::default()
    };
    cluster.start_worker("h-1", start(&token)).await.expect("it joins");
    todo.retain(|s| s.resource != ResourceId::JoinToken(JoinRole::Worker));
    target.enact(&todo, &StepOutputs::new()).await.expect("enacted");
    assert_eq!(steps(&target).await, [], "label on, devices allocatable, startup taint off");
    target.finish().await.expect("finished");
    let late = cluster.start_worker("w-1", start(&token)).await.expect_err("the run is over");
    assert!(late.contains("Unauthorized"), "{late}");
}

/// An engine of which one host did not come in would else be waited for as long as one that loads.
#[tokio::test]
async fn pods_that_no_node_has_room_for_are_given_up_long_before_the_deadline() {
    provider();
    let bench = Bench::new();
    let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "qwen", "namespace": "default"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "qwen"}}, "template": {"metadata": {"labels": {"app": "qwen"}},
            "spec": {"containers": [{"name": "engine", "image": "vllm"}]}}}});
    let mut engine = Resource::new(
        "serving",
        Spec::Object(Box::new(Object { stage: Stage::Engine, manifest, ready: Ready::Available })),
    );
    engine.deadline_s = 60;
    let target = bench.target(vec![engine]).with_patience(std::time::Duration::from_millis(250));
    let pod = |name: &str, condition: Value| {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": "qwen"}},
            "spec": {"containers": [{"name": "engine", "image": "vllm"}]}});
        bench.make("pods", body);
        let seen = |pod: &mut Value| pod["status"] = json!({"conditions": [condition]});
        bench.store.edit("pods", "default", name, &Options::status_by("kubelet"), seen).expect("accepted");
    };
    pod("qwen-1", json!({"type": "Ready", "status": "True"}));
    let why = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable.";
    pod(
        "qwen-2",
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}),
    );
    let failure =
        target.enact(&steps(&target).await, &StepOutputs::new()).await.expect_err("there is no room");
    assert_eq!(failure.code, "E-UNSCHEDULABLE", "{failure:?}");
    assert!(failure.message.contains("1 Insufficient nvidia.com/gpu"), "{}", failure.message);
}

/// Two runs of one owner, with one name, as two machines with one host name would have them.
fn run_of(bench: &Bench) -> (ClusterTarget, Holder, tokio::sync::mpsc::UnboundedReceiver<Event>) {
    let (events, seen) = Events::channel();
    let holder = Holder::new("root@builder".into(), "AAAAA");
    (bench.target_with(Vec::new(), events).held_by(holder.clone()), holder, seen)
}

fn waited(seen: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> Option<String> {
    std::iter::from_fn(|| seen.try_recv().ok()).find_map(|event| match event {
        Event::Waiting { reason, .. } => Some(reason),
        _ => None,
    })
}

const LEASE: [&str; 3] = ["leases.coordination.k8s.io", "kube-system", "provision-test"];

fn set_lease(bench: &Bench, field: &str, value: Value) {
    let [kind, namespace, name] = LEASE;
    bench.edit(kind, namespace, name, "another", |lease| lease["spec"][field] = value.clone());
}

#[tokio::test]
async fn another_runs_lease_is_judged_by_the_renewals_that_are_seen() {
    let bench = Bench::new();
    let (first, _, mut seen) = run_of(&bench);
    first.hold().await.expect("free");
    assert_eq!(waited(&mut seen), None, "a free one is taken at once");
    set_lease(&bench, "leaseDurationSeconds", json!(2));

    // It renews, by a clock that is years behind: it is alive.
    let (second, _, mut seen) = run_of(&bench);
    set_lease(&bench, "renewTime", json!("2001-01-01T00:00:00.000000Z"));
    let (held, ()) = tokio::join!(second.hold(), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        set_lease(&bench, "renewTime", json!("2001-01-01T00:00:30.000000Z"));
    });
    let refused = held.expect_err("another run of the same owner and name");
    assert_eq!((refused.kind, refused.code.as_str()), (FailureKind::Locked, "E-LEASE"));
    assert!(refused.message.contains("root@builder (run AAAAA)"), "{refused}");
    assert!(waited(&mut seen).is_some_and(|why| why.contains("root@builder") && why.contains("2 s")));

    // It renews no more, by a clock that is years ahead: it is dead.
    set_lease(&bench, "renewTime", json!("2099-01-01T00:00:00.000000Z"));
    second.hold().await.expect("taken over");
    first.finish().await.expect("nothing of its own is left");
    let holder = |bench: &Bench| {
        let [kind, namespace, name] = LEASE;
        let lease = bench.store.get(kind, namespace, name);
        lease.map(|l| l["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    assert!(holder(&bench).is_some(), "a run that lost its lease does not give back that of another");
    second.finish().await.expect("given back");
    assert_eq!(holder(&bench), None);
}

#[tokio::test]
async fn the_lease_of_a_run_that_is_known_to_be_over_is_not_waited_for() {
    let bench = Bench::new();
    let (killed, holder, _) = run_of(&bench);
    killed.hold().await.expect("free");
    let (next, me, mut seen) = run_of(&bench);
    me.have_ended(&[holder.identity]);
    next.hold().await.expect("at once");
    assert_eq!(waited(&mut seen), None);
}
