//! Commands in messages, completed with what this command was given, so that they work as pasted: `provision apply` in a hint
//! becomes `provision apply -i site.yaml`. Messages come from modules that know nothing of a command line.

use crate::template::quote;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

/// How a command in a message begins.
const BEGINS: &str = "`provision ";
/// What messages write where an inventory has to be named.
const PLACEHOLDER: &str = "INVENTORY";

/// The arguments that a command takes of those that are repeated.
#[derive(Clone, Copy, Default)]
struct Takes {
    inventory: bool,
    /// It is an argument without a flag.
    positional: bool,
    lab: bool,
    /// It has commands of its own.
    parent: bool,
}

/// The arguments that this command was given.
#[derive(Default)]
struct Given {
    inventory: Option<String>,
    context: Option<String>,
    lab: bool,
}

static COMMANDS: OnceLock<BTreeMap<String, Takes>> = OnceLock::new();
static GIVEN: OnceLock<Given> = OnceLock::new();

fn commands(of: &Command, name: &str, found: &mut BTreeMap<String, Takes>) {
    for command in of.get_subcommands() {
        let name = format!("{name} {}", command.get_name()).trim_start().to_owned();
        let mut takes = Takes { parent: command.has_subcommands(), ..Takes::default() };
        for argument in command.get_arguments() {
            match argument.get_id().as_str() {
                "inventory" => (takes.inventory, takes.positional) = (true, argument.is_positional()),
                "lab" => takes.lab = true,
                _ => {}
            }
        }
        commands(command, &name, found);
        found.insert(name, takes);
    }
}

/// Remembers which commands there are.
pub(super) fn know(command: &Command) {
    let mut found = BTreeMap::new();
    commands(command, "", &mut found);
    let _ = COMMANDS.set(found);
}

/// Remembers the inventory that is named on the command line. What the environment and the current folder say holds for a command
/// that is pasted, too.
pub(super) fn remember(matches: &ArgMatches) {
    let (mut given, mut level) = (Given::default(), Some(matches));
    while let Some(here) = level {
        let on_line = |id: &str| {
            here.try_contains_id(id).is_ok() && here.value_source(id) == Some(ValueSource::CommandLine)
        };
        let text = |id: &str| {
            let raw = on_line(id).then(|| here.try_get_raw(id).ok().flatten()).flatten();
            raw.and_then(|mut values| Some(values.next()?.to_string_lossy().into_owned()))
        };
        given.inventory = text("inventory").or(given.inventory);
        given.context = text("context").or(given.context);
        given.lab |= on_line("lab");
        level = here.subcommand().map(|(_, inner)| inner);
    }
    if given.inventory.is_some() || given.context.is_some() {
        let _ = GIVEN.set(given);
    }
}

/// Remembers an inventory that something else than the command line names, such as a saved plan.
pub(super) fn remember_path(path: &Path, lab: bool) {
    let inventory = Some(path.display().to_string());
    let _ = GIVEN.set(Given { inventory, context: None, lab });
}

/// Returns a text with the commands in it completed.
pub(super) fn complete(text: &str) -> Cow<'_, str> {
    match (COMMANDS.get(), GIVEN.get()) {
        (Some(commands), Some(given)) if text.contains(BEGINS) => completed(text, commands, given).into(),
        _ => text.into(),
    }
}

fn completed(text: &str, commands: &BTreeMap<String, Takes>, given: &Given) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(BEGINS) {
        let Some((command, after)) = after.split_once('`') else { break };
        done += before;
        done += BEGINS;
        done += &with_place(command, commands, given).unwrap_or_else(|| command.to_owned());
        done.push('`');
        rest = after;
    }
    done + rest
}

/// Returns a command, without its `provision`, with the arguments that it lacks; `None` if it lacks none.
fn with_place(command: &str, commands: &BTreeMap<String, Takes>, given: &Given) -> Option<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let first = *words.first()?;
    let mut takes = *commands.get(first)?;
    let mut named = 1;
    if let Some(inner) =
        words.get(1).filter(|_| takes.parent).and_then(|next| commands.get(&format!("{first} {next}")))
    {
        (takes, named) = (*inner, 2);
    }
    let flag = match (&given.context, &given.inventory) {
        (Some(name), _) => format!("-c {}", quote(name)),
        (None, path) => format!("-i {}", quote(path.as_deref()?)),
    };
    let flag_at = words.windows(2).position(|pair| pair == ["-i", PLACEHOLDER]);
    let mut said: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    if let Some(at) = flag_at {
        said.splice(at..at + 2, [flag]);
        return Some(said.join(" "));
    }
    if !takes.inventory || words.iter().any(|word| matches!(*word, "-i" | "-c" | "--inventory" | "--context"))
    {
        return None;
    }
    if takes.positional {
        let at = words.iter().position(|word| *word == PLACEHOLDER)?;
        let place = given.inventory.as_deref().map(quote);
        said.splice(at..=at, [place.unwrap_or(flag)]);
        return Some(said.join(" "));
    }
    let lab = (given.lab && takes.lab && !words.contains(&"--lab")).then(|| "--lab".to_owned());
    said.splice(named..named, [flag].into_iter().chain(lab));
    Some(said.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn said(text: &str, given: &Given) -> String {
        let mut found = BTreeMap::new();
        commands(&super::super::Cli::command(), "", &mut found);
        completed(text, &found, given)
    }

    #[test]
    fn commands_in_messages_name_the_inventory_that_was_given() {
        let file = Given { inventory: Some("my site.yaml".to_owned()), ..Given::default() };
        for (text, wanted) in [
            ("Run `provision apply`, then wait", "Run `provision apply -i 'my site.yaml'`, then wait"),
            ("`provision reset w-3`", "`provision reset -i 'my site.yaml' w-3`"),
            ("`provision history show R h-1`", "`provision history show -i 'my site.yaml' R h-1`"),
            ("`provision lab down INVENTORY`", "`provision lab down 'my site.yaml'`"),
            (
                "`provision key create -i INVENTORY a --name N`",
                "`provision key create -i 'my site.yaml' a --name N`",
            ),
            ("`provision plan -i other.yaml`", "`provision plan -i other.yaml`"),
            ("`provision schema` and `provision init`", "`provision schema` and `provision init`"),
            ("`provision nothing` and `provision apply", "`provision nothing` and `provision apply"),
        ] {
            assert_eq!(said(text, &file), wanted);
        }
        let lab = Given { lab: true, ..Given { inventory: Some("s.yaml".to_owned()), ..Given::default() } };
        assert_eq!(said("`provision plan`", &lab), "`provision plan -i s.yaml --lab`");
        assert_eq!(said("`provision lock`", &lab), "`provision lock -i s.yaml`");
        let context = Given { context: Some("ams".to_owned()), ..Given::default() };
        assert_eq!(said("`provision attach`", &context), "`provision attach -c ams`");
    }

    #[test]
    fn completed_commands_parse() {
        let mut found = BTreeMap::new();
        commands(&super::super::Cli::command(), "", &mut found);
        let given = Given { inventory: Some("s.yaml".to_owned()), lab: true, ..Given::default() };
        let mut count = 0;
        for (command, arguments) in [
            ("apply", "--limit w-2"),
            ("reset", "w-3"),
            ("status", ""),
            ("history show", "RUN"),
            ("trust", "--replace"),
        ] {
            let line = with_place(&format!("{command} {arguments}"), &found, &given).expect("completed");
            let line = format!("provision {line}");
            assert_eq!(super::super::parses(line.split_whitespace()), Ok(()), "{line}");
            count += 1;
        }
        assert_eq!(count, 5);
    }
}
