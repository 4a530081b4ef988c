//! What the API fills into built-in kinds, as far as a later comparison could notice.

use super::{kinds::Kind, store::text};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// Completes an object of a built-in kind.
pub fn fill(kind: &Kind, object: &mut Value) {
    match kind.id.as_str() {
        "namespaces" => namespace(object),
        "secrets" => secret(object),
        "services" => service(object),
        "pods" => {
            pod(&mut object["spec"]);
            running(&mut object["spec"]);
            or(&mut object["status"], "phase", json!("Pending"));
        }
        "deployments.apps" => {
            let spec = &mut object["spec"];
            or(spec, "replicas", json!(1));
            or(spec, "revisionHistoryLimit", json!(10));
            or(spec, "progressDeadlineSeconds", json!(600));
            or(spec, "strategy", json!({}));
            or(&mut spec["strategy"], "type", json!("RollingUpdate"));
            if spec["strategy"]["type"] == "RollingUpdate" {
                or(&mut spec["strategy"], "rollingUpdate", json!({}));
                or(&mut spec["strategy"]["rollingUpdate"], "maxSurge", json!("25%"));
                or(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", json!("25%"));
            }
            template(spec);
            or(object, "status", json!({}));
        }
        "replicasets.apps" => {
            or(&mut object["spec"], "replicas", json!(1));
            template(&mut object["spec"]);
        }
        "daemonsets.apps" => {
            let spec = &mut object["spec"];
            or(spec, "revisionHistoryLimit", json!(10));
            or(spec, "updateStrategy", json!({}));
            or(&mut spec["updateStrategy"], "type", json!("RollingUpdate"));
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                or(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
                or(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", json!(0));
                or(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", json!(1));
            }
            template(spec);
            for count in
                ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"]
            {
                or(&mut object["status"], count, json!(0));
            }
        }
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            or(&mut object["roleRef"], "apiGroup", json!("rbac.authorization.k8s.io"));
            each(object, "/subjects", |subject| {
                if matches!(text(subject, "/kind").as_str(), "User" | "Group") {
                    or(subject, "apiGroup", json!("rbac.authorization.k8s.io"));
                }
            });
        }
        "validatingwebhookconfigurations.admissionregistration.k8s.io"
        | "mutatingwebhookconfigurations.admissionregistration.k8s.io" => webhooks(object),
        "customresourcedefinitions.apiextensions.k8s.io" => definition(object),
        "nodes" => {
            quantities(object, "/status/capacity");
            quantities(object, "/status/allocatable");
        }
        _ => {}
    }
}

/// Sets a field that is not there; leaves what is not a map alone.
fn or(map: &mut Value, key: &str, value: Value) {
    if map.is_null() {
        *map = Value::Object(Map::new());
    }
    if let Value::Object(map) = map
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value);
    }
}

fn each(object: &mut Value, pointer: &str, mut change: impl FnMut(&mut Value)) {
    if let Some(Value::Array(items)) = object.pointer_mut(pointer) {
        items.iter_mut().for_each(&mut change);
    }
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    or(&mut object["metadata"], "labels", json!({}));
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    if object.pointer("/metadata/deletionTimestamp").is_none() {
        or(object, "spec", json!({}));
        or(&mut object["spec"], "finalizers", json!(["kubernetes"]));
    }
    or(object, "status", json!({}));
    or(&mut object["status"], "phase", json!("Active"));
}

fn secret(object: &mut Value) {
    or(object, "type", json!("Opaque"));
    let Value::Object(map) = object else { return };
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else { return };
    let data = map.entry("data").or_insert_with(|| json!({}));
    for (key, value) in plain {
        data[key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

fn service(object: &mut Value) {
    let spec = &mut object["spec"];
    or(spec, "type", json!("ClusterIP"));
    or(spec, "sessionAffinity", json!("None"));
    if spec["type"] != "ExternalName" {
        or(spec, "internalTrafficPolicy", json!("Cluster"));
        or(spec, "ipFamilies", json!(["IPv4"]));
        or(spec, "ipFamilyPolicy", json!("SingleStack"));
    }
    if spec["type"] == "NodePort" || spec["type"] == "LoadBalancer" {
        or(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    each(object, "/spec/ports", |port| {
        or(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        or(port, "targetPort", number);
    });
    or(object, "status", json!({"loadBalancer": {}}));
}

fn template(spec: &mut Value) {
    if spec.pointer("/template/spec").is_some() {
        pod(&mut spec["template"]["spec"]);
    }
}

fn pod(spec: &mut Value) {
    or(spec, "restartPolicy", json!("Always"));
    or(spec, "dnsPolicy", json!("ClusterFirst"));
    or(spec, "terminationGracePeriodSeconds", json!(30));
    or(spec, "schedulerName", json!("default-scheduler"));
    or(spec, "securityContext", json!({}));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        or(spec, "serviceAccount", account);
    }
    for list in ["/containers", "/initContainers"] {
        each(spec, list, container);
    }
    each(spec, "/volumes", |volume| {
        if volume.get("hostPath").is_some() {
            or(&mut volume["hostPath"], "type", json!(""));
        }
        for source in ["configMap", "secret", "projected", "downwardAPI"] {
            if volume.get(source).is_some() {
                or(&mut volume[source], "defaultMode", json!(0o644));
            }
        }
    });
}

/// What is filled in only when a pod is made, not in a template.
fn running(spec: &mut Value) {
    let host_network = spec["hostNetwork"] == true;
    for list in ["/containers", "/initContainers"] {
        each(spec, list, |container| {
            if let Some(Value::Object(limits)) = container.pointer("/resources/limits").cloned() {
                or(&mut container["resources"], "requests", json!({}));
                for (name, value) in limits {
                    or(&mut container["resources"]["requests"], &name, value);
                }
            }
            if host_network {
                each(container, "/ports", |port| {
                    let number = port["containerPort"].clone();
                    or(port, "hostPort", number);
                });
            }
        });
    }
}

fn container(container: &mut Value) {
    let image = text(container, "/image");
    let tag = image.rsplit('/').next().unwrap_or_default();
    let latest = !tag.contains('@') && (!tag.contains(':') || tag.ends_with(":latest"));
    or(container, "imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" }));
    or(container, "terminationMessagePath", json!("/dev/termination-log"));
    or(container, "terminationMessagePolicy", json!("File"));
    or(container, "resources", json!({}));
    quantities(container, "/resources/limits");
    quantities(container, "/resources/requests");
    each(container, "/ports", |port| or(port, "protocol", json!("TCP")));
    each(container, "/env", |env| {
        if env.pointer("/valueFrom/fieldRef").is_some() {
            or(&mut env["valueFrom"]["fieldRef"], "apiVersion", json!("v1"));
        }
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(name).filter(|p| p.is_object()) else { continue };
        for (key, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            or(probe, key, json!(value));
        }
        if probe.get("httpGet").is_some() {
            or(&mut probe["httpGet"], "path", json!("/"));
            or(&mut probe["httpGet"], "scheme", json!("HTTP"));
        }
    }
}

/// Quantities are text, however they were written.
fn quantities(object: &mut Value, pointer: &str) {
    if let Some(Value::Object(map)) = object.pointer_mut(pointer) {
        for value in map.values_mut().filter(|v| v.is_number()) {
            *value = json!(value.to_string());
        }
    }
}

fn webhooks(object: &mut Value) {
    each(object, "/webhooks", |webhook| {
        or(webhook, "matchPolicy", json!("Equivalent"));
        or(webhook, "failurePolicy", json!("Fail"));
        or(webhook, "timeoutSeconds", json!(10));
        or(webhook, "namespaceSelector", json!({}));
        or(webhook, "objectSelector", json!({}));
        if webhook.pointer("/clientConfig/service").is_some() {
            or(&mut webhook["clientConfig"]["service"], "port", json!(443));
        }
        each(webhook, "/rules", |rule| or(rule, "scope", json!("*")));
    });
}

fn definition(object: &mut Value) {
    let kind = text(object, "/spec/names/kind");
    or(&mut object["spec"], "conversion", json!({"strategy": "None"}));
    or(&mut object["spec"]["names"], "listKind", json!(format!("{kind}List")));
    or(&mut object["spec"]["names"], "singular", json!(kind.to_lowercase()));
}
