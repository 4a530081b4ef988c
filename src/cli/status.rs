//! `status`: the cluster as it is.

use super::health::{self, Ask};
use super::site::{Need, Site};
use super::{Global, Output, Where, exit, watch};
use crate::inventory::{HostState, Inventory};
use crate::reconciler::Survey;
use crate::report::{
    AcceleratorView, CertificateView, ControllerView, NodesView, Problem, RouteView, StatusView, status_text,
};
use crate::state::{Failure, HostName};
use clap::Args;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace of all engines (`templates/manifests/engines`).
const MODELS: &str = "models";

/// Show the cluster as it is: controllers, nodes, accelerators, certificates, and what each tenant serves
///
/// Asks every host and the Kubernetes API, and changes nothing. Works with hosts down: what does not answer is named. Exit
/// code 1 if anything is down, missing or could not be asked. What differs from the inventory is `plan`'s to say.
#[derive(Args)]
#[command(after_help = "Examples:
  provision status -i site.yaml
  provision status -i site.yaml --output json
  provision status -i site.yaml --health         also what accelerators say of themselves, and their last tests
  provision status -i site.yaml --limit cp-1     one controller and what it knows")]
pub struct Status {
    #[command(flatten)]
    place: Where,
    /// Look at accelerators too: the quick level now, and what the standard one found before their node took work
    #[arg(long)]
    health: bool,
}

fn problem(failure: &Failure) -> Problem {
    Problem { code: failure.code.clone(), message: failure.message.clone(), next: failure.hint.clone() }
}

/// Asks every host for its facts, and controllers for their control plane, all at once.
async fn hosts(site: &Site, view: &mut StatusView) {
    let mut tasks = tokio::task::JoinSet::new();
    for (name, host) in &site.hosts {
        let controller =
            site.inventory.hosts.get(name).is_some_and(|h| site.inventory.pool_of(h).role.is_controller());
        let (name, host) = (name.clone(), Arc::clone(host));
        tasks.spawn(async move {
            let facts = host.facts().await;
            let plane = match (&facts, controller) {
                (Ok(_), true) => Some(host.control_plane().await),
                _ => None,
            };
            (name, controller, facts, plane)
        });
    }
    let mut first: Option<(i64, String, HostName)> = None;
    while let Some(joined) = tasks.join_next().await {
        let Ok((name, controller, facts, plane)) = joined else { continue };
        let mut seen = ControllerView {
            host: name.to_string(),
            k0s: None,
            ready: false,
            etcd: false,
            problem: Some("it does not answer".to_owned()),
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

/// Compares what the API says of nodes with what the inventory has.
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
        match survey.nodes.get(host.name.as_str()) {
            None => {
                view.failed.push((name, "it has not joined; provision plan says what is missing".to_owned()))
            }
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

fn accelerators(inventory: &Inventory, survey: &Survey) -> Vec<AcceleratorView> {
    let mut pools: BTreeMap<&str, AcceleratorView> = BTreeMap::new();
    for host in inventory.active() {
        let pool = inventory.pool_of(host);
        let Some(accelerator) = &pool.accelerator else { continue };
        let offers = accelerator.offers();
        let all: u64 = offers.values().sum();
        let node = survey.nodes.get(host.name.as_str());
        let there = |(name, most): (&String, &u64)| {
            node.and_then(|n| n.allocatable.get(name)).copied().unwrap_or(0).min(*most)
        };
        let healthy: u64 = offers.iter().map(there).sum();
        let view = pools.entry(pool.name.as_str()).or_insert_with(|| AcceleratorView {
            pool: pool.name.to_string(),
            healthy: 0,
            all: 0,
            short: Vec::new(),
        });
        view.healthy += healthy.min(all);
        view.all += all;
        // A host that has not joined is said once, as a node.
        if healthy < all && survey.nodes.contains_key(host.name.as_str()) {
            view.short.push((host.name.to_string(), healthy, all));
        }
    }
    pools.into_values().collect()
}

fn routes(inventory: &Inventory, survey: Option<&Survey>) -> Vec<RouteView> {
    // Every node has the node port; a ready worker's address is one that answers.
    let ready = |h: &&crate::inventory::Host| {
        survey.is_none_or(|s| s.nodes.get(h.name.as_str()).is_some_and(|n| n.ready))
    };
    let workers = || inventory.active().filter(|h| inventory.pool_of(h).role.is_worker());
    let gateway = workers().find(ready).or_else(|| workers().next());
    let address = gateway
        .map_or_else(String::new, |h| h.cluster_address.map_or_else(|| h.address.clone(), |a| a.to_string()));
    let mut views = Vec::new();
    for tenant in inventory.tenants.values() {
        for (route, targets) in &tenant.routes {
            for (model, weight) in targets {
                let seen = survey.and_then(|s| s.workloads.get(model));
                views.push(RouteView {
                    tenant: tenant.name.clone(),
                    route: route.clone(),
                    model: model.clone(),
                    weight: *weight,
                    ready: seen.map(|w| w.ready),
                    wanted: inventory.models.get(model).map_or(0, |m| u64::from(m.replicas)),
                    address: format!("http://{address}:{}/v1", tenant.node_port),
                    why: seen.and_then(|w| w.why.clone()),
                });
            }
        }
    }
    views
}

impl Status {
    /// Asks and prints.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let site = Site::open_for(&self.place, Need::Look, &events).await?;
        let mut view = StatusView {
            inventory: site.inventory.name.clone(),
            lab: site.lab.is_some(),
            k0s_wanted: site.inventory.cluster.k0s_version.clone(),
            ..StatusView::default()
        };
        let ask = async {
            match &site.cluster {
                Some(cluster) => Some(cluster.survey(MODELS).await),
                None => None,
            }
        };
        let accelerated = async {
            match self.health {
                true => Some(health::ask(&site, site.hosts.keys(), Ask::Kept).await),
                false => None,
            }
        };
        let (survey, health, ()) = tokio::join!(ask, accelerated, hosts(&site, &mut view));
        view.health = health;
        let survey = match survey {
            Some(Ok(Some(survey))) => Some(survey),
            Some(Ok(None)) => {
                view.api = Some(Problem {
                    code: "E-NO-CLUSTER".to_owned(),
                    message: "no controller has a cluster yet".to_owned(),
                    next: Some(format!("provision apply {} makes one", self.place.said())),
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
            view.nodes = Some(nodes(&site.inventory, survey));
            view.accelerators = accelerators(&site.inventory, survey);
        }
        view.routes = routes(&site.inventory, survey.as_ref());
        drop(events);
        shown.end().await;
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&view)?);
        } else {
            print!("{}", status_text(&view));
        }
        super::lab::release(site.lab).await;
        Ok(if view.is_troubled() { exit::FAILED } else { exit::DONE })
    }
}
