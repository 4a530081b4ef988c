//! What `verify`, `apply` and `status` know of accelerators: hosts are asked, answers judged and compared with their pool's,
//! and kept beside the journals of runs.

use super::coded;
use super::site::{Site, state_dir};
use crate::inventory::Accelerator;
use crate::role::health::{
    Finding, Health, Level, Links, QuickInput, judge, judge_kept, kept, median_findings, program,
};
use crate::run::KEPT_RUNS;
use crate::state::HostName;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a run found.
#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    /// The run's id.
    pub run: String,
    /// The level that was asked for; `apply` where a run looked at its end.
    pub level: String,
    /// The hosts are simulated.
    pub lab: bool,
    /// Per host.
    pub hosts: BTreeMap<String, Health>,
}

fn folder(inventory: &str) -> PathBuf {
    state_dir().join("health").join(inventory)
}

impl Report {
    /// Keeps the report under its run's name, and as the last one.
    pub fn keep(&self, inventory: &str) -> anyhow::Result<PathBuf> {
        let folder = folder(inventory);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let text = serde_json::to_string_pretty(self)?;
        let path = folder.join(format!("{}.json", self.run));
        for path in [&path, &folder.join("last.json")] {
            std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        forget(&folder);
        Ok(path)
    }

    /// Returns the one that was kept last.
    pub fn last(inventory: &str) -> anyhow::Result<Self> {
        let path = folder(inventory).join("last.json");
        let text = std::fs::read_to_string(&path).map_err(|_| {
            let message = format!("nothing was kept yet of {inventory}");
            coded("E-NO-HEALTH", message, "provision verify looks, and keeps what it finds")
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))
    }
}

/// Takes the oldest reports away: as many are kept as of runs.
fn forget(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut reports: Vec<(std::time::SystemTime, PathBuf)> = entries
        .map(|e| e.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json") && !path.ends_with("last.json"))
        .filter_map(|path| Some((path.metadata().and_then(|m| m.modified()).ok()?, path)))
        .collect();
    reports.sort();
    let old = reports.len().saturating_sub(KEPT_RUNS);
    for (_, path) in reports.into_iter().take(old) {
        // What stays is only room that is not given back.
        let _ = std::fs::remove_file(path);
    }
}

/// What hosts are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The tests of a level, now.
    Level(Level),
    /// The quick look, now, and what the last standard look on the host found.
    Kept,
}

/// Asks hosts with accelerators all at once, and judges; the others are left out.
pub(super) async fn ask(
    site: &Site,
    hosts: impl Iterator<Item = &HostName>,
    ask: Ask,
) -> BTreeMap<String, Health> {
    let level = match ask {
        Ask::Level(level) => level,
        Ask::Kept => Level::Quick,
    };
    let mut tasks = tokio::task::JoinSet::new();
    for name in hosts {
        let text = with_input(site, name, |input, disk| match ask {
            Ask::Level(level) => program(level, input, disk),
            Ask::Kept => kept(input),
        });
        let (Some(text), Some(target)) = (text, site.hosts.get(name).cloned()) else { continue };
        let (name, deadline) = (name.clone(), Duration::from_secs(level.deadline_s()));
        tasks.spawn(async move { (name, target.output_within(&text, deadline).await) });
    }
    let mut pools: BTreeMap<String, BTreeMap<String, Health>> = BTreeMap::new();
    while let Some(Ok((name, answer))) = tasks.join_next().await {
        let health = match answer {
            Ok(text) => with_input(site, &name, |input, _| match ask {
                Ask::Level(level) => judge(&text, level, &input),
                Ask::Kept => judge_kept(&text, &input),
            }),
            Err(failure) => Some(Health::of(Finding::unknown(&failure.code, failure.message))),
        };
        let pool = site.inventory.hosts.get(&name).map(|h| h.pool.to_string());
        if let (Some(health), Some(pool)) = (health, pool) {
            pools.entry(pool).or_default().insert(name.to_string(), health);
        }
    }
    for pool in pools.values_mut() {
        median_findings(pool);
    }
    pools.into_values().flatten().collect()
}

/// Calls with what a host should have and where its models are; `None` for a host without accelerators.
fn with_input<T>(site: &Site, name: &HostName, then: impl FnOnce(QuickInput<'_>, &str) -> T) -> Option<T> {
    let catalog = &site.catalog;
    let host = site.inventory.hosts.get(name)?;
    let pool = site.inventory.pool_of(host);
    let accelerator = pool.accelerator.as_ref()?;
    let product = catalog.product(accelerator.product())?;
    let driver = match accelerator {
        Accelerator::Nvidia { driver, .. } => driver.as_str(),
        Accelerator::Neuron { sdk, .. } => catalog.neuron_sdk(sdk)?.driver.as_deref()?,
    };
    let count = accelerator.count();
    let mig = accelerator.mig().is_some();
    let links = Links { efa: pool.efa, rdma: pool.rdma };
    let input = QuickInput { catalog, product: &product, count, driver, units: &[], wait: false, mig, links };
    Some(then(input, &pool.models_path))
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
