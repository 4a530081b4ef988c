//! The other patches: merge (RFC 7386), strategic merge (as a merge that knows the keyed lists) and JSON (RFC 6902).

use super::{
    refusal::Refusal,
    shape::{Form, Shape},
};
use serde_json::{Map, Value};

/// Merges a patch: null deletes, maps deep, all else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in changes {
        if value.is_null() {
            map.shift_remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Merges a patch as kubectl writes them for built-in kinds: keyed lists merge by item, `$patch` deletes or replaces.
pub fn strategic(target: &mut Value, patch: &Value) {
    strategic_map(target, patch, Shape::native(), true);
}

fn strategic_map(target: &mut Value, patch: &Value, shape: Shape<'_>, top: bool) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if changes.get("$patch").and_then(Value::as_str) == Some("replace") {
        let mut whole = changes.clone();
        whole.shift_remove("$patch");
        *target = Value::Object(whole);
        return;
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in changes {
        if name.starts_with("$setElementOrder") || name == "$retainKeys" {
            continue;
        }
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (map.get_mut(list), value.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        let place = if top { shape.top_field(name) } else { shape.field(name) };
        match value {
            Value::Null => {
                map.shift_remove(name);
            }
            Value::Array(items) => {
                strategic_list(map.entry(name.clone()).or_insert(Value::Null), items, place)
            }
            _ => strategic_map(map.entry(name.clone()).or_insert(Value::Null), value, place, false),
        }
    }
}

fn strategic_list(target: &mut Value, patch: &[Value], shape: Shape<'_>) {
    let Form::Keyed(keys) = shape.form(&Value::Array(patch.to_vec())) else {
        if shape.form(&Value::Array(patch.to_vec())) == Form::Set {
            let mut items = target.as_array().cloned().unwrap_or_default();
            items.extend(patch.iter().filter(|i| !target.as_array().is_some_and(|t| t.contains(i))).cloned());
            *target = Value::Array(items);
        } else {
            *target = Value::Array(patch.to_vec());
        }
        return;
    };
    let mut items = target.as_array().cloned().unwrap_or_default();
    for change in patch {
        let key = shape.key_of(change, &keys);
        let found = items.iter().position(|item| shape.key_of(item, &keys) == key);
        let deletes = change.get("$patch").and_then(Value::as_str) == Some("delete");
        match (found, deletes) {
            (Some(at), true) => {
                items.remove(at);
            }
            (Some(at), false) => strategic_map(&mut items[at], change, shape.item(), false),
            (None, true) => {}
            (None, false) => items.push(change.clone()),
        }
    }
    *target = Value::Array(items);
}

/// Carries out a JSON patch.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), Refusal> {
    let wrong = |why: String| Refusal::bad_request(format!("invalid JSON patch: {why}"));
    let steps = patch.as_array().ok_or_else(|| wrong("not a list".into()))?;
    for step in steps {
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let (op, path) = (text("op"), text("path"));
        let missing =
            || unprocessable(&format!("{op} operation does not apply: doc is missing path: {path:?}"));
        match op.as_str() {
            "add" => add(target, &path, step["value"].clone()).ok_or_else(missing)?,
            "remove" => {
                remove(target, &path).ok_or_else(missing)?;
            }
            "replace" => *target.pointer_mut(&path).ok_or_else(missing)? = step["value"].clone(),
            "move" => {
                let value = remove(target, &text("from")).ok_or_else(missing)?;
                add(target, &path, value).ok_or_else(missing)?;
            }
            "copy" => {
                let value = target.pointer(&text("from")).cloned().ok_or_else(missing)?;
                add(target, &path, value).ok_or_else(missing)?;
            }
            "test" => {
                if target.pointer(&path) != Some(&step["value"]) {
                    return Err(unprocessable(&format!("testing value {path} failed")));
                }
            }
            other => return Err(wrong(format!("unknown operation {other:?}"))),
        }
    }
    Ok(())
}

fn unprocessable(why: &str) -> Refusal {
    let message = format!("the server rejected our request due to an error in our request: {why}");
    Refusal { code: 422, reason: "Invalid", message, details: None }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = last.parse().ok().filter(|at| *at <= items.len())?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => map.shift_remove(&last),
        Value::Array(items) => {
            let at: usize = last.parse().ok().filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches_change_lists_and_escaped_keys() {
        let mut object = json!({"metadata": {"labels": {"a/b": "1"}}, "list": [1, 3]});
        let patch = json!([
            {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
            {"op": "remove", "path": "/metadata/labels/a~1b"},
            {"op": "add", "path": "/list/1", "value": 2},
            {"op": "add", "path": "/list/-", "value": 4},
        ]);
        json(&mut object, &patch).expect("applies");
        assert_eq!(object, json!({"metadata": {"labels": {}}, "list": [1, 2, 3, 4]}));
        assert!(json(&mut object, &json!([{"op": "remove", "path": "/none"}])).is_err());
    }

    #[test]
    fn strategic_patches_merge_keyed_lists() {
        let mut object = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}});
        strategic(
            &mut object,
            &json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}]}}),
        );
        assert_eq!(object, json!({"spec": {"containers": [{"name": "a", "image": "2"}]}}));
    }
}
