//! A site with a twin and a cluster, and what a test asks of it.

use super::story::{Story, text};
use provision::ssh::{Chunk, Credentials, Dial, Endpoint, Pool, PoolOptions, Transport};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub const DRIVERS: [&str; 2] = ["580.126.09", "580.178.04"];

/// A site of its own: controllers, one worker, one worker with GPUs, a model and a tenant.
pub fn site(controllers: usize) -> String {
    format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: runs}}\n\
         ssh: {{user: ubuntu, port: 2222, identities: [.lab/id_ed25519], hostKeys: {{file: .lab/known_hosts}}, agent: false}}\n\
         cluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\n\
         pools:\n  control:\n    role: controller\n    hosts: {{\"cp-[1-{controllers}]\": {{address: \"127.77.0.[11-{}]\"}}}}\n  \
         general:\n    role: worker\n    labels: {{example.com/team: search}}\n    hosts:\n      w-1: {{address: 127.77.0.21}}\n  \
         h100:\n    role: worker\n    accelerator: {{nvidia: {{product: h100-sxm5-80gb, count: 8, driver: \"{}\"}}}}\n    \
         hosts: {{h-1: {{address: 127.77.0.31}}}}\n\
         router:\n  kthena: {{version: v1.0.0, gatewayAPI: true, inferenceExtension: true}}\n  expose: {{nodePort: {{base: 30080}}}}\n\
         models:\n  qwen:\n    source: {{path: /data/models/qwen}}\n    engine: {{vllm: {{image: \"vllm/vllm-openai:v0.11.0\"}}}}\n    \
         placement: {{pool: h100, acceleratorsPerReplica: 8, replicas: 1}}\n\
         tenants:\n  search: {{gateway: {{port: 8081}}, routes: {{qwen: {{to: {{qwen: 100}}}}}}}}\n",
        controllers + 10,
        DRIVERS[0],
    )
}

impl Story {
    /// Brings a twin up and the site to what is wanted.
    pub fn converged(controllers: usize) -> Self {
        let story = Self::of(&site(controllers));
        story.up();
        story.applied();
        story
    }

    /// Waits until all hosts answer: one may be in the middle of the reboot that a killed run began.
    pub fn all_up(&self) {
        let waits = Instant::now();
        while self.run(&["facts", "-i", &self.at()]).status.code() != Some(0) {
            assert!(waits.elapsed() < Duration::from_secs(30), "they come back");
        }
    }

    /// Applies, and asserts that it comes to what is wanted.
    pub fn applied(&self) -> String {
        let output = self.apply(&[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let (code, shown) = self.plan();
        assert_eq!(code, 0, "the second plan is empty: {shown}");
        text(&output)
    }

    /// Changes the inventory.
    pub fn edit(&self, from: &str, to: &str) {
        let file = self.inventory.join("inventory.yaml");
        let before = std::fs::read_to_string(&file).expect("read");
        assert!(before.contains(from), "{from} is in the inventory");
        std::fs::write(file, before.replace(from, to)).expect("written");
    }

    /// Returns the plan's steps by target, what each is about and its hazards.
    pub fn steps(&self, more: &[&str]) -> BTreeMap<String, Vec<(String, Vec<String>)>> {
        let at = self.at();
        let output = self.run(&[&["plan", "-i", &at, "--output", "json"], more].concat());
        let plan: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let mut all = BTreeMap::new();
        for target in plan["targets"].as_array().expect("targets") {
            let steps = target["steps"].as_array().expect("steps").iter().map(|s| {
                let hazards = s["hazards"].as_array().expect("hazards").iter().map(word).collect();
                (word(&s["resource"]), hazards)
            });
            let steps: Vec<_> = steps.collect();
            if !steps.is_empty() {
                let name = target["target"]["host"].as_str().unwrap_or("cluster");
                all.insert(name.to_owned(), steps);
            }
        }
        all
    }

    /// Returns what would be changed, by target.
    pub fn pending(&self) -> BTreeMap<String, Vec<String>> {
        let names = |steps: Vec<(String, Vec<String>)>| steps.into_iter().map(|(name, _)| name).collect();
        self.steps(&[]).into_iter().map(|(target, steps)| (target, names(steps))).collect()
    }

    pub async fn transport(&self, host: &str) -> Arc<dyn Transport> {
        let lab = self.lab();
        let status = self.control().status().expect("it answers");
        let pool = Pool::new(PoolOptions {
            sockets: Some(provision::lab::sockets(&lab)),
            known_hosts: vec![lab.join("known_hosts")],
            credentials: Credentials { identities: vec![lab.join("id_ed25519")], ..Credentials::default() },
            ..PoolOptions::default()
        });
        let at = &status.hosts[host];
        let dial = pool.host(Endpoint {
            name: host.into(),
            address: at.address.to_string(),
            port: at.port,
            user: "ubuntu".into(),
            ..Endpoint::default()
        });
        dial.dial().await.expect("a connection")
    }

    /// Runs a command on a simulated host, as a person over SSH does.
    pub fn on(&self, host: &str, command: &str) -> String {
        block(async {
            let mut session = self.transport(host).await.open(command).await.expect("a session");
            let (mut said, mut rc) = (String::new(), None);
            while let Some(chunk) = session.next().await {
                match chunk {
                    Chunk::Stdout(bytes) | Chunk::Stderr(bytes) => said += &String::from_utf8_lossy(&bytes),
                    Chunk::Exit(code) => rc = Some(code),
                }
            }
            assert_eq!(rc, Some(0), "{command}: {said}");
            said
        })
    }

    /// Does something at the cluster's API, as kubectl does through a tunnel.
    pub fn api<T>(&self, work: impl AsyncFnOnce(kube::Client) -> T) -> T {
        let _ = rustls::crypto::ring::default_provider().install_default();
        block(async {
            let transport = self.transport("cp-1").await;
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
            let port = listener.local_addr().expect("bound").port();
            let mut tunnels = JoinSet::new();
            tunnels.spawn(async move {
                let mut open = JoinSet::new();
                while let Ok((mut near, _)) = listener.accept().await {
                    let transport = transport.clone();
                    open.spawn(async move {
                        let mut far = transport.tunnel("127.0.0.1", 6443).await.expect("the API is open");
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    });
                }
            });
            let admin =
                std::fs::read_to_string(self.file("cp-1", "/var/lib/k0s/pki/admin.conf")).expect("there");
            let kubeconfig = kube::config::Kubeconfig::from_yaml(&admin).expect("a kubeconfig");
            let options = kube::config::KubeConfigOptions::default();
            let mut config =
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
            config.cluster_url = format!("https://127.0.0.1:{port}").parse().expect("a URL");
            config.tls_server_name = Some("kubernetes".into());
            work(kube::Client::try_from(config).expect("a client")).await
        })
    }

    pub fn node(&self, name: &str) -> Option<Value> {
        self.api(async |client| {
            let api: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
            let live = api.get_opt(name).await.expect("an answer");
            live.map(|n| serde_json::to_value(n).expect("json"))
        })
    }

    pub fn patch_node(&self, name: &str, patch: Value) {
        self.api(async |client| {
            let api: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
            let patch = kube::api::Patch::Merge(patch);
            api.patch(name, &kube::api::PatchParams::default(), &patch).await.expect("accepted");
        });
    }

    /// Starts an apply and leaves it running.
    pub fn spawn(&self, more: &[&str]) -> Child {
        let at = self.at();
        let mut command = self.command(&[&["apply", "--yes", "-i", &at], more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }

    /// Returns every regular file of all hosts by its hash, `/etc/hosts` by its text, but what the lab and the run keep for themselves.
    pub fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        walk(&self.lab().join("hosts"), &mut |path| {
            let text = path.to_string_lossy();
            let own = ["/var/lib/provision/", "/var/lib/lab/", "/proc", "/dev/", "/run/", "/sys/"];
            // The executable that all programs run is the machine's.
            if !own.iter().any(|o| text.contains(o)) && !path.ends_with("tool") {
                // It may be renamed away under our eyes.
                if let Ok(bytes) = std::fs::read(path) {
                    let kept = match path.ends_with("etc/hosts") {
                        true => String::from_utf8(bytes).expect("text"),
                        false => Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect(),
                    };
                    all.insert(path.to_owned(), kept);
                }
            }
        });
        all
    }

    /// Returns the files that provision manages as a whole on all hosts.
    pub fn managed(&self) -> BTreeSet<PathBuf> {
        let hosts = self.lab().join("hosts");
        let mut all = BTreeSet::new();
        for host in std::fs::read_dir(&hosts).expect("hosts").flatten() {
            let record = host.path().join("root/var/lib/provision/managed.json");
            let record = std::fs::read_to_string(record).unwrap_or_else(|_| "[]".to_owned());
            let entries: Vec<Value> = serde_json::from_str(&record).expect("whole at any time");
            for id in entries.iter().filter_map(|e| e["id"].as_str()) {
                let Some(path) = id.strip_prefix("file/").or(id.strip_prefix("download/")) else { continue };
                let place = match path.strip_prefix("/usr/local/") {
                    Some(rest) => host.path().join("usr-local").join(rest),
                    None => host.path().join("root").join(path.trim_start_matches('/')),
                };
                all.insert(place);
            }
        }
        all
    }

    /// Asserts that nothing temporary is left on any host.
    pub fn is_tidy(&self) {
        let mut left = Vec::new();
        walk(&self.lab().join("hosts"), &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let in_memory = ["/dev/shm/provision-", "/root/run/provision-"];
            if name.ends_with(".new")
                || name.ends_with(".provision-new")
                || in_memory.iter().any(|m| path.to_string_lossy().contains(m))
            {
                left.push(path.to_owned());
            }
        });
        assert_eq!(left, Vec::<PathBuf>::new(), "no temporary file is left");
    }

    /// Returns how many records the newest journal has.
    pub fn records(&self) -> usize {
        let journals = std::fs::read_dir(self.kept("runs")).expect("journals").flatten();
        let journals = journals.filter(|e| e.path().extension().is_some_and(|x| x == "jsonl"));
        let newest =
            journals.max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok()).expect("a journal");
        std::fs::read_to_string(newest.path()).expect("read").lines().count()
    }

    /// Returns the last record of the newest journal.
    pub fn last_record(&self) -> Option<String> {
        let newest = std::fs::read_dir(self.kept("runs"))
            .ok()?
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "jsonl"));
        let newest = newest.max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok())?;
        let text = std::fs::read_to_string(newest.path()).ok()?;
        let record: Value = serde_json::from_str(text.lines().last()?).ok()?;
        Some(record["transition"].as_str()?.to_owned())
    }

    pub fn forget_journals(&self) {
        let _ = std::fs::remove_dir_all(self.dir.path().join("state/provision/runs"));
    }
}

pub fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

pub fn walk(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, each),
            Ok(kind) if kind.is_file() => each(&path),
            _ => {}
        }
    }
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("sent");
}

/// Waits until the standard error of a run says something; returns all it has said.
pub fn until_said(child: &mut Child, what: &str) -> String {
    let mut said = Vec::new();
    let stderr = child.stderr.as_mut().expect("piped");
    let mut byte = [0];
    while !String::from_utf8_lossy(&said).contains(what) {
        assert_eq!(
            stderr.read(&mut byte).expect("read"),
            1,
            "it never says {what}: {}",
            String::from_utf8_lossy(&said)
        );
        said.push(byte[0]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

pub fn rest(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
    (child.wait().expect("ended").code(), said)
}
