//! The commented inventory to start from that `provision init` and `provision import` write. Owns its text; what is in it comes
//! from a person or from another tool's files.

use super::accelerators::best;
use super::{Accelerator, NodeRole};
use crate::catalog::{Catalog, Product, Vendor};
use crate::state::plain_line;
use std::collections::BTreeMap;

/// The k0s release of a new cluster.
pub const K0S: &str = "v1.35.7+k0s.0";
/// The pod network of a new cluster: a /24 for each of 2,048 nodes.
pub const POD_CIDR: &str = "10.240.0.0/13";
/// The service network of a new cluster.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";

/// Returns so many of a product, with the newest driver or SDK of the catalog that fits it; `None` if none does.
pub fn newest(catalog: &Catalog, product: &Product, count: u32) -> Option<Accelerator> {
    let slug = product.slug.clone();
    match product.vendor {
        Vendor::Nvidia => best(catalog, product).map(|b| Accelerator::Nvidia {
            product: slug,
            count,
            driver: b.latest.clone(),
            module: None,
            mig: None,
            diagnostics: true,
        }),
        Vendor::Neuron => catalog
            .neuron_sdks()
            .iter()
            .rfind(|s| s.driver.is_some() && s.products.iter().chain(&s.host_products).any(|p| *p == slug))
            .map(|s| Accelerator::Neuron {
                product: slug,
                count,
                sdk: s.sdk.clone(),
                lnc: None,
                diagnostics: true,
            }),
    }
}

/// An inventory to start from.
#[derive(Clone, PartialEq, Debug)]
pub struct Starter {
    /// The cluster's name.
    pub name: String,
    /// SSH access to hosts.
    pub ssh: StarterSsh,
    /// The k0s release.
    pub k0s: String,
    /// Further names and addresses of the API in its certificate.
    pub sans: Vec<String>,
    /// The address of an external load balancer of the API.
    pub external: Option<String>,
    /// The pod network.
    pub pod_cidr: String,
    /// The service network.
    pub service_cidr: String,
    /// The pools, in order.
    pub pools: Vec<StarterPool>,
    /// Comments at the end, a line each.
    pub notes: Vec<String>,
}

/// SSH access of all hosts, or of those of a pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct StarterSsh {
    /// Login name.
    pub user: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// `[user@]host[:port]`, in hop order; `Some` and empty is none at all.
    pub bastions: Option<Vec<String>>,
    /// Private key files.
    pub identities: Vec<String>,
}

/// A pool to start from.
#[derive(Clone, PartialEq, Debug)]
pub struct StarterPool {
    /// Its name.
    pub name: String,
    /// Comments above its keys, a line each.
    pub comments: Vec<String>,
    /// Its role.
    pub role: NodeRole,
    /// SSH access, where it is not that of the inventory.
    pub ssh: StarterSsh,
    /// The accelerator of its hosts.
    pub accelerator: Option<Accelerator>,
    /// The interface of etcd, kubelet and API.
    pub cluster_interface: Option<String>,
    /// Node labels.
    pub labels: BTreeMap<String, String>,
    /// Node taints.
    pub taints: Vec<String>,
    /// Its hosts, in order.
    pub hosts: Vec<StarterHost>,
}

/// A host, or a range of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StarterHost {
    /// Its name: `h-1`, or `h-[1-8]`.
    pub name: String,
    /// Address for SSH.
    pub address: Option<String>,
    /// SSH port.
    pub port: Option<u16>,
    /// Login name.
    pub user: Option<String>,
    /// Address of etcd, kubelet and API.
    pub cluster_address: Option<String>,
    /// Rack.
    pub rack: Option<String>,
    /// BMC address.
    pub bmc: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Additional node labels.
    pub labels: BTreeMap<String, String>,
    /// A comment behind it.
    pub comment: Option<String>,
}

/// Returns a text in quotes; JSON's are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns a text as a YAML value: plain where it cannot be read as anything else.
fn scalar(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | '@' | '~');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = first && text.chars().all(word) && !reserved.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { quoted(text) }
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| scalar(text)).collect::<Vec<_>>().join(", "))
}

fn map(texts: &BTreeMap<String, String>) -> String {
    let entry = |(key, value): (&String, &String)| format!("{}: {}", scalar(key), scalar(value));
    format!("{{{}}}", texts.iter().map(entry).collect::<Vec<_>>().join(", "))
}

fn section(keys: &[(&str, Option<String>)]) -> String {
    let given = keys.iter().filter_map(|(key, value)| Some(format!("{key}: {}", value.as_ref()?)));
    format!("{{{}}}", given.collect::<Vec<_>>().join(", "))
}

impl StarterSsh {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn text(&self) -> String {
        section(&[
            ("user", self.user.as_deref().map(scalar)),
            ("port", self.port.map(|port| port.to_string())),
            ("bastions", self.bastions.as_deref().map(list)),
            ("identities", Some(&self.identities).filter(|all| !all.is_empty()).map(|all| list(all))),
        ])
    }
}

/// Returns an accelerator as the value of the key `accelerator`.
fn accelerator_text(accelerator: &Accelerator) -> String {
    match accelerator {
        Accelerator::Nvidia { product, count, driver, .. } => {
            format!("{{nvidia: {{product: {}, count: {count}, driver: \"{driver}\"}}}}", scalar(product))
        }
        Accelerator::Neuron { product, count, sdk, .. } => {
            format!("{{neuron: {{product: {}, count: {count}, sdk: \"{sdk}\"}}}}", scalar(product))
        }
    }
}

impl StarterHost {
    fn text(&self) -> String {
        let name = if self.name.contains('[') { quoted(&self.name) } else { scalar(&self.name) };
        let body = section(&[
            ("address", self.address.as_deref().map(quoted)),
            ("port", self.port.map(|port| port.to_string())),
            ("user", self.user.as_deref().map(scalar)),
            ("clusterAddress", self.cluster_address.as_deref().map(quoted)),
            ("rack", self.rack.as_deref().map(scalar)),
            ("bmc", self.bmc.as_deref().map(quoted)),
            ("serial", self.serial.as_deref().map(scalar)),
            ("labels", Some(&self.labels).filter(|labels| !labels.is_empty()).map(map)),
        ]);
        let comment = self.comment.as_deref().map(|c| format!("  # {}", plain_line(c))).unwrap_or_default();
        format!("      {name}: {body}{comment}\n")
    }
}

impl StarterPool {
    /// Returns a pool of hosts by their addresses, named `PREFIX-1` and so on.
    pub fn of(name: &str, role: NodeRole, prefix: &str, addresses: &[String]) -> Self {
        let host = |(n, address): (usize, &String)| StarterHost {
            name: format!("{prefix}-{}", n + 1),
            address: Some(address.clone()),
            ..StarterHost::default()
        };
        Self {
            name: name.to_owned(),
            comments: Vec::new(),
            role,
            ssh: StarterSsh::default(),
            accelerator: None,
            cluster_interface: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            hosts: addresses.iter().enumerate().map(host).collect(),
        }
    }

    fn text(&self) -> String {
        let role = match self.role {
            NodeRole::Controller => "controller",
            NodeRole::Worker => "worker",
            NodeRole::ControllerWorker => "controller+worker",
            NodeRole::Single => "single",
        };
        let mut text = format!("  {}:\n", scalar(&self.name));
        for comment in &self.comments {
            text += &format!("    # {}\n", plain_line(comment));
        }
        text += &format!("    role: {role}\n");
        let keys = [
            ("ssh", (!self.ssh.is_empty()).then(|| self.ssh.text())),
            ("accelerator", self.accelerator.as_ref().map(accelerator_text)),
            ("clusterInterface", self.cluster_interface.as_deref().map(scalar)),
            ("labels", Some(&self.labels).filter(|labels| !labels.is_empty()).map(map)),
            ("taints", Some(&self.taints).filter(|taints| !taints.is_empty()).map(|taints| list(taints))),
        ];
        for (key, value) in keys.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            text += &format!("    {key}: {value}\n");
        }
        text + "    hosts:\n" + &self.hosts.iter().map(StarterHost::text).collect::<String>()
    }
}

/// Returns the inventory's text.
pub fn starter_text(starter: &Starter) -> String {
    let pools: String = starter.pools.iter().map(StarterPool::text).collect();
    let config = match starter.sans.as_slice() {
        [] => String::new(),
        sans => format!(", config: {{spec: {{api: {{sans: {}}}}}}}", list(sans)),
    };
    let endpoint = starter.external.as_ref().map(|address| {
        format!(
            "  # A load balancer of the controllers, which is not set up here.\n  \
             endpoint: {{external: {{address: {}}}}}\n",
            quoted(address)
        )
    });
    let notes: String = match starter.notes.as_slice() {
        [] => String::new(),
        notes => "\n".to_owned() + &notes.iter().map(|n| comment(n)).collect::<String>(),
    };
    format!(
        "# yaml-language-server: $schema=schema.json   (provision schema > schema.json)\n\
         apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: {}}}\n\n\
         # SSH access to hosts. Record their host keys with `provision trust`.\n\
         ssh: {}\n\n\
         cluster:\n  k0s: {{version: {}{config}}}\n{}  # These networks must not contain host addresses; each node takes a /24 of podCIDR.\n  \
         network: {{podCIDR: {}, serviceCIDR: {}}}\n\n\
         # Pools of hosts with identical configuration. Ranges are supported: \"h-[001-064]\": {{address: \"10.20.1.[1-64]\"}}\npools:\n{pools}\n\
         # Router, models and tenants: uncomment and fill in.\n\
         # router: {{kthena: {{version: v1.0.0}}}}\n\
         # models:\n#   my-model:\n#     source: {{huggingFace: {{repo: owner/name, revision: \"<commit>\"}}}}\n\
         #     engine: {{vllm: {{image: \"vllm/vllm-openai@sha256:<digest>\"}}}}\n\
         #     placement: {{pool: workers, acceleratorsPerReplica: 1, replicas: 1}}\n\
         # tenants:\n#   me: {{gateway: {{port: 8081}}, routes: {{my-model: {{to: {{my-model: 100}}}}}}}}\n{notes}",
        scalar(&starter.name),
        starter.ssh.text(),
        starter.k0s,
        endpoint.unwrap_or_default(),
        starter.pod_cidr,
        starter.service_cidr
    )
}

fn comment(line: &str) -> String {
    let line = plain_line(line);
    if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") }
}
