//! The real router and the real proxy in place of their stand-ins, in a network of their own: what a kubelet does for their pods.
//! All pods of one of them are one process. Engines stay stand-ins, and listen on the addresses of their pods.

use super::client::Client;
use super::router::{self, items};
use crate::lab::api::{Body, Store, json_answer, place, text};
use crate::lab::pods::{self, Wish};
use crate::lab::sockets::{listen_unix, private};
use base64::Engine as _;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

/// Where pods find the API: one of the names in its certificate.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
/// Where a container finds what its service account is.
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";
/// A name of the cluster's DNS, which the lab does not have: all pods are one process each.
const NAMES: &str = r"[a-z0-9-]+\.[a-z0-9-]+\.svc\.cluster\.local";
/// From one start of a program to the next.
const RESTART: std::time::Duration = std::time::Duration::from_secs(3);
/// For an answer to whether a program is ready.
const READY_DEADLINE: std::time::Duration = std::time::Duration::from_secs(2);

/// The programs of pods, and the network that they have. Ends with it.
pub struct PodPrograms {
    /// The folder of the executables.
    folder: PathBuf,
    /// The lab's folder.
    lab: PathBuf,
    client: Client,
    state: Mutex<State>,
    _network: tokio::process::Child,
}

#[derive(Default)]
struct State {
    /// Addresses and engines of pods, by their place.
    pods: BTreeMap<(String, String), Pod>,
    /// What runs, by the name of the program.
    running: BTreeMap<&'static str, Running>,
    /// How many addresses were given.
    addresses: u32,
    tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Pod {
    address: Ipv4Addr,
    engine: Option<Arc<Listening>>,
}

/// A socket that is listened on, until dropped.
struct Listening {
    _wish: UnixStream,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A program that runs until dropped.
struct Running {
    spec: Value,
    /// Texts of its ConfigMaps and Secrets, by mount.
    files: BTreeMap<PathBuf, BTreeMap<String, String>>,
    wish: UnixStream,
    updates: u32,
    began: std::time::Instant,
}

impl Running {
    fn has_ended(&self) -> bool {
        let mut byte = [0];
        !matches!(self.wish.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Returns the program that is a pod's container.
fn program_of(pod: &Value) -> Option<&'static str> {
    match text(pod, "/metadata/labels/app.kubernetes.io~1component").as_str() {
        "kthena-router" => Some("kthena-router"),
        "edge" => Some("envoy"),
        _ => None,
    }
}

/// Returns what is the same for all pods of a template; where each finds its account's token has a name of its own.
fn spec(pod: &Value) -> Value {
    let container = &pod["spec"]["containers"][0];
    json!([container["image"], container["args"], container["env"], pod["metadata"]["annotations"]])
}

fn decoded(value: &Value) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

impl PodPrograms {
    /// Serves pods of a lab, in the network that a process holds, from executables in a folder; the API listens on a port here.
    pub async fn start(
        folder: &Path,
        lab: &Path,
        client: Client,
        api: u16,
        network: tokio::process::Child,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(lab.join("pods"))?;
        let mut state = State::default();
        let socket = listen_unix(&lab.join("pods/api"))?;
        let wish = pods::ask(lab, &Wish::Listen { at: API, to: "pods/api".into() }).await?;
        state.tasks.spawn(async move {
            let _wish = wish;
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = socket.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    let mut there = TcpStream::connect(("127.0.0.1", api)).await?;
                    tokio::io::copy_bidirectional(&mut from, &mut there).await
                });
            }
        });
        let (folder, lab) = (folder.to_owned(), lab.to_owned());
        Ok(Self { folder, lab, client, state: Mutex::new(state), _network: network })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to a port that a program listens on.
    pub(super) async fn dial(&self, port: u16) -> io::Result<UnixStream> {
        pods::ask(&self.lab, &Wish::Dial((pods::NETWORK.0, port).into())).await
    }

    /// Lets go what pods had that are no more, and gives those that are the files of now.
    pub(super) fn follow(&self, store: &Store) {
        let all = store.list("pods");
        let mut state = self.state();
        state.pods.retain(|place, _| store.get("pods", &place.0, &place.1).is_some());
        state.running.retain(|name, _| all.iter().any(|pod| program_of(pod) == Some(name)));
        for pod in &all {
            let Some(running) = program_of(pod).and_then(|name| state.running.get_mut(name)) else {
                continue;
            };
            let files = files(store, pod);
            if running.files != files && running.spec == spec(pod) {
                let root = self.root(program_of(pod).unwrap_or_default());
                running.updates += 1;
                if let Err(error) = self.write(&root, &files, running.updates) {
                    eprintln!("lab: {}: {error}", root.display());
                }
                running.files = files;
            }
        }
    }

    /// Runs a pod that is scheduled; returns its address once it is ready.
    pub(super) async fn run(&self, store: &Store, pod: &Value) -> Option<Ipv4Addr> {
        let name = text(pod, "/metadata/name");
        let run = async {
            let address = self.address(pod);
            let ready = match program_of(pod) {
                Some("envoy") => {
                    self.ensure(store, pod, "envoy").await?;
                    self.answers(9902, "/ready").await
                }
                Some(name) => {
                    self.ensure(store, pod, name).await?;
                    self.answers(8080, "/readyz").await
                }
                None => self.engine(pod, address).await.map(|()| true)?,
            };
            Ok::<_, io::Error>(ready.then_some(address))
        };
        run.await.unwrap_or_else(|error| {
            eprintln!("lab: pod {name}: {error}");
            None
        })
    }

    /// Returns the address of a pod.
    fn address(&self, pod: &Value) -> Ipv4Addr {
        let mut state = self.state();
        if let Some(pod) = state.pods.get(&place(pod)) {
            return pod.address;
        }
        state.addresses += 1;
        // Past the first ones, around the prefix.
        let address = Ipv4Addr::from(u32::from(pods::NETWORK.0) + 255 + state.addresses % 0xff00);
        state.pods.insert(place(pod), Pod { address, engine: None });
        address
    }

    /// Listens in place of an engine.
    async fn engine(&self, pod: &Value, address: Ipv4Addr) -> io::Result<()> {
        let is_there = |state: &State| state.pods.get(&place(pod)).is_some_and(|pod| pod.engine.is_some());
        let Some(port) = router::flag(pod, "--port").and_then(|port| port.parse::<u16>().ok()) else {
            return Ok(());
        };
        if is_there(&self.state()) {
            return Ok(());
        }
        let to = PathBuf::from(format!("pods/{address}"));
        let socket = listen_unix(&self.lab.join(&to))?;
        let wish = pods::ask(&self.lab, &Wish::Listen { at: (address, port).into(), to }).await?;
        let mut state = self.state();
        let task = state.tasks.spawn(serve(socket, Arc::new(pod.clone())));
        if let Some(pod) = state.pods.get_mut(&place(pod)) {
            pod.engine = Some(Arc::new(Listening { _wish: wish, task }));
        }
        Ok(())
    }

    fn root(&self, program: &str) -> PathBuf {
        self.lab.join("pods").join(program)
    }

    /// Starts the program of a pod, unless it runs as the pod wants it.
    async fn ensure(&self, store: &Store, pod: &Value, name: &'static str) -> io::Result<()> {
        let container = &pod["spec"]["containers"][0];
        {
            let mut state = self.state();
            if let Some(running) = state.running.get(name).filter(|running| running.spec == spec(pod)) {
                // One that ends is started again, but not without pause.
                if !running.has_ended() || running.began.elapsed() < RESTART {
                    return Ok(());
                }
            }
            state.running.remove(name);
        }
        let root = self.root(name);
        let _ = std::fs::remove_dir_all(&root);
        let files = files(store, pod);
        self.write(&root, &files, 0)?;
        let mut env: BTreeMap<String, String> =
            std::env::var("PATH").ok().map(|path| ("PATH".to_owned(), path)).into_iter().collect();
        let mut words = Vec::new();
        if name == "envoy" {
            words.push(self.folder.join(name).display().to_string());
        } else {
            self.account(pod, &root).await?;
            // As the kubelet writes it.
            std::fs::create_dir_all(root.join("etc"))?;
            private(&root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
            std::fs::create_dir_all(root.join("tmp"))?;
            std::fs::copy(self.folder.join(name), root.join(name))?;
            words.extend(["unshare", "--root"].map(str::to_owned));
            words.extend([root.display().to_string(), format!("/{name}")]);
            env.insert("KUBERNETES_SERVICE_HOST".to_owned(), API.ip().to_string());
            env.insert("KUBERNETES_SERVICE_PORT".to_owned(), API.port().to_string());
        }
        for variable in items(container, "/env") {
            let value = match text(variable, "/valueFrom/fieldRef/fieldPath").as_str() {
                "" => text(variable, "/value"),
                "metadata.namespace" => text(pod, "/metadata/namespace"),
                "metadata.name" => text(pod, "/metadata/name"),
                _ => self.address(pod).to_string(),
            };
            env.insert(text(variable, "/name"), value);
        }
        let args = items(container, "/args").filter_map(Value::as_str);
        words.extend(args.map(|arg| if name == "envoy" { self.moved(arg, &root) } else { arg.to_owned() }));
        let log = self.lab.join("pods").join(format!("{name}.log"));
        let wish = pods::ask(&self.lab, &Wish::Run { words, env, log }).await?;
        let running = Running { spec: spec(pod), files, wish, updates: 0, began: std::time::Instant::now() };
        self.state().running.insert(name, running);
        Ok(())
    }

    /// Returns a text of Envoy's with paths and names as they are here: it has the file system and the name servers of the machine.
    fn moved(&self, text: &str, root: &Path) -> String {
        let here = text.replace("/etc/edge", &root.join("etc/edge").to_string_lossy());
        let names = regex::Regex::new(NAMES);
        names.map_or(here.clone(), |names| names.replace_all(&here, "127.0.0.1").into_owned())
    }

    /// Writes the files of a pod as a kubelet does: those of a folder are swapped at once.
    fn write(
        &self,
        root: &Path,
        files: &BTreeMap<PathBuf, BTreeMap<String, String>>,
        number: u32,
    ) -> io::Result<()> {
        let is_envoy = root.ends_with("envoy");
        for (mount, texts) in files {
            let mount = root.join(mount.strip_prefix("/").unwrap_or(mount));
            let part = mount.join(format!("..{number:04}"));
            std::fs::create_dir_all(&part)?;
            for (name, text) in texts {
                let text = if is_envoy { self.moved(text, root) } else { text.clone() };
                private(&part.join(name), &text)?;
                let link = mount.join(name);
                if !link.is_symlink() {
                    symlink(Path::new("..data").join(name), link)?;
                }
            }
            let next = mount.join("..data_tmp");
            let _ = std::fs::remove_file(&next);
            symlink(format!("..{number:04}"), &next)?;
            std::fs::rename(&next, mount.join("..data"))?;
            for entry in std::fs::read_dir(&mount)?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.starts_with("..") && !texts.contains_key(&name) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Writes what a pod's service account is.
    async fn account(&self, pod: &Value, root: &Path) -> io::Result<()> {
        let folder = root.join(ACCOUNT);
        std::fs::create_dir_all(&folder)?;
        let namespace = text(pod, "/metadata/namespace");
        let (token, authority) = self
            .client
            .token(&namespace, &text(pod, "/spec/serviceAccountName"))
            .await
            .map_err(io::Error::other)?;
        private(&folder.join("token"), &token)?;
        private(&folder.join("ca.crt"), &authority)?;
        private(&folder.join("namespace"), &namespace)
    }

    /// Says whether a program answers a probe.
    async fn answers(&self, port: u16, path: &str) -> bool {
        let asked = async {
            let stream = TokioIo::new(self.dial(port).await.ok()?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
            let request =
                Request::get(path).header("host", "pod").body(Full::<bytes::Bytes>::default()).ok()?;
            // The connection ends with its sender.
            let answer = async move { sender.send_request(request).await.ok() };
            let (answer, _) = tokio::join!(answer, async {
                let _ = connection.await;
            });
            Some(answer?.status().is_success())
        };
        tokio::time::timeout(READY_DEADLINE, asked).await.ok().flatten().unwrap_or(false)
    }
}

/// Returns the texts that a pod's volumes have now, by mount: folders of ConfigMaps and Secrets, and single files of ConfigMaps.
fn files(store: &Store, pod: &Value) -> BTreeMap<PathBuf, BTreeMap<String, String>> {
    let namespace = text(pod, "/metadata/namespace");
    let mut files = BTreeMap::new();
    for mount in items(pod, "/spec/containers/0/volumeMounts") {
        let Some(volume) = items(pod, "/spec/volumes").find(|v| v["name"] == mount["name"]) else { continue };
        let map = store.get("configmaps", &namespace, &text(volume, "/configMap/name"));
        let secret = store.get("secrets", &namespace, &text(volume, "/secret/secretName"));
        let texts = |object: &Value, read: &dyn Fn(&Value) -> Option<String>| {
            let data = object["data"].as_object().into_iter().flatten();
            data.filter_map(|(key, value)| Some((key.clone(), read(value)?))).collect::<BTreeMap<_, _>>()
        };
        // Others are the account's, which is written once, and folders.
        if map.is_none() && secret.is_none() {
            continue;
        }
        let mut found = BTreeMap::new();
        if let Some(map) = map {
            found.extend(texts(&map, &|value| value.as_str().map(str::to_owned)));
        }
        if let Some(secret) = secret {
            found.extend(texts(&secret, &decoded));
        }
        let mut at = PathBuf::from(text(mount, "/mountPath"));
        if let Some(key) = mount["subPath"].as_str() {
            let file = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found = found.remove(key).map(|text| (file, text)).into_iter().collect();
            at.pop();
        }
        files.insert(at, found);
    }
    files
}

/// Answers in place of an engine until dropped.
async fn serve(socket: UnixListener, pod: Arc<Value>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        while connections.try_join_next().is_some() {}
        let pod = pod.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let pod = pod.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(&pod, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(pod: &Value, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/health" => return plain(String::new()),
        "/metrics" => {
            let gauges = ["kv_cache_usage_perc", "num_requests_waiting", "num_requests_running"];
            return plain(gauges.map(|name| format!("# TYPE vllm:{name} gauge\nvllm:{name} 0\n")).concat());
        }
        _ => {}
    }
    let body: Value = serde_json::from_slice(&router::read(request.into_body()).await).unwrap_or_default();
    let asked = body["model"].as_str().unwrap_or_default();
    router::engine(pod, asked, &path, &body).unwrap_or_else(|| {
        let message = format!("The model `{asked}` does not exist.");
        let error = json!({"message": message, "type": "NotFoundError", "param": null, "code": 404});
        json_answer(StatusCode::NOT_FOUND, &json!({"error": error}))
    })
}

fn plain(text: String) -> Response<Body> {
    Response::new(Full::new(bytes::Bytes::from(text)).boxed_unsync())
}
