//! What the API fills into built-in kinds, as far as a later comparison could notice.

use super::{kinds::Kind, objects::text};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Completes an object of a built-in kind.
pub(super) fn fill(kind: &Kind, object: &mut Value) {
    let defaults = match kind.id.as_str() {
        "namespaces" => {
            let labels = json!({"kubernetes.io/metadata.name": object["metadata"]["name"]});
            json!({"metadata": {"labels": labels}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        }
        "secrets" => {
            secret(object);
            json!({"type": "Opaque"})
        }
        "services" => {
            for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
                let number = port["port"].clone();
                complete(port, &json!({"targetPort": number, "protocol": "TCP"}));
            }
            json!({"spec": {"type": "ClusterIP"}})
        }
        "pods" => json!({"status": {"phase": "Pending"}}),
        "deployments.apps" => json!({"spec": {"replicas": 1}}),
        "customresourcedefinitions.apiextensions.k8s.io" => {
            let kind = text(object, "/spec/names/kind");
            let names = json!({"listKind": format!("{kind}List"), "singular": kind.to_lowercase()});
            json!({"spec": {"conversion": {"strategy": "None"}, "names": names}})
        }
        _ => Value::Null,
    };
    complete(object, &defaults);
    quantities(object);
}

/// Sets fields that are not there.
fn complete(value: &mut Value, defaults: &Value) {
    let (Value::Object(map), Value::Object(defaults)) = (value, defaults) else { return };
    for (name, default) in defaults {
        match map.get_mut(name) {
            Some(there) if !there.is_null() => complete(there, default),
            _ => drop(map.insert(name.clone(), default.clone())),
        }
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
