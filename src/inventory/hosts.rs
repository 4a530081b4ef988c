//! The hosts of a pool: ranges, exact names that override them, and CSV files.

use super::diagnostic::{Diagnostic, Source, SourceSpan};
use super::grammar;
use super::model::{Host, HostState};
use super::reader::{HostSpans, Reader, expand_at, text, text_map};
use super::tree::{Node, readable};
use crate::state::{HostName, PoolName, shortened};
use std::collections::BTreeMap;
use std::sync::Arc;

/// More columns than this are no list of hosts.
const MOST_COLUMNS: usize = 64;
const COLUMNS: [&str; 5] = ["name", "address", "rack", "bmc", "serial"];
/// Hosts of one inventory: far above the 2,000 that one etcd and one operator are good for.
pub const MOST_HOSTS: usize = 100_000;
/// Limit for labels and notes of ranges, in bytes over all hosts: each host gets a copy.
const MOST_COPIED: usize = 64 << 20;

/// Reads the hosts of a pool into `all`.
pub(super) fn read(
    r: &mut Reader<'_>,
    pool_node: &Node,
    pool: &PoolName,
    all: &mut BTreeMap<HostName, Host>,
) {
    let mut found: BTreeMap<HostName, Host> = BTreeMap::new();
    let mut spans = HostSpans::new();
    if let Some(node) = pool_node.get("hostsFrom") {
        from_csv(r, node, pool, all.len(), &mut found, &mut spans);
    }
    let entries = pool_node.get("hosts").map(Node::entries).unwrap_or_default();
    // Ranges first: an exact name overrides them in any order.
    let (ranges, exact): (Vec<_>, Vec<_>) = entries.iter().partition(|e| e.key.contains('['));
    for entry in ranges {
        let Some(names) = expand_at(r, &entry.span, &entry.key) else { continue };
        if !fit(r, &entry.span, all.len() + found.len() + names.len()) {
            break;
        }
        if r.copied.saturating_add(names.len().saturating_mul(entry.node.size())) > MOST_COPIED {
            let message = "the hosts of ranges have too many labels and notes in total";
            let hint = "Set labels and notes on fewer hosts, or on their pool";
            r.problems.push(Diagnostic::error("E-RANGE", message).at(&entry.span).hint(hint));
            break;
        }
        r.copied += names.len() * entry.node.size();
        let mut spread = |key: &str| -> Option<Vec<String>> {
            let node = entry.node.get(key)?;
            let values = expand_at(r, &node.span, &node.text()?)?;
            if values.len() == names.len() {
                return Some(values);
            }
            let name = shortened(&entry.key, 60);
            let message = format!("`{name}` has {} names, but this has {} values", names.len(), values.len());
            let hint = format!("Use a range of {} values here, or as many names as values", names.len());
            r.error("E-RANGE-COUNT", node, message, hint);
            None
        };
        let (addresses, cluster, bmc) = (spread("address"), spread("clusterAddress"), spread("bmc"));
        if addresses.is_none() && entry.node.get("address").is_some() {
            continue; // told above; a host without an address would be a second word on it
        }
        let at = |list: &Option<Vec<String>>, n: usize| list.as_ref().and_then(|l| l.get(n).cloned());
        // What is the same for all of them is read, and found wrong, once.
        let mut alike = blank("", pool);
        apply(r, &entry.node, &mut alike);
        for (n, name) in names.into_iter().enumerate() {
            let mut host = Host { name: HostName::new(name), ..alike.clone() };
            host.address = at(&addresses, n).unwrap_or_default();
            host.bmc = at(&bmc, n);
            set_cluster_address(r, &entry.node, &mut host, at(&cluster, n));
            insert(r, &entry.span, &mut found, &mut spans, host);
        }
    }
    for entry in exact {
        let name = HostName::new(entry.key.clone());
        let overridden = found.remove(&name);
        if overridden.is_none() && !fit(r, &entry.span, all.len() + found.len() + 1) {
            break;
        }
        let mut host = overridden.unwrap_or_else(|| blank(&entry.key, pool));
        if let Some(address) = text(Some(&entry.node), "address") {
            host.address = address;
            // What a range derived from its own address goes with it; what it was given (`clusterAddress`) stays.
            if !host.node_ip {
                host.cluster_address = None;
            }
        }
        if let Some(bmc) = text(Some(&entry.node), "bmc") {
            host.bmc = Some(bmc);
        }
        apply(r, &entry.node, &mut host);
        let cluster = text(Some(&entry.node), "clusterAddress");
        set_cluster_address(r, &entry.node, &mut host, cluster);
        insert(r, &entry.span, &mut found, &mut spans, host);
    }
    for (name, host) in found {
        if let Some(other) = all.get(&name) {
            let message = format!("host `{name}` is also in pool {}", other.pool);
            let hint = "Keep the host in one pool only";
            let problem = Diagnostic::error("E-DUPLICATE-HOST", message).hint(hint);
            r.problems.push(match spans.get(&name) {
                Some(span) => problem.at(span),
                None => problem,
            });
        }
        all.insert(name, host);
    }
    r.spans.extend(spans);
}

/// Refuses more hosts than an inventory can have.
fn fit(r: &mut Reader<'_>, span: &SourceSpan, hosts: usize) -> bool {
    if hosts > MOST_HOSTS {
        let message = format!("an inventory can have at most {MOST_HOSTS} hosts");
        let hint = "Split it: one inventory describes one cluster";
        r.problems.push(Diagnostic::error("E-RANGE", message).at(span).hint(hint));
    }
    hosts <= MOST_HOSTS
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
    host.port = r.port(n).or(host.port);
    host.labels.extend(text_map(n, "labels"));
    if let Some(state) = node.get("state") {
        host.state = match state.text().as_deref() {
            Some("active") => HostState::Active,
            Some("maintenance") => HostState::Maintenance,
            Some("retired") => HostState::Retired,
            other => {
                let message =
                    format!("`{}` is not one of active, maintenance, retired", other.unwrap_or_default());
                let hint = "Use maintenance to skip and cordon the host for now, retired to remove it from the cluster";
                r.error("E-VALUE", state, message, hint);
                HostState::Active
            }
        };
    }
}

fn set_cluster_address(r: &mut Reader<'_>, node: &Node, host: &mut Host, given: Option<String>) {
    match given {
        Some(text) => match text.parse() {
            Ok(address) => {
                if let Some(hint) = grammar::host_fault(address) {
                    let at = node.get("clusterAddress").unwrap_or(node);
                    r.error("E-ADDRESS", at, format!("`{address}` is not the address of a host"), hint);
                }
                (host.cluster_address, host.node_ip) = (Some(address), true);
            }
            Err(_) => {
                let at = node.get("clusterAddress").unwrap_or(node);
                let hint = "Use an IP address, which etcd, kubelet and API need: clusterAddress: 10.20.0.11";
                let message = format!("`{}` is not an IP address", shortened(&text, 60));
                r.error("E-VALUE", at, message, hint);
            }
        },
        None => host.cluster_address = host.cluster_address.or_else(|| host.address.parse().ok()),
    }
}

fn insert(
    r: &mut Reader<'_>,
    span: &SourceSpan,
    found: &mut BTreeMap<HostName, Host>,
    spans: &mut HostSpans,
    host: Host,
) {
    let mut wrong = |code, message: String, hint: &str| {
        r.problems.push(Diagnostic::error(code, message).at(span).hint(hint));
    };
    let name = host.name.to_string();
    let shown = shortened(&name, 80);
    if host.address.is_empty() {
        let hint = "Add the address that SSH connects to: {address: 10.20.0.11}";
        wrong("E-MISSING", format!("host `{shown}` has no `address`"), hint);
    } else if let Some(hint) = grammar::address_fault(&host.address) {
        let message = format!("`{}` is not an address (host `{shown}`)", shortened(&host.address, 80));
        wrong("E-ADDRESS", message, hint);
    }
    if let Some(user) = host.user.as_ref().filter(|user| !grammar::is_user(user)) {
        let message = format!("`{}` is not a login name (host `{shown}`)", shortened(user, 80));
        wrong("E-USER", message, grammar::USER);
    }
    let notes = [
        ("reason", &host.reason),
        ("until", &host.until),
        ("rack", &host.rack),
        ("bmc", &host.bmc),
        ("serial", &host.serial),
    ];
    for (key, _) in notes.iter().filter(|(_, note)| note.as_ref().is_some_and(|n| !grammar::is_note(n))) {
        let hint = format!("Use a single line of at most {} characters", grammar::MOST_NOTE);
        wrong("E-NOTE", format!("`{key}` of host `{shown}` is not a short line"), &hint);
    }
    if let Some(until) = host.until.as_ref().filter(|until| !grammar::is_date(until)) {
        let message = format!("`{}` is not a date (`until` of host `{shown}`)", shortened(until, 60));
        wrong("E-DATE", message, "Use a day, or a day and a time: 2026-12-24, 2026-12-24 18:00");
    }
    if !grammar::is_dns_label(&name) {
        let hint = "Use at most 63 lower-case letters, digits and `-`: it becomes hostname and node name";
        wrong("E-NAME", format!("host name `{shown}` is not a DNS-1123 label"), hint);
    }
    if found.contains_key(&host.name) {
        let hint = "Remove one of them: an exact name can override a range, but two ranges or rows cannot name the same host";
        wrong("E-DUPLICATE-HOST", format!("host `{shown}` is defined twice"), hint);
    }
    spans.insert(host.name.clone(), span.clone());
    found.insert(host.name.clone(), host);
}

fn from_csv(
    r: &mut Reader<'_>,
    node: &Node,
    pool: &PoolName,
    before: usize,
    found: &mut BTreeMap<HostName, Host>,
    spans: &mut HostSpans,
) {
    let Some(name) = node.text() else { return };
    let path = r.root.join(&name);
    let content = match r.files.read(&path) {
        Ok(content) => content,
        Err(error) => {
            let hint = "Set hostsFrom to a CSV file next to the inventory, with the columns name,address,rack,bmc,serial";
            r.error("E-READ", node, format!("cannot read {}: {error}", path.display()), hint);
            return;
        }
    };
    let source = Arc::new(Source { name: path.display().to_string(), text: content.clone(), quotable: true });
    // The reader counts lines, empty ones and those within quotes too.
    let at = |position: &csv::Position| {
        let start = (position.byte() as usize).min(content.len());
        let blank = content[start..].len() - content[start..].trim_start_matches(['\n', '\r']).len();
        let line = position.line() as usize + content[start..start + blank].matches('\n').count();
        let len = content[start + blank..].lines().next().map_or(1, str::len).max(1);
        SourceSpan { source: source.clone(), line, column: 1, start: start + blank, len }
    };
    let mut rows =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(content.as_bytes());
    let headers: Vec<String> =
        rows.headers().map(|h| h.iter().map(str::to_owned).collect()).unwrap_or_default();
    // Each row is looked through for each column.
    if headers.len() > MOST_COLUMNS {
        let message = format!("{} has {} columns", path.display(), headers.len());
        r.error("E-CSV", node, message, format!("Use the columns {}", COLUMNS.join(", ")));
        return;
    }
    // Nothing of another file is shown.
    if !headers.iter().any(|h| h == "name") {
        let message = format!("{} is not a list of hosts", path.display());
        let hint = format!("Start the file with a line of column names: {}", COLUMNS.join(","));
        r.error("E-CSV", node, message, hint);
        return;
    }
    for header in headers.iter().filter(|h| !COLUMNS.contains(&h.as_str())) {
        r.problems.push(
            Diagnostic::error("E-CSV", format!("unknown column `{}`", shortened(header, 60)))
                .at(&at(&csv::Position::new()))
                .hint(format!("Use the columns {}", COLUMNS.join(", "))),
        );
    }
    let twice = |header: &&String| headers.iter().filter(|other| other == header).count() > 1;
    if let Some(header) = headers.iter().find(twice) {
        r.problems.push(
            Diagnostic::error("E-CSV", format!("duplicate column `{}`", shortened(header, 60)))
                .at(&at(&csv::Position::new()))
                .hint("Remove one of them"),
        );
        return;
    }
    let wrong = |r: &mut Reader<'_>, span: &SourceSpan, message: String, hint: &str| {
        r.problems.push(Diagnostic::error("E-CSV", message).at(span).hint(hint));
    };
    let mut row = csv::StringRecord::new();
    loop {
        let span = at(rows.position());
        match rows.read_record(&mut row) {
            Ok(false) => break,
            Ok(true) if row.len() == headers.len() => {}
            _ => {
                let message = format!("this row does not have {} columns", headers.len());
                wrong(
                    r,
                    &span,
                    message,
                    "Add one field per column of the first line; leave a field empty between two commas",
                );
                continue;
            }
        }
        if !fit(r, &span, before + found.len() + 1) {
            break;
        }
        let column = |name: &str| {
            let n = headers.iter().position(|h| h == name)?;
            row.get(n).filter(|v| !v.is_empty()).map(str::to_owned)
        };
        row.iter().for_each(|field| readable(field, &span, r.problems));
        let Some(name) = column("name") else {
            wrong(r, &span, "this row has no name".to_owned(), "Fill in the column `name`");
            continue;
        };
        let mut host = blank(&name, pool);
        host.address = column("address").unwrap_or_default();
        host.cluster_address = host.address.parse().ok();
        (host.rack, host.bmc, host.serial) = (column("rack"), column("bmc"), column("serial"));
        insert(r, &span, found, spans, host);
    }
}
