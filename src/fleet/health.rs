//! Accelerator health, for `verify`, `apply` and `status`: hosts are tested, results judged, compared with their pool and kept
//! next to the journals of runs.

use super::error::{Error, Result, cannot, coded};
use super::open::Fleet;
use super::state_dir::{self, StateDir};
use super::tasks::Tasks;
use crate::inventory::{Accelerator, Inventory};
use crate::role::health::{
    Finding, Health, Level, Links, QuickInput, Verdict, judge, judge_kept, kept, median_findings, program,
};
use crate::run::KEPT_RUNS;
use crate::state::HostName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What one look at accelerators found.
#[derive(Serialize, Deserialize, Debug)]
pub struct HealthReport {
    /// The run's id.
    pub run: String,
    /// The requested level; `apply` for the report at the end of a run.
    pub level: String,
    /// When it looked, in seconds since 1970; 0 in reports of versions that did not note it.
    #[serde(default)]
    pub at_s: i64,
    /// The hosts are simulated.
    pub lab: bool,
    /// Per host.
    pub hosts: BTreeMap<String, Health>,
}

/// What was found of one host, when, and by what.
pub(super) struct LatestHealth {
    pub health: Health,
    /// When it was looked at, in seconds since 1970.
    pub at_s: i64,
    /// The command of the result.
    pub by: &'static str,
}

/// Which results of a host to read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// The tests of a level, now.
    Level(Level),
    /// The quick look, now, and what the last standard look on the host found.
    Kept,
}

/// Returns this moment in seconds since 1970.
pub(super) fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl HealthReport {
    /// Returns the number of hosts of this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.hosts.values().filter(|h| h.verdict == verdict).count()
    }

    /// Keeps it under its run's name, and as the last one. Returns where.
    pub fn keep(&self, state: &StateDir, inventory: &Inventory) -> Result<PathBuf> {
        let folder = folder(state, inventory)?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Malformed { what: "cannot write the report".to_owned(), source: e.into() })?;
        let path = folder.join(format!("{}.json", self.run));
        for path in [&path, &folder.join("last.json")] {
            state_dir::write(path, &text).map_err(cannot("write", path))?;
        }
        forget(&folder);
        Ok(path)
    }

    /// Returns the one that was kept last.
    pub fn last(state: &StateDir, inventory: &Inventory) -> Result<Self> {
        let path = folder(state, inventory)?.join("last.json");
        let text = std::fs::read_to_string(&path).map_err(|_| {
            let message = format!("no saved health report of {}", inventory.name);
            coded("E-NO-HEALTH", message, "Run `provision verify` to create one")
        })?;
        let what = || format!("cannot read {}", path.display());
        serde_json::from_str(&text).map_err(|e| Error::Malformed { what: what(), source: e.into() })
    }

    /// Returns the newest look at each host, of real hosts or of simulated ones.
    pub(super) fn newest(
        state: &StateDir,
        inventory: &Inventory,
        lab: bool,
    ) -> Result<BTreeMap<String, LatestHealth>> {
        let mut newest: BTreeMap<String, LatestHealth> = BTreeMap::new();
        for (modified, path) in reports(&folder(state, inventory)?) {
            let text = std::fs::read_to_string(&path).ok();
            // What cannot be read is as good as not kept: a later look replaces it.
            let Some(look) = text.and_then(|text| serde_json::from_str::<Self>(&text).ok()) else {
                continue;
            };
            if look.lab != lab {
                continue;
            }
            let since = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
            let at_s = if look.at_s > 0 { look.at_s } else { since };
            let by = if look.level == "apply" { "apply" } else { "verify" };
            for (host, health) in look.hosts {
                if newest.get(&host).is_none_or(|seen| seen.at_s <= at_s) {
                    newest.insert(host, LatestHealth { health, at_s, by });
                }
            }
        }
        Ok(newest)
    }
}

/// Returns the reports of a folder, oldest first.
fn reports(folder: &Path) -> Vec<(std::time::SystemTime, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut reports: Vec<(std::time::SystemTime, PathBuf)> = entries
        .map(|e| e.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json") && !path.ends_with("last.json"))
        .filter_map(|path| Some((path.metadata().and_then(|m| m.modified()).ok()?, path)))
        .collect();
    reports.sort();
    reports
}

/// Returns the folder of an inventory's reports.
pub(super) fn folder(state: &StateDir, inventory: &Inventory) -> Result<PathBuf> {
    state.of_inventory("health", inventory, reported_hosts)
}

/// Returns the hosts that reports of a folder are about.
fn reported_hosts(folder: &Path) -> BTreeSet<String> {
    let texts = reports(folder).into_iter().filter_map(|(_, path)| std::fs::read_to_string(path).ok());
    let all = texts.filter_map(|text| serde_json::from_str::<HealthReport>(&text).ok());
    all.flat_map(|report| report.hosts.into_keys()).collect()
}

/// Takes the oldest reports away: as many are kept as of runs.
fn forget(folder: &Path) {
    let reports = reports(folder);
    let old = reports.len().saturating_sub(KEPT_RUNS);
    for (_, path) in reports.into_iter().take(old) {
        // What stays is only room that is not given back.
        let _ = std::fs::remove_file(path);
    }
}

impl Fleet {
    /// Tests the accelerators of every selected host at a level, judges, and compares each host with its pool.
    pub async fn verify(&self, level: Level) -> Result<HealthReport> {
        self.some_hosts()?;
        let look = self.health(self.hosts.keys(), Query::Level(level)).await;
        if look.hosts.is_empty() {
            let hint = "Select a pool with `accelerator`; list hosts with `provision facts`";
            return Err(coded("E-NO-ACCELERATOR", "no active host has accelerators", hint));
        }
        Ok(look)
    }

    /// Tests all hosts with accelerators in parallel and judges the results; others are skipped.
    pub(super) async fn health(&self, hosts: impl Iterator<Item = &HostName>, query: Query) -> HealthReport {
        let level = match query {
            Query::Level(level) => level,
            Query::Kept => Level::Quick,
        };
        let mut tasks = Tasks::new();
        for name in hosts {
            let text = self.with_accelerator(name, |input, disk| match query {
                Query::Level(level) => program(level, input, disk),
                Query::Kept => kept(input),
            });
            let (Some(text), Some(target)) = (text, self.hosts.get(name).cloned()) else { continue };
            let deadline = Duration::from_secs(level.deadline_s());
            tasks.spawn(name.clone(), async move { target.output_within(&text, deadline).await });
        }
        let mut pools: BTreeMap<String, BTreeMap<String, Health>> = BTreeMap::new();
        while let Some((name, ended)) = tasks.next().await {
            let health = match ended.and_then(|answer| answer) {
                Ok(text) => self.with_accelerator(&name, |input, _| match query {
                    Query::Level(level) => judge(&text, level, &input),
                    Query::Kept => judge_kept(&text, &input),
                }),
                Err(failure) => Some(Health::of(Finding::unknown(&failure.code, failure.message))),
            };
            let pool = self.inventory.hosts.get(&name).map(|h| h.pool.to_string());
            if let (Some(health), Some(pool)) = (health, pool) {
                pools.entry(pool).or_default().insert(name.to_string(), health);
            }
        }
        for pool in pools.values_mut() {
            median_findings(pool);
        }
        let hosts = pools.into_values().flatten().collect();
        let (run, level, lab) = (self.run.to_string(), level.as_str().to_owned(), self.is_lab());
        HealthReport { run, level, at_s: now_s(), lab, hosts }
    }

    /// Calls with what a host should have and where its models are; `None` for a host without accelerators.
    fn with_accelerator<T>(
        &self,
        name: &HostName,
        then: impl FnOnce(QuickInput<'_>, &str) -> T,
    ) -> Option<T> {
        let catalog = &self.catalog;
        let host = self.inventory.hosts.get(name)?;
        let pool = self.inventory.pool_of(host);
        let accelerator = pool.accelerator.as_ref()?;
        let product = catalog.product(accelerator.product())?;
        let driver = match accelerator {
            Accelerator::Nvidia { driver, .. } => driver.as_str(),
            Accelerator::Neuron { sdk, .. } => catalog.neuron_sdk(sdk)?.driver.as_deref()?,
        };
        let count = accelerator.count();
        let mig = accelerator.mig().is_some();
        let links = Links { efa: pool.efa, rdma: pool.rdma };
        let input =
            QuickInput { catalog, product: &product, count, driver, units: &[], wait: false, mig, links };
        Some(then(input, &pool.models_path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |n: usize| dir.path().join(format!("R{n:03}.json"));
        for n in 0..KEPT_RUNS + 3 {
            std::fs::write(at(n), "{}").expect("written");
            let when = std::time::UNIX_EPOCH + Duration::from_secs(n as u64);
            std::fs::File::options().write(true).open(at(n)).and_then(|f| f.set_modified(when)).expect("set");
        }
        std::fs::write(dir.path().join("last.json"), "{}").expect("written");
        forget(dir.path());
        let gone: Vec<usize> = (0..KEPT_RUNS + 3).filter(|n| !at(*n).exists()).collect();
        assert_eq!(gone, [0, 1, 2]);
        assert!(dir.path().join("last.json").exists());
    }
}
