//! The file of contexts: names for the inventories that a user works with. Owns its form, and every mistake in it at its place.

use crate::fleet::{Error, MirrorPlace, coded};
use crate::inventory::{Diagnostic, Diagnostics, Entry, Node, SourceSpan, Value, document};
use crate::state::read_regular;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest file, in bytes.
const MOST_FILE: u64 = 256 << 10;
/// The longest name of a context, in bytes.
pub(super) const MOST_NAME: usize = 64;
/// The code of every mistake in the file.
const CODE: &str = "E-CONTEXT";
/// What a context has.
const FIELDS: [&str; 4] = ["inventory", "mirror", "policies", "allowOutside"];

/// What a user has configured.
#[derive(Default)]
pub(super) struct Config {
    /// What `-c` may name.
    pub contexts: BTreeMap<String, Context>,
}

/// What a name stands for. Paths are relative to the file, and may begin with `~/`.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// As `-i`.
    pub inventory: PathBuf,
    /// As `--mirror`: a folder or a URL.
    pub mirror: Option<MirrorPlace>,
    /// As `--policies`.
    pub policies: Option<String>,
    /// As `--allow-outside`.
    pub allow_outside: Vec<PathBuf>,
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
    let name = path.display().to_string();
    let wrong = |why: String| coded(CODE, format!("{name}: {why}"), "See `provision contexts --help`");
    let bytes = match read_regular(path, MOST_FILE) {
        Ok(bytes) => bytes,
        // The usual one need not exist; one that was named must.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named_file().is_none() => {
            return Ok(Config::default());
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8 text".to_owned()))?;
    if text.trim().is_empty() {
        return Ok(Config::default());
    }
    let none = Diagnostics { inventory: name.clone(), ..Diagnostics::default() };
    let mut reader = Reader { folder: path.parent().unwrap_or(Path::new(".")), found: Vec::new() };
    let config = reader.config(&document(&name, text).map_err(Error::Inventory)?);
    match reader.found.is_empty() {
        true => Ok(config),
        false => Err(Error::Inventory(none.with(reader.found))),
    }
}

/// Reads the tree of a file.
struct Reader<'a> {
    /// Where the file is.
    folder: &'a Path,
    found: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn error(&mut self, at: &SourceSpan, message: impl Into<String>, hint: impl Into<String>) {
        self.found.push(Diagnostic::error(CODE, message).at(at).hint(hint));
    }

    /// Returns the entries of a mapping that may have these keys; others are mistakes.
    fn entries<'n>(&mut self, node: &'n Node, what: &str, known: Option<&[&str]>) -> &'n [Entry] {
        let hint = known.map_or("a name for each".to_owned(), |known| known.join(", "));
        if !matches!(node.value, Value::Map(_)) {
            self.error(&node.span, format!("{what} is not a mapping"), format!("Use a mapping: {hint}"));
        }
        for Entry { key, span, .. } in node.entries() {
            if known.is_some_and(|known| !known.contains(&key.as_str())) {
                self.error(span, format!("unknown key `{key}`"), format!("Use one of {hint}"));
            }
        }
        node.entries()
    }

    fn config(&mut self, node: &Node) -> Config {
        let mut config = Config::default();
        // Comments alone are a file without contexts.
        if matches!(node.value, Value::Null) {
            return config;
        }
        self.entries(node, "the file", Some(&["contexts"]));
        let Some(contexts) = node.get("contexts").filter(|node| !matches!(node.value, Value::Null)) else {
            return config;
        };
        for Entry { key, span, node } in self.entries(contexts, "`contexts`", None) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if key.is_empty() || key.len() > MOST_NAME || !key.chars().all(plain) || key.starts_with('-') {
                let name: String = key.chars().take(MOST_NAME).collect();
                let hint = format!("Use 1 to {MOST_NAME} letters, digits, `.`, `_` and `-`");
                self.error(span, format!("`{name}` is not a name of a context"), hint);
            }
            if let Some(context) = self.context(key, node) {
                config.contexts.insert(key.clone(), context);
            }
        }
        config
    }

    fn context(&mut self, name: &str, node: &Node) -> Option<Context> {
        self.entries(node, &format!("context `{name}`"), Some(&FIELDS));
        let Some(inventory) = node.get("inventory") else {
            if matches!(node.value, Value::Map(_)) {
                self.error(
                    &node.span,
                    format!("context `{name}` has no `inventory`"),
                    "Add the path of its inventory",
                );
            }
            return None;
        };
        let inventory = self.text(inventory, "inventory");
        let mirror = node.get("mirror").and_then(|mirror| {
            let parsed = self.text(mirror, "mirror")?.parse::<MirrorPlace>();
            let why = |why: &String| self.error(&mirror.span, format!("`mirror`: {why}"), "Correct it");
            parsed.inspect_err(why).ok().map(|place| match place {
                MirrorPlace::Folder(folder) => MirrorPlace::Folder(self.beside(&folder)),
                url => url,
            })
        });
        // `REV:PATH` is in the git repository that a command runs in.
        let policies = node.get("policies").and_then(|policies| self.text(policies, "policies"));
        let policies = policies.map(|said| match said.contains(':') {
            true => said,
            false => self.beside(Path::new(&said)).to_string_lossy().into_owned(),
        });
        let mut allow_outside = Vec::new();
        if let Some(allowed) = node.get("allowOutside") {
            match &allowed.value {
                Value::List(folders) => {
                    let folders = folders.iter().filter_map(|folder| self.text(folder, "allowOutside"));
                    allow_outside = folders.collect();
                }
                _ => self.error(&allowed.span, "`allowOutside` is not a list", "Use [FOLDER, …]"),
            }
        }
        let allow_outside = allow_outside.iter().map(|folder| self.beside(Path::new(folder))).collect();
        Some(Context { inventory: self.beside(Path::new(&inventory?)), mirror, policies, allow_outside })
    }

    /// Returns a text that is not empty.
    fn text(&mut self, node: &Node, key: &str) -> Option<String> {
        let text = node.text().filter(|text| !text.is_empty());
        if text.is_none() {
            let what = if node.text().is_some() { "is empty" } else { "is not a text" };
            self.error(&node.span, format!("`{key}` {what}"), "Write a path, in quotes if it is unusual");
        }
        text
    }

    /// Returns a path of the file as others use it.
    fn beside(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), std::env::home_dir()) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.folder.join(path),
        }
    }
}
