//! Lists and watches.

use super::Case;
use super::rest::{Rest, text};
use serde_json::{Value, json};

async fn config_map(rest: &Rest, name: &str, labels: Value) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}});
    rest.post(&rest.core("configmaps"), &body).await.expect(201)
}

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().expect("items").iter().map(|i| text(i, "/metadata/name")).collect()
}

/// Makes five maps a to e: `n` is the name, `even` is on b and d, `all` on every one.
async fn five(rest: &Rest) {
    for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let mut labels = json!({"n": name, "all": "yes"});
        if index % 2 == 1 {
            labels["even"] = json!("yes");
        }
        config_map(rest, name, labels).await;
    }
}

pub async fn lists_select_by_label(case: &Case<'_>) {
    let rest = &case.rest;
    five(rest).await;
    for (selector, expected) in [
        ("n=a", "a"),
        ("n==a", "a"),
        ("all,n!=a", "b c d e"),
        ("n%20in%20(a,c)", "a c"),
        ("all,n%20notin%20(a,c)", "b d e"),
        ("even", "b d"),
        ("all,!even", "a c e"),
        ("even=yes,n=b", "b"),
        ("even=no", ""),
    ] {
        let list =
            rest.get(&format!("{}?labelSelector={selector}", rest.core("configmaps"))).await.expect(200);
        assert_eq!(names(&list).join(" "), expected, "{selector}");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
        assert!(!text(&list, "/metadata/resourceVersion").is_empty());
        // The items of a built-in list do not repeat their type.
        assert!(list["items"].as_array().expect("items").iter().all(|i| i["kind"].is_null()));
    }
    let bad = rest.get(&format!("{}?labelSelector=a%20b%20c", rest.core("configmaps"))).await;
    bad.refused(400, "BadRequest", "unable to parse requirement");
    // Over all namespaces.
    let all = rest.get("/api/v1/configmaps?labelSelector=all%3Dyes,n%3Da").await.expect(200);
    let here = all["items"].as_array().expect("items").iter();
    assert_eq!(here.filter(|i| i["metadata"]["namespace"] == rest.ns.as_str()).count(), 1);
}

pub async fn lists_select_by_field(case: &Case<'_>) {
    let rest = &case.rest;
    five(rest).await;
    let by = |selector: &str| format!("{}?fieldSelector={selector}", rest.core("configmaps"));
    assert_eq!(names(&rest.get(&by("metadata.name=b")).await.expect(200)), ["b"]);
    let others = names(&rest.get(&by("metadata.name!=b")).await.expect(200));
    assert!(!others.contains(&"b".to_owned()) && others.contains(&"a".to_owned()), "{others:?}");
    for (name, node) in [("p", Some("n-1")), ("q", None)] {
        let mut body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        if let Some(node) = node {
            body["spec"]["nodeName"] = json!(format!("{}-{node}", rest.ns));
        }
        rest.post(&rest.core("pods"), &body).await.expect(201);
    }
    let on = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}-n-1", rest.ns);
    assert_eq!(names(&rest.get(&on).await.expect(200)), ["p"]);
    let pending = format!("{}?fieldSelector=status.phase%3DPending", rest.core("pods"));
    assert_eq!(names(&rest.get(&pending).await.expect(200)), ["p", "q"]);
    for name in ["p", "q"] {
        rest.delete(&rest.core(&format!("pods/{name}")), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    }
}

pub async fn lists_come_in_pages(case: &Case<'_>) {
    let rest = &case.rest;
    five(rest).await;
    let all = format!("{}?labelSelector=all", rest.core("configmaps"));
    let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = rest.get(&format!("{all}&limit=2&continue={token}")).await.expect(200);
        found.extend(names(&page));
        pages += 1;
        match page["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => token = next.to_owned(),
            _ => break,
        }
    }
    assert_eq!((found.join(" "), pages), ("a b c d e".to_owned(), 3));
    rest.get(&format!("{all}&limit=2&continue=nonsense")).await.refused(
        400,
        "BadRequest",
        "continue key is not valid",
    );
}

pub async fn a_watch_tells_what_happens(case: &Case<'_>) {
    let rest = &case.rest;
    let path = rest.core("configmaps");
    config_map(rest, "before", json!({"w": "1"})).await;
    let list = rest.get(&path).await.expect(200);
    let from = text(&list, "/metadata/resourceVersion");
    let query = format!("{path}?watch=true&labelSelector=w%3D1&resourceVersion={from}");
    let mut watch = rest.watch(&query).await;
    config_map(rest, "other", json!({})).await;
    config_map(rest, "a", json!({"w": "1"})).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    // Unlike in a list, the object says what it is.
    assert_eq!(
        (&event["object"]["kind"], &event["object"]["apiVersion"]),
        (&json!("ConfigMap"), &json!("v1"))
    );
    let one = rest.core("configmaps/a");
    rest.merge(&one, &json!({"data": {"k": "v"}})).await.expect(200);
    assert_eq!(watch.event().await, ("MODIFIED".into(), "a".into()));
    // What leaves the selection is gone for this watch, and comes back as new.
    rest.merge(&one, &json!({"metadata": {"labels": {"w": "2"}}})).await.expect(200);
    assert_eq!(watch.event().await, ("DELETED".into(), "a".into()));
    rest.merge(&one, &json!({"metadata": {"labels": {"w": "1"}}})).await.expect(200);
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    rest.delete(&one, &Value::Null).await.expect(200);
    let gone = watch.next().await.expect("an event");
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("a")));
    let version = |v: &str| v.parse::<u64>().expect("a number");
    assert!(version(&text(&gone, "/object/metadata/resourceVersion")) > version(&from));
}

pub async fn a_watch_begins_with_what_is_there(case: &Case<'_>) {
    let rest = &case.rest;
    five(rest).await;
    let path = format!("{}?watch=true&labelSelector=even", rest.core("configmaps"));
    let mut watch = rest.watch(&path).await;
    let first = [watch.event().await, watch.event().await];
    assert_eq!(first, [("ADDED".into(), "b".into()), ("ADDED".into(), "d".into())]);
    // One object.
    let mut watch =
        rest.watch(&format!("{}?watch=true&fieldSelector=metadata.name%3Dc", rest.core("configmaps"))).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "c".into()));
}

pub async fn a_watch_ends_when_asked_to(case: &Case<'_>) {
    let rest = &case.rest;
    let mut watch = rest
        .watch(&format!("{}?watch=true&timeoutSeconds=1&labelSelector=none", rest.core("configmaps")))
        .await;
    assert_eq!(watch.next().await, None);
    let bad = rest.get(&format!("{}?watch=true&resourceVersion=x", rest.core("configmaps"))).await;
    // As the real one has it: nobody's fault but the server's.
    let bad = bad.expect(500);
    assert_eq!(
        text(&bad, "/message"),
        "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
    );
    assert!(bad["reason"].is_null(), "{bad}");
}

pub async fn a_watch_goes_on_after_a_restart(case: &Case<'_>) {
    let rest = &case.rest;
    let made = config_map(rest, "a", json!({"w": "1"})).await;
    let from = text(&made, "/metadata/resourceVersion");
    let path =
        |from: &str| format!("{}?watch=true&labelSelector=w&resourceVersion={from}", rest.core("configmaps"));
    let mut watch = rest.watch(&path(&from)).await;
    let changed = rest.merge(&rest.core("configmaps/a"), &json!({"data": {"k": "1"}})).await.expect(200);
    assert_eq!(watch.event().await, ("MODIFIED".into(), "a".into()));
    let last = text(&changed, "/metadata/resourceVersion");
    // Something else happens before the server goes, so that what it begins with is later than what we saw.
    config_map(rest, "x", json!({})).await;
    case.site.restart().await;
    assert_eq!(watch.next().await, None, "the connection ends with the server");
    // What is stored is still there, but the new server knows of no past: who watches lists again.
    config_map(rest, "b", json!({"w": "1"})).await;
    let told = rest.watch(&path(&last)).await.next().await.expect("an event");
    assert_eq!(told["type"], "ERROR", "{told}");
    let status = &told["object"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{told}");
    assert!(text(status, "/message").starts_with(&format!("too old resource version: {last} (")), "{told}");
    let list = rest.get(&format!("{}?labelSelector=w", rest.core("configmaps"))).await.expect(200);
    assert_eq!(names(&list), ["a", "b"]);
    let mut watch = rest.watch(&path(&text(&list, "/metadata/resourceVersion"))).await;
    config_map(rest, "c", json!({"w": "1"})).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "c".into()));
}
