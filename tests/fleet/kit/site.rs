//! An inventory of hosts in its own folder, and the real binary run on it.

use super::boot::Host;
use super::fleet::{Fleet, fleet};
use super::packages::{K0S, MIRROR};
use super::vendors;
use provision::artifact::{LOCK_FILE, Lock, Locked};
use provision::event::Events;
use provision::lab::cluster::{Cluster, ClusterSpec, HostSpec};
use provision::lab::on_host;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// How a run of the binary ended.
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All that it said, standard output first.
    pub text: String,
}

/// An inventory and what belongs to it. Change its parts, then `write`.
pub struct Site {
    /// The folder of the inventory; `state/` in it is what the client remembers.
    pub dir: tempfile::TempDir,
    /// The `ssh` section, a mapping in braces.
    pub ssh: String,
    /// Lines for the `os` section, a mapping in braces.
    pub os: String,
    /// The version of k0s.
    pub k0s: String,
    /// By name: pool, address, and more keys of the host as `, key: value`.
    pub hosts: Vec<(String, String, String, String)>,
    /// More keys of the inventory, as whole lines.
    pub more: String,
    /// Variables of the client's.
    pub env: Vec<(String, String)>,
    /// Only these hosts, if it says any.
    pub limit: Option<String>,
    /// The client.
    pub binary: PathBuf,
    fleet: &'static Fleet,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Site {
    /// Writes an inventory of hosts: `cp-…` are controllers, `w-…` workers, others are left out (bastions). They are
    /// logged in to as `ops`, who has sudo without a password, by the plain key; their host keys are known. A simulated
    /// cluster of its own answers the hosts' k0s.
    pub fn new(hosts: &[Host]) -> Self {
        let fleet = fleet();
        let dir = tempfile::tempdir().expect("a folder");
        let listed = hosts.iter().filter_map(|host| {
            let pool = if host.name.starts_with("cp-") {
                "control"
            } else if host.name.starts_with("w-") {
                "general"
            } else {
                return None;
            };
            Some((host.name.clone(), pool.to_owned(), host.address.to_string(), String::new()))
        });
        let known: String = hosts.iter().map(|h| format!("{} {}\n", h.address, h.host_key)).collect();
        std::fs::write(dir.path().join("known_hosts"), known).expect("written");
        let key = fleet.key("plain");
        let mut site = Self {
            ssh: format!(
                "{{user: ops, identities: [{}], hostKeys: {{file: known_hosts}}, agent: false}}",
                key.display()
            ),
            os: "{ntp: []}".to_owned(),
            k0s: K0S.to_owned(),
            hosts: listed.collect(),
            more: String::new(),
            env: Vec::new(),
            limit: None,
            binary: env!("CARGO_BIN_EXE_provision").into(),
            dir,
            fleet,
            tasks: Vec::new(),
        };
        site.simulate(hosts);
        site.write();
        site
    }

    /// Writes an inventory of hosts on which nothing is wanted but the entries of a role file, whatever they are called: they
    /// are controllers on which no k0s is wanted, so no cluster takes part.
    pub fn only(hosts: &[Host], role: &str) -> Self {
        let mut site = Self::new(hosts);
        let listed = |h: &Host| (h.name.clone(), "control".to_owned(), h.address.to_string(), String::new());
        site.hosts = hosts.iter().map(listed).collect();
        site.role("k0s", "[]\n");
        site.role("base", role);
        site.write();
        site
    }

    /// Writes an inventory of hosts with accelerators, all of them workers in one pool but those called `cp-…`;
    /// `accelerator` is the pool's key, a mapping in braces. All roles are the built-in ones. NVIDIA's names lead to
    /// the mirror, whose certificate the inventory has hosts trust; for AWS's the inventory names the mirror.
    pub fn accelerated(hosts: &[Host], accelerator: &str) -> Self {
        let mut site = Self::new(hosts);
        std::fs::write(site.path("vendors.pem"), &site.fleet.mirror.certificate.pem).expect("written");
        site.accelerate(hosts, accelerator, "");
        site
    }

    /// Writes another accelerator for these hosts, with other keys of the pool as `, key: value`.
    pub fn accelerate(&mut self, hosts: &[Host], accelerator: &str, keys: &str) {
        let listed: Vec<String> = hosts
            .iter()
            .filter(|h| h.accelerators.is_some())
            .map(|h| format!("{}: {{address: {}}}", h.name, h.address))
            .collect();
        self.more = format!(
            "  accelerated: {{role: worker, disruption: {{maxUnavailable: 100%, maxFailed: 100%}}, accelerator: {accelerator}{keys}, \
             hosts: {{{}}}}}\nnetwork: {{caBundle: vendors.pem}}\n\
             repositories: {{{}: {{mirror: \"{MIRROR}\"}}}}\n",
            listed.join(", "),
            vendors::MIRRORED
        );
        self.write();
    }

    /// Puts a role of the inventory's own in the place of a built-in one.
    pub fn role(&self, name: &str, text: &str) {
        let folder = self.path("roles").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("role.yaml"), text).expect("written");
    }

    /// Puts a simulated cluster behind the k0s of these hosts.
    fn simulate(&mut self, hosts: &[Host]) {
        let specs = hosts.iter().map(|host| {
            let spec =
                HostSpec { addresses: vec![host.address.to_string()], accelerators: host.accelerators };
            (host.name.clone(), spec)
        });
        let spec = ClusterSpec { hosts: specs.collect() };
        let _entered = self.fleet.runtime.enter();
        let cluster = Arc::new(Cluster::new(spec, Events::none()));
        for host in hosts {
            let socket = host.lab.path().join("cluster.sock");
            let _ = std::fs::remove_file(&socket);
            let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
            self.tasks.push(self.fleet.runtime.spawn(on_host::serve(cluster.clone(), listener)));
        }
    }

    /// Writes the inventory and its lock file.
    pub fn write(&self) {
        let pool = |name: &str, role: &str| {
            let hosts: String = self
                .hosts
                .iter()
                .filter(|(_, pool, ..)| pool == name)
                .map(|(name, _, address, more)| format!("      {name}: {{address: {address}{more}}}\n"))
                .collect();
            match hosts.is_empty() {
                true => String::new(),
                false => format!(
                    "  {name}:\n    role: {role}\n    disruption: {{maxUnavailable: 100%, maxFailed: 100%}}\n    hosts:\n{hosts}"
                ),
            }
        };
        let text = format!(
            "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: fleet}}\nssh: {ssh}\nos: {os}\ncluster:\n  k0s:\n    version: {k0s}\n    config: {{spec: {{workerProfiles: [{{name: default, values: {{failCgroupV1: false}}}}]}}}}\n  \
             network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\npools:\n{control}{general}{more}",
            ssh = self.ssh,
            os = self.os,
            k0s = self.k0s,
            control = pool("control", "controller"),
            general = pool("general", "worker"),
            more = self.more,
        );
        std::fs::write(self.dir.path().join("inventory.yaml"), text).expect("written");
        let (url, sha256, size) = self.fleet.mirror.locate(&self.k0s);
        let locked = Locked { version: self.k0s.clone(), urls: vec![url], sha256, size };
        let (url, sha256, size) = self.fleet.mirror.key();
        // Everything that an inventory of these tests can want, at the versions that the catalog has.
        let mut lock = Lock::default();
        for artifact in provision::catalog::Catalog::builtin().expect("the catalog").artifacts() {
            let key = Locked {
                version: artifact.version.clone(),
                urls: vec![url.clone()],
                sha256: sha256.clone(),
                size,
            };
            let entry = if artifact.arch.is_some() { locked.clone() } else { key };
            lock.artifacts.insert(artifact.name.clone(), entry);
        }
        lock.save(&self.dir.path().join(LOCK_FILE)).expect("written");
    }

    /// Returns the path of a file of the inventory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the binary, beside the hosts, with this inventory: `provision ARGUMENTS -i INVENTORY`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.fleet.command("env");
        command.args([
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "USER=tester",
        ]);
        command.arg(format!("HOME={}", self.dir.path().display()));
        command.arg(format!("XDG_STATE_HOME={}", self.path("state").display()));
        command.args(self.env.iter().map(|(key, value)| format!("{key}={value}")));
        command.arg(&self.binary).args(arguments);
        command.arg("-i").arg(self.dir.path()).stdin(Stdio::null());
        if let Some(limit) = &self.limit {
            command.args(["--limit", limit]);
        }
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().expect("the binary runs");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        Ran { code: output.status.code(), text }
    }

    /// Runs the binary and panics unless it ends with this code. Returns what it said.
    pub fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(code), "provision {}\n{}", arguments.join(" "), ran.text);
        ran.text
    }

    /// Starts the binary and leaves it running.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let path = self.path("output");
        let file = std::fs::File::create(&path).expect("a file");
        let mut command = self.command(arguments);
        command.stdout(file.try_clone().expect("a copy")).stderr(file);
        Running { child: command.spawn().expect("the binary starts"), path }
    }

    /// Returns the resources that `plan` would change, as `target resource`, sorted.
    pub fn pending(&self) -> Vec<String> {
        let output = self.command(&["plan", "--output", "json"]).output().expect("the binary runs");
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        let mut all = Vec::new();
        for target in plan["targets"].as_array().expect("targets") {
            assert!(target["unobserved"].is_null(), "{target:#}");
            for step in target["steps"].as_array().expect("steps") {
                let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
                all.push(text("resource"));
            }
        }
        all.sort();
        all
    }

    /// Applies and proves that nothing is left to do.
    pub fn converge(&self) {
        self.expect(0, &["apply", "--yes"]);
        let shown = self.expect(0, &["plan"]);
        assert!(shown.contains("in sync"), "{shown}");
    }
}

/// The binary while it runs; killed with its value.
pub struct Running {
    child: Child,
    path: PathBuf,
}

impl Running {
    /// Returns what it said so far.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// Waits until it has said something.
    pub fn wait_for(&self, phrase: &str) {
        super::until(&format!("{phrase:?}"), || self.text().contains(phrase).then_some(()));
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let code = self.child.wait().expect("it ends").code();
        Ran { code, text: self.text() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
