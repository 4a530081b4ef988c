//! Objects of built-in kinds: discovery, reading and writing, checks, what the API fills in.

use super::Case;
use super::rest::{Response, text};
use serde_json::{Value, json};

/// Kinds that `provision` or its lab touches: path of the group version, plural, kind, whether in namespaces.
const SERVED: [(&str, &str, &str, bool); 18] = [
    ("/api/v1", "configmaps", "ConfigMap", true),
    ("/api/v1", "events", "Event", true),
    ("/api/v1", "namespaces", "Namespace", false),
    ("/api/v1", "nodes", "Node", false),
    ("/api/v1", "pods", "Pod", true),
    ("/api/v1", "secrets", "Secret", true),
    ("/api/v1", "serviceaccounts", "ServiceAccount", true),
    ("/api/v1", "services", "Service", true),
    ("/apis/apps/v1", "daemonsets", "DaemonSet", true),
    ("/apis/apps/v1", "deployments", "Deployment", true),
    ("/apis/apps/v1", "replicasets", "ReplicaSet", true),
    ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("/apis/coordination.k8s.io/v1", "leases", "Lease", true),
    ("/apis/networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", true),
    ("/apis/node.k8s.io/v1", "runtimeclasses", "RuntimeClass", false),
    ("/apis/policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", false),
    ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", false),
];

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = list.as_array().into_iter().flatten().find(|r| r[key] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
}

pub async fn discovery_names_kinds_verbs_and_subresources(case: &Case<'_>) {
    let rest = &case.rest;
    let version = rest.get("/version").await.expect(200);
    assert_eq!(version["major"], "1");
    assert!(text(&version, "/gitVersion").starts_with("v1."), "{version}");
    assert!(text(&version, "/minor").parse::<u32>().is_ok_and(|minor| minor >= 33), "{version}");
    assert_eq!(rest.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = rest.get("/apis").await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let apps = named(&groups["groups"], "name", "apps");
    assert_eq!(apps["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
    let group = rest.get("/apis/apps").await.expect(200);
    assert_eq!((&group["kind"], &group["name"]), (&json!("APIGroup"), &json!("apps")));

    let all = ["create", "delete", "get", "list", "patch", "update", "watch"];
    for (path, plural, kind, namespaced) in SERVED {
        let list = rest.get(path).await.expect(200);
        assert_eq!(list["kind"], "APIResourceList");
        assert_eq!(
            list["groupVersion"],
            path.trim_start_matches("/apis/").trim_start_matches("/api/"),
            "{path}"
        );
        let found = named(&list["resources"], "name", plural);
        assert_eq!((&found["kind"], &found["namespaced"]), (&json!(kind), &json!(namespaced)), "{plural}");
        assert_eq!(found["singularName"], kind.to_lowercase());
        let verbs = found["verbs"].as_array().expect("verbs");
        assert!(all.iter().all(|verb| verbs.contains(&json!(verb))), "{plural}: {verbs:?}");
    }
    let core = rest.get("/api/v1").await.expect(200);
    assert_eq!(named(&core["resources"], "name", "configmaps")["shortNames"], json!(["cm"]));
    let eviction = named(&core["resources"], "name", "pods/eviction");
    assert_eq!(
        (&eviction["group"], &eviction["version"], &eviction["kind"]),
        (&json!("policy"), &json!("v1"), &json!("Eviction"))
    );
    assert_eq!(named(&core["resources"], "name", "nodes/status")["verbs"], json!(["get", "patch", "update"]));
}

pub async fn an_unserved_group_is_reported_as_such(case: &Case<'_>) {
    let rest = &case.rest;
    // A group that nothing serves is no path of this server.
    let unknown = rest.get("/apis/nonesuch.example.com/v1/things").await;
    assert_eq!((unknown.code, &unknown.body), (404, &json!("404 page not found\n")));
    let posted = rest.put(&rest.core("configmaps"), &config_map("x")).await;
    posted.refused(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    );
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}})
}

pub async fn an_object_is_made_read_replaced_and_deleted(case: &Case<'_>) {
    let rest = &case.rest;
    let (all, one) = (rest.core("configmaps"), rest.core("configmaps/a"));
    let made = rest.post(&all, &config_map("a")).await.expect(201);
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    for pointer in ["/metadata/uid", "/metadata/creationTimestamp", "/metadata/resourceVersion"] {
        assert!(!text(&made, pointer).is_empty());
    }
    assert_eq!(made["metadata"]["namespace"], rest.ns.as_str());
    assert_eq!(rest.get(&one).await.expect(200), made);
    let taken = rest.post(&all, &config_map("a")).await;
    let taken = taken.refused(409, "AlreadyExists", "configmaps \"a\" already exists");
    assert_eq!(taken["details"], json!({"name": "a", "kind": "configmaps"}));

    let mut other = config_map("a");
    other["data"] = json!({"key": "other"});
    let replaced = rest.put(&one, &other).await.expect(200);
    assert_eq!(replaced["data"], json!({"key": "other"}));
    assert_eq!(replaced["metadata"]["uid"], made["metadata"]["uid"]);
    assert_ne!(replaced["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

    let gone = rest.delete(&one, &Value::Null).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    let missing = rest.get(&one).await.refused(404, "NotFound", "configmaps \"a\" not found");
    assert_eq!(missing["details"], json!({"name": "a", "kind": "configmaps"}));
    rest.delete(&one, &Value::Null).await.refused(404, "NotFound", "configmaps \"a\" not found");
    rest.put(&one, &config_map("a")).await.refused(404, "NotFound", "configmaps \"a\" not found");
    let no_namespace = rest.post("/api/v1/namespaces/nowhere/configmaps", &config_map("a")).await;
    no_namespace.refused(404, "NotFound", "namespaces \"nowhere\" not found");
    let grouped = rest.get(&rest.of("apps/v1", "deployments/a")).await;
    let grouped = grouped.refused(404, "NotFound", "deployments.apps \"a\" not found");
    assert_eq!(grouped["details"], json!({"name": "a", "group": "apps", "kind": "deployments"}));
    // Preconditions.
    let made = rest.post(&all, &config_map("a")).await.expect(201);
    let wrong = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let refused = rest.delete(&one, &wrong).await;
    refused.refused(409, "Conflict", "the UID in the precondition (00000000-0000-0000-0000-000000000000)");
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
    rest.delete(&one, &right).await.expect(200);
}

pub async fn a_write_that_changes_nothing_moves_nothing(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let made = rest.post(&rest.core("configmaps"), &config_map("a")).await.expect(201);
    let put = rest.put(&one, &made).await.expect(200);
    assert_eq!(put["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let merged = rest.merge(&one, &json!({"data": {"key": "value"}})).await.expect(200);
    assert_eq!(merged["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

pub async fn patches_of_every_format(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    rest.post(&rest.core("configmaps"), &config_map("a")).await.expect(201);
    let merged = rest.merge(&one, &json!({"data": {"key": null, "b": "1"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"b": "1"}));
    rest.patch(&one, "text/plain", &json!({})).await.refused(
        415,
        "UnsupportedMediaType",
        "415: Unsupported Media Type",
    );
    rest.post(&rest.of("apps/v1", "deployments"), &deployment("d")).await.expect(201);
    let strategic = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "env": [{"name": "B", "value": "2"}]}, {"name": "side", "image": "j:1"}]}}}});
    let path = rest.of("apps/v1", "deployments/d");
    let patched = rest.patch(&path, "application/strategic-merge-patch+json", &strategic).await.expect(200);
    let containers = patched.pointer("/spec/template/spec/containers").expect("containers");
    let mut names: Vec<String> =
        containers.as_array().expect("a list").iter().map(|c| text(c, "/name")).collect();
    names.sort();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(named(containers, "name", "c")["image"], "i:1");
    assert_eq!(named(containers, "name", "c")["env"].as_array().map(Vec::len), Some(2));
    rest.merge(&rest.core("configmaps/none"), &json!({})).await.refused(404, "NotFound", "not found");
    rest.merge(&one, &json!({"metadata": {"name": "b"}})).await.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
}

pub async fn a_stale_write_is_a_conflict(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let first = rest.post(&rest.core("configmaps"), &config_map("a")).await.expect(201);
    rest.merge(&one, &json!({"data": {"b": "1"}})).await.expect(200);
    let stale = rest.put(&one, &first).await;
    let stale = stale.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the \
         latest version and try again",
    );
    assert_eq!(stale["details"], json!({"name": "a", "kind": "configmaps"}));
    let version = &first["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {"c": "1"}});
    rest.merge(&one, &patch).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\"",
    );
}

pub async fn names_are_checked_and_made(case: &Case<'_>) {
    let rest = &case.rest;
    let all = rest.core("configmaps");
    let upper = rest.post(&all, &config_map("UPPER")).await;
    let upper = upper.refused(
        422,
        "Invalid",
        "ConfigMap \"UPPER\" is invalid: metadata.name: Invalid value: \"UPPER\": a lowercase RFC 1123 subdomain",
    );
    let details = &upper["details"];
    assert_eq!((&details["name"], &details["kind"]), (&json!("UPPER"), &json!("ConfigMap")));
    let cause = &details["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("FieldValueInvalid"), &json!("metadata.name")),
        "{cause}"
    );
    let mut nameless = config_map("x");
    nameless["metadata"] = json!({});
    rest.post(&all, &nameless).await.refused(
        422,
        "Invalid",
        "metadata.name: Required value: name or generateName is required",
    );
    nameless["metadata"] = json!({"generateName": "made-"});
    let made = rest.post(&all, &nameless).await.expect(201);
    let name = text(&made, "/metadata/name");
    assert!(name.starts_with("made-") && name.len() == 10, "{name}");
    let mut elsewhere = config_map("a");
    elsewhere["metadata"]["namespace"] = json!("default");
    rest.post(&all, &elsewhere).await.refused(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    let mut other = config_map("a");
    other["kind"] = json!("ServiceAccount");
    rest.post(&all, &other).await.refused(400, "BadRequest", "cannot be handled as a ConfigMap");
    let mut label = config_map("a");
    label["metadata"]["labels"] = json!({"a": "not a value", "-x": "1"});
    let refused = rest.post(&all, &label).await.refused(
        422,
        "Invalid",
        "metadata.labels: Invalid value: \"not a value\"",
    );
    assert_eq!(refused["details"]["causes"].as_array().map(Vec::len), Some(2), "{refused}");
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "replicas": 0, "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i:1", "env": [{"name": "A", "value": "1"}]}]}}}})
}

/// Returns `(reason, field)` of every cause, sorted.
fn causes(body: &Value) -> Vec<(String, String)> {
    let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<_> = causes.iter().map(|c| (text(c, "/reason"), text(c, "/field"))).collect();
    all.sort();
    all
}

pub async fn an_invalid_object_names_every_field(case: &Case<'_>) {
    let rest = &case.rest;
    let all = rest.of("apps/v1", "deployments");
    let mut body = deployment("d");
    body["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
    body["metadata"]["labels"] = json!({"a": "not a value"});
    let refused = rest.post(&all, &body).await.refused(422, "Invalid", "Deployment.apps \"d\" is invalid: [");
    let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(
        causes(&refused),
        pairs(&[
            ("FieldValueInvalid", "metadata.labels"),
            ("FieldValueInvalid", "spec.template.metadata.labels"),
        ])
    );
    assert_eq!(refused["details"]["group"], "apps");
    let mut none = deployment("d");
    none["spec"]["selector"] = json!(null);
    let refused = rest.post(&all, &none).await.refused(422, "Invalid", "spec.selector: Required value");
    assert!(causes(&refused).contains(&("FieldValueRequired".into(), "spec.selector".into())));
    rest.post(&all, &deployment("d")).await.expect(201);
    let change = json!({"spec": {"selector": {"matchLabels": {"app": "d", "b": "c"}},
        "template": {"metadata": {"labels": {"b": "c"}}}}});
    let refused = rest.merge(&rest.of("apps/v1", "deployments/d"), &change).await;
    let refused = refused.refused(422, "Invalid", "field is immutable");
    assert_eq!(causes(&refused), pairs(&[("FieldValueInvalid", "spec.selector")]));

    // A wrong type is no field error: the body cannot be read.
    let mut wrong = deployment("d2");
    wrong["spec"]["replicas"] = json!("three");
    rest.post(&all, &wrong).await.refused(
        400,
        "BadRequest",
        "Deployment in version \"v1\" cannot be handled as a Deployment",
    );
}

pub async fn unknown_fields_are_refused_when_strict(case: &Case<'_>) {
    let rest = &case.rest;
    let mut body = deployment("d");
    body["spec"]["replica"] = json!(1);
    body["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("x");
    let strict = format!("{}?fieldValidation=Strict", rest.of("apps/v1", "deployments"));
    let refused = rest.post(&strict, &body).await;
    let phrase = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field";
    let message = text(&refused.refused(400, "BadRequest", phrase), "/message");
    assert!(message.contains("unknown field \"spec.replica\""), "{message}");
    assert!(message.contains("unknown field \"spec.template.spec.containers[0].imag\""), "{message}");
    // Without asking for it they are dropped.
    let made = rest.post(&rest.of("apps/v1", "deployments"), &body).await.expect(201);
    assert!(made["spec"]["replica"].is_null());
    let patch = json!({"spec": {"nonesuch": 1}});
    let path = format!("{}?fieldValidation=Strict", rest.of("apps/v1", "deployments/d"));
    rest.merge(&path, &patch).await.refused(422, "Invalid", "unknown field \"spec.nonesuch\"");
}

pub async fn a_dry_run_changes_nothing(case: &Case<'_>) {
    let rest = &case.rest;
    let (all, one) = (rest.core("configmaps"), rest.core("configmaps/a"));
    let made = rest.post(&format!("{all}?dryRun=All"), &config_map("a")).await.expect(201);
    assert!(!text(&made, "/metadata/uid").is_empty());
    assert_eq!(rest.get(&one).await.code, 404);
    let made = rest.post(&all, &config_map("a")).await.expect(201);
    let changed = rest.merge(&format!("{one}?dryRun=All"), &json!({"data": {"b": "1"}})).await.expect(200);
    assert_eq!(changed["data"], json!({"key": "value", "b": "1"}));
    assert_eq!(rest.get(&one).await.expect(200), made);
    rest.delete(&format!("{one}?dryRun=All"), &Value::Null).await.expect(200);
    assert_eq!(rest.get(&one).await.expect(200), made);
}

pub async fn a_service_is_completed(case: &Case<'_>) {
    let rest = &case.rest;
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let made = rest.post(&rest.core("services"), &body).await.expect(201);
    assert_eq!(made["spec"]["type"], "ClusterIP");
    assert_eq!(made["spec"]["ports"], json!([{"port": 80, "targetPort": 80, "protocol": "TCP"}]));
}

pub async fn secrets_take_plain_text(case: &Case<'_>) {
    let rest = &case.rest;
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="}});
    let made = rest.post(&rest.core("secrets"), &body).await.expect(201);
    assert_eq!((&made["data"], &made["type"]), (&json!({"a": "Yg==", "c": "ZA=="}), &json!("Opaque")));
    assert!(made["stringData"].is_null());
}

pub async fn small_kinds_are_kept_as_they_are(case: &Case<'_>) {
    let rest = &case.rest;
    let ns = rest.ns.clone();
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": ns}, "handler": "nvidia"});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ns},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ns},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ns},
        "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": ns}]});
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let places = [
        ("/apis/node.k8s.io/v1/runtimeclasses".to_owned(), class),
        (rest.core("serviceaccounts"), account),
        (format!("{rbac}/clusterroles"), role),
        (format!("{rbac}/clusterrolebindings"), binding),
        (rest.of("policy/v1", "poddisruptionbudgets"), budget),
    ];
    for (path, body) in &places {
        let made: Response = rest.post(path, body).await;
        let made = made.expect(201);
        for (key, value) in body.as_object().into_iter().flatten().filter(|(k, _)| k.as_str() != "metadata") {
            assert_eq!(&made[key], value, "{path}");
        }
    }
    // Names of roles may hold what other names may not.
    let odd = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": format!("system:{ns}")}, "rules": []});
    rest.post(&format!("{rbac}/clusterroles"), &odd).await.expect(201);
    let upper = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "A"}});
    rest.post(&rest.core("serviceaccounts"), &upper).await.refused(422, "Invalid", "metadata.name");
}
