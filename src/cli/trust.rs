//! `trust`: scan, show and record host keys.

use super::args::{Global, Where};
use super::exit;
use super::prompt::confirm;
use super::session::Session;
use crate::report::count;
use crate::ssh::known_hosts::Verdict;
use clap::Args;

/// Scan host keys and record them in known_hosts next to the inventory
#[derive(Args)]
#[command(after_help = "Examples:
  provision trust -i site.yaml                compare the fingerprints at the hosts' consoles
  provision trust -i site.yaml --limit h-031 --replace     a reinstalled host")]
pub(super) struct Trust {
    #[command(flatten)]
    place: Where,
    /// Replace changed keys
    #[arg(long)]
    replace: bool,
    /// Skip the confirmation prompt
    #[arg(long, short)]
    yes: bool,
}

impl Trust {
    /// Scans, shows, asks for confirmation, writes.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::look(&self.place, global).await?;
        let keys = session.fleet.host_keys().await;
        session.end().await?;
        let mut code = exit::DONE;
        for host in &keys.found {
            let (state, well) = match (&host.key, &host.verdict) {
                (Err(why), _) => (format!("no key: {why}"), false),
                (Ok(_), Verdict::Trusted) => ("known".to_owned(), true),
                (Ok(_), Verdict::Changed { place, fingerprint }) if self.replace => {
                    (format!("replaces {fingerprint} ({place})"), true)
                }
                (Ok(_), Verdict::Changed { place, fingerprint }) => (
                    format!(
                        "CHANGED: {fingerprint} is recorded ({place}); add --replace if the host was reinstalled"
                    ),
                    false,
                ),
                (Ok(_), Verdict::Revoked(place)) => (format!("REVOKED ({place})"), false),
                (Ok(_), _) => ("new".to_owned(), true),
            };
            if !well {
                code = exit::FAILED;
            }
            println!("{:<12} {:<24} {:<52} {state}", host.name, host.known_as, host.fingerprint());
        }
        let pending = keys.pending(self.replace);
        if pending > 0 {
            let question = format!("Trust these keys and write them to {}?", keys.file.display());
            if !self.yes && !confirm(&question, "Compare the fingerprints, then add --yes")? {
                return Ok(exit::FAILED);
            }
            keys.record(self.replace)?;
            eprintln!("{} written to {}", count(pending, "key"), keys.file.display());
        }
        Ok(code)
    }
}
