//! Runs as a user has them: the binary, a twin with a cluster, real signals, and what is left when a run is cut short.

use super::story::{Story, text};
use provision::ssh::{Chunk, Credentials, Dial, Endpoint, Pool, PoolOptions, Transport};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const DRIVERS: [&str; 2] = ["580.126.09", "580.178.04"];

/// A site of its own: controllers, one worker, one worker with GPUs, a model and a tenant.
fn site(controllers: usize) -> String {
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
    fn converged(controllers: usize) -> Self {
        let story = Self::of(&site(controllers));
        story.up();
        story.applied();
        story
    }

    /// Waits until all hosts answer: one may be in the middle of the reboot that a killed run began.
    fn all_up(&self) {
        let waits = Instant::now();
        while self.run(&["facts", "-i", &self.at()]).status.code() != Some(0) {
            assert!(waits.elapsed() < Duration::from_secs(30), "they come back");
        }
    }

    /// Applies, and asserts that it comes to what is wanted.
    fn applied(&self) -> String {
        let output = self.apply(&[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let (code, shown) = self.plan();
        assert_eq!(code, 0, "the second plan is empty: {shown}");
        text(&output)
    }

    /// Changes the inventory.
    fn edit(&self, from: &str, to: &str) {
        let file = self.inventory.join("inventory.yaml");
        let before = std::fs::read_to_string(&file).expect("read");
        assert!(before.contains(from), "{from} is in the inventory");
        std::fs::write(file, before.replace(from, to)).expect("written");
    }

    /// Returns the plan's steps by target, what each is about and its hazards.
    fn steps(&self, more: &[&str]) -> BTreeMap<String, Vec<(String, Vec<String>)>> {
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
    fn pending(&self) -> BTreeMap<String, Vec<String>> {
        let names = |steps: Vec<(String, Vec<String>)>| steps.into_iter().map(|(name, _)| name).collect();
        self.steps(&[]).into_iter().map(|(target, steps)| (target, names(steps))).collect()
    }

    async fn transport(&self, host: &str) -> Arc<dyn Transport> {
        let lab = self.inventory.join(".lab");
        let card = std::fs::read_to_string(lab.join("lab.json")).expect("the lab is up");
        let card: Value = serde_json::from_str(&card).expect("json");
        let pool = Pool::new(PoolOptions {
            known_hosts: vec![lab.join("known_hosts")],
            credentials: Credentials { identities: vec![lab.join("id_ed25519")], ..Credentials::default() },
            ..PoolOptions::default()
        });
        let at = &card["hosts"][host];
        let dial = pool.host(Endpoint {
            name: host.into(),
            address: at[0].as_str().expect("an address").into(),
            port: at[1].as_u64().expect("a port") as u16,
            user: "ubuntu".into(),
            ..Endpoint::default()
        });
        dial.dial().await.expect("a connection")
    }

    /// Runs a command on a simulated host, as a person over SSH does.
    fn on(&self, host: &str, command: &str) -> String {
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
    fn api<T>(&self, work: impl AsyncFnOnce(kube::Client) -> T) -> T {
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

    fn node(&self, name: &str) -> Option<Value> {
        self.api(async |client| {
            let api: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
            let live = api.get_opt(name).await.expect("an answer");
            live.map(|n| serde_json::to_value(n).expect("json"))
        })
    }

    fn patch_node(&self, name: &str, patch: Value) {
        self.api(async |client| {
            let api: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
            let patch = kube::api::Patch::Merge(patch);
            api.patch(name, &kube::api::PatchParams::default(), &patch).await.expect("accepted");
        });
    }

    /// Starts an apply and leaves it running.
    fn spawn(&self, more: &[&str]) -> Child {
        let at = self.at();
        let mut command = self.command(&[&["apply", "--yes", "-i", &at], more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }

    /// Returns every regular file of all hosts by its hash, `/etc/hosts` by its text, but what the lab and the run keep for themselves.
    fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        walk(&self.inventory.join(".lab/hosts"), &mut |path| {
            let text = path.to_string_lossy();
            let own = ["/var/lib/provision/", "/var/lib/lab/", "/proc", "/dev/", "/run/", "/sys/"];
            if !own.iter().any(|o| text.contains(o)) {
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
    fn managed(&self) -> BTreeSet<PathBuf> {
        let hosts = self.inventory.join(".lab/hosts");
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
    fn is_tidy(&self) {
        let mut left = Vec::new();
        walk(&self.inventory.join(".lab/hosts"), &mut |path| {
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
    fn records(&self) -> usize {
        let folder = self.dir.path().join("state/provision/runs/runs");
        let journals = std::fs::read_dir(folder).expect("journals").flatten();
        let journals = journals.filter(|e| e.path().extension().is_some_and(|x| x == "jsonl"));
        let newest =
            journals.max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok()).expect("a journal");
        std::fs::read_to_string(newest.path()).expect("read").lines().count()
    }

    /// Returns the last record of the newest journal.
    fn last_record(&self) -> Option<String> {
        let folder = self.dir.path().join("state/provision/runs/runs");
        let newest = std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "jsonl"));
        let newest = newest.max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok())?;
        let text = std::fs::read_to_string(newest.path()).ok()?;
        let record: Value = serde_json::from_str(text.lines().last()?).ok()?;
        Some(record["transition"].as_str()?.to_owned())
    }

    fn forget_journals(&self) {
        let _ = std::fs::remove_dir_all(self.dir.path().join("state/provision/runs"));
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn walk(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, each),
            Ok(kind) if kind.is_file() => each(&path),
            _ => {}
        }
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("sent");
}

/// Waits until the standard error of a run says something; returns all it has said.
fn until_said(child: &mut Child, what: &str) -> String {
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

fn rest(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
    (child.wait().expect("ended").code(), said)
}

/// What managed files may be at any moment: as they were, or as they will be. `/etc/hosts` is managed by the line.
struct Halves {
    old: BTreeMap<PathBuf, String>,
    seen: Vec<(String, BTreeMap<PathBuf, String>)>,
}

impl Halves {
    fn new(story: &Story) -> Self {
        Self { old: story.tree(), seen: Vec::new() }
    }

    /// Looks at all files, right after a kill.
    fn look(&mut self, story: &Story, when: String) {
        self.seen.push((when, story.tree()));
    }

    /// Asserts that none was ever anything but the old or the new one.
    fn settle(self, story: &Story) {
        let new = story.tree();
        let managed = story.managed();
        assert!(managed.len() > 10, "{managed:?}");
        for (when, seen) in &self.seen {
            for path in &managed {
                let now = seen.get(path);
                assert!(
                    now == self.old.get(path) || now == new.get(path),
                    "{} is neither the old nor the new one, {when}",
                    path.display()
                );
            }
            for (path, now) in seen.iter().filter(|(path, _)| path.ends_with("etc/hosts")) {
                let lines = |tree: &BTreeMap<PathBuf, String>| -> BTreeSet<String> {
                    tree.get(path).into_iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
                };
                let (old, new, now_lines) = (lines(&self.old), lines(&new), lines(seen));
                assert!(new.len() > 1, "a line of ours is in it: {new:?}");
                assert!(
                    old.intersection(&new).all(|l| now_lines.contains(l))
                        && now_lines.iter().all(|l| old.contains(l) || new.contains(l))
                        && (now.is_empty() || now.ends_with('\n')),
                    "a line of {} is neither the old nor the new one, {when}: {now}",
                    path.display()
                );
            }
        }
    }
}

#[test]
#[ignore = "minutes, and by itself: tests/run runs it"]
fn killed_at_every_journal_record_a_run_is_made_good() {
    let story = Story::of(&site(1));
    story.up();
    let mut points = Vec::new();
    let mut kill = |story: &Story, halves: &mut Halves, at: &str| -> bool {
        let output = story.apply(&["--fault", &format!("kill@{at}")]);
        halves.look(story, format!("killed at record {at}"));
        match output.status.code() {
            Some(0) => false,
            None => {
                let last = story.last_record().expect("a record");
                let journal_too = points.len().is_multiple_of(2);
                points.push(last);
                if journal_too {
                    story.forget_journals(); // the journal is only a cache
                }
                true
            }
            code => panic!("{code:?}: {}", text(&output)),
        }
    };
    // From nothing to a served model, cut ever later.
    let mut halves = Halves::new(&story);
    let cuts = (1..).take_while(|n| kill(&story, &mut halves, &n.to_string())).count();
    assert!(cuts > 5, "{cuts} cuts");
    story.all_up();
    story.applied();
    halves.settle(&story);
    story.is_tidy();

    // Small drift on a running site, one that drains; made anew before each cut.
    let drift = || {
        let _ = std::fs::remove_file(story.file("w-1", "/etc/security/limits.d/90-provision.conf"));
        let _ = std::fs::remove_file(story.file("h-1", "/var/lib/provision/k0s.started"));
    };
    drift();
    let mut halves = Halves::new(&story);
    story.applied();
    let records = story.records();
    for n in 1.. {
        // What a cut leaves makes the next run longer; the last records are reached from a site that was as wanted.
        if n + 3 > records {
            story.applied();
        }
        drift();
        if !kill(&story, &mut halves, &n.to_string()) {
            assert!(n + 3 > records, "it ended before record {n} of {records}");
            break;
        }
    }
    // Targets run side by side, so which record is the Nth changes from run to run; each kind once for certain.
    let every = ["begun", "started", "done", "draining", "drained", "verified", "uncordoned", "finished"];
    for transition in every {
        story.applied();
        drift();
        assert!(kill(&story, &mut halves, transition), "no record {transition} was written");
    }
    story.applied();
    let node = story.node("h-1").expect("the node");
    assert!(node["spec"]["unschedulable"].is_null(), "back in service: {node}");
    halves.settle(&story);
    story.is_tidy();
    let missing: Vec<&str> = every.into_iter().filter(|k| !points.iter().any(|p| p == k)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "every kind of record was a cut: {points:?}");
}

/// A small generator (SplitMix64), so that a seed makes the same moments again.
struct Moments(u64);

impl Moments {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

#[test]
#[ignore = "minutes, and by itself: tests/run runs it"]
fn killed_at_random_moments_a_run_is_made_good() {
    let seed = std::env::var("PROVISION_KILL_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("PROVISION_KILL_SEED={seed} makes the same moments again");
    let mut moments = Moments(seed);
    let story = Story::of(&site(1));
    story.up();
    let mut halves = Halves::new(&story);
    for n in 0..10 {
        let mut child = story.spawn(&["--quiet"]);
        let moment = Duration::from_millis(moments.below(2500));
        std::thread::sleep(moment);
        let _ = child.kill();
        let _ = child.wait();
        halves.look(&story, format!("killed at {moment:?}, number {n} of seed {seed}"));
        if moments.below(2) == 0 {
            story.forget_journals();
        }
    }
    story.all_up();
    story.applied();
    halves.settle(&story);
    story.is_tidy();
}

#[test]
fn drift_is_named_exactly_and_only_that_is_mended() {
    let story = Story::converged(1);
    story.patch_node("w-1", json!({"metadata": {"labels": {"example.com/team": null}}}));
    std::fs::remove_file(story.file("w-1", "/etc/security/limits.d/90-provision.conf")).expect("removed");
    story.on("cp-1", "systemctl stop chrony.service");
    let found = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
        let names = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        pairs.iter().map(|(target, steps)| ((*target).to_owned(), names(steps))).collect()
    };
    let expected = found(&[
        ("cluster", &["node/w-1"]),
        ("cp-1", &["unit/chrony.service"]),
        ("w-1", &["file//etc/security/limits.d/90-provision.conf"]),
    ]);
    assert_eq!(story.pending(), expected);
    let (code, shown) = story.plan();
    assert_eq!(code, 2);
    assert!(shown.contains("label example.com/team (none) -> search"), "{shown}");
    assert!(!shown.contains("drain"), "nothing of this disturbs a pod: {shown}");
    let before = story.tree();
    let said = story.applied();
    assert!(said.contains("changed: 3 steps"), "{said}");
    let changed: Vec<PathBuf> =
        story.tree().into_iter().filter(|(p, h)| before.get(p) != Some(h)).map(|(p, _)| p).collect();
    assert_eq!(
        changed,
        [story.file("w-1", "/etc/security/limits.d/90-provision.conf")],
        "only that was mended"
    );

    // With a limit, the node of that host is looked at, and nothing else of the cluster.
    story.patch_node("w-1", json!({"metadata": {"labels": {"example.com/team": null}}}));
    story.patch_node("h-1", json!({"metadata": {"labels": {"provision.dev/pool": null}}}));
    let at = story.at();
    let output = story.run(&["apply", "--yes", "-i", &at, "--limit", "w-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(story.pending(), found(&[("cluster", &["node/h-1"])]));
}

#[test]
fn what_a_role_drops_is_planned_as_a_removal_and_removed() {
    let story = Story::converged(1);
    let limits = "/etc/security/limits.d/90-provision.conf";
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/base/role.yaml");
    let role = std::fs::read_to_string(role).expect("the built-in role");
    let line = role.lines().find(|l| l.contains(limits)).expect("it writes that file");
    let mine = story.inventory.join("roles/base");
    std::fs::create_dir_all(&mine).expect("made");
    std::fs::write(mine.join("role.yaml"), role.replace(line, "")).expect("written");
    let (code, shown) = story.plan();
    assert_eq!(code, 2);
    assert!(shown.contains(&format!("- file {limits}")) && shown.contains("no role wants it"), "{shown}");
    let hosts: Vec<String> = story.pending().into_keys().collect();
    assert_eq!(hosts, ["cp-1", "h-1", "w-1"]);
    assert!(story.file("w-1", limits).exists());
    story.applied();
    assert!(!story.file("w-1", limits).exists() && !story.file("h-1", limits).exists());
}

#[test]
fn a_driver_is_changed_on_a_drained_node_and_a_cordon_of_the_operator_stays() {
    let story = Story::converged(1);
    story.edit(DRIVERS[0], DRIVERS[1]);
    let steps = story.steps(&[]);
    let drained: Vec<&String> =
        steps["h-1"].iter().filter(|(_, h)| h.contains(&"drain".to_owned())).map(|(s, _)| s).collect();
    assert!(drained.iter().any(|s| s.starts_with("package/nvidia")), "{steps:?}");
    assert!(drained.contains(&&"reboot/nvidia".to_owned()), "{steps:?}");
    // Cut off while it is out of service: a kill between drain and uncordon.
    let mut run = story.spawn(&["-v"]);
    until_said(&mut run, "h-1 waiting: draining node h-1");
    until_said(&mut run, "h-1 package/");
    signal(&run, rustix::process::Signal::KILL);
    rest(run);
    let node = story.node("h-1").expect("the node");
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(node["metadata"]["annotations"]["provision.dev/cordoned"], "drain");
    story.all_up();
    story.applied();
    let node = story.node("h-1").expect("the node");
    assert!(
        node["spec"]["unschedulable"].is_null()
            && node["metadata"]["annotations"]["provision.dev/cordoned"].is_null()
    );

    // The operator's own cordon is honoured: drained, and left cordoned.
    story.patch_node("h-1", json!({"spec": {"unschedulable": true}}));
    story.edit(DRIVERS[1], DRIVERS[0]);
    let output = story.apply(&["--limit", "h-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(story.node("h-1").expect("the node")["spec"]["unschedulable"], true, "it stays theirs");
    story.patch_node("h-1", json!({"spec": {"unschedulable": null}}));
    let waits = Instant::now();
    while story.plan().0 != 0 {
        assert!(waits.elapsed() < Duration::from_secs(30), "the model is served again");
    }
}

#[test]
fn a_disruption_budget_holds_a_drain_until_it_has_room() {
    let story = Story::converged(1);
    // Counted from the pods, as the real disruption controller does.
    let budget = |least: u64| {
        story.api(async |client| {
            use k8s_openapi::api::policy::v1::PodDisruptionBudget;
            let api: kube::Api<PodDisruptionBudget> = kube::Api::namespaced(client, "models");
            let params = kube::api::PatchParams::apply("test").force();
            let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
                "spec": {"minAvailable": least, "selector": {"matchLabels": {}}}});
            api.patch("b", &params, &kube::api::Patch::Apply(body)).await.expect("accepted");
        });
    };
    budget(1);
    std::fs::remove_file(story.file("h-1", "/var/lib/provision/k0s.started")).expect("there");
    let mut run = story.spawn(&[]);
    let said = until_said(&mut run, "needs 1 healthy pods");
    assert!(said.contains("draining: 1 pods left, models/qwen"), "it names the pod: {said}");
    assert_eq!(story.node("h-1").expect("the node")["spec"]["unschedulable"], true);
    // Ctrl-C: nothing was done to the host, so its node is given back.
    signal(&run, rustix::process::Signal::INT);
    let (code, said) = rest(run);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("stopped by you") && said.contains("1 stopped"), "{said}");
    assert!(story.node("h-1").expect("the node")["spec"]["unschedulable"].is_null());

    let mut run = story.spawn(&[]);
    until_said(&mut run, "needs 1 healthy pods");
    budget(0);
    let (code, said) = rest(run);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(story.plan().0, 0);
}

#[test]
fn ctrl_c_once_finishes_what_runs_and_twice_detaches_what_another_machine_follows() {
    let story = Story::of(&site(1));
    story.up();
    let mut run = story.spawn(&["-v"]);
    until_said(&mut run, "h-1 package nvidia");
    signal(&run, rustix::process::Signal::INT);
    let said = until_said(&mut run, "nothing new begins");
    let (code, more) = rest(run);
    assert_eq!(code, Some(130), "{said}{more}");
    assert!(more.contains(" stopped · run") && !more.contains("failed ·"), "stopped is not failed: {more}");
    let facts = |story: &Story| std::fs::read_to_string(story.file("h-1", "/var/lib/provision/lock"));
    assert_eq!(facts(&story).expect("there").trim(), "", "the lock was given back");

    let mut run = story.spawn(&["-v"]);
    until_said(&mut run, "begins");
    signal(&run, rustix::process::Signal::INT);
    until_said(&mut run, "nothing new begins");
    signal(&run, rustix::process::Signal::INT);
    let (code, said) = rest(run);
    assert_eq!(code, Some(130), "{said}");
    // Another machine: no journal, another user, another state folder.
    let at = story.at();
    let mut attach = story.command(&["attach", "-i", &at]);
    attach.env("XDG_STATE_HOME", story.dir.path().join("elsewhere")).env("USER", "eva");
    let output = attach.output().expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for host in ["cp-1", "w-1", "h-1"] {
        let runs = story.file(host, "/var/lib/provision/runs");
        for run in std::fs::read_dir(runs).into_iter().flatten().flatten() {
            assert!(run.path().join("rc").exists(), "followed to its end: {}", run.path().display());
        }
    }
    story.applied();
}

#[test]
fn a_second_machine_is_refused_by_the_lease_with_its_owner_and_how_to_clear_it() {
    let story = Story::converged(1);
    let lease = |change: Value| {
        story.api(async |client| {
            use k8s_openapi::api::coordination::v1::Lease;
            let api: kube::Api<Lease> = kube::Api::namespaced(client, "kube-system");
            let params = kube::api::PatchParams::apply("other").force();
            api.patch("provision-runs", &params, &kube::api::Patch::Apply(change)).await.expect("accepted");
        });
    };
    let held = |at: jiff::Timestamp| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "provision-runs", "annotations": {"provision.dev/run": "EVA11", "provision.dev/process": "1"}},
            "spec": {"holderIdentity": "eva@desk", "leaseDurationSeconds": 120,
                "renewTime": at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()}})
    };
    lease(held(jiff::Timestamp::now()));
    let limits = story.file("w-1", "/etc/security/limits.d/90-provision.conf");
    std::fs::remove_file(&limits).expect("removed");
    let refused = story.apply(&[]);
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("E-LEASE") && said.contains("eva@desk (run EVA11"), "{said}");
    assert!(said.contains("kubectl -n kube-system delete lease provision-runs"), "{said}");
    assert!(!limits.exists(), "nothing was done");
    // It was not renewed for too long.
    lease(held(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(121)));
    story.applied();
    let gone = story.api(async |client| {
        let api: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
            kube::Api::namespaced(client, "kube-system");
        api.get_opt("provision-runs").await.expect("an answer").is_none()
    });
    assert!(gone, "given back at the end");
}
