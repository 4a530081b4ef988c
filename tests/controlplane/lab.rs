//! The lab on a real control plane, as a user runs it: the binary, an inventory, the programs' folder.

use super::contract::rest::{Rest, text};
use super::servers::ControlPlane;
use super::{Test, assets, tests};
use std::path::{Path, PathBuf};
use tokio::process::Command;

pub fn tests() -> Vec<Test> {
    tests!(lab:
        apply_converges_on_a_lab_with_a_real_control_plane,
        a_lab_run_ends_with_answers_of_the_real_router_and_proxy,
    )
    .to_vec()
}

/// A copy of an example inventory with state of its own. Its lab ends with it.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/lab/inventory.yaml");
        let inventory = std::fs::read_to_string(source).expect("the example");
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("site")).expect("made");
        let net = format!("127.{}.1.", std::process::id() % 50 + 60);
        let text = inventory.replace("127.77.0.", &net);
        std::fs::write(dir.path().join("site/inventory.yaml"), text).expect("written");
        Self { dir }
    }

    /// Runs the binary, and returns its exit code and what it said.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_provision"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path().join("state"))
            .env("HOME", self.dir.path())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = output.await.expect("the binary runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Returns the folder of its lab.
    fn lab(&self) -> PathBuf {
        let mut all = std::fs::read_dir(self.dir.path().join("state/provision/lab")).expect("a lab was up");
        all.next().expect("a lab").expect("read").path()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let down = std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
            .args(["lab", "down", "site"])
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path().join("state"))
            .env("HOME", self.dir.path())
            .output();
        drop(down);
    }
}

pub async fn apply_converges_on_a_lab_with_a_real_control_plane(_: &ControlPlane) {
    let programs = assets::programs().expect("programs").display().to_string();
    let site = Site::new();
    let (code, said) = site.run(&["lab", "up", "site", "--control-plane", &programs]).await;
    assert_eq!(code, Some(0), "{said}");
    let real = "real: etcd, kube-apiserver, kube-controller-manager, kube-scheduler";
    assert!(said.contains(real), "{said}");
    let (_, said) = site.run(&["lab", "status", "site"]).await;
    assert!(said.contains(real), "{said}");

    let (code, said) = site.run(&["apply", "--yes", "-i", "site"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = site.run(&["plan", "-i", "site"]).await;
    assert_eq!(code, Some(0), "the second plan is empty: {said}");

    let admin = std::fs::read_to_string(site.lab().join("control-plane/admin.conf")).expect("a kubeconfig");
    let rest = Rest::new(&admin, "");
    let version = rest.get("/version").await.expect(200);
    assert!(!text(&version, "/gitVersion").contains("k0s"), "{version}");
    let nodes = rest.get("/api/v1/nodes").await.expect(200);
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(4), "{nodes:#}");

    let (code, said) = site.run(&["lab", "down", "site"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rest.try_get("/readyz").await, None, "what ran has ended with the lab");
}

pub async fn a_lab_run_ends_with_answers_of_the_real_router_and_proxy(_: &ControlPlane) {
    let site = Site::new();
    let folder = site.dir.path().join("programs");
    std::fs::create_dir(&folder).expect("made");
    let plane = assets::programs().expect("programs");
    let of_plane = std::fs::read_dir(&plane).expect("read").map(|entry| entry.expect("read").path());
    let router_and_envoy = [assets::router().expect("a router"), assets::envoy().expect("Envoy")];
    for program in of_plane.chain(router_and_envoy) {
        std::os::unix::fs::symlink(&program, folder.join(program.file_name().expect("a name")))
            .expect("linked");
    }
    let (code, said) = site.run(&["lab", "run", "site", "--control-plane", "programs", "--keep"]).await;
    assert_eq!(code, Some(0), "{said}");
    for tenant in ["ads asks qwen", "search asks qwen"] {
        assert!(said.contains(tenant), "{said}");
    }
    assert_eq!(said.matches("LAB echo from").count(), 2, "{said}");
    assert!(said.contains("kthena-router, envoy"), "{said}");
    // Both were asked, by both tenants' clients.
    let log =
        |name: &str| std::fs::read_to_string(site.lab().join(format!("pods/{name}.log"))).expect("a log");
    let began = std::time::Instant::now();
    let recorded = |tenant: &str| {
        let envoy = log("envoy");
        envoy
            .lines()
            .any(|line| line.contains(&format!("\"tenant\":\"{tenant}\"")) && line.contains("\"status\":200"))
    };
    while !(recorded("ads") && recorded("search")) {
        // Envoy writes its records once a second.
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{}", log("envoy"));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(log("kthena-router").contains("/v1/chat/completions"), "{}", log("kthena-router"));

    let (code, said) = site.run(&["plan", "-i", "site"]).await;
    assert_eq!(code, Some(0), "the second plan is empty: {said}");
    // A route that is taken away is no longer answered by the proxy that runs.
    let path = site.dir.path().join("site/inventory.yaml");
    let text = std::fs::read_to_string(&path).expect("read");
    let changed =
        text.replace("routes: {qwen: {to: {qwen-trn: 100}}}", "routes: {other: {to: {qwen-trn: 100}}}");
    assert_ne!(text, changed);
    std::fs::write(&path, changed).expect("written");
    let (code, said) = site.run(&["apply", "--yes", "-i", "site"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = site.run(&["ask", "-i", "site", "ads/other", "Are you there?"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Are you there?"), "{said}");
}
