//! `approve`: sign a saved plan.

use super::args::{Global, Output};
use super::errors::{coded, usage};
use super::prompt::confirm;
use super::{exit, plan};
use crate::fleet::{Approvable, Error, LONGEST, approve, usual_key};
use crate::plan::load;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Approve a saved plan with your SSH key
///
/// Shows the plan, asks, and signs the sha256 of its file with `ssh-keygen -Y sign`. The approval is a file in FILE.approvals/
/// and holds for exactly this plan. `apply FILE --require-approvals N` counts people: one person with two keys is one, and who
/// wrote the last commit of the inventory does not count.
#[derive(Args)]
#[command(after_help = "Examples:
  provision approve plan.json
  provision approve plan.json --key ~/.ssh/id_ed25519.pub      with the agent's key
  provision approve plan.json --hours 2 --yes

An approvers file has one line per key, as in ssh-keygen(1) under ALLOWED SIGNERS:
  ada@example.net ssh-ed25519 AAAA…
  bob@example.net valid-before=\"20271231\" ssh-ed25519 AAAA…")]
pub(super) struct Approve {
    /// A plan saved by `plan -o`
    plan: PathBuf,
    /// The private key, or a public key whose private key is in the agent (default: the first of ~/.ssh/id_*)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How many hours the approval is valid
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=LONGEST.as_secs() / 3600))]
    hours: u64,
    /// Skip the confirmation prompt
    #[arg(long, short)]
    yes: bool,
}

impl Approve {
    /// Shows, asks, signs.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (saved, digest) = load(&self.plan).map_err(Error::from)?;
        if saved.sources.is_none() {
            let message = format!("{} does not contain its inventory", self.plan.display());
            return Err(coded("E-PLAN", message, "Save a plan with `provision plan -o FILE`"));
        }
        let home = std::env::home_dir();
        let Some(key) = self.key.or_else(|| usual_key(home.as_deref()?)) else {
            return Err(usage("no SSH key in ~/.ssh", "Name one with --key"));
        };
        let commit = saved.sources.as_ref().and_then(|s| s.commit.as_ref());
        if global.output != Output::Json {
            plan::print(&saved, global, false, None, String::new());
        }
        if saved.steps() == 0 {
            eprintln!("Nothing to approve");
            return Ok(exit::DONE);
        }
        if let Some(line) = plan::commit_line(&saved) {
            eprintln!("{line}");
        }
        if !self.yes && !confirm("Approve this plan?", "Review the plan, then add --yes")? {
            eprintln!("Not approved");
            return Ok(exit::PENDING);
        }
        let approvable =
            Approvable { path: &self.plan, digest: &digest, inventory: &saved.inventory, commit };
        let written = approve(&approvable, &key, Duration::from_secs(self.hours * 3600))?;
        match global.output {
            Output::Json => {
                println!("{}", serde_json::json!({"plan": digest, "approval": written, "hours": self.hours}))
            }
            _ => eprintln!("Approved for {} h: {}", self.hours, written.display()),
        }
        Ok(exit::DONE)
    }
}
