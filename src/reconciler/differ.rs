//! The difference between a live object and its server-side dry-run: flattened, without what the API keeps by
//! itself, and without a Secret's data.

use crate::state::Fields;
use serde_json::Value;

/// Metadata that the API keeps by itself, and status.
fn is_noise(path: &str) -> bool {
    const NOISE: [&str; 8] = [
        // The API counts a DaemonSet's templates here.
        "metadata.annotations[\"deprecated.daemonset.template.generation\"]",
        "metadata.managedFields",
        "metadata.resourceVersion",
        "metadata.generation",
        "metadata.uid",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "status",
    ];
    NOISE.contains(&path)
}

/// Returns a path's next part: a plain word after a dot, anything else in quotes, so that `a.b/c` is one key.
fn below(path: &str, key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

/// Returns the key of a list item: many lists of Kubernetes are maps by name, and
/// an item put first should not make all others differ.
fn item_key(items: &[Value], index: usize) -> String {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    match name(&items[index]) {
        Some(own) if items.iter().filter(|i| name(i).as_ref() == Some(&own)).count() == 1 => own,
        _ => index.to_string(),
    }
}

fn walk(path: &str, value: &Value, out: &mut Fields) {
    match value {
        _ if is_noise(path) => {}
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                walk(&below(path, key), value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                walk(&format!("{path}[{}]", item_key(items, index)), item, out);
            }
        }
        Value::String(text) => {
            out.insert(path.to_owned(), text.clone());
        }
        other => {
            out.insert(path.to_owned(), other.to_string());
        }
    }
}

/// Returns the fields in which the live object and the API's dry-run answer differ: now, and afterwards.
pub(super) fn differing(live: &Value, dry_run: &Value) -> (Fields, Fields) {
    let (mut now, mut then) = (Fields::new(), Fields::new());
    walk("", live, &mut now);
    walk("", dry_run, &mut then);
    let same: Vec<String> =
        now.iter().filter(|(k, v)| then.get(*k) == Some(v)).map(|(k, _)| k.clone()).collect();
    for key in same {
        now.remove(&key);
        then.remove(&key);
    }
    if live["kind"] == "Secret" || dry_run["kind"] == "Secret" {
        for (fields, word) in [(&mut now, "<secret>"), (&mut then, "<another secret>")] {
            let secret = |key: &str| ["data", "stringData"].iter().any(|p| key.starts_with(p));
            fields.iter_mut().filter(|(key, _)| secret(key)).for_each(|(_, value)| *value = word.to_owned());
        }
    }
    (now, then)
}

/// Puts the fields of a manager, as it is recorded (FieldsV1, k8s.io/apimachinery), into the names that they have here. `live` is what
/// the record is of.
fn owned(path: &str, record: &Value, live: &Value, out: &mut Vec<String>) {
    let Some(record) = record.as_object().filter(|record| !record.is_empty()) else {
        return out.push(path.to_owned());
    };
    for (key, below_it) in record {
        let items = live.as_array().map(Vec::as_slice).unwrap_or_default();
        let item = |is: &dyn Fn(&Value) -> bool| items.iter().position(is);
        let index = match key.split_once(':') {
            Some(("f", name)) => {
                owned(&below(path, name), below_it, &live[name], out);
                continue;
            }
            Some(("k", keys)) => {
                let keys: Value = serde_json::from_str(keys).unwrap_or_default();
                let keys = keys.as_object().cloned().unwrap_or_default();
                item(&|item| keys.iter().all(|(key, value)| &item[key] == value))
            }
            Some(("v", value)) => {
                let value: Value = serde_json::from_str(value).unwrap_or_default();
                item(&|item| *item == value)
            }
            // `.` is the map or the item itself, `i` an index that the API does not write any more.
            _ => None,
        };
        if let Some(index) = index {
            owned(&format!("{path}[{}]", item_key(items, index)), below_it, &items[index], out);
        }
    }
}

/// Returns the managers other than `ours` that have set one of these fields of an object.
pub(super) fn changed_by<'a>(
    live: &Value,
    fields: impl Iterator<Item = &'a String> + Clone,
    ours: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    for entry in live["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let manager = entry["manager"].as_str().unwrap_or_default();
        // What a controller reports is no change.
        let reports = entry["subresource"].as_str().is_some_and(|sub| sub == "status");
        if manager == ours || manager.is_empty() || reports {
            continue;
        }
        let mut own = Vec::new();
        owned("", &entry["fieldsV1"], live, &mut own);
        let within = |field: &str, own: &str| {
            field.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let sets = fields.clone().any(|field| own.iter().any(|own| within(field, own)));
        if sets && !found.iter().any(|known| known == manager) {
            found.push(manager.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown_and_secrets_never() {
        let live = json!({"kind": "Secret", "metadata": {"resourceVersion": "1", "labels": {"a": "b"}}, "data": {"t": "b2xk"}});
        let then = json!({"kind": "Secret", "metadata": {"resourceVersion": "2", "labels": {"a": "c"}}, "data": {"t": "bmV3"}});
        let (now, then) = differing(&live, &then);
        assert_eq!(now.keys().collect::<Vec<_>>(), ["data.t", "metadata.labels.a"]);
        assert_eq!((now["data.t"].as_str(), then["data.t"].as_str()), ("<secret>", "<another secret>"));
    }

    #[test]
    fn a_secret_that_comes_or_goes_is_not_shown_either() {
        let with = json!({"kind": "Secret", "data": {"token": "Y2FuYXJ5"}});
        let without = json!({"kind": "Secret"});
        assert_eq!(differing(&with, &without).0["data.token"], "<secret>");
        assert_eq!(differing(&without, &with).1["data.token"], "<another secret>");
    }

    #[test]
    fn a_named_item_put_first_is_one_difference() {
        let live = json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]});
        let then = json!({"ports": [{"name": "new", "port": 3}, {"name": "a", "port": 1}, {"name": "b", "port": 2}]});
        let (now, then) = differing(&live, &then);
        assert!(now.is_empty(), "{now:?}");
        assert_eq!(then.keys().collect::<Vec<_>>(), ["ports[new].name", "ports[new].port"]);
    }

    #[test]
    fn keys_with_dots_stay_whole() {
        let (_, then) = differing(&json!({}), &json!({"labels": {"a.b/c": "d"}}));
        assert_eq!(then.keys().collect::<Vec<_>>(), ["labels[\"a.b/c\"]"]);
    }

    #[test]
    fn who_set_a_field_is_read_from_the_record_of_the_api() {
        let record = |manager: &str, fields: Value| json!({"manager": manager, "operation": "Update", "fieldsV1": fields});
        let mut status = record("kube-controller-manager", json!({"f:spec": {"f:replicas": {}}}));
        status["subresource"] = json!("status");
        let live = json!({
            "metadata": {"labels": {"a.b/c": "d"}, "managedFields": [
                record("provision", json!({"f:spec": {"f:replicas": {}}})),
                record("kubectl-edit", json!({"f:spec": {"f:template": {"f:containers": {
                    "k:{\"name\":\"engine\"}": {".": {}, "f:image": {}, "f:args": {}}}}}})),
                record("hpa", json!({"f:spec": {"f:replicas": {}}, "f:metadata": {"f:finalizers": {"v:\"x\"": {}}}})),
                record("labeller", json!({"f:metadata": {"f:labels": {".": {}, "f:a.b/c": {}}}})),
                status,
            ]},
            "spec": {"replicas": 2, "template": {"containers": [{"name": "engine", "image": "i", "args": ["--a"]}]}},
        });
        let by = |field: &str| changed_by(&live, [field.to_owned()].iter(), "provision");
        assert_eq!(by("spec.replicas"), ["hpa"]);
        assert_eq!(by("spec.template.containers[engine].image"), ["kubectl-edit"]);
        assert_eq!(by("spec.template.containers[engine].args[0]"), ["kubectl-edit"]);
        assert_eq!(by("metadata.labels[\"a.b/c\"]"), ["labeller"]);
        assert!(by("spec.template.containers[engine].imagePullPolicy").is_empty());
        assert!(by("spec.replicasWanted").is_empty());
    }
}
