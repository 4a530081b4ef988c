//! Contexts: which of the names in the file of contexts a command is given, by `-c` or PROVISION_CONTEXT.
//!
//! There is no current context: a command that changes hosts would follow what somebody chose in another window, and forgot.

use super::context_file::{Context, file, read};
use crate::fleet::{Error, coded, one_of};
use crate::state::plain_line;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The context of this process.
struct Chosen {
    name: String,
    context: Context,
    /// By `-c`, not by the environment.
    by_flag: bool,
}

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

/// Returns the inventory that is meant where no `-i` is given: that of the context, or what PROVISION_INVENTORY names.
pub(super) fn usual_inventory() -> Option<PathBuf> {
    let environment = || std::env::var_os("PROVISION_INVENTORY").filter(|path| !path.is_empty());
    let context = CHOSEN.get().map(|chosen| chosen.context.inventory.clone());
    context.or_else(|| environment().map(PathBuf::from))
}

/// Returns the name of the context.
pub(super) fn name() -> Option<&'static str> {
    CHOSEN.get().map(|chosen| chosen.name.as_str())
}

/// Returns the inventory that `-c` names. Like `-i`, it has to be the one of a saved plan.
pub(super) fn named_inventory() -> Option<PathBuf> {
    CHOSEN.get().filter(|chosen| chosen.by_flag).map(|chosen| chosen.context.inventory.clone())
}

/// Returns the policies of the context.
pub(super) fn usual_policies() -> Option<String> {
    CHOSEN.get()?.context.policies.clone()
}

/// Reads the context that the command line or PROVISION_CONTEXT names.
pub(super) fn choose(name: Option<&str>, matches: &ArgMatches) -> Result<Option<&'static Context>, Error> {
    let by_flag = given(matches, "context");
    let Some(name) = name.filter(|name| by_flag || !name.is_empty()) else { return Ok(None) };
    if name.is_empty() {
        return Err(coded(
            "E-USAGE",
            "-c has an empty name",
            "Name a context; `provision contexts` lists them",
        ));
    }
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut level = Some(matches);
    let (mut takes_inventory, mut names_inventory) = (false, false);
    while let Some(here) = level {
        takes_inventory |= here.try_contains_id("inventory").is_ok();
        names_inventory |= given(here, "inventory");
        level = here.subcommand().map(|(_, inner)| inner);
    }
    if by_flag {
        let lab = matches.subcommand_matches("lab").and_then(ArgMatches::subcommand_name);
        if let Some(command @ ("ssh" | "fault")) = lab {
            // Their first argument is the inventory, and cannot be left out.
            let hint = match command {
                "ssh" => "Name the inventory instead: provision lab ssh INVENTORY HOST",
                _ => "Name the inventory instead: provision lab fault INVENTORY HOST=KIND",
            };
            return Err(coded("E-USAGE", format!("`lab {command}` does not accept -c"), hint));
        }
        if names_inventory {
            return Err(coded("E-USAGE", "-c and an inventory are both given", "Omit one of them"));
        }
    } else if names_inventory || !takes_inventory {
        return Ok(None);
    } else if set("PROVISION_INVENTORY") {
        let message = "PROVISION_CONTEXT and PROVISION_INVENTORY are both set";
        return Err(coded("E-USAGE", message, "Unset one of them, or choose with -c or -i"));
    }
    let path = file()?;
    let config = read(&path)?;
    let Some(context) = config.contexts.get(name) else {
        let names: Vec<String> = config.contexts.keys().cloned().collect();
        let hint = match names.is_empty() {
            true => "`provision contexts --help` shows how to write one".to_owned(),
            false => one_of(&names),
        };
        let message = format!("{} has no context `{}`", path.display(), plain_line(name));
        return Err(coded("E-CONTEXT", message, hint));
    };
    let chosen = || Chosen { name: name.to_owned(), context: context.clone(), by_flag };
    Ok(Some(&CHOSEN.get_or_init(chosen).context))
}

/// Whether an argument is on the command line of this level.
fn given(matches: &ArgMatches, name: &str) -> bool {
    let source = matches.try_contains_id(name).is_ok().then(|| matches.value_source(name)).flatten();
    source == Some(ValueSource::CommandLine)
}
