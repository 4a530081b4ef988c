//! What somebody else has changed: found, told from what was never applied, and passed on.

use super::story::{Story, text};
use super::twin::{DRIVERS, site};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;

impl Story {
    fn drift(&self, code: i32) -> Value {
        let at = self.at();
        let output = self.run(&["drift", "-i", &at, "--output", "json"]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn difference<'a>(drift: &'a Value, target: &str, resource: &str) -> &'a Value {
    let all = drift["differences"].as_array().expect("a list");
    let found = all.iter().find(|d| d["target"] == target && d["resource"] == resource);
    found.unwrap_or_else(|| panic!("no {target} {resource}: {drift:#}"))
}

#[test]
fn drift_is_told_from_what_was_never_applied() {
    let story = Story::of(&site(1));
    story.up();
    let before = story.drift(2);
    let origins = |drift: &Value| -> Vec<Value> {
        drift["differences"].as_array().expect("a list").iter().map(|d| d["origin"].clone()).collect()
    };
    assert!(origins(&before).iter().all(|origin| *origin != "drift"), "{before:#}");
    story.applied();
    let none = story.drift(0);
    assert_eq!((&none["inSync"], &none["exit"], &none["hosts"]), (&json!(true), &json!(0), &json!(3)));

    // By hand, on a host and in the cluster.
    story.on("w-1", "echo '# mine' | sudo tee -a /etc/security/limits.d/90-provision.conf >/dev/null");
    story.api(async |client| {
        let api: kube::Api<k8s_openapi::api::apps::v1::Deployment> = kube::Api::namespaced(client, "models");
        let by = kube::api::PatchParams { field_manager: Some("kubectl-edit".into()), ..Default::default() };
        let patch = kube::api::Patch::Merge(json!({"spec": {"replicas": 2}}));
        api.patch("qwen", &by, &patch).await.expect("accepted");
    });
    // And by the inventory.
    story.edit("\nrouter:", "\nos: {sysctls: {vm.swappiness: \"99\"}}\nrouter:");
    story.edit(DRIVERS[0], DRIVERS[1]);
    let drift = story.drift(2);
    let file = difference(&drift, "w-1", "file//etc/security/limits.d/90-provision.conf");
    assert_eq!((&file["origin"], &file["changedBy"]), (&json!("drift"), &json!([])));
    let engine = difference(&drift, "cluster", "Deployment.apps/models/qwen");
    assert_eq!(
        (&engine["origin"], &engine["changedBy"]),
        (&json!("drift"), &json!(["kubectl-edit"])),
        "{drift:#}"
    );
    let driver = difference(&drift, "h-1", "package/nvidia-open-580");
    assert_eq!(driver["origin"], "inventory");
    // The host has no record of what was as wanted from the start.
    assert_eq!(difference(&drift, "w-1", "sysctl/vm.swappiness")["origin"], Value::Null);

    let (_, plan) = story.plan();
    assert!(
        plan.contains("changed since the last apply") && plan.contains("changed by kubectl-edit"),
        "{plan}"
    );
    let shown = text(&story.run(&["drift", "-i", &story.at()]));
    let at = |what: &str| shown.find(what).unwrap_or_else(|| panic!("no `{what}`: {shown}"));
    assert!(at("changed since the last apply") < at("by kubectl-edit"), "{shown}");
    assert!(
        at("by kubectl-edit") < at("vm.swappiness") && at("vm.swappiness") < at("not applied yet"),
        "{shown}"
    );
    story.applied();
    assert_eq!(story.drift(0)["differences"], json!([]));
}

#[test]
fn a_watch_tells_a_file_and_a_webhook_of_changes_only() {
    let story = Story::of(&site(1));
    story.up();
    story.applied();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/SECRET", listener.local_addr().expect("an address"));
    // The first delivery is refused, so that it is tried again though nothing has changed.
    let server = std::thread::spawn(move || {
        let mut got = Vec::new();
        for status in ["503 Service Unavailable", "200 OK"] {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = String::new();
            let mut buffer = [0; 4096];
            let body = loop {
                let n = stream.read(&mut buffer).expect("a request");
                request += &String::from_utf8_lossy(&buffer[..n]);
                let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0usize) {
                    break body.to_owned();
                }
            };
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .expect("answered");
            got.push(body);
        }
        // A third would wait for this until the watch gives up.
        listener.set_nonblocking(true).expect("set");
        (got, listener)
    });
    let metrics = story.dir.path().join("provision.prom");
    let (at, file) = (story.at(), metrics.display().to_string());
    let mut watch =
        story.command(&["watch", "-i", &at, "--interval", "1s", "--looks", "3", "--metrics", &file]);
    let output = watch.env("PROVISION_WEBHOOK", &url).output().expect("it runs");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.matches("is as wanted: 3 hosts").count(), 1, "told once: {said}");
    assert!(said.contains("error[E-WEBHOOK]") && said.contains("503") && !said.contains("SECRET"), "{said}");
    let (got, listener) = server.join().expect("served");
    for body in &got {
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["inSync"], true);
    }
    assert!(listener.accept().is_err(), "nothing has changed since it was delivered");
    let metrics = std::fs::read_to_string(metrics).expect("written");
    assert!(metrics.contains("provision_in_sync{inventory=\"runs\"} 1\n"), "{metrics}");
    assert!(metrics.contains("provision_differences{inventory=\"runs\",origin=\"drift\"} 0\n"), "{metrics}");
}

#[test]
fn a_watch_prints_the_warnings_of_the_inventory_once() {
    let story = Story::of(&site(2));
    story.up();
    let output = story.run(&["watch", "-i", &story.at(), "--interval", "1s", "--looks", "2"]);
    let said = text(&output);
    assert_eq!(said.matches("etcd quorum").count(), 1, "{said}");
}
