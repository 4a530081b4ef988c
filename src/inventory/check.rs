//! What paper can tell: references, catalog windows, networks, ports, "will it fit". No host is asked.

use super::accelerators;
use super::diagnostic::Diagnostic;
use super::hosts::{is_dns_label, place_of};
use super::model::*;
use super::tree::Node;
use crate::catalog::Catalog;
use std::collections::BTreeMap;

/// Ports that the router itself uses: requests, webhook, metrics, debug (kthena 1.0.0).
const ROUTER_PORTS: [u16; 4] = [8080, 8443, 9090, 15000];

const LABEL_HINT: &str = "an optional DNS name and a slash, then up to 63 letters, digits, `-`, `_`, `.`";

/// Returns whether a text can be a label's name part or value: Kubernetes' qualified name.
fn is_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(text.chars().next())
        && edge(text.chars().next_back())
}

/// Returns the network that hosts near an address are likely in.
fn near(address: std::net::IpAddr) -> String {
    let bits = if address.is_ipv4() { 16 } else { 64 };
    ipnet::IpNet::new(address, bits).map(|n| n.trunc().to_string()).unwrap_or_else(|_| address.to_string())
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => prefix.split('.').all(is_dns_label) && is_word(name),
        None => is_word(key),
    }
}

fn is_label(key: &str, value: &str) -> bool {
    is_label_key(key) && (value.is_empty() || is_word(value))
}

/// Returns whether a text is a taint: `key=value:Effect` or `key:Effect`.
fn is_taint(taint: &str) -> bool {
    let Some((left, effect)) = taint.rsplit_once(':') else { return false };
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") && is_label(key, value)
}

struct Checker<'a> {
    inventory: &'a Inventory,
    top: &'a Node,
    broken: &'a [String],
    problems: &'a mut Vec<Diagnostic>,
}

/// Adds every problem found. `broken` are the sections that could not be read whole: nothing is said of what needs them.
pub(super) fn check(
    inventory: &Inventory,
    top: &Node,
    catalog: &Catalog,
    broken: &[String],
    problems: &mut Vec<Diagnostic>,
) {
    let mut c = Checker { inventory, top, broken, problems };
    c.name();
    c.versions(catalog);
    c.networks();
    c.registries();
    c.repositories();
    if c.sound("pools") {
        c.controllers();
        c.addresses();
        c.pools();
        c.blocks();
        c.way_out();
        c.vip();
        c.interfaces();
        c.home();
    }
    if c.sound("pools") && c.sound("models") {
        c.placements();
    }
    if c.sound("tenants") {
        c.tenants();
    }
    let sound = c.sound("pools");
    if sound {
        accelerators::check(inventory, top, catalog, problems);
    }
}

impl<'a> Checker<'a> {
    /// Returns the node at a path, or the nearest above it.
    fn node(&self, path: &[&str]) -> &'a Node {
        let mut at = self.top;
        for part in path {
            match at.get(part) {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    fn sound(&self, section: &str) -> bool {
        !self.broken.iter().any(|b| b == section)
    }

    fn push(&mut self, diagnostic: Diagnostic, path: &[&str]) {
        let place = self.node(path).place.clone();
        self.problems.push(diagnostic.at(&place));
    }

    fn error(&mut self, code: &'static str, path: &[&str], message: impl Into<String>, hint: &str) {
        self.push(Diagnostic::error(code, message).hint(hint), path);
    }

    fn at_host(&mut self, diagnostic: Diagnostic, host: &Host) {
        let place = place_of(self.node(&["pools", host.pool.as_str()]), host.name.as_str());
        self.problems.push(diagnostic.at(&place));
    }

    fn name(&mut self) {
        let named = |kind: &str, names: Vec<&String>| {
            names
                .into_iter()
                .filter(|n| !is_dns_label(n))
                .map(|n| (kind.to_owned(), n.clone()))
                .collect::<Vec<_>>()
        };
        let mut bad = named("models", self.inventory.models.keys().collect());
        bad.extend(named("tenants", self.inventory.tenants.keys().collect()));
        for (kind, name) in bad {
            let hint = "lower-case letters, digits and `-`, at most 63";
            self.error("E-NAME", &[&kind, &name], format!("`{name}` is not DNS-1123"), hint);
        }
        if !is_dns_label(&self.inventory.name) {
            let message = format!("`{}` is not DNS-1123", self.inventory.name);
            let hint = "lower-case letters, digits and `-`, at most 63";
            self.error("E-NAME", &["metadata", "name"], message, hint);
        }
    }

    fn versions(&mut self, catalog: &Catalog) {
        let version = self.inventory.cluster.k0s_version.clone();
        let path = ["cluster", "k0s", "version"];
        let known = || {
            let all: Vec<&str> =
                catalog.k0s_lines().iter().flat_map(|l| &l.versions).map(String::as_str).collect();
            format!("the catalog has {}; add a file in catalog/ for another", all.join(", "))
        };
        match catalog.k0s_line(&version) {
            Some(line) => {
                if let Some(why) = line.refused.get(&version) {
                    self.error(
                        "E-K0S-VERSION",
                        &path,
                        format!("k0s {version} must not be used: {why}"),
                        &known(),
                    );
                } else if !line.versions.contains(&version) {
                    self.error(
                        "E-K0S-VERSION",
                        &path,
                        format!("k0s {version} is not in the catalog"),
                        &known(),
                    );
                }
            }
            None => {
                self.error("E-K0S-VERSION", &path, format!("k0s {version} is outside the catalog"), &known())
            }
        }
        if let Some(router) = &self.inventory.router
            && catalog.kthena(&router.version).is_none()
        {
            let all: Vec<&str> = catalog.kthena_releases().iter().map(|k| k.version.as_str()).collect();
            let hint = format!("the catalog has {}", all.join(", "));
            let message = format!("Kthena {} is outside the catalog", router.version);
            self.error("E-KTHENA-VERSION", &["router", "kthena", "version"], message, &hint);
        }
    }

    fn controllers(&mut self) {
        let inventory = self.inventory;
        let count = inventory.controllers().count();
        let single = inventory.active().any(|h| inventory.pool_of(h).role == NodeRole::Single);
        let active = inventory.active().count();
        if count == 0 {
            self.error(
                "E-CONTROLLERS",
                &["pools"],
                "no pool has an active controller",
                "role: controller, or single for one host",
            );
        } else if single && active > 1 {
            let message = format!("role single is a cluster of one host; {active} are active");
            self.error("E-SINGLE", &["pools"], message, "use controller+worker");
        } else if count.is_multiple_of(2) {
            let warning = Diagnostic::warning(
                "W-EVEN-CONTROLLERS",
                format!("{count} controllers survive no more failures than {}", count - 1),
            )
            .hint("an odd number of controllers is what etcd wants");
            self.push(warning, &["pools"]);
        }
    }

    fn addresses(&mut self) {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for host in self.inventory.hosts.values().filter(|h| h.state != HostState::Retired) {
            // Two hosts may share an SSH address on different ports, but never a cluster address.
            let key = match host.cluster_address {
                Some(address) if address.is_loopback() => {
                    format!("{address} port {}", host.port.unwrap_or(0))
                }
                Some(address) => address.to_string(),
                None => format!("{} port {}", host.address, host.port.unwrap_or(0)),
            };
            if let Some(other) = seen.insert(key.clone(), host.name.as_str()) {
                let message = format!("hosts `{other}` and `{}` have one cluster address, {key}", host.name);
                let problem = Diagnostic::error("E-DUPLICATE-ADDRESS", message)
                    .hint("give each its own address, or clusterAddress");
                self.at_host(problem, host);
            }
        }
    }

    /// What pools say of their nodes, in Kubernetes' own forms.
    fn pools(&mut self) {
        let inventory = self.inventory;
        for pool in inventory.pools.values() {
            for taint in pool.taints.iter().filter(|t| !is_taint(t)) {
                let message = format!("`{taint}` is no taint");
                let hint =
                    "key=value:Effect or key:Effect; effects are NoSchedule, PreferNoSchedule, NoExecute";
                self.error("E-TAINT", &["pools", pool.name.as_str(), "taints"], message, hint);
            }
            for (key, value) in pool.labels.iter().filter(|(k, v)| !is_label(k, v)) {
                let path = ["pools", pool.name.as_str(), "labels", key.as_str()];
                let message = format!("`{key}: {value}` is no node label");
                self.error("E-LABEL", &path, message, LABEL_HINT);
            }
            let disks = [&pool.data_disk, &pool.models_disk].map(|d| d.as_ref().map(|d| &d.disk));
            if let [Some(data), Some(models)] = disks
                && data == models
            {
                let path = ["pools", pool.name.as_str(), "storage", "models", "disk"];
                let message = format!("{data} is the disk of data and of models");
                let hint = "one disk for both: leave out models.disk, with a path below /var/lib/k0s";
                self.error("E-DISK-TWICE", &path, message, hint);
            }
            if !pool.models_path.starts_with('/') {
                let path = ["pools", pool.name.as_str(), "storage", "models", "path"];
                let message = format!("`{}` is not absolute", pool.models_path);
                self.error("E-PATH", &path, message, "a path on the host that begins with /");
            }
        }
        for host in inventory.hosts.values() {
            for (key, value) in host.labels.iter().filter(|(k, v)| !is_label(k, v)) {
                let message = format!("`{key}: {value}` is no node label");
                self.at_host(Diagnostic::error("E-LABEL", message).hint(LABEL_HINT), host);
            }
        }
        for model in inventory.models.values() {
            if let ModelSource::Path { path } = &model.source
                && !path.starts_with('/')
            {
                let at = ["models", model.name.as_str(), "source", "path"];
                let message = format!("`{path}` is not absolute");
                self.error("E-PATH", &at, message, "a path on the host that begins with /");
            }
        }
    }

    fn networks(&mut self) {
        let cluster = &self.inventory.cluster;
        let (pods, services) = (cluster.pod_cidr, cluster.service_cidr);
        let overlap = |a: ipnet::IpNet, b: ipnet::IpNet| a.contains(&b.network()) || b.contains(&a.network());
        if overlap(pods, services) {
            let message = format!("podCIDR {pods} and serviceCIDR {services} overlap");
            let hint = "two networks that share no address, such as 10.240.0.0/13 and 10.96.0.0/16";
            self.error("E-CIDR-OVERLAP", &["cluster", "network", "serviceCIDR"], message, hint);
        }
        for (net, key) in [(pods, "podCIDR"), (services, "serviceCIDR")] {
            let inside =
                self.inventory.hosts.values().find(|h| h.cluster_address.is_some_and(|a| net.contains(&a)));
            if let Some(host) = inside {
                let message = format!("{key} {net} holds the address of host `{}`", host.name);
                self.error(
                    "E-CIDR-OVERLAP",
                    &["cluster", "network", key],
                    message,
                    "choose a network that no host is in",
                );
            }
        }
    }

    fn registries(&mut self) {
        for (name, registry) in &self.inventory.registries {
            let path = ["registries", name.as_str(), "mirror"];
            let wrong = |url: &String| !url.starts_with("https://") && !url.starts_with("http://");
            if let Some(mirror) = registry.mirror.as_ref().filter(|url| wrong(url)) {
                let message = format!("`{mirror}` is no URL");
                self.error("E-MIRROR", &path, message, "mirror: \"https://hub.example.net\"");
            }
            if registry.mirror.is_none() && registry.credentials.is_none() {
                let hint = "mirror, credentials, or both; or take it out";
                self.error("E-MIRROR", &path, format!("nothing is said of registry {name}"), hint);
            }
        }
    }

    fn repositories(&mut self) {
        for (name, mirror) in &self.inventory.repositories {
            let path = ["repositories", name.as_str(), "mirror"];
            if !mirror.starts_with("https://") && !mirror.starts_with("http://") {
                let message = format!("`{mirror}` is no URL");
                self.error("E-MIRROR", &path, message, "mirror: \"https://packages.example.net/nvidia\"");
            }
            if name.contains(['/', ':']) {
                let message = format!("`{name}` is not the name of a host");
                let hint = "the repository's host as its role has it, such as developer.download.nvidia.com";
                self.error("E-MIRROR", &["repositories", name.as_str()], message, hint);
            }
        }
    }

    /// A proxy that hosts can use, and that no host's own traffic goes through.
    fn way_out(&mut self) {
        let inventory = self.inventory;
        let Some(proxy) = &inventory.network.proxy else { return };
        let rest = proxy.strip_prefix("http://").or_else(|| proxy.strip_prefix("https://"));
        let path = ["network", "proxy"];
        if rest.is_none_or(str::is_empty) {
            self.error("E-PROXY", &path, format!("`{proxy}` is no URL"), "http://proxy.example.net:3128");
        } else if rest.is_some_and(|r| r.contains('@')) {
            let hint = "it would stand in files that any user of a host can read; let the proxy know hosts by address";
            self.error("E-PROXY", &path, "a proxy with a password is not supported yet", hint);
        }
        let covers = |rule: &String, address: std::net::IpAddr| match rule.parse::<ipnet::IpNet>() {
            Ok(network) => network.contains(&address),
            Err(_) => rule.parse() == Ok(address),
        };
        let bare = inventory.hosts.values().filter(|h| h.state != HostState::Retired).find(|h| {
            h.cluster_address.is_some_and(|a| !inventory.network.no_proxy.iter().any(|rule| covers(rule, a)))
        });
        if let Some((host, address)) = bare.and_then(|h| Some((h, h.cluster_address?))) {
            let message = format!("noProxy does not cover {address} of host `{}`", host.name);
            let hint =
                format!("noProxy: [{}]: nodes must not reach each other through the proxy", near(address));
            self.error("E-NO-PROXY", &["network", "noProxy"], message, &hint);
        }
    }

    /// A virtual address that is nobody's own.
    fn vip(&mut self) {
        let inventory = self.inventory;
        let Endpoint::Vip { address, .. } = &inventory.cluster.endpoint else { return };
        let path = ["cluster", "endpoint", "vip", "address"];
        if let Some(host) = inventory.hosts.values().find(|h| h.cluster_address == Some(address.addr())) {
            let message = format!("{} is the address of host `{}`", address.addr(), host.name);
            self.error("E-VIP", &path, message, "a free address of the controllers' network");
        }
        let single = |h: &Host| inventory.pool_of(h).role == NodeRole::Single;
        if inventory.active().any(single) {
            let hint = "endpoint: {nodeLocal: {}}, or more than one controller";
            self.error("E-VIP", &path, "a cluster of one host has nowhere to move an address to", hint);
        }
    }

    /// Controllers stand in every other host's files, so their addresses must be known on paper.
    fn interfaces(&mut self) {
        let inventory = self.inventory;
        for host in inventory.active() {
            let pool = inventory.pool_of(host);
            if pool.cluster_interface.is_some() && pool.role.is_controller() && !host.node_ip {
                let message =
                    format!("controller `{}` has a clusterInterface and no clusterAddress", host.name);
                let hint =
                    "clusterAddress: its address on that interface; others are told it before it is asked";
                self.at_host(Diagnostic::error("E-CLUSTER-INTERFACE", message).hint(hint), host);
            }
        }
    }

    /// Enough /24s for all nodes.
    fn blocks(&mut self) {
        let pods = self.inventory.cluster.pod_cidr;
        // A node keeps its /24 while it is in maintenance.
        let staying = self.inventory.hosts.values().filter(|h| h.state != HostState::Retired);
        let nodes = staying.filter(|h| self.inventory.pool_of(h).role.is_worker()).count();
        let blocks = 1usize.checked_shl(24u32.saturating_sub(pods.prefix_len().into())).unwrap_or(usize::MAX);
        if pods.prefix_len() > 24 || nodes > blocks {
            let blocks = if pods.prefix_len() > 24 { 0 } else { blocks };
            let message = format!("podCIDR {pods} has {blocks} /24 networks for {nodes} nodes");
            let hint = "k0s gives each node a /24: 10.240.0.0/13 is enough for 2,048";
            self.error("E-POD-CIDR", &["cluster", "network", "podCIDR"], message, hint);
        }
    }

    fn placements(&mut self) {
        let inventory = self.inventory;
        for model in inventory.models.values() {
            let path = |key: &'static str| ["models", model.name.as_str(), "placement", key];
            let Some(pool) = inventory.pools.get(&model.pool) else {
                let all: Vec<&str> = inventory.pools.keys().map(|p| p.as_str()).collect();
                let hint = format!("pools are {}", all.join(", "));
                self.error("E-UNKNOWN-POOL", &path("pool"), format!("unknown pool `{}`", model.pool), &hint);
                continue;
            };
            let units = |a: &Accelerator| a.offers().into_values().sum::<u64>() as u32;
            let per_host = pool.accelerator.as_ref().map_or(0, units);
            let hosts = inventory.hosts_of(&model.pool).count() as u32;
            let wanted = model.accelerators_per_replica;
            if !pool.role.is_worker() {
                let message = format!("pool `{}` runs no workloads", model.pool);
                self.error("E-NO-FIT", &path("pool"), message, "place the model on a pool of workers");
            } else if wanted > per_host {
                let message = format!(
                    "a replica wants {wanted} accelerators, a host of `{}` has {per_host}",
                    model.pool
                );
                self.error(
                    "E-NO-FIT",
                    &path("acceleratorsPerReplica"),
                    message,
                    "one replica fits on one host",
                );
            } else if wanted > 0 && model.replicas > (per_host / wanted) * hosts {
                let room = (per_host / wanted) * hosts;
                let message = format!(
                    "{} replicas of {wanted} accelerators; `{}` has room for {room}",
                    model.replicas, model.pool
                );
                self.error("E-NO-FIT", &path("replicas"), message, "fewer replicas, or more hosts");
            }
        }
    }

    /// Somewhere for the router and CoreDNS to run.
    fn home(&mut self) {
        let inventory = self.inventory;
        let untainted = |pool: &&Pool| pool.role.is_worker() && pool.taints.is_empty();
        let home =
            inventory.pools.values().filter(untainted).any(|p| inventory.hosts_of(&p.name).next().is_some());
        if self.top.get("router").is_some() && !home {
            let hint = "the router and CoreDNS need a node without taints: a small worker pool is enough";
            self.error("E-NO-HOME", &["pools"], "no node can take the router and CoreDNS", hint);
        }
    }

    fn tenants(&mut self) {
        let inventory = self.inventory;
        if self.top.get("router").is_none() && !inventory.tenants.is_empty() {
            self.error(
                "E-NO-ROUTER",
                &["tenants"],
                "there are tenants, but no router",
                "router: {kthena: {version: v1.0.0}}",
            );
        }
        let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
        for tenant in inventory.tenants.values() {
            let path = ["tenants", tenant.name.as_str(), "gateway", "port"];
            if tenant.port < 1024 || ROUTER_PORTS.contains(&tenant.port) {
                let message = format!("gateway port {} cannot be used", tenant.port);
                self.error(
                    "E-PORT",
                    &path,
                    message,
                    "1024 or higher, and not 8080, 8443, 9090 or 15000, which the router itself uses",
                );
            }
            if let Some(other) = ports.insert(tenant.port, &tenant.name) {
                let message =
                    format!("tenants `{other}` and `{}` share gateway port {}", tenant.name, tenant.port);
                self.error(
                    "E-PORT",
                    &path,
                    message,
                    "one gateway port a tenant: it is what tells them apart",
                );
            }
            if !(30000..=32767).contains(&tenant.node_port) {
                let message = format!("node port {} is outside 30000 to 32767", tenant.node_port);
                let hint =
                    "Kubernetes gives services no other ports: base: 30080 leaves room for 2,687 tenants";
                self.error("E-PORT", &["router", "expose", "nodePort", "base"], message, hint);
            }
            for (served, targets) in &tenant.routes {
                let path = ["tenants", tenant.name.as_str(), "routes", served.as_str(), "to"];
                for (model, weight) in targets {
                    let written = self.node(&["models"]).get(model).is_some();
                    if !inventory.models.contains_key(model) && !written {
                        let all: Vec<&str> = inventory.models.keys().map(String::as_str).collect();
                        let hint = format!("models are {}", all.join(", "));
                        self.error("E-UNKNOWN-MODEL", &path, format!("unknown model `{model}`"), &hint);
                    }
                    if *weight > 100 {
                        let hint = "weights are parts of 100: {new: 10, old: 90}";
                        self.error("E-WEIGHT", &path, format!("weight {weight} is above 100"), hint);
                    }
                }
                if targets.values().sum::<u32>() == 0 {
                    self.error(
                        "E-WEIGHT",
                        &path,
                        "the weights add up to 0",
                        "at least one target needs a weight",
                    );
                }
            }
        }
    }
}
