//! `restore`: the cluster as it was in a backup.

use super::apply::{carry_out, print_end};
use super::args::{At, Global, Output, Where};
use super::errors::usage;
use super::policy::PolicyArgs;
use super::prompt::confirm;
use super::reset::print_refused;
use super::session::{Session, source};
use super::{exit, plan};
use crate::fleet::{Purpose, Restore, Selection, backups_in};
use crate::inventory::AGE_IDENTITY;
use crate::run::KillAt;
use clap::Args;
use std::path::{Path, PathBuf};

/// Restore the cluster from a backup
///
/// Plans like `apply`, with one more step: the first controller gets the backup before its k0s first starts. Other controllers
/// and workers join it. Refused while a controller has a control plane or cannot be reached: `destroy` comes first.
/// An interrupted restore is continued by the same command. Configuration comes from the inventory, not from
/// the backup.
#[derive(Args)]
#[command(after_help = "Examples:
  provision restore -i site.yaml FILE --dry-run                 shows the plan only; exit 2
  provision restore -i site.yaml /srv/backups                   the newest in this folder
  provision restore -i site.yaml FILE                           asks for confirmation
  provision restore -i site.yaml FILE.age --identity age.key    an encrypted one
  provision backup -i site.yaml --list                          lists the backups")]
pub(super) struct RestoreCommand {
    /// A backup file, or a folder: the newest backup of this inventory in it
    file: PathBuf,
    #[command(flatten)]
    at: At,
    /// Use simulated hosts on this machine instead of the inventory's hosts
    #[arg(long)]
    lab: bool,
    /// The age identity file of an encrypted backup (default: PROVISION_AGE_IDENTITY)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Show the plan and change nothing; exit 2 if there is anything to do
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Skip the confirmation prompt
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    policy: PolicyArgs,
    /// For tests: kill@N or kill@TRANSITION kills this process right after that record of the journal
    #[arg(long, value_name = "FAULT", hide = true)]
    fault: Option<KillAt>,
}

impl RestoreCommand {
    /// Checks the backup, plans, asks for confirmation, restores.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let judge = self.policy.read()?;
        let identity = self.identity.or_else(|| std::env::var_os(AGE_IDENTITY).map(PathBuf::from));
        let place = Where { at: self.at, limit: None, lab: self.lab };
        let source = source(&place.inventory(), global);
        let file = match self.file.is_dir() {
            true => newest(&self.file, &source.load()?.inventory.name)?,
            false => self.file,
        };
        let restore = Restore::read(&file, identity.as_deref())?;
        if restore.record.is_none() && !global.quiet {
            eprintln!(
                "warning: the backup has no record (.json), so its k0s version and its cluster cannot be checked"
            );
        }
        let selection = Selection { restore: Some(restore), ..place.selection(&[]) };
        let mut session = Session::of(&source, &selection, global, Purpose::Change, !self.dry_run).await?;
        let (mut plan, took, refused) = session.fleet.plan_to_restore(&session.events).await?;
        if !refused.is_empty() {
            session.end().await?;
            print_refused(&refused, global);
            return Ok(exit::REFUSED);
        }
        if global.output != Output::Json || self.dry_run {
            plan::print(&plan, global, false, Some(took), String::new());
            if global.output != Output::Json && plan.steps() > 0 {
                eprintln!("Objects that are in the backup are restored, not created");
            }
        }
        if plan.steps() > 0 && judge.stops(&session.fleet, &mut plan, "restore", global)? {
            session.end().await?;
            return Ok(exit::REFUSED);
        }
        if self.dry_run {
            session.end().await?;
            return Ok(plan.exit_code());
        }
        let mut code = exit::DONE;
        if plan.steps() > 0 {
            if !self.yes && !confirm("Restore this?", "Review the plan with --dry-run, then add --yes")? {
                session.end().await?;
                eprintln!("Not restored; nothing was changed");
                return Ok(exit::PENDING);
            }
            session.fleet.describe_run(judge.about("restore"));
            let report = carry_out(&session.fleet, &plan, session.events.clone(), self.fault).await?;
            code = report.exit_code();
            let (fleet, shown) = session.settle().await;
            print_end(&fleet, &report, &shown, (&place, false), true, global);
            if code != exit::DONE {
                eprintln!(
                    "next: Fix the failures and run the same restore again; completed steps are skipped"
                );
                fleet.close()?;
                return Ok(code);
            }
            compared(fleet.restored().await?, global);
            fleet.close()?;
        } else {
            let cluster = session.fleet.restored().await?;
            session.end().await?;
            eprintln!(
                "Nothing to do: an earlier run restored this backup; changes made in the cluster since then are kept"
            );
            eprintln!("  = next: To go back to the backup, run `provision destroy` first");
            compared(cluster, global);
        }
        Ok(code)
    }
}

/// Returns the newest backup of an inventory in a folder.
fn newest(folder: &Path, inventory: &str) -> anyhow::Result<PathBuf> {
    let found = backups_in(folder, inventory)?.into_iter().next();
    let none = || {
        let message = format!("no backup of {inventory} in {}", folder.display());
        usage(&message, "List what is there with `provision backup --list --to DIR`")
    };
    Ok(found.ok_or_else(none)?.path)
}

/// Says what the cluster was compared with.
fn compared(cluster: Option<String>, global: &Global) {
    if !global.quiet && global.output != Output::Json {
        match cluster {
            Some(uid) => eprintln!("The restored cluster matches the backup (uid {uid})"),
            None => eprintln!(
                "The cluster could not be compared with the backup, because the backup has no record of its cluster"
            ),
        }
    }
}
