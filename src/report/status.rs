//! A cluster as it is, as text and as data.

use super::health::health_lines;
use super::words::{count, names};
use crate::role::health::{Health, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that `status` says.
#[derive(Clone, PartialEq, Serialize, Debug, Default)]
pub struct StatusView {
    /// The inventory's name.
    pub inventory: String,
    /// It is a lab.
    pub lab: bool,
    /// The k0s version that the inventory wants.
    pub k0s_wanted: String,
    /// Controllers, by name.
    pub controllers: Vec<ControllerView>,
    /// Hosts of the inventory that are to be nodes, as nodes; `None` where the API could not be asked.
    pub nodes: Option<NodesView>,
    /// Why the API could not be asked, and what to do.
    pub api: Option<Problem>,
    /// Accelerators by pool.
    pub accelerators: Vec<AcceleratorView>,
    /// The certificate of a controller that expires first.
    pub certificate: Option<CertificateView>,
    /// What each tenant serves.
    pub routes: Vec<RouteView>,
    /// Hosts that could not be reached, and why.
    pub unreachable: Vec<(String, Problem)>,
    /// Hosts on which a batch runs at this moment, and whose.
    pub working: Vec<(String, String)>,
    /// The health of accelerators by host, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<BTreeMap<String, Health>>,
}

/// What is wrong, and what to do.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Problem {
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub next: Option<String>,
}

/// One controller.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct ControllerView {
    /// Its host.
    pub host: String,
    /// The k0s version that runs; `None` if none does or it cannot be told.
    pub k0s: Option<String>,
    /// Its API server answers.
    pub ready: bool,
    /// Its etcd, as its API server sees it.
    pub etcd: bool,
    /// What is wrong.
    pub problem: Option<String>,
}

/// Nodes, counted.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct NodesView {
    /// Nodes that the inventory has, whatever their state.
    pub all: usize,
    /// Those that are ready.
    pub ready: usize,
    /// Those that are out of service by the inventory's word, and why.
    pub maintenance: Vec<(String, String)>,
    /// Those that are not ready or not there, and why.
    pub failed: Vec<(String, String)>,
    /// Ready ones that take no new pods.
    pub cordoned: Vec<String>,
}

/// Accelerators of a pool.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct AcceleratorView {
    /// The pool.
    pub pool: String,
    /// Healthy ones that pods can have.
    pub healthy: u64,
    /// All that its active hosts should have.
    pub all: u64,
    /// Hosts that offer fewer, and how many.
    pub short: Vec<(String, u64, u64)>,
}

/// A certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct CertificateView {
    /// The host.
    pub host: String,
    /// The file.
    pub file: String,
    /// Whole days that are left; negative once it has expired.
    pub days: i64,
    /// When it expires, RFC 3339.
    pub expires: String,
}

/// One route of a tenant.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct RouteView {
    /// The tenant.
    pub tenant: String,
    /// The served name.
    pub route: String,
    /// The model behind it.
    pub model: String,
    /// Its part of the traffic, in percent.
    pub weight: u32,
    /// Replicas that answer; `None` if the model is not there or cannot be asked for.
    pub ready: Option<u64>,
    /// Replicas wanted.
    pub wanted: u64,
    /// Where the tenant's gateway answers.
    pub address: String,
    /// What holds replicas up.
    pub why: Option<String>,
}

/// Days before which the end of a certificate is worth a warning: k0s renews when a controller starts, and a year passes.
const EXPIRES_SOON: i64 = 30;

impl StatusView {
    /// Returns whether anything is wrong or could not be told.
    pub fn is_troubled(&self) -> bool {
        self.api.is_some()
            || !self.unreachable.is_empty()
            || self.controllers.iter().any(|c| c.problem.is_some())
            || self.nodes.as_ref().is_some_and(|n| !n.failed.is_empty())
            || self.accelerators.iter().any(|a| !a.short.is_empty())
            || self.routes.iter().any(|r| r.ready.is_none_or(|n| n < r.wanted))
            || self.certificate.as_ref().is_some_and(|c| c.days < EXPIRES_SOON)
            || self.health.iter().flat_map(BTreeMap::values).any(|h| h.verdict != Verdict::Healthy)
    }
}

fn with_reason(list: &[(String, String)], most: usize) -> String {
    let said: Vec<String> = list.iter().take(most).map(|(name, why)| format!("{name} {why}")).collect();
    let more = list.len().saturating_sub(most);
    if more > 0 { format!("{}, … {more} more", said.join(", ")) } else { said.join(", ") }
}

fn head(view: &StatusView) -> String {
    let mut versions: Vec<&str> = view.controllers.iter().filter_map(|c| c.k0s.as_deref()).collect();
    versions.sort_unstable();
    versions.dedup();
    let k0s = match versions.as_slice() {
        [] => format!("k0s {} wanted", view.k0s_wanted),
        [one] if *one == view.k0s_wanted => format!("k0s {one}"),
        some => format!("k0s {}, {} wanted", some.join(" and "), view.k0s_wanted),
    };
    let up = view.controllers.iter().filter(|c| c.ready).count();
    let etcd = if view.controllers.is_empty() || up == 0 {
        String::new()
    } else if view.controllers.iter().all(|c| c.etcd) {
        ", etcd healthy".to_owned()
    } else {
        format!(", etcd healthy on {}", view.controllers.iter().filter(|c| c.etcd).count())
    };
    let mut text = format!("{} · {k0s} · {up}/{} controllers{etcd}", view.inventory, view.controllers.len());
    if let Some(nodes) = &view.nodes {
        text += &format!(" · {}: {} ready", count(nodes.all, "node"), nodes.ready);
        if !nodes.maintenance.is_empty() {
            let list = with_reason(&nodes.maintenance, 3);
            text += &format!(", {} maintenance ({list})", nodes.maintenance.len());
        }
        if !nodes.failed.is_empty() {
            let list: Vec<&str> = nodes.failed.iter().map(|(name, _)| name.as_str()).collect();
            text += &format!(", {} failed ({})", nodes.failed.len(), names(&list));
        }
    }
    text + "\n"
}

fn table(routes: &[RouteView], text: &mut String) {
    let ready = |r: &RouteView| match r.ready {
        Some(n) => format!("{n}/{}", r.wanted),
        None => format!("?/{}", r.wanted),
    };
    let model = |r: &RouteView| {
        if r.weight == 100 { r.model.clone() } else { format!("{} {} %", r.model, r.weight) }
    };
    let rows: Vec<[String; 5]> = routes
        .iter()
        .map(|r| [r.tenant.clone(), r.route.clone(), model(r), ready(r), r.address.clone()])
        .collect();
    let titles = ["tenant", "route", "model", "ready", "address"].map(str::to_owned);
    let mut widths = [0; 5];
    for row in rows.iter().chain([&titles]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (at, row) in [&titles].into_iter().chain(&rows).enumerate() {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        *text += cells.join("  ").trim_end();
        *text += "\n";
        // What holds a model up is said under its first line.
        let route = at.checked_sub(1).and_then(|n| routes.get(n));
        if let Some((route, why)) = route.and_then(|r| Some((r, r.why.as_ref()?)))
            && !routes[..at - 1].iter().any(|r| r.model == route.model)
        {
            *text += &format!("  = {}: {why}\n", route.model);
        }
    }
}

/// Returns a status as text.
pub fn status_text(view: &StatusView) -> String {
    let mut text = String::new();
    if view.lab {
        text += &format!("{}\n", super::LAB);
    }
    text += &head(view);
    let mut second = Vec::new();
    if !view.accelerators.is_empty() {
        let said = view.accelerators.iter().map(|a| format!("{} {} of {} healthy", a.pool, a.healthy, a.all));
        second.push(format!("accelerators  {}", said.collect::<Vec<_>>().join(" · ")));
    }
    if let Some(certificate) = &view.certificate {
        second.push(match certificate.days {
            days if days < 0 => {
                format!(
                    "certificate EXPIRED {} days ago: {} on {}",
                    -days, certificate.file, certificate.host
                )
            }
            days if days < EXPIRES_SOON => {
                format!("certificate expires in {days} days: {} on {}", certificate.file, certificate.host)
            }
            days => format!("certificates {days} days"),
        });
    }
    if !second.is_empty() {
        text += &format!("{}\n", second.join("     "));
    }
    if !view.routes.is_empty() {
        table(&view.routes, &mut text);
    }
    for controller in view.controllers.iter().filter(|c| c.problem.is_some()) {
        text += &format!(
            "controller {}: {}\n",
            controller.host,
            controller.problem.as_deref().unwrap_or_default()
        );
    }
    for (name, why) in view.nodes.iter().flat_map(|n| &n.failed) {
        text += &format!("node {name}: {why}\n");
    }
    let cordoned: Vec<&str> = view.nodes.iter().flat_map(|n| &n.cordoned).map(String::as_str).collect();
    if !cordoned.is_empty() {
        text += &format!("cordoned, taking no new pods: {}\n", names(&cordoned));
    }
    for (host, has, all) in view.accelerators.iter().flat_map(|a| &a.short) {
        text += &format!(
            "accelerators of {host}: {has} of {all}; provision support {host} collects what their tools say\n"
        );
    }
    if view.certificate.as_ref().is_some_and(|c| c.days < EXPIRES_SOON) {
        text += "  = next: restart k0scontroller on one controller after the other; k0s renews its certificates at start\n";
    }
    if let Some(problem) = &view.api {
        text += &format!("the Kubernetes API could not be asked: [{}] {}\n", problem.code, problem.message);
        text += &problem.next.as_ref().map(|n| format!("  = next: {n}\n")).unwrap_or_default();
    }
    for (host, problem) in &view.unreachable {
        text += &format!("{host} does not answer: [{}] {}\n", problem.code, problem.message);
        text += &problem.next.as_ref().map(|n| format!("  = next: {n}\n")).unwrap_or_default();
    }
    for (host, whose) in &view.working {
        text += &format!("{host} is being worked on by {whose}; provision attach follows it\n");
    }
    if let Some(health) = &view.health {
        text += "health\n";
        for (host, health) in health {
            text += &health_lines(host, health, true);
        }
    }
    text
}
