//! Streams while pods end: two routers, two proxies and two engines, each router and proxy in a network of its own. One of them ends as a
//! kubelet ends it (the rendered hook, SIGTERM, SIGKILL), or is killed. The clients stand for a load balancer over both proxies.

use super::super::assets;
use super::super::servers::ControlPlane;
use super::super::{Test, tests};
use super::client::get;
use super::cluster::{Cluster, PATIENCE, SITE, body, cluster, object, render};
use super::envoy::Edge;
use super::gate::{Config, UPSTREAM};
use super::router::Router;
use super::sandbox::{Sandbox, Services};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::MappedMutexGuard;
use tokio::task::JoinSet;

pub fn tests() -> Vec<Test> {
    tests!(ends:
        pods_that_end_gracefully_fail_no_request,
        a_kill_fails_only_streams_that_had_begun,
    )
    .to_vec()
}

/// Streams during each end, and how many clients ask for them: a kill costs each of those at most the one that it reads.
const STREAMS: usize = 1_000;
const CLIENTS: usize = 120;
/// Nothing comes for so long: the stream failed.
const SILENCE: Duration = Duration::from_secs(30);

/// Runs a hook before a pod's end; it is killed after the grace period.
pub async fn hook(mut command: Command, grace: Duration) {
    let mut child = command.spawn().expect("the hook runs");
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("its status") {
            assert!(status.success(), "the hook ended: {status}");
            return;
        }
        if began.elapsed() > grace {
            child.kill().expect("killed");
            child.wait().expect("its status");
            panic!("the hook did not end within the grace period of {} s", grace.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Allows this process as many open files as the system lets it: each stream has two ends here.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the limit of open files is raised");
}

/// The template of a workload's pods.
struct Template(Value);

impl Template {
    fn grace(&self) -> Duration {
        Duration::from_secs(self.0["terminationGracePeriodSeconds"].as_u64().expect("a grace period"))
    }

    fn hook(&self) -> &Value {
        &self.0["containers"][0]["lifecycle"]["preStop"]
    }
}

/// What spreads connections over the proxies that take new ones.
struct Balancer {
    edges: Mutex<BTreeMap<Ipv4Addr, bool>>,
    port: u16,
    next: AtomicUsize,
}

impl Balancer {
    /// Whether new connections go to a proxy.
    fn use_edge(&self, edge: Ipv4Addr, wanted: bool) {
        self.edges.lock().expect("no panic").insert(edge, wanted);
    }

    /// Connects to the next proxy, or to another if it does not answer.
    async fn connect(&self) -> Result<Connection, String> {
        let edges: Vec<Ipv4Addr> =
            self.edges.lock().expect("no panic").iter().filter(|(_, used)| **used).map(|(e, _)| *e).collect();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut why = "there is no proxy".to_owned();
        for n in 0..edges.len() {
            let edge = edges[(first + n) % edges.len()];
            let connected =
                tokio::time::timeout(Duration::from_secs(5), TcpStream::connect((edge, self.port)));
            match connected.await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let (sender, connection) =
                        hyper::client::conn::http1::handshake(io).await.map_err(|e| format!("{e:?}"))?;
                    let mut task = JoinSet::new();
                    task.spawn(async move { drop(connection.await) });
                    return Ok(Connection { edge, sender, _task: task });
                }
                Ok(Err(e)) => why = format!("{edge}: {e}"),
                Err(_) => why = format!("{edge}: no connection in time"),
            }
        }
        Err(why)
    }
}

struct Connection {
    edge: Ipv4Addr,
    sender: SendRequest<Full<Bytes>>,
    _task: JoinSet<()>,
}

/// How a stream failed.
struct Failed {
    /// The proxy that it was asked of.
    edge: Option<Ipv4Addr>,
    /// Whether the answer had begun.
    begun: bool,
    why: String,
}

/// What many clients saw.
#[derive(Default)]
struct Seen {
    whole: AtomicUsize,
    failed: Mutex<Vec<Failed>>,
}

impl Seen {
    /// Returns what the first failures were.
    fn failures(&self) -> String {
        let failed = self.failed.lock().expect("no panic");
        let line = |f: &Failed| {
            format!("at {:?}, {}: {}\n", f.edge, if f.begun { "cut" } else { "not begun" }, f.why)
        };
        failed.iter().take(10).map(line).collect()
    }

    fn count(&self) -> usize {
        self.whole.load(Ordering::Relaxed) + self.failed.lock().expect("no panic").len()
    }
}

/// Clients that ask for one stream after the other.
struct Load {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(balancer: &Arc<Balancer>, key: &str) -> Self {
        let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (balancer, seen, stop, key) = (balancer.clone(), seen.clone(), stop.clone(), key.to_owned());
            clients.spawn(async move {
                // Not all of them wait for their first byte at once.
                tokio::time::sleep(Duration::from_millis(number as u64 * 10)).await;
                let mut kept = None;
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let prompt = format!("paced {number} {n} one two three");
                    n += 1;
                    kept = ask(&balancer, &seen, &key, kept.take(), &prompt).await;
                    // Every other client makes a connection for each request.
                    if number % 2 == 0 {
                        kept = None;
                    }
                }
            });
        }
        Self { seen, stop, clients }
    }

    /// Waits until so many streams have ended.
    async fn reach(&self, count: usize) {
        let began = Instant::now();
        while self.seen.count() < count {
            assert!(began.elapsed() < PATIENCE, "{} streams of {count}", self.seen.count());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Goes on until all streams were opened, and waits for their ends.
    async fn end(mut self) -> Arc<Seen> {
        self.reach(STREAMS).await;
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no panic");
        }
        self.seen
    }
}

/// Asks for one stream, and reads it; returns the connection if it can be used again.
async fn ask(
    balancer: &Balancer,
    seen: &Seen,
    key: &str,
    kept: Option<Connection>,
    prompt: &str,
) -> Option<Connection> {
    let fail = |edge, begun, why| seen.failed.lock().expect("no panic").push(Failed { edge, begun, why });
    let mut kept = kept;
    if let Some(connection) = &mut kept
        && connection.sender.ready().await.is_err()
    {
        kept = None;
    }
    let connected = match kept {
        Some(connection) => Ok(connection),
        None => balancer.connect().await,
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(why) => {
            fail(None, false, why);
            return None;
        }
    };
    let edge = connection.edge;
    let mut begun = false;
    let read = read(&mut connection, key, prompt, || begun = true).await;
    match read {
        Ok(()) => {
            seen.whole.fetch_add(1, Ordering::Relaxed);
            Some(connection)
        }
        Err(why) => {
            fail(Some(edge), begun, why);
            None
        }
    }
}

/// Sends a request and reads its stream to the end; says when the answer has begun.
async fn read(
    connection: &mut Connection,
    key: &str,
    prompt: &str,
    has_begun: impl FnOnce(),
) -> Result<(), String> {
    let mut asked = body("qwen", prompt);
    asked["stream"] = Value::Bool(true);
    let answer = send(connection, key, &asked).await?;
    let status = answer.status();
    let mut frames = answer.into_body();
    if status != 200 {
        let text = frames.collect().await.map(|all| String::from_utf8_lossy(&all.to_bytes()).into_owned());
        return Err(format!("{status}: {text:?}"));
    }
    has_begun();
    let mut text = String::new();
    loop {
        match tokio::time::timeout(SILENCE, frames.frame()).await {
            Err(_) => return Err(format!("nothing more came after {text:?}")),
            Ok(Some(Err(e))) => return Err(format!("{e:?} after {text:?}")),
            Ok(Some(Ok(frame))) => {
                text += &frame.data_ref().map(|d| String::from_utf8_lossy(d)).unwrap_or_default();
            }
            Ok(None) => break,
        }
    }
    let whole = text.trim_end().ends_with("data: [DONE]");
    let said: String = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    if whole && said.ends_with(prompt) { Ok(()) } else { Err(text) }
}

/// Asks for an answer in one piece; returns what was wrong.
async fn ask_whole(balancer: &Balancer, key: &str, prompt: &str) -> Result<(), String> {
    let mut connection = balancer.connect().await?;
    let answer = send(&mut connection, key, &body("qwen", prompt)).await?;
    let status = answer.status();
    let text = answer.into_body().collect().await.map_err(|e| format!("{e:?}"))?.to_bytes();
    let text = String::from_utf8_lossy(&text);
    if status == 200 && text.contains(prompt) { Ok(()) } else { Err(format!("{status}: {text}")) }
}

async fn send(
    connection: &mut Connection,
    key: &str,
    asked: &Value,
) -> Result<hyper::Response<hyper::body::Incoming>, String> {
    let request = Request::post("/v1/chat/completions")
        .header("host", "models.example")
        .header("content-type", "application/json")
        .header("authorization", key)
        .body(Full::new(Bytes::from(asked.to_string())))
        .expect("a request");
    let answer = tokio::time::timeout(SILENCE, connection.sender.send_request(request)).await;
    answer.map_err(|_| "no answer in time".to_owned())?.map_err(|e| format!("{e:?}"))
}

/// A router or a proxy in the network of its pod.
struct Replica<T> {
    sandbox: Sandbox,
    program: T,
}

/// Two of everything.
struct World<'a> {
    plane: &'a ControlPlane,
    cluster: MappedMutexGuard<'static, Cluster>,
    config: Config,
    key: String,
    services: Services,
    balancer: Arc<Balancer>,
    routers: Vec<Replica<Router>>,
    edges: Vec<Replica<Edge>>,
    deployment: Value,
    router: Template,
    edge: Template,
}

impl<'a> World<'a> {
    async fn start(plane: &'a ControlPlane) -> Self {
        let cluster = cluster(plane, SITE).await;
        raise_open_files();
        let config = Config::new();
        // The shorter a pool's drain may take, the shorter a router waits before its end.
        let hosts = "w: {role: worker, hosts:";
        let site = SITE.replace(hosts, "w: {role: worker, disruption: {drainSeconds: 20}, hosts:");
        assert_ne!(site, SITE);
        let all = render(&site, &[], Vec::new(), BTreeMap::new());
        let deployment = object(&all, "Deployment/kthena-system/kthena-router");
        let set = object(&all, "DaemonSet/kthena-system/edge");
        let template = |workload: &Value| Template(workload["spec"]["template"]["spec"].clone());
        let balancer =
            Balancer { edges: Mutex::default(), port: config.port("search"), next: AtomicUsize::default() };
        let mut this = Self {
            plane,
            cluster,
            key: config.key("search", "k-1"),
            config,
            services: Services::start(plane.port).await,
            balancer: Arc::new(balancer),
            routers: Vec::new(),
            edges: Vec::new(),
            router: template(&deployment),
            edge: template(&set),
            deployment,
        };
        for _ in 0..2 {
            this.add_router().await;
        }
        for _ in 0..2 {
            this.add_edge().await;
        }
        this
    }

    /// Starts a router, and adds it to its Service when it knows all that is served.
    async fn add_router(&mut self) {
        let program = assets::router().expect("built before");
        let sandbox = Sandbox::new();
        let mut router = Router::start_in(&sandbox, self.plane, &program, &self.deployment).await;
        let address = sandbox.address;
        let began = Instant::now();
        // Its port opens only when it has asked every ready engine.
        while get(&format!("http://{address}:8080/readyz")).await.code != 200
            || !get(&format!("http://{address}:8081/v1/models")).await.text.contains("qwen")
        {
            router.runs();
            assert!(began.elapsed() < PATIENCE, "a router is not ready:\n{}", router.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.services.add(UPSTREAM, address);
        self.routers.push(Replica { sandbox, program: router });
    }

    async fn add_edge(&mut self) {
        let sandbox = Sandbox::new();
        let edge = self.config.start_in(&sandbox).await;
        let began = Instant::now();
        while get(&format!("http://{}:9902/ready", sandbox.address)).await.code != 200 {
            assert!(began.elapsed() < PATIENCE, "a proxy is not ready:\n{}", edge.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.balancer.use_edge(sandbox.address, true);
        self.edges.push(Replica { sandbox, program: edge });
    }

    /// Starts clients, and returns when they are in the midst of it.
    async fn load(&self) -> Load {
        let load = Load::start(&self.balancer, &self.key);
        load.reach(CLIENTS).await;
        load
    }

    /// Asks for many answers at once, and kills a router when all of them are being waited for; returns what was wrong.
    async fn kill_router_before_answers(&mut self) -> Vec<String> {
        self.cluster.engines(|_, engine| engine.hold(true)).await;
        self.cluster.asked().await;
        let mut clients = JoinSet::new();
        for n in 0..STREAMS {
            let (balancer, key) = (self.balancer.clone(), self.key.clone());
            clients.spawn(async move { ask_whole(&balancer, &key, &format!("hold {n}")).await });
        }
        let asked = self.settled(STREAMS).await;
        let mut router = self.routers.remove(0);
        router.program.kill();
        let again = self.settled(1).await;
        self.cluster.engines(|_, engine| engine.hold(false)).await;
        let answers = clients.join_all().await;
        let failed: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        println!(
            "a router is killed before {asked} answers begin: {again} were asked for again, {} failed",
            failed.len()
        );
        self.services.remove(UPSTREAM, router.sandbox.address);
        failed
    }

    /// Waits until engines were asked so many times at least, and then no more for a while; returns how many times.
    async fn settled(&self, least: usize) -> usize {
        let (mut asked, mut last) = (0, Instant::now());
        while asked < least || last.elapsed() < Duration::from_millis(1_500) {
            let more = self.cluster.asked().await.len();
            if more > 0 {
                (asked, last) = (asked + more, Instant::now());
            }
            assert!(
                last.elapsed() < PATIENCE,
                "engines were asked {asked} times of {least}\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        asked
    }

    /// Returns the pod of the model with the most requests: the router does not spread them evenly.
    async fn busiest_engine(&self) -> String {
        let pods = self
            .cluster
            .engines(|pod, engine| (engine.model() == "large").then(|| (engine.requests(), pod.to_owned())));
        pods.await.into_iter().flatten().max().expect("an engine").1
    }

    /// Waits until all proxies know so many routers, as DNS says.
    async fn wait_for_routers(&self, count: usize) {
        let began = Instant::now();
        for edge in &self.edges {
            let url = format!("http://{}:9902/metrics", edge.sandbox.address);
            let wanted = format!("envoy_cluster_membership_total{{envoy_cluster_name=\"search\"}} {count}\n");
            while !get(&url).await.text.contains(&wanted) {
                assert!(began.elapsed() < PATIENCE, "a proxy does not know {count} routers\n{}", self.logs());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn logs(&self) -> String {
        let logs =
            self.routers.iter().map(|r| r.program.log()).chain(self.edges.iter().map(|e| e.program.log()));
        logs.collect::<Vec<_>>().join("\n---\n")
    }
}

/// Prints and returns how many failed before their answers had begun, and after.
fn told(what: &str, seen: &Seen) -> (usize, usize) {
    let begun: Vec<bool> = seen.failed.lock().expect("no panic").iter().map(|f| f.begun).collect();
    let before = begun.iter().filter(|begun| !**begun).count();
    let begun = begun.len() - before;
    println!("{what}: {} streams, {before} failed before they began, {begun} cut", seen.count());
    (before, begun)
}

fn assert_none_failed(what: &str, seen: &Arc<Seen>, world: &World<'_>) {
    let counts = told(what, seen);
    assert_eq!(counts, (0, 0), "{what}: {}\n{}", seen.failures(), world.logs());
}

pub async fn pods_that_end_gracefully_fail_no_request(plane: &ControlPlane) {
    let mut world = World::start(plane).await;

    // A router: its pod leaves the Service, sleeps as its hook says, and gets SIGTERM. Another is ready before, as in a rollout.
    let load = world.load().await;
    world.add_router().await;
    let mut router = world.routers.remove(0);
    world.services.remove(UPSTREAM, router.sandbox.address);
    let seconds = world.router.hook()["sleep"]["seconds"].as_u64().expect("a sleep");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    router.program.terminate(world.router.grace().saturating_sub(Duration::from_secs(seconds))).await;
    assert_none_failed("a router ends", &load.end().await, &world);

    // An engine.
    let load = world.load().await;
    let pod = world.busiest_engine().await;
    world.cluster.end_engine(&pod).await;
    assert_none_failed("an engine ends", &load.end().await, &world);

    // A proxy: no new connections, its hook, and SIGTERM.
    let load = world.load().await;
    let mut edge = world.edges.remove(0);
    world.balancer.use_edge(edge.sandbox.address, false);
    let words: Vec<String> =
        serde_json::from_value(world.edge.hook()["exec"]["command"].clone()).expect("texts");
    let mut command = edge.sandbox.command(&words[0]);
    command.args(&words[1..]);
    let began = Instant::now();
    hook(command, world.edge.grace()).await;
    edge.program.terminate(world.edge.grace().saturating_sub(began.elapsed())).await;
    assert_none_failed("a proxy ends", &load.end().await, &world);
}

pub async fn a_kill_fails_only_streams_that_had_begun(plane: &ControlPlane) {
    let mut world = World::start(plane).await;

    // A router, whose address its Service keeps: nobody noticed yet.
    let load = world.load().await;
    let mut router = world.routers.remove(0);
    router.program.kill();
    let seen = load.end().await;
    let (before, cut) = told("a router is killed", &seen);
    let why = format!("{}\n{}", seen.failures(), world.logs());
    assert!(before == 0 && cut <= CLIENTS, "{why}");
    world.add_router().await;
    // The killed one is among them.
    world.wait_for_routers(3).await;
    world.services.remove(UPSTREAM, router.sandbox.address);
    world.wait_for_routers(2).await;

    // All that one router was asked and has not begun to answer, at once.
    let failed = world.kill_router_before_answers().await;
    assert!(failed.is_empty(), "{:#?}\n{}", &failed[..failed.len().min(5)], world.logs());
    world.add_router().await;

    // An engine.
    let load = world.load().await;
    let pod = world.busiest_engine().await;
    world.cluster.power(&pod, false).await;
    let seen = load.end().await;
    world.cluster.power(&pod, true).await;
    let (before, cut) = told("an engine is killed", &seen);
    let why = format!("{}\n{}", seen.failures(), world.logs());
    assert!(before == 0 && cut <= CLIENTS, "{why}");

    // A proxy: clients try the other when it does not answer.
    let load = world.load().await;
    let mut edge = world.edges.remove(0);
    let address = edge.sandbox.address;
    edge.program.kill();
    let seen = load.end().await;
    let (before, cut) = told("a proxy is killed", &seen);
    let of_others = seen.failed.lock().expect("no panic").iter().any(|f| f.edge != Some(address));
    assert!(!of_others && before + cut <= CLIENTS, "{}\n{}", seen.failures(), world.logs());
}
