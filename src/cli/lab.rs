//! `lab`: the twin in one command, or by its parts. The lab runs in a process of its own, so that it outlives a command
//! and dies with nothing else.

use super::site::{Site, state_dir};
use super::{Global, Where, coded, exit, usage, watch};
use crate::artifact::{Lock, Locked};
use crate::catalog::{Catalog, Vendor};
use crate::event::Events;
use crate::inventory::{Inventory, Secrets};
use crate::lab::{self as twin_room, Counters, Fault, Hardware, Spec};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The lab comes up within this time, or says why not.
const UP_DEADLINE: Duration = Duration::from_secs(120);
/// Files of a running lab's folder by which a fault is asked for, and why it was refused.
const FAULT_ASKED: &str = "fault.asked";
const FAULT_ANSWER: &str = "fault.answer";

/// The lab: a twin of the fleet on this machine, for trying things out and for CI
#[derive(Args)]
#[command(after_help = "Examples:
  provision lab run inventories/lab
  provision lab up inventories/lab")]
pub struct Lab {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Subcommand)]
enum LabCommand {
    /// The whole story: twin up, plan, apply, twin down
    Run(LabRun),
    /// Bring the twin up and leave it
    Up(LabUp),
    /// End the twin
    #[command(after_help = "Example:
  provision lab down inventories/lab")]
    Down(LabPlace),
    /// Show the twin's hosts and what their SSH servers have counted
    #[command(after_help = "Example:
  provision lab status inventories/lab")]
    Status(LabPlace),
    /// Open a shell on a simulated host, through the machine's own ssh
    Ssh(LabSsh),
    /// Make something go wrong on a twin that is up
    Fault(LabFault),
    /// The twin's own process
    #[command(hide = true)]
    Serve {
        /// The specification
        spec: PathBuf,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab run inventories/lab
  provision lab run inventories/h100-rack --fault h-003=fail-package:chrony --keep")]
struct LabRun {
    /// The inventory
    inventory: PathBuf,
    /// Something that goes wrong: HOST=KIND[:ARGUMENT][@STEP]; docs/reference/faults.md has the kinds
    #[arg(long)]
    fault: Vec<String>,
    /// Leave the twin up
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab up inventories/lab     then: provision plan -i inventories/lab
  provision lab up inventories/h100-rack     then: provision plan -i inventories/h100-rack --lab")]
struct LabUp {
    /// The inventory
    inventory: PathBuf,
    /// Something that goes wrong: HOST=KIND[:ARGUMENT][@STEP]; docs/reference/faults.md has the kinds
    #[arg(long)]
    fault: Vec<String>,
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab fault inventories/lab cp-1=lost
  provision lab fault inventories/lab b-1=hung-tool:nvidia-smi")]
struct LabFault {
    /// The inventory
    inventory: PathBuf,
    /// What goes wrong from now on: HOST=KIND[:ARGUMENT]
    fault: String,
}

#[derive(Args)]
struct LabPlace {
    /// The inventory
    inventory: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Examples:
  provision lab ssh inventories/lab h-1
  provision lab ssh inventories/lab h-1 nvidia-smi")]
struct LabSsh {
    /// The inventory
    inventory: PathBuf,
    /// The host
    host: String,
    /// A command; else a shell
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

/// What a running lab says of itself, in `lab.json` of its folder.
#[derive(Clone, Serialize, Deserialize, Debug)]
struct Card {
    pid: u32,
    name: String,
    hosts: BTreeMap<String, (IpAddr, u16)>,
}

/// A lab that a command uses.
pub struct Running {
    dir: PathBuf,
    /// The lock file of its mirror.
    pub lock: PathBuf,
    /// It was brought up for this command alone.
    own: bool,
}

impl Running {
    /// Returns whether it was brought up for this command alone.
    pub fn is_own(&self) -> bool {
        self.own
    }
}

/// Returns whether an inventory is a lab one by itself: all addresses loopback, keys in `.lab/`.
fn is_lab(inventory: &Inventory) -> bool {
    let loopback = |address: &str| address.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
    !inventory.hosts.is_empty()
        && inventory.hosts.values().all(|h| loopback(&h.address))
        && inventory.ssh.known_hosts.starts_with(inventory.root.join(".lab"))
}

/// Returns the folder of an inventory's lab.
fn lab_dir(inventory: &Inventory) -> PathBuf {
    let root = std::fs::canonicalize(&inventory.root).unwrap_or_else(|_| inventory.root.clone());
    if is_lab(inventory) {
        return root.join(".lab");
    }
    let key: String =
        root.display().to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    state_dir().join("lab").join(format!("{}-{}", inventory.name, key.trim_matches('-')))
}

fn card(dir: &Path) -> Option<Card> {
    let card: Card = serde_json::from_str(&std::fs::read_to_string(dir.join("lab.json")).ok()?).ok()?;
    // Alive, and still the lab: a pid is used again sooner or later.
    let command = std::fs::read(format!("/proc/{}/cmdline", card.pid)).ok()?;
    String::from_utf8_lossy(&command).contains("serve").then_some(card)
}

fn hardware(inventory: &Inventory, catalog: &Catalog, host: &crate::inventory::Host) -> Option<Hardware> {
    let accelerator = inventory.pool_of(host).accelerator.as_ref()?;
    let product = catalog.product(accelerator.product())?;
    let id = product.pci.first()?;
    let nvidia = product.vendor == Vendor::Nvidia;
    let switched = nvidia && product.fabric == crate::catalog::Fabric::FabricManager;
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

/// Returns the twin's specification. Real addresses are mapped onto loopback ones chosen at random.
async fn spec(inventory: &Inventory, catalog: &Catalog, faults: &[String]) -> anyhow::Result<Spec> {
    let (a, b) = (rand::random_range(64..=126u8), rand::random::<u8>());
    let own = is_lab(inventory);
    // Hosts of a lab inventory ask for the password that it names; twins of real ones never get to see a real one.
    let password = match &inventory.ssh.sudo_password {
        Some(name) if own => Some(Secrets::new(inventory).resolve(name).await?),
        _ => None,
    };
    let mapped =
        |n: usize| IpAddr::V4(Ipv4Addr::new(127, a, b.wrapping_add((n / 250) as u8), (n % 250) as u8 + 2));
    let mut hosts = Vec::new();
    for (n, host) in inventory.active().enumerate() {
        let (address, port) = if own {
            (host.address.parse()?, host.port.or(inventory.ssh.port).unwrap_or(22))
        } else {
            (mapped(n), 2222)
        };
        let mut twin = twin_room::Host {
            name: host.name.to_string(),
            address,
            port,
            hardware: hardware(inventory, catalog, host),
            sudo_sha256: None,
        };
        if let Some(password) = &password {
            twin.set_sudo_password(password.expose());
        }
        hosts.push(twin);
    }
    let faults =
        faults.iter().map(|f| Fault::parse(f)).collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    for fault in &faults {
        if !hosts.iter().any(|h| h.name == fault.host) {
            return Err(usage(
                format!("--fault: there is no host {}", fault.host),
                "HOST=KIND, with an active host of the inventory; docs/reference/faults.md lists the kinds",
            ));
        }
    }
    Ok(Spec {
        name: inventory.name.clone(),
        dir: lab_dir(inventory),
        exe: std::env::current_exe().context("cannot find this program's own file")?,
        mirror: hosts.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |h| h.address),
        k0s_version: inventory.cluster.k0s_version.clone(),
        hosts,
        faults,
    })
}

/// Starts the lab's process and waits until it is up.
async fn up(spec: &Spec) -> anyhow::Result<()> {
    if card(&spec.dir).is_some() {
        let message = format!("the lab of {} is up already", spec.name);
        return Err(coded("E-LAB-UP", message, "provision lab down ends it"));
    }
    std::fs::create_dir_all(&spec.dir)?;
    let _ = std::fs::remove_file(spec.dir.join("lab.json"));
    let file = spec.dir.join("spec.json");
    std::fs::write(&file, serde_json::to_string_pretty(spec)?)?;
    let log = std::fs::File::create(spec.dir.join("lab.log"))?;
    let mut command = std::process::Command::new(&spec.exe);
    command.args(["lab", "serve"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // The twin lives long and needs no secret of this command's environment.
    command.env_clear().envs(
        ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE"].iter().filter_map(|n| Some((n, std::env::var_os(n)?))),
    );
    // A process group of its own: Ctrl-C of the command is not the lab's.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("cannot start the lab")?;
    let began = Instant::now();
    while card(&spec.dir).is_none() {
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(spec.dir.join("lab.log")).unwrap_or_default();
            let message = format!("the lab did not come up ({status}): {}", said.trim());
            let hint = format!("{} says more", spec.dir.join("lab.log").display());
            return Err(coded("E-LAB", message, hint));
        }
        if began.elapsed() > UP_DEADLINE {
            let _ = child.kill();
            let message = format!("the lab did not come up within {} s", UP_DEADLINE.as_secs());
            let hint = format!("{} says more", spec.dir.join("lab.log").display());
            return Err(coded("E-LAB", message, hint));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Ends a lab and waits until it is gone.
async fn down(dir: &Path) -> anyhow::Result<bool> {
    let Some(card) = card(dir) else { return Ok(false) };
    if let Some(pid) = rustix::process::Pid::from_raw(card.pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let began = Instant::now();
    while self::card(dir).is_some() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(true)
}

/// Asks a running lab to make something go wrong, and waits for its answer.
async fn inject(dir: &Path, fault: &str) -> anyhow::Result<()> {
    card(dir).ok_or_else(|| coded("E-LAB-DOWN", "the lab is not up", "provision lab up"))?;
    let _ = std::fs::remove_file(dir.join(FAULT_ANSWER));
    std::fs::write(dir.join("fault.new"), fault)?;
    std::fs::rename(dir.join("fault.new"), dir.join(FAULT_ASKED))?;
    let began = Instant::now();
    while dir.join(FAULT_ASKED).exists() {
        if began.elapsed() > Duration::from_secs(10) {
            let hint = format!("{} says more", dir.join("lab.log").display());
            return Err(coded("E-LAB", "the lab does not answer", hint));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = std::fs::read_to_string(dir.join(FAULT_ANSWER))?;
    if refused.is_empty() { Ok(()) } else { Err(usage(refused, "docs/reference/faults.md lists them")) }
}

/// Ends a lab that was brought up for one command alone.
pub async fn release(lab: Option<Running>) {
    if let Some(lab) = lab.filter(|lab| lab.own) {
        let _ = down(&lab.dir).await;
    }
}

/// Points an inventory at its twin, where it is a lab one or `--lab` says so; brings the twin up if it is not.
pub async fn twin(
    inventory: &mut Inventory,
    catalog: &Catalog,
    place: &Where,
    events: &Events,
) -> anyhow::Result<Option<Running>> {
    let own_lab = is_lab(inventory);
    if !own_lab && !place.lab {
        return Ok(None);
    }
    let dir = lab_dir(inventory);
    let mut own = false;
    if card(&dir).is_none() {
        if own_lab && !place.lab {
            let message = format!("the lab of {} is not up", inventory.name);
            return Err(coded(
                "E-LAB-DOWN",
                message,
                format!("provision lab up {}", place.inventory.display()),
            ));
        }
        events.note(format!("LAB: bringing up {} simulated hosts", inventory.active().count()));
        up(&spec(inventory, catalog, &[]).await?).await?;
        own = true;
    }
    let card = card(&dir).context("the lab went away")?;
    for host in inventory.hosts.values_mut() {
        if let Some((address, port)) = card.hosts.get(host.name.as_str()) {
            host.address = address.to_string();
            host.port = Some(*port);
            host.user = None;
        }
    }
    inventory.ssh.user = Some("ubuntu".to_owned());
    inventory.ssh.identities = vec![dir.join("id_ed25519")];
    inventory.ssh.known_hosts = dir.join("known_hosts");
    inventory.ssh.bastions.clear();
    inventory.ssh.agent = false;
    if !own_lab {
        (inventory.ssh.passphrase, inventory.ssh.password, inventory.ssh.sudo_password) = (None, None, None);
    }
    Ok(Some(Running { lock: dir.join("provision.lock"), dir, own }))
}

/// The lab's own process: serves until it is told to end.
async fn serve(file: &Path) -> anyhow::Result<u8> {
    let spec: Spec = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let dir = spec.dir.clone();
    let hosts = spec.hosts.iter().map(|h| (h.name.clone(), (h.address, h.port))).collect();
    let name = spec.name.clone();
    let lab = twin_room::Lab::up(spec, Events::none()).await?;
    let artifacts = lab.artifacts().iter().map(|a| {
        let locked = Locked {
            version: a.version.clone(),
            urls: vec![a.url.clone()],
            sha256: a.sha256.clone(),
            size: a.size,
        };
        (a.name.clone(), locked)
    });
    Lock { artifacts: artifacts.collect() }.save(&dir.join("provision.lock"))?;
    let text = serde_json::to_string(&Card { pid: std::process::id(), name, hosts })?;
    std::fs::write(dir.join("lab.json.new"), text)?;
    std::fs::rename(dir.join("lab.json.new"), dir.join("lab.json"))?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = tick.tick() => {
                if let Ok(text) = std::fs::read_to_string(dir.join(FAULT_ASKED)) {
                    let result = Fault::parse(&text).and_then(|fault| lab.inject(&fault));
                    std::fs::write(dir.join(FAULT_ANSWER), result.err().unwrap_or_default())?;
                    std::fs::remove_file(dir.join(FAULT_ASKED))?;
                }
                let _ = std::fs::write(dir.join("counters.json"), serde_json::to_string(&lab.counters()).unwrap_or_default());
            }
        }
    }
    let _ = std::fs::remove_file(dir.join("lab.json"));
    lab.down().await;
    Ok(exit::DONE)
}

impl Lab {
    /// Runs one of its parts.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self.command {
            LabCommand::Serve { spec } => serve(&spec).await,
            LabCommand::Up(command) => {
                let (inventory, catalog) = super::site::load(&command.inventory)?;
                let spec = spec(&inventory, &catalog, &command.fault).await?;
                up(&spec).await?;
                let flag = if is_lab(&inventory) { "" } else { " --lab" };
                eprintln!("LAB: {} simulated hosts are up", spec.hosts.len());
                eprintln!(
                    "  provision plan -i {0}{flag}\n  provision apply -i {0}{flag}\n  provision lab down {0}",
                    command.inventory.display()
                );
                Ok(exit::DONE)
            }
            LabCommand::Down(command) => {
                let (inventory, _) = super::site::load(&command.inventory)?;
                let was = down(&lab_dir(&inventory)).await?;
                eprintln!("LAB: {}", if was { "down" } else { "was not up" });
                Ok(exit::DONE)
            }
            LabCommand::Status(command) => {
                let (inventory, _) = super::site::load(&command.inventory)?;
                let dir = lab_dir(&inventory);
                let Some(card) = card(&dir) else {
                    eprintln!("LAB: not up");
                    return Ok(exit::FAILED);
                };
                let counters: BTreeMap<String, Counters> = serde_json::from_str(
                    &std::fs::read_to_string(dir.join("counters.json")).unwrap_or_default(),
                )
                .unwrap_or_default();
                println!("LAB {} (pid {})", card.name, card.pid);
                for (name, (address, port)) in &card.hosts {
                    let c = counters.get(name).copied().unwrap_or_default();
                    println!(
                        "{name:<12} {address}:{port:<6} {} connections, {} channels, {} execs",
                        c.connections, c.channels, c.execs
                    );
                }
                Ok(exit::DONE)
            }
            LabCommand::Ssh(command) => {
                let (inventory, _) = super::site::load(&command.inventory)?;
                let dir = lab_dir(&inventory);
                let card = card(&dir).ok_or_else(|| {
                    let hint = format!("provision lab up {}", command.inventory.display());
                    coded("E-LAB-DOWN", "the lab is not up", hint)
                })?;
                let (address, port) = card.hosts.get(&command.host).ok_or_else(|| {
                    let message = format!("there is no host {}", command.host);
                    usage(message, "provision lab status lists the hosts")
                })?;
                let terminal = command.command.is_empty() && std::io::stdin().is_terminal();
                let status = std::process::Command::new("ssh")
                    .args(["-F", "none", if terminal { "-t" } else { "-T" }])
                    .args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-o"])
                    .arg(format!("UserKnownHostsFile={}", dir.join("known_hosts").display()))
                    .arg("-i")
                    .arg(dir.join("id_ed25519"))
                    .args(["-p", &port.to_string(), &format!("ubuntu@{address}")])
                    .args(command.command)
                    .status()
                    .map_err(|error| {
                        let message = format!("cannot run ssh: {error}");
                        coded("E-NO-SSH", message, "install the OpenSSH client, or use provision exec")
                    })?;
                Ok(status.code().unwrap_or(1) as u8)
            }
            LabCommand::Fault(command) => {
                let (inventory, _) = super::site::load(&command.inventory)?;
                inject(&lab_dir(&inventory), &command.fault).await?;
                eprintln!("LAB: {} from now on", command.fault);
                Ok(exit::DONE)
            }
            LabCommand::Run(command) => command.run(global).await,
        }
    }
}

impl LabRun {
    async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (inventory, catalog) = super::site::load(&self.inventory)?;
        let spec = spec(&inventory, &catalog, &self.fault).await?;
        eprintln!(
            "LAB: {} simulated hosts on this machine; hardware, packages, k0s and engines are stand-ins",
            spec.hosts.len()
        );
        up(&spec).await?;
        let result = self.story(global).await;
        if self.keep {
            eprintln!("the twin is still up: provision lab down {}", self.inventory.display());
        } else {
            down(&spec.dir).await?;
        }
        result
    }

    async fn story(&self, global: &Global) -> anyhow::Result<u8> {
        let place = Where { inventory: self.inventory.clone(), limit: None, lab: true };
        let (events, shown) = watch(global, true);
        let mut site = Site::open(&place, &events).await?;
        let (observed, took) = site.observe(&events).await;
        let plan = site.plan(observed);
        super::plan::print(&plan, global, false, took, String::new());
        let report = super::apply::carry_out(&site, &plan, events, None).await?;
        site.close();
        let shown = shown.end().await;
        super::apply::print_end(&site, &report, &shown, &place, !self.keep, global);
        let i = self.inventory.display();
        let mut code = report.exit_code();
        for resource in crate::serving::chats(&site.inventory) {
            let crate::state::Spec::Chat(chat) = &resource.spec else { continue };
            let question = "Who are you?";
            match crate::reconciler::ask(site.access.as_ref(), chat, question, 32).await {
                Ok(answer) => println!("{} asks {}: {question}\n  {answer}", chat.tenant, chat.model),
                Err(failure) => {
                    println!("{} asks {}: no answer: {}", chat.tenant, chat.model, failure.message);
                    code = code.max(exit::FAILED);
                }
            }
        }
        eprintln!(
            "\nsimulated: hardware, package manager, systemd, sudo, reboot, k0s, Kubernetes API, engines, router\nreal: SSH, host keys, shell programs, files"
        );
        eprintln!(
            "try next:\n  provision lab up {i}\n  provision plan -i {i} --lab\n  provision lab run {i} --fault {}=fail-package:chrony",
            site.inventory.active().last().map_or("HOST", |h| h.name.as_str())
        );
        Ok(code)
    }
}
