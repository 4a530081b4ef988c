//! The hosts of a pool: ranges, exact names that override them, and CSV files.

use super::build::{Reader, expand_at, text, text_map};
use super::diagnostic::{Diagnostic, Place};
use super::model::{Host, HostState};
use super::range::expand;
use super::tree::{Entry, Node, Source};
use crate::state::{HostName, PoolName};
use std::collections::BTreeMap;
use std::sync::Arc;

const COLUMNS: [&str; 5] = ["name", "address", "rack", "bmc", "serial"];

/// Reads the hosts of a pool into `all`.
pub(super) fn read(
    r: &mut Reader<'_>,
    pool_node: &Node,
    pool: &PoolName,
    all: &mut BTreeMap<HostName, Host>,
) {
    let mut found: BTreeMap<HostName, Host> = BTreeMap::new();
    if let Some(node) = pool_node.get("hostsFrom") {
        from_csv(r, node, pool, &mut found);
    }
    let entries = pool_node.get("hosts").map(Node::entries).unwrap_or_default();
    // Ranges first: an exact name overrides them wherever it stands.
    let (ranges, exact): (Vec<_>, Vec<_>) = entries.iter().partition(|e| e.key.contains('['));
    for entry in ranges {
        let Some(names) = expand_at(r, &entry.node, &entry.key) else { continue };
        let mut spread = |key: &str| -> Option<Vec<String>> {
            let node = entry.node.get(key)?;
            let values = expand_at(r, node, &node.text()?)?;
            if values.len() == names.len() {
                return Some(values);
            }
            let message =
                format!("`{}` is {} names, this is {} values", entry.key, names.len(), values.len());
            let hint = format!("a range of {} here too, or as many names as values", names.len());
            r.error("E-RANGE-COUNT", node, message, hint);
            None
        };
        let (addresses, cluster, bmc) = (spread("address"), spread("clusterAddress"), spread("bmc"));
        if addresses.is_none() && entry.node.get("address").is_some() {
            continue; // told above; a host without an address would be a second word on it
        }
        let at = |list: &Option<Vec<String>>, n: usize| list.as_ref().and_then(|l| l.get(n).cloned());
        for (n, name) in names.iter().enumerate() {
            let mut host = blank(name, pool);
            apply(r, &entry.node, &mut host);
            host.address = at(&addresses, n).unwrap_or_default();
            host.bmc = at(&bmc, n);
            set_cluster_address(r, &entry.node, &mut host, at(&cluster, n));
            insert(r, &entry.node, &mut found, host);
        }
    }
    for entry in exact {
        let name = HostName::new(entry.key.clone());
        let mut host = found.remove(&name).unwrap_or_else(|| blank(&entry.key, pool));
        if let Some(address) = text(Some(&entry.node), "address") {
            host.address = address;
        }
        if let Some(bmc) = text(Some(&entry.node), "bmc") {
            host.bmc = Some(bmc);
        }
        apply(r, &entry.node, &mut host);
        let cluster = text(Some(&entry.node), "clusterAddress");
        set_cluster_address(r, &entry.node, &mut host, cluster);
        insert(r, &entry.node, &mut found, host);
    }
    for (name, host) in found {
        if let Some(other) = all.get(&name) {
            let message = format!("host `{name}` is in pool {} too", other.pool);
            let at = place_of(pool_node, name.as_str());
            let hint = "a host is in one pool; its name is its identity";
            r.problems.push(Diagnostic::error("E-DUPLICATE-HOST", message).at(&at).hint(hint));
        }
        all.insert(name, host);
    }
}

fn blank(name: &str, pool: &PoolName) -> Host {
    Host {
        name: HostName::new(name),
        pool: pool.clone(),
        address: String::new(),
        port: None,
        user: None,
        cluster_address: None,
        node_ip: false,
        state: HostState::Active,
        reason: None,
        until: None,
        rack: None,
        bmc: None,
        serial: None,
        labels: BTreeMap::new(),
    }
}

/// Takes over what does not spread over a range.
fn apply(r: &mut Reader<'_>, node: &Node, host: &mut Host) {
    let n = Some(node);
    let set = |key: &str, field: &mut Option<String>| {
        if let Some(value) = text(n, key) {
            *field = Some(value);
        }
    };
    set("user", &mut host.user);
    set("reason", &mut host.reason);
    set("until", &mut host.until);
    set("rack", &mut host.rack);
    set("serial", &mut host.serial);
    host.port = r.fits(n, "port").or(host.port);
    host.labels.extend(text_map(n, "labels"));
    if let Some(state) = node.get("state") {
        host.state = match state.text().as_deref() {
            Some("active") => HostState::Active,
            Some("maintenance") => HostState::Maintenance,
            Some("retired") => HostState::Retired,
            other => {
                let message =
                    format!("`{}` is not one of active, maintenance, retired", other.unwrap_or_default());
                let hint = "maintenance skips and cordons it for now, retired takes it out for good";
                r.error("E-VALUE", state, message, hint);
                HostState::Active
            }
        };
    }
}

fn set_cluster_address(r: &mut Reader<'_>, node: &Node, host: &mut Host, given: Option<String>) {
    match given {
        Some(text) => match text.parse() {
            Ok(address) => (host.cluster_address, host.node_ip) = (Some(address), true),
            Err(_) => {
                let at = node.get("clusterAddress").unwrap_or(node);
                let hint = "etcd, kubelet and API take addresses, not names: clusterAddress: 10.20.0.11";
                r.error("E-VALUE", at, format!("`{text}` is no IP address"), hint);
            }
        },
        None => host.cluster_address = host.cluster_address.or_else(|| host.address.parse().ok()),
    }
}

fn insert(r: &mut Reader<'_>, node: &Node, found: &mut BTreeMap<HostName, Host>, host: Host) {
    let name = host.name.to_string();
    if host.address.is_empty() {
        let hint = "where SSH reaches it: {address: 10.20.0.11}";
        r.error("E-MISSING", node, format!("host `{name}` lacks `address`"), hint);
    }
    if !is_dns_label(&name) {
        let hint = "lower-case letters, digits and `-`, at most 63: it becomes hostname and node name";
        r.error("E-NAME", node, format!("host name `{name}` is not DNS-1123"), hint);
    }
    if found.insert(host.name.clone(), host).is_some() {
        let hint = "an exact name may override one range; two ranges or rows may not name one host";
        r.error("E-DUPLICATE-HOST", node, format!("host `{name}` is named twice"), hint);
    }
}

/// Returns where a pool names a host: its own entry, the range that holds it, its CSV file's name, or the pool.
pub(super) fn place_of(pool: &Node, host: &str) -> Place {
    let entries = pool.get("hosts").map(Node::entries).unwrap_or_default();
    let exact = entries.iter().find(|e| e.key == host);
    let holds =
        |e: &&Entry| e.key.contains('[') && expand(&e.key).is_ok_and(|names| names.iter().any(|n| n == host));
    match exact.or_else(|| entries.iter().find(holds)) {
        Some(entry) => entry.place.clone(),
        None => pool.get("hostsFrom").unwrap_or(pool).place.clone(),
    }
}

/// Returns whether a name is a DNS-1123 label.
pub(super) fn is_dns_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn from_csv(r: &mut Reader<'_>, node: &Node, pool: &PoolName, found: &mut BTreeMap<HostName, Host>) {
    let Some(name) = node.text() else { return };
    let path = r.root.join(&name);
    let content = match r.files.read(&path) {
        Ok(content) => content,
        Err(error) => {
            let hint = "hostsFrom names a CSV file beside the inventory, with the columns name,address,rack,bmc,serial";
            r.error("E-READ", node, format!("cannot read {}: {error}", path.display()), hint);
            return;
        }
    };
    let source = Arc::new(Source { name: path.display().to_string(), text: content.clone() });
    // Where each line starts, found once: rows are many.
    let starts: Vec<usize> =
        std::iter::once(0).chain(content.match_indices('\n').map(|(n, _)| n + 1)).collect();
    let at = |line: usize| {
        let start = starts.get(line.saturating_sub(1)).copied().unwrap_or(content.len());
        let len = content[start..].lines().next().map_or(1, str::len).max(1);
        Place { source: source.clone(), line, column: 1, start, len }
    };
    let mut rows =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(content.as_bytes());
    let headers: Vec<String> =
        rows.headers().map(|h| h.iter().map(str::to_owned).collect()).unwrap_or_default();
    for header in headers.iter().filter(|h| !COLUMNS.contains(&h.as_str())) {
        r.problems.push(
            Diagnostic::error("E-CSV", format!("unknown column `{header}`"))
                .at(&at(1))
                .hint(format!("columns are {}", COLUMNS.join(", "))),
        );
    }
    for (index, row) in rows.records().enumerate() {
        let line = index + 2;
        let row = match row {
            Ok(row) if row.len() == headers.len() => row,
            _ => {
                let message = format!("this row does not have {} columns", headers.len());
                let hint = "one field for each column of the first line; an empty one between two commas";
                r.problems.push(Diagnostic::error("E-CSV", message).at(&at(line)).hint(hint));
                continue;
            }
        };
        let column = |name: &str| {
            let n = headers.iter().position(|h| h == name)?;
            row.get(n).filter(|v| !v.is_empty()).map(str::to_owned)
        };
        let Some(name) = column("name") else {
            let problem = Diagnostic::error("E-CSV", "this row has no name").at(&at(line));
            r.problems.push(problem.hint("the column `name` is the host's identity"));
            continue;
        };
        let mut host = blank(&name, pool);
        host.address = column("address").unwrap_or_default();
        host.cluster_address = host.address.parse().ok();
        (host.rack, host.bmc, host.serial) = (column("rack"), column("bmc"), column("serial"));
        let place = Node { value: super::tree::Value::Null, place: at(line) };
        insert(r, &place, found, host);
    }
}
