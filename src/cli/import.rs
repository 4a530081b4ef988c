//! `import`: an inventory to start from, made of another tool's. The inventory goes to stdout, what was left out to stderr.

use super::args::{Global, Output};
use super::exit;
use crate::fleet::{Import, ImportResult, formats, read_column};
use crate::import::{NoteKind, note_lines};
use crate::report::count;
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use std::path::PathBuf;

/// Convert another tool's inventory to one to start from
///
/// Reads Ansible inventories (INI or YAML, with group_vars/ and host_vars/ beside them), k0sctl.yaml, ssh configurations, SSH
/// node pools of SkyPilot, and CSV tables. Nothing in them is run or followed, and secrets are not copied. What was left out,
/// and what you have to fill in, is printed with its file and line.
#[derive(Args)]
#[command(after_help = "Examples:
  provision import inventory/hosts.ini > site.yaml
  provision import ~/.ssh/config --name ams > site.yaml
  provision import assets.csv --column address=\"Mgmt IP\" --column product=Card > site.yaml
  provision import k0sctl.yaml --output json")]
pub(super) struct ImportCommand {
    /// The file
    file: PathBuf,
    /// Its format [default: as its content says]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(formats()))]
    from: Option<String>,
    /// Which column of a CSV file holds what: name, address, clusterAddress, user, port, role, pool, rack, bmc, serial, product or
    /// count [default: as its name says]
    #[arg(long, value_name = "WHAT=HEADER", value_parser = read_column)]
    column: Vec<(String, String)>,
    /// The cluster's name
    #[arg(long)]
    name: Option<String>,
}

impl ImportCommand {
    /// Prints the inventory, and what a person should know of it.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let import = Import { path: self.file, format: self.from, columns: self.column, name: self.name };
        let path = import.path.display().to_string();
        let result = import.run()?;
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&as_json(&result))?);
            return Ok(exit::DONE);
        }
        print!("{}", result.inventory);
        if !global.quiet {
            let (hosts, pools) = (count(result.hosts, "host"), count(result.pools, "pool"));
            eprintln!("{path} is {}: {hosts} in {pools}\n", result.said);
            note_lines(&result.notes).iter().for_each(|line| eprintln!("{line}"));
            let gaps = result.notes.iter().filter(|note| note.kind == NoteKind::FillIn).count();
            if gaps > 0 {
                eprintln!(
                    "\nnext: search for FILL IN ({}), then run `provision validate`",
                    count(gaps, "place")
                );
            }
        }
        Ok(exit::DONE)
    }
}

fn as_json(result: &ImportResult) -> serde_json::Value {
    let notes = result.notes.iter().map(|note| {
        let place = note.place.as_ref();
        json!({
            "kind": note.kind,
            "file": place.map(|place| place.file.to_string()),
            "line": place.map(|place| place.line),
            "what": note.what,
            "why": note.why,
        })
    });
    let findings =
        result.findings.all.iter().map(|found| json!({"code": found.code, "message": found.message}));
    json!({
        "format": result.format,
        "inventory": result.inventory,
        "hosts": result.hosts,
        "pools": result.pools,
        "notes": notes.collect::<Vec<_>>(),
        "findings": findings.collect::<Vec<_>>(),
    })
}
