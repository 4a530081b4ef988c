//! A running lab host: its state, its faults, and its stand-in for an init process, which the stand-in tools reach
//! through a socket in the host's `/run/lab`. Its SSH server is in `session`.

use super::artifacts;
use super::beneath::Beneath;
use super::cluster::{Cluster, ControllerStart, K0sVersion, WorkerStart};
use super::isolate::{Isolation, Stdin};
use super::limits::Disk;
use super::net::{REQUEST_DEADLINE, SHORTAGE};
use super::program::{Program, Programs};
use super::request::Request;
use super::spec::{FaultKind, Spec};
use super::status::Counters;
use super::tools::units;
use super::walls::{TOOL, Wall};
use russh::keys::PublicKey;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Execs that run at once over all hosts; more only wait for the two cores that labs usually have.
pub(super) const MOST_EXECS: usize = 48;
/// The file of the lab's folder that keeps the join tokens that hosts were given.
const TOKENS_SEEN: &str = "tokens.seen";
/// A request of a host's tool is shorter, in bytes.
const MOST_REQUEST: u64 = 1 << 20;
/// Programs that one host has started detached.
const MOST_AT_ONCE: usize = 64;
/// Requests of a host that are answered at once; each can be as long as [`MOST_REQUEST`].
const MOST_REQUESTS: usize = 16;
/// A host that takes longer to boot its files is up without them.
const BOOT_DEADLINE: Duration = Duration::from_secs(30);
/// How long a simulated machine is away when it reboots.
const REBOOT_TIME: Duration = Duration::from_millis(700);

#[derive(Default)]
pub(super) struct Counts {
    pub connections: AtomicU64,
    pub channels: AtomicU64,
    pub execs: AtomicU64,
    pub received: AtomicU64,
}

/// A running host.
pub(super) struct LabHost {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) spec: Arc<Spec>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) authorized: PublicKey,
    pub(super) counts: Counts,
    /// Changes at every boot; whatever belongs to an earlier one ends.
    pub(super) boot: watch::Sender<u64>,
    pub(super) up: AtomicBool,
    /// It is going down, or coming up again.
    rebooting: AtomicBool,
    pub(super) cut: AtomicBool,
    /// Faults that are there.
    faults: Mutex<Vec<FaultKind>>,
    /// Faults that come with a step.
    later: Mutex<Vec<(String, FaultKind)>>,
    /// Changes when all connections are to be cut.
    pub(super) links: watch::Sender<()>,
    /// The machine is gone for good.
    pub(super) lost: watch::Sender<bool>,
    pub(super) execs: Arc<Semaphore>,
    pub(super) isolation: Arc<Isolation>,
    detaching: Arc<Semaphore>,
    pub(super) disk: Arc<Disk>,
    /// What was started detached; `None` once the lab goes down.
    detached: Mutex<Option<JoinSet<()>>>,
    /// Its programs that are being ended.
    pub(super) programs: Programs,
}

impl LabHost {
    /// Returns a host whose folders exist; `serve` brings it up.
    pub(super) fn new(
        spec: Arc<Spec>,
        name: &str,
        cluster: Arc<Cluster>,
        authorized: PublicKey,
        execs: Arc<Semaphore>,
        isolation: Arc<Isolation>,
        programs: Programs,
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
            disk: Arc::new(Disk::new(spec.host_dir(name), spec.has(Wall::Limits))),
            cluster,
            authorized,
            counts: Counts::default(),
            boot: watch::Sender::new(0),
            up: AtomicBool::new(true),
            rebooting: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            execs,
            isolation,
            detaching: Arc::new(Semaphore::new(MOST_AT_ONCE)),
            detached: Mutex::new(Some(JoinSet::new())),
            programs,
            spec,
        })
    }

    /// Returns what was counted.
    pub(super) fn counters(&self) -> Counters {
        Counters {
            connections: self.counts.connections.load(Relaxed),
            channels: self.counts.channels.load(Relaxed),
            execs: self.counts.execs.load(Relaxed),
            received: self.counts.received.load(Relaxed),
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
    pub(super) fn inject(self: &Arc<Self>, kind: &FaultKind) {
        let all = {
            let mut faults = self.faults();
            faults.push(kind.clone());
            faults.clone()
        };
        if let Some(host) = self.spec.hosts.iter().find(|h| h.name == self.name) {
            // A host whose folders are gone has no tools that could ask.
            let _ = self
                .folders("root")
                .and_then(|root| root.write(super::tree::SETTINGS, &super::tree::settings(host, &all)));
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
        // Its programs end after its connections: a machine without power reports no interruption.
        self.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            host.boot.send_modify(|boot| *boot += 1);
        });
    }

    /// Reads what a program prints for the announcement of a step that brings a fault. `rest` keeps what a chunk cut.
    pub(super) fn look_for_steps(self: &Arc<Self>, rest: &mut Vec<u8>, chunk: &[u8]) {
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

    /// Answers the stand-in tools until dropped.
    pub(super) async fn serve_init(self: Arc<Self>, listener: UnixListener) {
        let mut requests = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(SHORTAGE).await;
                continue;
            };
            while requests.len() >= MOST_REQUESTS {
                requests.join_next().await;
            }
            while requests.try_join_next().is_some() {}
            let host = self.clone();
            requests.spawn(async move { host.answer(stream).await });
        }
    }

    async fn answer(self: Arc<Self>, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut request = BufReader::new(read.take(MOST_REQUEST));
        // Who says nothing for so long keeps nobody waiting.
        if !matches!(tokio::time::timeout(REQUEST_DEADLINE, request.read_line(&mut line)).await, Ok(Ok(_))) {
            return;
        }
        let result = match serde_json::from_str::<Request>(&line) {
            Ok(request) => match request.carry_out(&self.cluster, &self.name) {
                Ok(answer) => answer,
                Err(Request::Start { unit }) => self.start_unit(&unit).await.map(|()| String::new()),
                Err(Request::Run { command }) => self.clone().detach(command).map(|()| String::new()),
                Err(_) => {
                    self.clone().reboot();
                    Ok(String::new())
                }
            },
            Err(error) => Err(format!("the lab does not understand this request: {error}")),
        };
        let answer = match result {
            Ok(text) => format!("ok {text}\n"),
            Err(error) => format!("error {}\n", error.replace('\n', " ")),
        };
        let _ = tokio::time::timeout(REQUEST_DEADLINE, write.write_all(answer.as_bytes())).await;
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.detached.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    /// Ends what runs on the host, and starts nothing more.
    pub(super) async fn stop(&self) {
        self.up.store(false, Relaxed);
        self.links.send_replace(());
        let tasks = self.detached.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    /// Starts a program that outlives the exec that asked for it, but not the boot.
    fn detach(self: Arc<Self>, command: String) -> Result<(), String> {
        let permit = self.detaching.clone().try_acquire_owned();
        let permit = permit.map_err(|_| format!("{MOST_AT_ONCE} detached programs run already"))?;
        let mut boot = self.boot.subscribe();
        boot.mark_unchanged();
        let host = self.clone();
        self.spawn(async move {
            let _permit = permit;
            let mut process = host.isolation.command(&host.dir, &command, Stdin::Pipe);
            process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(mut program) = Program::spawn(&mut process, &host.programs, &host.disk) else { return };
            tokio::select! {
                _ = program.wait() => {}
                _ = boot.changed() => program.end().await,
            }
        });
        Ok(())
    }

    /// Returns one of the host's folders, in which its programs may have put anything.
    pub(super) fn folders(&self, name: &str) -> io::Result<Beneath> {
        Beneath::open(&self.dir.join(name), self.spec.has(Wall::Paths), self.isolation.owner)
    }

    /// Keeps what k0s was given in a file of the lab's own, outside every host, for whoever checks that it is nowhere else.
    fn record_token(&self, token: &str) {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let file = self.spec.dir.join(TOKENS_SEEN);
        // A host may ask any number of times, with any text.
        if std::fs::metadata(&file).is_ok_and(|seen| seen.len() > MOST_REQUEST) {
            return;
        }
        let open = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file);
        // Only a record: a host joins all the same without it.
        let _ = open.and_then(|mut file| writeln!(file, "{token}"));
    }

    /// Brings a k0s unit up in the simulated cluster, from what the host's own files say.
    async fn start_unit(&self, unit: &str) -> Result<(), String> {
        let root = self.folders("root").map_err(|e| e.to_string())?;
        let read = |path: &str| root.read(path).unwrap_or_default();
        let flags = units::exec_flags(&read(&format!("etc/systemd/system/{unit}")));
        let token = flags.get("token-file").map(|path| read(path).trim().to_owned());
        if let Some(token) = &token {
            self.record_token(token);
        }
        let k0s = self.folders("usr-local").and_then(|folder| folder.read("bin/k0s")).unwrap_or_default();
        let version = artifacts::version_of(&k0s).map_or_else(K0sVersion::default, K0sVersion);
        let unless = |joined: &str| token.filter(|_| root.handle(joined).is_err());
        let files = if unit == "k0scontroller.service" {
            let start = ControllerStart::new(version, &flags, unless("var/lib/k0s/pki/ca.crt"));
            self.cluster.start_controller(&self.name, start).await?
        } else {
            let start = WorkerStart::new(version, &flags, unless("var/lib/k0s/kubelet.conf"));
            self.cluster.start_worker(&self.name, start).await?
        };
        let status = ("/run/k0s/status.sock", String::new());
        for (path, text) in files.into_iter().chain([status]) {
            root.write(path, &text).map_err(|e| format!("cannot write {path}: {e}"))?;
        }
        Ok(())
    }

    /// Goes down, comes back with another boot id, loads modules and starts what is enabled.
    fn reboot(self: Arc<Self>) {
        // One that is going down goes down once.
        if self.rebooting.swap(true, Relaxed) {
            return;
        }
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
            let command = format!("exec /opt/lab/{TOOL} {}", super::boot::NAME);
            let mut process = host.isolation.command(&host.dir, &command, Stdin::Pipe);
            process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Ok(mut program) = Program::spawn(&mut process, &host.programs, &host.disk) {
                // What does not end is no start of the machine; its files are then as they are.
                let _ = tokio::time::timeout(BOOT_DEADLINE, program.wait()).await;
            }
            host.rebooting.store(false, Relaxed);
            host.up.store(true, Relaxed);
        });
    }
}
