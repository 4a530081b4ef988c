//! Ports between hosts, tried from those that need them; and what only the target k0s itself can tell. One exec a host,
//! beside the observing one, and only before a host's first start of k0s or on demand. It changes nothing: no listener is
//! put up, so a port on which nothing listens yet counts as open when the other side refuses, and as blocked when
//! nothing comes back.

use super::findings::{Finding, stop, warn};
use super::host::{MOST_SKEW_S, SEEN_SKEW_S};
use crate::inventory::{Endpoint, Host, HostState, Inventory};
use crate::state::{Facts, HostName};
use crate::template::quote;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Peers that a host tries a port of, at the most; between pairs of workers a firewall rule is one for all.
const MOST_PEERS: usize = 16;
/// A silent port is given up, in seconds.
const PATIENCE_S: u32 = 3;
/// Connections tried at once.
const AT_ONCE: usize = 32;

/// A port, who needs it of whom, and what for (k0s docs/networking.md).
pub struct Port {
    /// The TCP port.
    pub port: u16,
    /// Needed by controllers, by workers.
    pub from: (bool, bool),
    /// Of controllers, of workers.
    pub to: (bool, bool),
    /// What for.
    pub what: &'static str,
}

/// The table. kube-router's 179 and Calico's 4789 (UDP, which cannot be tried) are the CNI's.
pub const PORTS: [Port; 6] = [
    Port { port: 6443, from: (true, true), to: (true, false), what: "Kubernetes API" },
    Port { port: 9443, from: (true, false), to: (true, false), what: "k0s join API" },
    Port { port: 8132, from: (false, true), to: (true, false), what: "konnectivity" },
    Port { port: 2380, from: (true, false), to: (true, false), what: "etcd" },
    Port { port: 10250, from: (true, false), to: (false, true), what: "kubelet" },
    Port { port: 179, from: (false, true), to: (false, true), what: "kube-router BGP" },
];

/// What is named as a peer where it is no host of the inventory.
const PROXY: &str = "the proxy";
const REPOSITORY: &str = "a package repository";

/// One connection to be tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Try {
    /// The host that is to answer; its own name for what must be free on itself.
    pub peer: String,
    /// Where.
    pub address: String,
    /// The port.
    pub port: u16,
    /// What for.
    pub what: &'static str,
    /// It must be free, not reachable.
    pub free: bool,
}

/// Where others reach a host.
fn reached(host: &Host) -> String {
    match host.cluster_address.filter(|_| !on_loopback(host)) {
        Some(address) => address.to_string(),
        None => host.address.clone(),
    }
}

/// Returns whether a host is the lab's: it is reached by a loopback address, and its cluster addresses lead nowhere.
fn on_loopback(host: &Host) -> bool {
    host.address.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// Returns what a host is to try; the URLs of its package repositories only where it has to reach them by itself.
pub fn tries(inventory: &Inventory, host: &Host, repositories: &[String]) -> Vec<Try> {
    let role = inventory.pool_of(host).role;
    let kube_router = !inventory.cluster.k0s_config.to_string().contains("\"provider\":\"calico\"");
    let mut all = Vec::new();
    for port in &PORTS {
        if port.port == 179 && !kube_router {
            continue;
        }
        let serves = (role.is_controller() && port.to.0) || (role.is_worker() && port.to.1);
        // konnectivity and BGP come up with their pods; what is taken before is as bad.
        if serves {
            let (peer, address) = (host.name.to_string(), reached(host));
            all.push(Try { peer, address, port: port.port, what: port.what, free: true });
        }
        if !((role.is_controller() && port.from.0) || (role.is_worker() && port.from.1)) {
            continue;
        }
        let peers: Vec<&Host> = inventory
            .hosts
            .values()
            .filter(|h| h.state == HostState::Active && h.name != host.name)
            .filter(|h| {
                let r = inventory.pool_of(h).role;
                (r.is_controller() && port.to.0) || (r.is_worker() && port.to.1)
            })
            .collect();
        // Those after it in the order of names, then from the start: so all are tried by somebody.
        let from = peers.iter().position(|h| h.name > host.name).unwrap_or(0);
        for peer in peers.iter().cycle().skip(from).take(peers.len().min(MOST_PEERS)) {
            let (name, address) = (peer.name.to_string(), reached(peer));
            all.push(Try { peer: name, address, port: port.port, what: port.what, free: false });
        }
    }
    if role.is_worker()
        && let Endpoint::External { address } = &inventory.cluster.endpoint
    {
        let (peer, address) = ("the load balancer".to_owned(), address.clone());
        all.push(Try { peer, address, port: 6443, what: "Kubernetes API", free: false });
    }
    if let Some((address, port)) = inventory.network.proxy.as_deref().and_then(authority) {
        all.push(Try { peer: PROXY.to_owned(), address, port, what: "network.proxy", free: false });
    } else if !on_loopback(host) {
        // Several repositories of one server are one place to reach.
        let places: BTreeSet<_> = repositories.iter().filter_map(|url| authority(url)).collect();
        for (address, port) in places {
            all.push(Try { peer: REPOSITORY.to_owned(), address, port, what: "packages", free: false });
        }
    }
    all
}

/// Returns host and port of a URL.
fn authority(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let place = rest.split('/').next()?;
    let default = if scheme == "https" { 443 } else { 80 };
    match place.rsplit_once(':') {
        Some((host, port)) => Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)),
        None => Some((place.to_owned(), default)),
    }
}

/// What begins a section of the answer.
const SECTION: &str = "#section ";

/// Returns the shell that tries.
pub fn program(inventory: &Inventory, host: &Host, repositories: &[String]) -> String {
    let role = inventory.pool_of(host).role;
    let mut p = format!(
        "f() {{ printf '{SECTION}%s\\n' \"$1\"; }}\n\
         t() {{ s=$1; shift; timeout -k 1 \"$s\" /bin/sh -c '\"$@\"; exit $?' t \"$@\" 2>/dev/null; }}\n\
         f tool; c=; if command -v bash >/dev/null 2>&1; then c=bash; elif command -v nc >/dev/null 2>&1; then c=nc; fi; echo \"$c\"\n\
         f running; systemctl is-active k0scontroller.service k0sworker.service 2>/dev/null | grep -x active\n\
         f tries\n\
         try() {{ case $c in bash) o=$(timeout -k 1 {PATIENCE_S} bash -c 'exec 3<>\"/dev/tcp/$0/$1\"' \"$2\" \"$3\" 2>&1);; \
         nc) o=$(nc -z -w {PATIENCE_S} \"$2\" \"$3\" 2>&1);; *) return;; esac; r=$?; \
         o=$(printf '%s' \"$o\" | tr '\\n' ' '); printf '%s|%s|%s\\n' \"$1\" $r \"$o\"; }}\n"
    );
    for (n, try_) in tries(inventory, host, repositories).iter().enumerate() {
        p += &format!("try {n} {} {} &\n", quote(&try_.address), try_.port);
        if (n + 1) % AT_ONCE == 0 {
            p += "wait\n";
        }
    }
    p += &format!(
        "wait\nf version; [ -x /usr/local/bin/k0s ] && t 10 /usr/local/bin/k0s version\n\
         f sysinfo; [ -x /usr/local/bin/k0s ] && t 20 /usr/local/bin/k0s sysinfo -o json --controller={} --worker={}\n",
        role.is_controller(),
        role.is_worker()
    );
    p
}

/// Reads what the program printed that was made from the same.
pub fn findings(inventory: &Inventory, host: &Host, repositories: &[String], answer: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let lines = |name: &str| -> Vec<String> {
        let mut all = answer.lines().skip_while(|l| l.strip_prefix(SECTION) != Some(name));
        all.next();
        all.take_while(|l| !l.starts_with(SECTION)).map(str::to_owned).collect()
    };
    let first = |name: &str| lines(name).first().cloned().unwrap_or_default();
    let tries = tries(inventory, host, repositories);
    let running = first("running") == "active";
    if first("tool").is_empty() && !tries.is_empty() {
        let message = "no port can be tried: neither bash nor nc is on this host";
        found.push(warn(
            "W-PORTS-UNTRIED",
            message,
            "install one of them, or open the ports of the table in docs/reference/errors.md",
        ));
    }
    for line in lines("tries") {
        let columns: Vec<&str> = line.splitn(3, '|').collect();
        let [number, rc, said] = columns[..] else { continue };
        let Some(t) = number.parse::<usize>().ok().and_then(|n| tries.get(n)) else { continue };
        let refused = said.contains("refused");
        if t.free {
            // A k0s that runs holds them itself.
            if rc == "0" && !running {
                found.push(stop(
                    "E-PORT-TAKEN",
                    format!("something listens on {}:{}, which k0s needs for {}", t.address, t.port, t.what),
                    format!("by hand: ss -lntp 'sport = :{}'; end what listens there", t.port),
                ));
            }
            continue;
        }
        // Those two are there already; a port of the cluster may well have nobody behind it yet.
        let outside = [PROXY, REPOSITORY].contains(&t.peer.as_str());
        if rc == "0" || (refused && !outside) {
            continue;
        }
        let unknown = ["name resolution", "not known", "No address associated"];
        let why = match (rc, said) {
            ("124" | "137", _) => format!("no answer in {PATIENCE_S} s"),
            (_, said) if unknown.iter().any(|u| said.contains(u)) => "its name cannot be resolved".to_owned(),
            (_, said) if refused || said.contains("refused") => "refused".to_owned(),
            (_, said) => said.rsplit(": ").next().unwrap_or(said).trim().to_owned(),
        };
        let (code, next) = match t.peer.as_str() {
            PROXY => {
                ("E-PROXY-UNREACHABLE", "open it in the firewall of the proxy and on the way".to_owned())
            }
            REPOSITORY => (
                "E-REPOSITORY-UNREACHABLE",
                format!("open it, or name a mirror (repositories.{}.mirror) or network.proxy", t.address),
            ),
            peer => ("E-PORT-BLOCKED", format!("open it in the firewall of {peer} and on the way")),
        };
        found.push(stop(
            code,
            format!("{} -> {} ({}:{}, {}): {why}", host.name, t.peer, t.address, t.port, t.what),
            format!(
                "by hand on {}: timeout 3 bash -c '</dev/tcp/{}/{}'; {next}",
                host.name, t.address, t.port
            ),
        ));
    }
    found.extend(sysinfo(inventory, &first("version"), &lines("sysinfo").join("\n")));
    found
}

/// What the target binary says of the host; an older one's word is not asked for.
fn sysinfo(inventory: &Inventory, version: &str, text: &str) -> Vec<Finding> {
    if version.trim() != inventory.cluster.k0s_version || text.trim().is_empty() {
        return Vec::new();
    }
    let hint = "by hand: k0s sysinfo";
    let Ok(items) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return vec![warn("W-K0S-SYSINFO", "k0s sysinfo gave no answer that could be read", hint)];
    };
    let of = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .filter_map(|item| {
            let said = format!("{}: {} {}", of(item, "displayName"), of(item, "prop"), of(item, "message"));
            let said = format!("k0s sysinfo: {}", said.trim());
            match item["category"].as_str() {
                Some("rejected" | "error") => Some(stop("E-K0S-SYSINFO", said, hint)),
                Some("warning") => Some(warn("W-K0S-SYSINFO", said, hint)),
                _ => None,
            }
        })
        .collect()
}

/// Returns whether a host has yet to start k0s: it owns no record of one that was seen up.
pub fn is_new(facts: &Facts) -> bool {
    !facts.managed.iter().any(|m| m.id == "command/k0s-ready")
}

/// Returns how far clocks are off what most of the hosts say, in seconds, by place in the list. `None` where no half of
/// them agrees, so that none can be called right.
fn off(skews: &[i64]) -> Option<Vec<i64>> {
    let mut sorted = skews.to_vec();
    sorted.sort_unstable();
    let (low, high) = (*sorted.get(sorted.len().checked_sub(1)? / 2)?, *sorted.get(sorted.len() / 2)?);
    // Of an even number the middle is two clocks: they must agree to be a measure.
    if high - low > SEEN_SKEW_S {
        return None;
    }
    Some(skews.iter().map(|s| if *s > high { s - high } else { (s - low).min(0) }).collect())
}

/// Clocks against one another. This machine's may be the wrong one, and etcd, tokens and certificates are among the hosts.
fn clocks(all: &[(HostName, &Facts)], found: &mut Vec<(HostName, Finding)>) {
    let skews: Vec<i64> = all.iter().map(|(_, facts)| facts.skew_s).collect();
    let hint = "by hand: date -u, on both; timedatectl set-ntp true, or chronyc makestep";
    let mut tell = |name: &HostName, by: i64, than: &str| {
        let way = if by < 0 { "behind" } else { "ahead of" };
        let message = format!("its clock is {} s {way} {than}", by.abs());
        match by.abs() {
            s if s > MOST_SKEW_S => found.push((name.clone(), stop("E-CLOCK", message, hint))),
            s if s > SEEN_SKEW_S => found.push((name.clone(), warn("W-CLOCK", message, hint))),
            _ => {}
        }
    };
    if let Some(off) = off(&skews) {
        all.iter().zip(off).for_each(|((name, _), by)| tell(name, by, "most other hosts'"));
        return;
    }
    // No measure: each is told against the one that it differs from most.
    for (name, facts) in all {
        let apart = |other: &&(HostName, &Facts)| (facts.skew_s - other.1.skew_s).abs();
        if let Some((other, theirs)) = all.iter().max_by_key(apart) {
            tell(
                name,
                facts.skew_s - theirs.skew_s,
                &format!("{other}'s, and which is right cannot be told"),
            );
        }
    }
}

/// What hosts can only tell together: names, identities, addresses and clocks. The failing host is named, with its reason.
pub fn among(inventory: &Inventory, all: &[(HostName, &Facts)]) -> Vec<(HostName, Finding)> {
    let mut found = Vec::new();
    clocks(all, &mut found);
    for (name, facts) in all {
        let others = || all.iter().filter(|(other, _)| other != name);
        let same = |key: &dyn Fn(&Facts) -> &str| -> Vec<&str> {
            let mine = key(facts);
            if mine.is_empty() {
                return Vec::new();
            }
            others().filter(|(_, f)| key(f) == mine).map(|(n, _)| n.as_str()).collect()
        };
        let twins = same(&|f: &Facts| &f.machine_id);
        if !twins.is_empty() {
            found.push((name.clone(), stop(
                "E-MACHINE-ID",
                format!("it has the machine id of {}", twins.join(", ")),
                "by hand: cat /etc/machine-id; for a cloned image: tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id, and reboot",
            )));
        }
        let uuids = same(&|f: &Facts| &f.product_uuid);
        if !uuids.is_empty() {
            found.push((name.clone(), warn(
                "W-PRODUCT-UUID",
                format!("it has the product uuid of {}", uuids.join(", ")),
                "by hand: cat /sys/class/dmi/id/product_uuid; harmless unless something tells hosts apart by it",
            )));
        }
        // Named like another host of the inventory: the addresses are swapped, or one is the other's clone.
        let another = inventory.hosts.get(facts.hostname.as_str()).filter(|h| h.name != *name);
        let kept = if inventory.os.manage_hostname { Vec::new() } else { same(&|f: &Facts| &f.hostname) };
        if let Some(other) = another.map(|h| h.name.as_str()).or(kept.first().copied()) {
            found.push((name.clone(), stop(
                "E-HOSTNAME",
                format!("it calls itself {}, as {other} does", facts.hostname),
                "by hand: hostname; are the addresses in the inventory swapped, or is it a clone? then: hostnamectl set-hostname",
            )));
        }
        for (_, address) in &facts.addresses {
            let plain = address.split('/').next().unwrap_or(address);
            let owner = inventory.hosts.values().find(|h| {
                h.name != *name
                    && h.state != HostState::Retired
                    && h.cluster_address.is_some_and(|a| !a.is_loopback() && a.to_string() == plain)
            });
            if let Some(owner) = owner {
                found.push((
                    name.clone(),
                    stop(
                        "E-ADDRESS-TAKEN",
                        format!("it carries {plain}, the cluster address of {}", owner.name),
                        "by hand: ip -br addr; take it off one of the two",
                    ),
                ));
            }
        }
    }
    found
}
