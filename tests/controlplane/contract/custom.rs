//! Custom resource definitions and the objects of the kinds that they make.

use super::Case;
use super::rest::{Rest, text};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Returns a group of this case alone.
fn group(rest: &Rest) -> String {
    format!("{}.example.com", rest.ns)
}

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 5,
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "name is immutable"}]},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "weight": {"type": "integer", "minimum": 0, "maximum": 100, "default": 100},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "nested": {"type": "object", "properties": {"deep": {"type": "string", "default": "d"}}},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "port": {"type": "integer"}}}},
            "plain": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        }},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    }})
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

pub async fn a_definition_is_checked(case: &Case<'_>) {
    let rest = &case.rest;
    let mut wrong = definition(rest, json!([version("v1", true, schema())]));
    wrong["metadata"]["name"] = json!("things");
    let refused = rest.post(DEFINITIONS, &wrong).await;
    refused.refused(422, "Invalid", "must be spec.names.plural+\".\"+spec.group");
    let two = definition(rest, json!([version("v1", true, schema()), version("v2", true, schema())]));
    rest.post(DEFINITIONS, &two).await.refused(
        422,
        "Invalid",
        "must have exactly one version marked as storage version",
    );
    let mut none = definition(rest, json!([version("v1", true, schema())]));
    none["spec"]["versions"][0]["schema"] = json!(null);
    rest.post(DEFINITIONS, &none).await.refused(
        422,
        "Invalid",
        "spec.versions[0].schema.openAPIV3Schema: Required value",
    );
    let loose = json!({"type": "object", "properties": {"spec": {"properties": {"a": {"type": "string"}}}}});
    let loose = definition(rest, json!([version("v1", true, loose)]));
    rest.post(DEFINITIONS, &loose).await.refused(
        422,
        "Invalid",
        "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
    );
}

pub async fn custom_objects_are_checked(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    let bad = json!({"name": "abcdef", "kind": "c", "weight": 101, "port": true, "plain": [{}, {}, {}]});
    let refused = rest.post(&things(rest, ""), &thing(rest, bad)).await;
    let refused = refused.refused(422, "Invalid", &format!("Thing.{} \"t\" is invalid: [", group(rest)));
    let causes = refused["details"]["causes"].as_array().expect("causes");
    // One that only says that rules were not checked has no field.
    let mut found: Vec<(String, String)> = causes
        .iter()
        .map(|c| (text(c, "/field"), text(c, "/reason")))
        .filter(|(field, _)| field != "<nil>")
        .collect();
    found.sort();
    let expected = [
        ("spec.kind", "FieldValueNotSupported"),
        ("spec.name", "FieldValueTooLong"),
        ("spec.plain", "FieldValueTooMany"),
        ("spec.port", "FieldValueTypeInvalid"),
        ("spec.weight", "FieldValueInvalid"),
    ];
    assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{causes:#?}");
    let message = |field: &str| {
        let cause = causes.iter().find(|c| c["field"] == field).expect("a cause");
        text(cause, "/message")
    };
    assert_eq!(message("spec.kind"), "Unsupported value: \"c\": supported values: \"a\", \"b\"");
    assert_eq!(message("spec.name"), "Too long: may not be more than 5 bytes");
    assert_eq!(
        message("spec.weight"),
        "Invalid value: 101: spec.weight in body should be less than or equal to 100"
    );
    assert_eq!(
        message("spec.port"),
        "Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\""
    );
    assert_eq!(message("spec.plain"), "Too many: 3: must have at most 2 items");
    let refused = rest.post(&things(rest, ""), &thing(rest, json!({}))).await;
    refused.refused(422, "Invalid", "spec.name: Required value");
    rest.post(&things(rest, ""), &thing(rest, json!({"name": "ab"}))).await.expect(201);
    let changed = rest.merge(&things(rest, "/t"), &json!({"spec": {"name": "cd"}})).await;
    let changed = changed.refused(422, "Invalid", "spec.name: Invalid value:");
    assert!(text(&changed, "/message").ends_with("name is immutable"), "{changed}");
    let upper = json!({"apiVersion": format!("{}/v1", group(rest)), "kind": "Thing", "metadata": {"name": "T"}, "spec": {"name": "ab"}});
    rest.post(&things(rest, ""), &upper).await.refused(422, "Invalid", "metadata.name: Invalid value: \"T\"");
    let strategic =
        rest.patch(&things(rest, "/t"), "application/strategic-merge-patch+json", &json!({})).await;
    strategic.refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format");
}

pub async fn custom_objects_are_completed_and_pruned(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    let spec = json!({"name": "ab", "nonesuch": 1, "free": {"any": {"thing": 1}}, "labels": {"k": "v"}, "nested": {},
        "port": "http", "keyed": [{"name": "x", "more": 1}]});
    let strict = format!("{}?fieldValidation=Strict", things(rest, ""));
    let refused = rest.post(&strict, &thing(rest, spec.clone())).await;
    let refused = refused.refused(400, "BadRequest", "strict decoding error:");
    let message = text(&refused, "/message");
    assert!(message.contains("unknown field \"spec.nonesuch\""), "{message}");
    assert!(message.contains("unknown field \"spec.keyed[0].more\""), "{message}");
    let made = rest.post(&things(rest, ""), &thing(rest, spec)).await.expect(201);
    assert_eq!(
        made["spec"],
        json!({"name": "ab", "free": {"any": {"thing": 1}}, "labels": {"k": "v"}, "nested": {"deep": "d"},
            "port": "http", "keyed": [{"name": "x"}], "weight": 100})
    );
    let mut unknown = thing(rest, json!({"name": "ab", "nonesuch": 1}));
    unknown["metadata"]["name"] = json!("u");
    let refused = rest.apply(&things(rest, "/u"), "one", "", &unknown).await;
    let refused = refused.expect(500);
    assert_eq!(
        text(&refused, "/message"),
        format!(
            "failed to create typed patch object (/u; {}/v1, Kind=Thing): .spec.nonesuch: field not declared in schema",
            group(rest)
        )
    );
}

pub async fn a_definition_is_upgraded(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    let one = format!("{DEFINITIONS}/things.{}", group(rest));
    rest.post(&things(rest, ""), &thing(rest, json!({"name": "ab"}))).await.expect(201);
    let mut newer = schema();
    newer["properties"]["spec"]["properties"]["added"] = json!({"type": "string", "default": "new"});
    let next = definition(rest, json!([version("v1", false, newer.clone()), version("v2", true, newer)]));
    let upgraded = rest.apply(&one, "one", "", &next).await.expect(200);
    assert!(established(&upgraded), "an upgrade does not take a kind away");
    let v2 = rest.of(&format!("{}/v2", group(rest)), "things/t");
    let found = rest.until(&v2, "the new version", |a| a.code == 200).await.expect(200);
    assert_eq!(found["apiVersion"], format!("{}/v2", group(rest)));
    assert_eq!(found["spec"]["added"], "new", "defaults are filled in when read");
    let old = rest.get(&things(rest, "/t")).await.expect(200);
    assert_eq!(old["apiVersion"], format!("{}/v1", group(rest)));
    let stored = rest
        .until(&one, "both versions", |a| a.body["status"]["storedVersions"] == json!(["v1", "v2"]))
        .await;
    stored.expect(200);
    let group_path = format!("/apis/{}", group(rest));
    let preferred =
        rest.until(&group_path, "the group", |a| a.body["preferredVersion"]["version"] == "v2").await;
    preferred.expect(200);
    // A version that objects may be stored in cannot be dropped.
    let mut only = definition(rest, json!([version("v2", true, schema())]));
    only["metadata"]["name"] = json!(format!("things.{}", group(rest)));
    let refused = rest.apply(&one, "one", "", &only).await;
    refused.refused(422, "Invalid", "status.storedVersions[0]: Invalid value: \"v1\"");
}

pub async fn custom_lists_merge_as_their_schema_says(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    let with = |spec: Value| thing(rest, spec);
    let one = things(rest, "/t");
    let first = json!({"name": "ab", "keyed": [{"name": "x", "port": 1}], "plain": [{"a": "1"}]});
    let made = rest.apply(&one, "one", "", &with(first)).await.expect(201);
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:name": {}, "f:plain": {}, "f:keyed": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:port": {}}}}})
    );
    let second = json!({"name": "ab", "keyed": [{"name": "y", "port": 2}]});
    let merged = rest.apply(&one, "two", "", &with(second)).await.expect(200);
    assert_eq!(merged["spec"]["keyed"], json!([{"name": "x", "port": 1}, {"name": "y", "port": 2}]));
    let clash = json!({"name": "ab", "plain": [{"a": "2"}]});
    let refused = rest.apply(&one, "two", "", &with(clash)).await;
    refused.refused(409, "Conflict", "conflict with \"one\": .spec.plain");
}

pub async fn custom_status_is_apart(case: &Case<'_>) {
    let rest = &case.rest;
    simple(rest).await;
    let mut body = thing(rest, json!({"name": "ab"}));
    body["status"] = json!({"ready": true});
    let made = rest.post(&things(rest, ""), &body).await.expect(201);
    assert!(made["status"].is_null(), "{made:#}");
    let status = json!({"spec": {"weight": 1}, "status": {"ready": true}});
    let written = rest.merge(&things(rest, "/t/status"), &status).await.expect(200);
    assert_eq!((&written["status"]["ready"], &written["spec"]["weight"]), (&json!(true), &json!(100)));
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
