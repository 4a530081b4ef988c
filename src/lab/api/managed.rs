//! Field managers: server-side apply and the tracking of all other writes in `metadata.managedFields`.

use super::{
    fields::{Fields, compare, own_new_maps, ownable, prune},
    refusal::Refusal,
    shape::{Form, Shape},
};
use serde_json::{Map, Value, json};

/// One entry of `metadata.managedFields`.
#[derive(Clone, PartialEq, Debug)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    time: String,
    subresource: String,
    fields: Fields,
}

/// Who writes, and as what.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// The subresource written, empty for the object itself.
    pub subresource: &'a str,
    /// Now, as RFC 3339.
    pub now: &'a str,
}

fn entries(object: &Value) -> Vec<Entry> {
    let Some(list) = object.pointer("/metadata/managedFields").and_then(Value::as_array) else {
        return Vec::new();
    };
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|entry| Entry {
            manager: text(entry, "manager"),
            operation: text(entry, "operation"),
            api_version: text(entry, "apiVersion"),
            time: text(entry, "time"),
            subresource: text(entry, "subresource"),
            fields: Fields::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

fn write_entries(object: &mut Value, entries: &[Entry]) {
    let list: Vec<_> = entries
        .iter()
        .filter(|e| !e.fields.is_empty())
        .map(|e| {
            let mut entry = json!({
                "manager": e.manager, "operation": e.operation, "apiVersion": e.api_version, "time": e.time,
                "fieldsType": "FieldsV1", "fieldsV1": e.fields.to_json(),
            });
            if !e.subresource.is_empty() {
                entry["subresource"] = json!(e.subresource);
            }
            entry
        })
        .collect();
    if list.is_empty() {
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.shift_remove("managedFields");
        }
    } else {
        object["metadata"]["managedFields"] = Value::Array(list);
    }
}

/// Applies a configuration to what is there. Returns the merged object with its managed fields.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    force: bool,
    writer: Writer<'_>,
    shape: Shape<'_>,
) -> Result<Value, Refusal> {
    let config = without_nulls(config);
    let wanted = ownable(&config);
    let new = Fields::of(&wanted, shape);
    let nothing = json!({});
    let base = live.unwrap_or(&nothing);
    let mut merged = merge_object(base, &config, shape);
    let mut all = entries(base);
    let mine = |e: &Entry| {
        e.operation == "Apply" && e.manager == writer.manager && e.subresource == writer.subresource
    };

    let changed = compare(&ownable(base), &ownable(&merged), shape);
    let mut touched = changed.set;
    touched.add(&changed.gone);
    let mut conflicts = Vec::new();
    for entry in all.iter_mut().filter(|e| !mine(e)) {
        let clash = entry.fields.common(&touched);
        if clash.is_empty() {
            continue;
        }
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
        return Err(Refusal::apply_conflict(&conflicts));
    }

    let before = all.iter().find(|e| mine(e)).map(|e| e.fields.clone()).unwrap_or_default();
    let mut others = Fields::default();
    for entry in all.iter().filter(|e| !mine(e)) {
        others.add(&entry.fields);
    }
    let mut dropped = before.clone();
    dropped.take(&new);
    dropped.take(&others);
    let mut kept = new.clone();
    kept.add(&others);
    prune(&mut merged, &dropped, &kept, shape);

    match all.iter_mut().find(|e| mine(e)) {
        Some(entry) => {
            if entry.fields != new || entry.api_version != writer.api_version {
                entry.time = writer.now.to_owned();
            }
            entry.fields = new;
            entry.api_version = writer.api_version.to_owned();
        }
        None => all.push(Entry {
            manager: writer.manager.to_owned(),
            operation: "Apply".into(),
            api_version: writer.api_version.to_owned(),
            time: writer.now.to_owned(),
            subresource: writer.subresource.to_owned(),
            fields: new,
        }),
    }
    write_entries(&mut merged, &all);
    Ok(merged)
}

/// Writes down who changed what between two states of an object, for every write that is not an apply.
pub fn track(old: Option<&Value>, new: &mut Value, writer: Writer<'_>, shape: Shape<'_>) {
    let nothing = json!({});
    let old = old.unwrap_or(&nothing);
    let mut change = compare(&ownable(old), &ownable(new), shape);
    own_new_maps(&mut change.set, old);
    let mut all = entries(old);
    if change.set.is_empty() && change.gone.is_empty() {
        write_entries(new, &all);
        return;
    }
    let mine = |e: &Entry| {
        e.operation == "Update"
            && e.manager == writer.manager
            && e.subresource == writer.subresource
            && e.api_version == writer.api_version
    };
    for entry in &mut all {
        entry.fields.take(&change.gone);
        if !mine(entry) {
            entry.fields.take(&change.set);
        }
    }
    match all.iter_mut().find(|e| mine(e)) {
        Some(entry) => {
            entry.fields.add(&change.set);
            entry.time = writer.now.to_owned();
        }
        None => all.push(Entry {
            manager: writer.manager.to_owned(),
            operation: "Update".into(),
            api_version: writer.api_version.to_owned(),
            time: writer.now.to_owned(),
            subresource: writer.subresource.to_owned(),
            fields: change.set,
        }),
    }
    write_entries(new, &all);
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

fn merge_object(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    let empty = Map::new();
    let mut merged = live.as_object().unwrap_or(&empty).clone();
    for (name, value) in config.as_object().unwrap_or(&empty) {
        let place = shape.top_field(name);
        let next = match merged.get(name) {
            Some(before) => merge_value(before, value, place),
            None => value.clone(),
        };
        merged.insert(name.clone(), next);
    }
    Value::Object(merged)
}

/// Merges two values as server-side apply does.
pub fn merge_value(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    match (live, config, shape.form(config)) {
        (Value::Object(a), Value::Object(b), Form::Map) => {
            let mut merged = a.clone();
            for (name, value) in b {
                let next = match merged.get(name) {
                    Some(before) => merge_value(before, value, shape.field(name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), next);
            }
            Value::Object(merged)
        }
        (Value::Array(a), Value::Array(b), Form::Keyed(keys)) => {
            merge_list(a, b, |item| shape.key_of(item, &keys), |x, y| merge_value(x, y, shape.item()))
        }
        (Value::Array(a), Value::Array(b), Form::Set) => {
            merge_list(a, b, |item| Some(item.to_string()), |_, y| y.clone())
        }
        _ => config.clone(),
    }
}

/// Items that only one side has keep their place among their own; what both have comes in the configuration's order.
fn merge_list(
    live: &[Value],
    config: &[Value],
    key: impl Fn(&Value) -> Option<String>,
    merge: impl Fn(&Value, &Value) -> Value,
) -> Value {
    let (left, right): (Vec<_>, Vec<_>) =
        (live.iter().map(&key).collect(), config.iter().map(&key).collect());
    let shared_from = |at: usize| right[at..].iter().find(|k| left.contains(k));
    let (mut l, mut r) = (0, 0);
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    // As structured-merge-diff does it (typed/merge.go, mergeListItems).
    while l < live.len() || r < config.len() {
        if l < live.len() && r < config.len() {
            if left[l] == right[r] {
                merged.push(merge(&live[l], &config[r]));
                (l, r) = (l + 1, r + 1);
                continue;
            }
            // Shared, and not next in the configuration: it comes when its turn is there.
            if right.contains(&left[l]) && shared_from(r).is_some_and(|next| *next != left[l]) {
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            if !right.contains(&left[l]) {
                merged.push(live[l].clone());
                l += 1;
                continue;
            }
            if right[..r].contains(&left[l]) {
                l += 1;
                continue;
            }
        }
        if r < config.len() {
            let before = left.iter().position(|k| *k == right[r]);
            merged.push(before.map_or_else(|| config[r].clone(), |at| merge(&live[at], &config[r])));
            r += 1;
        }
    }
    Value::Array(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
    }

    #[test]
    fn what_a_manager_drops_goes_unless_somebody_else_holds_it() {
        let shape = Shape::native();
        let first =
            apply(None, &json!({"metadata": {"labels": {"a": "1", "b": "1"}}}), false, writer("x"), shape);
        let first = first.expect("created");
        let second =
            apply(Some(&first), &json!({"metadata": {"labels": {"b": "1"}}}), false, writer("y"), shape);
        let second = second.expect("the same value is no conflict");
        let third =
            apply(Some(&second), &json!({"metadata": {"labels": {"c": "1"}}}), false, writer("x"), shape);
        assert_eq!(third.expect("applied")["metadata"]["labels"], json!({"b": "1", "c": "1"}));
    }

    #[test]
    fn a_clash_names_manager_and_field_and_force_takes_the_field() {
        let shape = Shape::native();
        let mut live = json!({"spec": {"replicas": 1}});
        track(None, &mut live, writer("kubectl"), shape);
        let config = json!({"spec": {"replicas": 2}});
        let refused = apply(Some(&live), &config, false, writer("x"), shape).expect_err("a clash");
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
        );
        let forced = apply(Some(&live), &config, true, writer("x"), shape).expect("forced");
        let managers: Vec<_> = entries(&forced).into_iter().map(|e| e.manager).collect();
        assert_eq!(managers, ["x"]);
    }

    #[test]
    fn a_removed_container_takes_its_fields_along_and_others_stay() {
        let shape = Shape::native();
        let pod = |names: &[&str]| {
            let list: Vec<_> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
            json!({"spec": {"containers": list}})
        };
        let first = apply(None, &pod(&["a", "b"]), false, writer("x"), shape).expect("created");
        let second = apply(Some(&first), &pod(&["c"]), false, writer("y"), shape).expect("merged");
        let third = apply(Some(&second), &pod(&["a"]), false, writer("x"), shape).expect("pruned");
        let names: Vec<_> = third["spec"]["containers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["name"].clone())
            .collect();
        assert_eq!(names, [json!("a"), json!("c")]);
    }
}
