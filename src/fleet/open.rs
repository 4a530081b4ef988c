//! Opens an inventory: hosts over SSH, the cluster, secrets, the lock file, or the lab in place of all these. Contacts no host
//! yet, but starts the lab if requested.

use super::actor::{RunAbout, login, machine};
use super::api_keys::Signers;
use super::archive::Restore;
use super::endpoint;
use super::error::{Error, Result, coded};
use super::gateway_certificates;
use super::lab::Running;
use super::load::{Loaded, Source};
use super::noticed::{Noticed, Warning};
use super::reach::OverSsh;
use super::state_dir::StateDir;
use crate::artifact::{BundleMirror, Lock, Locked, fetch};
use crate::catalog::Catalog;
use crate::event::{Event, Events};
use crate::executor::{DesiredFn, HostSetup, HostTarget, Leaving, STATE_DIR, Sudo};
use crate::inventory::{self, Host, HostState, Inventory, LimitError, Secrets, Snapshot};
use crate::plan::{Policies, Sources};
use crate::reconciler::{Access, ClusterSetup, ClusterTarget, Holder, Retired, nodes};
use crate::role::{RoleInput, desired, leaving, restoring};
use crate::run::StepLog;
use crate::serving::{self, ServingInput};
use crate::ssh::{Dial, Endpoint, Pool, PoolOptions};
use crate::state::{HostName, Nodes, Resource, RunId, SecretText, Spec, Stage, Target, TargetId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a device plugin of a lab may be ready before what it reports is what there is; pods without room are given up
/// after four times as long. Its kubelets report at once.
const LAB_PATIENCE: Duration = Duration::from_secs(8);

/// So many seconds k0s has to stay up before its node is back: systemd restarts it every 10 s
/// (<https://github.com/k0sproject/k0s>, `RestartSec` of its units), a kubelet is up sooner.
const STEADY_S: u32 = 15;
/// The same on simulated hosts.
const LAB_STEADY_S: u32 = 1;

/// What of an inventory takes part, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// Only these hosts: names, pools, patterns, ranges, `!` to leave out.
    pub limit: Option<String>,
    /// Simulated hosts on this machine instead of the inventory's.
    pub lab: bool,
    /// Hosts that leave whose machines are off for good: their pods are treated as gone.
    pub lost: BTreeSet<HostName>,
    /// The hosts are to be as before their first apply.
    pub reset: Option<Reset>,
    /// The first controller is to begin with a backup.
    pub restore: Option<Restore>,
}

/// How hosts are reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reset {
    /// File systems that we made are wiped too.
    pub wipe_data: bool,
}

/// What a fleet is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To be planned and changed: all that is wanted is made, which needs the lock file and the secrets.
    Change,
    /// To be looked at: works without a lock file, without secrets, and with whatever is up.
    Look,
}

/// One opened inventory. Several can be open in one process; dropping one stops the lab that it started.
pub struct Fleet {
    /// Where the inventory was read from.
    pub source: Source,
    /// The inventory; of a lab, with the lab's addresses.
    pub inventory: Arc<Inventory>,
    /// The catalog that it is judged by.
    pub catalog: Arc<Catalog>,
    /// Names the run that this becomes.
    pub run: RunId,
    /// Who that run is, for the locks of this machine and of the cluster.
    pub(super) holder: Holder,
    /// What could not be had and is not needed: secrets that only an agent or `NOPASSWD` makes unnecessary.
    pub warnings: Vec<String>,
    /// How connections are made.
    pub ssh: PoolOptions,
    /// The selected hosts' destinations.
    pub endpoints: Vec<Endpoint>,
    /// The way to the cluster.
    pub access: Arc<dyn Access>,
    pub(super) lock: Arc<Lock>,
    /// The bundle from which everything is fetched, if there is one.
    pub(super) mirror: Option<Arc<BundleMirror>>,
    pub(super) hosts: BTreeMap<HostName, Arc<HostTarget>>,
    /// Retired hosts whose k0s is to be stopped, if they can be reached.
    pub(super) retired: BTreeMap<HostName, Arc<HostTarget>>,
    pub(super) lab: Option<Running>,
    /// The cluster, unless only some hosts are worked on.
    pub(super) cluster: Option<Arc<ClusterTarget>>,
    /// What resolves secrets: of simulated hosts, to stand-ins.
    pub(super) resolver: Secrets,
    /// Secrets that files of roles hold, by name.
    pub(super) secrets: Arc<BTreeMap<String, SecretText>>,
    /// The cluster exists already: a first controller that is new joins it.
    pub(super) joins: Arc<AtomicBool>,
    /// The cluster's nodes as of the last observation; `None` if they are unknown.
    pub(super) live: Mutex<Option<Nodes>>,
    /// The way to any controller.
    pub(super) controller: Arc<dyn Dial>,
    /// What the files hold that the inventory was loaded from.
    pub(super) snapshot: Snapshot,
    /// What of it takes part.
    pub(super) selection: Selection,
    /// The policies beside the inventory.
    pub policies: Policies,
    /// What the run that follows is about.
    pub(super) about: RunAbout,
    /// The steps of the run, as they happen.
    pub(super) steps: Arc<StepLog>,
    /// What the saved plan was made from that is carried out.
    pub(super) made_from: Option<Sources>,
    /// Warnings of the opening, each with the host that it is about, if it is about one.
    pub(super) noticed: Vec<Warning>,
}

/// Returns a fresh run id: five characters without those that look alike.
fn run_id() -> RunId {
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    RunId::new((0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect::<String>())
}

/// Returns who works on hosts, for their locks and the cluster's leases.
fn owner() -> String {
    format!("{}@{}", login(), machine())
}

/// Where downloads come from.
struct Downloads<'a> {
    state: &'a StateDir,
    mirror: Option<&'a BundleMirror>,
}

impl Downloads<'_> {
    /// Returns the text of an artifact.
    async fn text(&self, name: &str, locked: &Locked, events: &Events) -> Result<String> {
        let cache = self.state.artifacts()?;
        let mut text = String::new();
        let read = match self.mirror {
            Some(mirror) => mirror.file(name, locked, &cache, events).await?.read_to_string(&mut text),
            None => {
                let path = fetch(name, locked, &cache, events).await?;
                std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
            }
        };
        let what = || format!("cannot read {name}");
        read.map(|_| text).map_err(|source| Error::Io { what: what(), source })
    }
}

/// Returns the definitions of the router's objects, as its releases have them.
async fn crds(
    inventory: &Inventory,
    lock: &Lock,
    sources: &Downloads<'_>,
    events: &Events,
) -> Result<Vec<serde_json::Value>> {
    let Some(router) = &inventory.router else { return Ok(Vec::new()) };
    let mut names = vec!["gateway-api-crds", "kthena-crds"];
    if router.inference_extension {
        names.push("inference-extension-crds");
    }
    let mut crds = Vec::new();
    for name in names {
        let locked = lock.get(name).ok_or_else(|| {
            let message = format!("{name} is missing from provision.lock");
            coded("E-LOCK-FILE", message, "Run `provision lock`, then commit the file")
        })?;
        let text = sources.text(name, locked, events).await?;
        let documents: Vec<Option<serde_json::Value>> = serde_saphyr::from_multiple(&text)
            .map_err(|e| Error::Malformed { what: format!("{name} is not YAML"), source: Box::new(e) })?;
        // Releases bundle more than definitions; the rest is our own templates' business.
        crds.extend(documents.into_iter().flatten().filter(|d| d["kind"] == "CustomResourceDefinition"));
    }
    Ok(crds)
}

/// Returns what is wanted in the cluster: objects up to the components, then nodes, then what needs nodes, then the
/// questions that prove it.
async fn cluster_desired(
    inventory: &Inventory,
    catalog: &Catalog,
    lock: &Lock,
    sources: &Downloads<'_>,
    secrets: &Secrets,
    events: &Events,
) -> Result<Vec<Resource>> {
    let crds = crds(inventory, lock, sources, events).await?;
    let mut tokens = BTreeMap::new();
    for model in inventory.models.values() {
        if let inventory::ModelSource::HuggingFace { token: Some(name), .. } = &model.source {
            // A plan can be made without the secret; what needs it is then shown, and fails at apply.
            match secrets.resolve(name).await {
                Ok(token) => {
                    tokens.insert(name.clone(), token);
                }
                Err(error) => events.emit(Event::Warning { target: None, message: error.to_string() }),
            }
        }
    }
    for tls in inventory.tenants.values().filter_map(|tenant| tenant.tls.as_ref()) {
        match secrets.resolve(&tls.key).await {
            Ok(key) => {
                tokens.insert(tls.key.clone(), key);
            }
            Err(error) => events.emit(Event::Warning { target: None, message: error.to_string() }),
        }
    }
    let objects = serving::desired(&ServingInput { inventory, catalog, crds, tokens })?;
    let after_nodes = |r: &Resource| matches!(&r.spec, Spec::Object(o) if o.stage >= Stage::Engine);
    let (after, mut all): (Vec<_>, Vec<_>) = objects.into_iter().partition(after_nodes);
    all.extend(nodes(inventory));
    all.extend(after);
    all.extend(serving::chats(inventory));
    Ok(all)
}

/// The secrets that connections and hosts need.
struct Resolved {
    passphrase: Option<SecretText>,
    password: Option<SecretText>,
    sudo_password: Option<SecretText>,
    /// Of registries, by name.
    registries: BTreeMap<String, SecretText>,
    warnings: Vec<String>,
}

async fn resolve(inventory: &Inventory, resolver: &Secrets, purpose: Purpose) -> Result<Resolved> {
    let mut warnings = Vec::new();
    let ssh = &inventory.ssh;
    let mut login = [None, None, None];
    for (slot, name) in login.iter_mut().zip([&ssh.passphrase, &ssh.password, &ssh.sudo_password]) {
        let Some(name) = name else { continue };
        match resolver.resolve(name).await {
            Ok(secret) => *slot = Some(secret),
            // The SSH agent may have the key, and sudo may want no password.
            Err(error) if purpose == Purpose::Look => warnings.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let [passphrase, password, sudo_password] = login;
    let mut registries = BTreeMap::new();
    for name in inventory.registries.values().filter_map(|r| r.credentials.clone()) {
        let text = match purpose {
            Purpose::Change => resolver.resolve(&name).await?,
            // What is only looked at is never written to a host.
            Purpose::Look => SecretText::new("not:read"),
        };
        registries.insert(name, text);
    }
    Ok(Resolved { passphrase, password, sudo_password, registries, warnings })
}

impl Fleet {
    /// Opens a loaded inventory. Contacts no host, but starts the lab if requested and not running.
    pub async fn open(
        mut loaded: Loaded,
        selection: &Selection,
        purpose: Purpose,
        events: &Events,
    ) -> Result<Self> {
        let snapshot = std::mem::take(&mut loaded.snapshot);
        let steps = Arc::<StepLog>::default();
        let log = steps.clone();
        // What is told while the inventory is opened is told by its plans too: most commands show no events.
        let (told, notice) = Noticed::new();
        let events = &events.tapped(move |event| {
            log.take(event);
            notice.take(event);
        });
        let lab = super::lab::attach_to(&mut loaded, selection.lab, events).await?;
        let lock_path = lab.as_ref().map_or_else(|| loaded.lock_path(), |lab| lab.lock.clone());
        let lock = match purpose {
            Purpose::Change => {
                loaded.read_lock(&lock_path, lab.as_ref().map(|_| loaded.source.path.as_path()))?
            }
            Purpose::Look => Lock::load(&lock_path).unwrap_or_else(|_| Lock::unresolved(&loaded.wanted())),
        };
        let mirror = match (&loaded.source.mirror, purpose) {
            (Some(place), Purpose::Change) => Some(Arc::new(loaded.open_mirror(place, &lock).await?)),
            _ => None,
        };
        let Loaded { source, mut inventory, catalog, policies, .. } = loaded;
        let selected = inventory::select(&inventory, selection.limit.as_deref())?;
        for name in &selection.lost {
            let resets = selection.reset.is_some();
            let why = match inventory.hosts.get(name).map(|h| h.state) {
                Some(_) if resets && selected.contains(name) => continue,
                Some(_) if resets => "the host is not being reset",
                Some(HostState::Retired) => continue,
                Some(_) => "the host is not retired",
                None => "no such host in this inventory",
            };
            let hint = match resets {
                true => "Specify hosts that are being reset, comma-separated",
                false => "Specify hosts with `state: retired` in their pool, comma-separated",
            };
            return Err(coded("E-USAGE", format!("--lost {name}: {why}"), hint));
        }
        let resolver = match &lab {
            Some(_) => Secrets::of_lab(&inventory),
            None => Secrets::of_site(&inventory),
        };
        if lab.is_some() && purpose == Purpose::Change && !inventory.secrets.is_empty() {
            events.note("LAB: secrets are placeholders; none is read from its source");
        }
        let resolved = resolve(&inventory, &resolver, purpose).await?;
        let (signers, warnings) = Signers::of(&inventory, &resolver, lab.is_some()).await;
        for message in warnings {
            events.emit(Event::Warning { target: None, message });
        }
        let mut certificates = BTreeMap::new();
        if lab.is_some() {
            // Its gateways speak plain HTTP.
            signers.trusted_in(&mut inventory);
        } else {
            let presented =
                |t: &inventory::Tenant| Some((t.name.clone(), t.tls.as_ref()?.chain.first()?.clone()));
            certificates.extend(inventory.tenants.values().filter_map(presented));
            if purpose == Purpose::Change {
                gateway_certificates::check(&inventory, &resolver).await?;
            }
        }
        let run = run_id();
        let opening = Opening {
            sudo_password: resolved.sudo_password,
            secrets: Arc::new(resolved.registries),
            ssh: endpoint::pool_options(&inventory, lab.is_some(), resolved.passphrase, resolved.password),
            holder: Holder::new(owner(), run.as_str()),
            run,
            inventory: Arc::new(inventory),
            catalog: Arc::new(catalog),
            lock: Arc::new(lock),
            mirror,
            selected,
            lost: selection.lost.clone(),
            reset: selection.reset,
            restore: selection.restore.clone(),
            purpose,
            lab: lab.is_some(),
            state: source.state.clone(),
            joins: Arc::default(),
            events,
        };
        let mut connected = opening.connect().await;
        let controller = connected.reach.any_controller();
        let access: Arc<dyn Access> = Arc::new(connected.reach.with_gateways(signers, certificates));
        let works = |name: &str| opening.selected.contains(name) && !connected.retired.contains_key(name);
        connected.endpoints.retain(|e| works(&e.name));
        let cluster = opening.cluster(purpose, &access, &resolver, lab.is_some()).await?;
        let fleet = Self {
            source,
            inventory: opening.inventory,
            catalog: opening.catalog,
            run: opening.run,
            holder: opening.holder,
            warnings: resolved.warnings,
            ssh: opening.ssh,
            endpoints: connected.endpoints,
            access,
            lock: opening.lock,
            mirror: opening.mirror,
            hosts: connected.hosts,
            retired: connected.retired,
            lab,
            cluster,
            resolver,
            secrets: opening.secrets,
            joins: opening.joins,
            live: Mutex::default(),
            controller,
            snapshot,
            selection: selection.clone(),
            policies,
            about: RunAbout::default(),
            steps,
            made_from: None,
            noticed: told.end(),
        };
        // A plan may be about nothing but nodes of hosts that are not active.
        if purpose == Purpose::Look && selection.reset.is_none() {
            fleet.some_hosts()?;
        }
        Ok(fleet)
    }

    /// Lets go of everything, and ends the lab that was brought up for this fleet. Dropping a fleet does the same, and says
    /// nothing where that fails.
    pub fn close(self) -> Result<()> {
        self.lab.map_or(Ok(()), Running::end)
    }

    /// Refuses where no active host is selected.
    pub(super) fn some_hosts(&self) -> Result<()> {
        if self.hosts.is_empty() { Err(LimitError::Empty.into()) } else { Ok(()) }
    }

    /// Returns a host that takes part.
    pub fn host(&self, name: &str) -> Result<&Arc<HostTarget>> {
        self.hosts.get(name).ok_or_else(|| {
            let message = format!("{name} is not an active host");
            coded("E-USAGE", message, "Name an active host; list them with `provision facts`")
        })
    }

    /// Returns the hosts that take part.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    /// Returns whether the hosts are simulated.
    pub fn is_lab(&self) -> bool {
        self.lab.is_some()
    }

    /// Returns whether the hosts are those of a lab that was brought up for this fleet alone, and ends with it.
    pub fn has_own_lab(&self) -> bool {
        self.lab.as_ref().is_some_and(Running::is_own)
    }

    /// Returns all targets.
    pub(super) fn targets(&self) -> BTreeMap<TargetId, Arc<dyn Target>> {
        self.hosts
            .iter()
            .chain(&self.retired)
            .map(|(name, host)| (TargetId::Host(name.clone()), host.clone() as Arc<dyn Target>))
            .chain(self.cluster.iter().map(|c| (TargetId::Cluster, c.clone() as Arc<dyn Target>)))
            .collect()
    }
}

/// What targets are made of.
struct Opening<'a> {
    inventory: Arc<Inventory>,
    catalog: Arc<Catalog>,
    lock: Arc<Lock>,
    mirror: Option<Arc<BundleMirror>>,
    secrets: Arc<BTreeMap<String, SecretText>>,
    sudo_password: Option<SecretText>,
    ssh: PoolOptions,
    run: RunId,
    holder: Holder,
    selected: BTreeSet<HostName>,
    lost: BTreeSet<HostName>,
    reset: Option<Reset>,
    restore: Option<Restore>,
    purpose: Purpose,
    lab: bool,
    state: StateDir,
    joins: Arc<AtomicBool>,
    events: &'a Events,
}

/// Hosts as targets, and the ways to them.
struct Connected {
    endpoints: Vec<Endpoint>,
    hosts: BTreeMap<HostName, Arc<HostTarget>>,
    retired: BTreeMap<HostName, Arc<HostTarget>>,
    reach: OverSsh,
}

impl Opening<'_> {
    /// Returns whether a host is to be reset.
    fn resets(&self, host: &HostName) -> bool {
        self.reset.is_some() && self.selected.contains(host)
    }

    /// Returns whether a retired host's k0s is to be stopped.
    fn stops(&self, host: &HostName) -> bool {
        self.purpose == Purpose::Change && self.selected.contains(host) && !self.lost.contains(host)
    }

    /// Makes a target of every selected host, and a way to every controller that stays.
    async fn connect(&self) -> Connected {
        let inventory = &self.inventory;
        // Controllers are needed for nodes, tokens and etcd even if only other hosts are selected.
        let controls = |h: &Host| inventory.pool_of(h).role.is_controller();
        let taking_part = inventory.hosts.values().filter(|h| match self.resets(&h.name) {
            true => !self.lost.contains(&h.name),
            false if h.state == HostState::Retired => self.stops(&h.name),
            false => h.state == HostState::Active && (self.selected.contains(&h.name) || controls(h)),
        });
        let endpoints = taking_part.map(|host| endpoint::endpoint(inventory, host, self.lab, self.events));
        let endpoints: Vec<Endpoint> = futures::future::join_all(endpoints).await;
        let pool = Pool::new(self.ssh.clone());
        for line in pool.bad_known_hosts_lines() {
            self.events.emit(Event::Warning { target: None, message: line.clone() });
        }
        let (mut hosts, mut retired) = (BTreeMap::new(), BTreeMap::new());
        let (mut controllers, mut workers, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        for at in &endpoints {
            let name = HostName::new(at.name.clone());
            let Some(host) = inventory.hosts.get(&name) else { continue };
            let dial: Arc<dyn Dial> = pool.host(at.clone());
            let role = inventory.pool_of(host).role;
            let target = HostTarget::new(self.setup(host, at, dial.clone())).offline(self.mirror.is_some());
            if let Some(Reset { wipe_data }) = self.reset.filter(|_| self.resets(&name)) {
                let target = Arc::new(target.leaving(Leaving::Reset { wipe_data }));
                if role.is_controller() {
                    leaving.push((target.clone(), cluster_address(host)));
                }
                hosts.insert(name, target);
                continue;
            }
            if host.state == HostState::Retired {
                retired.insert(name, Arc::new(target.leaving(Leaving::Kept)));
                continue;
            }
            let target = Arc::new(target);
            if role.is_controller() {
                controllers.push(((target.clone(), cluster_address(host)), dial.clone()));
            }
            if inventory.has_gateways(&host.pool) {
                workers.push((name.clone(), dial));
            }
            if self.selected.contains(&name) {
                hosts.insert(name, target);
            }
        }
        Connected { endpoints, hosts, retired, reach: OverSsh::new(controllers, workers).also_asks(leaving) }
    }

    fn setup(&self, host: &Host, at: &Endpoint, dial: Arc<dyn Dial>) -> HostSetup {
        let wanted: DesiredFn = if self.resets(&host.name) {
            Arc::new(|facts| Ok(leaving::reset(facts)))
        } else if host.state == HostState::Retired {
            Arc::new(|facts| Ok(leaving::stopped(facts)))
        } else {
            let (inventory, catalog, lock) =
                (self.inventory.clone(), self.catalog.clone(), self.lock.clone());
            let (host, secrets, joins) = (host.clone(), self.secrets.clone(), self.joins.clone());
            let first = inventory.controllers().next().is_some_and(|first| first.name == host.name);
            let restore = self.restore.as_ref().filter(|_| first).map(|r| (r.sha256.clone(), r.name()));
            Arc::new(move |facts| {
                let mut resources = desired(&RoleInput {
                    inventory: &inventory,
                    catalog: &catalog,
                    lock: &lock,
                    host: &host,
                    facts,
                    secrets: &secrets,
                    joins: joins.load(Ordering::Relaxed),
                })?;
                if let Some((sha256, name)) = &restore {
                    restoring(&mut resources, sha256, name);
                }
                Ok(resources)
            })
        };
        let accelerator = self.inventory.pool_of(host).accelerator.as_ref();
        let product = accelerator.and_then(|a| self.catalog.product(a.product()));
        HostSetup {
            host: host.name.clone(),
            dial,
            sudo: if at.user == "root" { Sudo::None } else { Sudo::Required(self.sudo_password.clone()) },
            desired: wanted,
            run: self.run.clone(),
            owner: self.holder.owner.clone(),
            state_dir: STATE_DIR.to_owned(),
            steady_s: if self.lab { LAB_STEADY_S } else { STEADY_S },
            reboot_deadline: Duration::from_secs(product.map_or(600, |p| p.reboot_deadline_s)),
            bmc: host.bmc.clone(),
            redact: Vec::new(),
            events: self.events.clone(),
        }
    }

    /// Returns the cluster as a target; `None` where the inventory has no controller.
    async fn cluster(
        &self,
        purpose: Purpose,
        access: &Arc<dyn Access>,
        resolver: &Secrets,
        lab: bool,
    ) -> Result<Option<Arc<ClusterTarget>>> {
        let (inventory, selected) = (&self.inventory, &self.selected);
        // Of a cluster whose controllers are all reset nothing is left.
        let Some(first) = inventory.controllers().find(|h| !self.resets(&h.name)) else { return Ok(None) };
        // Of some hosts only, their nodes are wanted and nothing else of the cluster.
        let whole = self.reset.is_none() && inventory.active().all(|h| selected.contains(&h.name));
        let desired = if purpose == Purpose::Look || self.reset.is_some() {
            Vec::new()
        } else if whole {
            let sources = Downloads { state: &self.state, mirror: self.mirror.as_deref() };
            cluster_desired(inventory, &self.catalog, &self.lock, &sources, resolver, self.events).await?
        } else {
            let wanted =
                |r: &Resource| matches!(&r.spec, Spec::Node(n) if selected.contains(n.name.as_str()));
            nodes(inventory).into_iter().filter(wanted).collect()
        };
        let target = ClusterTarget::new(ClusterSetup {
            desired,
            access: access.clone(),
            address: cluster_address(first),
            name: inventory.name.clone(),
            retired: self.leaving(whole),
            events: self.events.clone(),
        });
        let target = target.held_by(self.holder.clone());
        let target = if lab { target.with_patience(LAB_PATIENCE) } else { target };
        Ok(Some(Arc::new(if whole { target } else { target.partial() })))
    }
}

impl Opening<'_> {
    /// Returns the hosts that the cluster is to forget, of those selected.
    fn leaving(&self, whole: bool) -> Vec<Retired> {
        let inventory = &self.inventory;
        let gone = |h: &&Host| match self.reset {
            Some(_) => self.selected.contains(&h.name),
            None => h.state == HostState::Retired && (whole || self.selected.contains(&h.name)),
        };
        let retired = |h: &Host| Retired {
            host: h.name.clone(),
            // A host that is reset may have been a controller until the inventory was changed.
            member: (self.reset.is_some() || inventory.pool_of(h).role.is_controller())
                .then(|| cluster_address(h)),
            drain: Duration::from_secs(inventory.pool_of(h).disruption.drain_s.into()),
            lost: self.lost.contains(&h.name),
        };
        inventory.hosts.values().filter(gone).map(retired).collect()
    }
}

/// Returns the address of a host for other hosts of the cluster.
pub(super) fn cluster_address(host: &Host) -> String {
    host.cluster_address.map_or_else(|| host.address.clone(), |a| a.to_string())
}
