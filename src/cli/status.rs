//! `status`: show the state of the cluster.

use super::args::{Global, Output, Where};
use super::session::Session;
use super::{exit, terminal};
use crate::fleet::Purpose;
use crate::report::status_text;
use clap::Args;

/// Show the state of controllers, nodes, accelerators, certificates and models
///
/// Queries every host and the Kubernetes API, and changes nothing. Works with hosts down, which are listed. A router,
/// model or device plugin that is missing or not ready is listed with the reason, the last lines of a container that
/// crashed, and the affected tenants. Exit code 1 if anything is down, missing, unknown, or was unhealthy in the latest `verify` or `apply`.
/// To see differences from the inventory, run `plan`.
#[derive(Args)]
#[command(after_help = "Examples:
  provision status -i site.yaml
  provision status -i site.yaml --output json
  provision status -i site.yaml --health         also accelerator health and the latest test results
  provision status -i site.yaml --limit cp-1     one controller")]
pub(super) struct Status {
    #[command(flatten)]
    place: Where,
    /// Also show accelerator health: the quick test now, and the latest standard test
    #[arg(long)]
    health: bool,
}

impl Status {
    /// Queries and prints.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::open(&self.place, global, Purpose::Look, false).await?;
        let mut view = session.fleet.status(self.health).await?;
        if let Some(api) = view.api.as_mut().filter(|api| api.code == "E-NO-CLUSTER") {
            api.next = Some(format!("Create it with: provision apply {}", self.place.said()));
        }
        view.place = Where { limit: None, ..self.place.clone() }.said();
        let (fleet, _) = session.settle().await;
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&view)?);
        } else {
            screen!("{}", status_text(&view, terminal::width()));
        }
        fleet.close()?;
        Ok(if view.is_troubled() { exit::FAILED } else { exit::DONE })
    }
}
