//! Preflight: all failed checks of hosts, before anything is changed.

use super::error::Result;
use super::observe::Observation;
use super::open::Fleet;
use super::tasks::Tasks;
use crate::executor::{HostTarget, combine, lacking};
use crate::inventory::Inventory;
use crate::role::{self, Finding};
use crate::state::{Failure, HostName, Resource, Target};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A host that tries its ports and its k0s is given up after this: two tries of every silent port, and `k0s sysinfo`.
const PROBE_DEADLINE: Duration = Duration::from_secs(120);

/// What was found on one host.
#[derive(Debug, Default)]
pub struct Preflight {
    /// What stops it.
    pub failures: Vec<Failure>,
    /// Warnings.
    pub warnings: Vec<Finding>,
}

impl Preflight {
    fn add(&mut self, finding: Finding) {
        if finding.stops() { self.failures.push(finding.failure()) } else { self.warnings.push(finding) }
    }
}

/// What tries a host's ports, its k0s, and the package repositories of what it should have.
struct Probe {
    inventory: Arc<Inventory>,
    host: HostName,
    repositories: Vec<String>,
}

impl Probe {
    fn of(fleet: &Fleet, name: &HostName, desired: &[Resource]) -> Self {
        let repositories = role::repositories(desired);
        Self { inventory: fleet.inventory.clone(), host: name.clone(), repositories }
    }

    async fn run(&self, target: &HostTarget) -> std::result::Result<Vec<Finding>, Failure> {
        let Some(host) = self.inventory.hosts.get(&self.host) else { return Ok(Vec::new()) };
        let program = role::program(&self.inventory, host, &self.repositories);
        let text = target.output_retried(&program, PROBE_DEADLINE).await?;
        Ok(role::findings(&self.inventory, host, &self.repositories, &text))
    }
}

impl Fleet {
    /// Looks for everything at once on every selected host, and changes nothing.
    pub async fn preflight(&self) -> Result<BTreeMap<HostName, Preflight>> {
        self.some_hosts()?;
        let mut all: BTreeMap<HostName, Preflight> = BTreeMap::new();
        let mut facts = BTreeMap::new();
        for (name, result) in self.facts().await {
            let found = all.entry(name.clone()).or_default();
            match result {
                Ok(told) => {
                    found.failures = lacking(&told);
                    facts.insert(name, told);
                }
                Err(failure) => found.failures.push(failure),
            }
        }
        let pairs: Vec<_> = facts.iter().map(|(name, told)| (name.clone(), told)).collect();
        for (name, finding) in role::among(&self.inventory, &pairs) {
            all.entry(name).or_default().add(finding);
        }
        for (name, told) in &facts {
            let found = all.entry(name.clone()).or_default();
            found.warnings.extend(self.findings(name, told).into_iter().filter(|f| !f.stops()));
            // Of what runs no Linux the rest means nothing.
            if told.kernel_name == "Linux" {
                found.failures.extend(self.problems(name, told));
            }
        }
        // The rest needs the host once more: its disks, its roles, its neighbours.
        let mut tasks = Tasks::new();
        for (name, told) in &facts {
            let Some(host) = self.hosts.get(name).cloned() else { continue };
            let clean = all.get(name).is_none_or(|f| f.failures.is_empty());
            let probe = Probe::of(self, name, &self.wanted(name, told));
            tasks.spawn(name.clone(), async move {
                let observed = if clean { host.observe().await.err() } else { None };
                (observed, probe.run(&host).await)
            });
        }
        while let Some((name, ended)) = tasks.next().await {
            let (refused, probed) = ended.unwrap_or_else(|failure| (None, Err(failure)));
            let found = all.entry(name).or_default();
            found.failures.extend(refused);
            match probed {
                Ok(findings) => findings.into_iter().for_each(|f| found.add(f)),
                Err(failure) => found.failures.push(failure),
            }
        }
        Ok(all)
    }

    /// Tries ports and k0s of the hosts that have yet to join; one that something stops counts as not observed.
    pub(super) async fn probe_new(&self, observation: &mut Observation) {
        let mut tasks = Tasks::new();
        for (id, result) in &observation.targets {
            let (Some(name), Ok(observed)) = (id.host(), result) else { continue };
            if role::is_new(&observed.facts)
                && let Some(host) = self.hosts.get(name).cloned()
            {
                let probe = Probe::of(self, name, &observed.desired);
                tasks.spawn(id.clone(), async move { probe.run(&host).await });
            }
        }
        while let Some((id, ended)) = tasks.next().await {
            let failures = match ended.and_then(|found| found) {
                Ok(found) => found.iter().filter(|f| f.stops()).map(Finding::failure).collect(),
                Err(failure) => vec![failure],
            };
            if !failures.is_empty()
                && let Some((_, result)) = observation.targets.iter_mut().find(|(other, _)| *other == id)
            {
                *result = Err(combine(failures));
            }
        }
    }
}
