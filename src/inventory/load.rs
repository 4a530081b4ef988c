//! From files to an inventory: reading, `extends`, merging, checking shapes by the table of keys. Collects every mistake.

use super::build;
use super::diagnostic::{Diagnostic, Diagnostics, Place};
use super::keys::{Key, TOP, Type};
use super::model::Inventory;
use super::tree::{Node, Source, Value, merge, parse};
use crate::catalog::Catalog;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// An inventory that can be used, and what a person should know of it.
#[derive(Debug)]
pub struct Loaded {
    /// The inventory.
    pub inventory: Inventory,
    /// Warnings.
    pub diagnostics: Diagnostics,
}

/// Where texts come from: the disk, or a git revision.
pub trait Files {
    /// Returns a file's text.
    fn read(&self, path: &Path) -> std::io::Result<String>;
    /// Returns the files of a folder, with all folders below it, sorted.
    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>>;
    /// Returns whether a path is a folder.
    fn is_folder(&self, path: &Path) -> bool;
}

/// The disk.
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() { found.extend(self.list(&path)?) } else { found.push(path) }
        }
        found.sort();
        Ok(found)
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

/// Loads an inventory from disk.
pub fn load(path: &Path, catalog: &Catalog) -> Result<Loaded, Diagnostics> {
    load_from(&Disk, path, catalog)
}

/// Loads an inventory from anywhere.
pub fn load_from(files: &dyn Files, path: &Path, catalog: &Catalog) -> Result<Loaded, Diagnostics> {
    let mut problems = Vec::new();
    let root = if files.is_folder(path) { path.to_owned() } else { folder_of(path) };
    let inventory = tree(files, path, &mut problems).and_then(|node| {
        section(&node, TOP, "the inventory", &mut problems);
        build::build(files, &root, &node, catalog, &mut problems)
    });
    let mut diagnostics = Diagnostics { inventory: path.display().to_string(), all: problems };
    diagnostics.sort();
    match inventory {
        Some(inventory) if diagnostics.errors() == 0 => Ok(Loaded { inventory, diagnostics }),
        _ => Err(diagnostics),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Returns where each value came from: `pools.h100.role = worker   file:line`.
pub fn explain(path: &Path, key: &str) -> Result<String, Diagnostics> {
    let mut problems = Vec::new();
    let node = tree(&Disk, path, &mut problems);
    let fail = |all| Diagnostics { inventory: path.display().to_string(), all };
    let Some(node) = node.filter(|_| problems.is_empty()) else { return Err(fail(problems)) };
    let mut at = &node;
    for part in key.split('.').filter(|p| !p.is_empty()) {
        match at.get(part) {
            Some(next) => at = next,
            None => {
                let known: Vec<&str> = at.entries().iter().map(|e| e.key.as_str()).collect();
                return Err(fail(vec![
                    Diagnostic::error("E-NO-VALUE", format!("no value at `{key}`: `{part}` is not there"))
                        .hint(format!("there are {}", known.join(", "))),
                ]));
            }
        }
    }
    let mut lines = String::new();
    leaves(key.trim_matches('.'), at, &mut lines);
    Ok(lines)
}

fn leaves(path: &str, node: &Node, lines: &mut String) {
    let place = format!("{}:{}", node.place.source.name, node.place.line);
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                leaves(&below, &entry.node, lines);
            }
        }
        _ => lines.push_str(&format!("{path} = {}   {place}\n", node.json())),
    }
}

/// Reads and merges all layers.
fn tree(files: &dyn Files, path: &Path, problems: &mut Vec<Diagnostic>) -> Option<Node> {
    layer(files, path, None, &mut Vec::new(), problems)
}

/// Reads one layer: a file, or a folder whose files merge, laid on what it extends. `named` is where `extends` names it.
fn layer(
    files: &dyn Files,
    path: &Path,
    named: Option<&Place>,
    above: &mut Vec<PathBuf>,
    problems: &mut Vec<Diagnostic>,
) -> Option<Node> {
    let path = tidy(path);
    let at = |problem: Diagnostic| match named {
        Some(place) => problem.at(place),
        None => problem,
    };
    if above.contains(&path) {
        problems.push(
            at(Diagnostic::error("E-EXTENDS", format!("{} extends itself", path.display())))
                .hint("an inventory may extend another one, not itself; take out one `extends`"),
        );
        return None;
    }
    let unreadable = |path: &Path, error: &std::io::Error| {
        let hint = match named {
            Some(_) => "extends names a file or a folder, relative to this file's folder",
            None => {
                "name a file, or a folder whose *.yaml files make the inventory: -i PATH; provision init writes one"
            }
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
                .hint("provision init > site.yaml writes one to start from"),
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
        let source = Arc::new(Source { name: file.display().to_string(), text });
        if let Some(node) = parse(&source, problems) {
            match &mut merged {
                Some(base) => merge(base, node),
                None => merged = Some(node),
            }
        }
    }
    let node = merged?;
    let Some((base, place)) = node.get("extends").and_then(|n| Some((n.text()?, n.place.clone()))) else {
        return Some(node);
    };
    let from = if files.is_folder(&path) { path.clone() } else { folder_of(&path) };
    above.push(path);
    let mut under = layer(files, &from.join(base), Some(&place), above, problems)?;
    above.pop();
    merge(&mut under, node);
    Some(under)
}

/// Returns whether a file of an inventory's folder is a part of it.
fn is_part(folder: &Path, file: &Path) -> bool {
    let inside = file.strip_prefix(folder).unwrap_or(file);
    let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    let yaml = file.extension().is_some_and(|e| e == "yaml" || e == "yml");
    yaml && !matches!(first.as_deref(), Some("roles" | "catalog"))
}

/// Takes `.` and `..` out of a path without asking the disk.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

fn wrong(node: &Node, wanted: &str, problems: &mut Vec<Diagnostic>) {
    let hint = match (wanted, &node.value) {
        ("a list", Value::Text(text)) => format!("write it as a list of one: [{text}]"),
        ("a list", _) => "write it as [one, two], or with a `- ` before each".to_owned(),
        ("a mapping", _) => "write it as {key: value}, or with its keys indented below it".to_owned(),
        ("text", Value::Bool(b)) => format!("put it in quotes: \"{b}\""),
        ("text", _) => "one word or text in quotes".to_owned(),
        ("a whole number", _) => "digits alone, such as 8".to_owned(),
        _ => "provision schema shows what each key takes".to_owned(),
    };
    problems.push(
        Diagnostic::error("E-TYPE", format!("{wanted} is wanted here, not {}", node.kind()))
            .at(&node.place)
            .hint(hint),
    );
}

/// Checks a tree against the table of keys.
fn section(node: &Node, keys: &[Key], what: &str, problems: &mut Vec<Diagnostic>) {
    let Value::Map(entries) = &node.value else {
        if !matches!(node.value, Value::Null) || keys.iter().any(|k| k.required) {
            wrong(node, "a mapping", problems);
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
                .at(&entry.place)
                .label(format!("expected one of {}", names.join(", ")));
            problem = match near {
                Some((_, name)) => problem.hint(format!("did you mean `{name}`?")),
                None => problem.hint("take it out, or see provision schema for where it belongs"),
            };
            problems.push(problem);
            continue;
        };
        if !key.built {
            problems.push(
                Diagnostic::error("E-NOT-SUPPORTED", format!("`{}` is not supported yet", entry.key))
                    .at(&entry.place)
                    .hint(format!("take it out; it is part of the schema and will be: {}", key.doc)),
            );
            continue;
        }
        value(&entry.node, key.kind, &entry.key, problems);
    }
    for key in keys.iter().filter(|k| k.required && !entries.iter().any(|e| e.key == k.name)) {
        problems.push(
            Diagnostic::error("E-MISSING", format!("{what} lacks `{}`", key.name))
                .at(&node.place)
                .hint(format!("{}: {}", key.name, key.doc)),
        );
    }
}

fn one_of(node: &Node, keys: &[Key], name: &str, problems: &mut Vec<Diagnostic>) {
    section(node, keys, name, problems);
    let given = node.entries().len();
    if given != 1 && matches!(node.value, Value::Map(_)) {
        let names: Vec<&str> = keys.iter().filter(|k| k.built).map(|k| k.name).collect();
        problems.push(
            Diagnostic::error(
                "E-ONE-OF",
                format!("`{name}` takes exactly one of {}; {given} are given", names.join(", ")),
            )
            .at(&node.place)
            .hint(if given == 0 { "add one of them" } else { "keep the one that is meant" }),
        );
    }
}

fn value(node: &Node, kind: Type, name: &str, problems: &mut Vec<Diagnostic>) {
    let scalar = |n: &Node| matches!(n.value, Value::Text(_) | Value::Number(_));
    match kind {
        Type::Any => {}
        Type::Text if scalar(node) => {}
        Type::Text => wrong(node, "text", problems),
        Type::Int => {
            if node.text().and_then(|t| t.parse::<i64>().ok()).is_none() {
                wrong(node, "a whole number", problems);
            }
        }
        Type::Bool if matches!(node.value, Value::Bool(_)) => {}
        Type::Bool => wrong(node, "true or false", problems),
        Type::Share => {
            if node.text().and_then(|t| build::share(&t)).is_none() {
                wrong(node, "a number of hosts or a percentage such as 10%", problems);
            }
        }
        Type::Texts => match &node.value {
            Value::List(items) => {
                for item in items.iter().filter(|i| !scalar(i)) {
                    wrong(item, "text", problems);
                }
            }
            _ => wrong(node, "a list", problems),
        },
        Type::TextMap | Type::IntMap => {
            if !matches!(node.value, Value::Map(_)) {
                wrong(node, "a mapping", problems);
            }
            for entry in node.entries() {
                match kind {
                    Type::IntMap => value(&entry.node, Type::Int, &entry.key, problems),
                    _ if scalar(&entry.node) || matches!(entry.node.value, Value::Bool(_)) => {}
                    _ => wrong(&entry.node, "text", problems),
                }
            }
        }
        Type::Section(keys) => section(node, keys, name, problems),
        Type::OneOf(keys) => one_of(node, keys, name, problems),
        Type::Sections(keys) | Type::OneOfs(keys) => {
            if !matches!(node.value, Value::Map(_)) {
                wrong(node, "a mapping", problems);
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
