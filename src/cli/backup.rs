//! `backup`: the control plane's data, streamed off a controller.

use super::args::{At, Global, Output, Where};
use super::exit;
use super::session::{Session, load};
use crate::fleet::{Backup, Purpose, backup_folder, backups_in};
use crate::report::LAB;
use clap::Args;
use indicatif::HumanBytes;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Back up the control plane to a file on this machine
///
/// That is etcd, certificates, keys and configuration.
///
/// Runs `k0s backup` on a controller and streams the archive into a file of this machine; nothing stays on the host. The archive is
/// checked while it arrives and read back afterwards. It holds every secret of the cluster: set cluster.backup.recipients
/// to have it encrypted with age. Volumes and models are not part of it. `provision restore` brings it back.
#[derive(Args)]
#[command(after_help = "Examples:
  provision backup -i site.yaml                     into this user's state folder; older ones are removed by cluster.backup.keep
  provision backup -i site.yaml --to /srv/backups   into this folder
  provision backup -i site.yaml --list              lists the backups
  provision restore -i site.yaml FILE               restores one")]
pub(super) struct BackupCommand {
    #[command(flatten)]
    at: At,
    /// Use simulated hosts on this machine instead of the inventory's hosts
    #[arg(long)]
    lab: bool,
    /// The folder for backups (default: a folder in this user's state folder)
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The controller to back up (default: the first that is healthy)
    #[arg(long, value_name = "HOST")]
    from: Option<String>,
    /// List the backups in the folder instead of making one
    #[arg(long, conflicts_with = "from")]
    list: bool,
}

fn json(backup: &Backup) -> serde_json::Value {
    let mut value = serde_json::to_value(&backup.record).unwrap_or_default();
    value["file"] = serde_json::json!(backup.path);
    value
}

fn line(backup: &Backup) -> String {
    let record = &backup.record;
    let sealed = if record.recipients.is_empty() { "not encrypted" } else { "encrypted" };
    let created = record.created.strftime("%Y-%m-%d %H:%M:%SZ");
    format!(
        "{created}  {}  {}  {}  {sealed}  {}",
        record.host,
        record.k0s,
        HumanBytes(record.bytes),
        backup.path.display()
    )
}

impl BackupCommand {
    /// Makes a backup, or lists those that are there.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let place = Where { at: self.at, limit: None, lab: self.lab };
        let is_json = global.output == Output::Json;
        if self.list {
            // Files of this machine: no host is contacted, and no lab has to be up.
            let loaded = load(&place.inventory(), global)?;
            let folder = match self.to {
                Some(folder) => folder,
                None => backup_folder(&loaded.source, &loaded.inventory)?,
            };
            let all = backups_in(&folder, &loaded.inventory.name)?;
            match is_json {
                true => println!("{:#}", all.iter().map(json).collect::<serde_json::Value>()),
                false if all.is_empty() => {
                    eprintln!("No backups of {} in {}", loaded.inventory.name, folder.display())
                }
                false => all.iter().for_each(|backup| println!("{}", line(backup))),
            }
            return Ok(exit::DONE);
        }
        // In JSON there is one document, the result; what cannot wait goes to standard error.
        let session = Session::open(&place, global, Purpose::Look, !is_json).await?;
        if session.fleet.is_lab() && !global.quiet && !is_json {
            eprintln!("{LAB}");
        }
        let folder = match self.to {
            Some(folder) => folder,
            None => backup_folder(&session.fleet.source, &session.fleet.inventory)?,
        };
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let made = tokio::select! {
            made = session.fleet.backup(&folder, self.from.as_deref(), &session.events) => Some(made?),
            _ = int.recv() => None,
            _ = term.recv() => None,
        };
        let Some(made) = made else {
            session.end().await?;
            eprintln!("Stopped; no backup was kept");
            return Ok(exit::INTERRUPTED);
        };
        for old in &made.removed {
            session.events.note(format!("removed {}", old.display()));
        }
        session.end().await?;
        match is_json {
            true => {
                println!("{}", serde_json::json!({"backup": json(&made.backup), "removed": made.removed}))
            }
            false => println!("{}", made.backup.path.display()),
        }
        Ok(exit::DONE)
    }
}
