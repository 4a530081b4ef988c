//! Field managers: server-side apply and the tracking of all other writes in `metadata.managedFields`.

use super::{
    errors::ApiError,
    fields::{Fields, compare, prune},
    merging::{Position, Strategy, item_key},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One entry of `metadata.managedFields`.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    time: String,
    fields_type: String,
    #[serde(rename = "fieldsV1")]
    fields: Fields,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subresource: String,
}

/// Who writes, and as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// The subresource written, empty for the object itself.
    pub subresource: &'a str,
    /// Now, as RFC 3339.
    pub now: &'a str,
}

impl Writer<'_> {
    fn entry(&self, operation: &str, fields: Fields) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            operation: operation.to_owned(),
            api_version: self.api_version.to_owned(),
            time: self.now.to_owned(),
            fields_type: "FieldsV1".to_owned(),
            fields,
            subresource: self.subresource.to_owned(),
        }
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").cloned();
    list.and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default()
}

fn write_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    // In one order, so that a write that changes nothing comes out equal.
    let identity = |e: &Entry| [&e.manager, &e.operation, &e.subresource, &e.api_version].map(String::clone);
    entries.sort_by_key(identity);
    if !entries.is_empty() {
        object["metadata"]["managedFields"] = json!(entries);
    } else if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.shift_remove("managedFields");
    }
}

/// Applies a configuration to what is there. Returns the merged object with its managed fields.
pub(super) fn apply(
    live: Option<&Value>,
    config: &Value,
    force: bool,
    writer: Writer<'_>,
    root: Position<'_>,
) -> Result<Value, ApiError> {
    let config = without_nulls(config);
    let new = Fields::of(&config, root);
    let nothing = json!({});
    let base = live.unwrap_or(&nothing);
    let mut merged = merge_maps(base, &config, |name| root.top_field(name));
    let is_mine = |e: &Entry| {
        e.operation == "Apply" && e.manager == writer.manager && e.subresource == writer.subresource
    };
    let (mut mine, mut others): (Vec<_>, Vec<_>) = entries(base).into_iter().partition(is_mine);

    let changed = compare(base, &merged, root);
    let mut touched = changed.set;
    touched.add(&changed.gone);
    let mut conflicts = Vec::new();
    for entry in &mut others {
        let clash = entry.fields.common(&touched);
        if force {
            entry.fields.take(&clash);
            continue;
        }
        let mut shown = format!("{:?}", entry.manager);
        if entry.operation != "Apply" {
            shown.push_str(&format!(" using {}", entry.api_version));
        }
        if !entry.subresource.is_empty() {
            shown.push_str(&format!(" with subresource {:?}", entry.subresource));
        }
        conflicts.extend(clash.dotted().into_iter().map(|field| (shown.clone(), field)));
    }
    if !conflicts.is_empty() {
        return Err(ApiError::apply_conflict(&conflicts));
    }

    let mut kept = new.clone();
    others.iter().for_each(|entry| kept.add(&entry.fields));
    let mut entry = mine.pop().unwrap_or_else(|| writer.entry("Apply", Fields::default()));
    let mut dropped = entry.fields.clone();
    dropped.take(&kept);
    prune(&mut merged, &dropped, &kept);
    if entry.fields != new || entry.api_version != writer.api_version {
        entry = writer.entry("Apply", new);
    }
    others.push(entry);
    write_entries(&mut merged, others);
    Ok(merged)
}

/// Writes down who changed what between two states of an object, for every write that is not an apply.
pub(super) fn track(old: Option<&Value>, new: &mut Value, writer: Writer<'_>, root: Position<'_>) {
    let nothing = json!({});
    let old = old.unwrap_or(&nothing);
    let change = compare(old, new, root);
    let is_mine = |e: &Entry| {
        e.operation == "Update"
            && e.manager == writer.manager
            && e.subresource == writer.subresource
            && e.api_version == writer.api_version
    };
    let (mut mine, mut all): (Vec<_>, Vec<_>) = entries(old).into_iter().partition(is_mine);
    for entry in &mut all {
        entry.fields.take(&change.gone);
        entry.fields.take(&change.set);
    }
    let mut fields = mine.pop().map(|entry| entry.fields).unwrap_or_default();
    fields.take(&change.gone);
    fields.add(&change.set);
    all.push(writer.entry("Update", fields));
    write_entries(new, all);
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

fn merge_maps<'a>(live: &Value, config: &'a Value, position: impl Fn(&'a str) -> Position<'a>) -> Value {
    let mut merged = live.as_object().cloned().unwrap_or_default();
    for (name, value) in config.as_object().into_iter().flatten() {
        let next = match merged.get(name) {
            Some(before) => merge(before, value, position(name)),
            None => value.clone(),
        };
        merged.insert(name.clone(), next);
    }
    Value::Object(merged)
}

fn merge(live: &Value, config: &Value, position: Position<'_>) -> Value {
    match (live, config, position.strategy(config)) {
        (Value::Object(_), Value::Object(_), Strategy::Map) => {
            merge_maps(live, config, |name| position.field(name))
        }
        (Value::Array(a), Value::Array(b), Strategy::Keyed(keys)) => {
            merge_lists(a, b, |item| item_key(item, keys), |x, y| merge(x, y, position.item()))
        }
        (Value::Array(a), Value::Array(b), Strategy::Set) => {
            merge_lists(a, b, |item| Some(item.to_string()), |_, y| y.clone())
        }
        _ => config.clone(),
    }
}

/// Items that only the live list has keep their places; what both have comes in the configuration's order.
fn merge_lists(
    live: &[Value],
    config: &[Value],
    key: impl Fn(&Value) -> Option<String>,
    merge: impl Fn(&Value, &Value) -> Value,
) -> Value {
    let wanted: Vec<_> = config.iter().map(&key).collect();
    let before = |item: &Value| live.iter().find(|other| key(other) == key(item));
    let mut rest = config.iter().map(|item| (before(item), item)).peekable();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    for item in live {
        if !wanted.contains(&key(item)) {
            merged.push(item.clone());
            continue;
        }
        // The place of one that both have: new ones come before the next of these.
        for (before, item) in rest.by_ref() {
            merged.push(before.map_or_else(|| item.clone(), |before| merge(before, item)));
            if before.is_some() {
                break;
            }
        }
    }
    merged.extend(rest.map(|(_, item)| item.clone()));
    Value::Array(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::api::kinds::Kinds;

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
    }

    fn applied(live: Option<&Value>, manager: &str, config: &Value) -> Result<Value, ApiError> {
        let kind = Kinds::built_in().by_id("deployments.apps").expect("built in");
        apply(live, config, false, writer(manager), Position::root(&kind))
    }

    #[test]
    fn what_a_manager_drops_goes_unless_somebody_else_holds_it() {
        let labels = |labels: Value| json!({"metadata": {"labels": labels}});
        let first = applied(None, "x", &labels(json!({"a": "1", "b": "1"}))).expect("created");
        let second =
            applied(Some(&first), "y", &labels(json!({"b": "1"}))).expect("the same value is no conflict");
        let third = applied(Some(&second), "x", &labels(json!({"c": "1"}))).expect("applied");
        assert_eq!(third["metadata"]["labels"], json!({"b": "1", "c": "1"}));
    }

    #[test]
    fn a_removed_container_takes_its_fields_along_and_others_stay() {
        let pod = |names: &[&str]| {
            let list: Vec<_> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
            json!({"spec": {"containers": list}})
        };
        let first = applied(None, "x", &pod(&["a", "b"])).expect("created");
        let second = applied(Some(&first), "y", &pod(&["c"])).expect("merged");
        let third = applied(Some(&second), "x", &pod(&["a"])).expect("pruned");
        let containers = third["spec"]["containers"].as_array().expect("a list");
        let names: Vec<_> = containers.iter().map(|c| c["name"].clone()).collect();
        assert_eq!(names, [json!("a"), json!("c")]);
    }
}
