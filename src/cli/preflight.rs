//! `preflight`: everything that speaks against a host, at once, before anything is changed.

use super::site::Site;
use super::{Global, Output, Where, exit, watch};
use crate::role::Finding;
use crate::state::{Failure, HostName};
use clap::Args;
use std::collections::BTreeMap;

/// Show everything that speaks against hosts, with nothing changed
#[derive(Args)]
#[command(after_help = "Examples:
  provision preflight -i site.yaml
  provision preflight -i site.yaml --limit h100 --output json

Every code is in docs/reference/errors.md. apply does the same first for hosts that have yet to join.")]
pub struct Preflight {
    #[command(flatten)]
    place: Where,
}

/// What was found on one host.
#[derive(Default)]
struct Found {
    failures: Vec<Failure>,
    warnings: Vec<Finding>,
}

impl Found {
    fn add(&mut self, finding: Finding) {
        if finding.stops() { self.failures.push(finding.failure()) } else { self.warnings.push(finding) }
    }

    fn json(&self) -> serde_json::Value {
        let of = |code: &str, message: &str, hint: &str| serde_json::json!({"code": code, "message": message, "next": hint});
        let failures = self.failures.iter().map(|f| {
            let mut failure = of(&f.code, &f.message, f.hint.as_deref().unwrap_or_default());
            if !f.tail.is_empty() {
                failure["more"] = serde_json::json!(f.tail);
            }
            failure
        });
        let warnings = self.warnings.iter().map(|f| of(f.code, &f.message, &f.hint));
        serde_json::json!({
            "failures": failures.collect::<Vec<_>>(),
            "warnings": warnings.collect::<Vec<_>>(),
        })
    }
}

impl Preflight {
    /// Asks every host, prints what was found.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let site = Site::open(&self.place, &events).await?;
        site.some_hosts()?;
        drop(events);
        let mut tasks = tokio::task::JoinSet::new();
        for (name, host) in site.hosts.clone() {
            tasks.spawn(async move { (name, host.facts().await) });
        }
        let mut all: BTreeMap<HostName, Found> = BTreeMap::new();
        let mut facts = BTreeMap::new();
        while let Some(Ok((name, result))) = tasks.join_next().await {
            let found = all.entry(name.clone()).or_default();
            match result {
                Ok(told) => {
                    found.failures = crate::executor::lacking(&told);
                    facts.insert(name, told);
                }
                Err(failure) => found.failures.push(failure),
            }
        }
        let pairs: Vec<_> = facts.iter().map(|(name, told)| (name.clone(), told)).collect();
        for (name, finding) in crate::role::among(&site.inventory, &pairs) {
            all.entry(name).or_default().add(finding);
        }
        for (name, told) in &facts {
            let found = all.entry(name.clone()).or_default();
            found.warnings.extend(site.findings(name, told).into_iter().filter(|f| !f.stops()));
            // Of what runs no Linux the rest means nothing.
            if told.kernel_name == "Linux" {
                found.failures.extend(site.problems(name, told));
            }
        }
        // The rest needs the host once more: its disks, its roles, its neighbours.
        let mut tasks = tokio::task::JoinSet::new();
        for (name, told) in &facts {
            let Some(host) = site.hosts.get(name).cloned() else { continue };
            let clean = all.get(name).is_none_or(|f| f.failures.is_empty());
            let (name, probe) = (name.clone(), site.probe(name, &site.wanted(name, told)));
            tasks.spawn(async move {
                use crate::state::Target;
                let observed = if clean { host.observe().await.err() } else { None };
                (name, observed, probe.run(&host).await)
            });
        }
        while let Some(Ok((name, refused, probed))) = tasks.join_next().await {
            let found = all.entry(name).or_default();
            found.failures.extend(refused);
            match probed {
                Ok(findings) => findings.into_iter().for_each(|f| found.add(f)),
                Err(failure) => found.failures.push(failure),
            }
        }
        let bad = all.values().filter(|f| !f.failures.is_empty()).count();
        if global.output == Output::Json {
            let whole: BTreeMap<_, _> = all.iter().map(|(name, found)| (name, found.json())).collect();
            println!("{}", serde_json::to_string_pretty(&whole)?);
        } else {
            print(&all, global.quiet);
            println!("{} of {} hosts can be what the inventory says", all.len() - bad, all.len());
        }
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        Ok(if bad == 0 { exit::DONE } else { exit::FAILED })
    }
}

fn print(all: &BTreeMap<HostName, Found>, quiet: bool) {
    for (name, found) in all {
        if found.failures.is_empty() && (quiet || found.warnings.is_empty()) {
            if !quiet {
                println!("{name}: ok");
            }
            continue;
        }
        println!("{name}:");
        for failure in &found.failures {
            println!("  error[{}]: {}", failure.code, failure.message);
            for line in &failure.tail {
                println!("    | {line}");
            }
            if let Some(hint) = &failure.hint {
                println!("    = next: {hint}");
            }
        }
        for warning in found.warnings.iter().filter(|_| !quiet) {
            println!("  warning[{}]: {}\n    = next: {}", warning.code, warning.message, warning.hint);
        }
    }
}
