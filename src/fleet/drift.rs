//! Where a fleet is not as wanted, and how others learn of it: a file of metrics, a webhook. Nothing is changed on any host.

use super::error::{Result, coded};
use super::open::Fleet;
use crate::event::Events;
use crate::plan::Drift;
use crate::report::drift_metrics;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whoever is told by a webhook answers within this time.
const WEBHOOK_DEADLINE: Duration = Duration::from_secs(20);

impl Fleet {
    /// Observes everything and compares it with the inventory.
    pub async fn drift(&self, events: &Events) -> Drift {
        Drift::of(&self.plan(self.observe(events).await))
    }
}

/// Writes metrics in Prometheus' text format as a whole, for the textfile collector of node_exporter.
pub fn write_metrics(drift: &Drift, path: &Path) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    super::report_file::write_report(path, drift_metrics(drift, now).as_bytes())
}

/// Where a webhook posts to.
pub struct Webhook(reqwest::Url);

impl Webhook {
    /// Reads a URL. It may hold a secret: no error has it.
    pub fn parse(url: &str) -> Result<Self> {
        let parsed = reqwest::Url::parse(url).ok();
        let http = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let wrong =
            || coded("E-USAGE", "PROVISION_WEBHOOK is not an http or https URL", "Correct or unset it");
        http.map(Self).ok_or_else(wrong)
    }
}

/// Posts drift as JSON. The URL may hold a secret: no error has it.
pub async fn notify(drift: &Drift, webhook: &Webhook) -> Result<()> {
    let refused = |why: String| {
        let hint = "Check the URL and its service; the next look tries again";
        coded("E-WEBHOOK", format!("the webhook was not delivered: {why}"), hint)
    };
    let failed = |error: reqwest::Error| {
        refused(match &error {
            error if error.is_timeout() => format!("no answer within {} s", WEBHOOK_DEADLINE.as_secs()),
            error if error.is_connect() => "its host cannot be reached".to_owned(),
            _ => error.without_url().to_string(),
        })
    };
    let client =
        reqwest::Client::builder().timeout(WEBHOOK_DEADLINE).redirect(reqwest::redirect::Policy::none());
    let answer =
        client.build().map_err(failed)?.post(webhook.0.clone()).json(drift).send().await.map_err(failed)?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(refused(format!("it answered {status}"))),
    }
}
