//! Contexts: names for the inventories that a user works with, in a file of their own.
//!
//! `-c NAME` stands for what the file says under that name. There is no current context: a command that changes hosts would follow
//! what somebody chose in another window, and forgot.

use crate::fleet::{Error, MirrorPlace, coded, one_of};
use crate::state::plain_line;
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The largest file, in bytes.
const MOST_FILE: u64 = 256 << 10;
/// The longest name of a context, in bytes.
pub(super) const MOST_NAME: usize = 64;

/// What a user has configured.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// What `-c` may name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// What a name stands for. Paths are relative to the file, and may begin with `~/`.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Context {
    /// As `-i`.
    pub inventory: PathBuf,
    /// As `--mirror`: a folder or a URL.
    #[serde(default, deserialize_with = "mirror")]
    pub mirror: Option<MirrorPlace>,
    /// As `--policies`.
    pub policies: Option<String>,
    /// As `--allow-outside`.
    #[serde(default)]
    pub allow_outside: Vec<PathBuf>,
}

fn mirror<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MirrorPlace>, D::Error> {
    let said = Option::<String>::deserialize(from)?;
    said.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

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

/// Returns the path of the file: PROVISION_CONFIG, or `provision/config.yaml` in `$XDG_CONFIG_HOME` or `~/.config`.
pub(super) fn file() -> Result<PathBuf, Error> {
    let absolute = |path: PathBuf| Some(path).filter(|path| path.is_absolute());
    let usual = || {
        let base = std::env::var_os("XDG_CONFIG_HOME").and_then(|path| absolute(path.into()));
        let base = base.or_else(|| Some(std::env::home_dir().and_then(absolute)?.join(".config")));
        Some(base?.join("provision/config.yaml"))
    };
    named_file().or_else(usual).ok_or_else(|| {
        coded("E-USAGE", "no home folder is set, so there is no file of contexts", "Set PROVISION_CONFIG")
    })
}

fn named_file() -> Option<PathBuf> {
    std::env::var_os("PROVISION_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads a file of contexts; one that is not there has none.
pub(super) fn read(path: &Path) -> Result<Config, Error> {
    let wrong = |why: String| {
        coded("E-CONTEXT", format!("{}: {why}", path.display()), "See `provision contexts --help`")
    };
    let mut text = String::new();
    match std::fs::metadata(path).and_then(|found| match found.is_file() {
        true => std::fs::File::open(path),
        false => Err(std::io::Error::other("not a regular file")),
    }) {
        Ok(file) => file.take(MOST_FILE + 1).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?,
        // The usual one need not exist; one that was named must.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named_file().is_none() => {
            return Ok(Config::default());
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    if text.len() as u64 > MOST_FILE {
        return Err(wrong(format!("larger than {MOST_FILE} bytes")));
    }
    if text.trim().is_empty() {
        return Ok(Config::default());
    }
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    let mut config: Config = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|error| wrong(plain_line(&error.to_string()).into_owned()))?;
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    for name in config.contexts.keys() {
        if name.is_empty() || name.len() > MOST_NAME || !name.chars().all(known) || name.starts_with('-') {
            let name = plain_line(name).chars().take(MOST_NAME).collect::<String>();
            return Err(wrong(format!(
                "`{name}` is not a name of 1 to {MOST_NAME} letters, digits, `.`, `_` and `-`"
            )));
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    for (name, context) in &mut config.contexts {
        if context.inventory.as_os_str().is_empty() {
            return Err(wrong(format!("context `{name}` has an empty `inventory`")));
        }
        context.inventory = beside(folder, &context.inventory);
        for path in &mut context.allow_outside {
            *path = beside(folder, path);
        }
        if let Some(MirrorPlace::Folder(mirror)) = &mut context.mirror {
            *mirror = beside(folder, mirror);
        }
        // `REV:PATH` is in the git repository that a command runs in.
        if let Some(policies) = context.policies.as_mut().filter(|said| !said.contains(':')) {
            *policies = beside(folder, Path::new(&policies)).to_string_lossy().into_owned();
        }
    }
    Ok(config)
}

/// Returns a path of the file as others use it.
fn beside(folder: &Path, path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => folder.join(path),
    }
}
