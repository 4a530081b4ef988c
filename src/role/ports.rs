//! Tests ports between hosts, from those that need them, and runs `k0s sysinfo`. One exec per host besides the observing
//! one, and only before a host's first start of k0s or on demand. It changes nothing: no listener is started, so a port
//! without a listener counts as open if the connection is refused, and as blocked if it times out.

use super::findings::{Finding, MOST_SKEW_S, SEEN_SKEW_S, stop, warn};
use crate::inventory::{Endpoint, Host, HostState, Inventory};
use crate::k0s::{self, API_PORT, BGP_PORT, BINARY, CONTROLLER_UNIT, PORTS, WORKER_UNIT};
use crate::state::{Facts, HostName};
use crate::template::quote;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Peers that a host tries a port of, at the most; between pairs of workers a firewall rule is one for all.
const MOST_PEERS: usize = 16;
/// Hosts that are named where many share what no two should.
const TWINS_SHOWN: usize = 3;
/// A port that is silent for this long is tried once more, in seconds: a packet may be lost, and a host may be busy.
const FIRST_TRY_S: u32 = 3;
/// A port that is silent for this long in its second try is given up, in seconds.
const SECOND_TRY_S: u32 = 9;
/// Connections tried at once. Each costs a host three processes.
const AT_ONCE: usize = 16;

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
        if port.port == BGP_PORT && !kube_router {
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
        // Those after it in the order of names, then from the start, so that every host is tested by some other.
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
        all.push(Try { peer, address, port: API_PORT, what: "Kubernetes API", free: false });
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
         f running; systemctl is-active {CONTROLLER_UNIT} {WORKER_UNIT} 2>/dev/null | grep -x active\n\
         f tries\n\
         try() {{ for s in {FIRST_TRY_S} {SECOND_TRY_S}; do \
         case $c in bash) o=$(timeout -k 1 $s bash -c 'exec 3<>\"/dev/tcp/$0/$1\"' \"$2\" \"$3\" 2>&1);; \
         nc) o=$(timeout -k 1 $s nc -z -w 60 \"$2\" \"$3\" 2>&1);; *) return;; esac; r=$?; \
         case $r in 124|137) ;; *) break;; esac; done; \
         o=$(printf '%s' \"$o\" | tr '\\n' ' '); printf '%s|%s|%s\\n' \"$1\" $r \"$o\"; }}\n"
    );
    for (n, try_) in tries(inventory, host, repositories).iter().enumerate() {
        p += &format!("try {n} {} {} &\n", quote(&try_.address), try_.port);
        if (n + 1) % AT_ONCE == 0 {
            p += "wait\n";
        }
    }
    p += &format!(
        "wait\nf version; [ -x {BINARY} ] && t 10 {BINARY} version\n\
         f sysinfo; [ -x {BINARY} ] && t 20 {BINARY} sysinfo -o json --controller={} --worker={}\n",
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
        let message = "ports cannot be tested: neither bash nor nc is installed";
        found.push(warn(
            "W-PORTS-UNTRIED",
            message,
            "Install one of them, or open the ports listed in docs/reference/errors.md",
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
                    format!(
                        "another process listens on {}:{}, which k0s needs for {}",
                        t.address, t.port, t.what
                    ),
                    format!("Stop the process found by: ss -lntp 'sport = :{}'", t.port),
                ));
            }
            continue;
        }
        // Those two exist already; a port of the cluster may have no listener yet.
        let outside = [PROXY, REPOSITORY].contains(&t.peer.as_str());
        if rc == "0" || (refused && !outside) {
            continue;
        }
        let unknown = ["name resolution", "not known", "No address associated"];
        let why = match (rc, said) {
            ("124" | "137", _) => format!("no response within {SECOND_TRY_S} s"),
            (_, said) if unknown.iter().any(|u| said.contains(u)) => "name resolution failed".to_owned(),
            (_, said) if refused || said.contains("refused") => "refused".to_owned(),
            (_, said) => said.rsplit(": ").next().unwrap_or(said).trim().to_owned(),
        };
        let (code, next) = match t.peer.as_str() {
            PROXY => (
                "E-PROXY-UNREACHABLE",
                "open the port in the firewall of the proxy and on the path".to_owned(),
            ),
            REPOSITORY => (
                "E-REPOSITORY-UNREACHABLE",
                format!(
                    "open the port, or set a mirror (repositories.{}.mirror) or network.proxy",
                    t.address
                ),
            ),
            peer => ("E-PORT-BLOCKED", format!("open the port in the firewall of {peer} and on the path")),
        };
        found.push(stop(
            code,
            format!("{} -> {} ({}:{}, {}): {why}", host.name, t.peer, t.address, t.port, t.what),
            format!(
                "On {}, test with: timeout {SECOND_TRY_S} bash -c '</dev/tcp/{}/{}'; then {next}",
                host.name, t.address, t.port
            ),
        ));
    }
    found.extend(sysinfo(inventory, &first("version"), &lines("sysinfo").join("\n")));
    found
}

/// The verdict of the target binary on the host; older binaries are not run.
fn sysinfo(inventory: &Inventory, version: &str, text: &str) -> Vec<Finding> {
    if version.trim() != inventory.cluster.k0s_version || text.trim().is_empty() {
        return Vec::new();
    }
    let hint = "Check with: k0s sysinfo";
    let Some(items) = k0s::sysinfo(text) else {
        return vec![warn("W-K0S-SYSINFO", "cannot parse the output of k0s sysinfo", hint)];
    };
    let finding = |item: k0s::SysinfoItem| {
        let said = format!("k0s sysinfo: {}", item.text);
        if item.stops { stop("E-K0S-SYSINFO", said, hint) } else { warn("W-K0S-SYSINFO", said, hint) }
    };
    items.into_iter().map(finding).collect()
}

/// Returns how far clocks differ from the majority of hosts, in seconds, by position in the list. `None` if no half of
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
    let hint = "Compare `date -u` on both hosts; run `timedatectl set-ntp true` or `chronyc makestep`";
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
    // No majority: each is compared with the one that it differs from most.
    for (name, facts) in all {
        let apart = |other: &&(HostName, &Facts)| (facts.skew_s - other.1.skew_s).abs();
        if let Some((other, theirs)) = all.iter().max_by_key(apart) {
            tell(name, facts.skew_s - theirs.skew_s, &format!("{other}'s; it is unknown which one is right"));
        }
    }
}

/// Returns the hosts by what they share, such as a machine id; without those that do not say.
fn sharing<'a>(
    all: &'a [(HostName, &'a Facts)],
    key: impl Fn(&'a Facts) -> &'a String,
) -> HashMap<&'a str, Vec<&'a HostName>> {
    let mut found: HashMap<&str, Vec<&HostName>> = HashMap::new();
    for (name, facts) in all.iter().filter(|(_, facts)| !key(facts).is_empty()) {
        found.entry(key(facts)).or_default().push(name);
    }
    found
}

/// Returns the others of those that share something with a host, the first few by name; `None` if there is no other.
fn others(name: &HostName, sharing: Option<&Vec<&HostName>>) -> Option<String> {
    let mut others = sharing?.iter().filter(|other| **other != name).map(|other| other.as_str());
    let shown: Vec<&str> = others.by_ref().take(TWINS_SHOWN).collect();
    let more = match others.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!shown.is_empty()).then(|| shown.join(", ") + &more)
}

/// What hosts can only tell together: names, identities, addresses and clocks. The failing host is named, with its reason.
pub fn among(inventory: &Inventory, all: &[(HostName, &Facts)]) -> Vec<(HostName, Finding)> {
    let mut found = Vec::new();
    clocks(all, &mut found);
    let machines = sharing(all, |f| &f.machine_id);
    let products = sharing(all, |f| &f.product_uuid);
    let hostnames = sharing(all, |f| &f.hostname);
    let live = inventory.hosts.values().filter(|h| h.state != HostState::Retired);
    let mut owners: HashMap<IpAddr, Vec<&HostName>> = HashMap::new();
    for host in live {
        if let Some(address) = host.cluster_address.filter(|a| !a.is_loopback()) {
            owners.entry(address).or_default().push(&host.name);
        }
    }
    for (name, facts) in all {
        if let Some(twins) = others(name, machines.get(facts.machine_id.as_str())) {
            found.push((name.clone(), stop(
                "E-MACHINE-ID",
                format!("same machine id as {twins}"),
                "On a cloned image, run `tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id` and reboot (check with: cat /etc/machine-id)",
            )));
        }
        if let Some(twins) = others(name, products.get(facts.product_uuid.as_str())) {
            found.push((name.clone(), warn(
                "W-PRODUCT-UUID",
                format!("same product UUID as {twins}"),
                "Harmless unless other software identifies hosts by it (check with: cat /sys/class/dmi/id/product_uuid)",
            )));
        }
        // Named like another host of the inventory: the addresses are swapped, or one is the other's clone.
        let another = inventory.hosts.get(facts.hostname.as_str()).filter(|h| h.name != *name);
        let kept = hostnames.get(facts.hostname.as_str()).filter(|_| !inventory.os.manage_hostname);
        let kept = kept.and_then(|all| all.iter().find(|other| **other != name)).map(|other| other.as_str());
        if let Some(other) = another.map(|h| h.name.as_str()).or(kept) {
            found.push((name.clone(), stop(
                "E-HOSTNAME",
                format!("hostname {} collides with host {other}", facts.hostname),
                "Check for swapped addresses in the inventory or a cloned host; fix with `hostnamectl set-hostname`",
            )));
        }
        for (_, address) in &facts.addresses {
            let plain = address.split('/').next().unwrap_or(address);
            let owner = plain.parse().ok().and_then(|address: IpAddr| owners.get(&address));
            if let Some(owner) = owner.and_then(|all| all.iter().find(|owner| **owner != name)) {
                found.push((
                    name.clone(),
                    stop(
                        "E-ADDRESS-TAKEN",
                        format!("it has {plain}, the cluster address of {owner}"),
                        "Remove the address from one of the two (check with: ip -br addr)",
                    ),
                ));
            }
        }
    }
    found
}
