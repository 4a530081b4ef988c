//! Drift as text, and as metrics for Prometheus.

use super::layout::{Columns, Last};
use super::summary::within;
use super::words::{count, names};
use crate::plan::{Difference, Drift};
use crate::state::{FieldDiff, Origin, Verb, plain_line};
use std::collections::BTreeSet;

/// The widest column of what differs, and of how; longer text runs on.
const MOST_WHAT: usize = 44;
const MOST_DETAIL: usize = 48;

/// Where differences can come from, in the order in which they are shown, and what metrics call that.
const ORIGINS: [(Option<Origin>, &str, &str); 4] = [
    (Some(Origin::Drift), "drift", "changed since the last apply"),
    (Some(Origin::State), "state", "as wanted, but not ready or not in service"),
    (None, "unknown", "new in the inventory, or changed by somebody"),
    (Some(Origin::Inventory), "inventory", "not applied yet"),
];

/// Returns how something differs.
fn detail(difference: &Difference) -> String {
    if let Some(why) = &difference.deferred {
        return format!("not known: {why}");
    }
    // Not an arrow, which would say who comes last.
    let differs = |field: &FieldDiff| match (&field.from, &field.to) {
        (Some(is), Some(wanted)) => format!("{} {is}, wanted {wanted}", field.name),
        (None, Some(wanted)) => format!("{} unset, wanted {wanted}", field.name),
        (Some(is), None) => format!("{} {is}, wanted none", field.name),
        (None, None) => field.name.clone(),
    };
    match difference.verb {
        Verb::Create => "missing".to_owned(),
        Verb::Remove => "no longer wanted".to_owned(),
        Verb::Update | Verb::Run => difference.fields.iter().map(differs).collect::<Vec<_>>().join("; "),
    }
}

/// Returns drift as text; `place` is how the inventory was named on the command line.
pub fn drift_text(drift: &Drift, place: &str, width: Option<usize>) -> String {
    let mut text = String::new();
    if drift.lab {
        text += &format!("{}\n", super::LAB);
    }
    if drift.in_sync {
        text += &format!("{} is as wanted: {}\n", drift.inventory, count(drift.hosts, "host"));
        return text;
    }
    let targets: BTreeSet<&str> = drift.differences.iter().map(|d| d.target.as_str()).collect();
    let on = match (targets.iter().filter(|t| **t != "cluster").count(), targets.contains("cluster")) {
        (0, false) => String::new(),
        (0, true) => " in the cluster".to_owned(),
        (hosts, false) => format!(" on {}", count(hosts, "host")),
        (hosts, true) => format!(" on {} and in the cluster", count(hosts, "host")),
    };
    let all = count(drift.differences.len(), "difference");
    text += &format!("{}: {all}{on}, of {} observed\n", drift.inventory, count(drift.hosts, "host"));
    for (origin, _, title) in ORIGINS {
        // The same on many hosts is one line.
        let mut rows: Vec<([String; 3], Vec<&str>)> = Vec::new();
        for difference in drift.differences.iter().filter(|d| d.origin == origin) {
            let by = match difference.changed_by.as_slice() {
                [] => String::new(),
                managers => format!("by {}", managers.join(", ")),
            };
            let row = [difference.resource.what(), detail(difference), by]
                .map(|cell| plain_line(&cell).into_owned());
            match rows.iter_mut().find(|(known, _)| *known == row) {
                Some((_, on)) => on.push(&difference.target),
                None => rows.push((row, vec![&difference.target])),
            }
        }
        if rows.is_empty() {
            continue;
        }
        text += &format!("\n{title}\n");
        let cells = |([what, how, by], on): ([String; 3], Vec<&str>)| {
            let on = if on == ["cluster"] { by } else { names(&on) };
            vec![what, how, on]
        };
        let rows: Vec<Vec<String>> = rows.into_iter().map(cells).collect();
        let columns = Columns { indent: 2, most: &[MOST_WHAT, MOST_DETAIL], below: 1, last: Last::Wrap };
        text += &columns.rows(&rows, width).concat();
    }
    if !drift.unobserved.is_empty() {
        text += "\nnot observed\n";
    }
    for one in &drift.unobserved {
        let code = one.code.as_ref().map(|code| format!(" [{code}]")).unwrap_or_default();
        text += &format!("  {}{code}: {}\n", one.target, within(&one.message));
    }
    if !drift.differences.is_empty() {
        text += &format!("\nnext: provision plan {place}\n");
    }
    text
}

/// Returns drift in Prometheus' text format, with the time of the look in seconds since 1970.
pub fn drift_metrics(drift: &Drift, at_s: u64) -> String {
    // An inventory's name needs no escapes: DNS-1123.
    let inventory = format!("inventory=\"{}\"", drift.inventory);
    let metric =
        |name: &str, help: &str| format!("# HELP provision_{name} {help}\n# TYPE provision_{name} gauge\n");
    let mut text = metric("in_sync", "Whether everything was observed and is as wanted.");
    text += &format!("provision_in_sync{{{inventory}}} {}\n", u8::from(drift.in_sync));
    text += &metric("differences", "Resources that are not as wanted, by what that comes from.");
    for (origin, name, _) in ORIGINS {
        text += &format!("provision_differences{{{inventory},origin=\"{name}\"}} {}\n", drift.count(origin));
    }
    text += &metric("unobserved", "Hosts, clusters and resources that could not be observed.");
    text += &format!("provision_unobserved{{{inventory}}} {}\n", drift.unobserved.len());
    text += &metric("observed_hosts", "Hosts that were observed.");
    text += &format!("provision_observed_hosts{{{inventory}}} {}\n", drift.hosts);
    text += &metric("last_look_timestamp_seconds", "When this was observed.");
    text += &format!("provision_last_look_timestamp_seconds{{{inventory}}} {at_s}\n");
    text
}
