//! The kubelet of all nodes of the routing cases: pods that the real controllers made and the real scheduler bound get an address
//! and become ready; in place of an engine's container an echo engine listens on that address.

use super::super::contract::rest::{Rest, text};
use super::engine::{Engine, Kind};
use futures::FutureExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// The engines that run, by the names of their pods.
pub type Engines = Arc<Mutex<BTreeMap<String, Engine>>>;

/// Plays the kubelet until dropped.
pub struct Kubelet {
    tasks: JoinSet<()>,
    pub engines: Engines,
    /// Pods whose end a case plays itself: they stay in the API until it is done.
    pub ending: Arc<Mutex<BTreeSet<String>>>,
}

impl Kubelet {
    /// Registers nodes with their labels and keeps them.
    pub async fn start(rest: &Rest, nodes: &[(String, Value)]) -> Self {
        for (name, labels) in nodes {
            let mut labels = labels.clone();
            labels["kubernetes.io/hostname"] = json!(name);
            labels["kubernetes.io/os"] = json!("linux");
            let node =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
            // It is there already if the first case failed before it had all that it needs.
            let made = rest.post("/api/v1/nodes", &node).await;
            assert!(matches!(made.code, 201 | 409), "{made:#?}");
        }
        let engines = Engines::default();
        let mut tasks = JoinSet::new();
        let ending = Arc::<Mutex<BTreeSet<String>>>::default();
        let (rest, running, kept) = (rest.clone(), engines.clone(), ending.clone());
        let nodes: Vec<String> = nodes.iter().map(|(name, _)| name.clone()).collect();
        tasks.spawn(async move {
            let mut addresses = 256_u32;
            loop {
                let round = async {
                    for node in &nodes {
                        beat(&rest, node).await;
                    }
                    let kept = kept.lock().await.clone();
                    pods(&rest, &running, &kept, &mut addresses).await;
                };
                // A pod may go between two requests.
                let _ = AssertUnwindSafe(round).catch_unwind().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { tasks, engines, ending }
    }

    /// Ends it and its engines.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        self.engines.lock().await.clear();
    }
}

async fn beat(rest: &Rest, node: &str) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let resources = json!({"cpu": "640", "memory": "8Ti", "pods": "500", "nvidia.com/gpu": "64"});
    let status = json!({"status": {"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a stand-in", "lastHeartbeatTime": now}]}});
    let path = format!("/api/v1/nodes/{node}/status?fieldManager=kubelet");
    rest.patch(&path, "application/strategic-merge-patch+json", &status).await;
}

async fn pods(rest: &Rest, engines: &Engines, ending: &BTreeSet<String>, addresses: &mut u32) {
    let list = rest.get("/api/v1/pods").await.expect(200);
    for pod in list["items"].as_array().into_iter().flatten() {
        let name = text(pod, "/metadata/name");
        let path = format!("/api/v1/namespaces/{}/pods/{name}", text(pod, "/metadata/namespace"));
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if ending.contains(&name) {
                continue;
            }
            rest.delete(&path, &json!({"gracePeriodSeconds": 0})).await;
            // As in a cluster: gone from the API first, then the process.
            engines.lock().await.remove(&name);
        } else if pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending" {
            *addresses += 1;
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 240, 0, 0)) + *addresses);
            if let Some(engine) = start(pod, address).await {
                engines.lock().await.insert(name, engine);
            }
            let status = json!({"status": {"phase": "Running", "podIP": address.to_string(),
                "podIPs": [{"ip": address.to_string()}], "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]}});
            rest.patch(&format!("{path}/status"), "application/strategic-merge-patch+json", &status)
                .await
                .expect(200);
        }
    }
}

/// Starts the engine that a pod's command names; `None` if it names none.
async fn start(pod: &Value, address: Ipv4Addr) -> Option<Engine> {
    let container = pod["spec"]["containers"].as_array()?.iter().find(|c| c["name"] == "engine")?;
    let words: Vec<&str> = ["command", "args"]
        .iter()
        .filter_map(|k| container[*k].as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let flag = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
    let kind = if words.contains(&"sglang.launch_server") { Kind::Sglang } else { Kind::Vllm };
    let port: u16 = flag("--port")?.parse().expect("a port");
    let model = flag("--served-model-name")?;
    let address = SocketAddr::from((address, port));
    let name = text(pod, "/metadata/name");
    Some(Engine::start(kind, address, &name, model).await.expect("a free address"))
}
