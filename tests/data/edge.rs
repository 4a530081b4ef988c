//! Data tests of the proxy in front of the router: what of an inventory reaches its files, and its keys.

use provision::catalog::Catalog;
use provision::fleet::{Source, TenantKeys};
use provision::inventory::{Inventory, load};
use provision::serving::{ServingInput, desired};
use provision::state::{SecretText, Spec};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SITE: &str = r#"apiVersion: provision/v1
kind: Inventory
metadata: {name: site}
secrets: {signing: {file: signing.pem}, tls: {file: tls.key}}
cluster: {k0s: {version: v1.35.7+k0s.0}}
pools:
  c: {role: controller, hosts: {cp-1: {address: 10.1.0.1}}}
  w: {role: worker, taints: ["example.com/w=1:NoSchedule"], hosts: {w-1: {address: 203.0.113.5}}}
  x: {role: worker, hosts: {x-1: {address: 10.1.0.3}}}
router: {kthena: {version: v1.0.0}, edge: {pools: [w]}}
models:
  m: {source: {path: /data/m}, engine: {vllm: {image: i}}, placement: {pool: w, acceleratorsPerReplica: 0}}
tenants:
  ads:
    gateway: {port: 8081}
    allowFrom: [203.0.113.0/25, 203.0.113.128/25, 198.51.100.7]
    keys: {signing: {secret: signing}}
    limits: {requestsPerMinute: 600, requestsPerMinutePerKey: 60, requestKilobytes: 64}
    tls: {certificate: tls.crt, key: {secret: tls}}
    routes: {Qwen/Qwen3-8B: {to: {m: 100}}}
  open: {gateway: {port: 8082}, routes: {q: {to: {m: 100}}}}
"#;

/// A folder with the site, its private key made by `openssl genpkey -algorithm ed25519`'s rules (RFC 8410).
fn site(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write("inventory.yaml", text);
    // The key of RFC 8410, section 10.3.
    write(
        "signing.pem",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n",
    );
    write("tls.crt", "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n");
    write("tls.key", "a private key");
    dir
}

fn loaded(dir: &Path) -> Inventory {
    let loaded = load(&dir.join("inventory.yaml"), &Catalog::builtin().expect("the catalog"));
    loaded.unwrap_or_else(|d| panic!("{}", d.render(false))).inventory
}

/// Returns the objects of the proxy, by kind and name.
fn objects(inventory: &Inventory) -> BTreeMap<String, Value> {
    let catalog = Catalog::builtin().expect("the catalog");
    let tokens = BTreeMap::from([("tls".to_owned(), SecretText::new("a private key"))]);
    let all =
        desired(&ServingInput { inventory, catalog: &catalog, crds: Vec::new(), tokens }).expect("objects");
    let of = |spec: Spec| match spec {
        Spec::Object(object) => Some(object.manifest),
        _ => None,
    };
    let named = |m: &Value| {
        format!(
            "{}/{}",
            m["kind"].as_str().unwrap_or_default(),
            m["metadata"]["name"].as_str().unwrap_or_default()
        )
    };
    all.into_iter().filter_map(|r| of(r.spec)).map(|m| (named(&m), m)).collect()
}

fn files(inventory: &Inventory) -> BTreeMap<String, String> {
    let objects = objects(inventory);
    let data = objects["ConfigMap/edge"]["data"].as_object().expect("files").clone();
    data.into_iter().map(|(name, text)| (name, text.as_str().expect("text").to_owned())).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

async fn key(dir: &Path, name: &str) -> provision::fleet::MadeKey {
    let mut keys = TenantKeys::open(&Source::at(dir.join("inventory.yaml")), "ads").expect("keys");
    keys.create(name, Duration::from_secs(3600)).await.expect("a key")
}

#[tokio::test]
async fn what_a_tenant_asks_for_is_in_its_files_and_in_no_other_tenants() {
    let dir = site(SITE);
    let made = key(dir.path(), "ci").await;
    let inventory = loaded(dir.path());
    let files = files(&inventory);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "bootstrap.yaml",
            "clusters.yaml",
            "keys-ads.yaml",
            "listeners.yaml",
            "openai.lua",
            "retry-after.lua",
            "revoked-ads.yaml",
            "routes-ads.yaml",
            "routes-open.yaml",
            "tls-ads.yaml"
        ]
    );
    let listeners = yaml(&files["listeners.yaml"]);
    let listener = |name: &str| {
        let all = listeners["resources"].as_array().expect("listeners");
        all.iter().find(|l| l["name"] == name).expect("a listener").clone()
    };
    let allowed = |name: &str| {
        listener(name)
            .pointer("/filter_chains/0/filter_chain_match/direct_source_prefix_ranges")
            .expect("networks")
            .to_string()
    };
    // Neighbours in one network are one entry; the cluster's pods may always.
    assert!(
        allowed("ads").contains(r#"{"address_prefix":"203.0.113.0","prefix_len":24}"#),
        "{}",
        allowed("ads")
    );
    assert!(allowed("ads").contains(r#""address_prefix":"198.51.100.7","prefix_len":32"#));
    assert!(!allowed("ads").contains("192.168.0.0"), "what is given replaces the private networks");
    assert!(allowed("open").contains("192.168.0.0") && !allowed("open").contains("198.51.100.7"));
    assert!(
        !allowed("open").contains("203.0.113.5"),
        "a host that comes changes no listener: {}",
        allowed("open")
    );
    assert!(!listener("ads")["filter_chains"][0]["transport_socket"].is_null());
    assert!(listener("open")["filter_chains"][0]["transport_socket"].is_null());
    for (name, text) in &files {
        assert!(!text.contains("a private key") && !text.contains(made.key.expose()), "{name}");
        if name.contains("ads") {
            assert!(!text.contains("\"open\""), "{name}: {text}");
        }
    }
    let routes = yaml(&files["routes-ads.yaml"]);
    let limits = &routes["resources"][0]["virtual_hosts"][0]["typed_per_filter_config"]["envoy.filters.http.local_ratelimit"];
    assert_eq!(
        (&limits["token_bucket"]["max_tokens"], &limits["descriptors"][0]["token_bucket"]["max_tokens"]),
        (&600.into(), &60.into())
    );
    assert!(
        files["routes-ads.yaml"].contains("Qwen/Qwen3-8B") && !files["routes-open.yaml"].contains("Qwen3")
    );
    assert!(!files["routes-open.yaml"].contains("local_ratelimit"));
    assert!(files["routes-ads.yaml"].contains("most_bytes: 65536"));

    let objects = objects(&inventory);
    let secret = &objects["Secret/edge-tls"]["data"];
    assert_eq!(secret["ads.key"], "YSBwcml2YXRlIGtleQ==");
    let pod = &objects["DaemonSet/edge"]["spec"]["template"]["spec"];
    let terms = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchExpressions"][0]["values"], serde_json::json!(["w"]));
    assert_eq!(pod["tolerations"][0]["key"], "example.com/w");
}

#[test]
fn without_a_proxy_the_node_ports_lead_to_the_router_and_what_needs_it_is_refused() {
    let plain = SITE.replace("edge: {pools: [w]}", "edge: none");
    let open_only = |text: &str| {
        let start = text.find("  ads:").expect("ads");
        let end = text.find("  open:").expect("open");
        format!("{}{}", &text[..start], &text[end..])
    };
    let inventory = loaded(site(&open_only(&plain)).path());
    let objects = objects(&inventory);
    assert!(
        !objects.contains_key("DaemonSet/edge") && !objects.contains_key("NetworkPolicy/router-behind-edge")
    );
    let service = &objects["Service/kthena-gateways"]["spec"];
    assert_eq!(service["selector"]["app.kubernetes.io/component"], "kthena-router");
    assert_eq!(service["ports"][0]["targetPort"], 8082);

    let dir = site(&plain);
    let refused = load(&dir.path().join("inventory.yaml"), &Catalog::builtin().expect("the catalog"));
    let refused = refused.expect_err("it needs the proxy").render(false);
    for field in ["allowFrom", "keys", "limits", "tls"] {
        assert!(
            refused.contains(&format!("`{field}` needs the proxy, but router.edge is none")),
            "{field}: {refused}"
        );
    }
}

#[test]
fn mistakes_are_refused_where_they_are() {
    let refused = |from: &str, to: &str| {
        assert!(SITE.contains(from), "{from}");
        let dir = site(&SITE.replace(from, to).replace("    keys: {signing: {secret: signing}}\n", ""));
        let found = load(&dir.path().join("inventory.yaml"), &Catalog::builtin().expect("the catalog"));
        found.expect_err(to).render(false)
    };
    for (from, to, code, why) in [
        ("203.0.113.0/25,", "203.0.113.0/99,", "E-NETWORK", "`203.0.113.0/99` is not a network"),
        (
            "allowFrom: [203.0.113.0/25, 203.0.113.128/25, 198.51.100.7]",
            "allowFrom: []",
            "E-NETWORK",
            "has 0 networks",
        ),
        ("pools: [w]", "pools: [nope]", "E-UNKNOWN-POOL", "unknown pool `nope`"),
        ("pools: [w]", "pools: []", "E-UNKNOWN-POOL", "`pools` is empty"),
        ("pools: [w]", "pools: [c]", "E-UNKNOWN-POOL", "runs no pods"),
        ("edge: {pools: [w]}", "edge: nothing", "E-TYPE", "edge"),
        ("requestsPerMinute: 600", "requestsPerMinute: 0", "E-VALUE", "`requestsPerMinute` is 0"),
        ("requestKilobytes: 64", "requestKilobytes: 99999999", "E-VALUE", "more than 65536"),
        ("Qwen/Qwen3-8B:", "\"a model\":", "E-VALUE", "is not a valid model name"),
        (
            "requestsPerMinute: 600",
            "requestsPerMinute: 600",
            "E-KEYS",
            "`requestsPerMinutePerKey` needs `keys`",
        ),
        ("{secret: tls}", "{secret: nope}", "E-UNKNOWN-SECRET", "unknown secret"),
        ("certificate: tls.crt", "certificate: ../../etc/passwd", "E-READ", "cannot read"),
        ("certificate: tls.crt", "certificate: tls.key", "E-CA", "contains no certificate"),
    ] {
        let said = refused(from, to);
        assert!(said.contains(code) && said.contains(why), "{to}: {said}");
    }
}

#[tokio::test]
async fn a_key_is_made_listed_and_revoked_and_its_text_is_nowhere() {
    let dir = site(SITE);
    let at = Source::at(dir.path().join("inventory.yaml"));
    // Without the list the inventory is refused, and says what to do.
    let refused =
        load(&at.path, &Catalog::builtin().expect("the catalog")).expect_err("no list").render(false);
    assert!(
        refused.contains("E-KEYS") && refused.contains("provision key create -i INVENTORY ads"),
        "{refused}"
    );
    let made = key(dir.path(), "ci").await;
    assert!(made.is_first);
    let other = key(dir.path(), "laptop").await;
    assert!(!other.is_first && other.id != made.id);
    let list = std::fs::read_to_string(&made.path).expect("the list");
    assert!(
        !list.contains(made.key.expose()) && list.contains(&made.id) && list.contains("name: ci"),
        "{list}"
    );

    // The token is a JWT that the public key of RFC 8410's example verifies.
    let inventory = loaded(dir.path());
    let keys = yaml(&files(&inventory)["keys-ads.yaml"]);
    let provider = &keys["resources"][0]["typed_config"]["providers"]["keys"];
    let set: Value =
        serde_json::from_str(provider["local_jwks"]["inline_string"].as_str().expect("a set")).expect("JSON");
    assert_eq!(set["keys"][0]["x"], "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE");
    use base64::Engine as _;
    let decode =
        |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let parts: Vec<&str> = made.key.expose().split('.').collect();
    let claims: Value = serde_json::from_slice(&decode(parts[1])).expect("JSON");
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["jti"]),
        (&"provision/site".into(), &"ads".into(), &made.id.as_str().into())
    );
    assert_eq!(claims["exp"].as_i64().expect("an end") - claims["iat"].as_i64().expect("a start"), 3600);
    let public = ring::signature::UnparsedPublicKey::new(
        &ring::signature::ED25519,
        decode("Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"),
    );
    public.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &decode(parts[2])).expect("signed");

    let mut keys = TenantKeys::open(&at, "ads").expect("keys");
    let mut meanwhile = TenantKeys::open(&at, "ads").expect("the same keys");
    assert!(!files(&loaded(dir.path()))["revoked-ads.yaml"].contains(&made.id));
    let unknown = keys.revoke("a.b.c").expect_err("unknown").to_string();
    assert!(unknown.contains("does not have that key") && !unknown.contains("a.b.c"), "{unknown}");
    // The key itself names it too.
    assert_eq!(keys.revoke(made.key.expose()).expect("revoked"), (made.id.clone(), Some(true)));
    assert_eq!(keys.revoke(&made.id).expect("again"), (made.id.clone(), None));
    // Who has read the list before that writes nothing: the revocation would be lost.
    let why = meanwhile.create("lost", Duration::from_secs(60)).await.err().expect("refused").to_string();
    assert!(why.contains("was changed by another command"), "{why}");
    let revoked = files(&loaded(dir.path()))["revoked-ads.yaml"].clone();
    assert!(revoked.contains(&made.id) && !revoked.contains(&other.id), "{revoked}");
    let states: BTreeMap<String, &str> =
        keys.list(jiff::Timestamp::now()).into_iter().map(|k| (k.issued.name, k.state)).collect();
    assert_eq!(states, BTreeMap::from([("ci".to_owned(), "revoked"), ("laptop".to_owned(), "active")]));
    let later = jiff::Timestamp::now() + Duration::from_secs(7200);
    assert!(keys.list(later).iter().any(|k| k.state == "expired"));

    // Another private key would make the others invalid at once.
    std::fs::write(dir.path().join("signing.pem"), "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n").expect("written");
    let mut keys = TenantKeys::open(&at, "ads").expect("keys");
    let why = keys.create("late", Duration::from_secs(60)).await.err().expect("refused").to_string();
    assert!(why.contains("does not fit"), "{why}");
    // A damaged list is refused, whatever is in it.
    for (text, why) in [
        ("{", "keys/ads.yaml"),
        ("apiVersion: provision/v1\nkind: Inventory\n", "`kind` is not ApiKeys"),
        ("apiVersion: provision/v1\nkind: ApiKeys\npublicKey: short\n", "not an Ed25519 key"),
        (
            "apiVersion: provision/v1\nkind: ApiKeys\npublicKey: Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\nkeys: {\"a\\\"b\": {}}\n",
            "other characters",
        ),
    ] {
        std::fs::write(&made.path, text).expect("written");
        let refused =
            load(&at.path, &Catalog::builtin().expect("the catalog")).expect_err(text).render(false);
        assert!(refused.contains("E-KEYS") && refused.contains(why), "{text}: {refused}");
    }
}

/// A row that names no test, or one that is gone, claims what nobody tries.
#[test]
fn every_row_of_the_features_page_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let page = read("docs/features.md");
    let cases: String = ["routing.rs", "routing/edge.rs", "routing/mixed.rs", "routing/ends.rs"]
        .map(|f| read(&format!("tests/controlplane/{f}")))
        .concat();
    let name = regex::Regex::new("`([a-z]+)::([a-z_0-9]*)`").expect("a pattern");
    let rows: Vec<&str> =
        page.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| feature")).collect();
    assert!(rows.len() > 15, "{rows:?}");
    for row in rows {
        let named: Vec<_> = name.captures_iter(row).collect();
        assert!(!named.is_empty(), "{row}");
        for found in named {
            let sources = match &found[1] {
                "routing" | "edge" | "mixed" | "ends" => cases.clone(),
                other => {
                    let path = |tier: &str| format!("tests/{tier}/{other}.rs");
                    let tier =
                        if root.join(path("lab")).exists() && row.contains("lab `") { "lab" } else { "data" };
                    read(&path(tier))
                }
            };
            assert!(sources.contains(&found[2]), "{} in {row}", &found[0]);
        }
    }
}

/// What no ConfigMap can hold is refused before anything is applied, and a rack's worth of tenants fits.
#[test]
fn the_files_of_many_tenants_fit_or_are_refused() {
    let catalog = Catalog::builtin().expect("the catalog");
    let of = |count: u16| {
        let start = SITE.find("  ads:").expect("ads");
        let tenants: String = (0..count)
            .map(|n| {
                format!("  t{n}: {{gateway: {{port: {}}}, routes: {{q: {{to: {{m: 100}}}}}}}}\n", 10_000 + n)
            })
            .collect();
        let dir = site(&format!("{}{tenants}", &SITE[..start]));
        let inventory = loaded(dir.path());
        desired(&ServingInput {
            inventory: &inventory,
            catalog: &catalog,
            crds: Vec::new(),
            tokens: BTreeMap::new(),
        })
    };
    assert!(of(100).is_ok());
    let refused = of(400).map(|all| all.len()).expect_err("too many").to_string();
    assert!(refused.contains("use fewer tenants in one cluster"), "{refused}");
}
