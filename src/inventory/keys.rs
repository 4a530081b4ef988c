//! The whole schema as one table: it drives checks of keys and types, unsupported keys, and `provision schema`.

use serde_json::{Value, json};

/// The type of a value.
#[derive(Clone, Copy)]
pub(super) enum Type {
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
    /// A list of sections.
    List(&'static [Key]),
    /// A section of its own.
    Section(&'static [Key]),
    /// A mapping from any name to a section.
    Sections(&'static [Key]),
    /// A section, of which exactly one key is given.
    OneOf(&'static [Key]),
    /// A mapping from any name to a section of which exactly one key is given.
    OneOfs(&'static [Key]),
    /// A word, or a section.
    WordOr(&'static str, &'static [Key]),
    /// A list of anything; passed on.
    Anys,
    /// Anything; passed on.
    Any,
}

/// A key of a section.
pub(super) struct Key {
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
    key("env", Text, "An environment variable of provision"),
    key("file", Text, "A file, relative to the inventory"),
    key("age", Section(AGE), "A file encrypted with age"),
    key("sops", Section(SOPS), "A key in a SOPS file, through the sops binary"),
    key("exec", Texts, "A command whose output is the secret"),
];
const AGE: &[Key] = &[
    need("file", Text, "The encrypted file"),
    key("identity", Text, "The identity file (default: PROVISION_AGE_IDENTITY)"),
];
const SOPS: &[Key] = &[need("file", Text, "The file"), need("key", Text, "The key, as a dotted path")];
const SECRET_REF: &[Key] = &[need("secret", Text, "A name under `secrets`")];
const SSH: &[Key] = &[
    key("user", Text, "Login name"),
    key("port", Int, "Default SSH port"),
    key("bastions", Texts, "[user@]host[:port], in hop order"),
    key("identities", Texts, "Private key files, relative to the inventory, or below ~/"),
    key("passphrase", Section(SECRET_REF), "Passphrase of encrypted keys"),
    key("password", Section(SECRET_REF), "Login password, if the server asks for one after the key"),
    key("sudoPassword", Section(SECRET_REF), "Password for sudo"),
    key("hostKeys", Section(HOST_KEYS), "Host keys"),
    key("agent", Bool, "Use keys of the SSH agent (default true)"),
];
const HOST_KEYS: &[Key] =
    &[key("file", Text, "The known_hosts file, relative to the inventory, or below ~/")];
const NETWORK: &[Key] = &[
    key("firewall", Text, "check: firewalls are tested, never changed"),
    key("proxy", Text, "HTTP proxy URL for hosts: used by apt, dnf, downloads and k0s"),
    key("noProxy", Texts, "Proxy exceptions: names, .domains, addresses and networks; must cover all hosts"),
    key("caBundle", Text, "PEM file with CA certificates that hosts trust, relative to the inventory"),
];
const REGISTRY: &[Key] = &[
    key(
        "mirror",
        Text,
        "Mirror URL; with a path, `/v2` is used where it is (Harbor: https://hub.example.net/v2/PROJECT), or else appended",
    ),
    key(
        "credentials",
        Section(SECRET_REF),
        "Secret of the form user:password for the mirror or the registry",
    ),
];
const REPOSITORY: &[Key] = &[need("mirror", Text, "URL of a mirror with the repository's paths below it")];
const OS: &[Key] = &[
    key("ntp", Texts, "NTP servers (empty: those of the distribution)"),
    key("hostname", Text, "manage (default), or keep: hosts are already named as in the inventory"),
    key("sysctls", TextMap, "Additional sysctl settings; numbers are only raised"),
    key("holdKernel", Bool, "Hold the running kernel's packages"),
    key("kernel", Text, "Kernel release of hosts with accelerators, as printed by uname -r; held"),
];
const CLUSTER: &[Key] = &[
    need("k0s", Section(K0S), "k0s"),
    key("endpoint", OneOf(ENDPOINT), "How nodes reach the API (default nodeLocal)"),
    key("network", Section(CLUSTER_NETWORK), "Networks"),
    key("backup", Section(BACKUP), "Backups that `provision backup` makes"),
];
const BACKUP: &[Key] = &[
    key(
        "recipients",
        Texts,
        "age recipients that backups are encrypted to: age1…; without any, backups are not encrypted",
    ),
    key("keep", Int, "How many backups are kept (default 10)"),
    key("beforeUpgrade", Bool, "Back up before k0s on a controller is upgraded (default true)"),
    key("keepDays", Int, "Remove backups older than this many days, except the newest"),
];
const K0S: &[Key] = &[
    need("version", Text, "Version, such as v1.35.7+k0s.0"),
    key("config", Any, "Merged into the k0s ClusterConfig"),
    key("containerd", TextMap, "Additional containerd drop-ins of workers, TOML by name"),
];
const ENDPOINT: &[Key] = &[
    key("nodeLocal", Section(&[]), "A load balancer on every node; needs no address"),
    key("external", Section(&[need("address", Text, "Its address")]), "An external load balancer"),
    key(
        "vip",
        Section(&[
            need("address", Text, "Address with prefix length: 10.20.0.10/24"),
            key("interface", Text, "The controllers' interface that carries it"),
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
    key(
        "ssh",
        Section(&[
            key("user", Text, "Login name"),
            key("port", Int, "SSH port"),
            key("bastions", Texts, "[user@]host[:port], in hop order; [] for none"),
            key("identities", Texts, "Private key files, besides those of the inventory"),
        ]),
        "SSH access to its hosts, where it differs",
    ),
    key("accelerator", OneOf(ACCELERATOR), "Accelerators of every host"),
    key(
        "efa",
        Section(EFA),
        "Elastic Fabric Adapters (AWS), installed by the EFA installer, for workloads across hosts",
    ),
    key(
        "rdma",
        Section(RDMA),
        "InfiniBand or RoCE with the kernel's mlx5 modules; GPU memory through DMA-BUF",
    ),
    key("clusterInterface", Text, "The interface of etcd, kubelet and API"),
    key("storage", Section(STORAGE), "Disks and paths"),
    key("labels", TextMap, "Node labels"),
    key("taints", Texts, "Node taints, key=value:Effect"),
    key("kernel", Text, "Kernel release of its hosts; overrides os.kernel"),
    key("disruption", Section(DISRUPTION), "Disruption budget"),
    key("hostsFrom", Text, "A CSV file: name,address,rack,bmc,serial"),
    key("hosts", Sections(HOST), "Hosts by name or range"),
    later("nodeName", Text, "keep: do not change hostnames"),
];
const EFA: &[Key] = &[need("count", Int, "Adapters per host")];
const RDMA: &[Key] = &[need("count", Int, "Links that must be up on each host")];
const ACCELERATOR: &[Key] = &[
    key(
        "nvidia",
        Section(&[
            need("product", Text, "Catalog slug"),
            need("count", Int, "GPUs per host"),
            need("driver", Text, "Full driver version"),
            key("module", Text, "open or closed (default: by product)"),
            key("mig", IntMap, "Instances per GPU by MIG profile: {1g.10gb: 7}; {} turns MIG off"),
            key(
                "diagnostics",
                Bool,
                "Install DCGM 4, which the standard level of health runs (default true)",
            ),
        ]),
        "NVIDIA GPUs",
    ),
    key(
        "neuron",
        Section(&[
            need("product", Text, "Catalog slug"),
            need("count", Int, "Devices per host"),
            need("sdk", Text, "SDK release"),
            key("lnc", Int, "Logical core size, 1 or 2 (default 2 where there is a choice)"),
            key(
                "diagnostics",
                Bool,
                "Install the collectives, which the standard level of health runs (default true)",
            ),
        ]),
        "AWS Neuron devices",
    ),
];
const MODELS: &[Key] = &[
    need("path", Text, "Absolute path"),
    key("disk", Text, "A dedicated disk, below /dev/disk/by-id"),
    key("filesystem", Text, "ext4 (default) or xfs"),
    key("keep", Bool, "Keep an existing filesystem (default false)"),
    key("erase", Text, "Existing filesystem that may be wiped, as printed by blkid: ext4, gpt, LVM2_member"),
];
const DATA: &[Key] = &[
    need("disk", Text, "Below /dev/disk/by-id"),
    key("filesystem", Text, "ext4 (default) or xfs"),
    key("keep", Bool, "Keep an existing filesystem (default false)"),
    key("erase", Text, "Existing filesystem that may be wiped, as printed by blkid: ext4, gpt, LVM2_member"),
];
const STORAGE: &[Key] = &[
    key("models", Section(MODELS), "Where models are stored"),
    key("data", Section(DATA), "The disk of /var/lib/k0s, mounted before k0s first starts"),
];
const DISRUPTION: &[Key] = &[
    key("maxUnavailable", Share, "Hosts out of service at once (default 10%); 0 allows none"),
    key("maxFailed", Share, "Hosts that may fail before the pool stops (default 10%)"),
    key("canary", Int, "Number of hosts that leave service before all others (default 1); 0 for none"),
    key("drainSeconds", Int, "Drain timeout in seconds (default 900)"),
];
const HOST: &[Key] = &[
    key("address", Text, "Address for SSH"),
    key("port", Int, "SSH port"),
    key("user", Text, "Login name"),
    key("clusterAddress", Text, "Address of etcd, kubelet and API"),
    key("state", Text, "active, maintenance or retired"),
    key("reason", Text, "Reason for not being active"),
    key("until", Text, "Expected end of the maintenance: 2026-12-24, or 2026-12-24 18:00"),
    key("rack", Text, "Rack"),
    key("bmc", Text, "BMC address, shown in messages"),
    key("serial", Text, "Serial number"),
    key("labels", TextMap, "Additional node labels"),
];
const ROUTER: &[Key] = &[
    need("kthena", Section(KTHENA), "The Kthena router"),
    key(
        "edge",
        WordOr("none", EDGE),
        "The proxy in front of the router, which keeps tenants apart; none: no proxy",
    ),
    key("expose", OneOf(EXPOSE), "How gateways are exposed"),
];
const EDGE: &[Key] = &[
    key("image", Text, "Image of Envoy (default the catalog's)"),
    key(
        "pools",
        Texts,
        "Pools whose nodes run it and answer at the tenants' node ports (default all with workers)",
    ),
];
const KTHENA: &[Key] = &[
    need("version", Text, "Version, such as v1.0.0"),
    key("gatewayAPI", Bool, "Gateway API (default true)"),
    key("inferenceExtension", Bool, "Gateway API Inference Extension (default false); requires gatewayAPI"),
    key("replicas", Int, "Pods of the router, 1 to 32 (default 2)"),
    key(
        "maxWaitingRequests",
        Int,
        "Requests that may wait at a pod of a model (default 1000); if all its pods have as many, clients get error 400",
    ),
    key("scheduling", Section(SCHEDULING), "Weights for choosing between the pods of a model"),
    later("install", Text, "existing: adopt existing CRDs"),
];
const SCHEDULING: &[Key] = &[
    key("prefixCache", Int, "Pods with the beginning of the prompt in their cache, 0 to 100 (default 1)"),
    key("leastRequest", Int, "Pods with few requests, 0 to 100 (default 1)"),
    key("leastLatency", Int, "Pods with low latency, 0 to 100 (default 1)"),
    key("gpuUsage", Int, "Pods with room in their KV cache, 0 to 100 (default 1)"),
];
const EXPOSE: &[Key] = &[
    key(
        "nodePort",
        Section(&[key("base", Int, "Node port that corresponds to `gateway.port: 8080` (default 30080)")]),
        "Node ports",
    ),
    later("loadBalancer", Any, "A Service of type LoadBalancer"),
];
const MODEL: &[Key] = &[
    need("source", OneOf(SOURCE), "Source of the weights"),
    need("engine", OneOf(ENGINE), "Serving engine"),
    need("placement", Section(PLACEMENT), "Placement"),
    later("adapters", Any, "LoRA adapters"),
];
const SOURCE: &[Key] = &[
    key(
        "huggingFace",
        Section(&[
            need("repo", Text, "owner/name"),
            need("revision", Text, "A commit (recommended), a tag or a branch"),
            key("token", Section(SECRET_REF), "Access token"),
        ]),
        "A Hugging Face repository",
    ),
    key("path", Text, "A path on the host"),
];
const ENGINE_KEYS: &[Key] = &[
    need("image", Text, "Image with tag or digest"),
    key("args", Texts, "Additional arguments"),
    key("env", TextMap, "Additional environment variables"),
    key(
        "resources",
        Section(&[
            key("cpu", Text, "CPUs that a replica requests (default 1, plus 1 per accelerator)"),
            key("memory", Text, "Memory that a replica requests (default 4Gi, plus 8Gi per accelerator)"),
            key("shm", Text, "Maximum size of /dev/shm (default 32Gi)"),
        ]),
        "Requests of a replica",
    ),
];
const ENGINE: &[Key] =
    &[key("vllm", Section(ENGINE_KEYS), "vLLM"), key("sglang", Section(ENGINE_KEYS), "SGLang")];
const PLACEMENT: &[Key] = &[
    need("pool", Text, "The pool"),
    need("acceleratorsPerReplica", Int, "Accelerators of one replica"),
    key("replicas", Int, "Replicas (default 1)"),
    later("disaggregated", Any, "Disaggregated prefill and decode"),
];
const ROUTE: &[Key] = &[
    key(
        "rules",
        List(RULE),
        "Up to 15 rules for requests with certain headers; the first that matches decides",
    ),
    need("to", IntMap, "Weight by model, 0 to 100, for all other requests"),
];
const RULE: &[Key] = &[
    key("name", Text, "Its name, DNS-1123 (default rule-1, rule-2, ...)"),
    need("headers", OneOfs(HEADER), "What the value of each header must be, all of them"),
    need("to", IntMap, "Weight by model, 0 to 100"),
];
const HEADER: &[Key] = &[
    key("exact", Text, "The value"),
    key("prefix", Text, "The beginning of the value"),
    key("regex", Text, "A regular expression (RE2) found in the value; use ^ and $ for the whole value"),
];
const TENANT: &[Key] = &[
    need(
        "gateway",
        Section(&[
            need("port", Int, "Its port inside the router, 1024 or higher"),
            key(
                "nodePort",
                Int,
                "Its port on every node (default router.expose.nodePort.base + port - 8080, within 30000 to 32767)",
            ),
        ]),
        "The tenant's gateway",
    ),
    need("routes", Sections(ROUTE), "Routes by served name"),
    key(
        "allowFrom",
        Texts,
        "Networks whose clients may connect (default the private ones); the cluster's pods may always",
    ),
    key(
        "keys",
        Section(&[need(
            "signing",
            Section(SECRET_NAME),
            "The private key that signs API keys (Ed25519, PEM)",
        )]),
        "API keys, made by `provision key create NAME --name WHO`; without, every client that may connect is answered",
    ),
    key("limits", Section(LIMITS), "Limits of each proxy (one per node)"),
    key(
        "tls",
        Section(&[
            need("certificate", Text, "PEM file next to the inventory: the certificate and its chain"),
            need("key", Section(SECRET_NAME), "The certificate's private key (PEM)"),
        ]),
        "HTTPS at the gateway",
    ),
    later("rateLimit", Any, "Rate limits: Kthena keys them by model name alone"),
];

const SECRET_NAME: &[Key] = &[need("secret", Text, "A name under `secrets`")];
const LIMITS: &[Key] = &[
    key("requestsPerMinute", Int, "Requests of all clients"),
    key("requestsPerMinutePerKey", Int, "Requests of each API key"),
    key("requestKilobytes", Int, "Size of a request (default 8192)"),
];

/// The top of an inventory.
pub(super) const TOP: &[Key] = &[
    key("apiVersion", Text, "provision/v1"),
    key("kind", Text, "Inventory"),
    key("extends", Text, "Base inventory, relative to this file"),
    need("metadata", Section(METADATA), "Name"),
    key("secrets", OneOfs(SECRET), "Secrets by name; referenced, never stored"),
    key("ssh", Section(SSH), "SSH access to hosts"),
    key("network", Section(NETWORK), "Proxy and firewall"),
    key("registries", Sections(REGISTRY), "Mirrors by registry host"),
    key("repositories", Sections(REPOSITORY), "Mirrors of package repositories, by the repository's host"),
    key("os", Section(OS), "Operating system settings"),
    need("cluster", Section(CLUSTER), "The cluster"),
    need("pools", Sections(POOL), "Hosts with identical configuration"),
    key("router", Section(ROUTER), "The inference router"),
    key("models", Sections(MODEL), "Models by name"),
    key("tenants", Sections(TENANT), "Tenants by name"),
    key(
        "extraObjects",
        Anys,
        "Kubernetes manifests in namespace models or their own, applied after all others and removed with their entry",
    ),
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
        List(keys) => json!({"type": "array", "items": section(keys)}),
        Section(keys) => section(keys),
        Sections(keys) => json!({"type": "object", "additionalProperties": section(keys)}),
        OneOf(keys) => one_of(keys),
        OneOfs(keys) => json!({"type": "object", "additionalProperties": one_of(keys)}),
        WordOr(word, keys) => json!({"anyOf": [{"const": word}, section(keys)]}),
        Anys => json!({"type": "array"}),
        Any => json!({}),
    }
}

fn one_of(keys: &[Key]) -> Value {
    let mut value = section(keys);
    value["minProperties"] = json!(1);
    value["maxProperties"] = json!(1);
    value
}
