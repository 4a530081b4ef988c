//! What is wrong with the role files next to an inventory whatever the hosts say: found once, before a host is contacted, with
//! file and line. What depends on a host's facts is found when its resources are made.

use super::context;
use super::desired::{foreign, is_builtin, source};
use super::entry::{self, Entry, Mistake, is_template, templates};
use super::fields::fields;
use super::values::{self, refused};
use crate::inventory::{Diagnostic, Inventory, Source, SourceSpan};
use crate::template::{TemplateError, names, names_in_expression};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The fields that tell resources of a kind apart.
const IDENTITIES: [&str; 4] = ["path", "name", "key", "device"];

/// Returns all mistakes in the `roles/` folder next to an inventory.
pub fn mistakes(inventory: &Inventory) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = foreign(inventory)
        .into_iter()
        .map(|why| Diagnostic::error("E-ROLE", why).hint("Rename the folder, or remove it"))
        .collect();
    for (path, text) in &inventory.roles {
        let of_file = match path.split_once('/') {
            Some((role, "role.yaml")) => in_role(inventory, role, text),
            Some((_, rest)) if rest.starts_with("templates/") => in_template(text),
            // Of a folder that is no role, the folder is named above; a README is no mistake.
            Some((role, _)) if !is_builtin(role) => continue,
            _ if ![".yaml", ".yml", ".j2"].iter().any(|end| path.ends_with(end)) => continue,
            Some(_) => vec![unread("a role consists of role.yaml and templates/")],
            None => vec![unread("roles/ has a folder for each role")],
        };
        let name = inventory.root.join("roles").join(path).display().to_string();
        let file = Arc::new(Source { name, text: text.clone(), quotable: true });
        let hint = "Fix it, or remove the file to use the built-in one";
        found.extend(of_file.into_iter().map(|mistake| {
            let at = line_of(&file, mistake.line.unwrap_or(1));
            Diagnostic::error("E-ROLE", mistake.message).at(&at).hint(hint)
        }));
    }
    found
}

/// Returns the mistake of a file that looks as if it counted.
fn unread(why: &str) -> Mistake {
    Mistake { line: None, message: format!("this file is ignored: {why}") }
}

/// Returns a whole line of a file, counted from 1.
fn line_of(file: &Arc<Source>, line: usize) -> SourceSpan {
    let before: usize = file.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let text = file.text[before..].lines().next().unwrap_or_default();
    let indent = text.len() - text.trim_start().len();
    let len = text.trim().len().max(1);
    SourceSpan { source: file.clone(), line, column: indent + 1, start: before + indent, len }
}

fn in_role(inventory: &Inventory, role: &str, text: &str) -> Vec<Mistake> {
    let entries = match entry::parse("", text) {
        // What nobody means would remove all that the role has made.
        Ok(entries) if entries.is_empty() && !text.contains('[') => {
            let message =
                "the role has no entries; write `[]` to remove everything that it has created".to_owned();
            return vec![Mistake { line: None, message }];
        }
        Ok(entries) => entries,
        Err(mistake) => return vec![mistake],
    };
    let missing = |file: &str| source(inventory, &format!("{role}/templates/{file}")).err();
    let of = |entry: &Entry| {
        let line = Some(entry.line());
        in_entry(entry, &missing)
            .into_iter()
            .map(move |message| Mistake { line, message })
            .collect::<Vec<_>>()
    };
    entries.iter().flat_map(of).chain(twice(&entries)).collect()
}

/// Returns the entries that define a resource which an earlier entry defines too, both on every host.
fn twice(entries: &[Entry]) -> Vec<Mistake> {
    let mut first: BTreeMap<(&str, Vec<&str>), usize> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in entries.iter().filter(|e| e.get("when").is_none() && e.get("each").is_none()) {
        let Ok((kind, given)) = entry.kind() else { continue };
        let of = |key: &&str| given.get(*key).and_then(Value::as_str).filter(|text| !is_template(text));
        let name: Vec<&str> = IDENTITIES.iter().filter_map(of).collect();
        // What is at a path is one of these.
        let kind = if matches!(kind, "file" | "directory" | "symlink" | "download") { "path" } else { kind };
        // Of these a host has one.
        if name.is_empty() && !matches!(kind, "swap" | "hostname") {
            continue;
        }
        match first.get(&(kind, name.clone())) {
            Some(line) => {
                let what = [&[kind], &name[..]].concat().join(" ");
                let message = format!("{what} is already defined in line {line}");
                found.push(Mistake { line: Some(entry.line()), message });
            }
            None => drop(first.insert((kind, name), entry.line())),
        }
    }
    found
}

/// Returns what is wrong with an entry. `missing` says why a template of its role cannot be had.
fn in_entry(entry: &Entry, missing: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    let item = entry.get("each").is_some();
    match entry.get("each") {
        None => {}
        Some(Value::String(text)) => undefined(names_in_expression("", text), false, &mut found),
        Some(_) => found.push("`each` must be an expression".to_owned()),
    }
    match entry.get("when") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(text)) => undefined(names_in_expression("", text), item, &mut found),
        Some(_) => found.push("`when` must be an expression".to_owned()),
    }
    let around = Value::Object(entry.around());
    if is_literal(&around, item, &mut found) {
        found.extend(entry::around(around).err());
    }
    match entry.kind() {
        Ok((kind, given)) => in_fields(kind, given, item, missing, &mut found),
        Err(why) => found.push(why),
    }
    found
}

/// Checks the fields of a kind: those that hold no expression as they will be, of the others the names.
fn in_fields(
    kind: &str,
    given: &Value,
    item: bool,
    missing: &dyn Fn(&str) -> Option<String>,
    found: &mut Vec<String>,
) {
    if is_literal(given, item, found) {
        let read = match kind {
            "file" => entry::file_fields(given.clone()).map(|file| file.literal()),
            kind => entry::spec(kind, given.clone()),
        };
        match read {
            Ok(spec) => found.extend(refused(&spec)),
            Err(why) => {
                found.push(why);
                return;
            }
        }
    } else {
        found.extend(given.as_object().and_then(|given| relative(kind, given)));
    }
    let Some(given) = given.as_object() else { return };
    let known = fields(kind).unwrap_or_default();
    let unknown = given.keys().filter(|key| !known.contains(&key.as_str()));
    found.extend(unknown.map(|key| format!("{kind}: unknown field `{key}`")));
    found.extend(decimal_mode(kind, given));
    if kind == "file" {
        if given.contains_key("content") == given.contains_key("template") {
            let path = given.get("path").and_then(Value::as_str).unwrap_or_default();
            found.push(format!("file {path} needs either content or template"));
        }
        let template = given.get("template").and_then(Value::as_str).filter(|name| !is_template(name));
        found.extend(template.and_then(missing));
    }
}

/// Returns what is wrong with a path; of one with expressions, only how it starts is known.
fn relative(kind: &str, given: &Map<String, Value>) -> Option<String> {
    let path = given.get("path")?.as_str()?;
    if !is_template(path) {
        return values::path(kind, path);
    }
    let filled = ["{{", "{%"].iter().any(|open| path.starts_with(open));
    (!path.starts_with('/') && !filled).then(|| format!("{kind}: path `{path}` must be absolute"))
}

/// Returns what is wrong with a mode that was written as if numbers were octal: 644 is 0o1204, with which not even the owner
/// may read.
fn decimal_mode(kind: &str, given: &Map<String, Value>) -> Option<String> {
    let mode = given.get("mode")?.as_u64()?;
    let (owner, group) = (mode >> 6 & 7, mode >> 3 & 7);
    let odd = mode > 0o777 || owner & 4 == 0 || group & !owner != 0;
    let looks_octal = (100..=777).contains(&mode) && mode.to_string().chars().all(|c| c < '8');
    match mode {
        _ if mode > 0o7777 => {
            Some(format!("{kind}: invalid mode {mode}, expected an octal number such as 0o644"))
        }
        _ if odd && looks_octal => {
            Some(format!("{kind}: mode {mode} is decimal (0o{mode:o}); write 0o{mode}"))
        }
        _ => None,
    }
}

/// Returns whether a value holds no expression; collects what is wrong with those that it holds.
fn is_literal(value: &Value, item: bool, found: &mut Vec<String>) -> bool {
    let mut texts = Vec::new();
    templates(value, &mut texts);
    for text in &texts {
        undefined(names("", text), item, found);
    }
    texts.is_empty()
}

/// Collects the names that no host has, or what is wrong with the syntax around them.
fn undefined(names: Result<BTreeSet<String>, TemplateError>, item: bool, found: &mut Vec<String>) {
    match names {
        Ok(names) => found.extend(unknown(&names, item).into_iter().map(undefined_value)),
        Err(error) => found.push(error.message),
    }
}

fn in_template(text: &str) -> Vec<Mistake> {
    match names("", text) {
        Err(error) => vec![Mistake { line: Some(error.line).filter(|n| *n > 0), message: error.message }],
        Ok(names) => {
            // Where a name stands is not known; the first line that has it is where a person looks.
            let line = |name: &str| text.lines().position(|line| line.contains(name)).map(|n| n + 1);
            // It may be the template of an entry with `each`.
            let unknown = unknown(&names, true).into_iter();
            unknown.map(|name| Mistake { line: line(name), message: undefined_value(name) }).collect()
        }
    }
}

/// Returns the names that no host has. `item` is known in entries with `each`.
fn unknown(names: &BTreeSet<String>, item: bool) -> Vec<&str> {
    let is_known = |name: &str| {
        let mut parts = name.split('.');
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let known = context::NAMES.iter().find(|(known, _)| *known == first);
        let fields = known.map(|(_, fields)| *fields);
        item && first == "item"
            || fields.is_some_and(|fields| {
                fields.is_empty() || second.is_none_or(|second| fields.contains(&second))
            })
    };
    names.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
}

fn undefined_value(name: &str) -> String {
    format!("undefined value: `{name}` is undefined")
}
