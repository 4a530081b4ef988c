//! The cluster as its machines see it: controllers and workers start, stop and are reached.

use super::control_plane::ControlPlane;
use super::spec::{ClusterSpec, ControllerStart, Files, K0sVersion, WorkerStart};
use super::{PodPrograms, mirror, ports, workloads};
use crate::event::Events;
use crate::lab::api::{self, Api, Authority, Identity, Store, TokenUse, is_valid_token, kubeconfig};
use crate::lab::machine::{CPUS, MEMORY_KIB};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::DuplexStream;
use tokio::task::JoinSet;

/// Bytes that a virtual connection buffers.
const BUFFER: usize = 256 << 10;

/// A simulated k0s cluster. Dropping it ends everything it runs.
pub struct Cluster {
    spec: ClusterSpec,
    /// The real one, where there is one.
    control_plane: Option<ControlPlane>,
    /// The real router and proxy, where there are any.
    programs: Option<Arc<PodPrograms>>,
    inner: Mutex<Inner>,
    tasks: Mutex<JoinSet<()>>,
    /// Marks the snapshots of this lab: a host may present anything as one.
    secret: [u8; 32],
}

#[derive(Default)]
struct Inner {
    api: Option<Api>,
    controllers: BTreeSet<String>,
    /// Members of etcd, running or not: a member leaves only when it is told to.
    members: BTreeSet<String>,
    workers: BTreeSet<String>,
    joined: BTreeSet<String>,
    /// What each host's k0s calls the version of Kubernetes.
    versions: BTreeMap<String, String>,
    accelerators: BTreeMap<String, (u32, BTreeMap<String, u32>)>,
    /// What the controller that restored a backup begins with.
    restored: Option<(String, Snapshot)>,
}

/// What a backup holds of a cluster.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    certificate: String,
    key: String,
    /// Objects by kind, definitions of kinds first.
    objects: Vec<(String, Vec<Value>)>,
}

impl Inner {
    fn has_quorum(&self) -> bool {
        self.members.iter().filter(|m| self.controllers.contains(*m)).count() > self.members.len() / 2
    }
}

impl Cluster {
    /// Returns a cluster with nothing running. Must be called inside a tokio runtime.
    pub fn new(spec: ClusterSpec, _: Events) -> Self {
        let tasks = Mutex::new(JoinSet::new());
        Self {
            spec,
            control_plane: None,
            programs: None,
            inner: Mutex::default(),
            tasks,
            secret: rand::random(),
        }
    }

    /// Returns what proves that a packed snapshot is one of this lab.
    fn mark(&self, packed: &[u8]) -> [u8; 32] {
        // The secret on both sides: nothing can be appended.
        Sha256::new()
            .chain_update(self.secret)
            .chain_update(packed)
            .chain_update(self.secret)
            .finalize()
            .into()
    }

    /// Returns the cluster on a real control plane, if there is one, with the programs of pods that run.
    #[must_use]
    pub fn on(self, control_plane: Option<ControlPlane>, programs: Option<PodPrograms>) -> Self {
        Self { control_plane, programs: programs.map(Arc::new), ..self }
    }

    /// Ends what runs outside of this process.
    pub async fn end(&self) {
        if let Some(control_plane) = &self.control_plane {
            control_plane.end().await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Makes the control plane that the first controller brings.
    fn begin(&self, version: &K0sVersion, restored: Option<Snapshot>) -> Result<Api, String> {
        let authority = match (&self.control_plane, &restored) {
            (Some(real), _) => real.authority.clone(),
            (None, Some(from)) => {
                let authority = Authority::again(from.certificate.clone(), from.key.clone());
                Arc::new(authority.map_err(|e| e.to_string())?)
            }
            (None, None) => Arc::new(Authority::new().map_err(|e| e.to_string())?),
        };
        let tls = authority.server(&self.spec.api_names()).map_err(|e| e.to_string())?;
        let store = Arc::new(Store::new());
        if let Some(real) = &self.control_plane {
            self.spawn(mirror::run(
                real.client()?,
                store.clone(),
                real.has_controllers,
                self.programs.clone(),
            ));
        } else {
            for (kind, objects) in restored.into_iter().flat_map(|from| from.objects) {
                store.load(vec![(&kind, objects)], store.revision());
            }
            for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                store.ensure("namespaces", body, "kube-apiserver").map_err(|r| format!("{r:?}"))?;
            }
            self.spawn(api::housekeeping::run(store.clone()));
            self.spawn(workloads::run(store.clone()));
        }
        self.spawn(workloads::heartbeats(store.clone()));
        Ok(Api { store, authority, version: version.kubernetes().to_owned(), tls })
    }

    /// Starts a controller: the first makes the cluster, others need a controller token. Errors hold k0s's phrases.
    pub async fn start_controller(&self, host: &str, start: ControllerStart) -> Result<Files, String> {
        let existing = self.inner().api.clone();
        let api = match existing {
            None => {
                let restored = self.inner().restored.take_if(|(by, _)| by == host).map(|(_, from)| from);
                let api = self.begin(&start.version, restored)?;
                self.inner().api = Some(api.clone());
                api
            }
            Some(api) => {
                if !self.inner().joined.contains(host) {
                    self.check(&api, start.token.as_deref(), TokenUse::Controller)
                        .await
                        .map_err(|why| format!("failed to join existing cluster via https: {why}"))?;
                }
                if self.inner().controllers.is_empty() {
                    api.store.forget_past();
                }
                api
            }
        };
        {
            let mut inner = self.inner();
            inner.versions.insert(host.to_owned(), start.version.kubernetes().to_owned());
            inner.controllers.insert(host.to_owned());
            inner.members.insert(host.to_owned());
            inner.joined.insert(host.to_owned());
        }
        let pair = api.authority.client(&Identity::admin()).map_err(|e| e.to_string())?;
        let ca = api.authority.certificate().to_owned();
        let admin = kubeconfig(&ca, "https://localhost:6443", "local", "Default", "user", &pair);
        let mut files = Files::from([
            ("/var/lib/k0s/pki/ca.crt", ca),
            ("/var/lib/k0s/pki/admin.conf", admin),
            ("/var/lib/k0s/pki/admin.crt", pair.certificate),
        ]);
        if let Some(half) = start.worker {
            files.extend(self.register(host, &half)?);
        }
        Ok(files)
    }

    /// Starts a worker, which needs a worker token the first time. Errors hold k0s's phrases.
    pub async fn start_worker(&self, host: &str, start: WorkerStart) -> Result<Files, String> {
        let (api, joined) = {
            let inner = self.inner();
            (inner.api.clone(), inner.joined.contains(host))
        };
        let api = api.ok_or("waiting for apiserver to come up: Failed to connect to apiserver")?;
        if !joined {
            self.check(&api, start.token.as_deref(), TokenUse::Worker).await?;
        }
        self.register(host, &start)
    }

    /// Checks a join token. A real API may have it already, and the store that mirrors it not yet.
    async fn check(&self, api: &Api, token: Option<&str>, wanted: TokenUse) -> Result<(), String> {
        let mut tries = if self.control_plane.is_some() { 20 } else { 0 };
        loop {
            match check(api, token, wanted) {
                Err(_) if tries > 0 => tries -= 1,
                checked => return checked,
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Makes or wakes a host's Node.
    fn register(&self, host: &str, start: &WorkerStart) -> Result<Files, String> {
        let api = self.inner().api.clone().ok_or("waiting for apiserver to come up")?;
        let mut labels: BTreeMap<String, String> = start.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), host.to_owned());
        labels.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
        labels.insert("kubernetes.io/arch".to_owned(), "amd64".to_owned());
        let taints: Vec<Value> = start.taints.iter().map(|t| taint(t)).collect();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": host, "labels": labels},
            "spec": {"taints": taints}});
        let failed = |r: api::ApiError| format!("cannot register the node: {r:?}");
        api.store.ensure("nodes", node, "kubelet").map_err(failed)?;
        {
            let mut inner = self.inner();
            inner.versions.insert(host.to_owned(), start.version.kubernetes().to_owned());
            inner.workers.insert(host.to_owned());
            inner.joined.insert(host.to_owned());
        }
        self.node_status(&api, host, true).map_err(failed)?;
        let pair = api.authority.client(&Identity::node(host)).map_err(|e| e.to_string())?;
        let ca = api.authority.certificate();
        let text = kubeconfig(ca, "https://localhost:7443", "default", "default", "default", &pair);
        Ok(Files::from([("/var/lib/k0s/kubelet.conf", text)]))
    }

    fn node_status(&self, api: &Api, host: &str, ready: bool) -> Result<(), api::ApiError> {
        let spec = self.spec.hosts.get(host).cloned().unwrap_or_default();
        let (answering, mig) = self.inner().accelerators.get(host).cloned().unzip();
        let version = self.inner().versions.get(host).cloned().unwrap_or_default();
        let plugged = spec.accelerators.map(|count| answering.unwrap_or(count));
        // How many devices a device plugin would find on this host.
        api.store.edit("nodes", "", host, &api::Options::by("lab"), |node| {
            node["metadata"]["annotations"]["lab/accelerators"] = json!(plugged.unwrap_or(0).to_string());
            node["metadata"]["annotations"]["lab/mig"] =
                json!(json!(mig.clone().unwrap_or_default()).to_string());
        })?;
        api.store
            .edit("nodes", "", host, &api::Options::status_by("kubelet"), |node| {
                let status = if ready { "True" } else { "Unknown" };
                let reason = if ready { "KubeletReady" } else { "NodeStatusUnknown" };
                let capacity = json!({"cpu": CPUS.to_string(), "memory": format!("{MEMORY_KIB}Ki"), "pods": "110"});
                node["status"]["conditions"] = json!([{"type": "Ready", "status": status, "reason": reason,
                    "message": "LAB kubelet", "lastTransitionTime": api::now()}]);
                for list in ["capacity", "allocatable"] {
                    for (key, value) in capacity.as_object().into_iter().flatten() {
                        node["status"][list][key] = value.clone();
                    }
                }
                node["status"]["nodeInfo"] = json!({"kubeletVersion": version, "osImage": "LAB", "architecture": "amd64"});
                node["status"]["addresses"] =
                    json!([{"type": "InternalIP", "address": spec.addresses.first()}, {"type": "Hostname", "address": host}]);
            })
            .map(|_| ())
    }

    /// Stops k0s on a host: its API and kubelet fall silent, containers stay.
    pub fn stop(&self, host: &str) {
        let api = {
            let mut inner = self.inner();
            inner.controllers.remove(host);
            let worked = inner.workers.remove(host);
            inner.api.clone().filter(|_| worked)
        };
        if let Some(api) = api {
            let _ = self.node_status(&api, host, false);
        }
    }

    /// Forgets that a host ever joined (`k0s reset`, on a stopped host). The Node object stays, as with k0s. With the data of its
    /// last member the cluster is gone, and the next controller makes another one.
    pub fn reset(&self, host: &str) {
        let mut inner = self.inner();
        inner.joined.remove(host);
        if !inner.members.iter().any(|member| inner.joined.contains(member)) {
            let (accelerators, restored) = (std::mem::take(&mut inner.accelerators), inner.restored.take());
            *inner = Inner { accelerators, restored, ..Inner::default() };
        }
    }

    /// Returns etcd's members, name to peer URL, as `k0s etcd member-list` prints them on a host; `None` where etcd does
    /// not answer: it does not run there, or it has no quorum.
    pub fn members(&self, host: &str) -> Option<BTreeMap<String, String>> {
        let inner = self.inner();
        if !inner.controllers.contains(host) || !inner.has_quorum() {
            return None;
        }
        Some(inner.members.iter().map(|h| (h.clone(), format!("https://{}:2380", self.address(h)))).collect())
    }

    /// Returns what the cluster holds, as one line of text (`k0s backup`).
    pub fn snapshot(&self, host: &str) -> Result<String, String> {
        if self.control_plane.is_some() {
            return Err("LAB: a real control plane is not backed up".to_owned());
        }
        let inner = self.inner();
        let api = inner.api.as_ref().filter(|_| inner.controllers.contains(host) && inner.has_quorum());
        let api = api.ok_or("etcdserver: request timed out")?;
        let mut kinds: Vec<String> = api.store.kinds().iter().map(|kind| kind.id.clone()).collect();
        kinds.sort_by_key(|id| (!id.starts_with("customresourcedefinitions."), id.clone()));
        let objects = |id: String| {
            let all = api.store.list(&id).iter().map(|object| (**object).clone()).collect();
            (id, all)
        };
        let snapshot = Snapshot {
            certificate: api.authority.certificate().to_owned(),
            key: api.authority.key().to_owned(),
            objects: kinds.into_iter().map(objects).collect(),
        };
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        serde_json::to_writer(&mut packed, &snapshot).map_err(|e| e.to_string())?;
        let packed = packed.finish().map_err(|e| e.to_string())?;
        Ok(STANDARD.encode([self.mark(&packed).as_slice(), &packed].concat()))
    }

    /// Has a host that is no member begin with what another cluster held (`k0s restore`).
    pub fn restore(&self, host: &str, snapshot: &str) -> Result<(), String> {
        let damaged = |why: &dyn std::fmt::Display| format!("snapshot file integrity check failed: {why}");
        let packed = STANDARD.decode(snapshot.trim()).map_err(|e| damaged(&e))?;
        let (mark, packed) = packed.split_at_checked(32).ok_or_else(|| damaged(&"it is too short"))?;
        if mark != self.mark(packed) {
            return Err(damaged(&"LAB: only backups of this lab can be restored"));
        }
        let unpacked = flate2::read::GzDecoder::new(packed).take(MOST_SNAPSHOT);
        let snapshot = serde_json::from_reader(unpacked).map_err(|e| damaged(&e))?;
        let mut inner = self.inner();
        if self.control_plane.is_some() {
            return Err("LAB: a real control plane is not restored".to_owned());
        }
        if inner.api.is_some() {
            return Err("LAB: another controller has a cluster; reset it first".to_owned());
        }
        inner.restored = Some((host.to_owned(), snapshot));
        Ok(())
    }

    fn address(&self, host: &str) -> String {
        self.spec.hosts.get(host).and_then(|h| h.addresses.first().cloned()).unwrap_or_default()
    }

    /// Takes a member out of etcd (`k0s etcd leave`).
    pub fn leave(&self, address: &str) -> Result<(), String> {
        let mut inner = self.inner();
        let Some(host) = inner.members.iter().find(|h| self.address(h) == address).cloned() else {
            return Err(format!("can't find member with peer address {address}"));
        };
        inner.members.remove(&host);
        Ok(())
    }

    /// Returns a client certificate of the cluster's authority, as JSON: authority, certificate, key.
    pub fn client_certificate(&self, user: String, group: String, seconds: u64) -> Result<String, String> {
        let api = self.inner().api.clone().ok_or("the control plane is not initialized")?;
        if user.len().max(group.len()) > MOST_NAME {
            return Err(format!("a name has at most {MOST_NAME} bytes"));
        }
        if seconds > MOST_LIFE_S {
            return Err(format!("a certificate is valid for at most {MOST_LIFE_S} s"));
        }
        let who = Identity { user, groups: vec![group] };
        let life = std::time::Duration::from_secs(seconds);
        let pair = api.authority.client_for(&who, life).map_err(|e| e.to_string())?;
        Ok(json!({"ca": api.authority.certificate(), "certificate": pair.certificate, "key": pair.key})
            .to_string())
    }

    /// Says how many accelerators of a host answer (0 while no driver is loaded), and instances of split GPUs by profile.
    pub fn set_accelerators(&self, host: &str, count: u32, mig: BTreeMap<String, u32>) {
        let api = {
            let mut inner = self.inner();
            inner.accelerators.insert(host.to_owned(), (count, mig));
            inner.api.clone().filter(|_| inner.workers.contains(host))
        };
        if let Some(api) = api {
            let _ = self.node_status(&api, host, true);
        }
    }

    /// Connects to a port of a host: 6443 and 9443 on a running controller, node ports on a running worker. `None`
    /// is a refused connection.
    pub async fn dial(&self, host: &str, port: u16) -> Option<DuplexStream> {
        let (api, version, controller, worker) = {
            let inner = self.inner();
            let version = inner.versions.get(host).cloned().unwrap_or_default();
            // Without a quorum the API server does not come up.
            let controls = inner.controllers.contains(host) && inner.has_quorum();
            (inner.api.clone()?, version, controls, inner.workers.contains(host))
        };
        let (near, far) = tokio::io::duplex(BUFFER);
        if controller && matches!(port, 6443 | 9443) {
            let Some(real) = &self.control_plane else {
                let api = Api { version, ..api };
                self.spawn(async move { api.serve_tls(far).await });
                return Some(near);
            };
            let mut api = tokio::net::TcpStream::connect(("127.0.0.1", real.port)).await.ok()?;
            self.spawn(async move {
                let mut far = far;
                // A client that disconnects early is not an error.
                let _ = tokio::io::copy_bidirectional(&mut far, &mut api).await;
            });
            return Some(near);
        }
        if worker && (30000..=32767).contains(&port) {
            if let Some(programs) = &self.programs {
                let mut there = programs.dial(ports::target(&api.store, port)?).await.ok()?;
                self.spawn(async move {
                    let mut far = far;
                    let _ = tokio::io::copy_bidirectional(&mut far, &mut there).await;
                });
                return Some(near);
            }
            let behind = ports::behind(&api.store, port)?;
            self.spawn(ports::serve_gateway(api.store.clone(), behind, far));
            return Some(near);
        }
        None
    }
}

/// Reads `key=value:Effect`.
fn taint(text: &str) -> Value {
    let (rest, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if value.is_empty() {
        json!({"key": key, "effect": effect})
    } else {
        json!({"key": key, "value": value, "effect": effect})
    }
}

/// Bytes of a name in a certificate: hosts may ask for any.
const MOST_NAME: usize = 256;
/// Ten years, as the authority itself.
const MOST_LIFE_S: u64 = 3650 * 86_400;
/// Bytes of an unpacked snapshot.
const MOST_SNAPSHOT: u64 = 64 << 20;

/// Bytes of an unpacked join token; a host may present anything.
const MOST_TOKEN: u64 = 1 << 20;

/// Returns the kubeconfig in a join token.
fn decoded(token: &str) -> Option<Value> {
    let packed = STANDARD.decode(token).ok()?;
    let unpacked = flate2::read::GzDecoder::new(packed.as_slice()).take(MOST_TOKEN);
    let text = std::io::read_to_string(unpacked).ok()?;
    serde_saphyr::from_str(&text).ok()
}

/// Checks a join token: base64, gzip, kubeconfig, authority, secret, use, expiry.
fn check(api: &Api, token: Option<&str>, wanted: TokenUse) -> Result<(), String> {
    let token = token.filter(|t| !t.is_empty()).ok_or("no join token given")?;
    let config = decoded(token).ok_or("failed to decode join token")?;
    let at = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let user = if wanted == TokenUse::Worker { "kubelet-bootstrap" } else { "controller-bootstrap" };
    if at("/users/0/name") != user {
        return Err(format!("wrong token type {}, expected type: {user}", at("/users/0/name")));
    }
    let ca = STANDARD.encode(api.authority.certificate());
    if at("/clusters/0/cluster/certificate-authority-data") != ca {
        return Err("x509: certificate signed by unknown authority".to_owned());
    }
    if !is_valid_token(&api.store, at("/users/0/user/token"), wanted) {
        return Err("cannot create certificate signing request: Unauthorized".to_owned());
    }
    Ok(())
}
