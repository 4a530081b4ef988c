//! Commands for the operator at three in the morning, on a lab: status, exec, ssh, support, tunnel.

use crate::story::{Story, text};
use provision::state::SecretText;
use std::io::Read;
use std::path::Path;
use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The texts of an archive, by name.
fn unpacked(path: &Path) -> Vec<(String, String)> {
    let file = std::fs::File::open(path).expect("the archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        (name, text)
    };
    archive.entries().expect("entries").map(read).collect()
}

#[test]
fn what_runs_can_be_seen_reached_and_collected() {
    let story = Story::new();
    let at = story.at();
    story.up();
    let before = story.run(&["status", "-i", &at]);
    assert_eq!(before.status.code(), Some(1), "{}", text(&before));
    assert!(stdout(&before).contains("[E-NO-CLUSTER] no cluster on any controller yet"), "{}", text(&before));
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));

    let status = story.run(&["status", "-i", &at]);
    let shown = stdout(&status);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    assert!(shown.contains("1/1 controllers, etcd healthy · 4 nodes: 4 ready"), "{shown}");
    assert!(shown.contains("h100 8/8 allocatable, healthy (apply "), "{shown}");
    assert!(shown.contains("certificates 364 days"), "a year of a leaf, read from its PEM: {shown}");
    let rows =
        |name: &str| shown.lines().any(|l| l.starts_with(name) && l.contains("  1/1  ") && l.contains("/v1"));
    assert!(rows("ads ") && rows("search "), "{shown}");
    let json: serde_json::Value =
        serde_json::from_slice(&story.run(&["status", "-i", &at, "--output", "json"]).stdout).expect("JSON");
    assert_eq!(json["certificate"]["file"], "/var/lib/k0s/pki/admin.crt");
    assert_eq!(json["nodes"]["ready"], 4);

    // A worker whose k0s stops is named, and the rest is still told.
    let stopped =
        story.run(&["exec", "-i", &at, "--limit", "h-1", "--root", "--", "systemctl stop k0sworker.service"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", text(&stopped));
    let status = story.run(&["status", "-i", &at]);
    let shown = stdout(&status);
    assert_eq!(status.status.code(), Some(1), "{shown}");
    assert!(shown.contains("3 ready, 1 failed (h-1)"), "{shown}");
    assert!(shown.contains("node h-1: its kubelet stopped reporting"), "{shown}");

    // A model that somebody scaled down is not as the inventory wants it, and a router that somebody deleted is missing: their
    // tenants are named.
    story.api(async |client| {
        use k8s_openapi::api::apps::v1::Deployment;
        let models: kube::Api<Deployment> = kube::Api::namespaced(client.clone(), "models");
        let none = kube::api::Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
        models.patch("qwen-gpu", &kube::api::PatchParams::default(), &none).await.expect("scaled");
        let routers: kube::Api<Deployment> = kube::Api::namespaced(client, "kthena-system");
        routers.delete("kthena-router", &kube::api::DeleteParams::default()).await.expect("deleted");
        // Without a route nobody is served, however many engines are ready.
        let kind =
            kube::api::GroupVersionKind::gvk("networking.serving.volcano.sh", "v1alpha1", "ModelRoute");
        let resource = kube::api::ApiResource::from_gvk(&kind);
        let routes: kube::Api<kube::api::DynamicObject> =
            kube::Api::namespaced_with(routers.into_client(), "models", &resource);
        let all = routes.list(&kube::api::ListParams::default()).await.expect("listed");
        let route =
            all.items.iter().filter_map(|r| r.metadata.name.as_deref()).find(|name| name.starts_with("ads"));
        routes
            .delete(route.expect("ads has a route"), &kube::api::DeleteParams::default())
            .await
            .expect("deleted");
    });
    let shown = stdout(&story.run(&["status", "-i", &at]));
    let missing =
        "router kthena-router: missing: no Deployment kthena-system/kthena-router; affects ads, search";
    assert!(shown.contains(missing), "{shown}");
    assert!(shown.contains("missing in the cluster: ModelRoute models/ads"), "{shown}");
    let scaled = "affects search (qwen)\n  scaled to 0; the inventory wants 1\n";
    assert!(
        shown.contains(scaled) && shown.contains(&format!("Run `provision apply -i {at}`, which restores")),
        "{shown}"
    );
    let json = story.run(&["status", "-i", &at, "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let router = json["workloads"].as_array().into_iter().flatten().find(|w| w["part"] == "router");
    assert_eq!(router.map(|w| &w["exists"]), Some(&false.into()), "{json}");
    assert_eq!(json["missing"].as_array().map(Vec::len), Some(1), "{json}");

    let all = story.run(&["exec", "-i", &at, "--limit", "w-1,t-1", "--", "id -un; exit 3"]);
    assert_eq!(all.status.code(), Some(1));
    assert_eq!(stdout(&all).lines().filter(|l| l.contains("  exit 3  ")).count(), 2, "{}", text(&all));
    let json =
        story.run(&["exec", "-i", &at, "--pool", "general", "--root", "--output", "json", "--", "id", "-u"]);
    let line: serde_json::Value = serde_json::from_slice(&json.stdout).expect("one line of JSON");
    assert_eq!((&line["host"], &line["stdout"]), (&"w-1".into(), &"0\n".into()));

    let ssh = story.run(&["ssh", "-i", &at, "w-1", "--print", "--", "uptime"]);
    let line = stdout(&ssh);
    assert!(line.starts_with("ssh -T -o ") && line.trim_end().ends_with(" uptime"), "{line}");
    assert!(
        line.contains("StrictHostKeyChecking=yes")
            && line.contains("/provision/lab/")
            && line.contains("/known_hosts"),
        "{line}"
    );

    let archive = story.dir.path().join("t-1.tar.gz");
    crate::kit::write(story.file("t-1", "/etc/k0s/k0s.yaml"), "password: hunter2-canary\n");
    // What batches left, the newest last, and one whose output is in memory because of what it was given.
    let runs = story.file("t-1", "/var/lib/provision/runs");
    for (batch, rc) in [("OLD-1-00000001", "0"), ("NEW-1-00000002", "5"), ("MEMORY-1-00000003", "0")] {
        let folder = runs.join(batch);
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("rc"), rc).expect("written");
        std::fs::write(
            folder.join("program"),
            format!("echo program of {batch}\nbase64 -d >\"$new\" <<'PUT_END'\naHVudGVyMi1jYW5hcnk=\nPUT_END\necho rest\n"),
        )
        .expect("written");
        let output =
            format!("\u{1e}step package/{batch}\nE: it failed, password: hunter2-canary\n\u{1e}rc {rc}\n");
        if batch.starts_with("MEMORY") {
            crate::kit::write(story.file("t-1", "/dev/shm/output"), output);
            std::os::unix::fs::symlink("/dev/shm/output", folder.join("output")).expect("linked");
        } else {
            std::fs::write(folder.join("output"), output).expect("written");
        }
    }
    let support = story.run(&["support", "-i", &at, "t-1", "-o", &archive.display().to_string()]);
    assert_eq!(support.status.code(), Some(0), "{}", text(&support));
    let parts = unpacked(&archive);
    let part = |name: &str| {
        let found = parts.iter().find(|(n, _)| n == &format!("support-t-1/{name}"));
        found.map(|(_, text)| text.as_str()).unwrap_or_else(|| panic!("{name} is not in the archive"))
    };
    assert!(part("MANIFEST.txt").contains("neuron-ls"), "{}", part("MANIFEST.txt"));
    assert!(part("neuron.txt").contains("\"neuron_device\":15"), "{}", part("neuron.txt"));
    assert!(part("provision.txt").contains("managed.json"));
    let batches = part("batches.txt");
    for wanted in [
        "## NEW-1-00000002: rc 5",
        "step package/NEW-1-00000002\nE: it failed, password: <secret>",
        "echo program of NEW-1-00000002\nbase64 -d >\"$new\" <<'PUT_END'\n(content)\nPUT_END\necho rest\n",
    ] {
        assert!(batches.contains(wanted), "{wanted}: {batches}");
    }
    assert!(
        batches.contains("not collected: its commands received secrets")
            && !batches.contains("step package/MEMORY"),
        "{batches}"
    );
    // The applies of this lab as well: a step that it ran, with its status.
    assert!(batches.contains("\ndone "), "{batches}");
    assert!(
        parts.iter().all(|(_, text)| !text.contains("aHVudGVyMi1jYW5hcnk")),
        "no content of files in another form"
    );
    assert!(part("k0s-config.txt").contains("password: <secret>"), "{}", part("k0s-config.txt"));
    assert!(parts.iter().all(|(_, text)| !text.contains("hunter2-canary")), "no secret leaves the host");
}

#[test]
fn kubectl_is_lent_a_port_for_as_long_as_it_runs() {
    let story = Story::new();
    let at = story.at();
    story.up();
    let none = story.run(&["tunnel", "-i", &at, "--", "true"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).contains("error[E-NO-CLUSTER]"), "{}", text(&none));
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    let config = story.dir.path().join("kubeconfig");
    let config_text = config.display().to_string();
    let copy = story.dir.path().join("copy").display().to_string();
    // The command talks to the API as kubectl would: this test's own client, while the tunnel is open.
    let done = story.dir.path().join("done");
    let wait = format!(
        "cp \"$KUBECONFIG\" {copy} && mv {copy} {copy}.whole; while [ ! -e {} ]; do sleep 0.1; done; exit 7",
        done.display()
    );
    let mut tunnel = story
        .command(&["tunnel", "-i", &at, "--kubeconfig", &config_text, "--", "sh", "-c", &wait])
        .spawn()
        .expect("the binary runs");
    let whole = format!("{copy}.whole");
    while !Path::new(&whole).exists() {
        assert!(tunnel.try_wait().expect("alive").is_none(), "the tunnel ended early");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let lent = SecretText::new(std::fs::read_to_string(&whole).expect("read"));
    let nodes = nodes(lent.expose());
    std::fs::write(&done, "").expect("written");
    assert_eq!(tunnel.wait().expect("ended").code(), Some(7), "the command's own status");
    assert_eq!(nodes, ["b-1", "h-1", "t-1", "w-1"]);
    assert!(!config.exists(), "the kubeconfig is gone");
}

/// Returns the nodes that a client with this kubeconfig sees.
pub fn nodes(kubeconfig: &str) -> Vec<String> {
    nodes_or(kubeconfig).expect("the API answers")
}

/// Does the same, or returns why it sees none.
pub fn nodes_or(kubeconfig: &str) -> Result<Vec<String>, kube::Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let config = kube::config::Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("usable");
        let client = kube::Client::try_from(config).expect("a client");
        let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
        let list = nodes.list(&Default::default()).await?;
        let mut names: Vec<String> = list.items.into_iter().filter_map(|n| n.metadata.name).collect();
        names.sort();
        Ok(names)
    })
}
