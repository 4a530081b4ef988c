//! How values merge: which lists are maps by key, which maps are atomic. Built-in kinds go by field names (the markers of
//! k8s.io/api), custom kinds by the `x-kubernetes-*` of their schema, everything unknown is atomic.

use serde_json::Value;

/// What is known of a value from its place.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// A field of a built-in kind, by name; empty for names that mean nothing special.
    Native(&'static str),
    /// A node of an OpenAPI schema.
    Schema(&'a Value),
    /// Nothing is known.
    Unknown,
}

/// How a value merges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// As a whole: scalars, atomic lists and atomic maps.
    Atomic,
    /// Field by field.
    Map,
    /// A list whose items are known by these fields.
    Keyed(Vec<String>),
    /// A list of distinct scalars.
    Set,
}

/// Lists of built-in kinds that merge by key.
const KEYED: &[(&str, &[&str])] = &[
    ("conditions", &["type"]),
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("podIPs", &["ip"]),
    ("hostIPs", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("ownerReferences", &["uid"]),
    ("addresses", &["type"]),
    ("webhooks", &["name"]),
    ("matchConditions", &["name"]),
    ("resourceClaims", &["name"]),
    ("claims", &["name"]),
    ("schedulingGates", &["name"]),
];

/// Maps of built-in kinds that merge as a whole.
const ATOMIC_MAPS: &[&str] = &[
    "configMapKeyRef",
    "fieldRef",
    "labelSelector",
    "namespaceSelector",
    "nodeSelector",
    "objectSelector",
    "podSelector",
    "resourceFieldRef",
    "roleRef",
    "secretKeyRef",
    "secretRef",
    "selector",
];

const OTHERS: &[&str] = &["finalizers", "ports", "metadata"];

impl<'a> Shape<'a> {
    /// Returns the shape of an object of a built-in kind.
    pub fn native() -> Self {
        Shape::Native("")
    }

    /// Returns the shape of a field of this map.
    pub fn field(self, name: &str) -> Shape<'a> {
        match self {
            Shape::Native(_) => Shape::Native(intern(name)),
            Shape::Unknown => Shape::Unknown,
            Shape::Schema(schema) => {
                if let Some(found) = schema.get("properties").and_then(|p| p.get(name)) {
                    return Shape::Schema(found);
                }
                match schema.get("additionalProperties") {
                    Some(found @ Value::Object(_)) => Shape::Schema(found),
                    _ => Shape::Unknown,
                }
            }
        }
    }

    /// Returns the shape of a field of the object itself: metadata is the same for all kinds.
    pub fn top_field(self, name: &str) -> Shape<'a> {
        if name == "metadata" { Shape::Native("metadata") } else { self.field(name) }
    }

    /// Returns the shape of this list's items.
    pub fn item(self) -> Shape<'a> {
        match self {
            Shape::Schema(schema) => schema.get("items").map_or(Shape::Unknown, Shape::Schema),
            Shape::Native(_) => Shape::Native(""),
            Shape::Unknown => Shape::Unknown,
        }
    }

    /// Says how a value here merges.
    pub fn form(self, value: &Value) -> Form {
        match value {
            Value::Object(_) => match self {
                Shape::Native(name) if ATOMIC_MAPS.contains(&name) => Form::Atomic,
                Shape::Schema(s)
                    if s.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic") =>
                {
                    Form::Atomic
                }
                _ => Form::Map,
            },
            Value::Array(items) => self.list_form(items),
            _ => Form::Atomic,
        }
    }

    fn list_form(self, items: &[Value]) -> Form {
        let form = match self {
            Shape::Native("finalizers") => Form::Set,
            Shape::Native("ports") => match items.first() {
                Some(first) if first.get("containerPort").is_some() => keyed(&["containerPort", "protocol"]),
                Some(first) if first.get("port").is_some() => keyed(&["port", "protocol"]),
                _ => Form::Atomic,
            },
            Shape::Native(name) => {
                KEYED.iter().find(|(list, _)| *list == name).map_or(Form::Atomic, |(_, keys)| keyed(keys))
            }
            Shape::Schema(schema) => match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("map") => Form::Keyed(
                    schema
                        .get("x-kubernetes-list-map-keys")
                        .and_then(Value::as_array)
                        .map(|keys| keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                        .unwrap_or_default(),
                ),
                Some("set") => Form::Set,
                _ => Form::Atomic,
            },
            Shape::Unknown => Form::Atomic,
        };
        // An item without its keys (a secret named "secrets", a volume called "ports") makes the list atomic.
        match &form {
            Form::Keyed(keys) if items.iter().any(|item| self.key_of(item, keys).is_none()) => Form::Atomic,
            Form::Set if items.iter().any(|item| item.is_object() || item.is_array()) => Form::Atomic,
            _ => form,
        }
    }

    /// Returns the managed-fields name of an item, `k:{"name":"a"}`.
    pub fn key_of(self, item: &Value, keys: &[String]) -> Option<String> {
        let map = item.as_object()?;
        let mut found: Vec<(&String, Value)> = Vec::with_capacity(keys.len());
        for key in keys {
            let value = match map.get(key) {
                Some(value) if !value.is_null() => value.clone(),
                _ => self.key_default(key)?,
            };
            found.push((key, value));
        }
        found.sort_by(|a, b| a.0.cmp(b.0));
        let fields: Vec<_> =
            found.iter().map(|(key, value)| format!("{}:{value}", Value::String((*key).clone()))).collect();
        Some(format!("k:{{{}}}", fields.join(",")))
    }

    fn key_default(self, key: &str) -> Option<Value> {
        match self {
            Shape::Native("ports") if key == "protocol" => Some(Value::String("TCP".into())),
            Shape::Schema(schema) => schema.pointer(&format!("/items/properties/{key}/default")).cloned(),
            _ => None,
        }
    }
}

fn keyed(keys: &[&str]) -> Form {
    Form::Keyed(keys.iter().map(|k| (*k).to_owned()).collect())
}

fn intern(name: &str) -> &'static str {
    let keyed = KEYED.iter().map(|(list, _)| *list);
    keyed
        .chain(ATOMIC_MAPS.iter().copied())
        .chain(OTHERS.iter().copied())
        .find(|known| *known == name)
        .unwrap_or("")
}

/// Returns the managed-fields name of a set's item, `v:"x"`.
pub fn value_key(item: &Value) -> String {
    format!("v:{item}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_go_by_number_and_protocol_with_its_default() {
        let ports = Shape::native().field("ports");
        let list = json!([{"containerPort": 80}]);
        let Form::Keyed(keys) = ports.form(&list) else { panic!("ports merge by key") };
        assert_eq!(
            ports.key_of(&list[0], &keys).as_deref(),
            Some(r#"k:{"containerPort":80,"protocol":"TCP"}"#)
        );
    }

    #[test]
    fn custom_lists_are_atomic_unless_their_schema_says_otherwise() {
        let schema = json!({"properties": {
            "listeners": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "parentRefs": {"type": "array"},
        }});
        let list = json!([{"name": "a"}]);
        assert_eq!(Shape::Schema(&schema).field("listeners").form(&list), keyed(&["name"]));
        assert_eq!(Shape::Schema(&schema).field("parentRefs").form(&list), Form::Atomic);
    }
}
