//! Custom objects against their OpenAPI schema: unknown fields, defaults, values.

use super::refusal::FieldError;
use serde_json::{Value, json};

/// Takes fields out that the schema does not know and returns their dotted paths.
pub fn take_unknown(object: &mut Value, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Value::Object(map) = object {
        let names: Vec<_> = map.keys().cloned().collect();
        for name in names {
            if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            take_field(map, &name, schema, "", &mut found);
        }
    }
    found
}

fn take_field(
    map: &mut serde_json::Map<String, Value>,
    name: &str,
    schema: &Value,
    path: &str,
    found: &mut Vec<String>,
) {
    let place = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let known = schema.get("properties").and_then(|p| p.get(name));
    let extra = schema.get("additionalProperties").filter(|a| **a != Value::Bool(false));
    match known.or(extra) {
        Some(inner) => {
            if let Some(value) = map.get_mut(name) {
                take_inside(value, inner, &place, found);
            }
        }
        None if open => {}
        None => {
            map.shift_remove(name);
            found.push(place);
        }
    }
}

fn take_inside(value: &mut Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let free = schema.get("properties").is_none()
                && schema.get("additionalProperties").is_none()
                && (schema.get("type").is_none() || schema.get("x-kubernetes-embedded-resource").is_some());
            if free {
                return;
            }
            let names: Vec<_> = map.keys().cloned().collect();
            for name in names {
                take_field(map, &name, schema, path, found);
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (at, item) in items.iter_mut().enumerate() {
                    take_inside(item, inner, &format!("{path}[{at}]"), found);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults.
pub fn fill_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if name == "metadata" {
                    continue;
                }
                if let Some(default) = inner.get("default")
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(name) {
                    fill_defaults(value, inner);
                }
            }
            if let Some(inner @ Value::Object(_)) = schema.get("additionalProperties") {
                map.values_mut().for_each(|value| fill_defaults(value, inner));
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| fill_defaults(item, inner));
            }
        }
        _ => {}
    }
}

/// Returns what is wrong with an object.
pub fn check(object: &Value, live: Option<&Value>, schema: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    check_value(object, live, schema, "", &mut found);
    found
}

fn check_value(value: &Value, live: Option<&Value>, schema: &Value, path: &str, found: &mut Vec<FieldError>) {
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    if !has_type(value, schema) {
        let want = schema.get("type").and_then(Value::as_str).unwrap_or("integer,string");
        found.push(FieldError::wrong_type(path, value, want));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<_> =
            allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned)).collect();
        found.push(FieldError::unsupported(path, value, &allowed));
    }
    check_limits(value, schema, path, found);
    if let Some(live) = live {
        check_transitions(value, live, schema, path, found);
    }
    match value {
        Value::Object(map) => {
            for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                let name = required.as_str().unwrap_or_default();
                if !map.contains_key(name) {
                    found.push(FieldError::required(join(path, name), ""));
                }
            }
            for (name, inner) in map {
                if path.is_empty() && name == "metadata" {
                    continue;
                }
                let known = schema.get("properties").and_then(|p| p.get(name));
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    check_value(inner, live.and_then(|l| l.get(name)), schema, &join(path, name), found);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    check_value(item, None, inner, &format!("{path}[{at}]"), found);
                }
            }
        }
        _ => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn has_type(value: &Value, schema: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn check_limits(value: &Value, schema: &Value, path: &str, found: &mut Vec<FieldError>) {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(number) = value.as_f64() {
        if limit("minimum").is_some_and(|least| number < least) {
            let why = format!("{path} in body should be greater than or equal to {}", schema["minimum"]);
            found.push(FieldError::invalid(path, value, &why));
        }
        if limit("maximum").is_some_and(|most| number > most) {
            let why = format!("{path} in body should be less than or equal to {}", schema["maximum"]);
            found.push(FieldError::invalid(path, value, &why));
        }
    }
    let size = |low: &str, high: &str, length: usize, found: &mut Vec<FieldError>, unit: &str| {
        #[allow(clippy::cast_precision_loss, reason = "lengths here are far below 2^52")]
        let length = length as f64;
        if limit(low).is_some_and(|least| length < least) {
            let why = format!("{path} in body should have at least {} {unit}", schema[low]);
            found.push(FieldError::invalid(path, value, &why));
        }
        if limit(high).is_some_and(|most| length > most) {
            found.push(match value {
                Value::String(_) => FieldError::too_long(path, &schema[high]),
                Value::Array(items) => FieldError::too_many(path, items.len(), &schema[high]),
                _ => {
                    let why = format!("{path} in body should have at most {} {unit}", schema[high]);
                    FieldError::invalid(path, value, &why)
                }
            });
        }
    };
    match value {
        Value::String(text) => {
            size("minLength", "maxLength", text.chars().count(), found, "chars long");
            if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
                && regex::Regex::new(pattern).is_ok_and(|r| !r.is_match(text))
            {
                let why = format!("{path} in body should match '{pattern}'");
                found.push(FieldError::invalid(path, value, &why));
            }
        }
        Value::Array(items) => size("minItems", "maxItems", items.len(), found, "items"),
        Value::Object(map) => size("minProperties", "maxProperties", map.len(), found, "properties"),
        _ => {}
    }
}

/// Of the CEL rules only immutability is understood, the one that a second apply can run into.
fn check_transitions(value: &Value, live: &Value, schema: &Value, path: &str, found: &mut Vec<FieldError>) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap_or_default();
        let same: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if same == "self==oldSelf" && value != live {
            let why = rule["message"].as_str().unwrap_or("failed rule: self == oldSelf");
            found.push(FieldError::invalid(path, &json!(value), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_all_named() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string"}, "n": {"type": "integer", "minimum": 1}, "e": {"type": "string", "enum": ["x"]},
        }}}});
        let object = json!({"spec": {"n": 0, "e": "y"}});
        let fields: Vec<_> = check(&object, None, &schema).into_iter().map(|e| (e.field, e.reason)).collect();
        assert!(fields.contains(&("spec.a".into(), "FieldValueRequired")));
        assert!(fields.contains(&("spec.n".into(), "FieldValueInvalid")));
        assert!(fields.contains(&("spec.e".into(), "FieldValueNotSupported")));
    }

    #[test]
    fn unknown_fields_are_taken_out_and_named() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}});
        let mut object = json!({"metadata": {"name": "x"}, "spec": {"list": [{"a": "1", "b": "2"}], "c": 1}});
        let mut found = take_unknown(&mut object, &schema);
        found.sort();
        assert_eq!(found, ["spec.c", "spec.list[0].b"]);
        assert_eq!(object["spec"], json!({"list": [{"a": "1"}]}));
    }
}
