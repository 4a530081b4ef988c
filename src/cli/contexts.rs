//! `contexts`: what `-c` may name.

use super::args::{Global, Output};
use super::context_file::{Context, MOST_NAME, file, read};
use super::exit;
use crate::report::{Columns, Last, columns};
use crate::state::plain_line;
use clap::Args;

/// List the contexts that `-c` may name
///
/// A context is a name for an inventory and the flags that go with it. The file of contexts is
/// ~/.config/provision/config.yaml, or the one that PROVISION_CONFIG names:
///
///   contexts:
///     prod:
///       inventory: ~/fleet/inventories/prod   # as -i; relative to this file
///       mirror: /srv/bundle                   # as --mirror (optional)
///       policies: main:policies               # as --policies (optional)
///       allowOutside: [~/fleet/shared]        # as --allow-outside (optional)
///
/// There is no current context: each command names one, or PROVISION_CONTEXT does.
/// Flags override the context; -i overrides PROVISION_CONTEXT, and -c overrides PROVISION_INVENTORY.
#[derive(Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "Examples:
  provision contexts                              the names, and where their inventories are
  provision -c prod plan                          what would change there
  PROVISION_CONTEXT=prod provision status         for a whole shell or a CI job")]
pub(super) struct Contexts {}

impl Contexts {
    /// Lists them.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let path = file()?;
        let config = read(&path)?;
        if global.output == Output::Json {
            let all: Vec<_> = config
                .contexts
                .iter()
                .map(|(name, c)| {
                    serde_json::json!({"name": name, "inventory": c.inventory, "mirror": c.mirror.as_ref().map(ToString::to_string),
                        "policies": c.policies, "allowOutside": c.allow_outside})
                })
                .collect();
            println!(
                "{}",
                serde_json::to_string_pretty(&serde_json::json!({"file": path, "contexts": all}))?
            );
        } else if config.contexts.is_empty() {
            eprintln!("{} has no contexts", path.display());
            eprintln!("next: `provision contexts --help` shows how to write one");
        } else {
            let header = ["CONTEXT", "INVENTORY"].map(str::to_owned).to_vec();
            let row = |(name, context): (&String, &Context)| {
                let inventory = context.inventory.display().to_string();
                vec![name.clone(), plain_line(&inventory).into_owned()]
            };
            let rows: Vec<_> = std::iter::once(header).chain(config.contexts.iter().map(row)).collect();
            let layout = Columns { indent: 0, most: &[MOST_NAME], below: 3, last: Last::Wrap };
            print!("{}", layout.rows(&rows, columns(std::io::stdout())).concat());
        }
        Ok(exit::DONE)
    }
}
