//! Sets of fields, as `metadata.managedFields` writes them (`FieldsV1`): what an object holds, what two objects differ
//! in, and the set operations that ownership needs.

use super::merging::{Position, Strategy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The place of a field: names as managed fields write them, `f:spec`, `k:{"name":"a"}`, `v:"x"`.
type Path = Vec<String>;
/// Every field that an object holds, with its value; an item of a keyed list is a field of its own, without one.
type Leaves = BTreeMap<Path, Value>;

/// A set of fields.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, Debug)]
#[serde(from = "Value", into = "Value")]
pub struct Fields(BTreeSet<Path>);

/// Metadata that the server writes and nobody owns.
pub(super) const SERVER_METADATA: &str = "creationTimestamp deletionGracePeriodSeconds deletionTimestamp generateName generation \
    managedFields name namespace resourceVersion selfLink uid";

/// Returns an object without what nobody owns: its type, name and the server's metadata.
fn ownable(object: &Value) -> Map<String, Value> {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.retain(|name, _| name != "apiVersion" && name != "kind");
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        metadata.retain(|name, _| !SERVER_METADATA.split(' ').any(|server| server == name));
    }
    map.retain(|name, value| name != "metadata" || value.as_object().is_some_and(|m| !m.is_empty()));
    map
}

fn leaves(object: &Value, root: Position<'_>) -> Leaves {
    let mut found = Leaves::new();
    for (name, value) in ownable(object) {
        collect(&value, root.field(&name), vec![format!("f:{name}")], &mut found);
    }
    found
}

fn collect(value: &Value, position: Position<'_>, path: Path, found: &mut Leaves) {
    let below = |name: String| path.iter().cloned().chain([name]).collect::<Path>();
    match (value, position.strategy(value)) {
        (Value::Object(map), Strategy::Map) if !map.is_empty() => {
            for (name, value) in map {
                collect(value, position.field(name), below(format!("f:{name}")), found);
            }
        }
        (Value::Array(items), strategy @ (Strategy::Keyed(_) | Strategy::Set)) if !items.is_empty() => {
            for item in items {
                let Some(key) = strategy.key(item) else { continue };
                if item.is_object() {
                    collect(item, position.item(), below(key.clone()), found);
                }
                found.insert(below(key), Value::Null);
            }
        }
        _ => drop(found.insert(path, value.clone())),
    }
}

/// Compares two objects. Returns the fields that are new or have another value, and those that are gone.
pub(super) fn compare(old: &Value, new: &Value, root: Position<'_>) -> (Fields, Fields) {
    let (old, new) = (leaves(old, root), leaves(new, root));
    let set = new.iter().filter(|(path, value)| old.get(*path) != Some(value));
    let set = set.map(|(path, _)| path.clone()).collect();
    (Fields(set), Fields(old.into_keys().filter(|path| !new.contains_key(path)).collect()))
}

impl Fields {
    /// Returns the fields that an object holds.
    pub fn of(object: &Value, root: Position<'_>) -> Self {
        Self(leaves(object, root).into_keys().collect())
    }

    /// Says whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Takes all of another set out.
    pub fn take(&mut self, other: &Self) {
        self.0.retain(|path| !other.0.contains(path));
    }

    /// Returns what is in both.
    pub fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// Returns the dotted form of every member, `.spec.containers[name="a"].image`.
    pub fn dotted(&self) -> Vec<String> {
        self.0.iter().map(|path| path.iter().map(|name| dotted(name)).collect()).collect()
    }
}

fn dotted(name: &str) -> String {
    if let Some(field) = name.strip_prefix("f:") {
        return format!(".{field}");
    }
    if let Some(Ok(Value::Object(keys))) = name.strip_prefix("k:").map(serde_json::from_str) {
        let keys: Vec<_> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
        return format!("[{}]", keys.join(","));
    }
    format!("[={}]", name.strip_prefix("v:").unwrap_or(name))
}

impl From<Fields> for Value {
    fn from(fields: Fields) -> Self {
        tree(&fields.0.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

fn tree(paths: &[&[String]]) -> Value {
    let mut map = Map::new();
    let below: Vec<_> = paths.iter().filter_map(|path| path.split_first()).collect();
    if !below.is_empty() && below.len() < paths.len() {
        map.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for group in below.chunk_by(|a, b| a.0 == b.0) {
        let rest: Vec<_> = group.iter().map(|(_, rest)| *rest).collect();
        map.insert(group[0].0.clone(), tree(&rest));
    }
    Value::Object(map)
}

impl From<Value> for Fields {
    fn from(value: Value) -> Self {
        fn read(value: &Value, path: &Path, found: &mut BTreeSet<Path>) {
            let map = value.as_object().filter(|map| !map.is_empty());
            if !path.is_empty() && map.is_none_or(|map| map.contains_key(".")) {
                found.insert(path.clone());
            }
            for (name, below) in map.into_iter().flatten().filter(|(name, _)| *name != ".") {
                read(below, &path.iter().chain([name]).cloned().collect(), found);
            }
        }
        let mut found = BTreeSet::new();
        read(&value, &Path::new(), &mut found);
        Self(found)
    }
}

/// Takes fields out of an object, and the containers that are empty then, unless another manager still owns something there.
pub(super) fn prune(object: &mut Value, dropped: &Fields, kept: &Fields) {
    let is_kept = |place: &[String]| kept.0.iter().any(|path| path.starts_with(place));
    // An item before its fields: without its key it could not be found any more.
    for path in &dropped.0 {
        for length in (1..=path.len()).rev() {
            let place = &path[..length];
            let whole = length == path.len() || find(object, place).is_some_and(|v| is_hollow(v));
            if !whole || is_kept(place) {
                break;
            }
            remove(object, place);
        }
    }
}

fn is_hollow(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn find<'a>(object: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |value, name| match value {
        Value::Object(map) => map.get_mut(name.strip_prefix("f:")?),
        Value::Array(items) => {
            let index = index(items, name)?;
            items.get_mut(index)
        }
        _ => None,
    })
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parent)) = path.split_last() else { return };
    match find(object, parent) {
        Some(Value::Object(map)) => drop(map.shift_remove(last.trim_start_matches("f:"))),
        Some(Value::Array(items)) => drop(index(items, last).map(|index| items.remove(index))),
        _ => {}
    }
}

fn index(items: &[Value], name: &str) -> Option<usize> {
    if let Some(keys) = name.strip_prefix("k:") {
        let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
        let fits = |item: &Value, key: &str, value: &Value| match item.get(key) {
            Some(found) => found == value,
            None => key == "protocol" && value == "TCP",
        };
        return items.iter().position(|item| keys.iter().all(|(key, value)| fits(item, key, value)));
    }
    let value: Value = serde_json::from_str(name.strip_prefix("v:")?).ok()?;
    items.iter().position(|item| *item == value)
}
