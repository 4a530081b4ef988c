//! Observing 32 hosts in sync with 20 resources each, compared with 32 parallel `ssh HOST sh -s < script` of equivalent
//! checks, once through the library and once as a whole `provision plan`: load, connect, facts, state, plan, print. Real OpenSSH
//! on loopback, one server per host; both sides alternate in one run. Bounds: not slower than plain ssh, and 0.4 of its time.
//! Needs root: the servers get a mount namespace with a `/run/systemd` as systemd makes it and a root login without startup files, so that
//! neither side measures a `.bashrc`.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use provision::event::Events;
use provision::executor::{DesiredFn, HostSetup, HostTarget, Sudo};
use provision::plan::steps_of;
use provision::ssh::{Credentials, Endpoint, Pool, PoolOptions};
use provision::state::{
    Command as Guarded, Content, Directory, Ensure, File, Package, Resource, Spec, Symlink, Sysctl, Target,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Hosts.
const HOSTS: usize = 32;
/// Turns of each side; the middle ratio counts.
const TURNS: usize = 7;
/// Under this name the bench finds, in its environment, that it is to be the observer.
const OBSERVER: &str = "PROVISION_BENCH_OBSERVER";

/// What the observer is told.
#[derive(Serialize, Deserialize)]
struct Site {
    hosts: Vec<(String, String, u16)>,
    identity: PathBuf,
    known_hosts: PathBuf,
    state: String,
    resources: Vec<Resource>,
}

/// The SSH servers; they end with it.
struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn main() -> ExitCode {
    let result = match std::env::var_os(OBSERVER) {
        Some(file) => observe(Path::new(&file)),
        None => measure(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("the bench could not run: {error}");
        ExitCode::FAILURE
    })
}

fn other(message: impl Into<String>) -> std::io::Error {
    std::io::Error::other(message.into())
}

/// Returns where a program is; `sbin` is looked at too, which is on root's PATH only.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|f| f.join(program)).find(|p| p.is_file())
}

/// Says why there are no numbers. In CI that is a failure.
fn not_run(why: &str) -> ExitCode {
    println!("NOT RUN: observe ({why})");
    if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Writes what is in place, and returns it as resources and as the script of a careful person: one process a tool.
fn in_place(folder: &Path) -> std::io::Result<(Vec<Resource>, String)> {
    let mut specs = Vec::new();
    let (mut sums, mut paths, mut rest) = (String::new(), String::new(), String::new());
    let at = |name: String| folder.join(name).display().to_string();
    for n in 0..8 {
        let (path, text) = (at(format!("file-{n}.conf")), format!("# in place\nsetting.{n} = {n}\n"));
        std::fs::write(&path, &text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        let _ = writeln!(sums, "{}  {path}", sha256(text.as_bytes()));
        let _ = write!(paths, " {path}");
        let content = Content::Text(text);
        specs.push(Spec::File(File {
            path,
            content,
            mode: 0o644,
            owner: "root:root".into(),
            validate: None,
        }));
    }
    for n in 0..2 {
        let (path, link) = (at(format!("folder-{n}")), at(format!("link-{n}")));
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(&path, &link)?;
        let _ = write!(paths, " {path} {link}");
        specs.push(Spec::Symlink(Symlink { path: link, target: path.clone() }));
        specs.push(Spec::Directory(Directory { path, mode: 0o755, owner: "root:root".into() }));
    }
    rest += "grep -H .";
    for key in ["kernel.pid_max", "vm.max_map_count", "net.core.somaxconn", "fs.file-max"] {
        let _ = write!(rest, " /proc/sys/{}", key.replace('.', "/"));
        // Any machine has more than this, so that nothing is to be done.
        specs.push(Spec::Sysctl(Sysctl { key: key.into(), value: "100".into(), raise_only: true }));
    }
    rest.push('\n');
    let packages =
        Command::new("dpkg-query").args(["-W", "-f", "${Package}\\n", "bash", "coreutils"]).output();
    if packages.is_ok_and(|o| o.status.success()) {
        rest += "dpkg-query -W -f '${Package} ${db:Status-Abbrev} ${Version}\\n' bash coreutils\n";
        for name in ["bash", "coreutils"] {
            let package = Package { name: name.into(), version: None, ensure: Ensure::Present, hold: false };
            specs.push(Spec::Package(package));
        }
    }
    while specs.len() < 20 {
        let guard = "[ -s /etc/passwd ]".to_owned();
        let _ = writeln!(rest, "{guard} || echo no");
        specs.push(Spec::Command(Guarded {
            name: format!("guard-{}", specs.len()),
            guard,
            apply: "false".into(),
            undo: None,
            wanted: "in place".into(),
            when_changed: Vec::new(),
        }));
    }
    let script = format!(
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C; export PATH LC_ALL\n\
         sha256sum -c <<'END'\n{sums}END\nstat -c '%F|%a|%U:%G|%n|%N' --{paths}\n{rest}exit 0\n"
    );
    Ok((specs.into_iter().map(|spec| Resource::new("bench", spec)).collect(), script))
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn keygen(file: &Path) -> std::io::Result<String> {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status()?;
    if !made.success() {
        return Err(other("ssh-keygen failed"));
    }
    std::fs::read_to_string(file.with_extension("pub"))
}

/// Starts an SSH server for each host, with a host key of its own, and waits until all listen.
fn serve(sshd: &Path, folder: &Path, hosts: &[(String, String, u16)]) -> std::io::Result<(Servers, String)> {
    let passwd: String = std::fs::read_to_string("/etc/passwd")?
        .lines()
        .map(|line| match line.starts_with("root:") {
            true => format!("root:x:0:0:root:{}:/bin/sh\n", folder.display()),
            false => format!("{line}\n"),
        })
        .collect();
    std::fs::write(folder.join("passwd"), passwd)?;
    let config = format!(
        "AuthorizedKeysFile {0}/id.pub\nStrictModes no\nUsePAM no\nUseDNS no\nPasswordAuthentication no\n\
         PermitRootLogin prohibit-password\nMaxStartups 1000:30:2000\nPrintMotd no\nPrintLastLog no\nPidFile none\nLogLevel ERROR\n",
        folder.display()
    );
    std::fs::write(folder.join("sshd_config"), config)?;
    let mut known = String::new();
    let mut servers = Servers(Vec::new());
    for (name, address, port) in hosts {
        let key = folder.join(name);
        let public = keygen(&key)?;
        let _ = writeln!(known, "[{address}]:{port} {}", public.trim());
        let walls = "mount -t tmpfs none /run && mkdir -p /run/sshd /run/systemd/system /run/systemd/units && \
                     ln -s 0 /run/systemd/units/invocation:ssh.service && mount --bind \"$1/passwd\" /etc/passwd && \
                     mkdir -p /run/upper /run/work && \
                     mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work none /var/lib && \
                     cp -r \"$1/state\" /var/lib/provision && \
                     tr -d - </proc/sys/kernel/random/uuid >/run/machine-id && mount --bind /run/machine-id /etc/machine-id && exec \"$2\" -D -e -f \"$1/sshd_config\" -h \"$3\" -o \"ListenAddress=$4\"";
        let server = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", walls, "sh"])
            .args([folder, sshd, &key])
            .arg(format!("{address}:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Each look whether it listens is a connection that says nothing, which it would remark on.
            .stderr(std::fs::File::create(folder.join(format!("{name}.log")))?)
            .spawn()?;
        servers.0.push(server);
    }
    let began = Instant::now();
    for (name, address, port) in hosts {
        while std::net::TcpStream::connect((address.as_str(), *port)).is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                return Err(other(format!("the SSH server of {name} does not listen")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok((servers, known))
}

/// One turn of plain ssh: all hosts at once, until the last has answered.
fn plain(site: &Site, script: &Path) -> std::io::Result<Duration> {
    let began = Instant::now();
    let mut clients = Vec::new();
    for (name, address, port) in &site.hosts {
        let client = Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
            ])
            .arg(format!("UserKnownHostsFile={}", site.known_hosts.display()))
            .arg("-i")
            .arg(&site.identity)
            .args(["-p", &port.to_string(), &format!("root@{address}"), "sh", "-s"])
            .stdin(std::fs::File::open(script)?)
            .stdout(Stdio::null())
            .spawn()?;
        clients.push((name, client));
    }
    for (name, client) in &mut clients {
        let status = client.wait()?;
        if !status.success() {
            return Err(other(format!("ssh to {name} failed ({status})")));
        }
    }
    Ok(began.elapsed())
}

/// One turn of provision, as a process of its own.
fn ours(site: &Path) -> std::io::Result<Duration> {
    let run = kit::run(Command::new(std::env::current_exe()?).env(OBSERVER, site))?;
    match run.status {
        Some(0) => Ok(run.time),
        status => Err(other(format!("observing failed ({status:?})"))),
    }
}

/// Writes an inventory whose hosts want just these resources, and what makes them hosts that joined before.
fn inventory(site: &Site, folder: &Path) -> std::io::Result<PathBuf> {
    let version = "v1.35.7+k0s.0";
    // The machine may be an old one.
    let config =
        json!({"spec": {"workerProfiles": [{"name": "default", "values": {"failCgroupV1": false}}]}});
    let hosts = |some: &[(String, String, u16)]| {
        let host = |(name, address, _): &(String, String, u16)| (name.clone(), json!({"address": address}));
        some.iter().map(host).collect::<serde_json::Map<_, _>>()
    };
    let (first, rest) = site.hosts.split_at(1);
    let text = json!({
        "metadata": {"name": "bench"},
        "ssh": {"user": "root", "port": first[0].2, "identities": ["../id"], "hostKeys": {"file": "../known_hosts"}},
        "cluster": {"k0s": {"version": version, "config": config}},
        "pools": {"control": {"role": "controller", "hosts": hosts(first)}, "general": {"role": "worker", "hosts": hosts(rest)}},
    });
    let at = folder.join("site");
    std::fs::create_dir_all(&at)?;
    std::fs::write(at.join("site.yaml"), text.to_string())?;
    let mut entries = Vec::new();
    for resource in &site.resources {
        entries.push(serde_json::to_value(&resource.spec).map_err(std::io::Error::other)?);
    }
    for entry in &mut entries {
        // A role says what a file holds, not that it is text.
        if let Some(text) = entry.pointer("/file/content/text").cloned() {
            entry["file"]["content"] = text;
        }
    }
    let ready =
        json!([{"command": {"name": "k0s-ready", "guard": "true", "apply": "false", "wanted": "up"}}]);
    for (role, entries) in [("base", json!(entries)), ("k0s", ready), ("health", json!([]))] {
        std::fs::create_dir_all(at.join("roles").join(role))?;
        std::fs::write(at.join("roles").join(role).join("role.yaml"), entries.to_string())?;
    }
    let locked =
        json!({"version": version, "urls": ["https://192.0.2.1/x"], "sha256": "0".repeat(64), "size": 1});
    let lock = json!({"artifacts": {"k0s-x86_64": locked, "k0s-aarch64": locked}});
    std::fs::write(at.join("provision.lock"), lock.to_string())?;
    Ok(at)
}

/// One turn of a whole `provision plan`.
fn whole(inventory: &Path, folder: &Path) -> std::io::Result<Duration> {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_provision"))
        .args(["plan", "-i"])
        .arg(inventory)
        .env("XDG_STATE_HOME", folder.join("kept"))
        .env("HOME", folder)
        .stdin(Stdio::null())
        .output()?;
    let took = began.elapsed();
    match output.status.code() {
        // Nodes of a cluster that is not there are planned.
        Some(0 | 2) => Ok(took),
        status => {
            let said = String::from_utf8_lossy(&output.stdout);
            Err(other(format!("provision plan failed ({status:?}): {said}")))
        }
    }
}

/// Observes all hosts at once and plans them: success if all is in place everywhere.
fn observe(file: &Path) -> std::io::Result<ExitCode> {
    let site: Site = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let left: usize = runtime.block_on(async {
        let pool = Pool::new(PoolOptions {
            known_hosts: vec![site.known_hosts.clone()],
            credentials: Credentials { identities: vec![site.identity.clone()], ..Credentials::default() },
            ..PoolOptions::default()
        });
        let mut tasks = tokio::task::JoinSet::new();
        for (name, address, port) in &site.hosts {
            let dial = pool.host(Endpoint {
                name: name.clone(),
                address: address.clone(),
                port: *port,
                user: "root".into(),
                ..Endpoint::default()
            });
            let resources = site.resources.clone();
            let desired: DesiredFn = Arc::new(move |_| Ok(resources.clone()));
            let target = HostTarget::new(HostSetup {
                host: name.as_str().into(),
                dial,
                sudo: Sudo::None,
                desired,
                run: "BENCH".into(),
                owner: "bench@here".into(),
                state_dir: site.state.clone(),
                steady_s: 1,
                reboot_deadline: Duration::from_secs(60),
                bmc: None,
                redact: Vec::new(),
                events: Events::none(),
            });
            tasks.spawn(async move { target.observe().await });
        }
        let mut left = 0;
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(observed)) => {
                    let (steps, in_sync) = steps_of(&observed);
                    for step in steps.iter().take(3) {
                        eprintln!("not in place: {} on {}: {:?}", step.resource, step.target, step.change);
                    }
                    left += usize::from(in_sync != observed.desired.len());
                }
                Ok(Err(failure)) => {
                    eprintln!("{failure:?}");
                    left += 1;
                }
                Err(error) => {
                    eprintln!("{error}");
                    left += 1;
                }
            }
        }
        left
    });
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure() -> std::io::Result<ExitCode> {
    let Some(sshd) = find("sshd") else {
        return Ok(not_run("there is no sshd: install openssh-server"));
    };
    for program in ["ssh", "ssh-keygen"] {
        if find(program).is_none() {
            return Ok(not_run(&format!("there is no {program}: install openssh-client")));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(not_run("it wants root, for the servers' mount namespaces"));
    }
    println!("observing {HOSTS} hosts with 20 resources each in place; {}", kit::machine());
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("place");
    std::fs::create_dir(&place)?;
    let (resources, script) = in_place(&place)?;
    let (second, port) = (rand::random_range(130..250u8), rand::random_range(20_000..60_000u16));
    let hosts: Vec<_> =
        (1..=HOSTS).map(|n| (format!("host-{n}"), format!("127.{second}.9.{n}"), port)).collect();
    keygen(&folder.path().join("id"))?;
    let state = folder.path().join("state");
    std::fs::create_dir(&state)?;
    let ready = r#"{"kind":"command","id":"command/k0s-ready","hash":"","adopted":false},"#;
    std::fs::write(state.join("managed.json"), format!("[\n{ready}\n{{}}]\n"))?;
    std::fs::write(state.join("k0s.ready"), "bench\n")?;
    let (_servers, known) = serve(&sshd, folder.path(), &hosts)?;
    let site = Site {
        hosts,
        identity: folder.path().join("id"),
        known_hosts: folder.path().join("known_hosts"),
        state: folder.path().join("none").display().to_string(),
        resources,
    };
    std::fs::write(&site.known_hosts, known)?;
    let (site_file, script_file) = (folder.path().join("site.json"), folder.path().join("script.sh"));
    std::fs::write(&site_file, serde_json::to_string(&site)?)?;
    std::fs::write(&script_file, script)?;

    let inventory = inventory(&site, folder.path())?;

    // Once without counting: files get into the caches of both.
    plain(&site, &script_file)?;
    ours(&site_file)?;
    whole(&inventory, folder.path())?;
    let (mut ratios, mut wholes) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (theirs, mine) = if turn % 2 == 0 {
            let theirs = plain(&site, &script_file)?;
            (theirs, ours(&site_file)?)
        } else {
            let mine = ours(&site_file)?;
            (plain(&site, &script_file)?, mine)
        };
        let all = whole(&inventory, folder.path())?;
        let of = |time: Duration| time.as_secs_f64() / theirs.as_secs_f64();
        println!(
            "turn {}: plain ssh {} ms, observing {} ms, ratio {:.2}, the whole plan {} ms, ratio {:.2}",
            turn + 1,
            theirs.as_millis(),
            mine.as_millis(),
            of(mine),
            all.as_millis(),
            of(all)
        );
        ratios.push(of(mine));
        wholes.push(of(all));
    }
    ratios.sort_by(f64::total_cmp);
    wholes.sort_by(f64::total_cmp);
    let mut bounds = kit::Bounds::default();
    bounds.hold("observing against plain ssh", ratios[TURNS / 2], 1.0, "times its time");
    bounds.hold("a whole plan against plain ssh", wholes[TURNS / 2], 0.4, "times its time");
    Ok(bounds.verdict())
}
