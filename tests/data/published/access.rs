//! What is read on this machine: ssh and its files, what sudo and probes of ports say, k0s, keys and checksums.

use super::{Output, Row, lines, said};
use crate::artifact::Server;
use crate::role::{Case as Site, sh};
use async_trait::async_trait;
use bytes::Bytes;
use provision::artifact::{Lock, Wanted, fingerprints, resolve};
use provision::event::Events;
use provision::executor::{HostSetup, HostTarget, STATE_DIR, Sudo};
use provision::k0s::{self, ControllerOutput, QuestionAnswer, control_plane};
use provision::role::{findings, program as probes};
use provision::ssh::known_hosts::KnownHosts;
use provision::ssh::{Asked, Chunk, Dial, Session, SshError, SshErrorKind, Transport, parse_user_config};
use provision::state::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

pub(super) const PARSERS: &[Row] = &[
    ("ssh-config", "`ssh -G`", "src/ssh/config.rs", ssh_config),
    ("known-hosts", "`known_hosts`", "src/ssh/known_hosts.rs", known_hosts),
    ("sudo", "`sudo`, `sudo-rs`", "src/executor/sudo.rs", sudo),
    ("port-probes", "probes of ports by `bash` and `nc`", "src/role/ports.rs", port_probes),
    (
        "k0s-controller",
        "`k0s status`, `k0s etcd member-list`",
        "src/k0s/control_plane.rs, src/k0s/etcd.rs",
        controller,
    ),
    ("openpgp-keys", "signing keys", "src/artifact/openpgp.rs", keys),
    ("checksums", "lists of checksums", "src/artifact/resolve.rs", checksums),
];

/// Keys made for this test, in the place of those in published files.
const KEYS: [(&str, &str); 5] = [
    ("{ed}", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdpFGUYJMh0+ImNO9TxizYyhMfQHtIy4G3FMVBoRgBa"),
    ("{ca}", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMUEqkIi1SVCFuHWYcDdDyyCawRXmNoDk8iBXcMe2sH7"),
    (
        "{ec}",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBN6TVEjKz42ooWHCAdRSwFJStEWaOrBdXJqXnsepIQFmrNdG5+sifI56hJy/TsUmwnaKVz4MTxaZEULJvNgOyXs=",
    ),
    (
        "{rsa}",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDGEI08+xRvVRNCldVkrjRpFNqEDQO1AbBKggYGkaobx187udq/qq9f/5OQBbm7GQBFB4jKmXZuPV1SCliYZno7Sl7Qvnb+IujMi9liz6ZNAAayDbDYKknlb30yI8+k3oq5AytRWfVwCgVg6yyHjO/1/vNFMubOm9u1gV2C4BeSfw==",
    ),
    (
        "{dsa}",
        "ssh-dss AAAAB3NzaC1kc3MAAACBANHiJPM/azLDzi4efnqvLEBoLs1o7JrF9sLgAPeeWzBvgcAaUIRxNiRDo0v76nT9JO03pX5XnGHYbWkG2wNCK5SpeB+ymEB+hjcoYxol7oRI5rwRy5SCdCVHVgviZ82VvLcc7mEqTvt7MGw+oC5u8azrp1nVgF65xjGxJaHwSRynAAAAFQCxUjQhVVPOQBvCpkfkZvzJsFkrWwAAAIEAyEJtM3b9d2bLOJSXa4DxwDKMFo41F3iy2mhRRjW1lQAiUVTqpwHBCBdjBnxNjdNWI+46z+8G2l2akk8bis9PTGnZDaKYBWWrz8f6LUqpd8Bx+FeHbxiQjL2mL17Mz7xDsWxZgul6wHshCXpNmGloEw0jgKMwA7hBNC6q7Rt7rpsAAACAQhVc/EKnlc0AIQZMiUy5lkm/Q5Uxh635pwSfNEN3++pfP3kSMn0ffl9FwPehN2Cmc41YZJjfL3HtNZ8hCk/fpfIn6OHuOPNz4AqAVq4lbRSj/kkNtAcOgLBiYlldqmGhwmehS0jgUdhd9r6VTSTFp5JM3jz/qauN9I8IL9KG8PQ=",
    ),
];

fn ssh_config(output: &Output) -> String {
    let asked = Asked { host: "h-1".to_owned(), ..Asked::default() };
    let config = parse_user_config(&output.text, &asked, Path::new("/home/me"));
    let known: Vec<String> = config.known_hosts.iter().map(|p| p.display().to_string()).collect();
    format!(
        "{}@{}:{} jumps {:?} command {:?}\nagent {:?} only {} known {}\nunsupported {:?} accepts {:?}",
        config.user.unwrap_or_default(),
        config.hostname.unwrap_or_default(),
        config.port.unwrap_or_default(),
        config.jumps,
        config.proxy_command,
        config.agent,
        config.identities_only,
        known.join(" "),
        config.unsupported,
        config.accepts_unknown_keys
    )
}

fn controller(output: &Output) -> String {
    let answer = |text: &str| QuestionAnswer { text: text.to_owned(), exit: Some(output.exit) };
    let plane = control_plane(|name| Some(answer(if name == "status" { &output.text } else { "ok" })));
    let said = format!("members {}\nready", output.text);
    let from =
        ControllerOutput { host: HostName::new("cp-1"), address: "10.0.0.1".to_owned(), output: Ok(said) };
    match (k0s::etcd::members(&[from]), plane) {
        (Some(members), _) => members.iter().map(|(name, address)| format!("{name} {address}\n")).collect(),
        (None, plane) => {
            format!("{} {}", plane.version.unwrap_or_default(), plane.problem.unwrap_or_default())
        }
    }
}

/// What is known of each host that the text asks for, and which lines are none.
fn known_hosts(output: &Output) -> String {
    let text = KEYS.iter().fold(output.text.clone(), |text, (name, key)| text.replace(name, key));
    let mut known = KnownHosts::default();
    known.add(Path::new("known_hosts"), &text);
    let presented = KEYS[0].1.parse().expect("a key");
    let mut found = String::new();
    for asked in text.lines().filter_map(|line| line.strip_prefix("# ask ")) {
        let (host, port) = asked.split_once(' ').expect("a host and a port");
        let keys = known.lookup(host, port.parse().expect("a port"));
        let algorithms: Vec<String> = keys.algorithms().iter().map(ToString::to_string).collect();
        let verdict = format!("{:?}", keys.judge(&presented));
        let verdict = verdict.split([' ', '(']).next().unwrap_or_default();
        let authority = if keys.has_authority() { ", an authority" } else { "" };
        found += &format!("{host} {port}: {verdict} {algorithms:?}{authority}\n");
    }
    found + &known.bad_lines.iter().map(|line| format!("{line}\n")).collect::<String>()
}

/// A login on this machine whose `sudo` is a script.
struct Login(tempfile::TempDir);

/// A program of it that runs, or what is left of its output.
struct Running {
    input: Option<tokio::process::ChildStdin>,
    program: Option<tokio::process::Child>,
    output: Vec<Chunk>,
}

#[async_trait]
impl Transport for Login {
    async fn open(&self, command: &str) -> Result<Box<dyn Session>, SshError> {
        let mut child = tokio::process::Command::new("/bin/sh")
            .args(["-c", command])
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .env("LC_ALL", "de_DE.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let input = child.stdin.take();
        Ok(Box::new(Running { input, program: Some(child), output: Vec::new() }))
    }

    async fn tunnel(&self, _: &str, _: u16) -> Result<BoxStream, SshError> {
        let (message, hint) = ("no tunnels here".to_owned(), String::new());
        Err(SshError { kind: SshErrorKind::Refused, message, hint })
    }
}

#[async_trait]
impl Session for Running {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SshError> {
        if let Some(input) = &mut self.input {
            // A program that has ended takes no input.
            let _ = input.write_all(&bytes).await;
        }
        Ok(())
    }

    async fn finish_input(&mut self) -> Result<(), SshError> {
        self.input = None;
        Ok(())
    }

    async fn next(&mut self) -> Option<Chunk> {
        if let Some(program) = self.program.take() {
            let ended = program.wait_with_output().await.expect("its end");
            // The last one comes first.
            self.output = vec![
                Chunk::Exit(ended.status.code().unwrap_or(255)),
                Chunk::Stderr(ended.stderr.into()),
                Chunk::Stdout(ended.stdout.into()),
            ];
        }
        self.output.pop()
    }
}

/// Hands out the one login.
struct Dialed(Arc<Login>);

#[async_trait]
impl Dial for Dialed {
    async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
        Ok(self.0.clone())
    }
}

/// What a command as root comes to where sudo says this. Where the first line is `# with a password`, it says so once it has
/// read one.
fn sudo(output: &Output) -> String {
    let (password, text) = match output.text.strip_prefix("# with a password\n") {
        Some(text) => (Some(SecretText::new("made up")), text),
        None => (None, output.text.as_str()),
    };
    let says = said(&Output { text: text.to_owned(), ..output.clone() });
    let script = match password {
        Some(_) => format!(
            "[ \"$1\" != -n ] || {{ echo 'sudo: a password is required' >&2; exit 1; }}\nread -r w\nexec >&2\n{says}"
        ),
        None => format!("exec >&2\n{says}"),
    };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sudo");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
    let target = HostTarget::new(HostSetup {
        host: HostName::new("h-1"),
        dial: Arc::new(Dialed(Arc::new(Login(dir)))),
        sudo: Sudo::Required(password),
        desired: Arc::new(|_| Ok(Vec::new())),
        run: RunId::new("AAAAA".to_owned()),
        owner: String::new(),
        state_dir: STATE_DIR.to_owned(),
        reboot_deadline: Duration::ZERO,
        steady_s: 1,
        bmc: None,
        redact: Vec::new(),
        events: Events::none(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(target.run("true", true, Duration::from_secs(60))) {
        Ok(ran) => format!("{ran:?}"),
        Err(failure) => format!("{}: {}", failure.code, failure.message),
    }
}

/// What a worker's probes find where each of them ends like this. `# nc` in the first line is for a host without bash.
fn port_probes(output: &Output) -> String {
    let inventory = Site::new("debian12").inventory();
    let host = &inventory.hosts["w-1"];
    let mut program = probes(&inventory, host, &[]);
    let tool = match output.text.starts_with("# nc\n") {
        true => {
            program = program.replace("command -v bash", "command -v no-bash-here");
            "nc"
        }
        false => "bash",
    };
    let text = lines(&output.text, |line| line != "# nc");
    let says = format!("exec >&2\n{}", said(&Output { text, ..output.clone() }));
    let (answer, _) = sh(&[(tool, &says), ("systemctl", "exit 3")], &program);
    let found = findings(&inventory, host, &[], &answer);
    let blocked = found.iter().filter(|f| f.code == "E-PORT-BLOCKED");
    let why: std::collections::BTreeSet<&str> =
        blocked.filter_map(|f| Some(f.message.split_once("): ")?.1)).collect();
    if why.is_empty() { "open".to_owned() } else { why.into_iter().collect::<Vec<_>>().join("; ") }
}

fn keys(output: &Output) -> String {
    match fingerprints(output.text.as_bytes()) {
        Ok(found) => found.join("\n"),
        Err(why) => why,
    }
}

/// Whether a list has the sum of the file that its first line names; `{sum}` in it is the right one.
fn checksums(output: &Output) -> String {
    const FILE: &str = "the file";
    let sum = "994659de87f727ddcde75df44314f31d7f367b3bff347e852f390530f29720c7";
    let (name, list) = output.text.split_once('\n').expect("a name");
    let path = format!("/{}", name.trim_start_matches("# file ")).replace('+', "%2B");
    let list = list.replace("{sum}", sum).replace("{SUM}", &sum.to_uppercase());
    let server = Server::up(&[(&path, FILE), ("/list", &list)]);
    let cache = tempfile::tempdir().expect("a folder");
    let want = Wanted {
        name: "it".to_owned(),
        version: "1".to_owned(),
        url: server.url(&path),
        checksums: Some(server.url("/list")),
        ..Wanted::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let locked = runtime.block_on(resolve(&[want], &Lock::default(), cache.path(), &Events::none()));
    match locked {
        Ok(_) => "listed".to_owned(),
        Err(failed) => failed.to_string().replace(&server.url(""), "").replace(&path, "FILE"),
    }
}
