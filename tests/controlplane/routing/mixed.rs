//! Many requests of two tenants with the same served name, while keys, routes and tenants change: nothing of one tenant is answered,
//! listed or recorded as the other's. And what the proxy costs, printed.

use super::super::servers::ControlPlane;
use super::super::{Test, tests};
use super::client::{Answer, get_with, post, stream};
use super::cluster::{SITE, body, cluster};
use super::gate::Config;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub fn tests() -> Vec<Test> {
    tests!(mixed:
        ten_thousand_requests_of_two_tenants_are_never_each_others,
        what_the_proxy_adds_is_told,
    )
    .to_vec()
}

const CHAT: &str = "/v1/chat/completions";
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 12;

/// A tenant's client: what it asks with, and what it may see.
#[derive(Clone)]
struct Client {
    tenant: &'static str,
    /// The model that answers, by its internal name.
    model: &'static str,
    port: u16,
    key: String,
    /// A key of the other tenant.
    foreign: String,
}

impl Client {
    fn of(config: &Config, number: usize) -> Self {
        let (tenant, model, other) =
            if number.is_multiple_of(2) { ("search", "large", "ads") } else { ("ads", "medium", "search") };
        let key = config.key(tenant, &format!("k-{tenant}-{number}"));
        let foreign = config.key(other, &format!("k-{other}-{number}"));
        Self { tenant, model, port: config.port(tenant), key, foreign }
    }

    async fn ask(&self, key: &str, name: &str, n: usize) -> Answer {
        post(self.port, CHAT, &[("authorization", key)], &body(name, &format!("for-{} {n}", self.tenant)))
            .await
    }

    /// Sends one request of many kinds; asserts that its answer is this tenant's. Returns whether a model answered.
    async fn once(&self, n: usize) -> bool {
        let owner = format!("echo from {}-", self.model);
        match n % 10 {
            0 => assert_eq!(self.ask(&self.foreign, "qwen", n).await.code, 401, "{} {n}", self.tenant),
            1 => {
                let url = format!("http://127.0.0.1:{}/v1/models", self.port);
                let list = get_with(&url, &[("authorization", &self.key)]).await.expect(200);
                let ids: Vec<&Value> =
                    list["data"].as_array().expect("a list").iter().map(|m| &m["id"]).collect();
                assert_eq!((ids, &list["data"][0]["owned_by"]), (vec![&json!("qwen")], &json!(self.tenant)));
            }
            // Another tenant's name.
            2 => assert_eq!(self.ask(&self.key, "blend", n).await.code, 404, "{} {n}", self.tenant),
            3 => {
                let asked = body("qwen", &format!("for-{} {n}", self.tenant));
                let mut events = stream(self.port, CHAT, &[("authorization", &self.key)], &asked).await;
                let all = events.rest().await.unwrap_or_else(|e| panic!("{} {n}: {e:?}", self.tenant));
                assert_eq!(all.last(), Some(&json!("[DONE]")), "{all:?}");
                let said: String =
                    all.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
                assert!(said.contains(&owner), "{} {n}: {said}", self.tenant);
                assert!(all[..all.len() - 1].iter().all(|e| e["model"] == "qwen"), "{all:?}");
                return true;
            }
            _ => {
                let answer = self.ask(&self.key, "qwen", n).await;
                assert!(answer.said().contains(&owner), "{} {n}: {answer:?}", self.tenant);
                assert_eq!(answer.json["model"], "qwen", "{answer:?}");
                return true;
            }
        }
        false
    }
}

pub async fn ten_thousand_requests_of_two_tenants_are_never_each_others(plane: &ControlPlane) {
    let mut cluster = cluster(plane, SITE).await;
    let mut config = Config::new();
    let mut edge = config.start().await;
    let next = Arc::new(AtomicUsize::new(0));
    let mut load = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, next) = (Client::of(&config, number), next.clone());
        load.spawn(async move {
            let mut answered = 0_usize;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= REQUESTS {
                    return (client.tenant, answered);
                }
                answered += usize::from(client.once(n).await);
            }
        });
    }
    let more =
        format!("{SITE}  late: {{gateway: {{port: 8084}}, routes: {{qwen: {{to: {{small: 100}}}}}}}}\n");
    let mut changes = 0;
    while next.load(Ordering::Relaxed) < REQUESTS && load.len() == CLIENTS {
        let comes = changes % 2 == 0;
        cluster.apply(plane, if comes { &more } else { SITE }).await;
        if comes {
            config.add("late", 8084, "qwen: {to: {small: 100}}");
        } else {
            config.remove("late");
        }
        config.revoke(&format!("k-old-{changes}"));
        config.update(&mut edge);
        edge.runs();
        changes += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut answered = std::collections::BTreeMap::from([("search", 0), ("ads", 0)]);
    while let Some(done) = load.join_next().await {
        let (tenant, count) = done.expect("every answer was its own tenant's");
        *answered.entry(tenant).or_default() += count;
    }
    assert!(changes >= 2, "nothing changed meanwhile");
    cluster.apply(plane, SITE).await;

    // No engine was asked for the other tenant.
    let mut asked = std::collections::BTreeMap::new();
    for (model, one) in cluster.asked().await {
        let text = one.body.to_string();
        let tenant = if model == "large" { "search" } else { "ads" };
        assert!(
            text.contains(&format!("for-{tenant} ")) || text.contains("are you there"),
            "{model}: {text}"
        );
        *asked.entry(tenant).or_insert(0) += usize::from(text.contains("for-"));
    }
    assert_eq!(asked, answered, "each answer came from an engine once");
    // And each is recorded as its own tenant's, with its own key.
    let began = Instant::now();
    let recorded = loop {
        let lines = edge.output();
        let all: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if all.iter().filter(|r| r["tenant"].is_string()).count() >= REQUESTS {
            break all;
        }
        assert!(began.elapsed() < super::cluster::PATIENCE, "{} records", all.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for record in recorded.iter().filter(|r| r["tenant"] == "search" || r["tenant"] == "ads") {
        let tenant = record["tenant"].as_str().expect("a tenant");
        let key = record["key"].as_str();
        assert!(key.is_none_or(|key| key.starts_with(&format!("k-{tenant}-"))), "{record}");
        assert_eq!(key.is_none(), record["status"] == 401, "{record}");
        assert!(record["model"].is_null() || record["model"] == "qwen", "{record}");
    }
    println!(
        "{REQUESTS} requests of two tenants during {changes} changes: {answered:?} answered, none as the other's"
    );
}

/// Returns the time that a half and 99 of 100 take at most, in milliseconds.
fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    (at(50), at(99))
}

/// How many clients ask at once when requests per second are counted, for how long, and how many times.
const AT_ONCE: usize = 16;
const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;

/// Returns the requests per second of clients that each ask again as soon as they are answered: the router itself, or through the
/// proxy.
async fn per_second(client: &Client, through: bool) -> f64 {
    let mut load = JoinSet::new();
    let began = Instant::now();
    for number in 0..AT_ONCE {
        let client = client.clone();
        load.spawn(async move {
            let mut answered = 0_u32;
            while began.elapsed() < ROUND {
                let n = number * 1_000_000 + answered as usize;
                let answer = if through {
                    client.ask(&client.key, "qwen", n).await
                } else {
                    super::client::chat(8081, "qwen", &format!("for-search {n}")).await
                };
                answer.said();
                answered += 1;
            }
            answered
        });
    }
    let answered: u32 = load.join_all().await.into_iter().sum();
    f64::from(answered) / began.elapsed().as_secs_f64()
}

/// One request after the other, by turns to the router itself and through the proxy, and then many clients at once, also by turns: in
/// one run, so that the two can be compared.
pub async fn what_the_proxy_adds_is_told(plane: &ControlPlane) {
    let _cluster = cluster(plane, SITE).await;
    let config = Config::new();
    let _edge = config.start().await;
    let client = Client::of(&config, 0);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for n in 0..1_000 {
        let began = Instant::now();
        super::client::chat(8081, "qwen", &format!("for-search {n}")).await.said();
        direct.push(began.elapsed());
        let began = Instant::now();
        client.ask(&client.key, "qwen", n).await.said();
        through.push(began.elapsed());
    }
    let (direct, through) = (quantiles(direct), quantiles(through));
    println!(
        "1,000 requests each, one at a time: router alone p50 {:.2} ms, p99 {:.2} ms; through the proxy with keys p50 {:.2} ms, p99 {:.2} ms",
        direct.0, direct.1, through.0, through.1
    );
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push((per_second(&client, false).await, per_second(&client, true).await));
    }
    let middle = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let direct = middle(rates.iter().map(|r| r.0).collect());
    let through = middle(rates.iter().map(|r| r.1).collect());
    println!(
        "{AT_ONCE} clients, middle of {ROUNDS} rounds by turns: router alone {direct:.0} requests per second, through the proxy {through:.0}; all rounds {rates:.0?}"
    );
}
