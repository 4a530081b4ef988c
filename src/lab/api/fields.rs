//! Sets of fields, as `metadata.managedFields` writes them (`FieldsV1`): what an object holds, what two objects differ
//! in, and the set operations that ownership needs.

use super::shape::{Form, Shape, value_key};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A tree of fields. `here` says that the place itself is a member; `below` goes by `f:`, `k:` and `v:` names.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Fields {
    /// The place itself is a member.
    pub here: bool,
    /// What is below it.
    pub below: BTreeMap<String, Fields>,
}

/// Metadata that the server writes and nobody owns.
const SERVER_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Returns an object without what nobody owns: its type, name and the server's metadata.
pub fn ownable(object: &Value) -> Value {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.shift_remove("apiVersion");
    map.shift_remove("kind");
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        for name in SERVER_METADATA {
            metadata.shift_remove(*name);
        }
        if metadata.is_empty() {
            map.shift_remove("metadata");
        }
    }
    Value::Object(map)
}

impl Fields {
    fn leaf() -> Self {
        Self { here: true, below: BTreeMap::new() }
    }

    /// Returns the fields that an object (already [`ownable`]) holds.
    pub fn of(object: &Value, shape: Shape<'_>) -> Self {
        let mut fields = Self::default();
        if let Value::Object(map) = object {
            for (name, value) in map {
                fields.below.insert(format!("f:{name}"), Self::of_value(value, shape.top_field(name)));
            }
        }
        fields
    }

    fn of_value(value: &Value, shape: Shape<'_>) -> Self {
        match (value, shape.form(value)) {
            (Value::Object(map), Form::Map) if !map.is_empty() => {
                let below =
                    map.iter().map(|(k, v)| (format!("f:{k}"), Self::of_value(v, shape.field(k)))).collect();
                Self { here: false, below }
            }
            (Value::Array(items), Form::Keyed(keys)) if !items.is_empty() => {
                let below = items
                    .iter()
                    .filter_map(|item| {
                        let mut fields = Self::of_value(item, shape.item());
                        fields.here = true;
                        Some((shape.key_of(item, &keys)?, fields))
                    })
                    .collect();
                Self { here: false, below }
            }
            (Value::Array(items), Form::Set) if !items.is_empty() => {
                Self { here: false, below: items.iter().map(|i| (value_key(i), Self::leaf())).collect() }
            }
            _ => Self::leaf(),
        }
    }

    /// Says whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.here && self.below.values().all(Self::is_empty)
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Self) {
        self.here |= other.here;
        for (name, theirs) in &other.below {
            self.below.entry(name.clone()).or_default().add(theirs);
        }
    }

    /// Takes all of another set out.
    pub fn take(&mut self, other: &Self) {
        if other.here {
            self.here = false;
        }
        for (name, theirs) in &other.below {
            if let Some(mine) = self.below.get_mut(name) {
                mine.take(theirs);
                if mine.is_empty() {
                    self.below.remove(name);
                }
            }
        }
    }

    /// Returns what is in both.
    pub fn common(&self, other: &Self) -> Self {
        let below = self
            .below
            .iter()
            .filter_map(|(name, mine)| {
                let both = mine.common(other.below.get(name)?);
                (!both.is_empty()).then(|| (name.clone(), both))
            })
            .collect();
        Self { here: self.here && other.here, below }
    }

    /// Returns the dotted form of every member, `.spec.containers[name="a"].image`.
    pub fn dotted(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.walk(String::new(), &mut found);
        found
    }

    fn walk(&self, path: String, found: &mut Vec<String>) {
        if self.here {
            found.push(path.clone());
        }
        for (name, below) in &self.below {
            below.walk(format!("{path}{}", dotted(name)), found);
        }
    }

    /// Returns the `fieldsV1` form.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.here && !self.below.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (name, below) in &self.below {
            map.insert(name.clone(), below.to_json());
        }
        Value::Object(map)
    }

    /// Reads the `fieldsV1` form.
    pub fn from_json(value: &Value) -> Self {
        fn node(value: &Value) -> Fields {
            let Value::Object(map) = value else { return Fields::leaf() };
            let below: BTreeMap<_, _> =
                map.iter().filter(|(k, _)| *k != ".").map(|(k, v)| (k.clone(), node(v))).collect();
            Fields { here: map.contains_key(".") || below.is_empty(), below }
        }
        let mut root = node(value);
        root.here = false;
        root
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

/// Returns a place such as `spec.containers[0].image` as server-side apply writes it, `.spec.containers[name="a"].image`.
pub fn dotted_place(path: &str, object: &Value, shape: Shape<'_>) -> String {
    let (mut value, mut shape, mut top, mut found) = (object, shape, true, String::new());
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indices) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        shape = if top { shape.top_field(name) } else { shape.field(name) };
        top = false;
        value = &value[name];
        found.push_str(&format!(".{name}"));
        for index in indices.split('[').filter_map(|i| i.trim_end_matches(']').parse::<usize>().ok()) {
            let key = match shape.form(value) {
                Form::Keyed(keys) => shape.key_of(&value[index], &keys).map(|key| dotted(&key)),
                _ => None,
            };
            found.push_str(&key.unwrap_or_else(|| format!("[{index}]")));
            (value, shape) = (&value[index], shape.item());
        }
    }
    found
}

/// Returns the first list in which two items have one key, and that key.
pub fn duplicate(object: &Value, shape: Shape<'_>) -> Option<(String, String)> {
    object
        .as_object()?
        .iter()
        .find_map(|(name, value)| duplicate_below(value, shape.top_field(name), name.clone()))
}

fn duplicate_below(value: &Value, shape: Shape<'_>, path: String) -> Option<(String, String)> {
    match value {
        Value::Object(map) => {
            map.iter().find_map(|(name, v)| duplicate_below(v, shape.field(name), format!("{path}.{name}")))
        }
        Value::Array(items) => {
            if let Form::Keyed(keys) = shape.form(value) {
                let mut seen: Vec<String> = Vec::new();
                for key in items.iter().filter_map(|item| shape.key_of(item, &keys)) {
                    if seen.contains(&key) {
                        return Some((path, dotted(&key)));
                    }
                    seen.push(key);
                }
            }
            let inside =
                |(at, item): (usize, &Value)| duplicate_below(item, shape.item(), format!("{path}[{at}]"));
            items.iter().enumerate().find_map(inside)
        }
        _ => None,
    }
}

/// Marks maps of plain texts that a write brought as its own, as the real one does for writes that are not an apply: the
/// map then stays, empty, when its last key goes.
pub fn own_new_maps(set: &mut Fields, old: &Value) {
    const PLAIN: [&str; 5] = ["annotations", "binaryData", "data", "labels", "matchLabels"];
    for (name, fields) in &mut set.below {
        let Some(field) = name.strip_prefix("f:") else { continue };
        let before = &old[field];
        if PLAIN.contains(&field) && before.is_null() && !fields.below.is_empty() {
            fields.here = true;
        }
        own_new_maps(fields, before);
    }
}

/// What differs between two objects.
#[derive(Default, Debug)]
pub struct Difference {
    /// Fields that are new or have another value.
    pub set: Fields,
    /// Fields that are gone.
    pub gone: Fields,
}

/// Compares two objects (already [`ownable`]).
pub fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> Difference {
    let mut found = Difference::default();
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    compare_maps(old, new, &|name| shape.top_field(name), &mut found);
    found
}

fn compare_maps<'a>(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    shape: &dyn Fn(&str) -> Shape<'a>,
    found: &mut Difference,
) {
    for (name, value) in new {
        let place = format!("f:{name}");
        match old.get(name) {
            None => put(&mut found.set, place, Fields::of_value(value, shape(name))),
            Some(before) => descend(before, value, shape(name), place, found),
        }
    }
    for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        put(&mut found.gone, format!("f:{name}"), Fields::of_value(value, shape(name)));
    }
}

fn descend(old: &Value, new: &Value, shape: Shape<'_>, place: String, found: &mut Difference) {
    if old == new {
        return;
    }
    let mut inner = Difference::default();
    match (old, new, shape.form(old), shape.form(new)) {
        (Value::Object(a), Value::Object(b), Form::Map, Form::Map) if !a.is_empty() && !b.is_empty() => {
            compare_maps(a, b, &|name| shape.field(name), &mut inner);
        }
        (Value::Array(a), Value::Array(b), Form::Keyed(_), Form::Keyed(keys)) => {
            let by_key = |items: &[Value]| -> BTreeMap<String, Value> {
                items.iter().filter_map(|i| Some((shape.key_of(i, &keys)?, i.clone()))).collect()
            };
            let (a, b) = (by_key(a), by_key(b));
            for (key, item) in &b {
                match a.get(key) {
                    None => put(&mut inner.set, key.clone(), item_fields(item, shape)),
                    Some(before) => descend(before, item, shape.item(), key.clone(), &mut inner),
                }
            }
            for (key, item) in a.iter().filter(|(key, _)| !b.contains_key(*key)) {
                put(&mut inner.gone, key.clone(), item_fields(item, shape));
            }
        }
        (Value::Array(a), Value::Array(b), Form::Set, Form::Set) => {
            for item in b.iter().filter(|i| !a.contains(i)) {
                put(&mut inner.set, value_key(item), Fields::leaf());
            }
            for item in a.iter().filter(|i| !b.contains(i)) {
                put(&mut inner.gone, value_key(item), Fields::leaf());
            }
        }
        (_, _, before, after) => {
            // A value whose kind of merging changed (an empty map filled, a list replaced by a scalar).
            if before != Form::Atomic || !old.is_null() {
                inner.gone = Fields::of_value(old, shape);
            }
            inner.set = Fields::of_value(new, shape);
            if before == after {
                inner.gone.take(&inner.set);
            }
        }
    }
    put(&mut found.set, place.clone(), inner.set);
    put(&mut found.gone, place, inner.gone);
}

fn item_fields(item: &Value, shape: Shape<'_>) -> Fields {
    let mut fields = Fields::of_value(item, shape.item());
    fields.here = true;
    fields
}

fn put(into: &mut Fields, place: String, fields: Fields) {
    if !fields.is_empty() {
        into.below.entry(place).or_default().add(&fields);
    }
}

/// Takes fields out of an object: `drop` are the members to take, `kept` the fields that somebody still owns.
pub fn prune(object: &mut Value, drop: &Fields, kept: &Fields, shape: Shape<'_>) {
    let Value::Object(map) = object else { return };
    for (name, fields) in &drop.below {
        let Some(field) = name.strip_prefix("f:") else { continue };
        let keep = kept.below.get(name);
        prune_entry(map, field, fields, keep, shape.top_field(field));
    }
}

fn prune_entry(
    map: &mut Map<String, Value>,
    field: &str,
    drop: &Fields,
    kept: Option<&Fields>,
    shape: Shape<'_>,
) {
    let Some(value) = map.get_mut(field) else { return };
    let empty = Fields::default();
    if drop.here && kept.is_none_or(Fields::is_empty) {
        map.shift_remove(field);
        return;
    }
    prune_value(value, drop, kept.unwrap_or(&empty), shape);
    let hollow = match value {
        Value::Object(inner) => inner.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if hollow && kept.is_none_or(Fields::is_empty) {
        map.shift_remove(field);
    }
}

fn prune_value(value: &mut Value, drop: &Fields, kept: &Fields, shape: Shape<'_>) {
    let form = shape.form(value);
    match (value, form) {
        (Value::Object(map), _) => {
            for (name, fields) in &drop.below {
                if let Some(field) = name.strip_prefix("f:") {
                    prune_entry(map, field, fields, kept.below.get(name), shape.field(field));
                }
            }
        }
        (Value::Array(items), Form::Keyed(keys)) => items.retain_mut(|item| {
            let Some(key) = shape.key_of(item, &keys) else { return true };
            let Some(fields) = drop.below.get(&key) else { return true };
            let empty = Fields::default();
            let keep = kept.below.get(&key).unwrap_or(&empty);
            if fields.here && keep.is_empty() {
                return false;
            }
            prune_value(item, fields, keep, shape.item());
            true
        }),
        (Value::Array(items), Form::Set) => items.retain(|item| {
            let key = value_key(item);
            !drop.below.contains_key(&key) || kept.below.contains_key(&key)
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_survives_its_written_form() {
        let object = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["x"]}]}});
        let fields = Fields::of(&object, Shape::native());
        assert_eq!(Fields::from_json(&fields.to_json()), fields);
        assert_eq!(
            fields.to_json().pointer("/f:spec/f:containers"),
            Some(
                &json!({r#"k:{"name":"c"}"#: {".": {}, "f:args": {}, "f:image": {}, "f:name": {}, "f:ports": {
                r#"k:{"containerPort":80,"protocol":"TCP"}"#: {".": {}, "f:containerPort": {}}}}})
            )
        );
    }

    #[test]
    fn a_difference_names_leaves() {
        let old = json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}});
        let new = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "2"}, {"name": "b", "image": "1"}]}}}});
        let found = compare(&old, &new, Shape::native());
        assert_eq!(found.gone.dotted(), [".spec.replicas"]);
        assert_eq!(
            found.set.dotted(),
            [
                ".spec.template.spec.containers[name=\"a\"].image",
                ".spec.template.spec.containers[name=\"b\"]",
                ".spec.template.spec.containers[name=\"b\"].image",
                ".spec.template.spec.containers[name=\"b\"].name",
            ]
        );
    }
}
