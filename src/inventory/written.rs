//! What the files of an inventory say and where, value by value. Does not interpret values.

use super::diagnostic::SourceSpan;
use super::model::WrittenField;
use super::tree::{Node, Value};
use std::collections::BTreeMap;

/// Returns where something stands: `inventory.yaml:12`.
pub(super) fn place(span: &SourceSpan) -> String {
    format!("{}:{}", span.source.name, span.line)
}

/// Returns what is written outside hosts, by path.
pub(super) fn fields(top: &Node) -> BTreeMap<String, WrittenField> {
    let mut fields = BTreeMap::new();
    let mut add = |path: &str, node: &Node| {
        let value = match node.json_as_written() {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        fields.insert(path.to_owned(), WrittenField { value, place: place(&node.span) });
    };
    for entry in top.entries() {
        match entry.key.as_str() {
            "apiVersion" | "kind" | "extends" => {}
            "pools" => {
                for pool in entry.node.entries() {
                    for part in pool
                        .node
                        .entries()
                        .iter()
                        .filter(|e| !["hosts", "hostsFrom"].contains(&e.key.as_str()))
                    {
                        leaves(&format!("pools.{}.{}", pool.key, part.key), &part.node, &mut add);
                    }
                }
            }
            name => leaves(name, &entry.node, &mut add),
        }
    }
    fields
}

/// Hands on each value that is no mapping, with its path.
pub(super) fn leaves(path: &str, node: &Node, found: &mut dyn FnMut(&str, &Node)) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                leaves(&below, &entry.node, found);
            }
        }
        _ => found(path, node),
    }
}
