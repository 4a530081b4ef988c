//! A table of hosts: CSV with a line of column names, separated by commas, semicolons or tabs. Columns are recognised by the names
//! that asset lists and DCIM exports give them.

use super::accelerators::accelerator;
use super::error::ImportError;
use super::found::{Found, FoundHost, Note, NoteKind, Place};
use super::words::{SECRET, TEMPLATE, UNUSED, is_secret, is_template};
use crate::catalog::Catalog;
use crate::inventory::NodeRole;
use std::sync::Arc;

/// What a column can hold, as the inventory names it, and the names by which it is recognised: letters and digits only.
pub const COLUMNS: [(&str, &[&str]); 12] = [
    (
        "name",
        &[
            "name",
            "hostname",
            "host",
            "nodename",
            "node",
            "servername",
            "server",
            "devicename",
            "device",
            "fqdn",
            "dnsname",
            "vmname",
        ],
    ),
    (
        "address",
        &[
            "address",
            "ip",
            "ipaddress",
            "mgmtip",
            "managementip",
            "primaryip",
            "primaryipv4",
            "primaryip4",
            "primaryipv4address",
            "ipaddr",
            "ipv4",
            "sship",
            "hostip",
            "osip",
            "ansiblehost",
        ],
    ),
    ("clusterAddress", &["clusteraddress", "clusterip", "internalip", "privateip", "dataip"]),
    ("user", &["user", "username", "sshuser", "login", "ansibleuser"]),
    ("port", &["port", "sshport", "ansibleport"]),
    ("role", &["role", "devicerole", "noderole", "appliance"]),
    ("pool", &["pool", "nodepool", "group"]),
    ("rack", &["rack", "rackname", "cabinet"]),
    (
        "bmc",
        &[
            "bmc",
            "bmcip",
            "bmcaddress",
            "ipmi",
            "ipmiip",
            "ipmiaddress",
            "idrac",
            "idracip",
            "ilo",
            "iloip",
            "oob",
            "oobip",
            "outofbandip",
            "drac",
        ],
    ),
    ("serial", &["serial", "serialnumber", "serialno", "sn", "servicetag"]),
    ("product", &["gpu", "gpumodel", "gputype", "gpuproduct", "accelerator", "acceleratortype", "product"]),
    ("count", &["gpucount", "gpus", "numgpus", "ngpu", "ngpus", "acceleratorcount", "accelerators"]),
];
/// The most columns of a table of hosts.
const MOST_COLUMNS: usize = 256;
/// Words of a role that name a controller.
const CONTROLLERS: [&str; 10] = [
    "controller",
    "control",
    "controlplane",
    "cp",
    "master",
    "masters",
    "controllers",
    "head",
    "mgmt",
    "management",
];
/// Words of a role that name a worker.
const WORKERS: [&str; 8] = ["worker", "workers", "compute", "node", "gpu", "agent", "backend", "inference"];

/// Returns a column's name as the table here has it.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Returns the separator of a table's first line.
fn separator(line: &str) -> u8 {
    let count = |separator: u8| line.bytes().filter(|b| *b == separator).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|separator| count(*separator)).unwrap_or(b',')
}

fn rows(text: &str) -> csv::Reader<&[u8]> {
    let separator = separator(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default());
    csv::ReaderBuilder::new()
        .delimiter(separator)
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(text.as_bytes())
}

/// Returns the columns of a table by what they hold, as far as their names say so.
fn recognised(headers: &csv::StringRecord) -> [Option<usize>; COLUMNS.len()] {
    let plain_names: Vec<String> = headers.iter().map(plain).collect();
    COLUMNS
        .map(|(_, names)| names.iter().find_map(|name| plain_names.iter().position(|header| header == name)))
}

/// Returns whether a text begins with names of columns, one of which is an address or a name.
pub(super) fn is_table(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    let headers = rows(text).headers().cloned().unwrap_or_default();
    (2..=MOST_COLUMNS).contains(&headers.len()) && recognised(&headers).iter().take(2).any(Option::is_some)
}

/// Reads a table; `named` are columns by what they hold, in place of those that their names would give.
pub(super) fn read(name: &str, text: &str, named: &[(String, String)]) -> Result<Found, ImportError> {
    let (file, text) = (Arc::from(name), text.trim_start_matches('\u{feff}'));
    let wrong = |message: String| ImportError::Columns(message);
    let mut rows = rows(text);
    let headers = rows.headers().cloned().map_err(|_| wrong("its first line cannot be read".to_owned()))?;
    if headers.len() > MOST_COLUMNS {
        return Err(wrong(format!("it has more than {MOST_COLUMNS} columns")));
    }
    let mut columns = recognised(&headers);
    for (field, header) in named {
        let field_at = COLUMNS.iter().position(|(known, _)| known == field);
        let field_at = field_at.ok_or_else(|| {
            let known: Vec<&str> = COLUMNS.iter().map(|(known, _)| *known).collect();
            wrong(format!("`{field}` is nothing that a column can hold; use one of {}", known.join(", ")))
        })?;
        let at = headers.iter().position(|known| known.eq_ignore_ascii_case(header));
        let at = at.ok_or_else(|| wrong(format!("it has no column `{header}`")))?;
        columns.iter_mut().filter(|column| **column == Some(at)).for_each(|column| *column = None);
        columns[field_at] = Some(at);
    }
    if columns.iter().take(2).all(Option::is_none) {
        return Err(wrong("none of its columns is known to hold a name or an address".to_owned()));
    }
    let (mut found, top) = (Found::default(), Place::of(&file, 1));
    for (at, header) in headers.iter().enumerate().filter(|(at, _)| !columns.contains(&Some(*at))) {
        let why = if is_secret(header) { SECRET } else { UNUSED };
        let unnamed = format!("column {}", at + 1);
        found.left_out(&top, if header.is_empty() { &unnamed } else { header }, why);
    }
    let catalog = Catalog::builtin().map_err(|error| wrong(error.to_string()))?;
    let mut row = csv::StringRecord::new();
    loop {
        let more = rows.read_record(&mut row);
        let line = row.position().map_or(1, csv::Position::line) as usize;
        match more {
            Ok(false) => break,
            Ok(true) if row.iter().all(str::is_empty) => continue,
            Ok(true) => {}
            Err(_) => {
                found.left_out(&Place::of(&file, line), "a row", "it cannot be read");
                continue;
            }
        }
        if !found.has_room(1) {
            return Err(ImportError::TooMany);
        }
        let place = Place::of(&file, line);
        host(&place, &row, &columns, &catalog, &mut found);
    }
    Ok(found)
}

fn host(
    place: &Place,
    row: &csv::StringRecord,
    columns: &[Option<usize>; COLUMNS.len()],
    catalog: &Catalog,
    found: &mut Found,
) {
    let mut values =
        columns.map(|column| column.and_then(|at| row.get(at)).filter(|value| !value.is_empty()));
    for (value, (field, _)) in values.iter_mut().zip(COLUMNS) {
        if value.is_some_and(is_template) {
            found.left_out(place, field, TEMPLATE);
            *value = None;
        }
    }
    let [name, address, cluster, user, port, role, pool, rack, bmc, serial, product, count] = values;
    // DCIM exports write addresses with their prefix length.
    let without_prefix = |text: &str| match text.split_once('/') {
        Some((address, bits)) if bits.parse::<u8>().is_ok() => address.to_owned(),
        _ => text.to_owned(),
    };
    let mut host = FoundHost::of(name.unwrap_or_default(), place.clone());
    host.address = address.map(without_prefix);
    if host.name.is_empty() && host.address.is_none() {
        return found.left_out(place, "a row", "it has neither a name nor an address");
    }
    host.cluster_address = cluster.map(without_prefix);
    host.user = user.map(str::to_owned);
    match port.map(str::parse::<u16>) {
        Some(Ok(port)) if port > 0 => host.port = Some(port).filter(|port| *port != 22),
        Some(_) => found.left_out(place, "port", "it is not a port"),
        None => {}
    }
    host.role = role.and_then(|role| {
        let read = read_role(role);
        if read.is_none() {
            let why = format!("its role `{role}` says neither controller nor worker, so it is a worker");
            found.notes.push(Note::of(NoteKind::Assumed, Some(place.clone()), host.name.as_str(), why));
        }
        read.or(Some(NodeRole::Worker))
    });
    host.pool = pool.map(str::to_owned);
    (host.rack, host.serial) = (rack.map(str::to_owned), serial.map(str::to_owned));
    host.bmc = bmc.map(without_prefix);
    let count = count.and_then(|count| count.parse().ok());
    host.accelerator = product.and_then(|product| accelerator(product, count, catalog));
    found.hosts.push(host);
}

fn read_role(text: &str) -> Option<NodeRole> {
    let text = text.to_ascii_lowercase().replace(['-', '_'], "").replace("controlplane", "control plane");
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let has = |names: &[&str]| words.iter().any(|word| names.contains(word));
    match (has(&CONTROLLERS), has(&WORKERS)) {
        (true, true) => Some(NodeRole::ControllerWorker),
        (true, false) => Some(NodeRole::Controller),
        (false, true) => Some(NodeRole::Worker),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_by_their_words() {
        for (text, role) in [
            ("Control-Plane", Some(NodeRole::Controller)),
            ("type=cp", Some(NodeRole::Controller)),
            ("master,worker", Some(NodeRole::ControllerWorker)),
            ("GPU compute node", Some(NodeRole::Worker)),
            ("storage", None),
        ] {
            assert_eq!(read_role(text), role, "{text}");
        }
    }

    #[test]
    fn separators_and_byte_order_marks_are_found() {
        for text in ["name,ip\n", "\u{feff}Name;IP Address\n", "Host\tMgmt IP\n"] {
            assert!(is_table(text), "{text:?}");
        }
        for text in ["", "one column\n", "x,y\n1,2\n"] {
            assert!(!is_table(text), "{text:?}");
        }
    }
}
