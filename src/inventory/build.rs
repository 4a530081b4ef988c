//! From a tree of the right shape to the model: defaults, ranges, CSV, references by name. What paper can tell beyond
//! that is in `check`.

use super::diagnostic::Diagnostic;
use super::load::Files;
use super::model::*;
use super::range::expand;
use super::tree::{Entry, Node};
use super::{check, hosts};
use crate::catalog::Catalog;
use crate::state::PoolName;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// First node port unless given.
const NODE_PORT_BASE: u16 = 30080;

/// Reads `10%` or `3`.
pub(super) fn share(text: &str) -> Option<Share> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| *p <= 100).map(Share::Percent),
        None => text.parse().ok().map(Share::Hosts),
    }
}

/// A type that a whole number of an inventory may have.
pub(super) trait Whole: TryFrom<i64> {
    /// The largest, as shown.
    const MOST: u64;
}

impl Whole for u16 {
    const MOST: u64 = u16::MAX as u64;
}

impl Whole for u32 {
    const MOST: u64 = u32::MAX as u64;
}

/// What reading needs.
pub(super) struct Reader<'a> {
    pub files: &'a dyn Files,
    pub root: &'a Path,
    pub top: &'a Node,
    pub problems: &'a mut Vec<Diagnostic>,
}

pub(super) fn text(node: Option<&Node>, key: &str) -> Option<String> {
    node?.get(key)?.text()
}

fn texts(node: Option<&Node>, key: &str) -> Vec<String> {
    match node.and_then(|n| n.get(key)).map(|n| &n.value) {
        Some(super::tree::Value::List(items)) => items.iter().filter_map(Node::text).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn text_map(node: Option<&Node>, key: &str) -> BTreeMap<String, String> {
    let entries = node.and_then(|n| n.get(key)).map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|e| Some((e.key.clone(), e.node.text()?))).collect()
}

fn flag(node: Option<&Node>, key: &str, default: bool) -> bool {
    text(node, key).map_or(default, |t| t == "true")
}

impl Reader<'_> {
    pub(super) fn error(
        &mut self,
        code: &'static str,
        node: &Node,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.push(Diagnostic::error(code, message).at(&node.place).hint(hint));
    }

    /// Reads a number that must fit its type; the table of keys has seen that it is one.
    pub(super) fn fits<T: Whole>(&mut self, node: Option<&Node>, key: &str) -> Option<T> {
        let value = node?.get(key)?;
        // What is no number at all has been told already.
        let number: i64 = value.text()?.parse().ok()?;
        let fitting = T::try_from(number).ok();
        if fitting.is_none() {
            let hint = format!("a whole number from 0 to {}", T::MOST);
            self.error("E-TYPE", value, format!("`{key}` cannot be {number}"), hint);
        }
        fitting
    }

    /// Reads `{secret: NAME}`; the name must be known.
    fn secret(
        &mut self,
        node: Option<&Node>,
        key: &str,
        known: &BTreeMap<String, SecretSource>,
    ) -> Option<String> {
        let reference = node?.get(key)?.get("secret")?;
        let name = reference.text()?;
        // One that is written but cannot be read has been told already.
        let written = self.top.get("secrets").is_some_and(|secrets| secrets.get(&name).is_some());
        if !known.contains_key(&name) && !written {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let hint = match names.is_empty() {
                true => format!("add it: secrets: {{{name}: {{env: NAME}}}}"),
                false => format!("secrets has {}", names.join(", ")),
            };
            self.error("E-UNKNOWN-SECRET", reference, format!("unknown secret `{name}`"), hint);
        }
        Some(name)
    }

    fn word<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let text = node.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
            let near =
                names.iter().min_by_key(|w| strsim::osa_distance(w, &text)).copied().unwrap_or_default();
            let message = format!("`{text}` is not one of {}", names.join(", "));
            self.error("E-VALUE", node, message, format!("did you mean `{near}`?"));
        }
        found
    }
}

/// Builds the model and checks it. `None` when a part that others need is missing; the problems say which.
pub(super) fn build(
    files: &dyn Files,
    root: &Path,
    top: &Node,
    catalog: &Catalog,
    problems: &mut Vec<Diagnostic>,
) -> Option<Inventory> {
    let mut reader = Reader { files, root, top, problems };
    let inventory = read(&mut reader, top)?;
    // What could not be read would only make false alarms of what refers to it.
    let broken: Vec<String> = top
        .entries()
        .iter()
        .filter(|entry| {
            let inside = |p: &Diagnostic| match &p.place {
                Some(place) if place.source.name.ends_with(".csv") => entry.key == "pools",
                Some(place) => entry.node.holds(place),
                None => false,
            };
            problems.iter().any(inside)
        })
        .map(|entry| entry.key.clone())
        .collect();
    check::check(&inventory, top, catalog, &broken, problems);
    Some(inventory)
}

fn read(r: &mut Reader<'_>, top: &Node) -> Option<Inventory> {
    for (key, wanted) in [("apiVersion", "provision/v1"), ("kind", "Inventory")] {
        if let Some(node) = top.get(key)
            && node.text().as_deref() != Some(wanted)
        {
            let hint = format!("this version reads no other: {key}: {wanted}");
            r.error("E-VALUE", node, format!("`{key}` must be {wanted}"), hint);
        }
    }
    let name = text(top.get("metadata"), "name")?;
    let secrets: BTreeMap<String, SecretSource> = top
        .get("secrets")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|e| Some((e.key.clone(), secret_source(&e.node)?)))
        .collect();
    let ssh = read_ssh(r, top.get("ssh"), &secrets);
    let network = top.get("network");
    if let Some(node) = network.and_then(|n| n.get("firewall"))
        && node.text().as_deref() != Some("check")
    {
        let hint = "firewall: check looks at the ports that are needed and changes nothing";
        r.error("E-NOT-SUPPORTED", node, "`firewall` other than check is not supported yet", hint);
    }
    let registries = top.get("registries").map(Node::entries).unwrap_or_default();
    let repositories = top.get("repositories").map(Node::entries).unwrap_or_default();
    let os = top.get("os");
    if let Some(node) = os.and_then(|n| n.get("hostname")) {
        r.word(node, &[("manage", ()), ("keep", ())]);
    }
    let cluster = read_cluster(r, top.get("cluster")?)?;
    let mut pools = BTreeMap::new();
    let mut all_hosts = BTreeMap::new();
    for entry in top.get("pools").map(Node::entries).unwrap_or_default() {
        if let Some(pool) = read_pool(r, entry, text(os, "kernel").as_deref()) {
            hosts::read(r, &entry.node, &pool.name, &mut all_hosts);
            pools.insert(pool.name.clone(), pool);
        }
    }
    let router = top.get("router").and_then(|node| {
        let kthena = node.get("kthena");
        let base = node.get("expose").and_then(|e| e.get("nodePort"));
        Some(Router {
            version: text(kthena, "version")?,
            gateway_api: flag(kthena, "gatewayAPI", true),
            inference_extension: flag(kthena, "inferenceExtension", false),
            node_port_base: r.fits(base, "base").unwrap_or(NODE_PORT_BASE),
        })
    });
    let base = router.as_ref().map_or(NODE_PORT_BASE, |router| router.node_port_base);
    let models = top
        .get("models")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|e| Some((e.key.clone(), read_model(r, e, &secrets)?)))
        .collect();
    let mut tenants = BTreeMap::new();
    for entry in top.get("tenants").map(Node::entries).unwrap_or_default() {
        let routes = entry.node.get("routes").map(Node::entries).unwrap_or_default();
        let tenant = Tenant {
            name: entry.key.clone(),
            port: r.fits(entry.node.get("gateway"), "port").unwrap_or(0),
            node_port: 0,
            routes: routes.iter().map(|route| (route.key.clone(), weights(r, &route.node))).collect(),
        };
        tenants.insert(entry.key.clone(), tenant);
    }
    // By name, so that adding a tenant at the end of the alphabet moves no other's port.
    for (index, tenant) in tenants.values_mut().enumerate() {
        tenant.node_port = base.saturating_add(1).saturating_add(index as u16);
    }
    let below = |name: &str| Some(r.root.join(name)).filter(|path| r.files.is_folder(path));
    Some(Inventory {
        digest: digest(top),
        root: r.root.to_owned(),
        roles_dir: below("roles"),
        catalog_dir: below("catalog"),
        name,
        ssh,
        network: HostNetwork {
            proxy: text(network, "proxy"),
            no_proxy: texts(network, "noProxy"),
            ca_bundle: network
                .and_then(|n| n.get("caBundle"))
                .map(|n| certificates(r, n))
                .unwrap_or_default(),
        },
        registries: registries
            .iter()
            .map(|e| {
                let (mirror, node) = (text(Some(&e.node), "mirror"), Some(&e.node));
                (e.key.clone(), Registry { mirror, credentials: r.secret(node, "credentials", &secrets) })
            })
            .collect(),
        repositories: repositories
            .iter()
            .filter_map(|e| Some((e.key.clone(), text(Some(&e.node), "mirror")?)))
            .collect(),
        os: Os {
            ntp: texts(os, "ntp"),
            manage_hostname: text(os, "hostname").as_deref() != Some("keep"),
            sysctls: text_map(os, "sysctls"),
            hold_kernel: flag(os, "holdKernel", false),
        },
        cluster,
        pools,
        hosts: all_hosts,
        router,
        models,
        tenants,
        secrets,
    })
}

fn weights(r: &mut Reader<'_>, route: &Node) -> BTreeMap<String, u32> {
    route.get("to").map(|to| counts(r, to)).unwrap_or_default()
}

/// Reads a mapping from any name to a number.
fn counts(r: &mut Reader<'_>, node: &Node) -> BTreeMap<String, u32> {
    node.entries().iter().filter_map(|e| Some((e.key.clone(), r.fits(Some(node), &e.key)?))).collect()
}

fn digest(top: &Node) -> String {
    Sha256::digest(top.json().to_string().as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a file of certificates and takes it apart.
fn certificates(r: &mut Reader<'_>, node: &Node) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let Some(name) = node.text() else { return Vec::new() };
    let path = r.root.join(&name);
    let hint = "caBundle names a file beside the inventory with one or more certificates in PEM";
    let text = match r.files.read(&path) {
        Ok(text) => text,
        Err(error) => {
            r.error("E-READ", node, format!("cannot read {}: {error}", path.display()), hint);
            return Vec::new();
        }
    };
    let found: Vec<String> = text
        .split(BEGIN)
        .skip(1)
        .filter_map(|part| Some(format!("{BEGIN}\n{}\n{END}\n", part.split_once(END)?.0.trim())))
        .collect();
    if found.is_empty() {
        r.error("E-CA", node, format!("{} holds no certificate", path.display()), hint);
    }
    found
}

fn secret_source(node: &Node) -> Option<SecretSource> {
    let entry = node.entries().first()?;
    Some(match entry.key.as_str() {
        "env" => SecretSource::Env(entry.node.text()?),
        "file" => SecretSource::File(entry.node.text()?.into()),
        "age" => SecretSource::Age {
            file: text(Some(&entry.node), "file")?.into(),
            identity: text(Some(&entry.node), "identity").map(PathBuf::from),
        },
        "sops" => SecretSource::Sops {
            file: text(Some(&entry.node), "file")?.into(),
            key: text(Some(&entry.node), "key")?,
        },
        _ => SecretSource::Exec(texts(Some(node), "exec")),
    })
}

fn read_ssh(r: &mut Reader<'_>, node: Option<&Node>, secrets: &BTreeMap<String, SecretSource>) -> Ssh {
    let known_hosts =
        text(node.and_then(|n| n.get("hostKeys")), "file").unwrap_or_else(|| "known_hosts".to_owned());
    Ssh {
        user: text(node, "user"),
        port: r.fits(node, "port"),
        bastions: texts(node, "bastions"),
        identities: texts(node, "identities").into_iter().map(|path| r.root.join(path)).collect(),
        passphrase: r.secret(node, "passphrase", secrets),
        password: r.secret(node, "password", secrets),
        sudo_password: r.secret(node, "sudoPassword", secrets),
        known_hosts: r.root.join(known_hosts),
        agent: flag(node, "agent", true),
    }
}

fn read_cluster(r: &mut Reader<'_>, node: &Node) -> Option<Cluster> {
    let k0s = node.get("k0s");
    let network = node.get("network");
    let mut cidr = |key: &str, default: &str| {
        let given = network.and_then(|n| n.get(key));
        let written = given.and_then(Node::text).unwrap_or_else(|| default.to_owned());
        match (written.parse::<ipnet::IpNet>(), given) {
            (Ok(net), _) => Some(net),
            (Err(_), Some(node)) => {
                let message = format!("`{written}` is no network such as {default}");
                r.error("E-CIDR", node, message, "an address, a slash and a number of bits");
                None
            }
            (Err(_), None) => None,
        }
    };
    // k0s's own defaults.
    let (pod_cidr, service_cidr) = (cidr("podCIDR", "10.244.0.0/16"), cidr("serviceCIDR", "10.96.0.0/12"));
    let chosen = node.get("endpoint");
    let endpoint = match (chosen.and_then(|n| n.get("external")), chosen.and_then(|n| n.get("vip"))) {
        (Some(external), _) => Endpoint::External { address: text(Some(external), "address")? },
        (None, Some(vip)) => {
            let at = vip.get("address")?;
            let written = at.text()?;
            match written.parse() {
                Ok(address) if written.contains('/') => {
                    Endpoint::Vip { address, interface: text(Some(vip), "interface") }
                }
                _ => {
                    let message = format!("`{written}` is no address with a prefix length");
                    r.error("E-VIP", at, message, "an address of the controllers' network: 10.20.0.10/24");
                    return None;
                }
            }
        }
        (None, None) => Endpoint::NodeLocal,
    };
    Some(Cluster {
        k0s_version: text(k0s, "version")?,
        k0s_config: k0s.and_then(|n| n.get("config")).map(Node::json).unwrap_or(serde_json::Value::Null),
        containerd: text_map(k0s, "containerd"),
        endpoint,
        pod_cidr: pod_cidr?,
        service_cidr: service_cidr?,
    })
}

fn read_pool(r: &mut Reader<'_>, entry: &Entry, kernel: Option<&str>) -> Option<Pool> {
    let node = Some(&entry.node);
    let role = r.word(
        entry.node.get("role")?,
        &[
            ("controller", NodeRole::Controller),
            ("worker", NodeRole::Worker),
            ("controller+worker", NodeRole::ControllerWorker),
            ("single", NodeRole::Single),
        ],
    )?;
    let accelerator = entry.node.get("accelerator").and_then(|a| a.entries().first()).and_then(|a| {
        let product = text(Some(&a.node), "product")?;
        let count = r.fits(Some(&a.node), "count")?;
        Some(match a.key.as_str() {
            "nvidia" => {
                let flavours = [("open", ModuleFlavour::Open), ("closed", ModuleFlavour::Closed)];
                Accelerator::Nvidia {
                    product,
                    count,
                    driver: text(Some(&a.node), "driver")?,
                    module: a.node.get("module").and_then(|module| r.word(module, &flavours)),
                    mig: a.node.get("mig").map(|mig| counts(r, mig)),
                }
            }
            _ => Accelerator::Neuron {
                product,
                count,
                sdk: text(Some(&a.node), "sdk")?,
                lnc: r.fits(Some(&a.node), "lnc"),
            },
        })
    });
    let disruption = entry.node.get("disruption");
    let part = |key: &str| text(disruption, key).and_then(|t| share(&t)).unwrap_or(Share::Percent(10));
    Some(Pool {
        name: PoolName::new(entry.key.clone()),
        role,
        accelerator,
        efa: r.fits(entry.node.get("efa"), "count"),
        rdma: r.fits(entry.node.get("rdma"), "count"),
        kernel: text(node, "kernel").or_else(|| kernel.map(str::to_owned)),
        data_disk: disk(r, entry.node.get("storage").and_then(|s| s.get("data"))),
        models_disk: disk(r, entry.node.get("storage").and_then(|s| s.get("models"))),
        cluster_interface: text(node, "clusterInterface"),
        models_path: text(entry.node.get("storage").and_then(|s| s.get("models")), "path")
            .unwrap_or_else(|| "/var/lib/provision/models".to_owned()),
        labels: text_map(node, "labels"),
        taints: texts(node, "taints"),
        disruption: Disruption {
            max_unavailable: part("maxUnavailable"),
            max_failed: part("maxFailed"),
            drain_s: r.fits(disruption, "drainSeconds").unwrap_or(DRAIN_SECONDS),
        },
    })
}

fn disk(r: &mut Reader<'_>, node: Option<&Node>) -> Option<Disk> {
    let at = node?.get("disk")?;
    let disk = Disk {
        disk: at.text()?,
        filesystem: text(node, "filesystem").unwrap_or_else(|| "ext4".to_owned()),
        keep: flag(node, "keep", false),
        erase: text(node, "erase"),
    };
    if !disk.disk.starts_with("/dev/disk/by-id/") {
        let hint = "names such as /dev/sdb may be another disk after a reboot: ls -l /dev/disk/by-id";
        r.error("E-DISK-NAME", at, format!("`{}` is not below /dev/disk/by-id", disk.disk), hint);
    }
    if let Some(filesystem) = node.and_then(|n| n.get("filesystem")) {
        r.word(filesystem, &[("ext4", ()), ("xfs", ())]);
    }
    if let (true, Some(erase)) = (disk.keep, node.and_then(|n| n.get("erase"))) {
        r.error("E-DISK-KEEP", erase, "a disk is either kept as it is or erased", "take one of the two out");
    }
    Some(disk)
}

fn read_model(r: &mut Reader<'_>, entry: &Entry, secrets: &BTreeMap<String, SecretSource>) -> Option<Model> {
    let source = entry.node.get("source")?;
    let source = match source.get("huggingFace") {
        Some(hf) => ModelSource::HuggingFace {
            repo: text(Some(hf), "repo")?,
            revision: text(Some(hf), "revision")?,
            token: r.secret(Some(hf), "token", secrets),
        },
        None => ModelSource::Path { path: text(Some(source), "path")? },
    };
    let engine = entry.node.get("engine")?.entries().first()?;
    let placement = entry.node.get("placement");
    Some(Model {
        name: entry.key.clone(),
        source,
        engine: Engine {
            kind: if engine.key == "vllm" { EngineKind::Vllm } else { EngineKind::Sglang },
            image: text(Some(&engine.node), "image")?,
            args: texts(Some(&engine.node), "args"),
        },
        pool: PoolName::new(text(placement, "pool")?),
        accelerators_per_replica: r.fits(placement, "acceleratorsPerReplica")?,
        replicas: r.fits(placement, "replicas").unwrap_or(1),
    })
}

/// Expands a name or address pattern, with the problem put at its place.
pub(super) fn expand_at(r: &mut Reader<'_>, node: &Node, pattern: &str) -> Option<Vec<String>> {
    match expand(pattern) {
        Ok(names) => Some(names),
        Err(why) => {
            r.error("E-RANGE", node, why, "such as h-[001-064] or 10.20.[1-2].[1-9,11]");
            None
        }
    }
}
