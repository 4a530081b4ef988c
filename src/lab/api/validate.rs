//! Checks of what is written: unknown fields of the kinds that `provision` applies, names, labels, and the rules of
//! selectors that manifests run into.

use super::{
    defaults::quantities,
    errors::FieldError,
    kinds::Kind,
    objects::{labels_of, text, without_nulls},
    selector::label_selector,
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
    node::v1::RuntimeClass,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::core::SelectorExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Longest value of a label.
const LABEL_LENGTH: usize = 63;
/// Longest object name.
const NAME_LENGTH: usize = 253;

/// Takes fields out that a kind does not have and returns their dotted paths; a wrong type is an error.
pub(super) fn take_unknown(kind: &Kind, object: &mut Value) -> Result<Vec<String>, String> {
    let known = match kind.id.as_str() {
        "configmaps" => typed::<ConfigMap>(object),
        "namespaces" => typed::<Namespace>(object),
        "secrets" => typed::<Secret>(object),
        "serviceaccounts" => typed::<ServiceAccount>(object),
        "services" => typed::<Service>(object),
        "deployments.apps" => typed::<Deployment>(object),
        "daemonsets.apps" => typed::<DaemonSet>(object),
        "runtimeclasses.node.k8s.io" => typed::<RuntimeClass>(object),
        "clusterroles.rbac.authorization.k8s.io" => typed::<ClusterRole>(object),
        "clusterrolebindings.rbac.authorization.k8s.io" => typed::<ClusterRoleBinding>(object),
        _ => return Ok(Vec::new()),
    }?;
    let mut found = Vec::new();
    compare(object, &known, "", &mut found);
    Ok(found)
}

/// Reads an object into its type and back: what does not come back is unknown.
fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let mut object = object.clone();
    // What k8s-openapi reads more strictly than the API does.
    without_nulls(&mut object);
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.shift_remove("managedFields");
    }
    quantities(&mut object);
    let typed: T = serde_json::from_value(object).map_err(|e| e.to_string())?;
    serde_json::to_value(typed).map_err(|e| e.to_string())
}

fn compare(object: &mut Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match object {
        Value::Object(map) => map.retain(|name, value| {
            let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.get(name) {
                Some(known) => compare(value, known, &place, found),
                None if value.is_null() || name == "managedFields" => {}
                None => {
                    found.push(place);
                    return false;
                }
            }
            true
        }),
        Value::Array(items) => {
            for (at, (item, known)) in
                items.iter_mut().zip(known.as_array().into_iter().flatten()).enumerate()
            {
                compare(item, known, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

/// Checks name and labels.
pub(super) fn metadata(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let name = text(object, "/metadata/name");
    let fits = match kind.group.as_str() {
        "rbac.authorization.k8s.io" => !name.contains(['/', '%']),
        _ => name.len() <= NAME_LENGTH && name.split('.').all(is_label),
    };
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
               start and end with an alphanumeric character";
    let error = (!fits).then(|| FieldError::invalid("metadata.name", &json!(name), why));
    error.into_iter().chain(labels(object, "/metadata/labels", "metadata.labels")).collect()
}

fn labels(object: &Value, pointer: &str, field: &str) -> Vec<FieldError> {
    let mut found = Vec::new();
    for (key, value) in object.pointer(pointer).and_then(Value::as_object).into_iter().flatten() {
        if !is_key(key) {
            found.push(FieldError::invalid(field, &json!(key), "name part must be a qualified name"));
        }
        if !value.as_str().is_some_and(is_label_value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                       and must start and end with an alphanumeric character";
            found.push(FieldError::invalid(field, value, why));
        }
    }
    found
}

fn is_label(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

fn is_label_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= LABEL_LENGTH
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(value.chars().next())
        && edge(value.chars().last())
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(|p| p.split('.').all(is_label))
}

/// Checks the selector of a workload: it is there, selects the template's pods, and does not change.
pub(super) fn selector(kind: &Kind, object: &Value, live: Option<&Value>) -> Vec<FieldError> {
    if kind.group != "apps" {
        return Vec::new();
    }
    let mut found = labels(object, "/spec/template/metadata/labels", "spec.template.metadata.labels");
    let selector = object.pointer("/spec/selector");
    match label_selector(selector.filter(|s| !s.is_null())) {
        None => found.push(FieldError::required("spec.selector", "")),
        Some(read) if !object.pointer("/spec/template").is_some_and(|t| read.matches(&labels_of(t))) => {
            let labels = object.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
            let why = "`selector` does not match template `labels`";
            found.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
        }
        Some(_) => {}
    }
    if let (Some(before), Some(selector)) = (live.and_then(|live| live.pointer("/spec/selector")), selector)
        && before != selector
    {
        found.push(FieldError::invalid("spec.selector", selector, "field is immutable"));
    }
    found
}
