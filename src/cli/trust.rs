//! `trust`: host keys, scanned, shown and recorded.

use super::site::{Need, Site};
use super::{Global, Where, exit, usage, watch};
use crate::ssh::known_hosts::{Verdict, write};
use crate::ssh::trust::scan;
use crate::ssh::{Pool, PoolOptions};
use clap::Args;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Scan host keys, show fingerprints, and write the known_hosts file beside the inventory
#[derive(Args)]
#[command(after_help = "Examples:
  provision trust -i site.yaml                compare the fingerprints at the hosts' consoles
  provision trust -i site.yaml --limit h-031 --replace     a host that was installed anew")]
pub struct Trust {
    #[command(flatten)]
    place: Where,
    /// Replace keys that have changed
    #[arg(long)]
    replace: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Trust {
    /// Scans, shows, asks, writes.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let site = Site::open_for(&self.place, Need::Look, &events).await?;
        drop(events);
        let file = site.inventory.ssh.known_hosts.clone();
        let pool = Pool::new(PoolOptions {
            // What the user's own files know is recorded beside the inventory too.
            known_hosts: vec![file.clone()],
            login_deadline: Duration::from_secs(10),
            ..site.ssh.clone()
        });
        let found = scan(&pool, site.endpoints.clone()).await;
        drop(site.hosts);
        shown.end().await;
        let mut keys = Vec::new();
        let mut code = exit::DONE;
        for host in &found {
            let state = match (&host.key, &host.verdict) {
                (Err(why), _) => {
                    code = exit::FAILED;
                    format!("no key: {why}")
                }
                (Ok(_), Verdict::Trusted) => "known".to_owned(),
                (Ok(key), Verdict::Changed { place, fingerprint }) => {
                    if self.replace {
                        keys.push((host.known_as.clone(), key.clone()));
                        format!("replaces {fingerprint} ({place})")
                    } else {
                        code = exit::FAILED;
                        format!("CHANGED: {fingerprint} is known ({place}); --replace if the host is new")
                    }
                }
                (Ok(_), Verdict::Revoked(place)) => {
                    code = exit::FAILED;
                    format!("REVOKED ({place})")
                }
                (Ok(key), _) => {
                    keys.push((host.known_as.clone(), key.clone()));
                    "new".to_owned()
                }
            };
            println!("{:<12} {:<24} {:<52} {state}", host.name, host.known_as, host.fingerprint());
        }
        if !keys.is_empty() {
            if !self.yes {
                if !std::io::stdin().is_terminal() {
                    return Err(usage(
                        "there is no terminal to ask on",
                        "compare the fingerprints, then say --yes",
                    ));
                }
                eprint!("\nAre these the hosts' keys? Written to {} [y/N] ", file.display());
                std::io::stderr().flush()?;
                let mut answer = String::new();
                std::io::stdin().read_line(&mut answer)?;
                if !matches!(answer.trim(), "y" | "Y" | "yes") {
                    return Ok(exit::FAILED);
                }
            }
            write(&file, &keys, self.replace)?;
            eprintln!("{} keys written to {}", keys.len(), file.display());
        }
        super::lab::release(site.lab).await;
        Ok(code)
    }
}
