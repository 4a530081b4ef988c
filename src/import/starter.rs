//! From the hosts of another tool to an inventory to start from: roles, names, pools, what all hosts share, and what only a person
//! can fill in. The inventory passes `validate` but for the latter.

use super::Hosts;
use super::found::{Found, FoundAccelerator, FoundHost, Note, NoteKind, note_lines};
use super::names::{Taken, is_address, label};
use super::ranges::ranges;
use super::valid::valid;
use crate::catalog::Catalog;
use crate::inventory::{
    K0S, NodeRole, POD_CIDR, SERVICE_CIDR, Starter, StarterHost, StarterPool, StarterSsh, starter_text,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Notes in the inventory's comments; all of them are printed.
const MOST_COMMENTS: usize = 200;
/// Hosts that one note names.
const MOST_NAMED: usize = 6;
/// Pod and service networks, of which the first pair without a host in it is taken: private ones, then that of RFC 6598.
const NETWORKS: [(&str, &str); 3] =
    [(POD_CIDR, SERVICE_CIDR), ("172.16.0.0/13", "172.24.0.0/16"), ("100.64.0.0/13", "100.72.0.0/16")];
/// Words in the names of controllers.
const CONTROLLERS: [&str; 6] = ["cp", "master", "controller", "control", "controlplane", "ctrl"];
const ACCELERATOR: &str = "accelerator: {nvidia: {product: PRODUCT, count: COUNT, driver: DRIVER}}";

/// An inventory made of another tool's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The inventory, YAML with comments.
    pub inventory: String,
    /// How many hosts it has.
    pub hosts: usize,
    /// How many pools it has.
    pub pools: usize,
    /// What a person should know.
    pub notes: Vec<Note>,
}

/// Makes an inventory of hosts; `name` is the cluster's, in place of what the source says.
pub fn starter(hosts: Hosts, name: Option<&str>, catalog: &Catalog) -> Imported {
    let Hosts(mut found) = hosts;
    valid(&mut found);
    without_doubles(&mut found);
    roles(&mut found);
    let names = names(&mut found);
    let name = name.map(str::to_owned).or(found.name.take().as_deref().and_then(label));
    let (pod_cidr, service_cidr) = networks(&mut found);
    let k0s = k0s(&mut found, catalog);
    let ssh = shared(&found.hosts);
    if found.hosts.iter().any(|host| host.user.is_none()) {
        let why = "some hosts have none: ~/.ssh/config, and then your own login name, count";
        found.notes.push(Note::of(NoteKind::Assumed, None, "ssh.user", why));
    }
    let pools = pools(&mut found, &names, &ssh);
    let mut notes = found.notes;
    notes.sort_by(|a, b| (a.kind, &a.place).cmp(&(b.kind, &b.place)));
    let mut lines = note_lines(&notes);
    if lines.len() > MOST_COMMENTS {
        let more = lines.len() - MOST_COMMENTS;
        lines.truncate(MOST_COMMENTS);
        lines.push(format!("  … and {more} more, which were printed"));
    }
    let (hosts, count) = (found.hosts.len(), pools.len());
    let inventory = starter_text(&Starter {
        name: name.unwrap_or_else(|| "site".to_owned()),
        ssh,
        k0s,
        sans: found.sans,
        external: found.external,
        pod_cidr,
        service_cidr,
        pools,
        notes: lines,
    });
    Imported { inventory, hosts, pools: count, notes }
}

/// Returns what a host is called in notes.
fn shown(host: &FoundHost) -> String {
    if host.name.is_empty() { host.address.clone().unwrap_or_default() } else { host.name.clone() }
}

/// Takes out hosts that are others under a second name; those that share only an address in the cluster stay, and are marked.
fn without_doubles(found: &mut Found) {
    let mut in_cluster: BTreeSet<IpAddr> = BTreeSet::new();
    let mut seen: HashMap<(String, u16), String> = HashMap::new();
    let (mut kept, mut notes) = (Vec::new(), Vec::new());
    for mut host in std::mem::take(&mut found.hosts) {
        let key = host.address.clone().map(|address| (address, host.port.unwrap_or(22)));
        match key.as_ref().and_then(|key| seen.get(key)) {
            Some(first) => {
                let why = format!("it has the address of {first}");
                notes.push(Note::of(NoteKind::LeftOut, Some(host.place.clone()), shown(&host), why));
            }
            None => {
                seen.extend(key.map(|key| (key, shown(&host))));
                let own = host.cluster_address.as_ref().or(host.address.as_ref());
                let own =
                    own.and_then(|address| address.parse::<IpAddr>().ok()).filter(|ip| !ip.is_loopback());
                host.shares_address = own.is_some_and(|address| !in_cluster.insert(address));
                kept.push(host);
            }
        }
    }
    found.hosts = kept;
    found.notes.extend(notes);
}

/// Gives each host a role, so that there is a controller, and a host for workloads.
fn roles(found: &mut Found) {
    let mut assumed = |host: Option<&FoundHost>, what: String, why: &str| {
        found.notes.push(Note::of(NoteKind::Assumed, host.map(|host| host.place.clone()), what, why));
    };
    let hosts = &mut found.hosts;
    if let [host] = hosts.as_mut_slice() {
        if host.role.is_none_or(|role| matches!(role, NodeRole::Controller | NodeRole::Worker)) {
            assumed(
                Some(host),
                shown(host),
                "it is the only host, so it is a cluster of its own: role single",
            );
        }
        host.role = Some(NodeRole::Single);
        return;
    }
    hosts.iter_mut().filter(|host| host.role == Some(NodeRole::Single)).for_each(|host| {
        assumed(
            Some(host),
            shown(host),
            "role single is for a cluster of one host; it is controller+worker here",
        );
        host.role = Some(NodeRole::ControllerWorker);
    });
    let has_controller =
        |hosts: &[FoundHost]| hosts.iter().any(|host| host.role.is_some_and(NodeRole::is_controller));
    if !has_controller(hosts) {
        for host in hosts.iter_mut().filter(|host| host.role.is_none() && is_named_controller(&host.name)) {
            assumed(Some(host), shown(host), "its name is that of a controller, so it is one");
            host.role = Some(NodeRole::Controller);
        }
    }
    if !has_controller(hosts)
        && let Some(first) = hosts.first_mut()
    {
        assumed(
            Some(first),
            shown(first),
            "no host is named as a controller, so the first one is controller+worker",
        );
        first.role = Some(NodeRole::ControllerWorker);
    }
    let unknown: Vec<String> = hosts.iter().filter(|host| host.role.is_none()).map(shown).collect();
    if !unknown.is_empty() {
        let named = unknown.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = unknown.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        assumed(None, "roles".to_owned(), &format!("hosts without one are workers: {named}{more}"));
    }
    hosts.iter_mut().for_each(|host| host.role = host.role.or(Some(NodeRole::Worker)));
    if !hosts.iter().any(|host| host.role.is_some_and(NodeRole::is_worker)) {
        assumed(None, "roles".to_owned(), "there are no workers, so the controllers also run workloads");
        hosts.iter_mut().for_each(|host| host.role = Some(NodeRole::ControllerWorker));
    }
}

/// Returns whether a host's own name says that it is a controller: `cp-1`, `k8s-master01.example.net`.
fn is_named_controller(name: &str) -> bool {
    let host = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    host.split(|c: char| !c.is_ascii_alphabetic()).any(|word| CONTROLLERS.contains(&word))
}

/// Returns a name for each host; those that changed are noted. What has only an address is named as `init` does.
fn names(found: &mut Found) -> Vec<String> {
    let mut taken = Taken::default();
    // Names that can stay as they are come first.
    let own: Vec<Option<String>> = (found.hosts.iter())
        .map(|host| label(&host.name).filter(|label| *label == host.name && !is_address(&host.name)))
        .map(|name| name.filter(|name| taken.first_free([name.clone()]) == *name))
        .collect();
    let mut names = Vec::new();
    for (host, own) in found.hosts.iter().zip(own) {
        if let Some(own) = own {
            names.push(own);
            continue;
        }
        let place = Some(host.place.clone());
        // Without a name of its own, that of DNS.
        let known = shown(host);
        let short = known.split('.').next().and_then(label).filter(|_| !is_address(&known));
        let (name, why) = match short {
            Some(short) => {
                let name = taken.first_free([Some(short), label(&known)].into_iter().flatten());
                let why = format!("it is {name} here: host names are DNS-1123 labels, and unique");
                (name, why)
            }
            None => {
                let prefix = match host.role {
                    Some(NodeRole::Controller) => "cp",
                    Some(NodeRole::Worker) => "w",
                    _ => "node",
                };
                let name = taken.numbered(prefix);
                let why = format!("it is {name} here: the source has no name for it");
                (name, why)
            }
        };
        found.notes.push(Note::of(NoteKind::Renamed, place, known, why));
        names.push(name);
    }
    names
}

/// Returns the pod and service networks: those of the source, or a pair that no host is in.
fn networks(found: &mut Found) -> (String, String) {
    let addresses: Vec<IpAddr> = (found.hosts.iter())
        .flat_map(|host| [&host.address, &host.cluster_address])
        .filter_map(|address| address.as_ref()?.parse().ok())
        .collect();
    let is_free = |network: &str| {
        let network: Option<IpNet> = network.parse().ok();
        network.is_some_and(|network| !addresses.iter().any(|address| network.contains(address)))
    };
    let free =
        NETWORKS.iter().find(|(pods, services)| is_free(pods) && is_free(services)).unwrap_or(&NETWORKS[0]);
    let said = found.pod_cidr.is_some() || found.service_cidr.is_some();
    let pods = found.pod_cidr.take().unwrap_or_else(|| free.0.to_owned());
    let services = found.service_cidr.take().unwrap_or_else(|| free.1.to_owned());
    if said && !(is_free(&pods) && is_free(&services) && fit(&pods, &services, found.hosts.len())) {
        let why =
            "those of the source contain hosts or each other, or have no /24 for each host: choose others";
        found.notes.push(Note::of(NoteKind::FillIn, None, "cluster.network", why));
    } else if !said && *free != NETWORKS[0] {
        let why = format!("hosts are in the usual networks, so these are {pods} and {services}");
        found.notes.push(Note::of(NoteKind::Assumed, None, "cluster.network", why));
    }
    (pods, services)
}

/// Returns whether two networks are apart, and the first one has a /24 for each host.
fn fit(pods: &str, services: &str, hosts: usize) -> bool {
    let (Ok(pods), Ok(services)) = (pods.parse::<IpNet>(), services.parse::<IpNet>()) else { return false };
    let bits = 24u32.checked_sub(pods.prefix_len().into());
    let large = bits.is_some_and(|bits| hosts <= 1 << bits);
    large && !pods.contains(&services) && !services.contains(&pods)
}

/// Returns the k0s release: that of the source, if the catalog has it.
fn k0s(found: &mut Found, catalog: &Catalog) -> String {
    let Some((said, place)) = found.k0s.take() else { return K0S.to_owned() };
    let version = format!("v{}", said.trim_start_matches('v'));
    let version = if version.contains('+') { version } else { format!("{version}+k0s.0") };
    let line = catalog.k0s_line(&version);
    if line.is_some_and(|line| line.versions.contains(&version) && !line.refused.contains_key(&version)) {
        return version;
    }
    let why = format!("the catalog does not have it, so it is {K0S} here");
    found.notes.push(Note::of(NoteKind::Assumed, Some(place), format!("k0s {said}"), why));
    K0S.to_owned()
}

/// Returns the value that most hosts have.
fn most_common<T: Ord + Clone>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    // Of several, the first in order.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

/// Returns the access that is written once for all hosts. A host cannot take a login name or a port back, so they are written
/// once only if each host has one; keys of a pool add to these, so these are the keys of all.
fn shared(hosts: &[FoundHost]) -> StarterSsh {
    let users: Option<Vec<&String>> = hosts.iter().map(|host| host.user.as_ref()).collect();
    let ports: Option<Vec<u16>> = hosts.iter().map(|host| host.port).collect();
    let bastions = most_common(hosts.iter().map(|host| &host.bastions)).filter(|hops| !hops.is_empty());
    let first = hosts.first().map(|host| host.identities.as_slice()).unwrap_or_default();
    let everywhere = |key: &&String| hosts.iter().all(|host| host.identities.contains(key));
    StarterSsh {
        user: users.and_then(|users| most_common(users.into_iter()).cloned()),
        port: ports.and_then(|ports| most_common(ports.into_iter())),
        bastions: bastions.cloned(),
        identities: first.iter().filter(everywhere).cloned().collect(),
    }
}

/// Returns the hosts in pools of those with one configuration, in the order of their first hosts.
fn pools(found: &mut Found, names: &[String], shared: &StarterSsh) -> Vec<StarterPool> {
    let mut order: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (at, host) in found.hosts.iter().enumerate() {
        let is_controller = host.role.is_some_and(NodeRole::is_controller);
        let hint = host.pool.as_deref().filter(|_| !is_controller);
        let login = (&host.bastions, &host.identities);
        let key = format!(
            "{:?}",
            (host.role, hint, &host.accelerator, login, &host.taints, &host.cluster_interface)
        );
        let pool = *known.entry(key).or_insert(order.len());
        match order.get_mut(pool) {
            Some(pool) => pool.push(at),
            None => order.push(vec![at]),
        }
    }
    let (mut taken, alone) = (Taken::default(), order.len() == 1);
    let mut notes = Vec::new();
    let pools = order.iter().map(|pool| {
        let hosts: Vec<(&FoundHost, &String)> =
            pool.iter().map(|at| (&found.hosts[*at], &names[*at])).collect();
        one_pool(&hosts, alone, shared, &mut taken, &mut notes)
    });
    let pools = pools.collect();
    found.notes.extend(notes);
    pools
}

fn one_pool(
    hosts: &[(&FoundHost, &String)],
    alone: bool,
    shared: &StarterSsh,
    taken: &mut Taken,
    notes: &mut Vec<Note>,
) -> StarterPool {
    let first = hosts.first().map(|(host, _)| *host);
    let role = first.and_then(|host| host.role).unwrap_or(NodeRole::Worker);
    let hint = first.and_then(|host| host.pool.as_deref()).and_then(label);
    let name = match role {
        NodeRole::Worker => hint.unwrap_or_else(|| "workers".to_owned()),
        NodeRole::Controller => "control".to_owned(),
        NodeRole::ControllerWorker | NodeRole::Single if alone => "all".to_owned(),
        NodeRole::ControllerWorker | NodeRole::Single => "control".to_owned(),
    };
    let mut pool = StarterPool::of(&taken.first_free([name]), role, "", &[]);
    let fill_in = |place, what: &str, why: String| Note::of(NoteKind::FillIn, place, what, why);
    match first.and_then(|host| host.accelerator.as_ref()) {
        Some(FoundAccelerator::Known(accelerator)) => pool.accelerator = Some(accelerator.clone()),
        Some(FoundAccelerator::Unclear(why)) => {
            pool.comments.push(format!("FILL IN: {ACCELERATOR}; {why}"));
            let place = first.map(|host| host.place.clone());
            notes.push(fill_in(place, &pool.name, format!("its accelerator: {why}")));
        }
        None if role.is_worker() => {
            pool.comments.push(format!("FILL IN, if these hosts have any: {ACCELERATOR}"));
            let why =
                "its accelerator, if its hosts have any: `provision catalog` lists products and drivers";
            notes.push(fill_in(None, &pool.name, why.to_owned()));
        }
        None => {}
    }
    if let Some(first) = first {
        let none_here = || first.bastions.is_empty() && shared.bastions.is_none();
        pool.ssh.bastions = Some(&first.bastions)
            .filter(|hops| shared.bastions.as_ref() != Some(*hops) && !none_here())
            .cloned();
        let more = first.identities.iter().filter(|key| !shared.identities.contains(key));
        pool.ssh.identities = more.cloned().collect();
        (pool.cluster_interface, pool.taints) = (first.cluster_interface.clone(), first.taints.clone());
        let common = |(key, value): &(&String, &String)| {
            hosts.iter().all(|(host, _)| host.labels.get(*key) == Some(*value))
        };
        pool.labels = first.labels.iter().filter(common).map(|(k, v)| (k.clone(), v.clone())).collect();
    }
    let all: Vec<StarterHost> = hosts
        .iter()
        .map(|(host, name)| {
            let gap = gap(host, role);
            if let Some(why) = gap {
                notes.push(fill_in(Some(host.place.clone()), name, why.to_owned()));
            }
            let own = |(key, _): &(&String, &String)| !pool.labels.contains_key(*key);
            StarterHost {
                name: (*name).clone(),
                address: host.address.clone(),
                port: host.port.filter(|port| shared.port != Some(*port)),
                user: host.user.clone().filter(|user| shared.user.as_ref() != Some(user)),
                cluster_address: host.cluster_address.clone().filter(|a| host.address.as_ref() != Some(a)),
                rack: host.rack.clone(),
                bmc: host.bmc.clone(),
                serial: host.serial.clone(),
                labels: host.labels.iter().filter(own).map(|(k, v)| (k.clone(), v.clone())).collect(),
                comment: gap.map(|why| format!("FILL IN: {why}")),
            }
        })
        .collect();
    pool.hosts = ranges(&all);
    pool
}

/// Returns what a host lacks to be valid.
fn gap(host: &FoundHost, role: NodeRole) -> Option<&'static str> {
    let Some(address) = &host.address else { return Some("address, which SSH connects to") };
    let is_ip = address.parse::<IpAddr>().is_ok();
    let known = host.cluster_address.is_some() || (is_ip && host.cluster_interface.is_none());
    if host.shares_address {
        return Some("clusterAddress, its own IP address in the cluster: another host has this one");
    }
    let needed = role.is_controller() && !known;
    needed.then_some("clusterAddress, its IP address in the cluster, which etcd and the API need")
}
