//! Tenants that change beside others that do not.

use crate::story::{Story, text};
use std::io::{BufRead, Read, Write};
use std::process::Stdio;

#[test]
fn a_node_port_that_would_move_is_told_as_a_breaking_change_and_can_be_kept() {
    let story = Story::new();
    story.up();
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));

    // Another tenant, first by name: nobody else's port moves.
    let another = "tenants:\n  aaa: {gateway: {port: 8090}, routes: {qwen: {to: {qwen-gpu: 100}}}}\n";
    story.edit("tenants:\n", another);
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    assert!(!plan.contains("breaking change"), "{plan}");

    story.edit("ads:    {gateway: {port: 8081}", "ads:    {gateway: {port: 8085}");
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    let said = "breaking change of tenant ads: its node port moves from 30081 to 30085; \
                set tenants.ads.gateway.nodePort: 30081 to keep it";
    assert!(plan.contains(&format!("warning: cluster: {said}")), "{plan}");
    assert!(!plan.contains("breaking change of tenant search"), "{plan}");

    story.edit("{gateway: {port: 8085}", "{gateway: {port: 8085, nodePort: 30081}");
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    assert!(!plan.contains("breaking change"), "{plan}");
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    let status = text(&story.run(&["status", "-i", &story.at()]));
    let row = status.lines().find(|l| l.starts_with("ads ")).unwrap_or_else(|| panic!("{status}"));
    assert!(row.ends_with(":30081/v1"), "{row}");
}

#[test]
fn models_are_asked_and_reached_through_their_tenants_gateways() {
    let story = Story::new();
    story.up();
    let at = story.at();
    // Where clients find them is known before anything is there; an answer is not.
    let endpoint = text(&story.run(&["endpoint", "-i", &at]));
    assert!(
        endpoint.contains(":30081/v1\n            or the same port of 3 other workers\n  models    qwen\n"),
        "{endpoint}"
    );
    let none = story.run(&["ask", "-i", &at, "ads", "Who are you?"]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(1), 0), "{}", text(&none));
    assert!(
        text(&none)
            .contains("error[E-CHAT]: tenant ads, model qwen: node port 30081 is not open on any worker"),
        "{}",
        text(&none)
    );
    assert!(story.apply(&[]).status.success());

    let answer = story.run(&["ask", "-i", &at, "search/qwen", "Who are you?"]);
    let said = String::from_utf8_lossy(&answer.stdout);
    assert_eq!(answer.status.code(), Some(0), "{}", text(&answer));
    assert!(said.starts_with("LAB echo from qwen-gpu-") && said.ends_with(": Who are you?\n"), "{said}");
    let answer = story.run(&["ask", "-i", &at, "ads", "two\nlines", "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!((&answer["tenant"], &answer["model"]), (&"ads".into(), &"qwen".into()));
    assert!(answer["answer"].as_str().is_some_and(|a| a.ends_with("two\nlines")), "{answer}");
    for (words, why) in [
        (vec!["ask", "-i", &at, "Who are you?"], "several tenants or models"),
        (vec!["ask", "-i", &at, "nobody/qwen", "Hello"], "Specify one of: ads/qwen, search/qwen"),
        (vec!["ask", "-i", &at, "ads", " "], "the question is missing"),
        (vec!["endpoint", "-i", &at, "nobody"], "Specify one of: ads, search"),
        (vec!["tunnel", "-i", &at, "--tenant", "nobody"], "Specify one of: ads, search"),
    ] {
        let output = story.run(&words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(text(&output).contains(why), "{words:?}: {}", text(&output));
    }

    let words = ["tunnel", "-i", &at, "--tenant", "ads"];
    let mut tunnel =
        story.command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = std::io::BufReader::new(tunnel.stdout.take().expect("a pipe")).lines();
    let export = lines.next().expect("a line").expect("text");
    let address = export.strip_prefix("export OPENAI_BASE_URL=http://").and_then(|a| a.strip_suffix("/v1"));
    let address = address.unwrap_or_else(|| panic!("{export}"));
    let ask = |path: &str| {
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("read");
        said
    };
    for _ in 0..2 {
        let said = ask("/v1/models");
        assert!(said.starts_with("HTTP/1.1 200") && said.contains("\"id\":\"qwen\""), "{said}");
    }
    let sent = std::process::Command::new("kill").args(["-s", "INT", &tunnel.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(tunnel.wait().expect("it ends").code(), Some(0));
    let output = story.run(&[
        "tunnel",
        "-i",
        &at,
        "--tenant",
        "ads",
        "--",
        "sh",
        "-c",
        "echo $OPENAI_BASE_URL $OPENAI_API_KEY; exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("/v1 none\n"), "{}", text(&output));
}

/// Sends a request through a tunnel, and returns the head and the body of the answer.
fn post(address: &str, path: &str, header: &str, body: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{header}\r\n"
    );
    stream.write_all((head + body).as_bytes()).expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{said}"));
    (head.to_ascii_lowercase(), body.to_owned())
}

/// Rules for headers decide before the weights, and everything else is said in the words of Kthena 1.0.0.
#[test]
fn the_router_obeys_rules_and_says_what_the_real_one_says() {
    let story = Story::new();
    story.edit("  expose: {nodePort", "  edge: none\n  expose: {nodePort");
    story.edit(
        "routes: {qwen: {to: {qwen-trn: 100}}}",
        "routes: {qwen: {rules: [{name: beta, headers: {x-beta: {exact: \"1\"}}, to: {qwen-gpu: 100, qwen-trn: 0}}, \
         {headers: {x-team: {regex: \"^ads-[0-9]+$\"}, x-beta: {prefix: n}}, to: {qwen-gpu: 100}}], \
         to: {qwen-trn: 100}}, other: {to: {qwen-gpu: 1}}}",
    );
    story.up();
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    let at = story.at();
    let mut tunnel = story.command(&["tunnel", "-i", &at, "--tenant", "ads"]);
    let mut tunnel = tunnel.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = std::io::BufReader::new(tunnel.stdout.take().expect("a pipe")).lines();
    let export = lines.next().expect("a line").expect("text");
    let address = export.strip_prefix("export OPENAI_BASE_URL=http://").and_then(|a| a.strip_suffix("/v1"));
    let address = address.unwrap_or_else(|| panic!("{export}"));

    let chat = r#"{"model": "qwen", "messages": [{"role": "user", "content": "Hi"}]}"#;
    for (header, model) in [
        ("", "qwen-trn"),
        ("X-Beta: 1\r\n", "qwen-gpu"),
        ("x-beta: 2\r\n", "qwen-trn"),
        ("x-team: ads-7\r\nx-beta: no\r\n", "qwen-gpu"),
        ("x-team: ads-7\r\n", "qwen-trn"),
        ("x-team: ads-x\r\nx-beta: no\r\n", "qwen-trn"),
    ] {
        let (head, body) = post(address, "/v1/chat/completions", header, chat);
        assert!(
            head.starts_with("http/1.1 200") && body.contains(&format!("LAB echo from {model}-")),
            "{header}: {body}"
        );
    }
    let prompt = r#"{"model": "qwen", "prompt": "Once"}"#;
    let (_, body) = post(address, "/v1/completions", "", prompt);
    assert!(body.contains("\"text_completion\"") && body.contains(": Once"), "{body}");
    let stream = chat.replace("\"model\"", "\"stream\": true, \"model\"");
    let (head, body) = post(address, "/v1/chat/completions", "", &stream);
    assert!(head.contains("text/event-stream") && head.contains("transfer-encoding: chunked"), "{head}");
    assert!(body.contains("data: [DONE]") && !body.contains("\"usage\""), "{body}");
    let counted = stream.replace("\"stream\"", "\"stream_options\": {\"include_usage\": true}, \"stream\"");
    assert!(post(address, "/v1/chat/completions", "", &counted).1.contains("\"usage\""));
    let (head, body) = post(address, "/v1/models", "", "");
    let names: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let names: Vec<&str> =
        names["data"].as_array().into_iter().flatten().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(names, ["other", "qwen"], "of all tenants, once");
    assert!(head.contains("content-type: application/json; charset=utf-8"), "{head}");
    for (path, body, status, said) in [
        ("/healthz", "", 400, r#"{"Offset":0}"#),
        ("/v1/chat/completions", "{x", 400, r#"{"Offset":2}"#),
        ("/v1/chat/completions", r#"{"messages": []}"#, 404, r#""model not found""#),
        ("/v1/chat/completions", r#"{"model": " "}"#, 404, r#""model not found""#),
        ("/v1/chat/completions", r#"{"model": "qwen"}"#, 404, r#""prompt not found""#),
        ("/v1/embeddings", r#"{"model": "qwen", "input": "x"}"#, 404, r#""prompt not found""#),
        ("/v1/completions", r#"{"model": "none", "prompt": "x"}"#, 404, r#""route not found""#),
        (
            "/v1/other",
            r#"{"model": "qwen", "prompt": "x"}"#,
            404,
            r#""request to all pods failed""request processing failed""#,
        ),
    ] {
        let (head, answer) = post(address, path, "", body);
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path} {body}: {head}");
        assert_eq!(answer, said, "{path} {body}");
    }
    let _ = (tunnel.kill(), tunnel.wait());

    // What the router made is neither pruned nor reported, also when it is changed.
    let made = || {
        story.api(async |client| {
            let kind = |kind: &str| kube::api::GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind);
            let resource = |name: &str| kube::api::ApiResource::from_gvk(&kind(name));
            let classes: kube::Api<kube::api::DynamicObject> = kube::Api::all_with(
                client.clone(),
                &kube::api::ApiResource::from_gvk_with_plural(&kind("GatewayClass"), "gatewayclasses"),
            );
            let gateways: kube::Api<kube::api::DynamicObject> =
                kube::Api::namespaced_with(client, "kthena-system", &resource("Gateway"));
            assert!(classes.get("kthena-router").await.is_ok() && gateways.get("default").await.is_ok());
        });
    };
    made();
    let (code, plan) = story.plan();
    assert_eq!(code, 0, "{plan}");
    story.edit(
        "  search: {gateway",
        "  other: {gateway: {port: 8083}, routes: {qwen: {to: {qwen-gpu: 1}}}}\n  search: {gateway",
    );
    let extra = "extraObjects:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: extra, namespace: own}, data: {a: b}}\n";
    story.edit("tenants:\n", &format!("{extra}tenants:\n"));
    let (_, plan) = story.plan();
    assert!(!plan.contains("kthena-system/default") && !plan.contains("GatewayClass"), "{plan}");
    assert!(plan.contains("ConfigMap own/extra"), "{plan}");
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    made();
    // An extra object goes with its entry, and its namespace stays.
    let there = || {
        story.api(async |client| {
            let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
                kube::Api::namespaced(client.clone(), "own");
            let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
            let found = maps.get_opt("extra").await.expect("asked").is_some();
            (found, namespaces.get_opt("own").await.expect("asked").is_some())
        })
    };
    assert_eq!(there(), (true, true));
    story.edit(extra, "");
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    assert_eq!(there(), (false, true));
}

/// The commands of the how-to, word for word.
#[test]
fn the_how_to_does_what_it_says() {
    let story = Story::new();
    story.up();
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/clients.md");
    let page = std::fs::read_to_string(page).expect("read");
    let commands: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("$ provision ")).collect();
    let said = ["LAB echo from qwen-gpu-", "http://127.", "OPENAI_BASE_URL=http://127.0.0.1:"];
    assert_eq!(commands.len(), said.len());
    for (command, said) in commands.into_iter().zip(said) {
        let own = command.replace("inventories/lab", &story.at());
        let words: Vec<String> = own
            .split('"')
            .enumerate()
            .flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect();
        let output = story.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "provision {own}\n{}", text(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(said), "provision {own}\n{}", text(&output));
    }
}

/// A private key of Ed25519 as `openssl genpkey` writes it: that of RFC 8410, section 10.3.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

/// Gives the tenant ads keys, as the how-to says.
fn with_keys(story: &Story) {
    let folder = std::path::Path::new(&story.at()).to_owned();
    std::fs::write(folder.join("ads.pem"), PRIVATE_KEY).expect("written");
    story.edit("tenants:\n", "secrets:\n  ads-signing: {file: ads.pem}\ntenants:\n");
    story.edit(
        "ads:    {gateway: {port: 8081},",
        "ads:    {gateway: {port: 8081}, keys: {signing: {secret: ads-signing}},",
    );
}

#[test]
fn a_tenant_with_keys_is_asked_with_one_and_lists_its_own_models() {
    let story = Story::new();
    with_keys(&story);
    let at = story.at();
    // Without the list of keys nothing is begun, and what to do is said.
    let refused = story.run(&["validate", "-i", &at]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains(&format!("provision key create -i {at} ads")), "{}", text(&refused));
    let made = story.run(&["key", "create", "-i", &at, "ads", "--name", "laptop", "--output", "json"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!(made["key"].as_str().map(|key| key.split('.').count()), Some(3));
    story.up();
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    assert_eq!(story.plan().0, 0, "a second plan is empty");

    // The lab trusts a stand-in for the private key, which a real one is no key of.
    let asked = story.run(&["ask", "-i", &at, "ads/qwen", "Who are you?"]);
    assert_eq!(asked.status.code(), Some(0), "{}", text(&asked));
    assert!(text(&asked).contains("LAB echo from qwen-trn-"), "{}", text(&asked));
    let endpoint = text(&story.run(&["endpoint", "-i", &at, "ads"]));
    assert!(endpoint.contains("required; make one with"), "{endpoint}");
    assert!(endpoint.contains("Authorization: Bearer $OPENAI_API_KEY"), "{endpoint}");

    let said = |tenant: &str, path: &str, header: &str, body: &str| {
        let mut tunnel = story.command(&["tunnel", "-i", &at, "--tenant", tenant]);
        let mut tunnel = tunnel.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut lines = std::io::BufReader::new(tunnel.stdout.take().expect("a pipe")).lines();
        let export = lines.next().expect("a line").expect("text");
        let address =
            export.strip_prefix("export OPENAI_BASE_URL=http://").and_then(|a| a.strip_suffix("/v1"));
        let said = post(address.unwrap_or_else(|| panic!("{export}")), path, header, body);
        assert!(
            std::process::Command::new("kill")
                .args(["-s", "INT", &tunnel.id().to_string()])
                .status()
                .expect("kill")
                .success()
        );
        assert_eq!(tunnel.wait().expect("it ends").code(), Some(0));
        said
    };
    let chat = r#"{"model": "qwen", "messages": [{"role": "user", "content": "Hi"}]}"#;
    let wrong = format!("authorization: Bearer {}\r\n", made["key"].as_str().expect("a key"));
    for header in ["", "authorization: Bearer x\r\n", &wrong] {
        let (head, body) = said("ads", "/v1/chat/completions", header, chat);
        assert!(
            head.starts_with("http/1.1 401") && body.contains("invalid_api_key"),
            "{header}: {head} {body}"
        );
    }
    let (_, body) = said("search", "/v1/chat/completions", "", chat);
    assert!(body.contains("LAB echo from qwen-gpu-") && body.contains(r#""model":"qwen""#), "{body}");
    let (head, body) = said("search", "/v1/chat/completions", "", &chat.replace("qwen", "none"));
    assert!(head.starts_with("http/1.1 404") && body.contains("model_not_found"), "{head} {body}");
    let (_, body) = said("search", "/v1/models", "", "");
    assert!(body.contains(r#""owned_by":"search""#) && !body.contains("ads"), "{body}");
}

/// A plan and a comparison tell who is let in or locked out, which lines of a proxy's files do not.
#[test]
fn changes_of_who_may_ask_are_told_before_they_are_made() {
    let story = Story::new();
    let at = story.at();
    let folder = std::path::Path::new(&at).to_owned();
    let earlier = folder.with_file_name("earlier");
    let keep = || {
        let copied =
            std::process::Command::new("cp").arg("-rT").args([&folder, &earlier]).status().expect("cp");
        assert!(copied.success());
    };
    // What is told of a change by `plan`, and by `diff` without any host.
    let told = |what: &str| {
        let (code, planned) = story.plan();
        assert_eq!(code, 2, "{planned}");
        let compared = text(&story.run(&["diff", &earlier.display().to_string(), &at]));
        for said in [&planned, &compared] {
            assert!(said.contains("tenant ads: ") && said.contains(what), "{what}: {said}");
        }
        assert!(!planned.contains("tenant search: "), "{planned}");
        assert_eq!(story.apply(&[]).status.code(), Some(0));
        assert!(!story.plan().1.contains("tenant ads: "), "nothing changes any more");
        keep();
    };
    story.up();
    let (_, first) = story.plan();
    assert!(!first.contains("API key"), "a cluster without clients: {first}");
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    keep();

    with_keys(&story);
    let made = story.run(&["key", "create", "-i", &at, "ads", "--name", "laptop", "--output", "json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let id = made["id"].as_str().expect("an id").to_owned();
    told("clients without an API key are refused from then on");
    let list = folder.join("keys/ads.yaml");
    let before = std::fs::read_to_string(&list).expect("a list");
    assert_eq!(story.run(&["key", "revoke", "-i", &at, "ads", &id]).status.code(), Some(0));
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    keep();
    // Somebody restores the list of before the revocation.
    std::fs::write(&list, before).expect("written");
    told(&format!("revoked API keys become valid again, unless they have expired: {id}"));
    story.edit(" keys: {signing: {secret: ads-signing}},", "");
    told("API keys are no longer checked; anyone who can connect is answered");

    // A certificate that ends in the year 2000.
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut certificate = rcgen::CertificateParams::default();
    certificate.not_before = rcgen::date_time_ymd(1999, 1, 1);
    certificate.not_after = rcgen::date_time_ymd(2000, 1, 1);
    let certificate = certificate.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join("ads.crt"), certificate.pem()).expect("written");
    let tls = "ads:    {gateway: {port: 8081}, tls: {certificate: ads.crt, key: {secret: ads-signing}},";
    story.edit("ads:    {gateway: {port: 8081},", tls);
    let (_, planned) = story.plan();
    assert!(planned.contains("tenant ads: the certificate in ads.crt ended on 2000-01-01"), "{planned}");
}

/// The commands of the how-to, word for word.
#[test]
fn the_how_to_of_tenants_does_what_it_says() {
    let story = Story::new();
    story.up();
    with_keys(&story);
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/tenants.md");
    let page = std::fs::read_to_string(page).expect("read");
    let commands: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("$ provision ")).collect();
    let said = ["eyJ", "laptop", "targets converged"];
    assert_eq!(commands.len(), said.len());
    for (command, said) in commands.into_iter().zip(said) {
        let own = command.replace("inventories/lab", &story.at());
        let output = story.run(&own.split_whitespace().collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "provision {own}\n{}", text(&output));
        assert!(text(&output).contains(said), "provision {own}\n{}", text(&output));
    }
}
