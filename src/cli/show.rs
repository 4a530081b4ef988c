//! `show`: a saved plan, without contacting anything.

use super::args::{Global, Output};
use super::{exit, plan};
use crate::fleet::Error;
use crate::plan::load;
use crate::state::plain_line;
use clap::Args;
use std::path::PathBuf;

/// Show a saved plan without contacting hosts
///
/// Prints what `plan` printed when the file was saved, the sha256 that approvals are of, the commit of the inventory, and what
/// carrying it out reads besides. Safe with a file from somebody else: nothing in it is run.
#[derive(Args)]
#[command(after_help = "Examples:
  provision show plan.json
  provision show plan.json --hosts              every host separately
  provision show plan.json --output json")]
pub(super) struct Show {
    /// A plan saved by `plan -o`
    plan: PathBuf,
    /// List every host separately
    #[arg(long)]
    hosts: bool,
}

impl Show {
    /// Prints it.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (saved, digest) = load(&self.plan).map_err(Error::from)?;
        plan::print(&saved, global, self.hosts, None, String::new());
        if global.output != Output::Json {
            screen!("\n  sha256: {digest}\n");
            if let Some(line) = plan::commit_line(&saved) {
                screen!("  {line}\n");
            }
            for needed in saved.sources.iter().flat_map(|sources| &sources.needs) {
                screen!("  Needs {}\n", plain_line(needed));
            }
        }
        Ok(exit::DONE)
    }
}
