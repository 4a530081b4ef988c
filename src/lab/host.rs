//! A running lab host: its SSH server, its faults, and its stand-in for an init process, which the stand-in tools reach
//! through a socket in the host's `/run/lab`. What a login may do is in `session`.

use super::cluster::{Cluster, ControllerStart, WorkerStart};
use super::isolate::{self, Stdin};
use super::session::Login;
use super::spec::{FaultKind, Spec};
use super::tools::units;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::Config;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Execs that run at once over all hosts; more only wait for the two cores that labs usually have.
pub const MOST_EXECS: usize = 48;
/// The file of the lab's folder that keeps the join tokens that hosts were given.
const TOKENS_SEEN: &str = "tokens.seen";
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
pub(super) struct Counts {
    pub connections: AtomicU64,
    pub channels: AtomicU64,
    pub execs: AtomicU64,
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
        /// Instances of split GPUs, by profile.
        #[serde(default)]
        mig: BTreeMap<String, u32>,
    },
    /// The machine reboots.
    Reboot,
}

/// A running host.
pub struct LabHost {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) spec: Arc<Spec>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) authorized: PublicKey,
    pub(super) counts: Counts,
    /// Changes at every boot; whatever belongs to an earlier one ends.
    boot: watch::Sender<u64>,
    up: AtomicBool,
    cut: AtomicBool,
    /// Faults that are there.
    faults: Mutex<Vec<FaultKind>>,
    /// Faults that come with a step.
    later: Mutex<Vec<(String, FaultKind)>>,
    /// Changes when all connections are to be cut.
    links: watch::Sender<()>,
    /// The machine is gone for good.
    lost: watch::Sender<bool>,
    pub(super) execs: Arc<Semaphore>,
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
        let later = spec.faults.iter().filter(|f| f.host == name);
        let later = later.filter_map(|f| Some((f.step.clone()?, f.kind.clone()))).collect();
        let faults: Vec<_> = spec.faults_of(name).cloned().collect();
        Arc::new(Self {
            lost: watch::Sender::new(faults.contains(&FaultKind::Lost)),
            faults: Mutex::new(faults),
            later: Mutex::new(later),
            links: watch::Sender::new(()),
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

    pub(super) fn faults(&self) -> MutexGuard<'_, Vec<FaultKind>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn later(&self) -> MutexGuard<'_, Vec<(String, FaultKind)>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, wanted: impl Fn(&FaultKind) -> bool) -> bool {
        self.faults().iter().any(wanted)
    }

    /// Makes something go wrong from now on.
    pub fn inject(self: &Arc<Self>, kind: &FaultKind) {
        let all = {
            let mut faults = self.faults();
            faults.push(kind.clone());
            faults.clone()
        };
        if let Some(host) = self.spec.hosts.iter().find(|h| h.name == self.name) {
            // A host whose folders are gone has no tools that could ask.
            let _ = super::tree::settings(&self.dir, host, &all);
        }
        match kind {
            FaultKind::LinkCut(_) => {
                self.cut.store(true, Relaxed);
                self.links.send_replace(());
            }
            FaultKind::Lost => self.clone().lose(),
            _ => {}
        }
    }

    /// The machine goes off and stays off.
    fn lose(self: Arc<Self>) {
        self.up.store(false, Relaxed);
        self.lost.send_replace(true);
        self.links.send_replace(());
        self.cluster.stop(&self.name);
        let host = self.clone();
        // Its programs go when nobody can hear of it any more: a machine without power reports no interruption.
        self.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            host.boot.send_modify(|boot| *boot += 1);
        });
    }

    /// Reads what a program prints for the announcement of a step that brings a fault. `rest` keeps what a chunk cut.
    pub(super) fn heed(self: &Arc<Self>, rest: &mut Vec<u8>, chunk: &[u8]) {
        /// Announcements are lines far shorter than this, in bytes.
        const MOST_LINE: usize = 4 << 10;
        if self.later().is_empty() {
            return;
        }
        rest.extend_from_slice(chunk);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some((_, step)) = line.trim_end().split_once("\u{1e}step ") else { continue };
            let due: Vec<_> = {
                let mut later = self.later();
                let due = later.iter().filter(|(at, _)| at == step).map(|(_, kind)| kind.clone()).collect();
                later.retain(|(at, _)| at != step);
                due
            };
            for kind in &due {
                self.inject(kind);
            }
        }
        if rest.len() > MOST_LINE {
            rest.clear();
        }
    }

    /// Accepts SSH connections until dropped, or until the machine is lost.
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
        let mut lost = self.lost.subscribe();
        loop {
            let stream = tokio::select! {
                Ok((stream, _)) = listener.accept() => stream,
                // Lost from the start counts too; so does the end of the lab.
                _ = lost.wait_for(|lost| *lost) => return,
            };
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
        let mut links = self.links.subscribe();
        links.mark_unchanged();
        let handler = Login::new(self.clone());
        let limit = self.faults().iter().find_map(|f| match f {
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
            _ = links.changed() => {}
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
            Ok(Request::Accelerators { count, mig }) => {
                self.cluster.set_accelerators(&self.name, count, mig);
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

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
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
            let mut process = isolate::command(&host.spec.exe, &host.dir, &command, Stdin::Pipe);
            process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let Ok(mut child) = process.spawn() else { return };
            tokio::select! {
                _ = child.wait() => {}
                _ = boot.changed() => { let _ = child.kill().await; }
            }
        });
    }

    /// Keeps what k0s was given in a file of the lab's own, outside every host, for whoever checks that it is nowhere else.
    fn record_token(&self, token: &str) {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let file = self.spec.dir.join(TOKENS_SEEN);
        let open = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file);
        // Only a record: a host joins all the same without it.
        let _ = open.and_then(|mut file| writeln!(file, "{token}"));
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
        if let Some(token) = &token {
            self.record_token(token);
        }
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
            let (answering, mig) = super::tools::boot(&host.dir);
            host.cluster.set_accelerators(&host.name, answering, mig);
            for unit in units::enabled(&host.dir.join("root")) {
                if unit.starts_with("k0s") {
                    let result = host.start_unit(&unit).await;
                    units::set_active(&host.dir.join("root"), &unit, result.is_ok());
                }
            }
            host.up.store(true, Relaxed);
        });
    }
}
