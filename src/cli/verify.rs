//! `verify`: how well accelerators are, at three levels; kept beside the journals of runs.

use super::site::{Site, state_dir};
use super::{Global, Output, Where, exit, watch};
use crate::catalog::Catalog;
use crate::inventory::Accelerator;
use crate::role::health::{Finding, Health, Level, QuickInput, Verdict, judge, median_findings, program};
use crate::state::HostName;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Look at the health of accelerators
#[derive(Args)]
#[command(after_help = "Examples:
  provision verify -i site.yaml                        seconds: what every apply looks at
  provision verify -i site.yaml --level standard       minutes: diagnostics and one collective
  provision verify -i site.yaml --level burnin --limit h-031    half an hour or more
  provision verify -i site.yaml --last                 what was found last time, no host contacted

Levels above quick want idle accelerators: what runs on a host is left alone, and its tests read as unknown.
Exit 0 if all are healthy, 1 if any is not, or could not be told.")]
pub struct Verify {
    #[command(flatten)]
    place: Where,
    /// How much is tested
    #[arg(long, value_enum, default_value_t = Depth::Quick)]
    level: Depth,
    /// Show what was found last time
    #[arg(long)]
    last: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Depth {
    Quick,
    Standard,
    Burnin,
}

impl Depth {
    fn level(self) -> Level {
        match self {
            Depth::Quick => Level::Quick,
            Depth::Standard => Level::Standard,
            Depth::Burnin => Level::Burnin,
        }
    }
}

/// What one look found.
#[derive(Serialize, Deserialize)]
struct Report {
    run: String,
    level: String,
    lab: bool,
    hosts: BTreeMap<String, Health>,
}

fn folder(inventory: &str) -> PathBuf {
    state_dir().join("health").join(inventory)
}

impl Report {
    /// Keeps the report under its run's name, and as the last one.
    fn keep(&self, inventory: &str) -> anyhow::Result<PathBuf> {
        let folder = folder(inventory);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let text = serde_json::to_string_pretty(self)?;
        let path = folder.join(format!("{}.json", self.run));
        for path in [&path, &folder.join("last.json")] {
            std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(path)
    }

    fn print(&self, global: &Global) -> anyhow::Result<u8> {
        let count = |verdict| self.hosts.values().filter(|h| h.verdict == verdict).count();
        let (bad, unknown) = (count(Verdict::Unhealthy), count(Verdict::Unknown));
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            if self.lab {
                println!("LAB: simulated hosts");
            }
            for (host, health) in &self.hosts {
                let word = match health.verdict {
                    Verdict::Healthy => "healthy",
                    Verdict::Unknown => "unknown",
                    Verdict::Unhealthy => "unhealthy",
                };
                let measures = health.measures.iter().map(|m| format!("{} {} {}", m.test, m.value, m.unit));
                println!("{host:<12} {word:<10} {}", measures.collect::<Vec<_>>().join(", "));
                for finding in &health.findings {
                    match finding.verdict {
                        Verdict::Healthy if !global.verbose => {}
                        Verdict::Healthy => println!("  ok: {}", finding.detail),
                        Verdict::Unknown => println!("  [{}] unknown: {}", finding.code, finding.detail),
                        Verdict::Unhealthy => println!("  [{}] {}", finding.code, finding.detail),
                    }
                }
            }
            println!(
                "{} hosts at level {}: {} healthy, {bad} unhealthy, {unknown} unknown",
                self.hosts.len(),
                self.level,
                count(Verdict::Healthy)
            );
        }
        Ok(if bad + unknown > 0 { exit::FAILED } else { exit::DONE })
    }
}

impl Verify {
    /// Asks all hosts with accelerators at once, judges, compares, keeps, prints.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        if self.last {
            let (inventory, _) = super::site::load(&self.place.inventory)?;
            let path = folder(&inventory.name).join("last.json");
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("nothing was kept yet of {}: provision verify", inventory.name))?;
            let report: Report =
                serde_json::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))?;
            return report.print(global);
        }
        let (events, shown) = watch(global, false);
        let site = Site::open(&self.place, &events).await?;
        site.some_hosts()?;
        drop(events);
        let catalog =
            Catalog::load(site.inventory.catalog_dir.as_deref()).context("cannot load the catalog")?;
        let level = self.level.level();
        let mut tasks = tokio::task::JoinSet::new();
        for (name, target) in site.hosts.clone() {
            let Some(text) = with_input(&site, &catalog, &name, |input, disk| program(level, input, disk))
            else {
                continue;
            };
            tasks.spawn(async move {
                let deadline = Duration::from_secs(level.deadline_s());
                (name, target.output_within(&text, deadline).await)
            });
        }
        let mut pools: BTreeMap<String, BTreeMap<String, Health>> = BTreeMap::new();
        while let Some(Ok((name, answer))) = tasks.join_next().await {
            let health = match answer {
                Ok(text) => with_input(&site, &catalog, &name, |input, _| judge(&text, level, &input)),
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
        let report = Report {
            run: site.run.to_string(),
            level: level.as_str().to_owned(),
            lab: site.lab.is_some(),
            hosts: pools.into_values().flatten().collect(),
        };
        let name = site.inventory.name.clone();
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        if report.hosts.is_empty() {
            bail!("no host with accelerators takes part");
        }
        let path = report.keep(&name)?;
        let code = report.print(global)?;
        if !global.quiet {
            eprintln!("kept in {}", path.display());
        }
        Ok(code)
    }
}

/// Calls with what a host should have and where its models are; `None` for a host without accelerators.
fn with_input<T>(
    site: &Site,
    catalog: &Catalog,
    name: &HostName,
    then: impl FnOnce(QuickInput<'_>, &str) -> T,
) -> Option<T> {
    let host = site.inventory.hosts.get(name)?;
    let pool = site.inventory.pool_of(host);
    let accelerator = pool.accelerator.as_ref()?;
    let product = catalog.product(accelerator.product())?;
    let driver = match accelerator {
        Accelerator::Nvidia { driver, .. } => driver.as_str(),
        Accelerator::Neuron { sdk, .. } => catalog.neuron_sdk(sdk)?.driver.as_deref()?,
    };
    let count = accelerator.count();
    Some(then(
        QuickInput { catalog, product: &product, count, driver, units: &[], wait: false },
        &pool.models_path,
    ))
}
