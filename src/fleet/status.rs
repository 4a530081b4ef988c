//! The state of the cluster: controllers, nodes, accelerators, certificates, and what each tenant serves.

use super::error::Result;
use super::health::{HealthReport, LatestHealth, Query, now_s};
use super::open::{Fleet, cluster_address};
use super::tasks::Tasks;
use crate::inventory::{Host, HostState, Inventory};
use crate::reconciler::{Cause, CauseKind, Survey, WorkloadSeen};
use crate::report::{
    AcceleratorView, CertificateView, ControllerView, NodesView, PoolHealth, Problem, RouteView, StatusView,
    WorkloadView,
};
use crate::serving::{self, Part, Workload};
use crate::state::{Failure, HostName, ObjectId};
use std::collections::BTreeMap;
use std::sync::Arc;

fn problem(failure: &Failure) -> Problem {
    Problem { code: failure.code.clone(), message: failure.message.clone(), next: failure.hint.clone() }
}

/// Reads the facts of every host, and the state of the control plane on controllers, in parallel.
async fn hosts(fleet: &Fleet, view: &mut StatusView) {
    let mut tasks = Tasks::new();
    for (name, host) in &fleet.hosts {
        let controller =
            fleet.inventory.hosts.get(name).is_some_and(|h| fleet.inventory.pool_of(h).role.is_controller());
        let host = Arc::clone(host);
        tasks.spawn((name.clone(), controller), async move {
            let facts = host.facts().await;
            let plane = match (&facts, controller) {
                (Ok(_), true) => Some(host.control_plane().await),
                _ => None,
            };
            (facts, plane)
        });
    }
    let mut first: Option<(i64, String, HostName)> = None;
    while let Some(((name, controller), ended)) = tasks.next().await {
        let (facts, plane) = ended.unwrap_or_else(|failure| (Err(failure), None));
        let mut seen = ControllerView {
            host: name.to_string(),
            k0s: None,
            ready: false,
            etcd: false,
            problem: Some("no response".to_owned()),
        };
        match facts {
            Err(failure) => view.unreachable.push((name.to_string(), problem(&failure))),
            Ok(facts) => {
                if facts.open_batches.iter().any(|b| b.alive) {
                    let whose = facts.lock.map_or_else(
                        || "an earlier run".to_owned(),
                        |l| format!("{} (run {})", l.owner, l.run),
                    );
                    view.working.push((name.to_string(), whose));
                }
            }
        }
        match plane {
            Some(Ok(plane)) => {
                for (file, end) in plane.certificates {
                    if first.as_ref().is_none_or(|(soonest, ..)| end < *soonest) {
                        first = Some((end, file, name.clone()));
                    }
                }
                (seen.k0s, seen.ready, seen.etcd, seen.problem) =
                    (plane.version, plane.ready, plane.etcd, plane.problem);
            }
            Some(Err(failure)) => seen.problem = Some(failure.message),
            None => {}
        }
        if controller {
            view.controllers.push(seen);
        }
    }
    view.controllers.sort_by(|a, b| a.host.cmp(&b.host));
    view.unreachable.sort_by(|a, b| a.0.cmp(&b.0));
    view.working.sort();
    view.certificate = first.map(|(end, file, host)| CertificateView {
        host: host.to_string(),
        file,
        days: (end - jiff::Timestamp::now().as_second()).div_euclid(86_400),
        expires: jiff::Timestamp::from_second(end).map(|t| t.to_string()).unwrap_or_default(),
    });
}

/// Compares the nodes of the API with the inventory.
fn nodes(inventory: &Inventory, survey: &Survey) -> NodesView {
    let mut view = NodesView::default();
    let members = inventory
        .hosts
        .values()
        .filter(|h| h.state != HostState::Retired && inventory.pool_of(h).role.is_worker());
    for host in members {
        view.all += 1;
        let name = host.name.to_string();
        if host.state == HostState::Maintenance {
            view.maintenance
                .push((name, host.reason.clone().unwrap_or_else(|| "no reason given".to_owned())));
            continue;
        }
        let node = survey.nodes.get(host.name.as_str());
        if let Some(version) = node.map(|node| &node.version).filter(|version| !version.is_empty()) {
            *view.versions.entry(version.clone()).or_default() += 1;
        }
        match node {
            None => view
                .failed
                .push((name, "has not joined; run `provision plan` to see what is missing".to_owned())),
            Some(node) => match &node.reason {
                Some(reason) => view.failed.push((name, reason.clone())),
                None => {
                    view.ready += 1;
                    if node.cordoned {
                        view.cordoned.push(name);
                    }
                }
            },
        }
    }
    view
}

/// Counts allocatable devices, next to the latest health of hosts: an allocatable device may be broken.
fn accelerators(
    inventory: &Inventory,
    survey: &Survey,
    looks: &BTreeMap<String, LatestHealth>,
) -> Vec<AcceleratorView> {
    let mut pools: BTreeMap<&str, AcceleratorView> = BTreeMap::new();
    let now = now_s();
    for host in inventory.active() {
        let pool = inventory.pool_of(host);
        let Some(accelerator) = &pool.accelerator else { continue };
        let offers = accelerator.offers();
        let all: u64 = offers.values().sum();
        let node = survey.nodes.get(host.name.as_str());
        let there = |(name, most): (&String, &u64)| {
            node.and_then(|n| n.allocatable.get(name)).copied().unwrap_or(0).min(*most)
        };
        let allocatable: u64 = offers.iter().map(there).sum();
        let view = pools.entry(pool.name.as_str()).or_insert_with(|| AcceleratorView {
            pool: pool.name.to_string(),
            allocatable: 0,
            all: 0,
            short: Vec::new(),
            health: PoolHealth::default(),
        });
        view.allocatable += allocatable.min(all);
        view.all += all;
        let name = host.name.to_string();
        // A host that has not joined is reported once, as a node.
        if allocatable < all && survey.nodes.contains_key(host.name.as_str()) {
            view.short.push((name.clone(), allocatable, all));
        }
        match looks.get(&name) {
            None => view.health.not_tested.push(name),
            Some(look) => {
                let age_s = u64::try_from(now - look.at_s).unwrap_or(0);
                view.health.add(name, &look.health, age_s, look.by);
            }
        }
    }
    pools.into_values().collect()
}

fn routes(inventory: &Inventory, survey: Option<&Survey>) -> Vec<RouteView> {
    // Every node has the node port; a ready worker's address is one that answers.
    let ready = |h: &&Host| survey.is_none_or(|s| s.nodes.get(h.name.as_str()).is_some_and(|n| n.ready));
    let workers = || inventory.active().filter(|h| inventory.pool_of(h).role.is_worker());
    let gateway = workers().find(ready).or_else(|| workers().next());
    let address = gateway.map_or_else(String::new, cluster_address);
    let mut views = Vec::new();
    for tenant in inventory.tenants.values() {
        let scheme = if tenant.tls.is_some() { "https" } else { "http" };
        for (served, route) in &tenant.routes {
            let rules = route.rules.iter().map(|rule| (Some(&rule.name), &rule.to));
            for (rule, to) in rules.chain([(None, &route.to)]) {
                let all = to.values().sum::<u32>().max(1);
                views.extend(to.iter().map(|(model, weight)| RouteView {
                    tenant: tenant.name.clone(),
                    route: served.clone(),
                    rule: rule.cloned(),
                    model: model.clone(),
                    weight: (weight * 100 + all / 2) / all,
                    ready: survey.map(|s| model_seen(s, model).map_or(0, |seen| seen.ready)),
                    wanted: inventory.models.get(model).map_or(0, |m| u64::from(m.replicas)),
                    address: format!("{scheme}://{address}:{}/v1", tenant.node_port),
                }));
            }
        }
    }
    views
}

fn model_seen<'a>(survey: &'a Survey, model: &str) -> Option<&'a WorkloadSeen> {
    // Engines are the Deployments that are named as their model.
    survey.workloads.iter().find(|(id, _)| id.kind == "Deployment" && id.name == model).map(|(_, seen)| seen)
}

/// Returns the tenants that a workload serves.
fn tenants_of(inventory: &Inventory, part: Part, name: &str) -> Vec<String> {
    let tenants = inventory.tenants.values();
    match part {
        Part::Edge | Part::Router => tenants.map(|t| t.name.clone()).collect(),
        Part::Model => tenants
            .filter_map(|tenant| {
                let served = tenant.routes.iter().filter(|(_, route)| route.leads_to(name));
                let served: Vec<&str> = served.map(|(route, _)| route.as_str()).collect();
                (!served.is_empty()).then(|| format!("{} ({})", tenant.name, served.join(", ")))
            })
            .collect(),
        Part::DevicePlugin | Part::Metrics => Vec::new(),
    }
}

/// Compares what runs with what the inventory wants. A DaemonSet's pods on nodes that are not ready are those nodes'
/// trouble.
fn workloads(
    inventory: &Inventory,
    wanted: &BTreeMap<ObjectId, Workload>,
    survey: &Survey,
) -> Vec<WorkloadView> {
    let accelerated = inventory.active().filter(|h| inventory.pool_of(h).accelerator.is_some());
    let has_nodes = accelerated.map(|h| h.name.as_str()).any(|name| survey.nodes.contains_key(name));
    let mut views: Vec<WorkloadView> = wanted
        .iter()
        .map(|(id, workload)| {
            let mut view = WorkloadView::missing(workload.part, id, workload.replicas.unwrap_or(1));
            view.tenants = tenants_of(inventory, workload.part, &id.name);
            let Some(seen) = survey.workloads.get(id) else { return view };
            (view.exists, view.ready) = (true, seen.ready);
            view.causes.clone_from(&seen.causes);
            let scaled = |detail: String| Cause::of_workload(CauseKind::Scaled, detail);
            match workload.replicas {
                Some(wanted) if wanted != seen.wanted => {
                    let detail = format!("scaled to {}; the inventory wants {wanted}", seen.wanted);
                    view.causes.insert(0, scaled(detail));
                }
                Some(_) => {}
                None if seen.wanted == 0 && has_nodes => {
                    view.causes.insert(0, scaled("its node selector matches no node".to_owned()));
                }
                None => {
                    let lost = view.causes.iter().filter(|c| c.kind == CauseKind::Node);
                    let lost: u64 = lost.map(|c| c.pods.len() as u64).sum();
                    view.wanted = seen.wanted.saturating_sub(lost).max(view.ready);
                    view.causes.retain(|c| c.kind != CauseKind::Node);
                }
            }
            if view.ready < view.wanted && view.causes.is_empty() {
                let detail = "it has no pods yet".to_owned();
                view.causes.push(Cause::of_workload(CauseKind::Starting, detail));
            }
            view
        })
        .collect();
    views.sort_by(|a, b| (a.part, &a.name).cmp(&(b.part, &b.name)));
    views
}

/// Returns an object as `Kind namespace/name`.
fn shown(id: &ObjectId) -> String {
    match id.namespace.as_str() {
        "" => format!("{} {}", id.kind, id.name),
        namespace => format!("{} {namespace}/{}", id.kind, id.name),
    }
}

impl Fleet {
    /// Asks every host and the Kubernetes API, and changes nothing; with `health` accelerators too. What does not answer is
    /// named.
    pub async fn status(&self, health: bool) -> Result<StatusView> {
        let mut view = StatusView {
            inventory: self.inventory.name.clone(),
            lab: self.is_lab(),
            k0s_wanted: self.inventory.cluster.k0s_version.clone(),
            ..StatusView::default()
        };
        let wanted = serving::workloads(&self.inventory, &self.catalog)?;
        let asked = serving::objects(&self.inventory, &self.catalog)?;
        let ask = async {
            match &self.cluster {
                Some(cluster) => Some(cluster.survey(&asked).await),
                None => None,
            }
        };
        let accelerated = async {
            match health {
                true => Some(self.health(self.hosts.keys(), Query::Kept).await.hosts),
                false => None,
            }
        };
        let (survey, health, ()) = tokio::join!(ask, accelerated, hosts(self, &mut view));
        let mut looks = HealthReport::newest(&self.source.state, &self.inventory, self.is_lab())?;
        for (host, health) in health.iter().flatten() {
            looks.insert(host.clone(), LatestHealth { health: health.clone(), at_s: now_s(), by: "status" });
        }
        view.health = health;
        let survey = match survey {
            Some(Ok(Some(survey))) => Some(survey),
            Some(Ok(None)) => {
                view.api = Some(Problem {
                    code: "E-NO-CLUSTER".to_owned(),
                    message: "no cluster on any controller yet".to_owned(),
                    next: None,
                });
                None
            }
            Some(Err(failure)) => {
                view.api = Some(problem(&failure));
                None
            }
            None => None,
        };
        if let Some(survey) = &survey {
            view.nodes = Some(nodes(&self.inventory, survey));
            view.accelerators = accelerators(&self.inventory, survey, &looks);
            view.workloads = workloads(&self.inventory, &wanted, survey);
            view.missing = survey.missing.iter().map(shown).collect();
        }
        view.routes = routes(&self.inventory, survey.as_ref());
        Ok(view)
    }
}
