//! The tenants' proxy: the files that the product renders, in the real Envoy, in front of the real Kthena router. What one tenant's
//! clients can ask, see and break.

use super::super::servers::ControlPlane;
use super::super::{Test, tests};
use super::client::{Answer, get_over_tls, get_with, post, raw, stream};
use super::cluster::{Cluster, PATIENCE, SITE, body, cluster};
use super::envoy::Edge;
use super::gate::{Config, HOUR, bearer, now};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Test> {
    tests!(edge:
        only_good_keys_of_the_tenant_are_let_in,
        keys_that_provision_makes_are_let_in_until_they_are_revoked,
        a_tenant_lists_its_own_models_alone,
        answers_name_the_model_that_was_asked_for,
        the_usage_event_is_shown_only_to_whoever_asked,
        events_arrive_one_by_one,
        requests_beyond_a_limit_are_refused,
        errors_are_objects_of_openai,
        a_router_that_does_not_answer_is_an_object_of_openai_too,
        a_stream_whose_engine_dies_ends_with_an_error,
        headers_of_clients_do_not_reach_the_engine,
        other_addresses_lead_nowhere,
        requests_in_requests_are_not_sent_on,
        bodies_are_checked_and_have_a_limit,
        each_request_is_recorded_without_its_text,
        a_revoked_key_is_refused_and_no_stream_is_cut,
        tenants_come_and_go_and_no_stream_is_cut,
        only_networks_that_may_connect_are_answered,
        certificates_are_those_of_the_inventory,
    )
    .to_vec()
}

const CHAT: &str = "/v1/chat/completions";

/// Asserts an error in OpenAI's terms; returns its code.
#[track_caller]
fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.code, status, "{answer:#?}");
    assert!(answer.header("content-type").is_some_and(|t| t.starts_with("application/json")), "{answer:#?}");
    let error = &answer.json["error"];
    for field in ["message", "type", "code"] {
        assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {answer:#?}");
    }
    assert!(error.as_object().is_some_and(|e| e.contains_key("param")), "{answer:#?}");
    error["code"].as_str().unwrap_or_default().to_owned()
}

/// Asks as a tenant's client with a key.
async fn ask(port: u16, key: &str, model: &str, prompt: &str) -> Answer {
    post(port, CHAT, &[("authorization", key)], &body(model, prompt)).await
}

/// Asks until an answer satisfies.
async fn until<F: Future<Output = Answer>>(
    edge: &mut Edge,
    what: &str,
    ask: impl Fn() -> F,
    done: impl Fn(&Answer) -> bool,
) -> Answer {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if done(&answer) {
            return answer;
        }
        edge.runs();
        assert!(began.elapsed() < PATIENCE, "{what} did not come: {answer:#?}\n{}", edge.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn only_good_keys_of_the_tenant_are_let_in(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let edge = config.start().await;
    let port = config.port("search");
    let claims = |iss: &str, aud: &str, exp: i64| json!({"iss": iss, "aud": aud, "jti": "k-1", "exp": exp});
    let good = claims("provision/routing", "search", now() + HOUR);
    let none = bearer(&json!({"alg": "none", "typ": "JWT"}), &good, |_| Vec::new());
    // A key that is signed with the public one, as a secret that both sides would know.
    let shared = bearer(&json!({"alg": "HS256", "typ": "JWT"}), &good, |_| vec![1; 32]);
    let mut changed = config.signed("search", &good);
    changed.replace_range(changed.len() - 20..changed.len() - 10, "AAAAAAAAAA");
    let without_end =
        config.signed("search", &json!({"iss": "provision/routing", "aud": "search", "jti": "k-1"}));
    let bad = [
        ("of another tenant", config.key("ads", "k-1")),
        (
            "signed for another tenant",
            config.signed("search", &claims("provision/routing", "ads", now() + HOUR)),
        ),
        ("signed by another tenant", config.signed("ads", &good)),
        ("of another inventory", config.signed("search", &claims("provision/other", "search", now() + HOUR))),
        ("expired", config.signed("search", &claims("provision/routing", "search", now() - HOUR))),
        ("without an end", without_end),
        ("not signed", none),
        ("of another kind", shared),
        ("changed", changed),
        ("no token", "Bearer sk-1234".to_owned()),
        ("empty", "Bearer ".to_owned()),
        ("no bearer", config.key("search", "k-1").replace("Bearer", "Basic")),
    ];
    for (what, key) in &bad {
        assert_eq!(refused(&ask(port, key, "qwen", what).await, 401), "invalid_api_key", "{what}");
        let models = format!("http://127.0.0.1:{port}/v1/models");
        refused(&get_with(&models, &[("authorization", key)]).await, 401);
    }
    refused(&post(port, CHAT, &[], &body("qwen", "no key")).await, 401);
    let key = config.key("search", "k-1");
    for two in [[key.as_str(), bad[0].1.as_str()], [bad[0].1.as_str(), key.as_str()]] {
        let headers = two.map(|key| ("authorization", key));
        refused(&post(port, CHAT, &headers, &body("qwen", "two keys")).await, 401);
    }
    assert_eq!(cluster.asked().await.len(), 0, "an engine was asked");
    assert!(ask(port, &key, "qwen", "hello").await.said().contains("echo from large-"), "{}", edge.log());
    let key = config.key("ads", "k-1");
    assert!(ask(config.port("ads"), &key, "qwen", "hello").await.said().contains("echo from medium-"));
    // Where no keys are wanted none is needed.
    let answer = post(config.port("mix"), CHAT, &[], &body("tiny", "hello")).await;
    assert!(answer.said().contains("echo from small-"), "{answer:?}");
}

pub async fn keys_that_provision_makes_are_let_in_until_they_are_revoked(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let mut config = Config::new();
    let folder = tempfile::tempdir().expect("a folder");
    let made = config.run_key(folder.path(), "create", "search", &["--name", "ci", "--expires", "1h"]);
    let key = format!("Bearer {}", made["key"].as_str().expect("a key"));
    let id = made["id"].as_str().expect("an id").to_owned();
    let mut edge = config.start().await;
    let port = config.port("search");
    ask(port, &key, "qwen", "hello").await.expect(200);
    refused(&ask(config.port("ads"), &key, "qwen", "hello").await, 401);
    config.run_key(folder.path(), "revoke", "search", &[&id]);
    config.update(&mut edge);
    let answer = until(&mut edge, "a refusal", || ask(port, &key, "qwen", "hello"), |a| a.code != 200).await;
    refused(&answer, 401);
}

pub async fn a_tenant_lists_its_own_models_alone(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    for (tenant, expected) in [("search", &["qwen"][..]), ("ads", &["qwen"]), ("mix", &["blend", "tiny"])] {
        let key = if tenant == "mix" { "Bearer none".to_owned() } else { config.key(tenant, "k-1") };
        let url = format!("http://127.0.0.1:{}/v1/models", config.port(tenant));
        // Whatever host a client names, the tenant is that of the port.
        for host in ["localhost", "other.tenant.example"] {
            let answer = get_with(&url, &[("authorization", &key), ("host", host)]).await.expect(200);
            assert_eq!(answer["object"], "list");
            let names: Vec<&Value> =
                answer["data"].as_array().expect("models").iter().map(|m| &m["id"]).collect();
            assert_eq!(names, expected, "{tenant}");
        }
    }
    // A name of another tenant is as unknown as one that nobody has.
    let port = config.port("search");
    for name in ["tiny", "large", "nobody"] {
        let answer = ask(port, &config.key("search", "k-1"), name, "hello").await;
        assert_eq!(refused(&answer, 404), "model_not_found", "{name}");
    }
}

pub async fn answers_name_the_model_that_was_asked_for(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let (port, key) = (config.port("search"), config.key("search", "k-1"));
    let headers = [("authorization", key.as_str())];
    let completion = json!({"model": "qwen", "prompt": "hello"});
    for (path, body) in [(CHAT, body("qwen", "hello")), ("/v1/completions", completion)] {
        let answer = post(port, path, &headers, &body).await.expect(200);
        assert_eq!(answer["model"], "qwen", "{answer}");
        let mut events = stream(port, path, &headers, &body).await;
        assert_eq!(events.code, 200);
        let all = events.rest().await.expect("whole");
        assert!(all.len() > 3, "{all:?}");
        assert_eq!(all.last(), Some(&json!("[DONE]")), "{all:?}");
        for event in &all[..all.len() - 1] {
            assert_eq!(event["model"], "qwen", "{event}");
        }
    }
}

pub async fn the_usage_event_is_shown_only_to_whoever_asked(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let (port, key) = (config.port("search"), config.key("search", "k-1"));
    for (options, shown) in [
        (Value::Null, false),
        (json!({}), false),
        (json!({"include_usage": false}), false),
        (json!({"include_usage": true}), true),
    ] {
        let mut body = body("qwen", "count these words");
        body["stream_options"] = options;
        let mut events = stream(port, CHAT, &[("authorization", &key)], &body).await;
        let all = events.rest().await.expect("whole");
        let usage: Vec<&Value> = all.iter().map(|e| &e["usage"]).filter(|u| u.is_object()).collect();
        assert_eq!(usage.len(), usize::from(shown), "{body}: {all:?}");
        // Without it nobody could count.
        let asked = cluster.asked().await;
        assert_eq!(asked[0].1.body["stream_options"]["include_usage"], true, "{asked:?}");
    }
}

pub async fn events_arrive_one_by_one(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let (port, key) = (config.port("search"), config.key("search", "k-1"));
    let mut events = stream(port, CHAT, &[("authorization", &key)], &body("qwen", "hold this")).await;
    assert!(events.content_type.starts_with("text/event-stream"), "{}", events.content_type);
    // The engine has not written the second yet: it waits.
    let first = events.next().await.expect("whole").expect("an event");
    assert!(first.contains("\"echo \""), "{first}");
    cluster.engines(|_, engine| engine.hold(false)).await;
    let rest = events.rest().await.expect("whole");
    assert_eq!(rest.last(), Some(&json!("[DONE]")), "{rest:?}");
    let mut events = stream(port, CHAT, &[("authorization", &key)], &body("qwen", "many")).await;
    let all = events.rest().await.expect("whole");
    let pieces: Vec<&str> = all.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(pieces, (0..200).map(|n| format!("{n} ")).collect::<Vec<_>>());
}

pub async fn requests_beyond_a_limit_are_refused(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new()
        .with("search", "limits: {requestsPerMinute: 5}")
        .with("ads", "limits: {requestsPerMinutePerKey: 3}");
    let _edge = config.start().await;
    let limited = |answer: &Answer| {
        assert_eq!(refused(answer, 429), "rate_limit_exceeded");
        let wait = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
        assert!(wait.is_some_and(|wait| (1..=60).contains(&wait)), "{answer:#?}");
    };
    let (port, key) = (config.port("search"), config.key("search", "k-1"));
    for _ in 0..5 {
        ask(port, &key, "qwen", "hello").await.expect(200);
    }
    limited(&ask(port, &key, "qwen", "hello").await);
    limited(&ask(port, &config.key("search", "k-2"), "qwen", "hello").await);
    assert_eq!(cluster.asked().await.len(), 5);
    let (port, one, other) = (config.port("ads"), config.key("ads", "k-1"), config.key("ads", "k-2"));
    for _ in 0..3 {
        ask(port, &one, "qwen", "hello").await.expect(200);
    }
    limited(&ask(port, &one, "qwen", "hello").await);
    // Another key has its own.
    for _ in 0..3 {
        ask(port, &other, "qwen", "hello").await.expect(200);
    }
    limited(&ask(port, &other, "qwen", "hello").await);
}

pub async fn errors_are_objects_of_openai(plane: &ControlPlane) {
    let mut cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let port = config.port("mix");
    let ask = |prompt: &'static str| async move { post(port, CHAT, &[], &body("tiny", prompt)).await };
    for word in ["refuse-400", "refuse-500"] {
        let answer = ask(word).await;
        refused(&answer, 502);
        assert!(!answer.text.contains("request to all pods failed"), "{answer:?}");
    }
    let headers = [("content-type", "application/json")];
    refused(&post(port, CHAT, &headers, &json!({"model": "tiny"})).await, 400);
    refused(&post(port, CHAT, &headers, &json!({"messages": []})).await, 400);
    refused(&post(port, "/v1/embeddings", &headers, &json!({"model": "tiny", "input": "x"})).await, 404);
    cluster
        .engines(|_, engine| {
            if engine.model() == "small" {
                engine.report_waiting(1_000_000_000)
            }
        })
        .await;
    let busy = cluster.until("a refusal", || ask("hello"), |a| a.code != 200).await;
    refused(&busy, 503);
    assert!(busy.header("retry-after").is_some(), "{busy:#?}");
    cluster.engines(|_, engine| engine.report_waiting(0)).await;
    cluster.until("an answer", || ask("hello"), |a| a.code == 200).await;
    // No engine at all: its pod is there and answers nothing.
    let pods = cluster.pods("small").await;
    cluster.power(&pods[0], false).await;
    let gone = ask("hello").await;
    assert!((500..=504).contains(&gone.code), "{gone:?}");
    refused(&gone, gone.code);
    cluster.power(&pods[0], true).await;
}

pub async fn a_router_that_does_not_answer_is_an_object_of_openai_too(_: &ControlPlane) {
    let config = Config::new();
    // No way leads there.
    let _edge = config.start_before("198.51.100.1").await;
    let answer = post(config.port("mix"), CHAT, &[], &body("tiny", "hello")).await;
    refused(&answer, 503);
    let listed = get_with(&format!("http://127.0.0.1:{}/v1/models", config.port("mix")), &[]).await;
    assert_eq!(listed.code, 200, "{listed:?}");
}

pub async fn a_stream_whose_engine_dies_ends_with_an_error(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let mut events = stream(config.port("mix"), CHAT, &[], &body("tiny", "abort this please")).await;
    assert_eq!(events.code, 200);
    let all = events.rest().await.expect("it ends in an orderly way");
    assert!(all.iter().all(|event| event.is_object()), "{all:?}");
    let last = all.last().expect("an event");
    assert!(last["error"]["message"].is_string(), "{all:?}");
}

pub async fn headers_of_clients_do_not_reach_the_engine(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let (port, key) = (config.port("search"), config.key("search", "k-1"));
    let sent = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "planted.example"),
        ("x-forwarded-proto", "planted"),
        ("forwarded", "for=203.0.113.9"),
        ("x-request-id", "planted-id"),
        ("x-envoy-original-path", "/planted"),
        ("x-envoy-internal", "true"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-of-no-meaning-yet", "planted"),
    ];
    let mut headers = sent.to_vec();
    headers.push(("authorization", &key));
    post(port, CHAT, &headers, &body("qwen", "hello")).await.expect(200);
    let asked = cluster.asked().await;
    let got = &asked[0].1.headers;
    for (name, value) in sent {
        assert!(!got.iter().any(|(k, v)| k == name && v.contains(value)), "{name}: {got:?}");
    }
    for (name, value) in got {
        assert_ne!(name, "authorization", "{got:?}");
        assert!(!value.contains(key.trim_start_matches("Bearer ")), "{name}: {got:?}");
    }
}

/// Sends a request as it is written, with a key, to the tenant `search`.
async fn written(config: &Config, line: &str, headers: &str, text: &str) -> String {
    let key = config.key("search", "k-1");
    let request = format!("{line} HTTP/1.1\r\nhost: a\r\nauthorization: {key}\r\n{headers}\r\n{text}");
    raw(config.port("search"), request.as_bytes()).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

pub async fn other_addresses_lead_nowhere(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let mut edge = config.start().await;
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/stats",
        "/ready",
        "/debug/config_dump/pods",
        "/debug/pprof/",
        "//healthz",
        "/v1/models/",
        "/v1/models/..;/x",
        "/v1/models/../../metrics",
        "/v1/models/..%2f..%2fmetrics",
        "/v1%2fmodels",
        "/v1%5cmodels",
        "/v1/models%00",
        "/V1/MODELS",
        "/v1/chat/completions/",
        "/v1/chat/completions/x",
        "/v1/chat/completions/../../../healthz",
        "/v1/chat/completions;x",
        "/v1/embeddings",
        "/v1/responses",
        "http://127.0.0.1:15000/debug/config_dump/pods",
        "http://127.0.0.1:8080/metrics",
        "*",
    ] {
        for method in ["GET", "POST"] {
            let answer = written(&config, &format!("{method} {path}"), "content-length: 0\r\n", "").await;
            assert!((400..=404).contains(&status(&answer)), "{method} {path}: {answer}");
        }
    }
    for (method, path) in [
        ("GET", CHAT),
        ("PUT", CHAT),
        ("DELETE", CHAT),
        ("OPTIONS", CHAT),
        ("TRACE", CHAT),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models"),
        ("CONNECT", "127.0.0.1:8081"),
    ] {
        let answer = written(&config, &format!("{method} {path}"), "", "").await;
        assert!((400..=405).contains(&status(&answer)), "{method} {path}: {answer}");
    }
    assert_eq!(cluster.asked().await.len(), 0, "an engine was asked");
    // What a normalised path leads to is served.
    let answer = written(&config, "GET //v1/./models?x=1", "", "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    edge.runs();
}

pub async fn requests_in_requests_are_not_sent_on(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let mut edge = config.start().await;
    let inner_body = body("qwen", "smuggled").to_string();
    let inner = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{inner_body}",
        inner_body.len()
    );
    let line = format!("POST {CHAT}");
    let outer = body("qwen", "outer").to_string();
    let length = outer.len();
    let chunked = format!("0\r\n\r\n{inner}");
    for (headers, text) in [
        (format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"), chunked.clone()),
        (format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", chunked.len()), chunked.clone()),
        (format!("content-length: {length}\r\ncontent-length: 0\r\n"), format!("{outer}{inner}")),
        (format!("content-length: 0\r\ncontent-length: {length}\r\n"), format!("{outer}{inner}")),
        (format!("content-length: {length}, 0\r\n"), format!("{outer}{inner}")),
        (format!("content-length: +{length}\r\n"), format!("{outer}{inner}")),
        (format!("content-length : {length}\r\n"), format!("{outer}{inner}")),
        ("transfer-encoding: chunked, identity\r\n".to_owned(), chunked.clone()),
        ("transfer-encoding: xchunked\r\n".to_owned(), chunked.clone()),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".to_owned(), chunked.clone()),
        ("transfer-encoding:\x0bchunked\r\n".to_owned(), chunked.clone()),
        (format!("x: a\n\ncontent-length: {length}\r\n"), format!("{outer}{inner}")),
    ] {
        let answer = written(&config, &line, &headers, &text).await;
        let code = status(&answer);
        assert!((400..=599).contains(&code) || code == 200, "{headers:?}: {answer}");
        // One that came behind it on the same connection would have had no key, and one on another is the last.
        ask(config.port("search"), &config.key("search", "k-1"), "qwen", "behind it").await.expect(200);
        let asked = cluster.asked().await;
        let prompts: Vec<String> =
            asked.iter().map(|(_, a)| a.body["messages"][0]["content"].to_string()).collect();
        assert!(!prompts.iter().any(|p| p.contains("smuggled")), "{headers:?}: {prompts:?}");
        assert!(prompts.iter().filter(|p| p.contains("outer")).count() <= 1, "{headers:?}: {prompts:?}");
    }
    edge.runs();
}

pub async fn bodies_are_checked_and_have_a_limit(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let config = Config::new().with("mix", "limits: {requestKilobytes: 64}");
    let mut edge = config.start().await;
    let port = config.port("mix");
    let most = "a ".repeat(20_000);
    let answer = post(port, CHAT, &[], &body("tiny", &most)).await;
    assert!(answer.said().contains("echo from small-"));
    assert_eq!(cluster.asked().await.len(), 1);
    refused(&post(port, CHAT, &[], &body("tiny", &"a ".repeat(40_000))).await, 413);
    refused(&post(port, CHAT, &[], &body("tiny", &"a ".repeat(5_000_000))).await, 413);
    for text in [
        "",
        "{",
        "nothing",
        "[]",
        "null",
        "\"qwen\"",
        "{\"model\": \"tiny\",",
        "{\"model\": \"tiny\", \"model\": \"blend\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
        "{\"mod\\u0065l\": \"blend\", \"model\": \"tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
        "{\"model\": [\"tiny\"], \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
        "{\"model\": \"tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]} {\"model\": \"blend\"}",
    ] {
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        let answer = raw(port, request.as_bytes()).await;
        assert_eq!(status(&answer), 400, "{text}: {answer}");
        let (_, error) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let error: Value = serde_json::from_str(error).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert!(error["error"]["message"].is_string(), "{text}: {answer}");
    }
    // What is nested deeply or long takes no turn from others.
    let deep = format!("{{\"model\": \"tiny\", \"messages\": {}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let request = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{deep}", deep.len());
    let answer = raw(port, request.as_bytes()).await;
    assert!((400..=599).contains(&status(&answer)), "{answer}");
    assert_eq!(cluster.asked().await.len(), 0, "an engine was asked");
    assert!(post(port, CHAT, &[], &body("tiny", "hello")).await.said().contains("echo from small-"));
    edge.runs();
}

/// Returns the access records that satisfy, when there are so many.
async fn records(edge: &mut Edge, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let all: Vec<Value> = edge
            .output()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(&wanted)
            .collect();
        if all.len() >= count {
            return all;
        }
        edge.runs();
        assert!(began.elapsed() < PATIENCE, "{count} records are not there:\n{}", edge.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn each_request_is_recorded_without_its_text(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let mut edge = config.start().await;
    let (port, key) = (config.port("search"), config.key("search", "k-77"));
    ask(port, &key, "qwen", "a secret-prompt").await.expect(200);
    let mut events =
        stream(port, CHAT, &[("authorization", &key)], &body("qwen", "a secret-prompt again")).await;
    events.rest().await.expect("whole");
    ask(port, &config.key("ads", "k-78"), "qwen", "a secret-prompt").await.expect(401);
    ask(port, &key, "nobody", "a secret-prompt").await.expect(404);
    post(config.port("mix"), CHAT, &[], &body("tiny", "a secret-prompt refuse-500")).await;
    let all = records(&mut edge, 5, |record| record["tenant"].is_string()).await;
    assert_eq!(all.len(), 5, "{all:#?}");
    let shown = |record: &Value| {
        (record["tenant"].clone(), record["key"].clone(), record["model"].clone(), record["status"].clone())
    };
    assert_eq!(shown(&all[0]), (json!("search"), json!("k-77"), json!("qwen"), json!(200)));
    assert_eq!((&all[0]["tokensIn"], &all[0]["streamed"]), (&json!(2), &Value::Null), "{:#}", all[0]);
    assert_eq!(shown(&all[1]), (json!("search"), json!("k-77"), json!("qwen"), json!(200)));
    assert_eq!((&all[1]["tokensIn"], &all[1]["streamed"]), (&json!(3), &json!(true)), "{:#}", all[1]);
    assert!(all[1]["tokensOut"].as_u64().is_some_and(|n| n > 0), "{:#}", all[1]);
    assert_eq!(shown(&all[2]), (json!("search"), Value::Null, Value::Null, json!(401)));
    assert_eq!((&all[3]["key"], &all[3]["status"]), (&json!("k-77"), &json!(404)), "{:#}", all[3]);
    assert_eq!(shown(&all[4]), (json!("mix"), Value::Null, json!("tiny"), json!(502)));
    for planted in ["secret-prompt", key.trim_start_matches("Bearer "), "echo from"] {
        assert!(!edge.output().contains(planted), "{planted}:\n{}", edge.log());
    }
}

/// Starts a stream that goes on until engines let it.
async fn held(port: u16, key: &str) -> super::client::Events {
    let mut events = stream(port, CHAT, &[("authorization", key)], &body("qwen", "hold this")).await;
    assert_eq!(events.code, 200);
    events.next().await.expect("whole").expect("an event");
    events
}

/// Lets a held stream go on; asserts that it comes to its end.
async fn finished(cluster: &Cluster, mut events: super::client::Events) {
    cluster.engines(|_, engine| engine.hold(false)).await;
    let rest = events.rest().await.expect("it was not cut");
    assert_eq!(rest.last(), Some(&json!("[DONE]")), "{rest:?}");
}

pub async fn a_revoked_key_is_refused_and_no_stream_is_cut(plane: &ControlPlane) {
    let cluster = cluster(plane, SITE).await;
    let mut config = Config::new();
    let mut edge = config.start().await;
    let (port, one, other) =
        (config.port("search"), config.key("search", "k-1"), config.key("search", "k-2"));
    let streams = [held(port, &one).await, held(port, &other).await];
    config.revoke("k-2");
    config.update(&mut edge);
    let answer =
        until(&mut edge, "a refusal", || ask(port, &other, "qwen", "hello"), |a| a.code != 200).await;
    refused(&answer, 401);
    ask(port, &one, "qwen", "hello").await.expect(200);
    for events in streams {
        finished(&cluster, events).await;
    }
}

pub async fn tenants_come_and_go_and_no_stream_is_cut(plane: &ControlPlane) {
    let mut cluster = cluster(plane, SITE).await;
    let mut config = Config::new();
    let mut edge = config.start().await;
    let (port, key) = (config.port("search"), config.key("search", "k-1"));
    let first = held(port, &key).await;
    let more =
        format!("{SITE}  late: {{gateway: {{port: 8084}}, routes: {{qwen: {{to: {{small: 100}}}}}}}}\n");
    cluster.apply(plane, &more).await;
    config.add("late", 8084, "qwen: {to: {small: 100}}");
    let late = config.port("late");
    config.update(&mut edge);
    let to_late = || async move { post(late, CHAT, &[], &body("qwen", "hello")).await };
    let answer = until(&mut edge, "the new tenant", to_late, |a| a.code == 200).await;
    assert!(answer.said().contains("echo from small-"), "{answer:?}");
    let second = held(port, &key).await;
    config.remove("late");
    config.update(&mut edge);
    until(&mut edge, "the end of the tenant", to_late, |a| a.code == 0).await;
    ask(port, &key, "qwen", "hello").await.expect(200);
    finished(&cluster, first).await;
    finished(&cluster, second).await;
    cluster.apply(plane, SITE).await;
}

pub async fn only_networks_that_may_connect_are_answered(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let config = Config::new().with("mix", "allowFrom: [192.0.2.0/28]");
    let _edge = config.start().await;
    let from = async |address: &str, tenant: &str| {
        super::client::get_from(address, config.port(tenant), "/v1/models").await.code
    };
    // The addresses of documentation are public: only who is named there is let in.
    assert_eq!(from("192.0.2.7", "mix").await, 200);
    assert_eq!(from("192.0.2.77", "mix").await, 0);
    assert_eq!(from("127.0.0.1", "mix").await, 0);
    assert_eq!(from("192.0.2.7", "search").await, 0);
    // From here it only lacks a key.
    assert_eq!(from("127.0.0.1", "search").await, 401);
    assert_eq!(from("10.240.9.9", "mix").await, 200, "pods may always");
}

pub async fn certificates_are_those_of_the_inventory(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let make = || {
        let made =
            rcgen::generate_simple_self_signed(vec!["models.example".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let (one, other) = (make(), make());
    let mut config = Config::new().with_tls("mix", &one.0, &one.1);
    let mut edge = config.start().await;
    let port = config.port("mix");
    assert_eq!(get_over_tls(port, "models.example", &one.0).await.code, 200);
    assert_eq!(get_over_tls(port, "models.example", &other.0).await.code, 0);
    let plain = get_with(&format!("http://127.0.0.1:{port}/v1/models"), &[]).await;
    assert_eq!(plain.code, 0, "{plain:?}");
    config.replace_certificate(&other.0, &other.1);
    config.update(&mut edge);
    let renewed = || get_over_tls(port, "models.example", &other.0);
    until(&mut edge, "the new certificate", renewed, |a| a.code == 200).await;
    assert_eq!(get_over_tls(port, "models.example", &one.0).await.code, 0);
}
