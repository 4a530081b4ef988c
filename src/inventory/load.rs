//! From files to an inventory: reading, `extends`, merging, checking shapes by the table of keys. Collects all errors.

use super::diagnostic::{Diagnostic, Diagnostics, Problems, Source, SourceSpan};
use super::files::{Disk, Files, parent, texts, tidy};
use super::keys::{Key, TOP, Type};
use super::model::Inventory;
use super::tree::{Budget, Node, Value, merge, parse};
use super::written::{leaves, place};
use super::{build, reader};
use crate::catalog::{Catalog, CatalogError};
use crate::state::plain_line;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Layers that may be laid on one another.
const MOST_LAYERS: usize = 16;

/// An inventory that can be used, and what a person should know of it.
#[derive(Debug)]
pub struct Loaded {
    /// The inventory.
    pub inventory: Inventory,
    /// Warnings.
    pub diagnostics: Diagnostics,
}

/// Loads an inventory from disk, and nothing outside its folder or repository.
pub fn load(path: &Path, catalog: &Catalog) -> Result<Loaded, Diagnostics> {
    match Disk::of(path, &[]) {
        Ok(disk) => load_from(&disk, path, catalog),
        Err(error) => Err(no_disk(path, &error)),
    }
}

/// Returns the error for an inventory folder that cannot be read.
pub fn no_disk(path: &Path, error: &std::io::Error) -> Diagnostics {
    let mut problems = Problems::default();
    let said = error.to_string();
    let (message, hint) = match said.starts_with("--allow-outside") {
        true => (said, "Name an existing folder"),
        false => (format!("cannot read {said}"), NAME_ONE),
    };
    problems.push(Diagnostic::error("E-READ", message).hint(hint));
    problems.of(path.display().to_string())
}

const NAME_ONE: &str =
    "Name a file or a folder of *.yaml files with -i PATH; create one with `provision init`";

/// Returns the built-in catalog with the rows of the files in `catalog/` next to an inventory.
pub fn catalog_beside(files: &dyn Files, path: &Path) -> Result<Catalog, CatalogError> {
    let folder = root_of(files, path).join("catalog");
    let is_yaml = |path: &Path| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let flat = |path: &Path| path.components().count() == 1 && is_yaml(path);
    let rows = texts(files, &folder, flat).map_err(|(path, source)| CatalogError::Read { path, source })?;
    let rows = rows.into_iter().filter(|(path, _)| flat(path));
    Catalog::extended(rows.map(|(path, text)| (folder.join(path), text)))
}

/// Returns the folder that an inventory's relative paths start from.
pub(super) fn root_of(files: &dyn Files, path: &Path) -> PathBuf {
    if files.is_folder(path) { path.to_owned() } else { parent(path).to_owned() }
}

/// Loads an inventory from anywhere.
pub fn load_from(files: &dyn Files, path: &Path, catalog: &Catalog) -> Result<Loaded, Diagnostics> {
    let mut problems = Problems::default();
    let root = root_of(files, path);
    let inventory = tree(files, path, &mut problems).and_then(|node| {
        section(&node, TOP, "the inventory", &mut problems);
        build::build(files, &root, &node, catalog, &mut problems)
    });
    let diagnostics = problems.of(path.display().to_string());
    match inventory {
        Some(inventory) if diagnostics.errors() == 0 => Ok(Loaded { inventory, diagnostics }),
        _ => Err(diagnostics),
    }
}

/// Returns where each value came from: `pools.h100.role = worker   file:line`.
pub fn explain(files: &dyn Files, path: &Path, key: &str) -> Result<String, Diagnostics> {
    let mut problems = Problems::default();
    let inventory = path.display().to_string();
    let node = tree(files, path, &mut problems);
    let Some(node) = node.filter(|_| problems.is_empty()) else { return Err(problems.of(inventory)) };
    let mut at = &node;
    for part in key.split('.').filter(|p| !p.is_empty()) {
        match at.get(part) {
            Some(next) => at = next,
            None => {
                let known: Vec<&str> = at.entries().iter().map(|e| e.key.as_str()).collect();
                problems.push(
                    Diagnostic::error("E-NO-VALUE", format!("no value at `{key}`: `{part}` does not exist"))
                        .hint(format!("Use one of {}", known.join(", "))),
                );
                return Err(problems.of(inventory));
            }
        }
    }
    let mut lines = String::new();
    leaves(key.trim_matches('.'), at, &mut |path, node| {
        let place = place(&node.span);
        lines.push_str(&format!(
            "{} = {}   {}\n",
            plain_line(path),
            node.json_as_written(),
            plain_line(&place)
        ));
    });
    Ok(lines)
}

/// Reads and merges all layers.
fn tree(files: &dyn Files, path: &Path, problems: &mut Problems) -> Option<Node> {
    layer(files, path, None, &mut Vec::new(), &mut Budget::default(), problems)
}

/// Reads one layer: a file, or a folder whose files merge, laid on what it extends. `named` is where `extends` names it.
fn layer(
    files: &dyn Files,
    path: &Path,
    named: Option<&SourceSpan>,
    above: &mut Vec<PathBuf>,
    left: &mut Budget,
    problems: &mut Problems,
) -> Option<Node> {
    let path = tidy(path);
    let at = |problem: Diagnostic| match named {
        Some(span) => problem.at(span),
        None => problem,
    };
    if above.len() > MOST_LAYERS {
        let message = format!("more than {MOST_LAYERS} inventories extend each other");
        problems.push(at(Diagnostic::error("E-EXTENDS", message)).hint("Merge some of them"));
        return None;
    }
    if above.contains(&path) {
        problems.push(
            at(Diagnostic::error("E-EXTENDS", format!("{} extends itself", path.display())))
                .hint("Remove one `extends`: an inventory cannot extend itself"),
        );
        return None;
    }
    let unreadable = |path: &Path, error: &std::io::Error| {
        let hint = match named {
            _ if error.kind() == std::io::ErrorKind::PermissionDenied => {
                "Move it inside, `git add` it, or use --allow-outside DIR; links are resolved first"
            }
            Some(_) => "Set extends to a file or a folder, relative to this file's folder",
            None => NAME_ONE,
        };
        at(Diagnostic::error("E-READ", format!("cannot read {}: {error}", path.display()))).hint(hint)
    };
    let paths = if files.is_folder(&path) {
        match files.list(&path) {
            Ok(paths) => paths.into_iter().filter(|p| is_part(&path, p)).collect(),
            Err(error) => {
                problems.push(unreadable(&path, &error));
                return None;
            }
        }
    } else {
        vec![path.clone()]
    };
    if paths.is_empty() {
        problems.push(
            at(Diagnostic::error("E-READ", format!("no *.yaml file in {}", path.display())))
                .hint("Create one with `provision init > site.yaml`"),
        );
        return None;
    }
    let mut merged: Option<Node> = None;
    for file in &paths {
        let text = match files.read(file) {
            Ok(text) => text,
            Err(error) => {
                problems.push(unreadable(file, &error));
                continue;
            }
        };
        let quotable = is_inventory_text(&text);
        let source = Arc::new(Source { name: file.display().to_string(), text, quotable });
        if let Some(node) = parse(&source, left, problems) {
            // A file without a word in it takes no part in a merge.
            if matches!(node.value, Value::Null) && paths.len() > 1 {
                continue;
            }
            if !is_inventory(&node) {
                let known: Vec<&str> = TOP.iter().map(|k| k.name).collect();
                let message = format!("{} is not an inventory", file.display());
                let hint = format!("Use a mapping with keys such as {}", known.join(", "));
                problems.push(at(Diagnostic::error("E-NOT-INVENTORY", message)).hint(hint));
                continue;
            }
            match &mut merged {
                Some(base) => merge(base, node),
                None => merged = Some(node),
            }
        }
    }
    let node = merged?;
    let Some((base, span)) = node.get("extends").and_then(|n| Some((n.text()?, n.span.clone()))) else {
        return Some(node);
    };
    let from = root_of(files, &path);
    above.push(path);
    let mut under = layer(files, &from.join(base), Some(&span), above, left, problems)?;
    above.pop();
    merge(&mut under, node);
    Some(under)
}

/// Returns whether a file of an inventory's folder is a part of it. Folders inside hold roles, catalog rows, and what `extends`
/// names: a base that were a part as well would override what is laid on it.
fn is_part(folder: &Path, file: &Path) -> bool {
    let inside = file.strip_prefix(folder).unwrap_or(file);
    inside.components().count() == 1 && file.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

/// Returns whether a key is one of an inventory's, or so near to one that it must be a slip.
fn is_top_key(key: &str) -> bool {
    TOP.iter().any(|k| k.name == key || strsim::osa_distance(k.name, key) <= 1 && key.len() > 3)
}

/// Returns whether a document is an inventory or a part of one, however faulty. Nothing of another file is ever shown.
fn is_inventory(node: &Node) -> bool {
    let kind = node.get("kind").and_then(Node::text);
    match &node.value {
        Value::Null => true,
        Value::Map(entries) => {
            let ours =
                node.get("apiVersion").and_then(Node::text).is_some_and(|v| v.starts_with("provision/"));
            ours || kind.is_none_or(|kind| kind == "Inventory") && entries.iter().any(|e| is_top_key(&e.key))
        }
        _ => false,
    }
}

/// Returns the same of a text that may be no YAML at all, from the lines that begin with a key.
fn is_inventory_text(text: &str) -> bool {
    let keys = || text.lines().filter_map(|line| line.split_once(':'));
    let other = |(key, value): (&str, &str)| key == "kind" && !value.trim().starts_with("Inventory");
    let ours = |(key, value): (&str, &str)| key == "apiVersion" && value.trim().starts_with("provision/");
    keys().any(ours) || keys().any(|(key, _)| is_top_key(key)) && !keys().any(other)
}

/// Refuses a value of another type than its key has; `what` is the key, or what is said of it.
fn wrong(node: &Node, what: &str, wanted: &str, problems: &mut Problems) {
    let hint = match (wanted, &node.value) {
        ("a list", Value::Text(text)) => format!("Write it as a list with one entry: [{text}]"),
        ("a list", _) => "Write it as [one, two], or with `- ` before each entry".to_owned(),
        ("a mapping", _) => "Write it as {key: value}, or with its keys indented below it".to_owned(),
        ("text", Value::Bool { written, .. }) => format!("Put it in quotes: \"{written}\""),
        ("text", _) => "Use one word, or text in quotes".to_owned(),
        ("a whole number", _) => "Use digits only, such as 8".to_owned(),
        _ => "Run `provision schema` to see the type of each key".to_owned(),
    };
    // A sentence about entries is no name of a key.
    let what = if what.contains(' ') { what.to_owned() } else { format!("`{what}`") };
    let message = match &node.value {
        Value::Null => format!("{what} must be {wanted}, and is empty"),
        _ => format!("{what} must be {wanted}, not {}", node.kind()),
    };
    problems.push(Diagnostic::error("E-TYPE", message).at(&node.span).hint(hint));
}

/// Checks a tree against the table of keys.
fn section(node: &Node, keys: &[Key], what: &str, problems: &mut Problems) {
    let Value::Map(entries) = &node.value else {
        if !matches!(node.value, Value::Null) || keys.iter().any(|k| k.required) {
            wrong(node, what, "a mapping", problems);
        }
        return;
    };
    for entry in entries {
        let Some(key) = keys.iter().find(|k| k.name == entry.key) else {
            let names: Vec<&str> = keys.iter().map(|k| k.name).collect();
            let near = names
                .iter()
                .map(|n| (strsim::osa_distance(&n.to_lowercase(), &entry.key.to_lowercase()), *n))
                .min()
                .filter(|(distance, name)| *distance <= (name.len() / 2).clamp(1, 3));
            let mut problem = Diagnostic::error("E-UNKNOWN-KEY", format!("unknown key `{}`", entry.key))
                .at(&entry.span)
                .label(format!("Use one of {}", names.join(", ")));
            problem = match near {
                Some((_, name)) => problem.hint(format!("Did you mean `{name}`?")),
                None => problem.hint("Remove it, or see `provision schema` for where it belongs"),
            };
            problems.push(problem);
            continue;
        };
        if !key.built {
            problems.push(
                Diagnostic::error("E-NOT-SUPPORTED", format!("`{}` is not supported yet", entry.key))
                    .at(&entry.span)
                    .hint(format!("Remove this key; it is not supported yet ({})", key.doc)),
            );
            continue;
        }
        value(&entry.node, key.kind, &entry.key, problems);
    }
    for key in keys.iter().filter(|k| k.required && !entries.iter().any(|e| e.key == k.name)) {
        problems.push(
            Diagnostic::error("E-MISSING", format!("{what} has no `{}`", key.name))
                .at(&node.span)
                .hint(format!("{}: {}", key.name, key.doc)),
        );
    }
}

fn one_of(node: &Node, keys: &[Key], name: &str, problems: &mut Problems) {
    section(node, keys, name, problems);
    let given = node.entries().len();
    if given != 1 && matches!(node.value, Value::Map(_)) {
        let names: Vec<&str> = keys.iter().filter(|k| k.built).map(|k| k.name).collect();
        problems.push(
            Diagnostic::error(
                "E-ONE-OF",
                format!("`{name}` needs exactly one of {}; found {given}", names.join(", ")),
            )
            .at(&node.span)
            .hint(if given == 0 { "Add one of them" } else { "Keep one of them" }),
        );
    }
}

fn value(node: &Node, kind: Type, name: &str, problems: &mut Problems) {
    let scalar = |n: &Node| matches!(n.value, Value::Text(_) | Value::Number { .. });
    match kind {
        Type::Any => {}
        Type::Anys if matches!(node.value, Value::List(_)) => {}
        Type::Anys => wrong(node, name, "a list", problems),
        Type::Text if scalar(node) => {}
        Type::Text => wrong(node, name, "text", problems),
        Type::Int => {
            if node.whole().is_none() {
                wrong(node, name, "a whole number", problems);
            }
        }
        Type::Bool if matches!(node.value, Value::Bool { .. }) => {}
        Type::Bool => wrong(node, name, "true or false", problems),
        Type::Share => {
            if node.text().and_then(|t| reader::share(&t)).is_none() {
                wrong(
                    node,
                    name,
                    "a whole number of hosts or a whole percentage up to 100%, such as 2 or 10%",
                    problems,
                );
            }
        }
        Type::Texts => match &node.value {
            Value::List(items) => {
                for item in items.iter().filter(|i| !scalar(i)) {
                    wrong(item, &format!("an entry of `{name}`"), "text", problems);
                }
            }
            _ => wrong(node, name, "a list", problems),
        },
        Type::TextMap | Type::IntMap => {
            if !matches!(node.value, Value::Map(_)) {
                wrong(node, name, "a mapping", problems);
            }
            for entry in node.entries() {
                match kind {
                    Type::IntMap => value(&entry.node, Type::Int, &entry.key, problems),
                    _ if scalar(&entry.node) || matches!(entry.node.value, Value::Bool { .. }) => {}
                    _ => wrong(&entry.node, &entry.key, "text", problems),
                }
            }
        }
        Type::List(keys) => match &node.value {
            Value::List(items) => {
                items.iter().for_each(|item| section(item, keys, &format!("an entry of `{name}`"), problems))
            }
            _ => wrong(node, name, "a list", problems),
        },
        Type::Section(keys) => section(node, keys, name, problems),
        Type::OneOf(keys) => one_of(node, keys, name, problems),
        Type::WordOr(word, _) if node.text().as_deref() == Some(word) => {}
        Type::WordOr(_, keys) => section(node, keys, name, problems),
        Type::Sections(keys) | Type::OneOfs(keys) => {
            if !matches!(node.value, Value::Map(_)) {
                wrong(node, name, "a mapping", problems);
            }
            for entry in node.entries() {
                match kind {
                    Type::OneOfs(_) => one_of(&entry.node, keys, &entry.key, problems),
                    _ => section(&entry.node, keys, &entry.key, problems),
                }
            }
        }
    }
}
