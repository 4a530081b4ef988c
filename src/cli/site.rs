//! What most commands begin with: inventory, catalog, lock file and lab become targets.

use super::lab::{Running, twin};
use super::{Global, Output, Where};
use crate::artifact::{LOCK_FILE, Lock};
use crate::catalog::Catalog;
use crate::event::{Event, Events};
use crate::executor::{DesiredFn, HostSetup, HostTarget, STATE_DIR, Sudo};
use crate::inventory::{self, Host, Inventory, Secrets};
use crate::plan::{Plan, PlanInput, build};
use crate::report::Mode;
use crate::role::{RoleInput, desired};
use crate::ssh::{self, Credentials, Dial, Endpoint, Pool, PoolOptions};
use crate::state::{Failure, FailureKind, HostName, Observed, RunId, SecretText, Target, TargetId};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// One inventory, ready to be acted on.
pub struct Site {
    pub inventory: Arc<Inventory>,
    pub lock: Arc<Lock>,
    pub run: RunId,
    pub hosts: BTreeMap<HostName, Arc<HostTarget>>,
    pub lab: Option<Running>,
    pub endpoints: Vec<Endpoint>,
}

/// Loads catalog and inventory, printing what is wrong.
pub fn load(path: &Path) -> anyhow::Result<(Inventory, Catalog)> {
    let root =
        if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(Path::new(".")).to_owned() };
    let extra = Some(root.join("catalog")).filter(|p| p.is_dir());
    let catalog = Catalog::load(extra.as_deref()).context("cannot load the catalog")?;
    match inventory::load(path, &catalog) {
        Ok(loaded) => {
            if !loaded.diagnostics.all.is_empty() {
                eprint!("{}", loaded.diagnostics.render(std::io::stderr().is_terminal() && no_color_unset()));
            }
            Ok((loaded.inventory, catalog))
        }
        Err(found) => {
            eprint!("{}", found.render(std::io::stderr().is_terminal() && no_color_unset()));
            Err(super::Silent.into())
        }
    }
}

/// Returns whether colours are welcome (<https://no-color.org>).
pub fn no_color_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Returns how events are to be shown.
pub fn mode(global: &Global) -> Mode {
    match global.output {
        Output::Json => Mode::Json,
        _ if global.quiet => Mode::Quiet,
        _ if global.verbose || !std::io::stderr().is_terminal() => Mode::Lines { verbose: global.verbose },
        _ => Mode::Bars,
    }
}

/// Returns the folder where runs, caches and twins are kept: `$XDG_STATE_HOME/provision`, or `~/.local/state/provision`.
pub fn state_dir() -> PathBuf {
    std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("provision")
}

/// Returns the folder of an inventory's journals.
pub fn journals(inventory: &Inventory) -> PathBuf {
    state_dir().join("runs").join(&inventory.name)
}

/// Returns a fresh run id: five characters without those that look alike.
fn run_id() -> RunId {
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    RunId::new((0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect::<String>())
}

fn owner() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "someone".to_owned());
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{user}@{}", if host.trim().is_empty() { "here" } else { host.trim() })
}

/// Adds what `ssh -G` says where the inventory is silent.
async fn endpoint(inventory: &Inventory, host: &Host, identities: &mut BTreeSet<PathBuf>) -> Endpoint {
    let ssh = &inventory.ssh;
    let user = host.user.clone().or_else(|| ssh.user.clone());
    let mut endpoint = Endpoint {
        name: host.name.to_string(),
        address: host.address.clone(),
        port: host.port.or(ssh.port).unwrap_or(22),
        user: user.clone().unwrap_or_default(),
        bastions: ssh.bastions.clone(),
    };
    if ssh.identities.is_empty() || user.is_none() {
        let config = ssh::user_config(&host.address).await;
        if user.is_none() {
            endpoint.user =
                config.user.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "root".to_owned());
        }
        if host.port.or(ssh.port).is_none() {
            endpoint.port = config.port.unwrap_or(22);
        }
        if endpoint.bastions.is_empty() {
            endpoint.bastions = config.jumps;
        }
        identities.extend(config.identities);
    }
    endpoint
}

impl Site {
    /// Loads everything; contacts nobody (but brings the twin up, where one is asked for).
    pub async fn open(place: &Where, events: &Events) -> anyhow::Result<Self> {
        ssh::raise_file_limit();
        let (mut inventory, catalog) = load(&place.inventory)?;
        let lab = twin(&mut inventory, &catalog, place, events).await?;
        let lock_path = match &lab {
            Some(lab) => lab.lock.clone(),
            None => inventory.root.join(LOCK_FILE),
        };
        let lock = Arc::new(Lock::load(&lock_path)?);
        let selected = inventory::select(&inventory, place.limit.as_deref())?;
        let secrets = Secrets::new(&inventory);
        let secret = async |name: &Option<String>| -> anyhow::Result<Option<SecretText>> {
            Ok(match name {
                Some(name) => Some(secrets.resolve(name).await?),
                None => None,
            })
        };
        let (passphrase, sudo_password) =
            (secret(&inventory.ssh.passphrase).await?, secret(&inventory.ssh.sudo_password).await?);

        let inventory = Arc::new(inventory);
        let catalog = Arc::new(catalog);
        let mut identities: BTreeSet<PathBuf> = BTreeSet::new();
        let mut endpoints = Vec::new();
        for host in inventory.active().filter(|h| selected.contains(&h.name)) {
            endpoints.push(endpoint(&inventory, host, &mut identities).await);
        }
        let mut all = inventory.ssh.identities.clone();
        all.extend(identities);
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let pool = Pool::new(PoolOptions {
            known_hosts: vec![
                inventory.ssh.known_hosts.clone(),
                home.join(".ssh/known_hosts"),
                "/etc/ssh/ssh_known_hosts".into(),
            ],
            credentials: Credentials { identities: all, passphrase, agent: inventory.ssh.agent },
            ..PoolOptions::default()
        });
        for line in pool.bad_known_hosts_lines() {
            events.emit(Event::Warning { target: None, message: format!("{line} is no known_hosts line") });
        }
        let run = run_id();
        let mut hosts = BTreeMap::new();
        for at in &endpoints {
            let name = HostName::new(at.name.clone());
            let Some(host) = inventory.hosts.get(&name) else { continue };
            let dial: Arc<dyn Dial> = pool.host(at.clone());
            let wanted: DesiredFn = {
                let (inventory, catalog, lock, host) =
                    (inventory.clone(), catalog.clone(), lock.clone(), host.clone());
                Arc::new(move |facts| {
                    desired(&RoleInput {
                        inventory: &inventory,
                        catalog: &catalog,
                        lock: &lock,
                        host: &host,
                        facts,
                    })
                })
            };
            let product =
                inventory.pool_of(host).accelerator.as_ref().and_then(|a| catalog.product(a.product()));
            let setup = HostSetup {
                host: name.clone(),
                dial: dial.clone(),
                sudo: if at.user == "root" { Sudo::None } else { Sudo::Ask(sudo_password.clone()) },
                desired: wanted,
                run: run.clone(),
                owner: owner(),
                state_dir: STATE_DIR.to_owned(),
                reboot_deadline: Duration::from_secs(product.map_or(600, |p| p.reboot_deadline_s)),
                bmc: host.bmc.clone(),
                redact: Vec::new(),
                events: events.clone(),
            };
            hosts.insert(name, Arc::new(HostTarget::new(setup)));
        }
        Ok(Self { inventory, lock, run, hosts, lab, endpoints })
    }

    /// Returns all targets.
    pub fn targets(&self) -> BTreeMap<TargetId, Arc<dyn Target>> {
        self.hosts
            .iter()
            .map(|(name, host)| (TargetId::Host(name.clone()), host.clone() as Arc<dyn Target>))
            .collect()
    }

    /// Observes all targets at once. Returns what came, and how long it took.
    pub async fn observe(&self, events: &Events) -> (Vec<(TargetId, Result<Observed, Failure>)>, Duration) {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (id, target) in self.targets() {
            let events = events.clone();
            tasks.spawn(async move {
                let began = Instant::now();
                events.emit(Event::Observing { target: id.to_string() });
                let result = target.observe().await;
                match &result {
                    Ok(observed) => events.emit(Event::Observed {
                        target: id.to_string(),
                        elapsed: began.elapsed(),
                        resources: observed.desired.len(),
                    }),
                    Err(failure) => events.emit(Event::Unobserved {
                        target: id.to_string(),
                        code: failure.code.clone(),
                        message: failure.message.clone(),
                    }),
                }
                (id, result)
            });
        }
        let mut all = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            if let Ok(pair) = joined {
                all.push(pair);
            }
        }
        distinct(&mut all);
        (all, began.elapsed())
    }

    /// Makes a plan of what was observed.
    pub fn plan(&self, observed: Vec<(TargetId, Result<Observed, Failure>)>) -> Plan {
        build(PlanInput {
            inventory: &self.inventory,
            lock_digest: self.lock.digest(),
            lab: self.lab.is_some(),
            observed,
        })
    }
}

/// Two hosts with one machine id are one machine, or a cloned image: neither may go on.
fn distinct(all: &mut [(TargetId, Result<Observed, Failure>)]) {
    let mut by_id: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, result) in all.iter() {
        if let Ok(observed) = result
            && !observed.facts.machine_id.is_empty()
        {
            by_id.entry(observed.facts.machine_id.clone()).or_default().push(id.to_string());
        }
    }
    for (id, result) in all.iter_mut() {
        let Ok(observed) = result else { continue };
        let Some(same) = by_id.get(&observed.facts.machine_id).filter(|same| same.len() > 1) else {
            continue;
        };
        let others: Vec<&str> = same.iter().filter(|n| **n != id.to_string()).map(String::as_str).collect();
        let message = format!("it has the machine id of {}", others.join(", "));
        *result = Err(Failure::new(FailureKind::Preflight, "E-MACHINE-ID", message).hint(
            "by hand: cat /etc/machine-id; for a cloned image: rm /etc/machine-id; systemd-machine-id-setup",
        ));
    }
}
