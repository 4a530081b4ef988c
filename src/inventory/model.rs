//! The inventory as other modules see it: merged, expanded, validated. Owns no parsing.

pub use super::tenant::*;
use crate::state::{HostName, PoolName};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// One cluster at one site.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct Inventory {
    /// `metadata.name`.
    pub name: String,
    /// The folder that relative paths start from: the inventory folder, or the file's.
    pub root: PathBuf,
    /// sha256 over the merged content, hex; changes with any change that matters.
    pub digest: String,
    /// SSH access to hosts.
    pub ssh: Ssh,
    /// Proxy, CA bundle, firewall.
    pub network: HostNetwork,
    /// Registry mirrors, by registry host.
    pub registries: BTreeMap<String, Registry>,
    /// Mirror URLs of package repositories, by repository host; what lies below them is as on that host.
    pub repositories: BTreeMap<String, String>,
    /// Operating system settings.
    pub os: Os,
    /// The cluster.
    pub cluster: Cluster,
    /// Pools by name.
    pub pools: BTreeMap<PoolName, Pool>,
    /// All hosts by name, whatever their state.
    pub hosts: BTreeMap<HostName, Host>,
    /// The router, if one is wanted.
    pub router: Option<Router>,
    /// Models by name.
    pub models: BTreeMap<String, Model>,
    /// Tenants by name.
    pub tenants: BTreeMap<String, Tenant>,
    /// Further objects, applied after all others; each has a namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_objects: Vec<serde_json::Value>,
    /// Where secrets come from, by name.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Files of roles that take the place of built-in ones, by their path below `roles/`.
    pub roles: BTreeMap<String, String>,
    /// What its files say and where, for comparing.
    #[serde(skip)]
    pub written: Written,
}

/// What the files of an inventory say, after merging, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Everything but hosts: values as JSON, by path (`pools.h100.disruption.maxUnavailable`).
    pub fields: BTreeMap<String, WrittenField>,
    /// Where each host stands: `hosts.csv:12`.
    pub hosts: BTreeMap<HostName, String>,
}

/// A value as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenField {
    /// The value; a text without quotes, a list as JSON.
    pub value: String,
    /// Where it stands: `inventory.yaml:12`.
    pub place: String,
}

/// SSH access to hosts, before a host's own settings.
#[derive(Clone, PartialEq, Serialize, Debug, Default)]
pub struct Ssh {
    /// Login name; `None` asks `ssh -G`, then the local user.
    pub user: Option<String>,
    /// Default SSH port.
    pub port: Option<u16>,
    /// `[user@]host[:port]`, from the laptop outwards.
    pub bastions: Vec<String>,
    /// Private keys, as given; relative to the inventory.
    pub identities: Vec<PathBuf>,
    /// Passphrase of encrypted private keys: a secret's name.
    pub passphrase: Option<String>,
    /// The login's own password, for servers that want one after the key: a secret's name.
    pub password: Option<String>,
    /// Password for sudo: a secret's name.
    pub sudo_password: Option<String>,
    /// The known_hosts file, resolved; the user's own are consulted too.
    pub known_hosts: PathBuf,
    /// Use keys of the agent.
    pub agent: bool,
    /// A folder with a socket for each host, in place of TCP: a lab's. No inventory sets it.
    #[serde(skip)]
    pub sockets: Option<PathBuf>,
}

/// SSH settings of a pool's hosts, where they are not those of the inventory.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct PoolSsh {
    /// Login name.
    pub user: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// `[user@]host[:port]`, from the laptop outwards; empty: none.
    pub bastions: Option<Vec<String>>,
    /// Private keys, besides those of the inventory.
    pub identities: Vec<PathBuf>,
}

/// Network settings of hosts.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct HostNetwork {
    /// HTTP(S) proxy URL.
    pub proxy: Option<String>,
    /// Hosts and networks that bypass it.
    pub no_proxy: Vec<String>,
    /// Additional certificates that hosts trust, PEM, one each.
    pub ca_bundle: Vec<String>,
}

/// A registry's mirror.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Registry {
    /// Mirror URL; without one the registry itself is asked.
    pub mirror: Option<String>,
    /// The name of the secret `user:password` for the mirror, or for the registry itself.
    pub credentials: Option<String>,
}

/// Operating system settings.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Os {
    /// NTP servers (empty: those of the distribution).
    pub ntp: Vec<String>,
    /// Set hostnames to host names.
    pub manage_hostname: bool,
    /// Extra sysctls, raise-only where numeric.
    pub sysctls: BTreeMap<String, String>,
    /// Hold the running kernel.
    pub hold_kernel: bool,
}

/// The cluster.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct Cluster {
    /// k0s version, such as `v1.35.7+k0s.0`.
    pub k0s_version: String,
    /// Merged into the k0s ClusterConfig.
    pub k0s_config: serde_json::Value,
    /// Further containerd drop-ins of workers: TOML by name.
    pub containerd: BTreeMap<String, String>,
    /// How nodes find the API.
    pub endpoint: Endpoint,
    /// Pod network; k0s gives each node a /24 of it.
    pub pod_cidr: IpNet,
    /// Service network.
    pub service_cidr: IpNet,
    /// How it is backed up.
    pub backup: BackupPolicy,
}

/// How a cluster is backed up.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct BackupPolicy {
    /// age recipients that can read the backups; without any they are not encrypted.
    pub recipients: Vec<String>,
    /// How many are kept; at least one.
    pub keep: u32,
    /// Older ones are removed, except the newest.
    pub keep_days: Option<u32>,
    /// A backup is made before k0s on a controller is changed.
    pub before_upgrade: bool,
}

/// How nodes find the API.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum Endpoint {
    /// k0s node-local load balancing (needs no address).
    NodeLocal,
    /// An external load balancer.
    External {
        /// Its address.
        address: String,
    },
    /// A virtual address that moves between controllers, for what is outside the cluster (k0s control plane load
    /// balancing, keepalived); nodes use their node-local load balancer as ever.
    Vip {
        /// With its prefix length, such as `10.20.0.10/24`.
        address: IpNet,
        /// The controllers' interface that carries it; the one of the default route unless given.
        interface: Option<String>,
    },
}

/// What a pool's hosts do in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub enum NodeRole {
    /// Control plane only.
    #[serde(rename = "controller")]
    Controller,
    /// Workloads only.
    #[serde(rename = "worker")]
    Worker,
    /// Both, without the control-plane taint.
    #[serde(rename = "controller+worker")]
    ControllerWorker,
    /// The one host of a cluster of one.
    #[serde(rename = "single")]
    Single,
}

impl NodeRole {
    /// Returns whether it runs a control plane.
    pub fn is_controller(self) -> bool {
        !matches!(self, NodeRole::Worker)
    }

    /// Returns whether it runs workloads, and so is a node of the cluster.
    pub fn is_worker(self) -> bool {
        !matches!(self, NodeRole::Controller)
    }
}

/// Hosts with identical configuration.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// What its hosts do.
    pub role: NodeRole,
    /// SSH settings of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<PoolSsh>,
    /// The accelerator that every host of it has.
    pub accelerator: Option<Accelerator>,
    /// How many EFA devices every host of it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efa: Option<u32>,
    /// How many InfiniBand or RoCE links have to be up on every host of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdma: Option<u32>,
    /// The kernel release that its hosts run, where one is asked for.
    pub kernel: Option<String>,
    /// The interface of etcd, kubelet and API, if not that of the default route.
    pub cluster_interface: Option<String>,
    /// Where models are stored on the host.
    pub models_path: String,
    /// The disk of `/var/lib/k0s`, if it is one of its own.
    pub data_disk: Option<Disk>,
    /// The disk of `models_path`, if it is one of its own.
    pub models_disk: Option<Disk>,
    /// Node labels.
    pub labels: BTreeMap<String, String>,
    /// Node taints, `key=value:Effect`.
    pub taints: Vec<String>,
    /// Disruption budget.
    pub disruption: Disruption,
}

impl Pool {
    /// Returns whether its hosts have links between them: EFA, InfiniBand or RoCE.
    pub fn is_linked(&self) -> bool {
        self.efa.is_some() || self.rdma.is_some()
    }
}

/// A disk that is given over to one path.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Disk {
    /// Its name below `/dev/disk/by-id`.
    pub disk: String,
    /// `ext4` or `xfs`.
    pub filesystem: String,
    /// The filesystem that is on it is used as it is.
    pub keep: bool,
    /// What may be on it and goes.
    pub erase: Option<String>,
}

/// An accelerator as declared.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum Accelerator {
    /// NVIDIA GPUs.
    Nvidia {
        /// Catalog slug, such as `h100-sxm5-80gb`.
        product: String,
        /// GPUs per host.
        count: u32,
        /// Full driver version, such as `580.178.04`.
        driver: String,
        /// Which kernel modules; `None` leaves it to the product and the branch.
        module: Option<ModuleFlavour>,
        /// How every GPU is split: MIG profiles, and how many of each; empty means not at all, `None` leaves it as it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        mig: Option<BTreeMap<String, u32>>,
        /// The tools of the standard level are installed.
        diagnostics: bool,
    },
    /// AWS Neuron devices.
    Neuron {
        /// Catalog slug, such as `trainium2`.
        product: String,
        /// Devices per host.
        count: u32,
        /// SDK release, such as `2.32.0`.
        sdk: String,
        /// Logical core size; `None` leaves it to the product.
        lnc: Option<u32>,
        /// The tools of the standard level are installed.
        diagnostics: bool,
    },
}

/// The two flavours of NVIDIA's kernel modules.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleFlavour {
    /// Open GPU kernel modules.
    Open,
    /// Proprietary modules.
    Closed,
}

impl Accelerator {
    /// Returns the catalog slug.
    pub fn product(&self) -> &str {
        match self {
            Accelerator::Nvidia { product, .. } | Accelerator::Neuron { product, .. } => product,
        }
    }

    /// Returns how many a host has.
    pub fn count(&self) -> u32 {
        match self {
            Accelerator::Nvidia { count, .. } | Accelerator::Neuron { count, .. } => *count,
        }
    }

    /// Returns the extended resource that the device plugin offers: `nvidia.com/gpu` or `aws.amazon.com/neuron`.
    pub fn extended_resource(&self) -> &'static str {
        match self {
            Accelerator::Nvidia { .. } => "nvidia.com/gpu",
            Accelerator::Neuron { .. } => "aws.amazon.com/neuron",
        }
    }

    /// Returns what a node with them offers, by extended resource: whole devices, or instances of each MIG profile.
    pub fn offers(&self) -> BTreeMap<String, u64> {
        let count = u64::from(self.count());
        match self.mig() {
            Some(layout) => {
                let each = |(profile, n): (&String, &u32)| (mig_resource(profile), count * u64::from(*n));
                layout.iter().filter(|(_, n)| **n > 0).map(each).collect()
            }
            None => BTreeMap::from([(self.extended_resource().to_owned(), count)]),
        }
    }

    /// Returns how its GPUs are split, if they are.
    pub fn mig(&self) -> Option<&BTreeMap<String, u32>> {
        match self {
            Accelerator::Nvidia { mig, .. } => mig.as_ref().filter(|m| m.values().any(|n| *n > 0)),
            Accelerator::Neuron { .. } => None,
        }
    }
}

/// Returns the extended resource of a MIG profile, as the device plugin's strategy `mixed` calls it.
fn mig_resource(profile: &str) -> String {
    format!("nvidia.com/mig-{}", profile.replace('+', "."))
}

/// How much of a pool may be down or fail.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub struct Disruption {
    /// Hosts down at once.
    pub max_unavailable: Share,
    /// Hosts that may fail before the pool stops.
    pub max_failed: Share,
    /// Hosts of the first wave, which has to succeed before others leave service; 0 is no such wave.
    pub canary: u32,
    /// How long pods may take to leave a node, in seconds.
    pub drain_s: u32,
}

/// The default drain timeout of a pool: an engine finishes its requests, and a disruption
/// budget waits until its replacement elsewhere has loaded.
pub const DRAIN_SECONDS: u32 = 900;

/// A number of hosts, or a part of a pool in percent.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum Share {
    /// So many hosts.
    Hosts(u32),
    /// So many percent of the pool, rounded down.
    Percent(u32),
}

impl Share {
    /// Returns the number of hosts in a pool of `size`; a percentage rounds down, and is at least 1 unless it is 0.
    pub fn of(self, size: usize) -> usize {
        match self {
            Share::Hosts(n) => n as usize,
            Share::Percent(0) => 0,
            Share::Percent(p) => (size * p as usize / 100).max(1),
        }
    }
}

/// One machine.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Host {
    /// Name, hostname and node name.
    pub name: HostName,
    /// Its pool.
    pub pool: PoolName,
    /// Where SSH reaches it.
    pub address: String,
    /// Its SSH port, if not the default.
    pub port: Option<u16>,
    /// Its login name, if not the default.
    pub user: Option<String>,
    /// The address that etcd, kubelet and API use; `address` when not given and an IP.
    pub cluster_address: Option<IpAddr>,
    /// `clusterAddress` was set: the kubelet must use it.
    pub node_ip: bool,
    /// Whether it takes part.
    pub state: HostState,
    /// Why it is not active.
    pub reason: Option<String>,
    /// Until when, as written.
    pub until: Option<String>,
    /// Rack, as written.
    pub rack: Option<String>,
    /// BMC address, shown in messages.
    pub bmc: Option<String>,
    /// Serial number, as written.
    pub serial: Option<String>,
    /// Additional node labels.
    pub labels: BTreeMap<String, String>,
}

/// Whether a host takes part.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// It does.
    Active,
    /// Skipped and cordoned for now; no failure.
    Maintenance,
    /// Gone for good; its node is removed.
    Retired,
}

/// The Kthena router.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Router {
    /// Kthena version, such as `v1.0.0`.
    pub version: String,
    /// Gateway API support.
    pub gateway_api: bool,
    /// Gateway API Inference Extension support.
    pub inference_extension: bool,
    /// The proxy in front of it; `None` leaves tenants with the router's own, incomplete separation.
    pub edge: Option<Edge>,
    /// First node port; tenants' gateways get the following ones in order of their names. 30080 unless given.
    pub node_port_base: u16,
    /// Pods of the router; at least one.
    pub replicas: u32,
    /// A pod with so many requests waiting gets no more; where every pod of a model has, clients get an error.
    pub max_waiting_requests: u32,
    /// What decides between the pods of a model.
    pub scheduling: Scheduling,
}

/// Weights of what decides between the pods of a model, each 0 to 100; 0 turns one off.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Pods that have answered a prompt with the same beginning.
    pub prefix_cache: u32,
    /// Pods with few running and waiting requests.
    pub least_request: u32,
    /// Pods that answer fast.
    pub least_latency: u32,
    /// Pods with room in their KV cache.
    pub gpu_usage: u32,
}

/// The proxy that clients reach: Envoy on every node of its pools.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Edge {
    /// Its image, if not the catalog's.
    pub image: Option<String>,
    /// The pools whose nodes run it; none for all with workers.
    pub pools: Vec<PoolName>,
}

/// A served model.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct Model {
    /// Its name, DNS-1123.
    pub name: String,
    /// Where weights come from.
    pub source: ModelSource,
    /// What serves it.
    pub engine: Engine,
    /// The pool it runs on.
    pub pool: PoolName,
    /// Accelerators a replica takes; 0 for engines on CPU.
    pub accelerators_per_replica: u32,
    /// Replicas.
    pub replicas: u32,
}

/// Where weights come from.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum ModelSource {
    /// A Hugging Face repository.
    HuggingFace {
        /// `owner/name`.
        repo: String,
        /// A commit.
        revision: String,
        /// The name of the secret with the access token.
        token: Option<String>,
    },
    /// A path on the host.
    Path {
        /// Absolute.
        path: String,
    },
}

/// What serves a model.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Engine {
    /// Which engine.
    pub kind: EngineKind,
    /// Image with tag or digest.
    pub image: String,
    /// Further arguments of the engine.
    pub args: Vec<String>,
    /// Further environment variables; they replace ours.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What a replica requests of its host.
    #[serde(skip_serializing_if = "EngineResources::is_empty")]
    pub resources: EngineResources,
}

impl Engine {
    /// Returns whether an argument is given, as `--name value` or `--name=value`.
    pub fn has_arg(&self, name: &str) -> bool {
        self.args
            .iter()
            .any(|arg| arg.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
    }

    /// Returns the argument that makes it an engine without text generation: for embeddings, scores or transcripts.
    pub fn without_generation(&self) -> Option<String> {
        let value = |name: &str| {
            let at = self.args.iter().rposition(|arg| {
                arg.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            })?;
            let joined = self.args[at].split_once('=').map(|(_, value)| value);
            joined.or_else(|| self.args.get(at + 1).map(String::as_str))
        };
        let generates: [(&str, &[&str]); 3] = [
            ("--task", &["auto", "generate"]),
            ("--runner", &["auto", "generate"]),
            ("--convert", &["auto", "none"]),
        ];
        match self.kind {
            EngineKind::Vllm => generates.into_iter().find_map(|(name, fine)| {
                value(name).filter(|value| !fine.contains(value)).map(|value| format!("{name} {value}"))
            }),
            EngineKind::Sglang => {
                let name = "--is-embedding";
                self.has_arg(name).then(|| name.to_owned())
            }
        }
    }
}

/// What a replica requests of its host, as quantities of Kubernetes; the catalog's where it is not given.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct EngineResources {
    /// CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// The most that /dev/shm takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm: Option<String>,
}

impl EngineResources {
    /// Returns whether nothing is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The engines.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub enum EngineKind {
    /// vLLM; on NVIDIA or Neuron, by the pool's accelerator.
    #[serde(rename = "vllm")]
    Vllm,
    /// SGLang.
    #[serde(rename = "sglang")]
    Sglang,
}

/// The default NodePort range of Kubernetes.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Where a secret comes from. Only the reference is ever stored.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum SecretSource {
    /// An environment variable of `provision` itself.
    Env(String),
    /// A file, relative to the inventory; trailing newline dropped.
    File(PathBuf),
    /// A file encrypted with age, and the identity file that opens it.
    Age {
        /// The encrypted file.
        file: PathBuf,
        /// The identity; `None` reads `PROVISION_AGE_IDENTITY`.
        identity: Option<PathBuf>,
    },
    /// A key in a SOPS file, through the `sops` binary.
    Sops {
        /// The file.
        file: PathBuf,
        /// The key, as a dotted path.
        key: String,
    },
    /// A command's standard output.
    Exec(Vec<String>),
}

impl Inventory {
    /// Returns the pool of a host.
    pub fn pool_of(&self, host: &Host) -> &Pool {
        &self.pools[&host.pool]
    }

    /// Returns the hosts that take part, by name.
    pub fn active(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().filter(|h| h.state == HostState::Active)
    }

    /// Returns whether the nodes of a pool answer at the tenants' node ports: those that run the proxy, or all that run pods.
    pub fn has_gateways(&self, pool: &PoolName) -> bool {
        let edge = self.router.as_ref().and_then(|router| router.edge.as_ref());
        let runs_pods = self.pools.get(pool).is_some_and(|pool| pool.role.is_worker());
        runs_pods && edge.is_none_or(|edge| edge.pools.is_empty() || edge.pools.contains(pool))
    }

    /// Returns the active controllers in the order in which they join: by name.
    pub fn controllers(&self) -> impl Iterator<Item = &Host> {
        self.active().filter(|h| self.pool_of(h).role.is_controller())
    }

    /// Returns the active hosts of a pool, by name.
    pub fn hosts_of<'a>(&'a self, pool: &'a PoolName) -> impl Iterator<Item = &'a Host> + 'a {
        self.active().filter(move |h| &h.pool == pool)
    }
}
