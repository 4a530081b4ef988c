//! How values merge: which lists are maps by key and which maps are atomic. Built-in kinds go by field names (the markers
//! of k8s.io/api). The schemas of custom kinds are not read: their maps merge, their lists are atomic.

use super::kinds::Kind;
use serde_json::{Map, Value};

/// The place of a value in an object, as far as merging goes by it.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// Whether lists are known by their names, as in built-in kinds.
    native: bool,
    /// Whether some maps are one value.
    atomic: bool,
    /// Whether it is a whole object.
    root: bool,
    /// The field's name; empty for an item of a list.
    name: &'a str,
}

/// How a value merges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// As a whole: scalars, atomic lists and atomic maps.
    Atomic,
    /// Field by field.
    Map,
    /// A list whose items are known by these fields.
    Keyed(&'static [&'static str]),
    /// A list of distinct scalars.
    Set,
}

/// Lists of built-in kinds that merge by key.
const KEYED: &[(&str, &[&str])] = &[
    ("conditions", &["type"]),
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("ownerReferences", &["uid"]),
    ("addresses", &["type"]),
    ("webhooks", &["name"]),
];

/// Maps of built-in kinds that merge as a whole.
const ATOMIC_MAPS: &str = "configMapKeyRef fieldRef labelSelector namespaceSelector nodeSelector objectSelector podSelector \
    resourceFieldRef roleRef secretKeyRef secretRef selector";

impl<'a> Position<'a> {
    /// Returns the position of a whole object, for who owns what of it.
    pub fn root(kind: &Kind) -> Self {
        Self { native: !kind.custom, atomic: true, root: true, name: "" }
    }

    /// Returns the position of a patch of a whole object: all maps merge, and the lists of a strategic one.
    pub fn patch(strategic: bool) -> Self {
        Self { native: strategic, atomic: false, root: false, name: "" }
    }

    /// Returns the position of a field of this map. Metadata is the same for all kinds.
    pub fn field(self, name: &str) -> Position<'_> {
        let native = self.native || self.root && name == "metadata";
        Position { native, root: false, name, ..self }
    }

    /// Returns the position of this list's items.
    pub fn item(self) -> Position<'static> {
        Position { root: false, name: "", ..self }
    }

    /// Says how a value here merges.
    pub fn strategy(self, value: &Value) -> Strategy {
        match value {
            Value::Object(_)
                if self.native && self.atomic && ATOMIC_MAPS.split(' ').any(|n| n == self.name) =>
            {
                Strategy::Atomic
            }
            Value::Object(_) => Strategy::Map,
            Value::Array(items) if self.native => self.list(items),
            _ => Strategy::Atomic,
        }
    }

    fn list(self, items: &[Value]) -> Strategy {
        let has = |key: &str| items.first().is_some_and(|first| first.get(key).is_some());
        let keys: &[&str] = match self.name {
            "finalizers" => return Strategy::Set,
            "ports" if has("containerPort") => &["containerPort", "protocol"],
            "ports" if has("port") => &["port", "protocol"],
            name => KEYED.iter().find(|(list, _)| *list == name).map_or(&[], |(_, keys)| keys),
        };
        // An item without its keys (a volume called "ports", say) makes the list atomic.
        let keyed = !keys.is_empty() && items.iter().all(|item| item_key(item, keys).is_some());
        if keyed { Strategy::Keyed(keys) } else { Strategy::Atomic }
    }
}

impl Strategy {
    /// Returns the managed-fields name of a list's item: `k:{"name":"a"}`, of a set's `v:"x"`.
    pub fn key(&self, item: &Value) -> Option<String> {
        match self {
            Self::Keyed(keys) => item_key(item, keys),
            _ => Some(format!("v:{item}")),
        }
    }
}

fn item_key(item: &Value, keys: &[&str]) -> Option<String> {
    let mut found = Map::new();
    for key in keys {
        let value = item.as_object()?.get(*key).filter(|value| !value.is_null()).cloned();
        found.insert((*key).to_owned(), value.or_else(|| (*key == "protocol").then(|| "TCP".into()))?);
    }
    found.sort_keys();
    Some(format!("k:{}", Value::Object(found)))
}
