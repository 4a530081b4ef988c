//! What happens to objects: status, evictions, finalizers, owners, namespaces, tokens, leases, nodes.

use super::Case;
use super::rest::{Rest, text};
use serde_json::{Value, json};

fn pod(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]}})
}

/// Makes a pod that runs and is ready. It is on no node, so it ends as soon as it is told to.
async fn running(rest: &Rest, name: &str, labels: Value) {
    rest.post(&rest.core("pods"), &pod(name, labels)).await.expect(201);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    rest.merge(&rest.core(&format!("pods/{name}/status")), &status).await.expect(200);
}

fn budget(least: u64) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "a"}}}})
}

async fn evict(rest: &Rest, name: &str) -> super::rest::Response {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": rest.ns}});
    rest.post(&rest.core(&format!("pods/{name}/eviction")), &body).await
}

pub async fn status_and_spec_are_written_apart(case: &Case<'_>) {
    let rest = &case.rest;
    let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"none": "such"}}}, "status": {"disruptionsAllowed": 7}});
    let made = rest.post(&rest.of("policy/v1", "poddisruptionbudgets"), &body).await.expect(201);
    assert_ne!(made["status"]["disruptionsAllowed"], 7, "a status is not taken with the object");
    running(rest, "p", json!({})).await;
    let change = json!({"metadata": {"labels": {"with": "status"}}, "spec": {"activeDeadlineSeconds": 5}, "status": {"message": "m"}});
    let written = rest.merge(&rest.core("pods/p/status"), &change).await.expect(200);
    assert_eq!(written["status"]["message"], "m");
    assert!(written["spec"]["activeDeadlineSeconds"].is_null());
    let change = json!({"metadata": {"labels": {"with": "spec"}}, "status": {"message": "n"}});
    let written = rest.merge(&rest.core("pods/p"), &change).await.expect(200);
    assert_eq!(
        (&written["status"]["message"], &written["metadata"]["labels"]["with"]),
        (&json!("m"), &json!("spec"))
    );
    let status = rest.get(&rest.core("pods/p/status")).await.expect(200);
    assert_eq!(status["status"], written["status"]);
    rest.get(&rest.core("configmaps/kube-root-ca.crt/status")).await.refused(
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
}

pub async fn an_eviction_asks_the_budget(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.of("policy/v1", "poddisruptionbudgets/b");
    for name in ["p", "q"] {
        running(rest, name, json!({"app": "a"})).await;
    }
    running(rest, "free", json!({})).await;
    rest.post(&rest.of("policy/v1", "poddisruptionbudgets"), &budget(2)).await.expect(201);
    let counted = |allowed: u64, healthy: u64| {
        move |a: &super::rest::Response| {
            let status = &a.body["status"];
            status["disruptionsAllowed"] == allowed
                && status["currentHealthy"] == healthy
                && status["observedGeneration"] == a.body["metadata"]["generation"]
        }
    };
    rest.until(&one, "a count", counted(0, 2)).await;
    let refused = evict(rest, "p").await;
    let refused = refused.refused(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    );
    assert_eq!(
        refused["details"],
        json!({"causes": [{"reason": "DisruptionBudget",
            "message": "The disruption budget b needs 2 healthy pods and has 2 currently"}]})
    );
    assert!(rest.get(&rest.core("pods/p")).await.expect(200)["metadata"]["deletionTimestamp"].is_null());
    let done = evict(rest, "free").await.expect(201);
    assert_eq!((&done["kind"], &done["status"]), (&json!("Status"), &json!("Success")));
    rest.until(&rest.core("pods/free"), "its end", |a| a.code == 404).await;

    rest.merge(&one, &json!({"spec": {"minAvailable": 1}})).await.expect(200);
    rest.until(&one, "a count", counted(1, 2)).await;
    evict(rest, "p").await.expect(201);
    rest.until(&rest.core("pods/p"), "its end", |a| a.code == 404).await;
    rest.until(&one, "a count", counted(0, 1)).await;
    let refused = evict(rest, "q").await;
    refused.refused(429, "TooManyRequests", "Cannot evict pod");
    evict(rest, "none").await.refused(404, "NotFound", "pods \"none\" not found");
}

pub async fn a_budget_is_counted(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.of("policy/v1", "poddisruptionbudgets/b");
    rest.post(&rest.of("policy/v1", "poddisruptionbudgets"), &budget(1)).await.expect(201);
    let status = |a: &super::rest::Response, expected: [u64; 4]| {
        let numbers = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        numbers.iter().zip(expected).all(|(key, value)| a.body["status"][*key] == value)
    };
    rest.until(&one, "a count", |a| status(a, [0, 0, 1, 0])).await;
    running(rest, "p", json!({"app": "a"})).await;
    rest.until(&one, "a count", |a| status(a, [0, 1, 1, 1])).await;
    running(rest, "q", json!({"app": "a"})).await;
    rest.until(&one, "a count", |a| status(a, [1, 2, 1, 2])).await;
    // A pod that is not ready does not count, and may go without asking while enough others are.
    rest.post(&rest.core("pods"), &pod("ill", json!({"app": "a"}))).await.expect(201);
    let unready =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}});
    rest.merge(&rest.core("pods/ill/status"), &unready).await.expect(200);
    rest.until(&one, "a count", |a| status(a, [1, 2, 1, 3])).await;
    evict(rest, "ill").await.expect(201);
    rest.until(&one, "a count", |a| status(a, [1, 2, 1, 2])).await;
}

pub async fn a_finalizer_holds_an_object(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["example.com/hold"]}});
    let made = rest.post(&rest.core("configmaps"), &body).await.expect(201);
    let ending = rest.delete(&one, &Value::Null).await.expect(200);
    assert_eq!((&ending["kind"], &ending["metadata"]["name"]), (&json!("ConfigMap"), &json!("a")));
    assert!(!text(&ending, "/metadata/deletionTimestamp").is_empty());
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = rest.delete(&one, &Value::Null).await.expect(200);
    assert_eq!(again["metadata"]["deletionTimestamp"], ending["metadata"]["deletionTimestamp"]);
    // It can still be changed, and is recreated only when it is gone.
    rest.merge(&one, &json!({"data": {"k": "v"}})).await.expect(200);
    rest.post(&rest.core("configmaps"), &body).await.refused(
        409,
        "AlreadyExists",
        "object is being deleted: configmaps \"a\" already exists",
    );
    let last = rest.merge(&one, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(last["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(rest.get(&one).await.code, 404);
}

pub async fn owners_take_their_dependents_along(case: &Case<'_>) {
    let rest = &case.rest;
    let all = rest.core("configmaps");
    let map = |name: &str, owner: Option<&Value>| {
        let mut body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        if let Some(owner) = owner {
            body["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap",
                "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
        }
        body
    };
    let owner = rest.post(&all, &map("owner", None)).await.expect(201);
    rest.post(&all, &map("child", Some(&owner))).await.expect(201);
    rest.delete(&format!("{all}/owner"), &json!({"propagationPolicy": "Background"})).await.expect(200);
    for name in ["owner", "child"] {
        rest.until(&format!("{all}/{name}"), "its end", |a| a.code == 404).await;
    }
}

pub async fn a_namespace_takes_its_content_along(case: &Case<'_>) {
    let rest = &case.rest;
    let one = format!("/api/v1/namespaces/{}", rest.ns);
    let found = rest.get(&one).await.expect(200);
    assert_eq!(found["metadata"]["labels"], json!({"kubernetes.io/metadata.name": rest.ns}));
    assert_eq!(
        (&found["spec"], &found["status"]),
        (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"}))
    );
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    rest.post(&rest.core("configmaps"), &held).await.expect(201);
    let free = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "free"}});
    rest.post(&rest.core("configmaps"), &free).await.expect(201);
    let ending = rest.delete(&one, &Value::Null).await.expect(200);
    assert_eq!(ending["status"]["phase"], "Terminating");
    let late = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    let late = rest.post(&rest.core("configmaps"), &late).await;
    let late = late.refused(403, "Forbidden", "because it is being terminated");
    assert_eq!(late["details"]["causes"][0]["reason"], "NamespaceTerminating");
    rest.until(&rest.core("configmaps/free"), "its end", |a| a.code == 404).await;
    assert_eq!(rest.get(&one).await.code, 200, "a finalizer holds the namespace too");
    rest.merge(&rest.core("configmaps/held"), &json!({"metadata": {"finalizers": null}})).await.expect(200);
    rest.until(&one, "its end", |a| a.code == 404).await;
}

pub async fn strangers_are_not_let_in(case: &Case<'_>) {
    let stranger = case.rest.stranger(&case.site.kubeconfig(), None);
    for path in ["/api/v1/nodes", "/apis", "/version"] {
        stranger.get(path).await.refused(401, "Unauthorized", "Unauthorized");
    }
    let liar = case.rest.stranger(&case.site.kubeconfig(), Some("not-a-token"));
    liar.get("/api/v1/nodes").await.refused(401, "Unauthorized", "Unauthorized");
    for path in ["/livez", "/readyz", "/healthz"] {
        let healthy = case.rest.get(path).await;
        assert_eq!((healthy.code, &healthy.body), (200, &json!("ok")), "{path}");
    }
}

pub async fn a_lease_has_one_holder(case: &Case<'_>) {
    let rest = &case.rest;
    let (all, one) =
        (rest.of("coordination.k8s.io/v1", "leases"), rest.of("coordination.k8s.io/v1", "leases/run"));
    let lease = |holder: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "run"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 60, "acquireTime": "2026-01-01T00:00:00.000000Z"}})
    };
    let made = rest.post(&all, &lease("a")).await.expect(201);
    assert_eq!(made["spec"], lease("a")["spec"]);
    rest.post(&all, &lease("b")).await.refused(
        409,
        "AlreadyExists",
        "leases.coordination.k8s.io \"run\" already exists",
    );
    let mut renewed = made.clone();
    renewed["spec"]["renewTime"] = json!("2026-01-01T00:00:30.000000Z");
    rest.put(&one, &renewed).await.expect(200);
    let mut stolen = made;
    stolen["spec"]["holderIdentity"] = json!("b");
    let refused = rest.put(&one, &stolen).await;
    refused.refused(409, "Conflict", "Operation cannot be fulfilled on leases.coordination.k8s.io \"run\"");
    assert_eq!(rest.get(&one).await.expect(200)["spec"]["holderIdentity"], "a");
    let unset = rest.merge(&one, &json!({"metadata": {"resourceVersion": "1"}})).await;
    unset.refused(409, "Conflict", "Operation cannot be fulfilled on");
}

pub async fn nodes_take_labels_and_taints(case: &Case<'_>) {
    let rest = &case.rest;
    let name = format!("n-{}", rest.ns);
    let one = format!("/api/v1/nodes/{name}");
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": "provision.dev/starting", "value": "true", "effect": "NoSchedule"}]}});
    let made = rest.post("/api/v1/nodes", &body).await.expect(201);
    let keys = |o: &Value| -> Vec<String> {
        let all = o["spec"]["taints"].as_array().cloned().unwrap_or_default();
        all.iter().map(|t| text(t, "/key")).filter(|k| !k.starts_with("node.kubernetes.io/")).collect()
    };
    assert_eq!(keys(&made), ["provision.dev/starting"]);
    let status = json!({"status": {"capacity": {"nvidia.com/gpu": "8", "cpu": 4}, "allocatable": {"nvidia.com/gpu": 8}}});
    let written = rest.merge(&format!("{one}/status"), &status).await.expect(200);
    assert_eq!(written["status"]["capacity"], json!({"nvidia.com/gpu": "8", "cpu": "4"}));
    assert_eq!(written["status"]["allocatable"], json!({"nvidia.com/gpu": "8"}));
    let patch = json!({"metadata": {"labels": {"pool": "h100"}}, "spec": {"unschedulable": true, "taints": [
        {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}});
    let patched = rest.merge(&one, &patch).await.expect(200);
    assert_eq!((keys(&patched).len(), &patched["spec"]["unschedulable"]), (2, &json!(true)));
    assert_eq!(patched["metadata"]["labels"]["pool"], "h100");
    assert_eq!(patched["status"]["capacity"]["nvidia.com/gpu"], "8");
    let off = json!({"spec": {"unschedulable": null, "taints": null}});
    let off = rest.merge(&one, &off).await.expect(200);
    assert!(off["spec"]["unschedulable"].is_null() && keys(&off).is_empty(), "{off:#}");
    rest.delete(&one, &Value::Null).await.expect(200);
}
