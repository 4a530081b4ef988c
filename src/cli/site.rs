//! What most commands begin with: inventory, catalog, lock file and lab become targets.

use super::lab::{Running, twin};
use super::reach::OverSsh;
use super::{Global, Output, Where};
use crate::artifact::{LOCK_FILE, Lock, fetch};
use crate::catalog::Catalog;
use crate::event::{Event, Events};
use crate::executor::{DesiredFn, HostSetup, HostTarget, STATE_DIR, Sudo, combine};
use crate::inventory::{self, Host, HostState, Inventory, Secrets};
use crate::plan::{Plan, PlanInput, build};
use crate::reconciler::{Access, ClusterSetup, ClusterTarget, Holder, Retired, nodes};
use crate::report::Mode;
use crate::role::{self, Finding, RoleInput, desired};
use crate::run::past;
use crate::serving::{self, ServingInput};
use crate::ssh::{self, Credentials, Dial, Endpoint, Pool, PoolOptions};
use crate::state::{
    Cluster, Facts, Failure, HostName, Observed, Resource, RunId, SecretText, Spec, Stage, Target, TargetId,
};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// How connections are made.
    pub ssh: PoolOptions,
    /// The cluster, unless only some hosts are worked on.
    pub cluster: Option<Arc<ClusterTarget>>,
    /// The way to gateways.
    pub access: Arc<dyn Access>,
    pub catalog: Arc<Catalog>,
    /// Secrets that files of roles hold, by name.
    secrets: Arc<BTreeMap<String, SecretText>>,
    /// The cluster's nodes as of the last look; `None` where they could not be asked for.
    live: Mutex<Option<BTreeSet<HostName>>>,
    /// The ways to controllers.
    pub controllers: Vec<Arc<dyn Dial>>,
}

/// What a site is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// To be planned: everything that is wanted is made, which needs the lock file.
    Plan,
    /// To be looked at: works without a lock file, and with whatever is up.
    Look,
}

/// Returns what is wanted in the cluster: objects up to the components, then nodes, then what needs nodes, then the
/// questions that prove it.
async fn cluster_desired(
    inventory: &Inventory,
    catalog: &Catalog,
    lock: &Lock,
    secrets: &Secrets,
    in_lab: bool,
    events: &Events,
) -> anyhow::Result<Vec<crate::state::Resource>> {
    let mut crds = Vec::new();
    if let Some(router) = &inventory.router {
        let mut names = vec!["gateway-api-crds", "kthena-crds"];
        if router.inference_extension {
            names.push("inference-extension-crds");
        }
        for name in names {
            let locked = lock.get(name).ok_or_else(|| {
                let message = format!("provision.lock does not have {name}");
                super::coded("E-LOCK-FILE", message, "provision lock, then commit the file")
            })?;
            let path = fetch(name, locked, &state_dir().join("artifacts"), events).await?;
            let text = std::fs::read_to_string(&path)?;
            let documents: Vec<Option<serde_json::Value>> =
                serde_saphyr::from_multiple(&text).with_context(|| format!("{name} is not YAML"))?;
            // Releases bundle more than definitions; the rest is our own templates' business.
            crds.extend(documents.into_iter().flatten().filter(|d| d["kind"] == "CustomResourceDefinition"));
        }
    }
    let mut tokens = BTreeMap::new();
    for model in inventory.models.values() {
        if let inventory::ModelSource::HuggingFace { token: Some(name), .. } = &model.source {
            // A plan can be made without the secret; what needs it is then shown, and fails at apply.
            match secrets.resolve(name).await {
                Ok(token) => {
                    tokens.insert(name.clone(), token);
                }
                // A pull request of a stranger runs in the lab, where nothing real asks for the secret.
                Err(error) if in_lab => {
                    let message = format!("LAB: {error}; a stand-in is used");
                    events.emit(Event::Warning { target: None, message });
                    tokens.insert(name.clone(), SecretText::new("lab-stand-in"));
                }
                Err(error) => events.emit(Event::Warning { target: None, message: error.to_string() }),
            }
        }
    }
    let objects = serving::desired(&ServingInput { inventory, catalog, crds, tokens })?;
    let late = |r: &crate::state::Resource| matches!(&r.spec, Spec::Object(o) if o.stage >= Stage::Engine);
    let (after, mut all): (Vec<_>, Vec<_>) = objects.into_iter().partition(late);
    all.extend(nodes(inventory));
    all.extend(after);
    all.extend(serving::chats(inventory));
    Ok(all)
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

/// Returns the folder of all runs, one per inventory in it.
pub fn runs_dir() -> PathBuf {
    state_dir().join("runs")
}

/// Returns the folder of an inventory's journals.
pub fn journals(inventory: &Inventory) -> PathBuf {
    runs_dir().join(&inventory.name)
}

/// Returns a fresh run id: five characters without those that look alike.
fn run_id() -> RunId {
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    RunId::new((0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect::<String>())
}

fn owner() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "someone".to_owned());
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{user}@{}", if host.is_empty() { "here" } else { &host })
}

/// Adds what `ssh -G` says where the inventory is silent.
async fn endpoint(inventory: &Inventory, host: &Host, events: &Events) -> Endpoint {
    let ssh = &inventory.ssh;
    let user = host.user.clone().or_else(|| ssh.user.clone());
    let mut endpoint = Endpoint {
        name: host.name.to_string(),
        address: host.address.clone(),
        port: host.port.or(ssh.port).unwrap_or(22),
        user: user.clone().unwrap_or_default(),
        bastions: ssh.bastions.clone(),
        ..Endpoint::default()
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
        if ssh.identities.is_empty() {
            endpoint.identities = config.identities;
        }
        // An alias leads elsewhere; an address stays what the inventory says, above all the lab's.
        if host.address.parse::<IpAddr>().is_err() {
            endpoint.address = config.hostname.unwrap_or(endpoint.address);
        }
        endpoint.host_key_alias = config.host_key_alias;
        if let Some(message) = config.problem {
            events.emit(Event::Warning { target: Some(endpoint.name.clone()), message });
        }
    }
    endpoint
}

impl Site {
    /// Loads everything; contacts nobody (but brings the twin up, where one is asked for).
    pub async fn open(place: &Where, events: &Events) -> anyhow::Result<Self> {
        Self::open_for(place, Need::Plan, events).await
    }

    /// Loads what is needed; contacts nobody, as above.
    pub async fn open_for(place: &Where, need: Need, events: &Events) -> anyhow::Result<Self> {
        ssh::raise_file_limit();
        let (mut inventory, catalog) = load(&place.inventory)?;
        let lab = twin(&mut inventory, &catalog, place, events).await?;
        let lock_path = match &lab {
            Some(lab) => lab.lock.clone(),
            None => inventory.root.join(LOCK_FILE),
        };
        let lock = Arc::new(match Lock::load(&lock_path) {
            Err(_) if need == Need::Look => Lock::default(),
            loaded => loaded?,
        });
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
        let password = secret(&inventory.ssh.password).await?;

        let mut held = BTreeMap::new();
        for name in inventory.registries.values().filter_map(|r| r.credentials.clone()) {
            match secrets.resolve(&name).await {
                Ok(text) => held.insert(name, text),
                Err(error) if lab.is_some() => {
                    let message = format!("LAB: {error}; a stand-in is used");
                    events.emit(Event::Warning { target: None, message });
                    held.insert(name, SecretText::new("lab:stand-in"))
                }
                Err(error) => return Err(error.into()),
            };
        }
        let held = Arc::new(held);
        let inventory = Arc::new(inventory);
        let catalog = Arc::new(catalog);
        // Controllers are asked for nodes, tokens and etcd also when only other hosts are worked on.
        let controls = |h: &Host| inventory.pool_of(h).role.is_controller();
        let hosts = inventory.active().filter(|h| selected.contains(&h.name) || controls(h));
        let mut endpoints: Vec<Endpoint> =
            futures::future::join_all(hosts.map(|host| endpoint(&inventory, host, events))).await;
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let options = PoolOptions {
            known_hosts: vec![
                inventory.ssh.known_hosts.clone(),
                home.join(".ssh/known_hosts"),
                "/etc/ssh/ssh_known_hosts".into(),
            ],
            credentials: Credentials {
                identities: inventory.ssh.identities.clone(),
                passphrase,
                password,
                agent: inventory.ssh.agent,
                ..Credentials::default()
            },
            ..PoolOptions::default()
        };
        let pool = Pool::new(options.clone());
        for line in pool.bad_known_hosts_lines() {
            events.emit(Event::Warning { target: None, message: line.clone() });
        }
        let run = run_id();
        let mut hosts = BTreeMap::new();
        let mut reach = OverSsh { controllers: Vec::new(), workers: Vec::new() };
        for at in &endpoints {
            let name = HostName::new(at.name.clone());
            let Some(host) = inventory.hosts.get(&name) else { continue };
            let dial: Arc<dyn Dial> = pool.host(at.clone());
            let wanted: DesiredFn = {
                let (inventory, catalog, lock, host, secrets) =
                    (inventory.clone(), catalog.clone(), lock.clone(), host.clone(), held.clone());
                Arc::new(move |facts| {
                    desired(&RoleInput {
                        inventory: &inventory,
                        catalog: &catalog,
                        lock: &lock,
                        host: &host,
                        facts,
                        secrets: &secrets,
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
            let target = Arc::new(HostTarget::new(setup));
            let role = inventory.pool_of(host).role;
            if role.is_controller() {
                reach.controllers.push((target.clone(), dial.clone(), cluster_address(host)));
            }
            if role.is_worker() {
                reach.workers.push(dial);
            }
            if selected.contains(&name) {
                hosts.insert(name, target);
            }
        }
        let controllers = reach.controllers.iter().map(|(_, dial, _)| dial.clone()).collect();
        let access: Arc<dyn Access> = Arc::new(reach);
        endpoints.retain(|e| selected.contains(e.name.as_str()));
        // Of some hosts only, their nodes are wanted and nothing else of the cluster.
        let whole = inventory.active().all(|h| selected.contains(&h.name));
        let cluster = match inventory.controllers().next() {
            None => None,
            Some(first) => {
                let desired = if need == Need::Look {
                    Vec::new()
                } else if whole {
                    cluster_desired(&inventory, &catalog, &lock, &secrets, lab.is_some(), events).await?
                } else {
                    let wanted =
                        |r: &Resource| matches!(&r.spec, Spec::Node(n) if selected.contains(n.name.as_str()));
                    nodes(&inventory).into_iter().filter(wanted).collect()
                };
                let target = ClusterTarget::new(ClusterSetup {
                    desired,
                    access: access.clone(),
                    address: cluster_address(first),
                    name: inventory.name.clone(),
                    retired: retired(&inventory, |host| whole || selected.contains(host)),
                    events: events.clone(),
                });
                let (owner, run) = (owner(), run.to_string());
                let target = target.held_by(Holder { owner, run, process: std::process::id() });
                Some(Arc::new(if whole { target } else { target.partial() }))
            }
        };
        let (live, secrets) = (Mutex::default(), held);
        let site = Self {
            inventory,
            lock,
            run,
            hosts,
            lab,
            endpoints,
            ssh: options,
            cluster,
            access,
            catalog,
            secrets,
            live,
            controllers,
        };
        // A plan may be about nothing but nodes of hosts that are not active.
        if need == Need::Look {
            site.some_hosts()?;
        }
        Ok(site)
    }

    /// Refuses where no active host is selected.
    pub fn some_hosts(&self) -> Result<(), inventory::LimitError> {
        if self.hosts.is_empty() { Err(inventory::LimitError::Empty) } else { Ok(()) }
    }

    /// Returns all targets.
    pub fn targets(&self) -> BTreeMap<TargetId, Arc<dyn Target>> {
        self.hosts
            .iter()
            .map(|(name, host)| (TargetId::Host(name.clone()), host.clone() as Arc<dyn Target>))
            .chain(self.cluster.iter().map(|c| (TargetId::Cluster, c.clone() as Arc<dyn Target>)))
            .collect()
    }

    /// Follows what earlier runs left running on the hosts until it ends, on all hosts at once. Returns how many batches
    /// there were on each.
    pub async fn attach(&self) -> BTreeMap<HostName, Result<usize, Failure>> {
        let follow = |(name, host): (&HostName, &Arc<HostTarget>)| {
            let (name, host) = (name.clone(), host.clone());
            async move { (name, host.attach().await) }
        };
        futures::future::join_all(self.hosts.iter().map(follow)).await.into_iter().collect()
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
        let live = match &self.cluster {
            Some(cluster) => cluster.nodes().await.ok().map(Option::unwrap_or_default),
            None => Some(BTreeSet::new()),
        };
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
        let mut all = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            if let Ok(pair) = joined {
                all.push(pair);
            }
        }
        self.distinct(&mut all);
        (all, began.elapsed())
    }

    fn with_role<T>(&self, name: &HostName, facts: &Facts, ask: impl Fn(&RoleInput<'_>) -> T) -> Option<T> {
        let host = self.inventory.hosts.get(name)?;
        let (inventory, catalog, lock) = (&self.inventory, &self.catalog, &self.lock);
        Some(ask(&RoleInput { inventory, catalog, lock, host, facts, secrets: &self.secrets }))
    }

    /// Returns what a host's facts say, warnings included.
    pub fn findings(&self, name: &HostName, facts: &Facts) -> Vec<Finding> {
        self.with_role(name, facts, role::check).unwrap_or_default()
    }

    /// Returns every reason why a host with these facts cannot be what the inventory says.
    pub fn problems(&self, name: &HostName, facts: &Facts) -> Vec<Failure> {
        self.with_role(name, facts, |input| desired(input).err()).flatten().unwrap_or_default()
    }

    /// Returns what tries a host's ports, its k0s, and the package repositories of what it should have.
    pub fn probe(&self, name: &HostName, desired: &[Resource]) -> Probe {
        let repositories = role::repositories(desired);
        Probe { inventory: self.inventory.clone(), host: name.clone(), repositories }
    }

    /// Returns what a host with these facts should have, as far as that can be told.
    pub fn wanted(&self, name: &HostName, facts: &Facts) -> Vec<Resource> {
        self.with_role(name, facts, |input| role::resources(input).ok()).flatten().unwrap_or_default()
    }

    /// Tries ports and k0s of the hosts that have yet to join; what stops one makes it a host that cannot be had.
    pub async fn probe_new(&self, all: &mut [(TargetId, Result<Observed, Failure>)]) {
        let mut tasks = JoinSet::new();
        for (id, result) in all.iter() {
            let (Some(name), Ok(observed)) = (id.host(), result) else { continue };
            if role::is_new(&observed.facts)
                && let Some(host) = self.hosts.get(name).cloned()
            {
                let (id, probe) = (id.clone(), self.probe(name, &observed.desired));
                tasks.spawn(async move { (id, probe.run(&host).await) });
            }
        }
        while let Some(Ok((id, found))) = tasks.join_next().await {
            let failures = match found {
                Ok(found) => found.iter().filter(|f| f.stops()).map(Finding::failure).collect(),
                Err(failure) => vec![failure],
            };
            if !failures.is_empty()
                && let Some((_, result)) = all.iter_mut().find(|(other, _)| *other == id)
            {
                *result = Err(combine(failures));
            }
        }
    }

    /// What hosts can only tell together: neither of two that are one machine may go on.
    fn distinct(&self, all: &mut [(TargetId, Result<Observed, Failure>)]) {
        let mut stops: BTreeMap<HostName, Vec<Failure>> = BTreeMap::new();
        let known = all.iter().filter_map(|(id, r)| Some((id.host()?.clone(), &r.as_ref().ok()?.facts)));
        for (name, finding) in role::among(&self.inventory, &known.collect::<Vec<_>>()) {
            if finding.stops() {
                stops.entry(name).or_default().push(finding.failure());
            }
        }
        for (id, result) in all.iter_mut() {
            if let Some(failures) = id.host().and_then(|name| stops.remove(name)) {
                *result = Err(combine(failures));
            }
        }
    }

    /// Lets go of what can emit events, so that what shows them can end.
    pub fn close(&mut self) {
        self.hosts.clear();
        self.cluster = None;
    }

    /// Makes a plan of what was observed.
    pub fn plan(&self, observed: Vec<(TargetId, Result<Observed, Failure>)>) -> Plan {
        build(PlanInput {
            inventory: &self.inventory,
            lock_digest: self.lock.digest(),
            lab: self.lab.is_some(),
            observed,
            nodes: self.live.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            past: past(&journals(&self.inventory), self.lab.is_some()),
        })
    }
}

/// Returns the hosts that the cluster is to forget, of those selected.
fn retired(inventory: &Inventory, selected: impl Fn(&HostName) -> bool) -> Vec<Retired> {
    let gone = inventory.hosts.values().filter(|h| h.state == HostState::Retired && selected(&h.name));
    let member = |h: &Host| inventory.pool_of(h).role.is_controller().then(|| cluster_address(h));
    let drain = |h: &Host| Duration::from_secs(inventory.pool_of(h).disruption.drain_s.into());
    gone.map(|h| Retired { host: h.name.clone(), member: member(h), drain: drain(h) }).collect()
}

/// Returns the address that other hosts of the cluster know a host by.
fn cluster_address(host: &Host) -> String {
    host.cluster_address.map_or_else(|| host.address.clone(), |a| a.to_string())
}

/// What tries a host's ports and its k0s.
pub struct Probe {
    inventory: Arc<Inventory>,
    host: HostName,
    repositories: Vec<String>,
}

impl Probe {
    /// Asks the host.
    pub async fn run(&self, target: &HostTarget) -> Result<Vec<Finding>, Failure> {
        let Some(host) = self.inventory.hosts.get(&self.host) else { return Ok(Vec::new()) };
        let text = target.output(&role::program(&self.inventory, host, &self.repositories)).await?;
        Ok(role::findings(&self.inventory, host, &self.repositories, &text))
    }
}
