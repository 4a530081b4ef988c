//! Checks of built-in kinds: their types and unknown fields against k8s-openapi, names and labels, and the few rules
//! between fields that manifests run into.

use super::{kinds::Kind, refusal::FieldError, selector::LabelSelector, store::text};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    node::v1::RuntimeClass,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Longest value of a label.
const LABEL_LENGTH: usize = 63;
/// Longest object name.
const NAME_LENGTH: usize = 253;

/// Takes fields out that a built-in kind does not have and returns their dotted paths; a wrong type is an error.
pub fn take_unknown(kind: &Kind, object: &mut Value) -> Result<Vec<String>, String> {
    if kind.id == "secrets" {
        for value in object["data"].as_object().into_iter().flat_map(serde_json::Map::values) {
            if STANDARD.decode(value.as_str().unwrap_or_default()).is_err() {
                return Err("illegal base64 data".to_owned());
            }
        }
    }
    let known = match kind.id.as_str() {
        "configmaps" => typed::<ConfigMap>(object),
        "namespaces" => typed::<Namespace>(object),
        "nodes" => typed::<Node>(object),
        "pods" => typed::<Pod>(object),
        "secrets" => typed::<Secret>(object),
        "serviceaccounts" => typed::<ServiceAccount>(object),
        "services" => typed::<Service>(object),
        "deployments.apps" => typed::<Deployment>(object),
        "daemonsets.apps" => typed::<DaemonSet>(object),
        "runtimeclasses.node.k8s.io" => typed::<RuntimeClass>(object),
        "poddisruptionbudgets.policy" => typed::<PodDisruptionBudget>(object),
        "roles.rbac.authorization.k8s.io" => typed::<Role>(object),
        "rolebindings.rbac.authorization.k8s.io" => typed::<RoleBinding>(object),
        "clusterroles.rbac.authorization.k8s.io" => typed::<ClusterRole>(object),
        "clusterrolebindings.rbac.authorization.k8s.io" => typed::<ClusterRoleBinding>(object),
        "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            typed::<ValidatingWebhookConfiguration>(object)
        }
        _ => return Ok(Vec::new()),
    }?;
    let mut found = Vec::new();
    compare(object, &known, "", &mut found);
    Ok(found)
}

/// Returns the first field of a wrong type and what server-side apply says of it: the one without which it can be read.
pub fn misfit(kind: &Kind, object: &Value) -> Option<(String, String)> {
    fn leaves(value: &Value, pointer: String, path: String, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let escaped = name.replace('~', "~0").replace('/', "~1");
                    leaves(inner, format!("{pointer}/{escaped}"), format!("{path}.{name}"), found);
                }
            }
            Value::Array(items) => {
                for (at, inner) in items.iter().enumerate() {
                    leaves(inner, format!("{pointer}/{at}"), format!("{path}[{at}]"), found);
                }
            }
            _ => found.push((pointer, path)),
        }
    }
    let mut all = Vec::new();
    leaves(object, String::new(), String::new(), &mut all);
    all.into_iter().find_map(|(pointer, path)| {
        let mut without = object.clone();
        let wrong = std::mem::take(without.pointer_mut(&pointer)?);
        let why = take_unknown(kind, &mut object.clone()).err()?;
        take_unknown(kind, &mut without).ok()?;
        let got = match wrong {
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            _ => "unknown",
        };
        let wanted = if why.contains("expected a string") {
            "string"
        } else if why.contains("expected a boolean") {
            "boolean"
        } else {
            "numeric (int or float)"
        };
        Some((path.trim_start_matches('.').to_owned(), format!("expected {wanted}, got {got}")))
    })
}

/// Reads an object into its type and back: what does not come back is unknown.
fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let mut object = object.clone();
    loosen(&mut object);
    let typed: T = serde_json::from_value(object).map_err(|e| e.to_string())?;
    serde_json::to_value(typed).map_err(|e| e.to_string())
}

/// Writes quantities as text and leaves out what k8s-openapi reads more strictly than the API does.
fn loosen(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            for (name, inner) in map.iter_mut() {
                if matches!(name.as_str(), "limits" | "requests" | "capacity" | "allocatable")
                    && let Value::Object(amounts) = inner
                {
                    for amount in amounts.values_mut().filter(|a| a.is_number()) {
                        *amount = json!(amount.to_string());
                    }
                } else if name == "managedFields" {
                    *inner = json!([]);
                } else {
                    loosen(inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

fn compare(object: &mut Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match object {
        Value::Object(map) => {
            let names: Vec<_> = map.keys().cloned().collect();
            for name in names {
                let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if name == "managedFields" {
                    continue;
                }
                match (map.get_mut(&name), known.get(&name)) {
                    (Some(value), Some(known)) => compare(value, known, &place, found),
                    (Some(value), None) if !value.is_null() => {
                        map.shift_remove(&name);
                        found.push(place);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                if let Some(known) = known.get(at) {
                    compare(item, known, &format!("{path}[{at}]"), found);
                }
            }
        }
        _ => {}
    }
}

/// Checks name, labels and annotations.
pub fn metadata(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    let name = text(object, "/metadata/name");
    let path_segment = kind.group == "rbac.authorization.k8s.io";
    let label = matches!(kind.id.as_str(), "namespaces" | "services");
    let fits = if path_segment {
        !name.contains('/') && !name.contains('%')
    } else if label {
        name.len() <= LABEL_LENGTH && is_label(&name)
    } else {
        name.len() <= NAME_LENGTH && name.split('.').all(is_label)
    };
    if !fits {
        let why = if label {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character"
        } else {
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character"
        };
        found.push(FieldError::invalid("metadata.name", &json!(name), why));
    }
    found.extend(labels(object.pointer("/metadata/labels"), "metadata.labels"));
    for finalizer in object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten() {
        let known = ["orphan", "foregroundDeletion"];
        let name = finalizer.as_str().unwrap_or_default();
        if !known.contains(&name) && !name.contains('/') {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            found.push(FieldError::invalid("metadata.finalizers", finalizer, why));
        }
    }
    for (key, value) in
        object.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten()
    {
        if !is_key(key) {
            found.push(FieldError::invalid(
                "metadata.annotations",
                &json!(key),
                "name part must be a qualified name",
            ));
        } else if !value.is_string() {
            found.push(FieldError::wrong_type(format!("metadata.annotations.{key}"), value, "string"));
        }
    }
    found
}

/// An object on its way out takes no more finalizers.
pub fn new_finalizers(live: &Value, object: &Value) -> Option<FieldError> {
    let all = |o: &Value| -> Vec<Value> {
        o.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let before = all(live);
    let new: Vec<String> = all(object).iter().filter(|f| !before.contains(f)).map(Value::to_string).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers [{}]",
        new.join(" ")
    );
    (!new.is_empty()).then(|| FieldError::forbidden("metadata.finalizers", &why))
}

fn labels(labels: Option<&Value>, field: &str) -> Vec<FieldError> {
    let mut found = Vec::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
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

/// Checks the rules between fields of a built-in kind.
pub fn object(kind: &Kind, object: &Value, live: Option<&Value>) -> Vec<FieldError> {
    match kind.id.as_str() {
        "deployments.apps" | "daemonsets.apps" | "replicasets.apps" => workload(object, live),
        "pods" => pod_spec(&object["spec"], "spec"),
        "services" => service(object),
        "nodes" => node(object),
        "secrets" => secret(object, live),
        "leases.coordination.k8s.io" => lease(object),
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" => Vec::new(),
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            let before = live.and_then(|l| l.get("roleRef"));
            match before {
                Some(before) if *before != object["roleRef"] => {
                    vec![FieldError::invalid("roleRef", &object["roleRef"], "cannot change roleRef")]
                }
                _ => Vec::new(),
            }
        }
        "customresourcedefinitions.apiextensions.k8s.io" => definition(object, live),
        _ => Vec::new(),
    }
}

fn workload(object: &Value, live: Option<&Value>) -> Vec<FieldError> {
    let mut found = Vec::new();
    let selector = object.pointer("/spec/selector");
    match LabelSelector::of(selector.filter(|s| !s.is_null())) {
        None => found.push(FieldError::required("spec.selector", "")),
        Some(read) if read.is_empty() => {
            let why = "empty selector is invalid for deployment";
            found.push(FieldError::invalid("spec.selector", &json!(selector), why));
        }
        Some(read) => {
            if !object.pointer("/spec/template").is_some_and(|t| read.matches(t)) {
                let labels = object.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
                let why = "`selector` does not match template `labels`";
                found.push(FieldError::invalid("spec.template.metadata.labels", labels, why));
            }
        }
    }
    if let (Some(live), Some(selector)) = (live, selector)
        && live.pointer("/spec/selector").is_some_and(|before| before != selector)
    {
        found.push(FieldError::invalid("spec.selector", selector, "field is immutable"));
    }
    found.extend(labels(object.pointer("/spec/template/metadata/labels"), "spec.template.metadata.labels"));
    found.extend(pod_spec(
        object.pointer("/spec/template/spec").unwrap_or(&Value::Null),
        "spec.template.spec",
    ));
    found
}

fn pod_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut found = Vec::new();
    let containers = spec["containers"].as_array().cloned().unwrap_or_default();
    if containers.is_empty() {
        found.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<_> =
        spec["volumes"].as_array().into_iter().flatten().map(|v| v["name"].clone()).collect();
    for (list, at, container) in containers.iter().enumerate().map(|(at, c)| ("containers", at, c)).chain(
        spec["initContainers"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(at, c)| ("initContainers", at, c)),
    ) {
        let place = format!("{path}.{list}[{at}]");
        for key in ["name", "image"] {
            if container[key].as_str().is_none_or(str::is_empty) {
                found.push(FieldError::required(format!("{place}.{key}"), ""));
            }
        }
        for (index, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
            if !volumes.contains(&mount["name"]) {
                found.push(FieldError {
                    field: format!("{place}.volumeMounts[{index}].name"),
                    reason: "FieldValueNotFound",
                    message: format!("Not found: {}", mount["name"]),
                });
            }
        }
        found.extend(extended_resources(container, &place));
    }
    found
}

/// Extended resources cannot be overcommitted: limit and request are one number.
fn extended_resources(container: &Value, place: &str) -> Vec<FieldError> {
    let limits = container.pointer("/resources/limits");
    let requests = container.pointer("/resources/requests").and_then(Value::as_object);
    requests
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.contains('/'))
        .filter_map(|(name, amount)| {
            let field = format!("{place}.resources.requests");
            match limits.and_then(|l| l.get(name)) {
                None => Some(FieldError::required(
                    format!("{place}.resources.limits"),
                    "Limit must be set for non overcommitable resources",
                )),
                Some(limit) if limit != amount => Some(FieldError::invalid(
                    field,
                    amount,
                    &format!("must be equal to {name} limit of {limit}"),
                )),
                Some(_) => None,
            }
        })
        .collect()
}

fn service(object: &Value) -> Vec<FieldError> {
    let ports = object.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut found = Vec::new();
    if ports.is_empty() && object.pointer("/spec/clusterIP") != Some(&json!("None")) {
        found.push(FieldError::required("spec.ports", ""));
    }
    for (at, port) in ports.iter().enumerate() {
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            found.push(FieldError::required(format!("spec.ports[{at}].name"), ""));
        }
        if !port["port"].as_u64().is_some_and(|p| (1..=65_535).contains(&p)) {
            let why = "must be between 1 and 65535, inclusive";
            found.push(FieldError::invalid(format!("spec.ports[{at}].port"), &port["port"], why));
        }
    }
    found
}

fn secret(object: &Value, live: Option<&Value>) -> Vec<FieldError> {
    match live.and_then(|live| live.get("type")) {
        Some(before) if *before != object["type"] => {
            vec![FieldError::invalid("type", &object["type"], "field is immutable")]
        }
        _ => Vec::new(),
    }
}

fn lease(object: &Value) -> Vec<FieldError> {
    match object.pointer("/spec/leaseDurationSeconds") {
        Some(seconds) if seconds.as_i64().is_some_and(|s| s <= 0) => {
            vec![FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")]
        }
        _ => Vec::new(),
    }
}

fn node(object: &Value) -> Vec<FieldError> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let taints = object.pointer("/spec/taints").and_then(Value::as_array);
    let mut found = Vec::new();
    for (at, taint) in taints.into_iter().flatten().enumerate() {
        if taint["key"].as_str().is_none_or(|k| !is_key(k)) {
            let why = "name part must be a qualified name";
            found.push(FieldError::invalid(format!("metadata.taints[{at}].key"), &taint["key"], why));
        }
        if !taint["effect"].as_str().is_some_and(|e| effects.contains(&e)) {
            let allowed = effects.map(str::to_owned);
            found.push(FieldError::unsupported(
                format!("metadata.taints[{at}].effect"),
                &taint["effect"],
                &allowed,
            ));
        }
        let before = taints.into_iter().flatten().take(at);
        if before.into_iter().any(|t| (&t["key"], &t["effect"]) == (&taint["key"], &taint["effect"])) {
            found.push(FieldError::duplicate(format!("metadata.taints[{at}]"), taint));
        }
    }
    found
}

fn definition(object: &Value, live: Option<&Value>) -> Vec<FieldError> {
    let wanted = format!("{}.{}", text(object, "/spec/names/plural"), text(object, "/spec/group"));
    let mut found = Vec::new();
    if text(object, "/metadata/name") != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        found.push(FieldError::invalid("metadata.name", &object["metadata"]["name"], why));
    }
    let versions = object.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        found.push(FieldError::invalid("spec.versions", &json!(versions.len()), why));
    }
    for (at, version) in versions.iter().enumerate() {
        let place = format!("spec.versions[{at}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            Some(schema) if !schema.is_null() => {
                structural(schema, "spec.validation.openAPIV3Schema", &mut found)
            }
            _ => found.push(FieldError::required(place, "")),
        }
    }
    // A version that objects may be stored in stays until nobody is.
    let stored = live.and_then(|l| l.pointer("/status/storedVersions")).and_then(Value::as_array);
    for (at, name) in stored.into_iter().flatten().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let why = format!(
                "missing from spec.versions; {} was previously a storage version, and must remain in spec.versions until a \
                 storage migration ensures no data remains persisted in it and removes it from status.storedVersions",
                name.as_str().unwrap_or_default()
            );
            found.push(FieldError::invalid(format!("status.storedVersions[{at}]"), name, &why));
        }
    }
    found
}

/// Every place of a schema says what it is.
fn structural(schema: &Value, path: &str, found: &mut Vec<FieldError>) {
    let open = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    let typed = schema["type"].as_str().is_some_and(|t| !t.is_empty());
    if !typed && !open.iter().any(|key| schema[*key] == true) {
        found.push(FieldError::required(
            format!("{path}.type"),
            "must not be empty for specified object fields",
        ));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        structural(inner, &format!("{path}.properties[{name}]"), found);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            structural(&schema[key], &format!("{path}.{key}"), found);
        }
    }
}
