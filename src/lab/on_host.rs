//! The k0s stand-in on a real host, with a real systemd: it runs as a service, opens k0s's ports and status socket, and
//! passes on what it is asked to a simulated cluster outside, through a socket that whoever made the host put there.
//! SIMULATION: no Kubernetes runs; what can be real around it (units, files, ports, restarts, reboots) is.

use super::cluster::{Cluster, ControllerStart, Files, Flags, K0sVersion, WorkerStart};
use super::request::Request;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// Where the cluster outside is reached; a host that has it is one of a test fleet.
pub const SOCKET: &str = "/opt/lab/cluster.sock";
/// k0s's own.
const STATUS_SOCKET: &str = "/run/k0s/status.sock";
/// What marks, at the end of the executable, the version that it plays.
pub const VERSION_MARK: &str = "\nK0S_LAB_VERSION=";
/// Ports of a controller: the API, joining controllers, etcd's peers, konnectivity.
const CONTROLLER_PORTS: [u16; 4] = [6443, 9443, 2380, 8132];
/// Ports of a worker: the kubelet, and the first node ports.
const WORKER_PORTS: [u16; 9] = [10250, 30080, 30081, 30082, 30083, 30084, 30085, 30086, 30087];

/// What a host asks of the cluster, under its own name.
#[derive(Serialize, Deserialize)]
struct Question {
    name: String,
    what: What,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// k0s starts; it runs for as long as this connection stays open.
    Controller(ControllerStart),
    /// The same for a worker.
    Worker(WorkerStart),
    /// Everything after the answer goes to this port of the cluster's.
    Dial(u16),
    /// What a tool of the lab's hosts asks of theirs.
    Tool(Request),
}

/// What the cluster answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    /// Done; files to be written, by path.
    Files(BTreeMap<String, String>),
    /// Done; what is to be said.
    Said(String),
    /// Refused, in k0s's words.
    Error(String),
}

/// Returns whether this is a host of a test fleet.
pub fn is_here() -> bool {
    Path::new(SOCKET).exists()
}

/// Returns the version that this executable plays, from the mark at its end.
pub fn version() -> Option<String> {
    use std::io::{Seek, SeekFrom};
    /// A mark is shorter than this, in bytes.
    const TAIL: i64 = 128;
    let mut file = std::fs::File::open("/proc/self/exe").ok()?;
    file.seek(SeekFrom::End(-TAIL)).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail).into_owned();
    Some(text.rsplit_once(VERSION_MARK)?.1.trim().to_owned())
}

fn ask(what: What) -> io::Result<(UnixStream, Reply)> {
    let mut stream = UnixStream::connect(SOCKET)?;
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    writeln!(stream, "{}", serde_json::to_string(&Question { name, what })?)?;
    // One byte at a time: what follows the line is not ours to read.
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok((stream, serde_json::from_slice(&line)?))
}

/// Asks what a tool of the lab's hosts would ask of theirs.
pub(super) fn request(request: Request) -> Result<String, String> {
    match ask(What::Tool(request)) {
        Ok((_, Reply::Said(text))) => Ok(text),
        Ok((_, Reply::Files(_))) => Ok(String::new()),
        Ok((_, Reply::Error(error))) => Err(error),
        Err(error) => Err(format!("the simulated cluster does not answer: {error}")),
    }
}

/// Returns the status of the k0s that runs here; `None` if none does.
pub fn status() -> Option<Value> {
    let mut text = String::new();
    UnixStream::connect(STATUS_SOCKET).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Runs as the service until it is stopped. Returns why it could not, in k0s's words.
pub fn run(role: &str, flags: &Flags, status: Value) -> String {
    match try_run(role, flags, status) {
        Ok(never) => never,
        Err(error) => format!("Error: {error}"),
    }
}

fn try_run(role: &str, flags: &Flags, status: Value) -> Result<String, String> {
    eprintln!("SIMULATION: this is a stand-in for k0s, run by a test; there is no Kubernetes behind it");
    let plain = |e: io::Error| e.to_string();
    let joined = if role == "controller" { "/var/lib/k0s/pki/ca.crt" } else { "/var/lib/k0s/kubelet.conf" };
    let token = match flags.get("token-file").filter(|_| !Path::new(joined).exists()) {
        Some(path) => Some(std::fs::read_to_string(path).map_err(plain)?.trim().to_owned()),
        None => None,
    };
    let plays = version().map_or_else(K0sVersion::default, K0sVersion);
    let (works, started) = if role == "controller" {
        let start = ControllerStart::new(plays, flags, token);
        (start.worker.is_some(), ask(What::Controller(start)))
    } else {
        (true, ask(What::Worker(WorkerStart::new(plays, flags, token))))
    };
    let (mut presence, reply) = started.map_err(|e| format!("the simulated cluster does not answer: {e}"))?;
    let files = match reply {
        Reply::Files(files) => files,
        Reply::Said(_) => BTreeMap::new(),
        Reply::Error(error) => return Err(error),
    };
    // The ports first: who finds the files may dial at once.
    let controls = CONTROLLER_PORTS.iter().filter(|_| role == "controller");
    for port in controls.chain(WORKER_PORTS.iter().filter(|_| works)) {
        listen(*port).map_err(|e| format!("failed to listen on :{port}: {e}"))?;
    }
    for (path, text) in &files {
        if let Some(folder) = Path::new(path).parent() {
            std::fs::create_dir_all(folder).map_err(plain)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .map_err(plain)?;
        file.write_all(text.as_bytes()).map_err(plain)?;
    }
    serve_status(&status).map_err(plain)?;
    // Nothing comes but its end.
    let _ = presence.read(&mut [0]);
    Err("the simulated cluster has gone".to_owned())
}

fn serve_status(status: &Value) -> io::Result<()> {
    std::fs::create_dir_all("/run/k0s")?;
    let _ = std::fs::remove_file(STATUS_SOCKET);
    let listener = UnixListener::bind(STATUS_SOCKET)?;
    let text = status.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(text.as_bytes());
        }
    });
    Ok(())
}

fn listen(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || carry(stream, port));
        }
    });
    Ok(())
}

/// Carries one connection to the cluster; a port that nothing is behind hangs up.
fn carry(near: TcpStream, port: u16) {
    let _ = near.set_nodelay(true);
    let Ok((far, Reply::Files(_))) = ask(What::Dial(port)) else { return };
    let (Ok(mut from), Ok(mut to)) = (near.try_clone(), far.try_clone()) else { return };
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (far, near);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// The last start of each host: an earlier one's end is no stop.
type Starts = Arc<Mutex<BTreeMap<String, u64>>>;

/// Answers for a cluster what comes from one host, until dropped.
pub async fn serve(cluster: Arc<Cluster>, listener: tokio::net::UnixListener) {
    let starts = Starts::default();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (cluster, starts) = (cluster.clone(), starts.clone());
        connections.spawn(async move {
            // A host that hangs up half-way needs no answer.
            let _ = answer(&cluster, &starts, stream).await;
        });
    }
}

async fn answer(cluster: &Cluster, starts: &Starts, mut stream: tokio::net::UnixStream) -> io::Result<()> {
    let mut line = String::new();
    tokio::io::BufReader::new(&mut stream).read_line(&mut line).await?;
    let started = |files: Result<Files, String>| {
        let named = |files: Files| files.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
        files.map(|files| Reply::Files(named(files)))
    };
    let Question { name, what } = serde_json::from_str(&line)?;
    let reply = match what {
        What::Controller(start) => started(cluster.start_controller(&name, start).await),
        What::Worker(start) => started(cluster.start_worker(&name, start).await),
        What::Dial(port) => {
            let Some(mut far) = cluster.dial(&name, port).await else {
                return tell(&mut stream, &Reply::Error(format!("nothing is behind port {port}"))).await;
            };
            tell(&mut stream, &Reply::Files(BTreeMap::new())).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut far).await?;
            return Ok(());
        }
        What::Tool(request) => {
            let answer = request.carry_out(cluster, &name);
            let answer = answer.unwrap_or_else(|own| Err(format!("{own:?} is the host's own business here")));
            return tell(&mut stream, &answer.map_or_else(Reply::Error, Reply::Said)).await;
        }
    };
    let started = reply.is_ok();
    let mine = {
        let mut starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = starts.entry(name.clone()).or_default();
        *count += u64::from(started);
        *count
    };
    tell(&mut stream, &reply.unwrap_or_else(Reply::Error)).await?;
    if started {
        // It runs until its connection ends, however that comes about.
        let _ = stream.read(&mut [0]).await;
        let last = starts.lock().unwrap_or_else(PoisonError::into_inner).get(&name) == Some(&mine);
        if last {
            cluster.stop(&name);
        }
    }
    Ok(())
}

async fn tell(stream: &mut tokio::net::UnixStream, reply: &Reply) -> io::Result<()> {
    stream.write_all(format!("{}\n", serde_json::to_string(reply)?).as_bytes()).await
}
