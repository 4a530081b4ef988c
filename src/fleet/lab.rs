//! The lab in place of an inventory's hosts: start, query, stop. It runs in its own process, so that it outlives a command
//! and stops only when told to.

use super::error::{Error, Result, cannot, coded, failed};
use super::load::{Loaded, at_version};
use super::state_dir::{self, OwnLabName};
use crate::artifact::{Lock, Locked};
use crate::catalog::{Catalog, Fabric, Vendor};
use crate::event::Events;
use crate::inventory::{Host, Inventory, Secrets};
use crate::lab::{self, Control, Fault, Hardware, Spec, Status, Wall};
use crate::template::quote;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The lab starts within this time, or reports why not.
const UP_DEADLINE: Duration = Duration::from_secs(120);
/// A lab that goes down is gone within this; one that was killed has left its folder before.
const DOWN_DEADLINE: Duration = Duration::from_secs(45);
/// Internal errors that a lab tells of.
const MOST_PANICS: usize = 20;
/// How often it is looked whether a lab has come up or gone.
const LOOK: Duration = Duration::from_millis(20);
/// What a lab holds for as long as its process lives.
const LOCK: &str = "lab.lock";
/// Standard error of the lab's process.
const LOG: &str = "lab.log";
/// Who logs in to simulated hosts.
const USER: &str = "ubuntu";

/// A lab that a fleet uses.
pub(super) struct Running {
    /// The lock file of its mirror.
    pub lock: PathBuf,
    /// It was started for this fleet only, and stops with it.
    own: Option<OwnLab>,
}

impl Running {
    /// Returns whether it was started for this fleet only.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Stops it, if it was started for this fleet only.
    pub(super) fn end(self) -> Result<()> {
        self.own.map_or(Ok(()), OwnLab::end)
    }
}

/// A lab that goes down when this is dropped, and when this process ends in any other way: it watches its standard input.
pub struct OwnLab {
    process: Child,
    dir: PathBuf,
    hosts: usize,
    without: Vec<Wall>,
    /// Nothing else uses its folder, which goes with it.
    temporary: bool,
}

impl OwnLab {
    /// Returns the walls that this machine does not allow and that it goes without.
    pub fn without(&self) -> &[Wall] {
        &self.without
    }

    /// Returns the number of its hosts.
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// Leaves it up.
    pub fn leave(mut self) -> Result<()> {
        if let Some(mut input) = self.process.stdin.take() {
            writeln!(input, "{}", lab::STAY).map_err(failed("the lab has stopped"))?;
        }
        Ok(())
    }

    /// Ends it and waits until it is gone.
    pub fn end(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        // Without standard input it was left running on purpose, or is stopped already.
        if self.process.stdin.take().is_none() {
            return Ok(());
        }
        let began = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && began.elapsed() < DOWN_DEADLINE {
            std::thread::sleep(LOOK);
        }
        if !self.process.try_wait().is_ok_and(|status| status.is_some_and(|s| s.success())) {
            // It has left something behind. It is not waited for yet, so its number is still its own.
            let _ = self.process.kill();
            let _ = self.process.wait();
            down(&self.dir)?;
        }
        if self.temporary {
            remove(&self.dir);
        }
        Ok(())
    }
}

impl Drop for OwnLab {
    fn drop(&mut self) {
        // Callers that need the result use `end`.
        let _ = self.take_down();
    }
}

/// A folder with the programs of a control plane, as `KUBEBUILDER_ASSETS` names one.
pub struct ControlPlanePrograms {
    folder: PathBuf,
    /// Those that a lab runs from it.
    pub names: Vec<&'static str>,
}

impl ControlPlanePrograms {
    /// Returns the programs of a folder; etcd and kube-apiserver must be there.
    pub fn of(folder: &Path) -> Result<Self> {
        let names = lab::programs_in(folder);
        let missing = ["etcd", "kube-apiserver"].into_iter().find(|name| !names.contains(name));
        if let Some(name) = missing {
            let message = format!("--control-plane: {} has no {name}", folder.display());
            let hint = "Specify a folder with etcd and kube-apiserver, as in KUBEBUILDER_ASSETS";
            return Err(coded("E-USAGE", message, hint));
        }
        Ok(Self { folder: std::fs::canonicalize(folder).map_err(cannot("open", folder))?, names })
    }
}

/// A running lab.
pub struct LabStatus {
    /// The process.
    pub pid: u32,
    /// Its hosts.
    pub status: Status,
}

/// What a fault may be.
const KINDS: &str = "See docs/reference/faults.md for the kinds";

/// Returns the folder of an inventory's lab, which is private to this user: nothing next to the inventory is read or written,
/// for its author may not be trusted.
fn lab_dir(loaded: &Loaded) -> Result<PathBuf> {
    loaded
        .source
        .state
        .folder(&["lab", &state_dir::lab_folder(&loaded.inventory, loaded.source.lab.as_ref())])
}

/// Removes what commands that were killed have left of their own labs, whatever the inventory: that of a job in CI may have gone.
fn sweep(loaded: &Loaded) -> Result<()> {
    let all = loaded.source.state.folder(&["lab"])?;
    for entry in std::fs::read_dir(&all).map_err(cannot("read", &all))?.flatten() {
        // One that is younger may be about to take its lock.
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        let old = age.is_some_and(|age| age > UP_DEADLINE);
        if old && state_dir::is_own_lab(&entry.file_name()) {
            remove(&entry.path());
        }
    }
    Ok(())
}

/// Removes the folder of a lab unless one runs in it. Another command may do the same at once, and what stays is removed by the
/// next one: no failure is worth a word.
fn remove(dir: &Path) {
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    let lock = File::open(dir.join(LOCK));
    // One without the file was cut off before it had one, or while it was removed.
    let free = lock.as_ref().map_or(true, |lock| rustix::fs::flock(lock, exclusive).is_ok());
    if free && lab::clear(dir).is_ok() {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Returns an error with the lab's log as the hint.
fn broken(dir: &Path, message: String) -> Error {
    coded("E-LAB", message, format!("See the lab's log: {}", dir.join(LOG).display()))
}

/// Returns the lab that runs in a folder.
fn running(dir: &Path) -> Result<Option<Control>> {
    Control::open(dir).map_err(|e| broken(dir, format!("the lab does not respond: {e}")))
}

/// Takes the lock of a lab's folder, which a lab holds for as long as its process lives. Waits for one that goes down.
/// `None` if one runs.
fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    let file = state_dir::open(&path).map_err(cannot("open", &path))?;
    let began = Instant::now();
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if running(dir)?.is_some() {
            return Ok(None);
        }
        if began.elapsed() > DOWN_DEADLINE {
            return Err(broken(dir, "a lab process holds this folder and does not respond".to_owned()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(Some(file))
}

fn hardware(inventory: &Inventory, catalog: &Catalog, host: &Host) -> Option<Hardware> {
    let accelerator = inventory.pool_of(host).accelerator.as_ref()?;
    let product = catalog.product(accelerator.product())?;
    let id = product.pci.first()?;
    let nvidia = product.vendor == Vendor::Nvidia;
    let switched = nvidia && product.fabric == Fabric::FabricManager;
    let pool = inventory.pool_of(host);
    let efa = pool.efa.map(|n| ("1d0f".to_owned(), "efa2".to_owned(), n));
    let nics = efa.or_else(|| pool.rdma.map(|n| ("15b3".to_owned(), "1021".to_owned(), n)));
    Some(Hardware {
        vendor: if nvidia { "nvidia" } else { "neuron" }.to_owned(),
        name: product.name.clone(),
        pci_vendor: id.vendor.clone(),
        pci_device: id.device.clone(),
        count: accelerator.count(),
        switches: switched.then(|| ("22a3".to_owned(), 4)),
        nics,
        memory_mib: u64::from(product.memory_gib.unwrap_or(16)) * 1024,
        resource: accelerator.extended_resource().to_owned(),
    })
}

/// Returns the k0s versions of a lab: the inventory's, and those to which it may be changed while the lab runs.
fn k0s_versions(inventory: &Inventory, catalog: &Catalog) -> Vec<String> {
    let own = &inventory.cluster.k0s_version;
    let others = catalog.k0s_lines().iter().flat_map(|line| &line.versions).filter(|version| *version != own);
    std::iter::once(own).chain(others).cloned().collect()
}

/// Returns the lab's specification. Real addresses are mapped onto loopback ones chosen at random.
async fn spec(loaded: &Loaded, faults: &[String]) -> Result<Spec> {
    let (inventory, catalog) = (&loaded.inventory, &loaded.catalog);
    let parsed = |address: &str| {
        address.parse::<IpAddr>().map_err(|_| {
            coded(
                "E-USAGE",
                format!("{address} is not an address"),
                "Use loopback addresses in a lab inventory",
            )
        })
    };
    let (a, b) = (rand::random_range(64..=126u8), rand::random::<u8>());
    let own = loaded.is_lab();
    // If the inventory has a sudo password, simulated hosts require its placeholder.
    let password = match &inventory.ssh.sudo_password {
        Some(name) => Some(Secrets::of_lab(inventory).resolve(name).await?),
        None => None,
    };
    let mapped =
        |n: usize| IpAddr::V4(Ipv4Addr::new(127, a, b.wrapping_add((n / 250) as u8), (n % 250) as u8 + 2));
    let mut hosts = Vec::new();
    for (n, host) in inventory.active().enumerate() {
        let (address, port) = if own {
            (parsed(&host.address)?, host.port.or(inventory.ssh.port).unwrap_or(22))
        } else {
            (mapped(n), 2222)
        };
        let mut simulated = lab::Host {
            name: host.name.to_string(),
            address,
            port,
            hardware: hardware(inventory, catalog, host),
            sudo_sha256: None,
        };
        if let Some(password) = &password {
            simulated.set_sudo_password(password.expose());
        }
        hosts.push(simulated);
    }
    let faults = faults.iter().map(|f| Fault::parse(f)).collect::<std::result::Result<Vec<_>, _>>();
    let faults = faults.map_err(|why| coded("E-USAGE", why, KINDS))?;
    for fault in &faults {
        if !hosts.iter().any(|h| h.name == fault.host) {
            return Err(coded(
                "E-USAGE",
                format!("--fault: no host {} in the inventory", fault.host),
                "Use HOST=KIND with an active host; kinds are listed in docs/reference/faults.md",
            ));
        }
    }
    Ok(Spec {
        name: inventory.name.clone(),
        dir: lab_dir(loaded)?,
        exe: loaded.source.program()?,
        mirror: hosts.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |h| h.address),
        k0s_versions: k0s_versions(inventory, catalog),
        hosts,
        faults,
        control_plane: None,
        without: Vec::new(),
        unserved: loaded.source.mirror.is_some(),
    })
}

/// Returns the wall that a lab could not put up. Without a user namespace there is no lab.
fn forbidden(error: &Error) -> Option<Wall> {
    let text = error.to_string();
    let wall = text.split("wall ").skip(1).find_map(|rest| rest.split(':').next()?.parse().ok())?;
    (wall != Wall::Root).then_some(wall)
}

/// Starts the lab's process and waits until it is up. It goes down with what is returned.
async fn up(spec: &Spec) -> Result<OwnLab> {
    let dir = &spec.dir;
    let Some(lock) = lock(dir)? else {
        let message = format!("the lab of {} is already running", spec.name);
        return Err(coded("E-LAB-UP", message, "Stop it with `provision lab down INVENTORY`"));
    };
    let cannot_clear = |e| broken(dir, format!("cannot remove the files of an earlier lab: {e}"));
    lab::clear(dir).map_err(cannot_clear)?;
    let log = state_dir::open(&dir.join(LOG)).and_then(|log| log.set_len(0).map(|()| log));
    let log = log.map_err(failed("cannot write the lab's log"))?;
    let mut command = std::process::Command::new(&spec.exe);
    command.args(["lab", "serve"]);
    command
        .stdin(Stdio::piped())
        .stdout(lock.try_clone().map_err(failed("cannot start the lab"))?)
        .stderr(log);
    // Nothing of this command's environment is the lab's business, but where programs are.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    // A process group of its own: Ctrl-C of the command is not the lab's.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let process = command.spawn().map_err(failed("cannot start the lab"))?;
    // Only the lab's process is to hold its lock.
    drop((command, lock));
    // From here on it goes down again if anything goes wrong.
    let (hosts, without) = (spec.hosts.len(), spec.without.clone());
    let mut starting = OwnLab { process, dir: dir.clone(), hosts, without, temporary: false };
    if let Some(input) = &mut starting.process.stdin {
        serde_json::to_writer(&mut *input, spec)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(input))
            .map_err(failed("the lab process does not accept its specification"))?;
    }
    let began = Instant::now();
    while running(dir)?.is_none() {
        if let Some(status) = starting.process.try_wait().map_err(failed("cannot wait for the lab"))? {
            let said = std::fs::read_to_string(dir.join(LOG)).unwrap_or_default();
            return Err(broken(dir, format!("the lab did not start ({status}): {}", said.trim())));
        }
        if began.elapsed() > UP_DEADLINE {
            let _ = starting.process.kill();
            return Err(broken(dir, format!("the lab did not start within {} s", UP_DEADLINE.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(starting)
}

/// Ends a lab, waits until it is gone, and removes what it or one that was killed has left. Returns whether one ran.
fn down(dir: &Path) -> Result<bool> {
    let was = match running(dir)? {
        Some(lab) => {
            lab.down().map_err(|e| broken(dir, format!("the lab does not stop: {e}")))?;
            true
        }
        None => false,
    };
    // Another command may have started it again.
    let Some(_lock) = lock(dir)? else { return Ok(was) };
    lab::clear(dir).map_err(|e| broken(dir, format!("cannot remove the files of simulated hosts: {e}")))?;
    Ok(was)
}

/// Points an inventory at its lab, if it is a lab inventory or a lab is requested; starts the lab if needed.
pub(super) async fn attach_to(loaded: &mut Loaded, asked: bool, events: &Events) -> Result<Option<Running>> {
    let own_lab = loaded.is_lab();
    if !own_lab && !asked {
        return Ok(None);
    }
    let mut dir = lab_dir(loaded)?;
    let mut own = None;
    let mut lab = running(&dir)?;
    if lab.is_none() {
        if own_lab && !asked {
            let message = format!("the lab of {} is not running", loaded.inventory.name);
            return Err(coded(
                "E-LAB-DOWN",
                message,
                format!("provision lab up {}", loaded.source.path.display()),
            ));
        }
        events.note(format!("LAB: starting {} simulated hosts", loaded.inventory.active().count()));
        // Where `lab up` never was, nothing is to stay.
        let _ = std::fs::remove_dir(&dir);
        loaded.source.lab = Some(OwnLabName::new());
        dir = lab_dir(loaded)?;
        own = Some(loaded.lab_up(&[], None, true).await?);
        lab = running(&dir)?;
    }
    let mut lab = lab.ok_or_else(|| broken(&dir, "the lab has stopped".to_owned()))?;
    let status = lab.status();
    let status = status.map_err(|e| broken(&dir, format!("the lab does not respond: {e}")))?;
    for wall in &status.without {
        events.note(format!("LAB: without the wall `{wall}`: {}", wall.given_up()));
    }
    let inventory = &mut loaded.inventory;
    for host in inventory.hosts.values_mut() {
        if let Some(at) = status.hosts.get(host.name.as_str()) {
            host.address = at.address.to_string();
            host.port = Some(at.port);
            host.user = None;
        }
    }
    inventory.ssh.user = Some(USER.to_owned());
    inventory.ssh.identities = vec![dir.join("id_ed25519")];
    inventory.ssh.known_hosts = dir.join("known_hosts");
    inventory.ssh.bastions.clear();
    inventory.ssh.agent = false;
    inventory.ssh.sockets = Some(lab::sockets(&dir));
    Ok(Some(Running { lock: dir.join("provision.lock"), own }))
}

/// The lab's own process: reads its specification from standard input; serves until it is stopped.
pub async fn serve_lab() -> Result<()> {
    bound_panics();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(failed("cannot read the specification"))?;
    let spec: Spec = serde_json::from_str(&line)
        .map_err(|e| Error::Malformed { what: "invalid specification".to_owned(), source: e.into() })?;
    let dir = spec.dir.clone();
    let failed_up = |e: lab::LabError| coded("E-LAB", e.to_string(), "See the lab's log");
    let lab = lab::Lab::up(spec, Events::none()).await.map_err(failed_up)?;
    let mut lock = Lock::default();
    for served in lab.artifacts() {
        let (version, sha256, size) = (served.version.clone(), served.sha256.clone(), served.size);
        let locked = Locked { version, urls: vec![served.url.clone()], sha256, size };
        let name = match lock.get(&served.name) {
            None => served.name.clone(),
            Some(_) => at_version(&served.name, &locked.version),
        };
        lock.artifacts.insert(name, locked);
    }
    lock.save(&dir.join("provision.lock"))?;
    let (here, gone) = tokio::sync::oneshot::channel();
    std::thread::spawn(|| end_with_input(here));
    lab.serve(async { drop(gone.await) }).await.map_err(failed("the lab has stopped"))?;
    Ok(())
}

/// What hosts ask of the lab may hit a mistake in it, as often as they like: only the first few are told.
fn bound_panics() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|info| {
        if TOLD.fetch_add(1, Ordering::Relaxed) < MOST_PANICS {
            let _ = writeln!(std::io::stderr(), "lab: internal error: {info}");
        }
    }));
}

/// Ends the lab when its standard input ends, unless that has said [`lab::STAY`] before; by force where the lab, busy with what its
/// hosts have it do, does not go by itself. The kernel then ends what runs on them.
fn end_with_input(here: tokio::sync::oneshot::Sender<()>) {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).is_ok() && line.trim_end() == lab::STAY {
        loop {
            std::thread::park();
        }
    }
    drop(here);
    std::thread::sleep(DOWN_DEADLINE);
    let _ = writeln!(std::io::stderr(), "lab: did not go down by itself");
    std::process::exit(1);
}

/// Returns the option of `ssh` by which it reaches the socket of a simulated host.
pub(super) fn proxy_command(program: &Path, socket: &Path) -> String {
    // ssh reads `%` before a shell reads the rest.
    let word = |path: &Path| quote(&path.display().to_string()).replace('%', "%%");
    format!("ProxyCommand={} lab dial -- {}", word(program), word(socket))
}

/// Carries standard input and output to and from the socket of a simulated host.
pub async fn dial(socket: &Path) -> Result<()> {
    let (folder, name) = (socket.parent().unwrap_or(socket), socket.file_name().unwrap_or_default());
    let stream = lab::connect(folder, &name.to_string_lossy()).map_err(cannot("connect to", socket))?;
    stream.set_nonblocking(true).map_err(cannot("connect to", socket))?;
    let stream = tokio::net::UnixStream::from_std(stream).map_err(cannot("connect to", socket))?;
    let (mut from, mut to) = stream.into_split();
    let mut output = tokio::io::stdout();
    let send = async {
        // The connection ends with the host's end of it, whatever is still to be read here.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        copied = tokio::io::copy(&mut from, &mut output) => {
            copied.map(drop).map_err(failed("the connection was lost"))
        }
        () = send => Ok(()),
    }
}

impl Loaded {
    /// Brings up a lab of this inventory, with faults of `HOST=KIND[:ARGUMENT][@STEP]`, and with the programs of a real
    /// control plane where they are given. It goes down with what is returned. Without `walls` it also comes up where this
    /// machine does not allow all of them, for inventories of people who may run programs on it.
    pub async fn lab_up(
        &self,
        faults: &[String],
        control_plane: Option<&ControlPlanePrograms>,
        walls: bool,
    ) -> Result<OwnLab> {
        if self.source.lab.is_some() {
            sweep(self)?;
        }
        let mut spec = spec(self, faults).await?;
        spec.control_plane = control_plane.map(|programs| programs.folder.clone());
        loop {
            let error = match up(&spec).await {
                Ok(mut lab) => {
                    lab.temporary = self.source.lab.is_some();
                    return Ok(lab);
                }
                Err(error) => error,
            };
            match forbidden(&error).filter(|wall| !walls && !spec.without.contains(wall)) {
                Some(wall) => spec.without.push(wall),
                None => return Err(error),
            }
        }
    }

    /// Ends the lab and waits until it is gone. Returns whether one ran.
    pub fn lab_down(&self) -> Result<bool> {
        down(&lab_dir(self)?)
    }

    /// Returns the lab that runs, if one does.
    pub fn lab_status(&self) -> Result<Option<LabStatus>> {
        let dir = lab_dir(self)?;
        let Some(mut lab) = running(&dir)? else { return Ok(None) };
        let status = lab.status().map_err(|e| broken(&dir, format!("the lab does not respond: {e}")))?;
        Ok(Some(LabStatus { pid: lab.pid(), status }))
    }

    /// Makes something go wrong on the lab that runs.
    pub fn lab_fault(&self, fault: &str) -> Result<()> {
        let dir = lab_dir(self)?;
        self.running_lab(&dir)?
            .inject(fault)
            .map_err(|e| broken(&dir, format!("the lab does not respond: {e}")))?
            .map_err(|why| coded("E-USAGE", why, KINDS))
    }

    /// Returns the arguments of `ssh` that lead to a simulated host.
    pub fn lab_ssh(&self, host: &str) -> Result<Vec<String>> {
        let dir = lab_dir(self)?;
        let status = self.running_lab(&dir)?.status();
        let status = status.map_err(|e| broken(&dir, format!("the lab does not respond: {e}")))?;
        let at = status.hosts.get(host).ok_or_else(|| {
            coded(
                "E-USAGE",
                format!("no host {host} in this lab"),
                "List the hosts with `provision lab status INVENTORY`",
            )
        })?;
        let known_hosts = format!("UserKnownHostsFile={}", dir.join("known_hosts").display());
        let identity = dir.join("id_ed25519").display().to_string();
        let (port, login) = (at.port.to_string(), format!("{USER}@{}", at.address));
        let words = ["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-o", &known_hosts];
        let dial = proxy_command(&self.source.program()?, &lab::sockets(&dir).join(host));
        let words = words.into_iter().chain(["-o", &dial, "-i", &identity, "-p", &port, "--", &login]);
        Ok(words.map(str::to_owned).collect())
    }

    fn running_lab(&self, dir: &Path) -> Result<Control> {
        running(dir)?.ok_or_else(|| {
            let hint = format!("provision lab up {}", self.source.path.display());
            coded("E-LAB-DOWN", "the lab is not running", hint)
        })
    }
}
