//! Field managers: server-side apply and the tracking of all other writes in `metadata.managedFields`.

use super::{
    errors::ApiError,
    fields::{Fields, compare, prune},
    merging::Position,
    objects::without_nulls,
    patch::merged,
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
pub(super) struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    /// `apiVersion` of the request.
    pub api_version: String,
    /// The subresource written, empty for the object itself.
    pub subresource: &'a str,
    /// Now, as RFC 3339.
    pub now: String,
    /// Whether an apply takes fields of others.
    pub force: bool,
    /// The object's position.
    pub root: Position<'a>,
}

impl Writer<'_> {
    fn entry(&self, operation: &str, fields: Fields) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            operation: operation.to_owned(),
            api_version: self.api_version.clone(),
            time: self.now.clone(),
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
pub(super) fn apply(live: Option<&Value>, mut config: Value, writer: &Writer<'_>) -> Result<Value, ApiError> {
    let root = writer.root;
    without_nulls(&mut config);
    let new = Fields::of(&config, root);
    let nothing = json!({});
    let base = live.unwrap_or(&nothing);
    let mut merged = merged(base, &config, root);
    let is_mine = |e: &Entry| {
        e.operation == "Apply" && e.manager == writer.manager && e.subresource == writer.subresource
    };
    let (mut mine, mut others): (Vec<_>, Vec<_>) = entries(base).into_iter().partition(is_mine);

    let (mut touched, gone) = compare(base, &merged, root);
    touched.add(&gone);
    let mut conflicts = Vec::new();
    for entry in &mut others {
        let clash = entry.fields.common(&touched);
        if writer.force {
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
pub(super) fn track(old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let nothing = json!({});
    let old = old.unwrap_or(&nothing);
    let (set, gone) = compare(old, new, writer.root);
    let is_mine = |e: &Entry| {
        e.operation == "Update"
            && e.manager == writer.manager
            && e.subresource == writer.subresource
            && e.api_version == writer.api_version
    };
    let (mut mine, mut all): (Vec<_>, Vec<_>) = entries(old).into_iter().partition(is_mine);
    for entry in &mut all {
        entry.fields.take(&gone);
        entry.fields.take(&set);
    }
    let mut fields = mine.pop().map(|entry| entry.fields).unwrap_or_default();
    fields.take(&gone);
    fields.add(&set);
    all.push(writer.entry("Update", fields));
    write_entries(new, all);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::api::kinds::built_in;

    fn applied(live: Option<&Value>, manager: &str, config: &Value) -> Result<Value, ApiError> {
        let kind = built_in()["deployments.apps"].clone();
        let (api_version, now, root) =
            ("apps/v1".into(), "2026-01-01T00:00:00Z".into(), Position::root(&kind));
        apply(
            live,
            config.clone(),
            &Writer { manager, api_version, subresource: "", now, force: false, root },
        )
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
