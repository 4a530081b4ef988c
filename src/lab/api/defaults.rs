//! What the API fills into built-in kinds, as far as a later comparison could notice.

use super::{kinds::Kind, objects::text};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Defaults of a kind, one a line: a path, whose parent must be there, and the value.
const DEFAULTS: &[(&str, &str)] = &[
    (
        "namespaces",
        r#"metadata/labels {}
        spec {"finalizers": ["kubernetes"]}
        status {}
        status/phase "Active""#,
    ),
    ("secrets", r#"type "Opaque""#),
    (
        "services",
        r#"spec/type "ClusterIP"
        spec/ports/*/protocol "TCP""#,
    ),
    (
        "pods",
        r#"status {}
        status/phase "Pending""#,
    ),
    ("deployments.apps", "spec/replicas 1"),
    ("customresourcedefinitions.apiextensions.k8s.io", r#"spec/conversion {"strategy": "None"}"#),
];

/// Completes an object of a built-in kind.
pub(super) fn fill(kind: &Kind, object: &mut Value) {
    for (_, table) in DEFAULTS.iter().filter(|(id, _)| *id == kind.id) {
        fill_table(object, table);
    }
    match kind.id.as_str() {
        "namespaces" => {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = object["metadata"]["name"].clone();
        }
        "secrets" => secret(object),
        "services" => {
            for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
                let number = port["port"].clone();
                fill_path(port, "targetPort", &number);
            }
        }
        "customresourcedefinitions.apiextensions.k8s.io" => {
            let kind = text(object, "/spec/names/kind");
            fill_path(object, "spec/names/listKind", &json!(format!("{kind}List")));
            fill_path(object, "spec/names/singular", &json!(kind.to_lowercase()));
        }
        _ => {}
    }
    quantities(object);
}

fn fill_table(value: &mut Value, table: &str) {
    for (path, default) in table.lines().filter_map(|line| line.trim().split_once(' ')) {
        fill_path(value, path, &serde_json::from_str(default).unwrap_or_default());
    }
}

/// Sets a field that is not there; leaves alone what is no map.
fn fill_path(value: &mut Value, path: &str, default: &Value) {
    let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
    match (value, rest) {
        (Value::Array(items), Some(rest)) => {
            items.iter_mut().for_each(|item| fill_path(item, rest, default));
        }
        (Value::Object(map), Some(rest)) => {
            if let Some(inner) = map.get_mut(name) {
                fill_path(inner, rest, default);
            }
        }
        (Value::Object(map), None) if map.get(name).is_none_or(Value::is_null) => {
            map.insert(name.to_owned(), default.clone());
        }
        _ => {}
    }
}

fn secret(object: &mut Value) {
    let Value::Object(map) = object else { return };
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else { return };
    let data = map.entry("data").or_insert_with(|| json!({}));
    for (key, value) in plain {
        data[key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

/// Writes quantities as text, however they came.
pub(super) fn quantities(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, inner)| match inner {
            Value::Object(amounts)
                if matches!(name.as_str(), "limits" | "requests" | "capacity" | "allocatable") =>
            {
                for amount in amounts.values_mut().filter(|amount| amount.is_number()) {
                    *amount = json!(amount.to_string());
                }
            }
            inner => quantities(inner),
        }),
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}
