//! The cluster of the routing cases: nodes with a stand-in kubelet, what the product renders for an inventory, applied by its own
//! reconciler, and the real router. All cases share it; one that changes it is followed by one that sets it back.

use super::super::assets;
use super::super::contract::Site;
use super::super::contract::rest::{Rest, text};
use super::super::kit::{converge, target};
use super::super::servers::ControlPlane;
use super::client::{Answer, chat, user};
use super::engine::{Asked, Engine};
use super::kubelet::Kubelet;
use super::router::Router;
use provision::catalog::Catalog;
use provision::event::Events;
use provision::inventory::{Inventory, load};
use provision::serving::{ServingInput, desired};
use provision::state::{Resource, SecretText, Spec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

/// Until what was applied is served: watches, and readiness of all pods.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Two tenants with the same served name, on two models; a third with weights and a model of SGLang.
pub const SITE: &str = r#"apiVersion: provision/v1
kind: Inventory
metadata: {name: routing}
ssh: {user: root}
cluster:
  k0s: {version: v1.35.7+k0s.0}
  network: {podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}
pools:
  c: {role: controller, hosts: {cp-1: {address: 10.1.0.1}}}
  w: {role: worker, hosts: {w-1: {address: 10.1.0.2}}}
  gpu:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: "580.178.04"}}
    hosts: {g-1: {address: 10.1.1.1}}
router:
  kthena: {version: v1.0.0, gatewayAPI: true, inferenceExtension: true}
  expose: {nodePort: {base: 30080}}
models:
  large:
    source: {path: /data/large}
    engine: {vllm: {image: i}}
    placement: {pool: gpu, acceleratorsPerReplica: 1, replicas: 2}
  medium:
    source: {path: /data/medium}
    engine: {vllm: {image: i}}
    placement: {pool: gpu, acceleratorsPerReplica: 1}
  small:
    source: {path: /data/small}
    engine: {sglang: {image: i}}
    placement: {pool: gpu, acceleratorsPerReplica: 1}
tenants:
  search: {gateway: {port: 8081}, routes: {qwen: {to: {large: 100}}}}
  ads: {gateway: {port: 8082}, routes: {qwen: {to: {medium: 100}}}}
  mix: {gateway: {port: 8083}, routes: {blend: {to: {large: 70, medium: 30}}, tiny: {to: {small: 100}}}}
"#;

/// What runs.
pub struct Cluster {
    pub router: Router,
    kubelet: Kubelet,
    rest: Rest,
    /// What is applied now.
    site: String,
}

static CLUSTER: LazyLock<Mutex<Option<Cluster>>> = LazyLock::new(Mutex::default);

/// Returns the cluster, started by the first case, with an inventory applied and served and nothing recorded.
pub async fn cluster(plane: &ControlPlane, site: &str) -> MappedMutexGuard<'static, Cluster> {
    let mut guard = CLUSTER.lock().await;
    match guard.as_mut() {
        None => *guard = Some(Cluster::start(plane, site).await),
        Some(cluster) => {
            cluster.router.runs();
            cluster.apply(plane, site).await;
            cluster.served(site).await;
        }
    }
    let cluster = MutexGuard::map(guard, |c| c.as_mut().expect("started"));
    cluster.forget().await;
    cluster
}

/// Ends the cluster if there is one.
pub async fn end() {
    if let Some(cluster) = CLUSTER.lock().await.take() {
        cluster.kubelet.end().await;
    }
}

fn catalog() -> Catalog {
    Catalog::builtin().expect("the catalog")
}

/// Reads an inventory with files beside it.
pub fn inventory(text: &str, files: &[(String, String)]) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("site.yaml");
    std::fs::write(&path, text).expect("written");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    load(&path, &catalog()).unwrap_or_else(|d| panic!("{}", d.render(false))).inventory
}

/// Returns what the product renders for an inventory.
pub fn render(
    site: &str,
    files: &[(String, String)],
    crds: Vec<Value>,
    tokens: BTreeMap<String, SecretText>,
) -> Vec<Resource> {
    let (inventory, catalog) = (inventory(site, files), catalog());
    desired(&ServingInput { inventory: &inventory, catalog: &catalog, crds, tokens }).expect("objects")
}

/// Returns what is applied for an inventory.
fn rendered(site: &str) -> Vec<Resource> {
    let crds = assets::definitions().expect("definitions");
    let mut all = render(site, &[], crds, BTreeMap::new());
    for resource in &mut all {
        resource.deadline_s = 120;
    }
    all
}

/// Returns a rendered object: `Deployment/kthena-system/kthena-router`.
pub fn object(all: &[Resource], id: &str) -> Value {
    let found = all.iter().find(|r| r.id.what() == id.replacen('/', " ", 1));
    let Some(Spec::Object(object)) = found.map(|r| &r.spec) else { panic!("no {id}") };
    object.manifest.clone()
}

impl Cluster {
    async fn start(plane: &ControlPlane, site: &str) -> Self {
        let rest = Rest::new(&plane.kubeconfig(), "default");
        let node = |name: &str, labels: Value| (name.to_owned(), labels);
        let nodes = [
            node("w-1", json!({"provision.dev/pool": "w"})),
            node("g-1", json!({"provision.dev/pool": "gpu", "provision.dev/accelerator": "nvidia"})),
        ];
        let kubelet = Kubelet::start(&rest, &nodes).await;
        let all = rendered(site);
        converge(&target(plane, "routing", all.clone(), Events::none())).await;
        let program = assets::router().expect("built before");
        let deployment = object(&all, "Deployment/kthena-system/kthena-router");
        let router = Router::start(plane, &program, &deployment).await;
        let mut this = Self { router, kubelet, rest, site: site.to_owned() };
        this.served(site).await;
        this
    }

    /// Brings the cluster to an inventory by the product's own reconciler.
    pub async fn apply(&mut self, plane: &ControlPlane, site: &str) {
        if self.site != site {
            // Whatever comes of it, the next case has to set it back.
            self.site.clear();
            converge(&target(plane, "routing", rendered(site), Events::none())).await;
            self.site = site.to_owned();
        }
    }

    /// Waits until every route of an inventory is served from every pod that is ready.
    pub async fn served(&mut self, site: &str) {
        for tenant in inventory(site, &[]).tenants.values() {
            for name in tenant.routes.keys() {
                let ask = || chat(tenant.port, name, "are you there");
                self.until(&format!("{name} on {}", tenant.port), ask, |a| a.code == 200).await;
            }
        }
        let began = Instant::now();
        let mut expected: Vec<String> = self.kubelet.engines.lock().await.keys().cloned().collect();
        expected.sort();
        loop {
            let mut known = self.known_pods().await;
            known.sort();
            if known == expected {
                break;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the router knows {known:?}, not {expected:?}\n{}",
                self.router.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the names of the pods that the router knows, as its debug port has them.
    async fn known_pods(&self) -> Vec<String> {
        let answer = super::client::get("http://127.0.0.1:15000/debug/config_dump/pods").await;
        let pods = answer.json["pods"].as_array().cloned().unwrap_or_default();
        pods.iter().filter_map(|p| Some(p["name"].as_str()?.to_owned())).collect()
    }

    /// Asks until an answer satisfies; returns it.
    pub async fn until<F: Future<Output = Answer>>(
        &mut self,
        what: &str,
        ask: impl Fn() -> F,
        done: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let began = Instant::now();
        loop {
            let answer = ask().await;
            if done(&answer) {
                return answer;
            }
            self.router.runs();
            assert!(began.elapsed() < PATIENCE, "{what} did not come: {answer:#?}\n{}", self.router.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Hands all engines to a function.
    pub async fn engines<T>(&self, mut with: impl FnMut(&str, &mut Engine) -> T) -> Vec<T> {
        self.kubelet.engines.lock().await.iter_mut().map(|(pod, engine)| with(pod, engine)).collect()
    }

    /// Stops the engine of a pod, which the API does not notice; or starts it again.
    pub async fn power(&self, pod: &str, on: bool) {
        let mut engines = self.kubelet.engines.lock().await;
        let engine = engines.get_mut(pod).expect("an engine");
        if on { engine.resume().await.expect("listens") } else { engine.stop().await }
    }

    /// Ends a pod of a model as a kubelet does: its hook, with the pod's address in place of loopback, and then the engine, which
    /// cuts what it has not finished. The API has the pod until then.
    pub async fn end_engine(&self, pod: &str) {
        self.kubelet.ending.lock().await.insert(pod.to_owned());
        let list = self.rest.get("/api/v1/pods").await.expect(200);
        let found = list["items"].as_array().into_iter().flatten().find(|p| p["metadata"]["name"] == pod);
        let found = found.expect("the pod");
        let path = format!("/api/v1/namespaces/{}/pods/{pod}", text(found, "/metadata/namespace"));
        let grace = found["spec"]["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
        let hook = &found["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
        let hook: Vec<String> = serde_json::from_value(hook.clone()).expect("a hook");
        let address = text(found, "/status/podIP");
        let removed = self.rest.delete(&path, &json!({})).await;
        assert_eq!(removed.code, 200, "{removed:#?}");
        let mut command = std::process::Command::new(&hook[0]);
        command.args(hook[1..].iter().map(|word| word.replace("127.0.0.1", &address)));
        super::ends::hook(command, Duration::from_secs(grace)).await;
        self.power(pod, false).await;
        self.kubelet.ending.lock().await.remove(pod);
    }

    /// Returns the pods of a model.
    pub async fn pods(&self, model: &str) -> Vec<String> {
        let pods = self.engines(|pod, engine| (engine.model() == model).then(|| pod.to_owned())).await;
        pods.into_iter().flatten().collect()
    }

    /// Returns what engines were asked since the last call, with their models.
    pub async fn asked(&self) -> Vec<(String, Asked)> {
        let all = self
            .engines(|_, engine| {
                let model = engine.model().to_owned();
                engine.asked().into_iter().map(move |a| (model.clone(), a)).collect::<Vec<_>>()
            })
            .await;
        all.concat()
    }

    /// Forgets what was recorded; engines hold what they are told to hold.
    async fn forget(&self) {
        self.engines(|_, engine| {
            engine.asked();
            engine.hold(true);
            engine.report_waiting(0);
        })
        .await;
    }
}

/// Returns a chat completion's body.
pub fn body(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [user(prompt)]})
}
