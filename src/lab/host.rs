//! A running lab host: its SSH server, what runs on it, and its stand-in for an init process, which the stand-in tools
//! reach through a socket in the host's `/run/lab`.

use super::cluster::{Cluster, ControllerStart, WorkerStart};
use super::isolate;
use super::spec::{FaultKind, Spec};
use super::tools::units;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Execs that run at once over all hosts; more only wait for the two cores that labs usually have.
pub const MOST_EXECS: usize = 48;
/// How long a simulated machine is away when it reboots.
const REBOOT_TIME: Duration = Duration::from_millis(700);

/// What a host's SSH server has counted.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Counters {
    /// TCP connections accepted.
    pub connections: u64,
    /// Session channels opened.
    pub channels: u64,
    /// Programs started.
    pub execs: u64,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    channels: AtomicU64,
    execs: AtomicU64,
}

/// A request of a stand-in tool to its host.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// `systemd-run`: starts a program that outlives its exec.
    Run {
        /// The command line.
        command: String,
    },
    /// A k0s unit starts.
    Start {
        /// The unit.
        unit: String,
    },
    /// A k0s unit stops.
    Stop,
    /// `k0s reset`.
    Reset,
    /// `k0s etcd member-list`.
    Members,
    /// `k0s etcd leave`.
    Leave {
        /// The member's peer address.
        address: String,
    },
    /// A driver was loaded or unloaded: so many accelerators answer.
    Accelerators {
        /// How many.
        count: u32,
    },
    /// The machine reboots.
    Reboot,
}

/// A running host.
pub struct LabHost {
    name: String,
    dir: PathBuf,
    spec: Arc<Spec>,
    cluster: Arc<Cluster>,
    authorized: PublicKey,
    counts: Counts,
    /// Changes at every boot; whatever belongs to an earlier one ends.
    boot: watch::Sender<u64>,
    up: AtomicBool,
    cut: AtomicBool,
    execs: Arc<Semaphore>,
    /// What was started detached.
    detached: Mutex<JoinSet<()>>,
}

impl LabHost {
    /// Returns a host whose folders exist; `serve` brings it up.
    pub fn new(
        spec: Arc<Spec>,
        name: &str,
        cluster: Arc<Cluster>,
        authorized: PublicKey,
        execs: Arc<Semaphore>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            dir: spec.host_dir(name),
            cluster,
            authorized,
            counts: Counts::default(),
            boot: watch::Sender::new(0),
            up: AtomicBool::new(true),
            cut: AtomicBool::new(false),
            execs,
            detached: Mutex::new(JoinSet::new()),
            spec,
        })
    }

    /// Returns what was counted.
    pub fn counters(&self) -> Counters {
        Counters {
            connections: self.counts.connections.load(Relaxed),
            channels: self.counts.channels.load(Relaxed),
            execs: self.counts.execs.load(Relaxed),
        }
    }

    fn fault(&self, wanted: impl Fn(&FaultKind) -> bool) -> bool {
        self.spec.faults_of(&self.name).any(wanted)
    }

    /// Accepts SSH connections until dropped.
    pub async fn serve_ssh(self: Arc<Self>, listener: TcpListener, key: PrivateKey) {
        let config = Arc::new(Config {
            keys: vec![key],
            nodelay: true,
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            inactivity_timeout: None,
            ..Config::default()
        });
        let mut sessions = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            while sessions.try_join_next().is_some() {}
            if !self.up.load(Relaxed) {
                continue; // dropped: the machine is down
            }
            self.counts.connections.fetch_add(1, Relaxed);
            let (host, config) = (self.clone(), config.clone());
            sessions.spawn(async move { host.connection(stream, config).await });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, config: Arc<Config>) {
        let _ = stream.set_nodelay(true);
        let mut boot = self.boot.subscribe();
        boot.mark_unchanged();
        let handler = Login { host: self.clone(), channels: HashMap::new() };
        let limit = self.spec.faults_of(&self.name).find_map(|f| match f {
            FaultKind::LinkCut(bytes) => Some(*bytes),
            _ => None,
        });
        let session = async {
            match limit.filter(|_| !self.cut.swap(true, Relaxed)) {
                Some(bytes) => {
                    let stream = super::net::CutAfter::new(stream, bytes);
                    if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                        let _ = session.await;
                    }
                }
                None => {
                    if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                        let _ = session.await;
                    }
                }
            }
        };
        tokio::select! {
            () = session => {}
            _ = boot.changed() => {} // a reboot takes the connections with it
        }
    }

    /// Answers the stand-in tools until dropped.
    pub async fn serve_init(self: Arc<Self>, listener: UnixListener) {
        let mut requests = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            while requests.try_join_next().is_some() {}
            let host = self.clone();
            requests.spawn(async move { host.answer(stream).await });
        }
    }

    async fn answer(self: Arc<Self>, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        if BufReader::new(read).read_line(&mut line).await.is_err() {
            return;
        }
        let mut said = String::new();
        let result = match serde_json::from_str::<Request>(&line) {
            Ok(Request::Run { command }) => {
                self.clone().detach(command);
                Ok(())
            }
            Ok(Request::Start { unit }) => self.start_unit(&unit).await,
            Ok(Request::Stop) => {
                self.cluster.stop(&self.name);
                Ok(())
            }
            Ok(Request::Reset) => {
                self.cluster.reset(&self.name);
                Ok(())
            }
            Ok(Request::Members) => match self.cluster.members(&self.name) {
                Some(members) => {
                    said = serde_json::json!({"members": members}).to_string();
                    Ok(())
                }
                None => Err("context deadline exceeded".to_owned()),
            },
            Ok(Request::Leave { address }) => self.cluster.leave(&address),
            Ok(Request::Accelerators { count }) => {
                self.cluster.set_accelerators(&self.name, count);
                Ok(())
            }
            Ok(Request::Reboot) => {
                self.clone().reboot();
                Ok(())
            }
            Err(error) => Err(format!("the lab does not understand {line}: {error}")),
        };
        let answer = match result {
            Ok(()) => format!("ok {said}\n"),
            Err(error) => format!("error {}\n", error.replace('\n', " ")),
        };
        let _ = write.write_all(answer.as_bytes()).await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Ok(mut tasks) = self.detached.lock() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    /// Starts a program that outlives the exec that asked for it, but not the boot.
    fn detach(self: Arc<Self>, command: String) {
        let mut boot = self.boot.subscribe();
        boot.mark_unchanged();
        let host = self.clone();
        self.spawn(async move {
            let mut process = isolate::command(&host.spec.exe, &host.dir, &command);
            process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let Ok(mut child) = process.spawn() else { return };
            tokio::select! {
                _ = child.wait() => {}
                _ = boot.changed() => { let _ = child.kill().await; }
            }
        });
    }

    /// Brings a k0s unit up in the simulated cluster, from what the host's own files say.
    async fn start_unit(&self, unit: &str) -> Result<(), String> {
        let root = self.dir.join("root");
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            std::fs::write(&path, text).map_err(|e| e.to_string())
        };
        let flags = units::exec_flags(&read(&format!("etc/systemd/system/{unit}")));
        let flag = |name: &str| flags.get(name).cloned().unwrap_or_default();
        let token_file = flag("token-file");
        let token = match token_file.as_str() {
            "" => None,
            path => Some(read(path.trim_start_matches('/')).trim().to_owned()),
        };
        let list =
            |text: String| text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let is = |name: &str| flag(name) == "true";
        let worker = |bootstrapped: bool| WorkerStart {
            token: token.clone().filter(|_| !bootstrapped),
            labels: list(flag("labels"))
                .iter()
                .filter_map(|l| l.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            taints: list(flag("taints")),
            runtimes: None,
        };
        if unit == "k0scontroller.service" {
            let joined = root.join("var/lib/k0s/pki/ca.crt").exists();
            let half = (is("enable-worker") || is("single")).then(|| worker(true));
            let start = ControllerStart {
                config_yaml: read("etc/k0s/k0s.yaml"),
                token: token.clone().filter(|_| !joined),
                worker: half,
                single: is("single"),
                no_taints: is("no-taints"),
            };
            let files = self.cluster.start_controller(&self.name, start).await?;
            write("var/lib/k0s/pki/ca.crt", &files.ca_crt)?;
            write("var/lib/k0s/pki/admin.conf", &files.admin_conf)?;
            write("var/lib/k0s/pki/admin.crt", &files.admin_crt)?;
            if let Some(conf) = files.kubelet_conf {
                write("var/lib/k0s/kubelet.conf", &conf)?;
            }
        } else {
            let bootstrapped = root.join("var/lib/k0s/kubelet.conf").exists();
            let conf = self.cluster.start_worker(&self.name, worker(bootstrapped)).await?;
            write("var/lib/k0s/kubelet.conf", &conf.0)?;
        }
        write("run/k0s/status.sock", "")
    }

    /// Goes down, comes back with another boot id, loads modules and starts what is enabled.
    fn reboot(self: Arc<Self>) {
        let host = self.clone();
        self.spawn(async move {
            // The tool that asked gets its answer first, and a batch its end.
            tokio::time::sleep(Duration::from_millis(150)).await;
            host.up.store(false, Relaxed);
            host.boot.send_modify(|boot| *boot += 1);
            host.cluster.stop(&host.name);
            if host.fault(|f| matches!(f, FaultKind::RebootHangs)) {
                return;
            }
            tokio::time::sleep(REBOOT_TIME).await;
            let _ = super::tree::new_boot(&host.dir);
            let _ = std::fs::remove_dir_all(host.dir.join("root/dev/shm"));
            let _ = std::fs::create_dir_all(host.dir.join("root/dev/shm"));
            let answering = super::tools::boot(&host.dir);
            host.cluster.set_accelerators(&host.name, answering);
            for unit in units::enabled(&host.dir.join("root")) {
                if unit.starts_with("k0s") {
                    let result = host.start_unit(&unit).await;
                    units::set_active(&host.dir.join("root"), &unit, result.is_ok());
                }
            }
            host.up.store(true, Relaxed);
        });
    }

    /// Runs one program for a channel.
    async fn exec(self: Arc<Self>, command: String, channel: Channel<Msg>) {
        let (mut read, write) = channel.split();
        self.counts.execs.fetch_add(1, Relaxed);
        if let Some(FaultKind::Slow(ms)) =
            self.spec.faults_of(&self.name).find(|f| matches!(f, FaultKind::Slow(_)))
        {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
        }
        let permit = self.execs.acquire().await;
        let mut process = isolate::command(&self.spec.exe, &self.dir, &command);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = match process.spawn() {
            Ok(child) => child,
            Err(error) => {
                let text = format!("lab: cannot start a program: {error}\n");
                let _ = write.extended_data_bytes(1, text.into_bytes()).await;
                let _ = write.exit_status(126).await;
                let _ = write.close().await;
                return;
            }
        };
        drop(permit);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let input = async {
            let mut stdin = stdin;
            while let Some(message) = read.wait().await {
                match message {
                    ChannelMsg::Data { data } => {
                        if let Some(pipe) = &mut stdin
                            && pipe.write_all(&data).await.is_err()
                        {
                            stdin = None;
                        }
                    }
                    ChannelMsg::Eof => stdin = None,
                    ChannelMsg::Close => break,
                    _ => {}
                }
            }
        };
        let out = async {
            let Some(mut pipe) = stdout else { return };
            let mut buffer = vec![0; 32 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
                if write.data_bytes(buffer[..n].to_vec()).await.is_err() {
                    break;
                }
            }
        };
        let err = async {
            let Some(mut pipe) = stderr else { return };
            let mut buffer = vec![0; 32 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
                if write.extended_data_bytes(1, buffer[..n].to_vec()).await.is_err() {
                    break;
                }
            }
        };
        let ended = async {
            let ((), (), status) = tokio::join!(out, err, child.wait());
            status
        };
        // A channel that goes away ends its program: the simulated host has no one left to read it.
        let status = tokio::select! {
            status = ended => status.ok(),
            () = input => None,
        };
        if let Some(status) = status {
            let _ = write.exit_status(status.code().unwrap_or(255) as u32).await;
        }
        let _ = write.eof().await;
        let _ = write.close().await;
    }
}

struct Login {
    host: Arc<LabHost>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let accepted = key.public_key.key_data() == self.host.authorized.key_data();
        Ok(if accepted { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        /// sshd's MaxSessions.
        const MOST_SESSIONS: usize = 10;
        self.host.counts.channels.fetch_add(1, Relaxed);
        if self.channels.len() >= MOST_SESSIONS {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        }
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        to: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let local = matches!(to, "127.0.0.1" | "localhost" | "::1");
        let stream = match u16::try_from(port) {
            Ok(port) if local => self.host.cluster.dial(&self.host.name, port).await,
            _ => None,
        };
        let Some(mut stream) = stream else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        reply.accept().await;
        self.host.spawn(async move {
            let mut channel = channel.into_stream();
            let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
        });
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(channel) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let command = String::from_utf8_lossy(data).into_owned();
        let host = self.host.clone();
        self.host.spawn(async move { host.exec(command, channel).await });
        Ok(())
    }
}
