//! The other patches: merge (RFC 7386) and strategic merge, as a merge that knows the keyed lists.

use super::{
    kinds::Kind,
    merging::{Position, Strategy, item_key},
};
use serde_json::{Map, Value};

/// Merges a patch: null deletes, maps merge deeply, everything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
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
pub(super) fn strategic(kind: &Kind, target: &mut Value, patch: &Value) {
    strategic_map(target, patch, Position::root(kind));
}

fn strategic_map(target: &mut Value, patch: &Value, position: Position<'_>) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() || changes.get("$patch").is_some_and(|directive| directive == "replace") {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (map.get_mut(list), value.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        match value {
            _ if name.starts_with('$') => {}
            Value::Null => drop(map.shift_remove(name)),
            Value::Array(items) => {
                let target = map.entry(name.clone()).or_insert(Value::Null);
                strategic_list(target, value, items, position.field(name));
            }
            _ => {
                let target = map.entry(name.clone()).or_insert(Value::Null);
                strategic_map(target, value, position.field(name));
            }
        }
    }
}

fn strategic_list(target: &mut Value, patch: &Value, changes: &[Value], position: Position<'_>) {
    let mut items = target.as_array().cloned().unwrap_or_default();
    match position.strategy(patch) {
        Strategy::Keyed(keys) => {
            for change in changes {
                let found = items.iter().position(|item| item_key(item, keys) == item_key(change, keys));
                let deletes = change.get("$patch").is_some_and(|directive| directive == "delete");
                match (found, deletes) {
                    (Some(at), true) => drop(items.remove(at)),
                    (Some(at), false) => strategic_map(&mut items[at], change, position.item()),
                    (None, true) => {}
                    (None, false) => items.push(change.clone()),
                }
            }
        }
        Strategy::Set => {
            let new: Vec<_> = changes.iter().filter(|item| !items.contains(item)).cloned().collect();
            items.extend(new);
        }
        Strategy::Map | Strategy::Atomic => items = changes.to_vec(),
    }
    *target = Value::Array(items);
}
