//! Ansible's YAML format, as its plugin `yaml` documents it: groups with `hosts`, `children` and `vars`; and the files of
//! variables beside an inventory.

use super::ansible_groups::{Groups, MOST_DEPTH, Var, expand};
use super::error::ImportError;
use super::found::{Found, Place};
use crate::inventory::{Entry, Node, Value};
use std::sync::Arc;

/// Reads the groups of a document.
pub(super) fn read(
    file: &Arc<str>,
    document: &Node,
    groups: &mut Groups,
    found: &mut Found,
) -> Result<(), ImportError> {
    for entry in document.entries() {
        group(file, entry, 0, groups, found)?;
    }
    Ok(())
}

/// Returns the place of a key.
fn place(file: &Arc<str>, entry: &Entry) -> Place {
    Place::of(file, entry.span.line)
}

/// Returns the variables of a mapping.
pub(super) fn vars<'a>(file: &'a Arc<str>, node: &'a Node) -> impl Iterator<Item = (String, Var)> + 'a {
    node.entries().iter().map(|entry| {
        let tagged = entry.node.is_tagged(&entry.span);
        let var = Var::of(entry.node.text().as_deref(), place(file, entry), tagged);
        (entry.key.clone(), var)
    })
}

fn group(
    file: &Arc<str>,
    entry: &Entry,
    depth: usize,
    groups: &mut Groups,
    found: &mut Found,
) -> Result<(), ImportError> {
    if depth > MOST_DEPTH {
        return Err(ImportError::TooComplex);
    }
    let (name, at) = (entry.key.as_str(), place(file, entry));
    groups.group(name, &at);
    for part in entry.node.entries() {
        match part.key.as_str() {
            "vars" => groups.group(name, &at).vars.extend(vars(file, &part.node)),
            "hosts" => hosts(file, name, &part.node, groups, found),
            "children" => {
                for child in part.node.entries() {
                    group(file, child, depth + 1, groups, found)?;
                    groups.group(name, &at).children.push(child.key.clone());
                }
            }
            other => found.left_out(&place(file, part), other, "a group has only hosts, children and vars"),
        }
    }
    Ok(())
}

fn hosts(file: &Arc<str>, group: &str, node: &Node, groups: &mut Groups, found: &mut Found) {
    if let Value::Text(_) = node.value {
        return found.left_out(&Place::of(file, node.span.line), group, "`hosts` is not a mapping of hosts");
    }
    for entry in node.entries() {
        if groups.is_full() {
            return;
        }
        let at = place(file, entry);
        match expand(&entry.key) {
            Ok((names, port)) => {
                let port =
                    port.map(|port| ("ansible_port".to_owned(), Var::of(Some(&port), at.clone(), false)));
                let all: Vec<(String, Var)> = port.into_iter().chain(vars(file, &entry.node)).collect();
                for name in names {
                    groups.add(group, name, all.iter().cloned(), &at);
                }
            }
            Err(why) => found.left_out(&at, entry.key.as_str(), why),
        }
    }
}
