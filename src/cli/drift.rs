//! `drift` and `watch`: where the fleet is not as its inventory wants it, once or again and again. Neither changes anything.

use super::args::{Global, Output, Where, duration};
use super::errors::print_error;
use super::exit;
use super::junit::Junit;
use super::session::Session;
use super::terminal::{self, Annotation};
use crate::fleet::{Webhook, notify, write_metrics};
use crate::plan::Drift;
use crate::report::{Check, drift_text};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Compare the fleet with its inventory, for machines; exit 2 if anything differs
///
/// The same comparison as `plan`, with what each difference comes from. On hosts, what was changed since the last apply is told from
/// what was never applied; in the cluster, the field managers that set what differs are named.
#[derive(Args)]
#[command(after_help = "Examples:
  provision drift -i site.yaml
  provision drift -i site.yaml --output json | jq '.differences[] | select(.origin == \"drift\")'
  provision drift -i site.yaml --metrics /var/lib/node_exporter/provision.prom

Exit codes: 0 everything is as wanted, 2 something differs, 1 not everything could be observed.")]
pub(super) struct DriftCommand {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    tell: Tell,
    #[command(flatten)]
    junit: Junit,
}

/// Look for drift again and again, and tell of it
///
/// Reads the inventory anew each time. Prints what differs when that has changed since the last look, and posts it to the webhook.
/// Writes nothing to hosts or the cluster. Ends with Ctrl-C.
#[derive(Args)]
#[command(after_help = "Examples:
  provision watch -i site.yaml --interval 10m --metrics /var/lib/node_exporter/provision.prom
  PROVISION_WEBHOOK=https://hooks.example.net/T0KEN provision watch -i site.yaml

The webhook gets what `provision drift --output json` prints. Its URL is read from the environment, as it may hold a secret.

Exit codes: those of `drift` after --looks, 130 when it was stopped.")]
pub(super) struct Watch {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    tell: Tell,
    /// Time between two looks, such as 90s, 10m or 1h; varied by a tenth, so that several do not look at once
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    interval: Duration,
    /// End after so many looks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    looks: Option<u64>,
}

#[derive(Args)]
struct Tell {
    /// Also write metrics to this file, for the textfile collector of node_exporter
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
}

/// The environment variable with the URL of the webhook.
const WEBHOOK: &str = "PROVISION_WEBHOOK";
/// Hosts are not asked more often.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

async fn look(place: &Where, global: &Global) -> anyhow::Result<Drift> {
    let session = Session::change(place, &[], global, false).await?;
    let drift = session.fleet.drift(&session.events).await;
    session.end().await?;
    Ok(drift)
}

impl Tell {
    fn write(&self, drift: &Drift) -> anyhow::Result<()> {
        Ok(self.metrics.as_ref().map_or(Ok(()), |file| write_metrics(drift, file))?)
    }
}

fn print(drift: &Drift, place: &Where, global: &Global) -> anyhow::Result<()> {
    match global.output {
        Output::Json => println!("{}", serde_json::to_string(drift)?),
        _ => {
            screen!("{}", drift_text(drift, &place.said(), terminal::width()));
            for check in checks(drift) {
                if let Some((code, text)) = check.failure {
                    let title = format!("{} {code}", check.name);
                    terminal::annotate(Annotation::Warning, &title, None, &text);
                }
            }
        }
    }
    Ok(())
}

/// Returns a check for each target that differs or is unknown, or one for the fleet.
fn checks(drift: &Drift) -> Vec<Check> {
    let mut targets: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for found in &drift.differences {
        let text = format!("{} is not as wanted", found.resource);
        targets.entry(&found.target).or_default().push(("differs".to_owned(), text));
    }
    for unknown in &drift.unobserved {
        let code = unknown.code.clone().unwrap_or_else(|| "unknown".to_owned());
        targets.entry(&unknown.target).or_default().push((code, unknown.message.clone()));
    }
    if targets.is_empty() {
        return vec![Check::of(drift.inventory.as_str(), Vec::new())];
    }
    targets.into_iter().map(|(target, failures)| Check::of(target, failures)).collect()
}

impl DriftCommand {
    /// Looks once.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.junit.or_error("drift", self.look(global).await)
    }

    async fn look(&self, global: &Global) -> anyhow::Result<u8> {
        let drift = look(&self.place, global).await?;
        print(&drift, &self.place, global)?;
        self.junit.write("drift", || checks(&drift))?;
        self.tell.write(&drift)?;
        Ok(drift.exit)
    }
}

impl Watch {
    /// Looks until it is stopped. What cannot be looked at once is tried again.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let webhook = std::env::var(WEBHOOK).ok().filter(|url| !url.is_empty());
        let webhook = webhook.map(|url| Webhook::parse(&url)).transpose()?;
        let mut end = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            code = self.look_on(global, webhook.as_ref()) => code,
            _ = end.recv() => Ok(exit::INTERRUPTED),
            _ = interrupt.recv() => Ok(exit::INTERRUPTED),
        }
    }

    async fn look_on(&self, global: &Global, webhook: Option<&Webhook>) -> anyhow::Result<u8> {
        // What was printed, and what the webhook has got, which may be older.
        let (mut printed, mut posted): (Option<Drift>, Option<Drift>) = (None, None);
        // Whoever waits for news by file or webhook must not take silence for "in sync".
        let (mut code, mut told) = (exit::DONE, true);
        for n in 1u64.. {
            match look(&self.place, global).await {
                Ok(drift) => {
                    code = drift.exit;
                    told = true;
                    if let Err(error) = self.tell.write(&drift) {
                        told = false;
                        report(&error);
                    }
                    if printed.as_ref() != Some(&drift) {
                        if global.output != Output::Json {
                            screen!("{}\n", now());
                        }
                        print(&drift, &self.place, global)?;
                        printed = Some(drift.clone());
                    }
                    if let Some(webhook) = webhook.filter(|_| posted.as_ref() != Some(&drift)) {
                        match notify(&drift, webhook).await {
                            Ok(()) => posted = Some(drift),
                            Err(error) => {
                                told = false;
                                report(&error.into());
                            }
                        }
                    }
                }
                Err(error) => {
                    code = exit::FAILED;
                    report(&error);
                }
            }
            if self.looks == Some(n) {
                break;
            }
            let varied = self.interval.max(LEAST_INTERVAL).mul_f64(rand::random_range(0.9..1.1));
            tokio::time::sleep(varied).await;
        }
        Ok(if told { code } else { exit::FAILED })
    }
}

fn now() -> jiff::fmt::strtime::Display<'static> {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")
}

/// Tells of an error, and when it was.
fn report(error: &anyhow::Error) {
    eprintln!("{}", now());
    print_error(error);
}
