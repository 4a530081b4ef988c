//! Observes all targets and plans. `plan` and `apply` share this code.

use super::error::Result;
use super::gateway_certificates;
use super::noticed;
use super::open::Fleet;
use super::tasks::{Tasks, on_each};
use crate::event::{Event, Events};
use crate::executor::{HostTarget, combine, enact_program, launch_program, observe_program};
use crate::k0s;
use crate::plan::{Past, Plan, PlanInput, build, nodes_to_drain, steps_of};
use crate::role::{self, Finding, RoleInput, desired};
use crate::run::past;
use crate::state::{
    BarePods, Cluster, Facts, Failure, FailureKind, HostName, Nodes, Observed, Orphan, Resource, ResourceId,
    RestoreLeft, Target, TargetId, Verb,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// What was seen of every target, or why nothing was.
pub struct Observation {
    pub(super) targets: Vec<(TargetId, std::result::Result<Observed, Failure>)>,
    /// Pods that draining would lose.
    pub(super) bare_pods: BarePods,
    /// How long it took.
    pub took: Duration,
}

/// The exact programs that a host would run.
pub struct Programs {
    /// What observes it: sent over standard input of one `sudo -n /bin/sh -s`, the second part after the facts.
    pub observe: String,
    /// What changes it, were its steps one batch, and what starts that, detached; `None` where it is in sync.
    pub change: Option<(String, String)>,
}

impl Fleet {
    /// Observes all targets at once. Changes nothing.
    pub async fn observe(&self, events: &Events) -> Observation {
        let began = Instant::now();
        let mut tasks = Tasks::new();
        for (id, target) in self.targets() {
            // Retired hosts may no longer exist: they are asked only if the cluster still has something of them.
            if id.host().is_some_and(|host| self.retired.contains_key(host)) {
                continue;
            }
            let (events, name) = (events.clone(), id.to_string());
            tasks.spawn(id, async move {
                let began = Instant::now();
                events.emit(Event::Observing { target: name.clone() });
                let result = target.observe().await;
                if let Ok(observed) = &result {
                    let resources = observed.desired.len();
                    events.emit(Event::Observed { target: name, elapsed: began.elapsed(), resources });
                }
                result
            });
        }
        let live = match &self.cluster {
            Some(cluster) => cluster.nodes().await.ok().map(Option::unwrap_or_default),
            None => Some(Nodes::default()),
        };
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live.clone();
        let mut targets = Vec::new();
        while let Some((id, ended)) = tasks.next().await {
            let result = ended.and_then(|result| result);
            if let Err(failure) = &result {
                events.emit(Event::Unobserved {
                    target: id.to_string(),
                    code: failure.code.clone(),
                    message: failure.message.clone(),
                });
            }
            targets.push((id, result));
        }
        let mut observation = Observation { targets, bare_pods: BarePods::new(), took: began.elapsed() };
        // A host that leaves need not fit in.
        if self.selection.reset.is_none() {
            self.restores_first(&mut observation);
            self.first_joins(&mut observation).await;
            self.compare_hosts(&mut observation);
            self.probe_new(&mut observation).await;
            self.stop_retired(&mut observation).await;
        }
        if self.selection.reset.is_none() {
            self.look_ahead(&mut observation).await;
            let cluster = observation.targets.iter_mut().find(|(id, _)| *id == TargetId::Cluster);
            if let Some((_, Ok(cluster))) = cluster {
                cluster
                    .warnings
                    .extend(gateway_certificates::warnings(&self.inventory, jiff::Timestamp::now()));
            }
            self.keep_minors_together(&mut observation).await;
        }
        let leaving = nodes_to_drain(&observation.targets, &live.unwrap_or_default().all);
        if let Some(cluster) = self.cluster.as_ref().filter(|_| !leaving.is_empty()) {
            // A drain refuses what is not known here.
            observation.bare_pods = cluster.bare_pods(&leaving).await.unwrap_or_default();
        }
        for (id, result) in &mut observation.targets {
            if let (Some(name), Ok(observed), None) = (id.host(), result, self.selection.reset) {
                let known = self.findings(name, &observed.facts);
                let told = known.into_iter().filter(|f| f.code == "W-K0S-DOWNGRADE");
                observed.warnings.extend(told.map(|f| format!("[{}] {}", f.code, f.message)));
            }
        }
        observation
    }

    /// While a restore is not finished on one controller, no other one makes a cluster: that would be a new one.
    fn restores_first(&self, observation: &mut Observation) {
        if self.selection.restore.is_some() {
            return;
        }
        let controls = |id: &TargetId| {
            let host = id.host().and_then(|name| self.inventory.hosts.get(name));
            host.is_some_and(|h| self.inventory.pool_of(h).role.is_controller())
        };
        let seen = || {
            observation
                .targets
                .iter()
                .filter(|(id, _)| controls(id))
                .filter_map(|(id, r)| Some((id, r.as_ref().ok()?)))
        };
        let pending: BTreeSet<TargetId> = seen()
            .filter(|(_, observed)| observed.facts.restore == Some(RestoreLeft::Pending))
            .map(|(id, _)| id.clone())
            .collect();
        let Some(first) = pending.first() else { return };
        let has_cluster = seen().any(|(_, observed)| observed.facts.k0s_was_up);
        let failure = Failure::new(
            FailureKind::Preflight,
            "E-RESTORE",
            format!("a restore is not finished on {first}"),
        )
        .hint("Run `provision restore FILE` again; to give it up, run `provision destroy`");
        for (id, result) in &mut observation.targets {
            if controls(id) && (pending.contains(id) || !has_cluster) {
                *result = Err(failure.clone());
            }
        }
    }

    /// Where the first controller is new and the others have a cluster, it joins that: it is looked at again as one that does.
    async fn first_joins(&self, observation: &mut Observation) {
        let Some(first) = self.inventory.controllers().next() else { return };
        let seen = observation.targets.iter_mut().find(|(id, _)| id.host() == Some(&first.name));
        let Some((_, result)) = seen else { return };
        // One that begins with a backup makes the cluster.
        let makes = |facts: &Facts| k0s::is_ours(facts) || facts.restore.is_some();
        let is_new = result.as_ref().is_ok_and(|observed| !makes(&observed.facts));
        // Its own admin kubeconfig would be of a cluster that is not ours.
        if is_new && self.access.kubeconfig().await.is_ok_and(|found| found.is_some()) {
            self.joins.store(true, Ordering::Relaxed);
            if let Some(host) = self.hosts.get(&first.name) {
                *result = host.observe().await;
            }
        }
    }

    /// Looks at retired hosts that the cluster has yet to forget: their k0s is stopped then. One that cannot be reached is only
    /// forgotten.
    async fn stop_retired(&self, observation: &mut Observation) {
        let cluster = observation.targets.iter_mut().find(|(id, _)| *id == TargetId::Cluster);
        let Some((_, Ok(cluster))) = cluster else { return };
        let leaves = |orphan: &Orphan| match &orphan.id {
            ResourceId::Node(host) | ResourceId::EtcdMember(host) => Some(host.clone()),
            _ => None,
        };
        let leaving: BTreeSet<HostName> = cluster.orphans.iter().filter_map(leaves).collect();
        let hosts = leaving.iter().filter_map(|name| Some((name.clone(), self.retired.get(name)?.clone())));
        let seen = on_each(hosts.map(|(name, host)| (name, async move { host.observe().await }))).await;
        let mut stopped = Vec::new();
        for (name, result) in seen {
            match result {
                Ok(observed) if steps_of(&observed).0.is_empty() => {}
                Ok(observed) => stopped.push((TargetId::Host(name), Ok(observed))),
                Err(failure) => cluster.warnings.push(format!(
                    "k0s on retired host {name} was not stopped: {}; if the machine runs again, reset it with `provision reset {name}`",
                    failure.message
                )),
            }
        }
        observation.targets.extend(stopped);
    }

    /// Makes a plan of what was observed.
    pub fn plan(&self, observation: Observation) -> Plan {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let past = self.past();
        let mut plan = build(PlanInput {
            inventory: &self.inventory,
            lock_digest: self.lock.digest(),
            lab: self.is_lab(),
            observed: observation.targets,
            out_of_service: live.as_ref().map(|nodes| nodes.out_of_service.clone()).unwrap_or_default(),
            nodes: live.map(|nodes| nodes.all),
            bare_pods: observation.bare_pods,
            past: past.clone(),
        });
        noticed::add_to(&mut plan, &self.noticed);
        plan.delivery = self.mirror.as_ref().and_then(|_| self.delivery(&plan));
        let leaving = self.leaving();
        if !leaving.is_empty() {
            plan.leave(&leaving, &self.inventory, &past);
        }
        if self.selection.reset.is_some() {
            plan.skipped.retain(|host, _| !leaving.contains(host));
            for step in
                plan.targets.iter_mut().flat_map(|t| &mut t.steps).filter(|s| s.change.verb == Verb::Remove)
            {
                // Not what is said of a host that an inventory drops.
                step.why = step.resource.node().map(|_| "drain, then delete".to_owned());
            }
        }
        plan
    }

    /// Returns what steps took in earlier runs. An estimate of the time is all that is missing without it.
    pub(super) fn past(&self) -> Past {
        let journals = self.source.state.journals(&self.inventory);
        journals.map(|folder| past(&folder, self.is_lab())).unwrap_or_default()
    }

    /// Reads the facts of all selected hosts in parallel.
    pub async fn facts(&self) -> BTreeMap<HostName, std::result::Result<Facts, Failure>> {
        let ask = |(name, host): (&HostName, &Arc<HostTarget>)| {
            let host = host.clone();
            (name.clone(), async move { host.facts().await })
        };
        on_each(self.hosts.iter().map(ask)).await
    }

    /// Observes one host and returns the programs that this and `apply` run there.
    pub async fn programs(&self, host: &str) -> Result<Programs> {
        let observed = self.host(host)?.observe().await?;
        let (steps, _) = steps_of(&observed);
        let change = (!steps.is_empty()).then(|| {
            let program = enact_program(&steps, &observed.facts);
            let launch = launch_program(&program);
            (program, launch)
        });
        Ok(Programs { observe: observe_program(&observed.desired), change })
    }

    fn with_role<T>(&self, name: &HostName, facts: &Facts, ask: impl Fn(&RoleInput<'_>) -> T) -> Option<T> {
        let host = self.inventory.hosts.get(name)?;
        let (inventory, catalog, lock) = (&self.inventory, &self.catalog, &self.lock);
        let joins = self.joins.load(Ordering::Relaxed);
        Some(ask(&RoleInput { inventory, catalog, lock, host, facts, secrets: &self.secrets, joins }))
    }

    /// Returns the findings of a host's facts, including warnings.
    pub(super) fn findings(&self, name: &HostName, facts: &Facts) -> Vec<Finding> {
        self.with_role(name, facts, role::check).unwrap_or_default()
    }

    /// Returns every failed preflight check of a host with these facts.
    pub(super) fn problems(&self, name: &HostName, facts: &Facts) -> Vec<Failure> {
        self.with_role(name, facts, |input| desired(input).err()).flatten().unwrap_or_default()
    }

    /// Returns the desired resources of a host with these facts, as far as they are known.
    pub(super) fn wanted(&self, name: &HostName, facts: &Facts) -> Vec<Resource> {
        self.with_role(name, facts, |input| role::resources(input).ok()).flatten().unwrap_or_default()
    }

    /// What hosts can only tell together: neither of two that are one machine may go on.
    fn compare_hosts(&self, observation: &mut Observation) {
        let mut stops: BTreeMap<HostName, Vec<Failure>> = BTreeMap::new();
        let known = observation.targets.iter();
        let known = known.filter_map(|(id, r)| Some((id.host()?.clone(), &r.as_ref().ok()?.facts)));
        for (name, finding) in role::among(&self.inventory, &known.collect::<Vec<_>>()) {
            if finding.stops() {
                stops.entry(name).or_default().push(finding.failure());
            }
        }
        for (id, result) in &mut observation.targets {
            if let Some(failures) = id.host().and_then(|name| stops.remove(name)) {
                *result = Err(combine(failures));
            }
        }
    }
}
