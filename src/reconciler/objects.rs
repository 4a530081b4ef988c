//! Kubernetes objects: where each kind lives, what differs, what readiness means.

use crate::state::{Fields, Ready};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

/// Field manager of everything that we apply.
pub(super) const MANAGER: &str = "provision";
/// kubectl's ApplySet label, on every object that we apply.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";

/// The kinds that we apply: group, version, kind, plural, namespaced. Kinds that are not pruned are marked.
pub(super) const KINDS: [(&str, &str, &str, &str, bool, bool); 17] = [
    ("", "v1", "Namespace", "namespaces", false, false),
    ("", "v1", "ServiceAccount", "serviceaccounts", true, true),
    ("", "v1", "ConfigMap", "configmaps", true, true),
    ("", "v1", "Secret", "secrets", true, true),
    ("", "v1", "Service", "services", true, true),
    ("apps", "v1", "Deployment", "deployments", true, true),
    ("apps", "v1", "DaemonSet", "daemonsets", true, true),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false, true),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", false, true),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false, true),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false, false),
    ("gateway.networking.k8s.io", "v1", "Gateway", "gateways", true, true),
    ("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses", false, true),
    ("networking.serving.volcano.sh", "v1alpha1", "ModelServer", "modelservers", true, true),
    ("networking.serving.volcano.sh", "v1alpha1", "ModelRoute", "modelroutes", true, true),
    ("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools", true, true),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", true, true),
];

/// Returns the API of a kind, in a namespace where it has one.
pub(super) fn api(client: &kube::Client, kind: &str, namespace: Option<&str>) -> Option<Api<DynamicObject>> {
    let (group, version, kind, plural, namespaced, _) = KINDS.iter().find(|k| k.2 == kind)?;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    Some(match namespace.filter(|_| *namespaced) {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// Metadata that the API keeps by itself, and status.
fn is_noise(path: &str) -> bool {
    const NOISE: [&str; 7] = [
        "metadata.managedFields",
        "metadata.resourceVersion",
        "metadata.generation",
        "metadata.uid",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "status",
    ];
    NOISE
        .iter()
        .any(|n| path == *n || path.starts_with(&format!("{n}.")) || path.starts_with(&format!("{n}[")))
}

fn walk(path: &str, value: &Value, out: &mut Fields) {
    match value {
        _ if is_noise(path) => {}
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                walk(&format!("{path}[{index}]"), item, out);
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

/// Returns the fields in which the live object and the API's dry-run answer differ: now, and afterwards. A Secret's data
/// is named, never shown.
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
    if live["kind"] == "Secret" {
        for (fields, word) in [(&mut now, "<secret>"), (&mut then, "<another secret>")] {
            for (key, value) in fields.iter_mut().filter(|(k, _)| k.starts_with("data.")) {
                let _ = key;
                *value = word.to_owned();
            }
        }
    }
    (now, then)
}

/// Returns why an object is not ready yet; `None` if it is.
pub(super) fn unready(object: &Value, ready: Ready) -> Option<String> {
    let condition = |name: &str| {
        object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == name && c["status"] == "True")
    };
    let number = |key: &str| object["status"][key].as_u64().unwrap_or(0);
    match (ready, object["kind"].as_str()) {
        (Ready::Accepted, _) => None,
        (Ready::Established, _) => (!condition("Established")).then(|| "not established yet".to_owned()),
        (Ready::Available, Some("DaemonSet")) => {
            let (wanted, have) = (number("desiredNumberScheduled"), number("numberReady"));
            (have < wanted || object["status"]["observedGeneration"].is_null())
                .then(|| format!("{have} of {wanted} pods ready"))
        }
        (Ready::Available, _) => {
            let (wanted, have) =
                (object["spec"]["replicas"].as_u64().unwrap_or(1), number("availableReplicas"));
            (have < wanted).then(|| format!("{have} of {wanted} pods available"))
        }
    }
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
}
