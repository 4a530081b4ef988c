//! `verify`: accelerator health at three levels; results are kept next to the journals of runs.

use super::args::{Global, Output, Where};
use super::exit;
use super::junit::Junit;
use super::session::{Session, load};
use crate::fleet::{HealthReport, Purpose};
use crate::report::{Check, count, health_lines};
use crate::role::health::{Health, Level, Verdict};
use clap::{Args, ValueEnum};

/// Test accelerator health: quick, standard or burn-in
#[derive(Args)]
#[command(after_help = "Examples:
  provision verify -i site.yaml                        seconds: the tests of every apply
  provision verify -i site.yaml --level standard       minutes: diagnostics and one collective
  provision verify -i site.yaml --level burnin --limit h-031    30 minutes or more
  provision verify -i site.yaml --last                 the latest results, without contacting hosts

Levels above quick need idle accelerators: running workloads are left alone, and their tests are reported as unknown.
Exit codes: 0 all healthy, 1 any unhealthy or unknown.")]
pub(super) struct Verify {
    #[command(flatten)]
    place: Where,
    /// The test level
    #[arg(long, value_enum, default_value_t = Depth::Quick)]
    level: Depth,
    /// Show the latest results without contacting hosts
    #[arg(long)]
    last: bool,
    #[command(flatten)]
    junit: Junit,
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

fn checks(look: &HealthReport) -> Vec<Check> {
    let check = |(host, health): (&String, &Health)| {
        let bad =
            health.findings.iter().filter(|f| matches!(f.verdict, Verdict::Unhealthy | Verdict::Unknown));
        Check::of(host.as_str(), bad.map(|f| (f.code.clone(), f.detail.clone())).collect())
    };
    look.hosts.iter().map(check).collect()
}

fn print(look: &HealthReport, junit: &Junit, global: &Global) -> anyhow::Result<u8> {
    let (bad, unknown) = (look.count(Verdict::Unhealthy), look.count(Verdict::Unknown));
    if global.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(look)?);
    } else {
        if look.lab {
            println!("LAB: simulated hosts");
        }
        for (host, health) in &look.hosts {
            screen!("{}", health_lines(host, health, global.verbose > 0));
        }
        screen!(
            "{} tested at level {}: {} healthy, {bad} unhealthy, {unknown} unknown\n",
            count(look.hosts.len(), "host"),
            look.level,
            look.count(Verdict::Healthy)
        );
    }
    junit.write("verify", || checks(look))?;
    Ok(if bad + unknown > 0 { exit::FAILED } else { exit::DONE })
}

impl Verify {
    /// Tests all hosts with accelerators, saves and prints the results.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.junit.or_error("verify", self.test(global).await)
    }

    async fn test(&self, global: &Global) -> anyhow::Result<u8> {
        if self.last {
            let loaded = load(&self.place.inventory(), global)?;
            return print(&HealthReport::last(&loaded.source.state, &loaded.inventory)?, &self.junit, global);
        }
        let session = Session::open(&self.place, global, Purpose::Look, false).await?;
        let look = session.fleet.verify(self.level.level()).await;
        let (state, inventory) = (session.fleet.source.state.clone(), session.fleet.inventory.clone());
        session.end().await?;
        let look = look?;
        let path = look.keep(&state, &inventory)?;
        let code = print(&look, &self.junit, global)?;
        if !global.quiet {
            eprintln!("saved in {}", path.display());
        }
        Ok(code)
    }
}
