//! Custom resource definitions and the objects of the kinds that they make.

use super::Case;
use super::rest::{Rest, text};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Returns a group of this case alone.
fn group(rest: &Rest) -> String {
    format!("{}.example.com", rest.ns)
}

/// Schemas have no effect in the stand-in: this one takes anything.
fn schema() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn version(name: &str, storage: bool, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema}})
}

fn definition(rest: &Rest, versions: Value) -> Value {
    let group = group(rest);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things", "shortNames": ["th"]},
            "versions": versions}})
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == name)
}

fn established(object: &Value) -> bool {
    condition(object, "Established").is_some_and(|c| c["status"] == "True")
}

/// Makes the kind and waits until it is served.
async fn served(rest: &Rest, body: &Value) -> Value {
    let one = format!("{DEFINITIONS}/{}", text(body, "/metadata/name"));
    rest.apply(&one, "one", "", body).await.expect(201);
    let found = rest.until(&one, "Established", |a| established(&a.body)).await.expect(200);
    rest.until(&things(rest, ""), "the kind", |a| a.code == 200).await;
    found
}

async fn simple(rest: &Rest) -> Value {
    served(rest, &definition(rest, json!([version("v1", true, schema())]))).await
}

fn things(rest: &Rest, name: &str) -> String {
    rest.of(&format!("{}/v1", group(rest)), &format!("things{name}"))
}

fn thing(rest: &Rest, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/v1", group(rest)), "kind": "Thing", "metadata": {"name": "t"}, "spec": spec})
}

pub async fn a_definition_is_established_and_used(case: &Case<'_>) {
    let rest = &case.rest;
    let found = simple(rest).await;
    let names = json!({"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList", "shortNames": ["th"]});
    assert_eq!(found["spec"]["names"], names);
    assert_eq!(found["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(found["status"]["acceptedNames"], names);
    assert_eq!(found["status"]["storedVersions"], json!(["v1"]));
    let accepted = condition(&found, "NamesAccepted").expect("a condition");
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("True"), &json!("NoConflicts")));
    let reason = condition(&found, "Established").expect("a condition");
    assert_eq!(reason["reason"], "InitialNamesAccepted");

    let list = format!("/apis/{}/v1", group(rest));
    let list = rest
        .until(&list, "discovery", |a| a.code == 200 && a.body["resources"][0].is_object())
        .await
        .expect(200);
    let resource = &list["resources"][0];
    assert_eq!((&resource["name"], &resource["shortNames"]), (&json!("things"), &json!(["th"])));
    assert_eq!(list["resources"][1]["name"], "things/status");
    let made = rest.post(&things(rest, ""), &thing(rest, json!({"name": "ab"}))).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    let all = rest.get(&things(rest, "")).await.expect(200);
    // Unlike those of built-in kinds, the items say what they are.
    assert_eq!((&all["kind"], &all["items"][0]["kind"]), (&json!("ThingList"), &json!("Thing")));
    let missing = rest.get(&things(rest, "/none")).await;
    let missing = missing.refused(404, "NotFound", &format!("things.{} \"none\" not found", group(rest)));
    assert_eq!(missing["details"], json!({"name": "none", "group": group(rest), "kind": "things"}));
    rest.delete(&things(rest, "/t"), &Value::Null).await.expect(200);
}

pub async fn custom_status_is_apart(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    let mut body = thing(rest, json!({"name": "ab", "weight": 5}));
    body["status"] = json!({"ready": true});
    let made = rest.post(&things(rest, ""), &body).await.expect(201);
    assert!(made["status"].is_null(), "{made:#}");
    let status = json!({"spec": {"weight": 1}, "status": {"ready": true}});
    let written = rest.merge(&things(rest, "/t/status"), &status).await.expect(200);
    assert_eq!((&written["status"]["ready"], &written["spec"]["weight"]), (&json!(true), &json!(5)));
    assert_eq!(written["metadata"]["generation"], 1);
    let spec = json!({"spec": {"weight": 2}, "status": {"ready": false}});
    let written = rest.merge(&things(rest, "/t"), &spec).await.expect(200);
    assert_eq!((&written["status"]["ready"], &written["spec"]["weight"]), (&json!(true), &json!(2)));
    assert_eq!(written["metadata"]["generation"], 2);
}

pub async fn a_definition_takes_its_objects_along(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    rest.post(&things(rest, ""), &thing(rest, json!({"name": "ab"}))).await.expect(201);
    let one = format!("{DEFINITIONS}/things.{}", group(rest));
    rest.delete(&one, &Value::Null).await.expect(200);
    rest.until(&one, "its end", |a| a.code == 404).await;
    rest.until(&things(rest, ""), "the end of the kind", |a| a.code == 404).await;
    simple(rest).await;
    let all = rest.get(&things(rest, "")).await.expect(200);
    assert_eq!(all["items"], json!([]), "what was there does not come back");
}
