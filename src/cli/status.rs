//! `status`: the hosts as they are.

use super::site::Site;
use super::{Global, Output, Where, exit, watch};
use clap::Args;
use std::collections::BTreeMap;

/// Show hosts and pools as they are
#[derive(Args)]
#[command(after_help = "Example:
  provision status -i site.yaml")]
pub struct Status {
    #[command(flatten)]
    place: Where,
}

impl Status {
    /// Observes and counts.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let site = Site::open(&self.place, &events).await?;
        let (observed, took) = site.observe(&events).await;
        let plan = site.plan(observed);
        drop(events);
        shown.end().await;
        let mut pools: BTreeMap<String, (usize, usize, Vec<String>)> = BTreeMap::new();
        for target in &plan.targets {
            let pool = pools.entry(target.pool.clone().unwrap_or_else(|| "cluster".to_owned())).or_default();
            pool.0 += 1;
            if let Some(failure) = &target.unobserved {
                pool.2.push(format!("{}: [{}] {}", target.target, failure.code, failure.message));
            } else if !target.unknown.is_empty() {
                pool.2.push(format!("{}: unknown: {}", target.target, target.unknown.join("; ")));
            } else if target.steps.is_empty() {
                pool.1 += 1;
            } else {
                let names: Vec<&str> = target.steps.iter().take(3).map(|s| s.what.as_str()).collect();
                let more = if target.steps.len() > 3 { ", …" } else { "" };
                pool.2.push(format!(
                    "{}: {} pending: {}{more}",
                    target.target,
                    target.steps.len(),
                    names.join(", ")
                ));
            }
        }
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&plan)?);
        } else {
            if plan.lab {
                println!("{}", crate::report::LAB);
            }
            let k0s = &site.inventory.cluster.k0s_version;
            println!("{} · k0s {k0s} wanted · observed in {}", plan.inventory, crate::report::elapsed(took));
            for (pool, (all, in_sync, rest)) in &pools {
                let what = if pool == "cluster" { "API" } else { "hosts" };
                println!("{pool:<12} {in_sync} of {all} {what} in sync");
                for line in rest {
                    println!("  {line}");
                }
            }
            for (host, reason) in &plan.skipped {
                println!("skipped: {host} ({reason})");
            }
        }
        super::lab::release(site.lab).await;
        Ok(if plan.is_blind() { exit::FAILED } else { exit::DONE })
    }
}
