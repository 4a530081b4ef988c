//! The state of a cluster, as text and as JSON.

use super::health::health_lines;
use super::layout::{Columns, Last};
use super::serving::{WorkloadView, troubled};
use super::words::{count, names, say};
use crate::role::health::{Health, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;
use unicode_width::UnicodeWidthStr;

/// The result of `status`.
#[derive(Clone, PartialEq, Serialize, Debug, Default)]
pub struct StatusView {
    /// The inventory's name.
    pub inventory: String,
    /// It is a lab.
    pub lab: bool,
    /// How the inventory was named on the command line, for commands to copy: `-i site.yaml`.
    #[serde(skip)]
    pub place: String,
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
    /// Router, models, device plugins and metrics; empty where the API could not be asked.
    pub workloads: Vec<WorkloadView>,
    /// Services, gateways and routes that the inventory wants and the cluster does not have, as `Kind namespace/name`.
    pub missing: Vec<String>,
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
    /// The running k0s version; `None` if none runs or it is unknown.
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
    /// How many run which version of the kubelet.
    pub versions: BTreeMap<String, usize>,
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
    /// Allocatable devices, as reported by the device plugin, healthy or not.
    pub allocatable: u64,
    /// All devices that its active hosts should have.
    pub all: u64,
    /// Hosts with fewer allocatable devices, and how many.
    pub short: Vec<(String, u64, u64)>,
    /// The latest health of its hosts.
    pub health: PoolHealth,
}

/// The latest health of a pool's active hosts.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct PoolHealth {
    /// The worst verdict of its hosts; `None` if none was tested.
    pub verdict: Option<Verdict>,
    /// The age of the oldest of these results, in seconds.
    pub age_s: Option<u64>,
    /// The command of that result: `verify`, `apply`, or this `status`.
    pub by: Option<String>,
    /// Hosts that were healthy.
    pub healthy: usize,
    /// Hosts that were unhealthy or unknown.
    pub troubled: Vec<HostHealth>,
    /// Hosts without results.
    pub not_tested: Vec<String>,
}

/// A host that was unhealthy or unknown.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct HostHealth {
    /// The host.
    pub host: String,
    /// Unhealthy or unknown.
    pub verdict: Verdict,
    /// The code of the worst finding.
    pub code: String,
    /// What was found.
    pub detail: String,
    /// How long ago, in seconds.
    pub age_s: u64,
    /// The command of the result.
    pub by: String,
}

impl PoolHealth {
    /// Adds what was found of a host.
    pub fn add(&mut self, host: String, health: &Health, age_s: u64, by: &str) {
        self.verdict = self.verdict.max(Some(health.verdict));
        if self.age_s.is_none_or(|oldest| oldest < age_s) {
            (self.age_s, self.by) = (Some(age_s), Some(by.to_owned()));
        }
        if health.verdict == Verdict::Healthy {
            self.healthy += 1;
            return;
        }
        let worst = health.findings.first();
        let (code, detail) = worst.map(|f| (f.code.clone(), f.detail.clone())).unwrap_or_default();
        self.troubled.push(HostHealth {
            host,
            verdict: health.verdict,
            code,
            detail,
            age_s,
            by: by.to_owned(),
        });
    }

    fn with(&self, verdict: Verdict) -> impl Iterator<Item = &HostHealth> {
        self.troubled.iter().filter(move |h| h.verdict == verdict)
    }
}

/// Returns the time of a result: `verify 5 min ago`, or `now` for this command.
fn ago(by: &str, age_s: u64) -> String {
    if by == "status" { "now".to_owned() } else { format!("{by} {} ago", say(age_s)) }
}

/// Returns a pool's health in a few words: `1 host unhealthy (verify 5 min ago): h-1`.
fn health_words(health: &PoolHealth) -> String {
    let hosts = health.healthy + health.troubled.len() + health.not_tested.len();
    let mut said = Vec::new();
    for (verdict, word) in [(Verdict::Unhealthy, "unhealthy"), (Verdict::Unknown, "unknown")] {
        let found: Vec<&HostHealth> = health.with(verdict).collect();
        let Some(oldest) = found.iter().max_by_key(|h| h.age_s) else { continue };
        let list: Vec<&str> = found.iter().map(|h| h.host.as_str()).collect();
        let when = ago(&oldest.by, oldest.age_s);
        said.push(format!("{} {word} ({when}): {}", count(found.len(), "host"), names(&list)));
    }
    if let (true, Some(by), Some(age_s)) = (said.is_empty(), &health.by, health.age_s) {
        let healthy = if health.healthy == hosts {
            "healthy".to_owned()
        } else {
            format!("{}/{hosts} hosts healthy", health.healthy)
        };
        said.push(format!("{healthy} ({})", ago(by, age_s)));
    }
    match health.not_tested.len() {
        0 => {}
        n if n == hosts => said.push("not tested".to_owned()),
        n => said.push(format!("{} not tested", count(n, "host"))),
    }
    said.join(", ")
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
    /// The rule for certain headers, if it is not for all other requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The model behind it.
    pub model: String,
    /// Its part of the route's or the rule's traffic, in percent.
    pub weight: u32,
    /// Ready replicas; `None` if the API could not be asked.
    pub ready: Option<u64>,
    /// Replicas wanted.
    pub wanted: u64,
    /// The address of the tenant's gateway.
    pub address: String,
}

/// Warn about certificates that expire within this many days: k0s renews them only when a controller starts.
const EXPIRES_SOON: i64 = 30;

impl StatusView {
    /// Returns whether anything is wrong or unknown.
    pub fn is_troubled(&self) -> bool {
        self.api.is_some()
            || !self.unreachable.is_empty()
            || self.controllers.iter().any(|c| c.problem.is_some())
            || self.nodes.as_ref().is_some_and(|n| !n.failed.is_empty())
            || self
                .accelerators
                .iter()
                .any(|a| !a.short.is_empty() || a.health.verdict == Some(Verdict::Unhealthy))
            || self.routes.iter().any(|r| r.ready.is_none_or(|n| n < r.wanted))
            || self.workloads.iter().any(WorkloadView::is_troubled)
            || !self.missing.is_empty()
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
    let controllers = match view.controllers.len() {
        0 => "no controller selected".to_owned(),
        all => format!("{up}/{all} controllers{etcd}"),
    };
    let mut text = format!("{} · {k0s} · {controllers}", view.inventory);
    if let Some(nodes) = &view.nodes {
        text += &format!(" · {}: {} ready", count(nodes.all, "node"), nodes.ready);
        let kubernetes = |version: &str| version.split('+').next().unwrap_or_default().to_owned();
        if nodes.versions.keys().any(|version| kubernetes(version) != kubernetes(&view.k0s_wanted)) {
            let of: Vec<String> = nodes
                .versions
                .iter()
                .map(|(version, n)| format!("{n} with {}", kubernetes(version)))
                .collect();
            text += &format!(" ({})", of.join(", "));
        }
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

fn table(routes: &[RouteView], width: Option<usize>, text: &mut String) {
    let ready = |r: &RouteView| match r.ready {
        Some(n) => format!("{n}/{}", r.wanted),
        None => format!("?/{}", r.wanted),
    };
    let route = |r: &RouteView| match &r.rule {
        Some(rule) => format!("{} ({rule})", r.route),
        None => r.route.clone(),
    };
    let model = |r: &RouteView| {
        if r.weight == 100 { r.model.clone() } else { format!("{} {} %", r.model, r.weight) }
    };
    let rows: Vec<[String; 5]> =
        routes.iter().map(|r| [r.tenant.clone(), route(r), model(r), ready(r), r.address.clone()]).collect();
    let titles = ["tenant", "route", "model", "ready", "address"].map(str::to_owned);
    let columns = Columns { indent: 0, most: &[usize::MAX; 4], below: 4, last: Last::Whole };
    let rows: Vec<Vec<String>> = [titles].into_iter().chain(rows).map(Vec::from).collect();
    *text += &columns.rows(&rows, width).concat();
}

/// Returns a status as text, with tables of at most so many columns.
pub fn status_text(view: &StatusView, width: Option<usize>) -> String {
    let mut text = String::new();
    if view.lab {
        text += &format!("{}\n", super::LAB);
    }
    text += &head(view);
    let place = &view.place;
    let mut second = Vec::new();
    if !view.accelerators.is_empty() {
        let said = view.accelerators.iter().map(|a| {
            format!("{} {}/{} allocatable, {}", a.pool, a.allocatable, a.all, health_words(&a.health))
        });
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
        let line = second.join("     ");
        let fits = width.is_none_or(|width| line.width() <= width);
        text += &format!("{}\n", if fits { line } else { second.join("\n") });
    }
    if !view.routes.is_empty() {
        table(&view.routes, width, &mut text);
    }
    text += &troubled(&view.workloads, place);
    if !view.missing.is_empty() {
        let list: Vec<&str> = view.missing.iter().map(String::as_str).collect();
        text += &format!("missing in the cluster: {}\n", names(&list));
        text += &format!("  = next: Run `provision apply {place}` to make what is missing again\n");
    }
    // What its host has is told of the host.
    let reachable = |host: &str| !view.unreachable.iter().any(|(name, _)| name == host);
    for controller in view.controllers.iter().filter(|c| c.problem.is_some() && reachable(&c.host)) {
        text += &format!(
            "controller {}: {}\n",
            controller.host,
            controller.problem.as_deref().unwrap_or_default()
        );
    }
    for (name, why) in view.nodes.iter().flat_map(|n| &n.failed).filter(|(name, _)| reachable(name)) {
        text += &format!("node {name}: {why}\n");
    }
    let cordoned: Vec<&str> = view.nodes.iter().flat_map(|n| &n.cordoned).map(String::as_str).collect();
    if !cordoned.is_empty() {
        text += &format!("cordoned: {}\n", names(&cordoned));
    }
    for (host, has, all) in view.accelerators.iter().flat_map(|a| &a.short) {
        text += &format!(
            "accelerators of {host}: {has}/{all} allocatable; run `provision support {host} {place}` to collect diagnostics\n"
        );
    }
    if view.certificate.as_ref().is_some_and(|c| c.days < EXPIRES_SOON) {
        text += &format!(
            "  = next: Run `provision apply {place}`: it restarts controllers one at a time, which renews their certificates\n"
        );
    }
    for h in view.accelerators.iter().flat_map(|a| &a.health.troubled).filter(|_| view.health.is_none()) {
        let word = if h.verdict == Verdict::Unhealthy { "unhealthy" } else { "unknown" };
        text +=
            &format!("health of {}: {word} ({}): [{}] {}\n", h.host, ago(&h.by, h.age_s), h.code, h.detail);
        text += &format!(
            "  = next: Run `provision verify {place} --limit {}` to test again, or add --last for details\n",
            h.host
        );
    }
    if let Some(problem) = &view.api {
        text += &format!("the Kubernetes API is not available: [{}] {}\n", problem.code, problem.message);
        text += &problem.next.as_ref().map(|n| format!("  = next: {n}\n")).unwrap_or_default();
    }
    for (host, problem) in &view.unreachable {
        text += &format!("{host} is unreachable: [{}] {}\n", problem.code, problem.message);
        text += &problem.next.as_ref().map(|n| format!("  = next: {n}\n")).unwrap_or_default();
    }
    for (host, whose) in &view.working {
        text += &format!("{host}: batch of {whose} is running; follow it with `provision attach {place}`\n");
    }
    if let Some(health) = &view.health {
        text += "health\n";
        for (host, health) in health {
            text += &health_lines(host, health, true);
        }
    }
    text
}
