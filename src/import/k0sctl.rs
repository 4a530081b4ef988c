//! A `k0sctl.yaml`: hosts, the k0s release and the parts of its configuration that an inventory has a key for. The fields are
//! those of k0sctl's README, "Configuration File Spec".

use super::error::ImportError;
use super::found::{Found, FoundHost, Place};
use super::words::{SECRET, TAGGED, TEMPLATE, UNUSED, is_secret, is_template, words};
use crate::inventory::{Entry, Node, NodeRole, Value, is_user, yaml};
use std::sync::Arc;

/// Why the rest of the k0s configuration is left out.
const CONFIG: &str = "it is not copied; what is still wanted goes under cluster.k0s.config";
/// Keys of k0sctl's own, about how it installs.
const INSTALLING: &str = "provision installs k0s in its own way";

struct Reader {
    file: Arc<str>,
    found: Found,
}

/// Reads a configuration.
pub(super) fn read(name: &str, text: String) -> Result<Found, ImportError> {
    let document = yaml(name, text).map_err(ImportError::Yaml)?;
    let mut reader = Reader { file: Arc::from(name), found: Found::default() };
    reader.found.name = document.get("metadata").and_then(|m| m.get("name")).and_then(Node::text);
    let spec = document.get("spec").map(Node::entries).unwrap_or_default();
    for entry in spec {
        match (entry.key.as_str(), &entry.node.value) {
            ("hosts", Value::List(hosts)) => {
                for host in hosts {
                    if !reader.found.has_room(1) {
                        return Err(ImportError::TooMany);
                    }
                    reader.host(host);
                }
            }
            ("k0s", _) => reader.k0s(&entry.node),
            _ => reader.left_out(entry, INSTALLING),
        }
    }
    Ok(reader.found)
}

impl Reader {
    fn place(&self, entry: &Entry) -> Place {
        Place::of(&self.file, entry.span.line)
    }

    fn left_out(&mut self, entry: &Entry, why: &str) {
        let place = self.place(entry);
        let why = if is_secret(&entry.key) { SECRET } else { why };
        self.found.left_out(&place, entry.key.as_str(), why);
    }

    /// Returns a value that is one text and no template.
    fn text(&mut self, entry: &Entry) -> Option<String> {
        let text = entry.node.text();
        match &text {
            Some(text) if is_template(text) => self.left_out(entry, TEMPLATE),
            Some(_) if entry.node.is_tagged(&entry.span) => self.left_out(entry, TAGGED),
            Some(_) => return text,
            None => self.left_out(entry, "its value is a list or a mapping"),
        }
        None
    }

    fn k0s(&mut self, node: &Node) {
        for entry in node.entries() {
            match entry.key.as_str() {
                "version" => {
                    let place = self.place(entry);
                    self.found.k0s = self.text(entry).map(|version| (version, place));
                }
                "config" => {
                    let spec = entry.node.get("spec").map(Node::entries).unwrap_or_default();
                    spec.iter().for_each(|section| self.config(section));
                }
                _ => self.left_out(entry, INSTALLING),
            }
        }
    }

    /// Reads a section of the k0s ClusterConfig.
    fn config(&mut self, section: &Entry) {
        if !matches!(section.key.as_str(), "api" | "network") {
            return self.left_out(section, CONFIG);
        }
        for entry in section.node.entries() {
            match (section.key.as_str(), entry.key.as_str(), &entry.node.value) {
                ("api", "externalAddress", _) => self.found.external = self.text(entry),
                ("api", "sans", Value::List(items)) => {
                    self.found.sans.extend(items.iter().filter_map(Node::text));
                }
                // k0s's own defaults.
                ("api", "port", _) if entry.node.whole() == Some(6443) => {}
                ("api", "k0sApiPort", _) if entry.node.whole() == Some(9443) => {}
                ("network", "podCIDR", _) => self.found.pod_cidr = self.text(entry),
                ("network", "serviceCIDR", _) => self.found.service_cidr = self.text(entry),
                (_, key, _) => {
                    let (place, what) = (self.place(entry), format!("{}.{key}", section.key));
                    self.found.left_out(&place, what, if is_secret(key) { SECRET } else { CONFIG });
                }
            }
        }
    }

    fn host(&mut self, node: &Node) {
        let mut host = FoundHost::of("", Place::of(&self.file, node.span.line));
        let mut login = None;
        for entry in node.entries() {
            match entry.key.as_str() {
                "ssh" | "openSSH" => {
                    login = Some(());
                    self.ssh(&entry.node, &mut host);
                }
                "role" => host.role = self.role(entry),
                "hostname" => host.name = self.text(entry).unwrap_or_default(),
                "privateAddress" => host.cluster_address = self.text(entry),
                "privateInterface" => host.cluster_interface = self.text(entry),
                "installFlags" => self.flags(entry, &mut host),
                // Controllers that run workloads have no taint here.
                "noTaints" => {}
                "winRM" | "localhost" => {}
                _ => self.left_out(entry, INSTALLING),
            }
        }
        match (login, node.get("winRM").is_some()) {
            (Some(()), _) => self.found.hosts.push(host),
            (None, true) => {
                let why = "provision does not manage Windows hosts";
                self.found.left_out(&host.place, "a host with winRM", why);
            }
            (None, false) => {
                let why = "provision connects over SSH: add it with its address";
                self.found.left_out(&host.place, "a host without ssh", why);
            }
        }
    }

    fn ssh(&mut self, node: &Node, host: &mut FoundHost) {
        for entry in node.entries() {
            match entry.key.as_str() {
                "address" => host.address = self.text(entry),
                "user" => host.user = self.text(entry),
                "port" => {
                    host.port = entry.node.whole().and_then(|port| port.try_into().ok()).filter(|p| *p != 22)
                }
                "keyPath" => host.identities.extend(self.text(entry)),
                "bastion" => {
                    let mut bastion = FoundHost::of("", host.place.clone());
                    self.ssh(&entry.node, &mut bastion);
                    let user = bastion.user.filter(|user| is_user(user)).map(|user| format!("{user}@"));
                    let port = bastion.port.map(|port| format!(":{port}")).unwrap_or_default();
                    host.bastions = bastion.bastions;
                    let address = bastion
                        .address
                        .map(|a| if a.contains(':') && !port.is_empty() { format!("[{a}]") } else { a });
                    host.bastions.extend(address.map(|a| format!("{}{a}{port}", user.unwrap_or_default())));
                    let more = bastion.identities.into_iter().filter(|key| !host.identities.contains(key));
                    host.identities.extend(more.collect::<Vec<_>>());
                }
                _ => self.left_out(
                    entry,
                    "this setting of ssh is not copied; set it in ~/.ssh/config, which provision reads",
                ),
            }
        }
    }

    fn role(&mut self, entry: &Entry) -> Option<NodeRole> {
        match self.text(entry)?.as_str() {
            "controller" => Some(NodeRole::Controller),
            "controller+worker" => Some(NodeRole::ControllerWorker),
            "single" => Some(NodeRole::Single),
            "worker" => Some(NodeRole::Worker),
            _ => {
                self.left_out(entry, "it is not a role of k0sctl");
                None
            }
        }
    }

    /// Reads labels and taints out of the flags of `k0s install`.
    fn flags(&mut self, entry: &Entry, host: &mut FoundHost) {
        let Value::List(items) = &entry.node.value else { return self.left_out(entry, "it is not a list") };
        for item in items {
            let place = Place::of(&self.file, item.span.line);
            let Some(text) = item.text().filter(|text| !is_template(text)) else {
                self.found.left_out(&place, "an install flag", TEMPLATE);
                continue;
            };
            // `--labels="a=b,c=d"` and `--labels a=b`.
            let parts = words(&text).unwrap_or_default();
            let (flag, value) = match parts.as_slice() {
                [flag, value] if !flag.contains('=') => (flag.as_str(), value.as_str()),
                [whole] => whole.split_once('=').unwrap_or((whole, "")),
                _ => ("an install flag", ""),
            };
            let values = || value.split(',').map(str::trim).filter(|value| !value.is_empty());
            match flag {
                "--labels" => host.labels.extend(
                    values()
                        .map(|label| label.split_once('=').unwrap_or((label, "")))
                        .map(|(k, v)| (k.to_owned(), v.to_owned())),
                ),
                "--taints" => host.taints.extend(values().map(str::to_owned)),
                "--no-taints" => {}
                "--enable-worker" if host.role != Some(NodeRole::Single) => {
                    host.role = Some(NodeRole::ControllerWorker)
                }
                flag => self.found.left_out(&place, flag, if is_secret(flag) { SECRET } else { UNUSED }),
            }
        }
    }
}
