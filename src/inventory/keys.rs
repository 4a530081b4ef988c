//! The whole schema as one table: it drives unknown keys, types, what is not built yet, and `provision schema`.

use serde_json::{Value, json};

/// The type of a value.
#[derive(Clone, Copy)]
pub enum Type {
    /// Text, or a number taken as text.
    Text,
    /// A whole number.
    Int,
    /// true or false.
    Bool,
    /// A number of hosts, or a percentage.
    Share,
    /// A list of texts.
    Texts,
    /// A mapping from any name to text.
    TextMap,
    /// A mapping from any name to a number.
    IntMap,
    /// A section of its own.
    Section(&'static [Key]),
    /// A mapping from any name to a section.
    Sections(&'static [Key]),
    /// A section, of which exactly one key is given.
    OneOf(&'static [Key]),
    /// A mapping from any name to a section of which exactly one key is given.
    OneOfs(&'static [Key]),
    /// Anything; passed on.
    Any,
}

/// A key of a section.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// What it is, for the schema.
    pub doc: &'static str,
    /// Carried out by this version; what is not is refused, never ignored.
    pub built: bool,
    /// It must be there.
    pub required: bool,
}

const fn key(name: &'static str, kind: Type, doc: &'static str) -> Key {
    Key { name, kind, doc, built: true, required: false }
}

const fn need(name: &'static str, kind: Type, doc: &'static str) -> Key {
    Key { name, kind, doc, built: true, required: true }
}

const fn later(name: &'static str, kind: Type, doc: &'static str) -> Key {
    Key { name, kind, doc, built: false, required: false }
}

use Type::*;

const METADATA: &[Key] = &[need("name", Text, "The cluster's name, DNS-1123")];
const SECRET: &[Key] = &[
    key("env", Text, "An environment variable of provision itself"),
    key("file", Text, "A file, relative to the inventory"),
    key("age", Section(AGE), "A file encrypted with age"),
    key("sops", Section(SOPS), "A key in a SOPS file, through the sops binary"),
    key("exec", Texts, "A command whose output is the secret"),
];
const AGE: &[Key] = &[
    need("file", Text, "The encrypted file"),
    key("identity", Text, "The identity file; else PROVISION_AGE_IDENTITY"),
];
const SOPS: &[Key] = &[need("file", Text, "The file"), need("key", Text, "The key, dotted")];
const SECRET_REF: &[Key] = &[need("secret", Text, "A name under `secrets`")];
const SSH: &[Key] = &[
    key("user", Text, "Login name"),
    key("port", Int, "Port of hosts that name none"),
    key("bastions", Texts, "[user@]host[:port], from here outwards"),
    key("identities", Texts, "Private key files, relative to the inventory"),
    key("passphrase", Section(SECRET_REF), "Opens encrypted keys"),
    key("password", Section(SECRET_REF), "The login's password, where the server wants one after the key"),
    key("sudoPassword", Section(SECRET_REF), "Password for sudo"),
    key("hostKeys", Section(HOST_KEYS), "Where host keys are known"),
    key("agent", Bool, "Use the keys of the agent (default true)"),
];
const HOST_KEYS: &[Key] = &[key("file", Text, "The known_hosts file, relative to the inventory")];
const NETWORK: &[Key] = &[
    key("firewall", Text, "check: firewalls are looked at, never changed"),
    key("proxy", Text, "HTTP proxy URL of hosts: apt, dnf, downloads and k0s go through it"),
    key(
        "noProxy",
        Texts,
        "What bypasses it: names, .domains, addresses and networks; all hosts must be covered",
    ),
    key("caBundle", Text, "PEM file, relative to the inventory, of certificates that hosts trust"),
];
const REGISTRY: &[Key] = &[
    key("mirror", Text, "Mirror URL"),
    key("credentials", Section(SECRET_REF), "The secret user:password of the mirror, or of the registry"),
];
const REPOSITORY: &[Key] = &[need("mirror", Text, "URL of what has the repository's paths below it")];
const OS: &[Key] = &[
    key("ntp", Texts, "NTP servers; empty leaves the distribution's"),
    key("hostname", Text, "manage (default) or keep"),
    key("sysctls", TextMap, "Further kernel settings; numbers are only raised"),
    key("holdKernel", Bool, "Hold the running kernel's packages"),
    key("kernel", Text, "The kernel release that hosts with accelerators run, as uname -r says it; held"),
];
const CLUSTER: &[Key] = &[
    need("k0s", Section(K0S), "k0s"),
    key("endpoint", OneOf(ENDPOINT), "How nodes find the API (default nodeLocal)"),
    key("network", Section(CLUSTER_NETWORK), "Networks"),
];
const K0S: &[Key] = &[
    need("version", Text, "Such as v1.35.7+k0s.0"),
    key("config", Any, "Merged into the k0s ClusterConfig"),
    key("containerd", TextMap, "Further containerd drop-ins of workers, TOML by name"),
];
const ENDPOINT: &[Key] = &[
    key("nodeLocal", Section(&[]), "A load balancer on every node; needs no address"),
    key(
        "external",
        Section(&[need("address", Text, "Its address")]),
        "A load balancer that somebody else runs",
    ),
    key(
        "vip",
        Section(&[
            need("address", Text, "With its prefix length: 10.20.0.10/24"),
            key("interface", Text, "The controllers' interface that bears it"),
        ]),
        "A virtual address that moves between controllers",
    ),
];
const CLUSTER_NETWORK: &[Key] = &[
    key("podCIDR", Text, "Pod network; each node takes a /24"),
    key("serviceCIDR", Text, "Service network"),
];
const POOL: &[Key] = &[
    need("role", Text, "controller, worker, controller+worker or single"),
    key("accelerator", OneOf(ACCELERATOR), "What every host of it has"),
    key(
        "efa",
        Section(EFA),
        "AWS's Elastic Fabric Adapters, driven by AWS's installer, for models across hosts",
    ),
    key("rdma", Section(RDMA), "InfiniBand or RoCE by the kernel's own mlx5 modules; GPU memory by DMA-BUF"),
    key("clusterInterface", Text, "The interface of etcd, kubelet and API"),
    key("storage", Section(STORAGE), "Disks and paths"),
    key("labels", TextMap, "Node labels"),
    key("taints", Texts, "Node taints, key=value:Effect"),
    key("kernel", Text, "The kernel release of its hosts, instead of os.kernel"),
    key("disruption", Section(DISRUPTION), "How much may be down at once"),
    key("hostsFrom", Text, "A CSV file: name,address,rack,bmc,serial"),
    key("hosts", Sections(HOST), "Hosts by name or range"),
    later("nodeName", Text, "keep: do not rename hosts"),
];
const EFA: &[Key] = &[need("count", Int, "Adapters a host")];
const RDMA: &[Key] = &[need("count", Int, "Links that have to be up on a host")];
const ACCELERATOR: &[Key] = &[
    key(
        "nvidia",
        Section(&[
            need("product", Text, "Catalog slug"),
            need("count", Int, "GPUs a host"),
            need("driver", Text, "Full driver version"),
            key("module", Text, "open or closed; by the product unless given"),
            key("mig", IntMap, "MIG profile -> how many on every GPU: {1g.10gb: 7}; {} is off"),
        ]),
        "NVIDIA GPUs",
    ),
    key(
        "neuron",
        Section(&[
            need("product", Text, "Catalog slug"),
            need("count", Int, "Devices a host"),
            need("sdk", Text, "SDK release"),
            key("lnc", Int, "Logical core size, 1 or 2 (default 2 where there is a choice)"),
        ]),
        "AWS Neuron devices",
    ),
];
const MODELS: &[Key] = &[
    need("path", Text, "Absolute path"),
    key("disk", Text, "A disk of its own, below /dev/disk/by-id"),
    key("filesystem", Text, "ext4 (default) or xfs"),
    key("keep", Bool, "Use the filesystem that is on it (default false)"),
    key("erase", Text, "What may be on it and goes, as blkid calls it: ext4, gpt, LVM2_member"),
];
const DATA: &[Key] = &[
    need("disk", Text, "Below /dev/disk/by-id"),
    key("filesystem", Text, "ext4 (default) or xfs"),
    key("keep", Bool, "Use the filesystem that is on it (default false)"),
    key("erase", Text, "What may be on it and goes, as blkid calls it: ext4, gpt, LVM2_member"),
];
const STORAGE: &[Key] = &[
    key("models", Section(MODELS), "Where models are kept"),
    key("data", Section(DATA), "The disk of /var/lib/k0s, mounted before k0s first starts"),
];
const DISRUPTION: &[Key] = &[
    key("maxUnavailable", Share, "Hosts down at once (default 10%)"),
    key("maxFailed", Share, "Hosts that may fail before the pool stops (default 10%)"),
    key(
        "drainSeconds",
        Int,
        "How long pods may take to leave a node before its change is refused (default 900)",
    ),
];
const HOST: &[Key] = &[
    key("address", Text, "Where SSH reaches it"),
    key("port", Int, "Its SSH port"),
    key("user", Text, "Its login name"),
    key("clusterAddress", Text, "The address of etcd, kubelet and API"),
    key("state", Text, "active, maintenance or retired"),
    key("reason", Text, "Why it is not active"),
    key("until", Text, "Until when"),
    key("rack", Text, "Rack"),
    key("bmc", Text, "BMC address, printed in messages"),
    key("serial", Text, "Serial number"),
    key("labels", TextMap, "Node labels of its own"),
];
const ROUTER: &[Key] = &[
    need("kthena", Section(KTHENA), "The Kthena router"),
    key("expose", OneOf(EXPOSE), "How gateways are reached"),
];
const KTHENA: &[Key] = &[
    need("version", Text, "Such as v1.0.0"),
    key("gatewayAPI", Bool, "Gateway API (default true)"),
    key("inferenceExtension", Bool, "Gateway API Inference Extension (default false)"),
    later("install", Text, "existing: adopt what is there"),
];
const EXPOSE: &[Key] = &[
    key("nodePort", Section(&[key("base", Int, "First node port (default 30080)")]), "Node ports"),
    later("loadBalancer", Any, "A Service of type LoadBalancer"),
];
const MODEL: &[Key] = &[
    need("source", OneOf(SOURCE), "Where weights come from"),
    need("engine", OneOf(ENGINE), "What serves it"),
    need("placement", Section(PLACEMENT), "Where it runs"),
];
const SOURCE: &[Key] = &[
    key(
        "huggingFace",
        Section(&[
            need("repo", Text, "owner/name"),
            need("revision", Text, "A commit"),
            key("token", Section(SECRET_REF), "Access token"),
        ]),
        "A Hugging Face repository",
    ),
    key("path", Text, "A path on the host"),
];
const ENGINE_KEYS: &[Key] =
    &[need("image", Text, "Image with tag or digest"), key("args", Texts, "Further arguments")];
const ENGINE: &[Key] =
    &[key("vllm", Section(ENGINE_KEYS), "vLLM"), key("sglang", Section(ENGINE_KEYS), "SGLang")];
const PLACEMENT: &[Key] = &[
    need("pool", Text, "The pool"),
    need("acceleratorsPerReplica", Int, "Accelerators of one replica"),
    key("replicas", Int, "Replicas (default 1)"),
    later("disaggregated", Any, "Prefill and decode apart"),
];
const TENANT: &[Key] = &[
    need(
        "gateway",
        Section(&[need("port", Int, "Its port inside the router, 1024 or higher")]),
        "The tenant's gateway",
    ),
    need(
        "routes",
        Sections(&[need("to", IntMap, "Model -> weight, 0 to 100")]),
        "Served name -> where it goes",
    ),
    later("rateLimit", Any, "Rate limits: Kthena keys them by model name alone"),
];

/// The top of an inventory.
pub const TOP: &[Key] = &[
    key("apiVersion", Text, "provision/v1"),
    key("kind", Text, "Inventory"),
    key("extends", Text, "The inventory that this one is laid on, relative"),
    need("metadata", Section(METADATA), "Name"),
    key("secrets", OneOfs(SECRET), "Secrets by name; referenced, never stored"),
    key("ssh", Section(SSH), "How hosts are reached"),
    key("network", Section(NETWORK), "Proxy and firewall"),
    key("registries", Sections(REGISTRY), "Mirrors by registry host"),
    key("repositories", Sections(REPOSITORY), "Mirrors of package repositories, by the repository's host"),
    key("os", Section(OS), "Operating system settings"),
    need("cluster", Section(CLUSTER), "The cluster"),
    need("pools", Sections(POOL), "Hosts that are alike"),
    key("router", Section(ROUTER), "The router in front of the models"),
    key("models", Sections(MODEL), "Models by name"),
    key("tenants", Sections(TENANT), "Tenants by name"),
];

/// Returns the JSON Schema of inventories.
pub fn schema() -> Value {
    let mut top = section(TOP);
    top["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    top["title"] = json!("provision inventory");
    top
}

fn section(keys: &[Key]) -> Value {
    let properties: serde_json::Map<String, Value> = keys
        .iter()
        .map(|key| {
            let mut value = of(key.kind);
            let doc = if key.built { key.doc.to_owned() } else { format!("{} (not supported yet)", key.doc) };
            value["description"] = json!(doc);
            (key.name.to_owned(), value)
        })
        .collect();
    let required: Vec<&str> = keys.iter().filter(|k| k.required).map(|k| k.name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn of(kind: Type) -> Value {
    match kind {
        Text => json!({"type": ["string", "number"]}),
        Int => json!({"type": "integer"}),
        Bool => json!({"type": "boolean"}),
        Share => json!({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+%$"}]}),
        Texts => json!({"type": "array", "items": {"type": ["string", "number"]}}),
        TextMap => {
            json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
        }
        IntMap => json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        Section(keys) => section(keys),
        Sections(keys) => json!({"type": "object", "additionalProperties": section(keys)}),
        OneOf(keys) => one_of(keys),
        OneOfs(keys) => json!({"type": "object", "additionalProperties": one_of(keys)}),
        Any => json!({}),
    }
}

fn one_of(keys: &[Key]) -> Value {
    let mut value = section(keys);
    value["minProperties"] = json!(1);
    value["maxProperties"] = json!(1);
    value
}
