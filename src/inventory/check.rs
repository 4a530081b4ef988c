//! Static checks: references, catalog windows, networks, ports, capacity. Contacts no host.

use super::diagnostic::{Diagnostic, Problems};
use super::grammar::{is_dns_label, url_fault};
use super::model::*;
use super::reader::{HostSpans, some_of};
use super::tree::Node;
use super::{accelerators, edge, extra, forms, routing};
use crate::catalog::Catalog;
use crate::state::PoolName;
use std::collections::BTreeMap;

/// Ports that the router itself uses: requests, webhook, metrics, debug (kthena 1.0.0).
const ROUTER_PORTS: [u16; 4] = [8080, 8443, 9090, 15000];

const LABEL_HINT: &str = "Use an optional DNS name and a slash, then up to 63 letters, digits, `-`, `_`, `.`";

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

/// Returns whose a label or taint is, if it is not free for pools and hosts.
fn owner(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/')?;
    let within =
        |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|p| p.ends_with('.'));
    match prefix {
        _ if within("provision.dev") => Some("provision"),
        _ if within("k0sproject.io") => Some("k0s"),
        "kubernetes.io" | "k8s.io" => Some("Kubernetes"),
        "beta.kubernetes.io" if matches!(name, "os" | "arch" | "hostname") => Some("Kubernetes"),
        "node.kubernetes.io" if !matches!(name, "instance-type" | "exclude-from-external-load-balancers") => {
            Some("Kubernetes")
        }
        _ => None,
    }
}

const RESERVED_HINT: &str = "Use a prefix of your own, such as example.com/";

fn is_label(key: &str, value: &str) -> bool {
    is_label_key(key) && (value.is_empty() || is_word(value))
}

/// Returns whether a text is a taint: `key=value:Effect` or `key:Effect`.
fn is_taint(taint: &str) -> bool {
    let Some((left, effect)) = taint.rsplit_once(':') else { return false };
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") && is_label(key, value)
}

/// Returns whether a host or pool may have a label.
pub(crate) fn may_have_label(key: &str, value: &str) -> bool {
    is_label(key, value) && owner(key).is_none()
}

/// Returns whether a pool may have a taint.
pub(crate) fn may_have_taint(taint: &str) -> bool {
    is_taint(taint) && taint.split(['=', ':']).next().and_then(owner).is_none()
}

/// Returns how many active hosts each pool has that has any.
fn sizes(inventory: &Inventory) -> BTreeMap<&PoolName, u32> {
    let mut sizes = BTreeMap::new();
    for host in inventory.active() {
        *sizes.entry(&host.pool).or_default() += 1;
    }
    sizes
}

struct Checker<'a> {
    inventory: &'a Inventory,
    top: &'a Node,
    broken: &'a [String],
    spans: &'a HostSpans,
    problems: &'a mut Problems,
}

/// Adds every problem found. `broken` are the sections that could not be read whole: what needs them is not checked.
pub(super) fn check(
    inventory: &Inventory,
    top: &Node,
    catalog: &Catalog,
    broken: &[String],
    spans: &HostSpans,
    problems: &mut Problems,
) {
    let mut c = Checker { inventory, top, broken, spans, problems };
    c.name();
    forms::check(inventory, top, c.problems);
    edge::check(inventory, top, c.problems);
    c.versions(catalog);
    c.networks();
    c.registries();
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
    let (routes, sound) = (c.sound("tenants"), c.sound("pools"));
    extra::check(inventory, top, problems);
    routing::check(inventory, top, routes, problems);
    if sound {
        accelerators::check(inventory, top, catalog, problems);
    }
}

impl<'a> Checker<'a> {
    fn sound(&self, section: &str) -> bool {
        !self.broken.iter().any(|b| b == section)
    }

    fn push(&mut self, diagnostic: Diagnostic, path: &[&str]) {
        self.problems.push(match self.problems.is_full(diagnostic.code) {
            true => diagnostic,
            false => diagnostic.at(&self.top.at(path).span),
        });
    }

    fn error(&mut self, code: &'static str, path: &[&str], message: impl Into<String>, hint: &str) {
        self.push(Diagnostic::error(code, message).hint(hint), path);
    }

    fn at_host(&mut self, diagnostic: Diagnostic, host: &Host) {
        self.problems.push(match self.spans.get(&host.name) {
            Some(span) => diagnostic.at(span),
            None => diagnostic,
        });
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
            let hint = "Use at most 63 lower-case letters, digits and `-`";
            self.error("E-NAME", &[&kind, &name], format!("`{name}` is not a DNS-1123 label"), hint);
        }
        if !is_dns_label(&self.inventory.name) {
            let message = format!("`{}` is not a DNS-1123 label", self.inventory.name);
            let hint = "Use at most 63 lower-case letters, digits and `-`";
            self.error("E-NAME", &["metadata", "name"], message, hint);
        }
    }

    fn versions(&mut self, catalog: &Catalog) {
        let version = self.inventory.cluster.k0s_version.clone();
        let path = ["cluster", "k0s", "version"];
        let known = || {
            let all: Vec<&str> =
                catalog.k0s_lines().iter().flat_map(|l| &l.versions).map(String::as_str).collect();
            format!("Use one of {}, or add a file in catalog/ for another version", all.join(", "))
        };
        match catalog.k0s_line(&version) {
            Some(line) => {
                let ended =
                    line.eol.as_ref().filter(|eol| eol.get(..7).is_some_and(|month| month < catalog.as_of()));
                if let Some(eol) = ended {
                    let minor = &line.minor;
                    let newest = catalog.k0s_lines().iter().rev().find_map(|l| l.versions.last());
                    let hint = match newest {
                        Some(newest) => format!(
                            "For a new cluster use {newest}; upgrade others one minor version at a time"
                        ),
                        None => "Upgrade one minor version at a time".to_owned(),
                    };
                    let problem = Diagnostic::warning(
                        "W-K0S-EOL",
                        format!("Kubernetes {minor} of k0s {version} reached end of life on {eol}"),
                    );
                    self.push(problem.source(line.source.clone()).hint(hint), &path);
                }
                if let Some(why) = line.refused.get(&version) {
                    self.error("E-K0S-VERSION", &path, format!("k0s {version} is blocked: {why}"), &known());
                } else if !line.versions.contains(&version) {
                    self.error(
                        "E-K0S-VERSION",
                        &path,
                        format!("k0s {version} is not in the catalog"),
                        &known(),
                    );
                }
            }
            None => self.error(
                "E-K0S-VERSION",
                &path,
                format!("k0s {version} is not in the catalog's range"),
                &known(),
            ),
        }
        if let Some(router) = &self.inventory.router
            && catalog.kthena(&router.version).is_none()
        {
            let all: Vec<&str> = catalog.kthena_releases().iter().map(|k| k.version.as_str()).collect();
            let hint = format!("Use one of {}", all.join(", "));
            let message = format!("Kthena {} is not in the catalog", router.version);
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
                "Add a pool with role: controller, or role: single for a single host",
            );
        } else if single && active > 1 {
            let message = format!("role single is for a cluster of one host, but {active} hosts are active");
            self.error("E-SINGLE", &["pools"], message, "Use role: controller+worker");
        } else if count.is_multiple_of(2) {
            let warning = Diagnostic::warning(
                "W-EVEN-CONTROLLERS",
                format!("{count} controllers tolerate no more failures than {}", count - 1),
            )
            .hint("Use an odd number of controllers for etcd quorum");
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
                let message =
                    format!("hosts `{other}` and `{}` have the same cluster address {key}", host.name);
                let problem = Diagnostic::error("E-DUPLICATE-ADDRESS", message)
                    .hint("Give each host its own `address` or `clusterAddress`");
                self.at_host(problem, host);
            }
        }
    }

    /// Labels and taints of pools, in the syntax of Kubernetes.
    fn pools(&mut self) {
        let inventory = self.inventory;
        for pool in inventory.pools.values() {
            let size = inventory.hosts_of(&pool.name).count();
            let (canary, at_once) =
                (pool.disruption.canary as usize, pool.disruption.max_unavailable.of(size));
            if canary > at_once.max(1) {
                let message = format!(
                    "disruption.canary is {canary}, but only {at_once} hosts may be out of service at once"
                );
                let hint = "Lower disruption.canary, or raise disruption.maxUnavailable";
                self.error(
                    "E-CANARY-SIZE",
                    &["pools", pool.name.as_str(), "disruption", "canary"],
                    message,
                    hint,
                );
            }
            for taint in pool.taints.iter().filter(|t| !is_taint(t)) {
                let message = format!("`{taint}` is not a taint");
                let hint = "Use key=value:Effect or key:Effect, with effect NoSchedule, PreferNoSchedule or NoExecute";
                self.error("E-TAINT", &["pools", pool.name.as_str(), "taints"], message, hint);
            }
            for (taint, owner) in
                pool.taints.iter().filter_map(|t| Some((t, owner(t.split(['=', ':']).next()?)?)))
            {
                let path = ["pools", pool.name.as_str(), "taints"];
                let message = format!("the taint `{taint}` is reserved for {owner}");
                self.error("E-TAINT-RESERVED", &path, message, RESERVED_HINT);
            }
            for (key, owner) in pool.labels.keys().filter_map(|k| Some((k, owner(k)?))) {
                let path = ["pools", pool.name.as_str(), "labels", key.as_str()];
                let message = format!("the label `{key}` is reserved for {owner}");
                self.error("E-LABEL-RESERVED", &path, message, RESERVED_HINT);
            }
            for (key, value) in pool.labels.iter().filter(|(k, v)| !is_label(k, v)) {
                let path = ["pools", pool.name.as_str(), "labels", key.as_str()];
                let message = format!("`{key}: {value}` is not a node label");
                self.error("E-LABEL", &path, message, LABEL_HINT);
            }
            let disks = [&pool.data_disk, &pool.models_disk].map(|d| d.as_ref().map(|d| &d.disk));
            if let [Some(data), Some(models)] = disks
                && data == models
            {
                let path = ["pools", pool.name.as_str(), "storage", "models", "disk"];
                let message = format!("{data} is used for both `data` and `models`");
                let hint =
                    "To use one disk for both, remove models.disk and set models.path below /var/lib/k0s";
                self.error("E-DISK-TWICE", &path, message, hint);
            }
        }
        for host in inventory.hosts.values() {
            for (key, owner) in host.labels.keys().filter_map(|k| Some((k, owner(k)?))) {
                let message = format!("the label `{key}` of host `{}` is reserved for {owner}", host.name);
                self.at_host(Diagnostic::error("E-LABEL-RESERVED", message).hint(RESERVED_HINT), host);
            }
            for (key, value) in host.labels.iter().filter(|(k, v)| !is_label(k, v)) {
                let message = format!("`{key}: {value}` is not a node label");
                self.at_host(Diagnostic::error("E-LABEL", message).hint(LABEL_HINT), host);
            }
        }
    }

    fn networks(&mut self) {
        let cluster = &self.inventory.cluster;
        let (pods, services) = (cluster.pod_cidr, cluster.service_cidr);
        let overlap = |a: ipnet::IpNet, b: ipnet::IpNet| a.contains(&b.network()) || b.contains(&a.network());
        if overlap(pods, services) {
            let message = format!("podCIDR {pods} and serviceCIDR {services} overlap");
            let hint = "Use networks that do not overlap, such as 10.240.0.0/13 and 10.96.0.0/16";
            self.error("E-CIDR-OVERLAP", &["cluster", "network", "serviceCIDR"], message, hint);
        }
        for (net, key) in [(pods, "podCIDR"), (services, "serviceCIDR")] {
            let inside =
                self.inventory.hosts.values().find(|h| h.cluster_address.is_some_and(|a| net.contains(&a)));
            if let Some(host) = inside {
                let message = format!("{key} {net} contains the address of host `{}`", host.name);
                self.error(
                    "E-CIDR-OVERLAP",
                    &["cluster", "network", key],
                    message,
                    "Choose a network that contains no host",
                );
            }
        }
    }

    fn registries(&mut self) {
        for (name, registry) in &self.inventory.registries {
            if registry.mirror.is_none() && registry.credentials.is_none() {
                let hint = "Set `mirror`, `credentials` or both, or remove the entry";
                let path = ["registries", name.as_str(), "mirror"];
                self.error(
                    "E-MIRROR",
                    &path,
                    format!("registry {name} has neither `mirror` nor `credentials`"),
                    hint,
                );
            }
        }
    }

    /// A proxy that hosts can use, and that no host's own traffic goes through.
    fn way_out(&mut self) {
        let inventory = self.inventory;
        let Some(proxy) = &inventory.network.proxy else { return };
        let rest = proxy.strip_prefix("http://").or_else(|| proxy.strip_prefix("https://"));
        let path = ["network", "proxy"];
        if rest.is_some_and(|r| r.contains('@')) {
            let hint = "Remove the login, which every user of a host could read, and let the proxy allow hosts by address";
            self.error("E-PROXY", &path, "a proxy with a password is not supported", hint);
        } else if url_fault(proxy).is_some() {
            let hint = "Use a URL with a host and no login: http://proxy.example.net:3128";
            self.error("E-PROXY", &path, format!("`{proxy}` is not a proxy URL"), hint);
        }
        let networks: Vec<ipnet::IpNet> = inventory
            .network
            .no_proxy
            .iter()
            .filter_map(|rule| {
                rule.parse().ok().or_else(|| Some(rule.parse::<std::net::IpAddr>().ok()?.into()))
            })
            .collect();
        let bare = inventory.hosts.values().filter(|h| h.state != HostState::Retired).find(|h| {
            h.cluster_address.is_some_and(|a| !networks.iter().any(|network| network.contains(&a)))
        });
        if let Some((host, address)) = bare.and_then(|h| Some((h, h.cluster_address?))) {
            let message = format!("noProxy does not cover {address} of host `{}`", host.name);
            let hint =
                format!("Add noProxy: [{}]; nodes must reach each other without the proxy", near(address));
            self.error("E-NO-PROXY", &["network", "noProxy"], message, &hint);
        }
    }

    /// The virtual address must not be a host's own.
    fn vip(&mut self) {
        let inventory = self.inventory;
        let Endpoint::Vip { address, .. } = &inventory.cluster.endpoint else { return };
        let path = ["cluster", "endpoint", "vip", "address"];
        if let Some(host) = inventory.hosts.values().find(|h| h.cluster_address == Some(address.addr())) {
            let message = format!("{} is the address of host `{}`", address.addr(), host.name);
            self.error("E-VIP", &path, message, "Use a free address in the controllers' network");
        }
        let single = |h: &Host| inventory.pool_of(h).role == NodeRole::Single;
        if inventory.active().any(single) {
            let hint = "Use endpoint: {nodeLocal: {}}, or more than one controller";
            self.error("E-VIP", &path, "a virtual address needs more than one controller", hint);
        }
    }

    /// Controllers stand in every other host's files, so their addresses must be known on paper.
    fn interfaces(&mut self) {
        let inventory = self.inventory;
        for host in inventory.active() {
            let pool = inventory.pool_of(host);
            if pool.cluster_interface.is_some() && pool.role.is_controller() && !host.node_ip {
                let message =
                    format!("controller `{}` has `clusterInterface` but no `clusterAddress`", host.name);
                let hint = "Set `clusterAddress` to its address on that interface";
                self.at_host(Diagnostic::error("E-CLUSTER-INTERFACE", message).hint(hint), host);
            }
        }
        // k0s refuses a name as the address of its API and as that of an etcd peer.
        for host in inventory.hosts.values().filter(|h| h.state != HostState::Retired) {
            let pool = inventory.pool_of(host);
            let known = host.cluster_address.is_some() || pool.cluster_interface.is_some();
            if pool.role.is_controller() && !known {
                let (name, address) = (&host.name, &host.address);
                let message = format!(
                    "controller `{name}` has a name as its address (`{address}`) and no `clusterAddress`"
                );
                let hint = "Set `clusterAddress` to its IP address, which etcd and the API need";
                self.at_host(Diagnostic::error("E-CLUSTER-ADDRESS", message).hint(hint), host);
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
            let message = format!("podCIDR {pods} has only {blocks} /24 networks for {nodes} nodes");
            let hint = "Use a larger network: each node takes a /24, and 10.240.0.0/13 is enough for 2,048";
            self.error("E-POD-CIDR", &["cluster", "network", "podCIDR"], message, hint);
        }
    }

    fn placements(&mut self) {
        let inventory = self.inventory;
        let sizes = sizes(inventory);
        for model in inventory.models.values() {
            let path = |key: &'static str| ["models", model.name.as_str(), "placement", key];
            let Some(pool) = inventory.pools.get(&model.pool) else {
                let hint =
                    format!("Use one of the pools: {}", some_of(inventory.pools.keys().map(|p| p.as_str())));
                self.error("E-UNKNOWN-POOL", &path("pool"), format!("unknown pool `{}`", model.pool), &hint);
                continue;
            };
            let units = |a: &Accelerator| a.offers().into_values().sum::<u64>() as u32;
            let per_host = pool.accelerator.as_ref().map_or(0, units);
            let hosts = sizes.get(&model.pool).copied().unwrap_or(0);
            let wanted = model.accelerators_per_replica;
            if !pool.role.is_worker() {
                let message = format!("pool `{}` runs no workloads", model.pool);
                self.error("E-NO-FIT", &path("pool"), message, "Place the model on a pool of workers");
            } else if wanted > per_host {
                let message = format!(
                    "a replica needs {wanted} accelerators, a host of `{}` has {per_host}",
                    model.pool
                );
                self.error(
                    "E-NO-FIT",
                    &path("acceleratorsPerReplica"),
                    message,
                    "Set acceleratorsPerReplica to at most the accelerators of one host",
                );
            } else if wanted == 0 && pool.accelerator.is_some() {
                let message = format!("a replica on pool `{}` gets no accelerator", model.pool);
                let hint = "Set acceleratorsPerReplica: 1 or more, or place the model on a pool without accelerators";
                self.error("E-VALUE", &path("acceleratorsPerReplica"), message, hint);
            } else if wanted > 0 && model.replicas > (per_host / wanted) * hosts {
                let room = (per_host / wanted) * hosts;
                let message = format!(
                    "{} replicas of {wanted} accelerators; `{}` has room for {room}",
                    model.replicas, model.pool
                );
                self.error("E-NO-FIT", &path("replicas"), message, "Use fewer replicas or more hosts");
            }
        }
    }

    /// Somewhere for the router and CoreDNS to run.
    fn home(&mut self) {
        let inventory = self.inventory;
        let untainted = |pool: &&Pool| pool.role.is_worker() && pool.taints.is_empty();
        let sizes = sizes(inventory);
        let home = inventory.pools.values().filter(untainted).any(|p| sizes.contains_key(&p.name));
        if self.top.get("router").is_some() && !home {
            let hint = "Add a node without taints for the router and CoreDNS: a small worker pool is enough";
            self.error("E-NO-HOME", &["pools"], "no node can run the router and CoreDNS", hint);
        }
    }

    fn tenants(&mut self) {
        let inventory = self.inventory;
        if self.top.get("router").is_none() && !inventory.tenants.is_empty() {
            self.error(
                "E-NO-ROUTER",
                &["tenants"],
                "`tenants` requires `router`",
                "Add router: {kthena: {version: v1.0.0}}",
            );
        }
        let (first, last) = (NODE_PORTS.start(), NODE_PORTS.end());
        if let Some(base) =
            inventory.router.as_ref().map(|r| r.node_port_base).filter(|p| !NODE_PORTS.contains(p))
        {
            let message = format!("node port {base} is outside {first} to {last}");
            let hint = "Use a port in the range of Kubernetes NodePorts; the default is base: 30080";
            self.error("E-PORT", &["router", "expose", "nodePort", "base"], message, hint);
        }
        let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
        let mut node_ports: BTreeMap<u16, &str> = BTreeMap::new();
        for tenant in inventory.tenants.values() {
            let path = ["tenants", tenant.name.as_str(), "gateway", "port"];
            if tenant.port < 1024 || ROUTER_PORTS.contains(&tenant.port) {
                let message = format!("gateway port {} is not allowed", tenant.port);
                self.error(
                    "E-PORT",
                    &path,
                    message,
                    "Use 1024 or higher, except 8080, 8443, 9090 and 15000, which the router itself uses",
                );
            }
            if let Some(other) = ports.insert(tenant.port, &tenant.name) {
                let message =
                    format!("tenants `{other}` and `{}` share gateway port {}", tenant.name, tenant.port);
                self.error("E-PORT", &path, message, "Each tenant needs a unique gateway port");
            }
            // Looked for only where something is wrong: tenants may be many.
            let top = self.top;
            let key = || match top.at(&path[..3]).get("nodePort") {
                Some(_) => "nodePort",
                None => "port",
            };
            let path = |key| ["tenants", tenant.name.as_str(), "gateway", key];
            if !NODE_PORTS.contains(&tenant.node_port) {
                let message = format!("node port {} is outside {first} to {last}", tenant.node_port);
                self.error(
                    "E-PORT",
                    &path(key()),
                    message,
                    "Use a port in the range of Kubernetes NodePorts",
                );
            } else if let Some(other) = node_ports.insert(tenant.node_port, &tenant.name) {
                let message =
                    format!("tenants `{other}` and `{}` share node port {}", tenant.name, tenant.node_port);
                let hint = format!(
                    "Set tenants.{}.gateway.nodePort to another port; the default is the base plus \
                     gateway.port minus 8080",
                    tenant.name
                );
                self.error("E-PORT", &path(key()), message, &hint);
            }
        }
    }
}
