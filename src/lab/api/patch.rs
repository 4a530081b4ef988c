//! Merging a change into an object. A merge patch (RFC 7386), a strategic merge patch and a server-side apply are one
//! thing: they differ in which lists go by key and which maps are one value, which the position knows.

use super::merging::{Position, Strategy};
use serde_json::{Map, Value};

/// Merges a change: null deletes, maps merge deeply, lists of known items by item, everything else replaces.
pub(super) fn merged(live: &Value, change: &Value, position: Position<'_>) -> Value {
    match (change, position.strategy(change)) {
        (Value::Object(changes), Strategy::Map) => map(live, changes, position),
        (Value::Array(changes), strategy @ (Strategy::Keyed(_) | Strategy::Set)) => {
            let live = live.as_array().map_or(&[][..], Vec::as_slice);
            list(live, changes, |item| strategy.key(item), position.item())
        }
        _ => change.clone(),
    }
}

/// `$` begins the directives of strategic merge patches: some delete or replace, others only give hints.
fn map(live: &Value, changes: &Map<String, Value>, position: Position<'_>) -> Value {
    let replaces = changes.get("$patch").is_some_and(|directive| directive == "replace");
    let mut map = live.as_object().filter(|_| !replaces).cloned().unwrap_or_default();
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (map.get_mut(list), change.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
        } else if change.is_null() {
            map.shift_remove(name);
        } else if !name.starts_with('$') {
            let next = merged(map.get(name).unwrap_or(&Value::Null), change, position.field(name));
            map.insert(name.clone(), next);
        }
    }
    Value::Object(map)
}

/// Items that only the live list has keep their places; what both have comes in the order of the changes.
fn list(
    live: &[Value],
    changes: &[Value],
    key: impl Fn(&Value) -> Option<String>,
    position: Position<'_>,
) -> Value {
    let before = |item: &Value| live.iter().find(|other| key(other) == key(item));
    let deletes = |change: &Value| change.get("$patch").is_some_and(|directive| directive == "delete");
    let mut rest = changes.iter().filter(|c| !deletes(c)).map(|change| (before(change), change));
    let mut items = Vec::with_capacity(live.len().max(changes.len()));
    for item in live {
        match changes.iter().find(|change| key(change) == key(item)) {
            None => items.push(item.clone()),
            Some(change) if deletes(change) => {}
            // The place of one that both have: new ones come before the next of these.
            Some(_) => {
                for (before, change) in rest.by_ref() {
                    items.push(merged(before.unwrap_or(&Value::Null), change, position));
                    if before.is_some() {
                        break;
                    }
                }
            }
        }
    }
    items.extend(rest.map(|(_, change)| merged(&Value::Null, change, position)));
    Value::Array(items)
}
