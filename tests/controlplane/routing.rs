//! Requests through the real Kthena router, and the real Envoy: what the product renders is applied by its own reconciler, the
//! real controllers and scheduler make and place the pods, and echo engines answer on their addresses. In a network of its own.

mod client;
mod cluster;
pub mod edge;
pub mod ends;
mod engine;
mod envoy;
mod gate;
mod kubelet;
pub mod mixed;
pub mod network;
mod router;
mod sandbox;

use super::assets::Missing;
use super::servers::ControlPlane;
use super::{Test, tests};
use client::{chat, get, get_with, post, raw, stream};
pub use cluster::end;
use cluster::{SITE, body, cluster};
use envoy::Edge;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

pub fn tests() -> Vec<Test> {
    tests!(routing:
        tenants_with_the_same_served_name_reach_their_own_models,
        engines_of_both_kinds_answer_chats_and_completions,
        engines_are_asked_for_the_model_that_they_serve,
        weights_decide_how_many_requests_a_model_gets,
        headers_decide_before_weights,
        a_tenant_comes_and_goes_while_another_is_served,
        events_arrive_one_by_one,
        the_usage_event_comes_only_when_asked_for,
        a_stopped_pod_of_two_is_not_noticed,
        a_stream_whose_engine_dies_is_cut_or_says_so,
        errors_of_the_router_are_bare_strings,
        bodies_that_are_no_json_are_refused,
        headers_of_clients_reach_the_engine,
        every_port_lists_the_names_of_all_tenants,
        too_many_waiting_requests_are_refused,
        envoy_follows_a_config_map,
    )
    .to_vec()
}

/// Brings everything here that comes from elsewhere.
pub fn assets() -> Result<(), Missing> {
    network::check()?;
    super::assets::definitions()?;
    super::assets::router()?;
    super::assets::envoy()?;
    Ok(())
}

/// Returns who answered: `large` of `echo from large-6d5f-x2k: hello`.
fn model_of(said: &str) -> &str {
    let pod = said.strip_prefix("echo from ").and_then(|s| s.split_once(':')).map(|(pod, _)| pod);
    let pod = pod.unwrap_or_else(|| panic!("nobody said {said:?}"));
    pod.split('-').next().unwrap_or_default()
}

pub async fn tenants_with_the_same_served_name_reach_their_own_models(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    for n in 0..10 {
        let prompt = format!("question {n}");
        assert_eq!(model_of(chat(8081, "qwen", &prompt).await.said()), "large");
        assert_eq!(model_of(chat(8082, "qwen", &prompt).await.said()), "medium");
    }
    // A name of another tenant is unknown.
    for (port, name) in [(8081, "blend"), (8082, "tiny"), (8083, "qwen"), (8081, "large")] {
        assert_eq!(chat(port, name, "hello").await.code, 404, "{name} on {port}");
    }
}

pub async fn engines_of_both_kinds_answer_chats_and_completions(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    for (port, name, model) in [(8081, "qwen", "large"), (8083, "tiny", "small")] {
        assert_eq!(model_of(chat(port, name, "hello there").await.said()), model);
        let body = json!({"model": name, "prompt": "hello there"});
        let answer = post(port, "/v1/completions", &[], &body).await.expect(200);
        let said = answer["choices"][0]["text"].as_str().expect("a text");
        assert_eq!(model_of(said), model);
        assert!(said.ends_with(": hello there"), "{said}");
    }
}

pub async fn engines_are_asked_for_the_model_that_they_serve(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    chat(8081, "qwen", "by its served name").await.expect(200);
    chat(8083, "tiny", "by its served name").await.expect(200);
    let asked = cluster.asked().await;
    let models: Vec<(&str, &Value)> = asked.iter().map(|(m, a)| (m.as_str(), &a.body["model"])).collect();
    assert_eq!(models, [("large", &json!("large")), ("small", &json!("small"))]);
    assert!(asked.iter().all(|(_, a)| a.path == "/v1/chat/completions"), "{asked:?}");
}

pub async fn weights_decide_how_many_requests_a_model_gets(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let mut counts = BTreeMap::<String, u32>::new();
    for n in 0..400 {
        let answer = chat(8083, "blend", &format!("question {n}")).await;
        *counts.entry(model_of(answer.said()).to_owned()).or_default() += 1;
    }
    // 280 of 400 are expected; six standard deviations are 55.
    let large = counts["large"];
    assert!((225..=335).contains(&large), "{counts:?}");
    assert_eq!(large + counts["medium"], 400, "{counts:?}");
}

pub async fn headers_decide_before_weights(plane: &ControlPlane) {
    let plain = "qwen: {to: {medium: 100}}";
    let rules = "rules: [{headers: {x-tier: {exact: gold}}, to: {small: 100}}, {headers: {x-tier: {prefix: g}}, to: {large: 100}}]";
    let site = SITE.replace(plain, &format!("qwen: {{{rules}, to: {{medium: 100}}}}"));
    assert_ne!(site, SITE);
    let mut cluster = cluster(plane, &site).await;
    let ask = async |tier: &str| {
        post(8082, "/v1/chat/completions", &[("x-tier", tier)], &body("qwen", "hello")).await
    };
    cluster
        .until("the rules", || ask("gold"), |a| a.code == 200 && a.text.contains("echo from small-"))
        .await;
    assert_eq!(model_of(ask("green").await.said()), "large");
    assert_eq!(model_of(ask("blue").await.said()), "medium");
    assert_eq!(model_of(chat(8082, "qwen", "hello").await.said()), "medium");
    cluster.apply(plane, SITE).await;
    cluster
        .until(
            "the end of the rules",
            || ask("gold"),
            |a| a.code == 200 && a.text.contains("echo from medium-"),
        )
        .await;
}

pub async fn a_tenant_comes_and_goes_while_another_is_served(plane: &ControlPlane) {
    let mut cluster = cluster(plane, SITE).await;
    let more =
        format!("{SITE}  late: {{gateway: {{port: 8084}}, routes: {{qwen: {{to: {{small: 100}}}}}}}}\n");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let mut load = JoinSet::new();
    load.spawn(async move {
        let mut answered = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(model_of(chat(8081, "qwen", &format!("again {answered}")).await.said()), "large");
            answered += 1;
        }
        answered
    });
    cluster.apply(plane, &more).await;
    cluster.served(&more).await;
    assert_eq!(model_of(chat(8084, "qwen", "hello").await.said()), "small");
    assert_eq!(model_of(chat(8082, "qwen", "hello").await.said()), "medium");
    cluster.apply(plane, SITE).await;
    cluster.until("the end of port 8084", || chat(8084, "qwen", "hello"), |a| a.code == 0).await;
    assert_eq!(model_of(chat(8082, "qwen", "hello").await.said()), "medium");
    stop.store(true, Ordering::Relaxed);
    let answered = load.join_next().await.expect("one task").expect("every request was answered");
    assert!(answered > 0);
}

pub async fn events_arrive_one_by_one(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    for (port, name) in [(8081, "qwen"), (8083, "tiny")] {
        cluster.engines(|_, engine| engine.hold(true)).await;
        let mut events = stream(port, "/v1/chat/completions", &[], &body(name, "hold this")).await;
        assert_eq!(events.code, 200);
        assert!(events.content_type.starts_with("text/event-stream"), "{}", events.content_type);
        // The engine has not written the second yet: it waits.
        let first = events.next().await.expect("whole").expect("an event");
        assert!(first.contains("\"echo \""), "{first}");
        cluster.engines(|_, engine| engine.hold(false)).await;
        let rest = events.rest().await.expect("whole");
        assert_eq!(rest.last(), Some(&json!("[DONE]")), "{rest:?}");
    }
    let mut events = stream(8081, "/v1/chat/completions", &[], &body("qwen", "many")).await;
    let all = events.rest().await.expect("whole");
    let pieces: Vec<&str> = all.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(pieces, (0..200).map(|n| format!("{n} ")).collect::<Vec<_>>());
}

pub async fn the_usage_event_comes_only_when_asked_for(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    for wanted in [false, true] {
        let mut body = body("qwen", "count these words");
        if wanted {
            body["stream_options"] = json!({"include_usage": true});
        }
        let mut events = stream(8081, "/v1/chat/completions", &[], &body).await;
        let all = events.rest().await.expect("whole");
        let usage: Vec<&Value> = all.iter().map(|e| &e["usage"]).filter(|u| u.is_object()).collect();
        assert_eq!(usage.len(), usize::from(wanted), "{all:?}");
        if wanted {
            assert_eq!(usage[0]["prompt_tokens"], 3, "{all:?}");
        }
    }
}

pub async fn a_stopped_pod_of_two_is_not_noticed(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let pods = cluster.pods("large").await;
    assert_eq!(pods.len(), 2);
    let ask_all = async |count: u32| {
        let mut seen = BTreeSet::new();
        for n in 0..count {
            let answer = chat(8081, "qwen", &format!("{n} is a question of its own")).await;
            let pod = answer.said().trim_start_matches("echo from ").split(':').next().map(str::to_owned);
            seen.extend(pod);
        }
        seen
    };
    cluster.power(&pods[0], false).await;
    assert_eq!(ask_all(40).await, BTreeSet::from([pods[1].clone()]));
    cluster.power(&pods[0], true).await;
    cluster.power(&pods[1], false).await;
    assert_eq!(ask_all(40).await, BTreeSet::from([pods[0].clone()]));
    cluster.power(&pods[1], true).await;
}

/// Whoever reads the stream cannot tell from the status.
pub async fn a_stream_whose_engine_dies_is_cut_or_says_so(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let mut events = stream(8081, "/v1/chat/completions", &[], &body("qwen", "abort this please")).await;
    assert_eq!(events.code, 200);
    let all = events.rest().await.expect("the router ends it in an orderly way");
    assert!(!all.contains(&json!("[DONE]")), "{all:?}");
    let text = all.iter().map(Value::to_string).collect::<String>();
    assert!(text.contains("request processing failed"), "{all:?}");
    assert_eq!(model_of(chat(8081, "qwen", "and the next").await.said()), "large");
}

pub async fn errors_of_the_router_are_bare_strings(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let unknown = chat(8081, "nobody", "hello").await;
    assert_eq!((unknown.code, unknown.json.is_string()), (404, true), "{unknown:?}");
    assert!(unknown.text.contains("route not found"), "{unknown:?}");
    assert_eq!(unknown.header("content-type"), Some("application/json; charset=utf-8"));
    // What the engine says is lost.
    for word in ["refuse-400", "refuse-500"] {
        let refused = chat(8081, "qwen", word).await;
        assert_eq!(refused.code, 404, "{refused:?}");
        assert!(refused.text.contains("request processing failed"), "{refused:?}");
        assert!(!refused.text.contains("too long") && !refused.text.contains("memory"), "{refused:?}");
    }
    for (more, code, phrase) in [
        (json!({"model": "qwen"}), 404, "prompt not found"),
        (json!({"messages": [client::user("hello")]}), 404, "model not found"),
    ] {
        let answer = post(8081, "/v1/chat/completions", &[], &more).await;
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(answer.text.contains(phrase), "{answer:?}");
    }
}

pub async fn bodies_that_are_no_json_are_refused(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    for body in ["", "{", "nothing", "{\"model\": \"qwen\","] {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(8081, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
    }
    assert!(cluster.asked().await.is_empty());
}

/// Why tenants need a server of their own in front that takes them away.
pub async fn headers_of_clients_reach_the_engine(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let headers = [("authorization", "Bearer of-a-client"), ("x-tenant", "another")];
    post(8081, "/v1/chat/completions", &headers, &body("qwen", "hello")).await.expect(200);
    let asked = cluster.asked().await;
    for (name, value) in headers {
        let sent = asked[0].1.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        assert_eq!(sent, Some(value), "{asked:?}");
    }
}

/// Why tenants need a server of their own in front.
pub async fn every_port_lists_the_names_of_all_tenants(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    for port in [8081, 8082, 8083] {
        let answer = get(&format!("http://127.0.0.1:{port}/v1/models")).await.expect(200);
        let names: Vec<&Value> =
            answer["data"].as_array().expect("models").iter().map(|m| &m["id"]).collect();
        assert_eq!(names, ["blend", "qwen", "tiny"]);
    }
}

pub async fn too_many_waiting_requests_are_refused(plane: &ControlPlane) {
    let mut cluster = cluster(plane, SITE).await;
    let ask = || chat(8083, "tiny", "hello");
    cluster
        .engines(|_, engine| {
            if engine.model() == "small" {
                engine.report_waiting(1_000_000_000)
            }
        })
        .await;
    let refused = cluster.until("a refusal", ask, |a| a.code != 200).await;
    assert_eq!(refused.code, 400, "{refused:?}");
    assert!(refused.text.contains("can't schedule to target pod"), "{refused:?}");
    cluster.engines(|_, engine| engine.report_waiting(999)).await;
    cluster.until("an answer", ask, |a| a.code == 200).await;
}

/// The runner itself: new files are taken on without a restart, bad ones are refused and the old ones stay.
pub async fn envoy_follows_a_config_map(_: &ControlPlane) {
    let answer = |text: &str, more: &str| {
        let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let listener = json!({"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "one",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 30081}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": {"@type": hcm, "stat_prefix": "one",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": text}}}]}]},
                "http_filters": [{"name": "router", "typed_config": {"@type": router}}]}}]}]});
        let mut listeners = json!({"resources": [listener]});
        if !more.is_empty() {
            listeners["resources"][0][more] = json!(true);
        }
        listeners.to_string()
    };
    let bootstrap = json!({"node": {"id": "edge", "cluster": "edge"}, "dynamic_resources": {"lds_config": {
        "path_config_source": {"path": "/etc/edge/listeners.yaml", "watched_directory": {"path": "/etc/edge"}}}}});
    let data = |text: &str, more: &str| {
        BTreeMap::from([
            ("bootstrap.yaml".to_owned(), bootstrap.to_string()),
            ("listeners.yaml".to_owned(), answer(text, more)),
        ])
    };
    let envoy = super::assets::envoy().expect("fetched before");
    let args = [
        "--config-path",
        "/etc/edge/bootstrap.yaml",
        "--reject-unknown-dynamic-fields",
        "--disable-hot-restart",
    ];
    let args = args.map(str::to_owned);
    let mut edge =
        Edge::start(None, &envoy, &args, &data("one", ""), &[("/etc/edge", "{dir}")], &[30081]).await;
    let says = async |wanted: &str| {
        let began = std::time::Instant::now();
        loop {
            // A listener that is replaced keeps its connections for a while.
            let answer = get_with("http://127.0.0.1:30081/", &[("connection", "close")]).await;
            if answer.text == wanted {
                return;
            }
            assert!(began.elapsed() < cluster::PATIENCE, "{answer:?} is not {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    says("one").await;
    edge.update(&data("two", ""));
    says("two").await;
    edge.update(&data("three", "unknown_key"));
    let began = std::time::Instant::now();
    while !edge.output().contains("unknown_key") {
        assert!(began.elapsed() < cluster::PATIENCE, "nothing said of the unknown key:\n{}", edge.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    says("two").await;
    edge.update(&data("four", ""));
    says("four").await;
    edge.runs();
}
