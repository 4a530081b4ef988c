//! Values of another tool that an inventory cannot hold: each is left out, and named.

use super::found::{Found, FoundHost, Note, NoteKind, Place};
use super::words::{TEMPLATE, is_template};
use crate::inventory::{
    address_fault, is_bastion, is_interface, is_note, is_user, may_have_label, may_have_taint,
};
use crate::state::is_steering;
use ipnet::IpNet;
use std::net::IpAddr;

/// The longest path of a key file, in bytes: PATH_MAX of Linux.
const MOST_PATH: usize = 4096;

/// Returns whether a text can stand in an inventory at all.
fn is_readable(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(is_steering) && !is_template(text)
}

/// Takes out a value that does not pass, with a note.
fn check(
    value: &mut Option<String>,
    passes: impl Fn(&str) -> bool,
    why: &str,
    what: &str,
    place: Option<&Place>,
    notes: &mut Vec<Note>,
) {
    if let Some(wrong) = value.take_if(|text| !(is_readable(text) && passes(text))) {
        let why = if is_template(&wrong) { TEMPLATE } else { why };
        notes.push(Note::of(NoteKind::LeftOut, place.cloned(), what, why));
    }
}

/// Takes out what does not pass of a list, with a note.
fn check_all(
    values: &mut Vec<String>,
    passes: impl Fn(&str) -> bool,
    why: &str,
    what: &str,
    place: Option<&Place>,
    notes: &mut Vec<Note>,
) {
    let template = values.iter().any(|value| is_template(value));
    let before = values.len();
    values.retain(|value| is_readable(value) && passes(value));
    if values.len() < before {
        notes.push(Note::of(NoteKind::LeftOut, place.cloned(), what, if template { TEMPLATE } else { why }));
    }
}

/// Leaves out whatever the loader of inventories would refuse.
pub(super) fn valid(found: &mut Found) {
    let mut notes = Vec::new();
    for host in &mut found.hosts {
        of_host(host, &mut notes);
    }
    let is_network = |text: &str| text.parse::<IpNet>().is_ok_and(|net| net == net.trunc());
    let network = "it is not a network such as 10.240.0.0/13";
    check(&mut found.pod_cidr, is_network, network, "podCIDR", None, &mut notes);
    check(&mut found.service_cidr, is_network, network, "serviceCIDR", None, &mut notes);
    let is_address = |text: &str| address_fault(text).is_none();
    let address = "it is neither an IP address nor a DNS name";
    check(&mut found.external, is_address, address, "externalAddress", None, &mut notes);
    check_all(&mut found.sans, is_address, address, "sans", None, &mut notes);
    if found.k0s.as_ref().is_some_and(|(version, _)| !is_readable(version)) {
        found.k0s = None;
    }
    found.notes.extend(notes);
}

fn of_host(host: &mut FoundHost, notes: &mut Vec<Note>) {
    let place = host.place.clone();
    let at = Some(&place);
    let is_address = |text: &str| address_fault(text).is_none();
    let is_ip = |text: &str| text.parse::<IpAddr>().is_ok() && address_fault(text).is_none();
    let address = "it is not the IP address or DNS name of a host";
    // Some tools write IPv6 addresses in brackets.
    if let Some(inner) = host.address.as_deref().and_then(|a| a.strip_prefix('[')?.strip_suffix(']')) {
        host.address = Some(inner.to_owned());
    }
    check(&mut host.address, is_address, address, "address", at, notes);
    check(
        &mut host.cluster_address,
        is_ip,
        "it is not the IP address of a host",
        "cluster address",
        at,
        notes,
    );
    check(&mut host.user, is_user, "it is not a login name", "user", at, notes);
    check(
        &mut host.cluster_interface,
        is_interface,
        "it is not the name of an interface",
        "interface",
        at,
        notes,
    );
    let note = "it is not a short line of text";
    check(&mut host.rack, is_note, note, "rack", at, notes);
    check(&mut host.bmc, is_note, note, "bmc", at, notes);
    check(&mut host.serial, is_note, note, "serial", at, notes);
    check_all(
        &mut host.identities,
        |path| path.len() <= MOST_PATH,
        "it is not a path",
        "a key file",
        at,
        notes,
    );
    check_all(
        &mut host.bastions,
        is_bastion,
        "it is not of the form [user@]host[:port]",
        "a bastion",
        at,
        notes,
    );
    let reserved = "it is not valid, or reserved for Kubernetes or k0s";
    check_all(&mut host.taints, may_have_taint, reserved, "a taint", at, notes);
    let before = host.labels.len();
    host.labels.retain(|key, value| may_have_label(key, value));
    if host.labels.len() < before {
        notes.push(Note::of(NoteKind::LeftOut, Some(place), "a label", reserved));
    }
}
