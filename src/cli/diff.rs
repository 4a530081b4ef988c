//! `diff`: compare two inventories without contacting hosts.

use super::args::{Global, Output};
use super::errors::coded;
use super::exit;
use super::session::{print_findings, print_findings_only};
use crate::fleet::{CompareError, Comparison, compare_inventories, policies_at, policy_findings};
use crate::plan::PolicyReport;
use crate::report::{comparison_markdown, comparison_text};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Compare two inventories without contacting hosts; exit 2 if they differ
///
/// Each side is a file, a folder whose files merge, or REV:PATH of the git repository here: a branch, a tag or a commit,
/// and a path as seen from here; a path with a colon begins with `./`. Bases (`extends`), host lists (`hostsFrom`) and a catalog next to the inventory are read
/// from the same side. Shown are hosts that come, go and change, and how far it reaches: drains, reboots, restarts, the
/// capacity that stays while it is carried out, and models that lose replicas for a time.
#[derive(Args)]
#[command(after_help = "Examples:
  provision diff old.yaml new.yaml
  provision diff main:site site                       a git revision against the working tree
  provision diff v1.4:site v1.5:site
  provision diff main..HEAD site                      the same path at two revisions
  provision diff origin/main:site site --output markdown > comment.md     for a pull request

Exit codes: 0 no differences, 1 an inventory is invalid or the change cannot be applied, 2 differences,
3 refused by policy.")]
pub(super) struct Diff {
    /// Before: a file, a folder, or REV:PATH in this git repository; REV..REV compares the path AFTER at both
    before: String,
    /// After: the same, or a path at both revisions
    after: String,
    /// Policies instead of those in policies/ next to the inventory BEFORE: a folder, a file, or REV:PATH in this git repository
    #[arg(long, value_name = "PATH", env = "PROVISION_POLICIES", hide_env_values = true)]
    policies: Option<String>,
}

impl Diff {
    /// Compares and prints.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let policies =
            self.policies.as_deref().filter(|said| !said.is_empty()).map(policies_at).transpose()?;
        let compared =
            compare_inventories(&self.before, &self.after, &global.allow_outside, policies.as_ref());
        let Comparison { diff, policies } = match compared {
            Ok(comparison) => comparison,
            Err(CompareError::Unreadable(error)) => return Err(error.into()),
            Err(CompareError::Invalid(said, found)) => {
                print_findings(&found);
                let hint = "Fix the errors above; `provision validate -i PATH` checks a single inventory";
                return Err(coded("E-INVENTORY", format!("{said} is invalid"), hint));
            }
        };
        match global.output {
            Output::Text | Output::Github => screen!("{}", comparison_text(&diff)),
            Output::Markdown => print!("{}", comparison_markdown(&diff)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&diff)?),
        }
        if let Some(report) = &diff.policy {
            print_findings_only(&policy_findings(&policies, report, None));
        }
        let summary = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty());
        if let Some(path) = summary.filter(|_| global.output == Output::Github).map(PathBuf::from) {
            let file = std::fs::File::options().append(true).create(true).open(path);
            file.and_then(|mut file| file.write_all(comparison_markdown(&diff).as_bytes()))?;
        }
        Ok(match () {
            () if diff.policy.as_ref().is_some_and(PolicyReport::is_denied) => exit::REFUSED,
            () if !diff.errors.is_empty() => exit::FAILED,
            () if diff.is_empty() => exit::DONE,
            () => exit::PENDING,
        })
    }
}
