//! Server-side apply and who owns what.

use super::Case;
use super::rest::{Rest, text};
use serde_json::{Value, json};

fn deployment(image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"l": "1"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": image, "args": ["x", "y"], "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "1"}]}],
                "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}}}})
}

fn path(rest: &Rest) -> String {
    rest.of("apps/v1", "deployments/d")
}

/// Returns an entry of `managedFields`.
#[track_caller]
fn entry<'a>(object: &'a Value, manager: &str, subresource: Option<&str>) -> &'a Value {
    let all = object["metadata"]["managedFields"].as_array().expect("managed fields");
    let found = all.iter().find(|e| e["manager"] == manager && e["subresource"].as_str() == subresource);
    found.unwrap_or_else(|| panic!("no entry of {manager} in {all:#?}"))
}

fn config(key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {key: value}})
}

pub async fn an_apply_makes_and_owns(case: &Case<'_>) {
    let rest = &case.rest;
    let made = rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    let entry = entry(&made, "one", None);
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["fieldsType"]),
        (&json!("Apply"), &json!("apps/v1"), &json!("FieldsV1"))
    );
    assert!(!text(entry, "/time").is_empty());
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {"f:l": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:image": {}, "f:name": {},
                        "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                    "f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {"f:medium": {}}, "f:name": {}}}}}},
        })
    );
    let changed = rest.apply(&path(rest), "one", "", &deployment("i:2")).await.expect(200);
    assert_eq!(changed["spec"]["template"]["spec"]["containers"][0]["image"], "i:2");
    assert_eq!(changed["metadata"]["generation"], 2);
    // YAML, as kubectl sends it.
    let yaml =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "y"}, "data": {"k": "v"}});
    rest.apply(&rest.core("configmaps/y"), "one", "", &yaml).await.expect(201);
}

pub async fn an_apply_that_changes_nothing_moves_nothing(case: &Case<'_>) {
    let rest = &case.rest;
    let made = rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    // The times of managed fields are of whole seconds: a second later they would differ.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let again = rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(200);
    let version = |o: &Value| text(o, "/metadata/resourceVersion");
    let live = rest.get(&path(rest)).await.expect(200);
    let ours = |o: &Value| entry(o, "one", None).clone();
    assert_eq!(ours(&again), ours(&made));
    assert_eq!(version(&again), version(&live));
    let map = config("k", "v");
    let made = rest.apply(&rest.core("configmaps/a"), "one", "", &map).await.expect(201);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(rest.apply(&rest.core("configmaps/a"), "one", "&force=true", &map).await.expect(200), made);
}

pub async fn a_conflict_names_manager_and_field(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    rest.apply(&one, "one", "", &config("k", "1")).await.expect(201);
    let refused = rest.apply(&one, "two", "", &config("k", "2")).await;
    let refused =
        refused.refused(409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .data.k");
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.k"}])
    );
    assert_eq!(refused["details"].as_object().map(serde_json::Map::len), Some(1), "{refused}");
    // A manager that did not apply is named with its version.
    rest.merge(&format!("{one}?fieldManager=hand"), &json!({"data": {"k": "3"}})).await.expect(200);
    let refused = rest.apply(&one, "one", "", &config("k", "1")).await;
    refused.refused(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"hand\" using v1: .data.k",
    );
    // The same value is no conflict: both own it.
    let shared = rest.apply(&one, "two", "", &config("k", "3")).await.expect(200);
    for manager in ["hand", "two"] {
        assert!(entry(&shared, manager, None)["fieldsV1"]["f:data"]["f:k"].is_object(), "{shared:#}");
    }
}

pub async fn conflicts_are_listed_by_manager(case: &Case<'_>) {
    let rest = &case.rest;
    rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    let by = |name: &str| format!("{}?fieldManager={name}", path(rest));
    rest.merge(&by("zed"), &json!({"spec": {"paused": true, "minReadySeconds": 5}})).await.expect(200);
    let mut other = deployment("i:2");
    other["spec"]["paused"] = json!(false);
    other["spec"]["minReadySeconds"] = json!(6);
    other["spec"]["replicas"] = json!(1);
    let refused = rest.apply(&path(rest), "two", "", &other).await;
    let refused = refused.refused(
        409,
        "Conflict",
        "Apply failed with 4 conflicts: conflicts with \"one\":\n\
         - .spec.replicas\n\
         - .spec.template.spec.containers[name=\"c\"].image\n\
         conflicts with \"zed\" using apps/v1:\n\
         - .spec.minReadySeconds\n\
         - .spec.paused",
    );
    let mut causes: Vec<(String, String)> = refused["details"]["causes"]
        .as_array()
        .expect("causes")
        .iter()
        .map(|c| (text(c, "/field"), text(c, "/message")))
        .collect();
    causes.sort();
    let expected = [
        (".spec.minReadySeconds", "conflict with \"zed\" using apps/v1"),
        (".spec.paused", "conflict with \"zed\" using apps/v1"),
        (".spec.replicas", "conflict with \"one\""),
        (".spec.template.spec.containers[name=\"c\"].image", "conflict with \"one\""),
    ];
    assert_eq!(causes, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

pub async fn force_takes_a_field_over(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let mut both = config("k", "1");
    both["data"]["other"] = json!("1");
    rest.apply(&one, "one", "", &both).await.expect(201);
    let taken = rest.apply(&one, "two", "&force=true", &config("k", "2")).await.expect(200);
    assert_eq!(taken["data"], json!({"k": "2", "other": "1"}));
    assert_eq!(entry(&taken, "one", None)["fieldsV1"], json!({"f:data": {"f:other": {}}}));
    assert_eq!(entry(&taken, "two", None)["fieldsV1"], json!({"f:data": {"f:k": {}}}));
}

pub async fn what_is_no_longer_applied_goes(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let mut body = config("k", "1");
    body["data"]["gone"] = json!("1");
    body["metadata"]["labels"] = json!({"a": "1", "b": "1"});
    rest.apply(&one, "one", "", &body).await.expect(201);
    let mut shared = config("shared", "2");
    shared["metadata"]["labels"] = json!({"b": "1"});
    rest.apply(&one, "two", "", &shared).await.expect(200);
    // Two labels that only one manager set, of which the other holds one.
    let less = rest.apply(&one, "one", "", &config("k", "1")).await.expect(200);
    assert_eq!(less["data"], json!({"k": "1", "shared": "2"}));
    assert_eq!(less["metadata"]["labels"], json!({"b": "1"}));
    // The last owner's leaving takes the map along.
    let none = rest.apply(&one, "two", "", &config("shared", "2")).await.expect(200);
    assert!(none["metadata"]["labels"].is_null(), "{none:#}");
    // A field set by a plain write stays: its writer owns it.
    rest.merge(&format!("{one}?fieldManager=hand"), &json!({"data": {"mine": "1"}})).await.expect(200);
    let kept = rest.apply(&one, "one", "", &config("k", "2")).await.expect(200);
    assert_eq!(kept["data"], json!({"k": "2", "shared": "2", "mine": "1"}));
    // A default comes back where an applied value is dropped.
    rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    let mut dropped = deployment("i:1");
    dropped["spec"].as_object_mut().expect("a map").remove("replicas");
    let defaulted = rest.apply(&path(rest), "one", "", &dropped).await.expect(200);
    assert_eq!(defaulted["spec"]["replicas"], 1);
}

pub async fn lists_merge_by_their_keys(case: &Case<'_>) {
    let rest = &case.rest;
    rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    let side = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s:1"}],
            "tolerations": [{"key": "a", "operator": "Exists"}]}}}});
    let merged = rest.apply(&path(rest), "two", "", &side).await.expect(200);
    let containers = |o: &Value| -> Vec<String> {
        let all = o.pointer("/spec/template/spec/containers").and_then(Value::as_array).expect("containers");
        all.iter().map(|c| text(c, "/name")).collect()
    };
    assert_eq!(containers(&merged), ["c", "side"]);
    assert_eq!(
        entry(&merged, "two", None)["fieldsV1"],
        json!({"f:spec": {"f:template": {"f:spec": {
            "f:containers": {"k:{\"name\":\"side\"}": {".": {}, "f:image": {}, "f:name": {}}},
            "f:tolerations": {}}}}})
    );
    // One's list has no such container, and it stays.
    let mut first = deployment("i:1");
    first["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]);
    let again = rest.apply(&path(rest), "one", "", &first).await.expect(200);
    assert_eq!(containers(&again), ["c", "side"]);
    let env: Vec<String> = again
        .pointer("/spec/template/spec/containers/0/env")
        .and_then(Value::as_array)
        .expect("env")
        .iter()
        .map(|e| text(e, "/name"))
        .collect();
    assert_eq!(env, ["B", "A"], "in the order in which it is applied");
    // Ports of a Service go by number and protocol.
    let service = |port: u16, name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"ports": [{"name": name, "port": port}]}})
    };
    rest.apply(&rest.core("services/s"), "one", "", &service(80, "a")).await.expect(201);
    let two = rest.apply(&rest.core("services/s"), "two", "", &service(81, "b")).await.expect(200);
    let ports: Vec<u64> =
        two["spec"]["ports"].as_array().expect("ports").iter().filter_map(|p| p["port"].as_u64()).collect();
    assert_eq!(ports, [80, 81]);
}

pub async fn a_dry_run_of_an_apply_shows_what_would_be(case: &Case<'_>) {
    let rest = &case.rest;
    let would = rest.apply(&path(rest), "one", "&dryRun=All", &deployment("i:1")).await.expect(201);
    assert_eq!(would["metadata"]["generation"], 1);
    assert_eq!(rest.get(&path(rest)).await.code, 404);
    rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    let live = rest.get(&path(rest)).await.expect(200);
    let would =
        rest.apply(&path(rest), "one", "&dryRun=All&force=true", &deployment("i:2")).await.expect(200);
    assert_eq!(
        would["metadata"]["generation"],
        json!(live["metadata"]["generation"].as_u64().expect("one") + 1)
    );
    assert_eq!(would["spec"]["template"]["spec"]["containers"][0]["image"], "i:2");
    let after = rest.get(&path(rest)).await.expect(200);
    assert_eq!(after["spec"], live["spec"]);
    let same = rest.apply(&path(rest), "one", "&dryRun=All&force=true", &deployment("i:1")).await.expect(200);
    assert_eq!(same["spec"], live["spec"]);
}

/// Asserts the refusal of an apply that does not fit its kind: a status without a reason.
#[track_caller]
fn untyped(answer: super::rest::Response, why: &str) {
    let body = answer.expect(500);
    assert_eq!(text(&body, "/message"), format!("failed to create typed patch object {why}"));
    assert!(body["reason"].is_null() && body["details"].is_null(), "{body:#}");
}

pub async fn an_apply_of_unknown_fields_is_refused(case: &Case<'_>) {
    let rest = &case.rest;
    let mut body = deployment("i:1");
    body["spec"]["nonesuch"] = json!(1);
    for more in ["", "&fieldValidation=Strict"] {
        let refused = rest.apply(&path(rest), "one", more, &body).await;
        untyped(refused, "(/d; apps/v1, Kind=Deployment): .spec.nonesuch: field not declared in schema");
    }
    body["metadata"]["namespace"] = json!(rest.ns);
    let refused = rest.apply(&path(rest), "one", "", &body).await;
    let message = text(&refused.expect(500), "/message");
    assert!(message.contains(&format!("({}/d; apps/v1", rest.ns)), "{message}");
}

pub async fn an_apply_needs_a_manager(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let patch = "application/apply-patch+yaml";
    let refused = rest.patch(&one, patch, &config("k", "v")).await;
    let refused =
        refused.refused(422, "Invalid", "fieldManager: Required value: is required for apply patch");
    assert_eq!(refused["details"]["causes"][0]["field"], "fieldManager");
    let mut managed = config("k", "v");
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let refused = rest.apply(&one, "one", "", &managed).await;
    refused.refused(400, "BadRequest", "metadata.managedFields must be nil");
    let none = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}});
    let refused = rest.apply(&one, "one", "", &none).await;
    refused.refused(400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)");
}

pub async fn who_wrote_what_is_tracked(case: &Case<'_>) {
    let rest = &case.rest;
    let one = rest.core("configmaps/a");
    let made = rest
        .post(&format!("{}?fieldManager=maker", rest.core("configmaps")), &config("k", "1"))
        .await
        .expect(201);
    let first = entry(&made, "maker", None);
    assert_eq!((&first["operation"], &first["apiVersion"]), (&json!("Update"), &json!("v1")));
    assert!(first["fieldsV1"]["f:data"]["f:k"].is_object(), "{first}");
    let patched = rest
        .merge(&format!("{one}?fieldManager=hand"), &json!({"data": {"k": "2", "n": "1"}}))
        .await
        .expect(200);
    assert_eq!(entry(&patched, "hand", None)["fieldsV1"], json!({"f:data": {"f:k": {}, "f:n": {}}}));
    let managers = patched["metadata"]["managedFields"].as_array().expect("managed fields");
    let of_maker = managers.iter().find(|e| e["manager"] == "maker");
    assert!(of_maker.is_none_or(|e| e["fieldsV1"]["f:data"]["f:k"].is_null()), "{patched:#}");
    // Without a name it is the program's own.
    let nameless = rest.merge(&one, &json!({"data": {"u": "1"}})).await.expect(200);
    assert_eq!(entry(&nameless, "contract", None)["fieldsV1"], json!({"f:data": {"f:u": {}}}));
    let fewer =
        rest.merge(&format!("{one}?fieldManager=hand"), &json!({"data": {"u": null}})).await.expect(200);
    let managers: Vec<String> = fewer["metadata"]["managedFields"]
        .as_array()
        .expect("managed fields")
        .iter()
        .map(|e| text(e, "/manager"))
        .collect();
    assert!(!managers.contains(&"contract".to_owned()), "what owned only what is gone is gone: {managers:?}");
}

pub async fn status_is_applied_apart(case: &Case<'_>) {
    let rest = &case.rest;
    rest.apply(&path(rest), "one", "", &deployment("i:1")).await.expect(201);
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 9},
        "status": {"conditions": [{"type": "Mine", "status": "True"}]}});
    let path = path(rest);
    let applied = rest.apply(&format!("{path}/status"), "two", "", &status).await.expect(200);
    assert_eq!(applied["spec"]["replicas"], 0);
    let mine = entry(&applied, "two", Some("status"));
    assert_eq!(
        mine["fieldsV1"],
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"Mine\"}": {".": {}, "f:status": {}, "f:type": {}}}}})
    );
    // A status in an apply of the object itself is dropped.
    let mut both = deployment("i:1");
    both["status"] = json!({"conditions": [{"type": "Other", "status": "True"}]});
    let applied = rest.apply(&path, "one", "", &both).await.expect(200);
    let conditions = applied["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().all(|c| c["type"] != "Other"), "{conditions:?}");
}
