//! From a tree of the right shape to the model: defaults, ranges, CSV, references by name. Further static checks
//! are in `check`.

use super::diagnostic::{Diagnostic, Problems};
use super::files::{Files, texts as texts_below};
use super::model::*;
use super::reader::{HostSpans, Reader, certificates, flag, share, text, text_map, texts};
use super::tree::{Entry, Node, Value};
use super::{check, edge, extra, hosts, routing, written};
use crate::catalog::Catalog;
use crate::state::{HostName, PoolName};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The most accelerators, or links, of a host: more than any has; a typing error has hundreds.
const MOST_DEVICES: u32 = 128;
/// The most replicas of a model.
const MOST_REPLICAS: u32 = 10_000;
/// The longest that a drain may wait, in seconds: a day.
const MOST_DRAIN_SECONDS: u32 = 86_400;

/// First node port unless given.
const NODE_PORT_BASE: u16 = 30080;
/// The gateway port whose node port would be the base; the router itself uses it, so that no tenant has it.
const FIRST_GATEWAY_PORT: u16 = 8080;

/// Returns the node port of a gateway from its own port alone: no other tenant that comes or goes moves it. What would lie
/// past the end of Kubernetes' range goes on from its beginning.
fn node_port(base: u16, port: u16) -> u16 {
    let (first, last) = (i32::from(*NODE_PORTS.start()), i32::from(*NODE_PORTS.end()));
    let from_first = i32::from(base) + i32::from(port) - i32::from(FIRST_GATEWAY_PORT) - first;
    // Within the range, so within 16 bits.
    (first + from_first.rem_euclid(last - first + 1)) as u16
}

/// Builds the model and checks it. `None` when a part that others need is missing; the problems say which.
pub(super) fn build(
    files: &dyn Files,
    root: &Path,
    top: &Node,
    catalog: &Catalog,
    problems: &mut Problems,
) -> Option<Inventory> {
    let mut reader = Reader { files, root, top, problems, expanded: 0, copied: 0, spans: HostSpans::new() };
    let mut inventory = read(&mut reader, top)?;
    let spans = reader.spans;
    // What could not be read would only make false alarms of what refers to it.
    let broken: Vec<String> = top
        .entries()
        .iter()
        .filter(|entry| {
            let inside = |p: &Diagnostic| match &p.span {
                Some(span) if span.source.name.ends_with(".csv") => entry.key == "pools",
                Some(span) => entry.node.holds(span),
                None => false,
            };
            problems.iter().any(inside)
        })
        .map(|entry| entry.key.clone())
        .collect();
    check::check(&inventory, top, catalog, &broken, &spans, problems);
    inventory.written = Written {
        fields: written::fields(top).into_iter().chain(edge::written(&inventory.tenants)).collect(),
        hosts: spans.iter().map(|(host, span)| (host.clone(), written::place(span))).collect(),
    };
    Some(inventory)
}

fn read(r: &mut Reader<'_>, top: &Node) -> Option<Inventory> {
    for (key, wanted) in [("apiVersion", "provision/v1"), ("kind", "Inventory")] {
        if let Some(node) = top.get(key)
            && node.text().as_deref() != Some(wanted)
        {
            let hint = format!("Set {key}: {wanted}");
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
        let hint = "Set firewall: check, which tests the required ports and changes nothing";
        r.error("E-NOT-SUPPORTED", node, "`firewall` supports only `check`", hint);
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
            edge: edge::proxy(node),
            node_port_base: r.fits(base, "base").unwrap_or(NODE_PORT_BASE),
            replicas: routing::replicas(r, kthena),
            max_waiting_requests: routing::waiting(r, kthena),
            scheduling: routing::scheduling(r, kthena.and_then(|n| n.get("scheduling"))),
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
        let gateway = entry.node.get("gateway");
        let port = r.fits(gateway, "port").unwrap_or(0);
        let tenant = Tenant {
            name: entry.key.clone(),
            port,
            node_port: r.fits(gateway, "nodePort").unwrap_or_else(|| node_port(base, port)),
            routes: routes.iter().map(|route| (route.key.clone(), routing::read(r, &route.node))).collect(),
            allow_from: edge::allowed(r, &entry.node),
            keys: edge::keys(r, entry, &secrets),
            limits: edge::limits(r, &entry.node),
            tls: edge::tls(r, &entry.node, &secrets),
        };
        tenants.insert(entry.key.clone(), tenant);
    }
    Some(Inventory {
        digest: digest(top, &all_hosts, &tenants),
        root: r.root.to_owned(),
        roles: roles(r),
        name,
        ssh,
        network: HostNetwork {
            proxy: text(network, "proxy"),
            no_proxy: texts(network, "noProxy"),
            ca_bundle: network
                .and_then(|n| n.get("caBundle"))
                .map(|n| certificates(r, n, "caBundle"))
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
        extra_objects: extra::read(r),
        secrets,
        written: Written::default(),
    })
}

/// Reads the roles next to the inventory: `NAME/role.yaml` and templates. Of other files only the path is kept, so that a
/// folder that no host would get can be named.
fn roles(r: &mut Reader<'_>) -> BTreeMap<String, String> {
    let folder = r.root.join("roles");
    let used = |path: &Path| {
        let mut parts = path.iter().skip(1);
        let first = parts.next();
        first.is_some_and(|p| p == "templates")
            || (first.is_some_and(|p| p == "role.yaml") && parts.next().is_none())
    };
    match texts_below(r.files, &folder, used) {
        Ok(found) => found.into_iter().map(|(path, text)| (path.display().to_string(), text)).collect(),
        Err((path, error)) => {
            let message = format!("cannot read {}: {error}", path.display());
            let hint = "Use regular files inside the inventory's folder for its roles";
            r.problems.push(Diagnostic::error("E-READ", message).hint(hint));
            BTreeMap::new()
        }
    }
}

/// Returns a digest of what is written, of all hosts, wherever they come from, and of what lies beside the inventory for tenants.
fn digest(top: &Node, hosts: &BTreeMap<HostName, Host>, tenants: &BTreeMap<String, Tenant>) -> String {
    let mut digest = Sha256::new_with_prefix(top.json_as_written().to_string());
    digest.update(serde_json::to_vec(hosts).unwrap_or_default());
    for (name, field) in edge::written(tenants) {
        digest.update(format!("{name}={}\n", field.value));
    }
    digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
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

/// Returns the file that a path of the inventory is: below the user's folder, absolute, or relative to the inventory.
fn at_home(root: &Path, path: &str) -> PathBuf {
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    match path.strip_prefix("~/").and_then(|rest| Some(home()?.join(rest))) {
        Some(file) => file,
        None => root.join(path),
    }
}

fn key_files(r: &Reader<'_>, node: Option<&Node>) -> Vec<PathBuf> {
    texts(node, "identities").iter().map(|path| at_home(r.root, path)).collect()
}

fn read_ssh(r: &mut Reader<'_>, node: Option<&Node>, secrets: &BTreeMap<String, SecretSource>) -> Ssh {
    let known_hosts =
        text(node.and_then(|n| n.get("hostKeys")), "file").unwrap_or_else(|| "known_hosts".to_owned());
    Ssh {
        user: text(node, "user"),
        port: r.port(node),
        bastions: texts(node, "bastions"),
        identities: key_files(r, node),
        passphrase: r.secret(node, "passphrase", secrets),
        password: r.secret(node, "password", secrets),
        sudo_password: r.secret(node, "sudoPassword", secrets),
        known_hosts: at_home(r.root, &known_hosts),
        agent: flag(node, "agent", true),
        sockets: None,
    }
}

fn read_cluster(r: &mut Reader<'_>, node: &Node) -> Option<Cluster> {
    let k0s = node.get("k0s");
    let network = node.get("network");
    let mut cidr = |key: &str, default: &str| {
        let given = network.and_then(|n| n.get(key));
        let written = given.and_then(Node::text).unwrap_or_else(|| default.to_owned());
        match (written.parse::<ipnet::IpNet>(), given) {
            (Ok(net), Some(node)) if net != net.trunc() => {
                let message = format!("`{written}` is an address in a network, not a network");
                r.error("E-CIDR", node, message, format!("Use {key}: {}", net.trunc()));
                Some(net.trunc())
            }
            (Ok(net), _) => Some(net),
            (Err(_), Some(node)) => {
                let message = format!("`{written}` is not a network such as {default}");
                r.error("E-CIDR", node, message, "Use an address, a slash and a prefix length");
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
                    let message = format!("`{written}` is not an address with a prefix length");
                    r.error(
                        "E-VIP",
                        at,
                        message,
                        "Use an address in the controllers' network: 10.20.0.10/24",
                    );
                    return None;
                }
            }
        }
        (None, None) => Endpoint::NodeLocal,
    };
    let backup = read_backup(r, node.get("backup"));
    Some(Cluster {
        k0s_version: text(k0s, "version")?,
        k0s_config: k0s.and_then(|n| n.get("config")).map(Node::json).unwrap_or(serde_json::Value::Null),
        containerd: text_map(k0s, "containerd"),
        endpoint,
        pod_cidr: pod_cidr?,
        service_cidr: service_cidr?,
        backup,
    })
}

/// How many backups are kept where the inventory does not say.
const BACKUPS: u32 = 10;

fn read_backup(r: &mut Reader<'_>, node: Option<&Node>) -> BackupPolicy {
    let recipients = match node.and_then(|n| n.get("recipients")).map(|n| &n.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    for recipient in recipients {
        let Some(written) = recipient.text() else { continue };
        if written.parse::<age::x25519::Recipient>().is_err() {
            if written.to_uppercase().contains("AGE-SECRET-KEY-") {
                let message = "this is an age identity, which is a secret key, not a recipient";
                r.error_unquoted("E-BACKUP", recipient, message, "Use its public key (`age-keygen -y FILE`), and create a new identity: this one is exposed in the inventory");
                continue;
            }
            let message = format!("`{written}` is not an age recipient");
            r.error("E-BACKUP", recipient, message, "Use the public key that age-keygen prints: age1…");
        }
    }
    let mut positive = |key: &str| {
        let number: Option<u32> = r.fits(node, key);
        if number == Some(0)
            && let Some(value) = node.and_then(|n| n.get(key))
        {
            r.error(
                "E-BACKUP",
                value,
                format!("`{key}` must be at least 1"),
                "The newest backup is always kept",
            );
        }
        number
    };
    let (keep, keep_days) = (positive("keep"), positive("keepDays"));
    BackupPolicy {
        recipients: texts(node, "recipients"),
        keep: keep.unwrap_or(BACKUPS).max(1),
        keep_days,
        before_upgrade: flag(node, "beforeUpgrade", true),
    }
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
        let count = r.at_most(Some(&a.node), "count", MOST_DEVICES)?;
        Some(match a.key.as_str() {
            "nvidia" => {
                let flavours = [("open", ModuleFlavour::Open), ("closed", ModuleFlavour::Closed)];
                Accelerator::Nvidia {
                    product,
                    count,
                    driver: text(Some(&a.node), "driver")?,
                    module: a.node.get("module").and_then(|module| r.word(module, &flavours)),
                    mig: a.node.get("mig").map(|mig| r.counts(mig)),
                    diagnostics: flag(Some(&a.node), "diagnostics", true),
                }
            }
            _ => Accelerator::Neuron {
                product,
                count,
                sdk: text(Some(&a.node), "sdk")?,
                lnc: r.fits(Some(&a.node), "lnc"),
                diagnostics: flag(Some(&a.node), "diagnostics", true),
            },
        })
    });
    let disruption = entry.node.get("disruption");
    let part = |key: &str| text(disruption, key).and_then(|t| share(&t)).unwrap_or(Share::Percent(10));
    Some(Pool {
        name: PoolName::new(entry.key.clone()),
        role,
        ssh: entry.node.get("ssh").map(|ssh| PoolSsh {
            user: text(Some(ssh), "user"),
            port: r.port(Some(ssh)),
            bastions: ssh.get("bastions").map(|_| texts(Some(ssh), "bastions")),
            identities: key_files(r, Some(ssh)),
        }),
        accelerator,
        efa: r.at_most(entry.node.get("efa"), "count", MOST_DEVICES),
        rdma: r.at_most(entry.node.get("rdma"), "count", MOST_DEVICES),
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
            canary: r.fits(disruption, "canary").unwrap_or(1),
            drain_s: r.at_most(disruption, "drainSeconds", MOST_DRAIN_SECONDS).unwrap_or(DRAIN_SECONDS),
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
        let hint =
            "Use a path listed by `ls -l /dev/disk/by-id`; names such as /dev/sdb can change at a reboot";
        r.error("E-DISK-NAME", at, format!("`{}` is not below /dev/disk/by-id", disk.disk), hint);
    }
    if let Some(filesystem) = node.and_then(|n| n.get("filesystem")) {
        r.word(filesystem, &[("ext4", ()), ("xfs", ())]);
    }
    if let (true, Some(erase)) = (disk.keep, node.and_then(|n| n.get("erase"))) {
        r.error("E-DISK-KEEP", erase, "`keep` and `erase` exclude each other", "Remove one of the two");
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
            env: text_map(Some(&engine.node), "env"),
            resources: EngineResources {
                cpu: text(engine.node.get("resources"), "cpu"),
                memory: text(engine.node.get("resources"), "memory"),
                shm: text(engine.node.get("resources"), "shm"),
            },
        },
        pool: PoolName::new(text(placement, "pool")?),
        accelerators_per_replica: r.at_most(placement, "acceleratorsPerReplica", MOST_DEVICES)?,
        replicas: r.at_most(placement, "replicas", MOST_REPLICAS).unwrap_or(1),
    })
}
