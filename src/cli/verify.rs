//! `verify`: how well accelerators are, at three levels; kept beside the journals of runs.

use super::health::{Ask, Report, ask};
use super::site::Site;
use super::{Global, Output, Where, coded, exit, watch};
use crate::report::health_lines;
use crate::role::health::{Level, Verdict};
use clap::{Args, ValueEnum};

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

impl Report {
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
                print!("{}", health_lines(host, health, global.verbose));
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
            return Report::last(&inventory.name)?.print(global);
        }
        let (events, shown) = watch(global, false);
        let site = Site::open(&self.place, &events).await?;
        site.some_hosts()?;
        drop(events);
        let level = self.level.level();
        let report = Report {
            run: site.run.to_string(),
            level: level.as_str().to_owned(),
            lab: site.lab.is_some(),
            hosts: ask(&site, site.hosts.keys(), Ask::Level(level)).await,
        };
        let name = site.inventory.name.clone();
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        if report.hosts.is_empty() {
            let hint = "a pool with `accelerator`, or another --limit: provision facts lists the hosts";
            return Err(coded("E-NO-ACCELERATOR", "no host with accelerators takes part", hint));
        }
        let path = report.keep(&name)?;
        let code = report.print(global)?;
        if !global.quiet {
            eprintln!("kept in {}", path.display());
        }
        Ok(code)
    }
}
