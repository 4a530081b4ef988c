//! Each configuration of ssh is run by OpenSSH (`ssh`) and by `provision` against the same servers on loopback. Both get in the
//! same way (the same hops, users and keys), or neither does, or `provision` names the line that it does not support. Prints a
//! table. Needs openssh-client and a mount namespace: `tests/run` runs it.

use super::server::{Log, Rules, Server, certificate, key, line, write_key};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::{Cipher, Kdf};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use std::time::Duration;

/// The folder of keys and configuration: `{home}` in texts. OpenSSH takes it from the user database, so it is mounted there.
const SSH_DEADLINE: Duration = Duration::from_secs(20);

/// One configuration.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    /// `~/.ssh/config`; `{t}`, `{g}` and `{g2}` are the ports of the target and of two bastions, `{home}` the user's folder.
    config: &'static str,
    /// What is asked for.
    host: &'static str,
    /// The same for OpenSSH and for the inventory: options of ssh, keys of the `ssh` section.
    given: (&'static [&'static str], &'static str),
    /// Keys in the agent of SSH_AUTH_SOCK; no agent without any.
    agent: &'static [u8],
    /// More files in `~/.ssh`: a private key, or a text.
    files: &'static [(&'static str, File)],
    /// What `provision` names where it differs.
    named: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum File {
    Key(u8),
    Text(&'static str),
}

const NOTHING: (&[&str], &str) = (&[], "");
/// The target by an alias.
const GPU: &str = "Host gpu\n  HostName 127.0.0.1\n  Port {t}\n";
const RIGHT: &str = "  IdentityFile ~/.ssh/right\n";
const GATE: &str =
    "Host gate\n  HostName 127.0.0.1\n  Port {g}\n  User jumper\n  IdentityFile ~/.ssh/gatekey\n";
const GATE2: &str = "Host gate2\n  HostName 127.0.0.1\n  Port {g2}\n  IdentityFile ~/.ssh/gatekey\n";

/// A row with the alias, and lines for it; what follows `|` comes after all of it.
const fn row(name: &'static str, config: &'static str) -> Row {
    Row { name, config, host: "gpu", given: NOTHING, agent: &[], files: &[], named: None }
}

impl Row {
    const fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }
    const fn given(self, options: &'static [&'static str], section: &'static str) -> Self {
        Self { given: (options, section), ..self }
    }
    const fn agent(self, agent: &'static [u8]) -> Self {
        Self { agent, ..self }
    }
    const fn files(self, files: &'static [(&'static str, File)]) -> Self {
        Self { files, ..self }
    }
    const fn named(self, named: &'static str) -> Self {
        Self { named: Some(named), ..self }
    }
}

/// Keys: 2 and 4 open the target and the bastions, 6 the bastions, 8 only with a certificate of 5; no other opens anything.
const ROWS: &[Row] = &[
    // Where to, and as whom.
    row("HostName, Port", "{GPU}{RIGHT}"),
    row("User", "{GPU}  User ops\n{RIGHT}"),
    row("user of the inventory over User", "{GPU}  User ops\n{RIGHT}").given(&["-l", "eva"], "user: eva"),
    row("port of the inventory over Port", "Host gpu\n  HostName 127.0.0.1\n  Port 1\n{RIGHT}")
        .given(&["-p", "{t}"], "port: {t}"),
    row("an address with a Host block", "Host 127.0.0.1\n  Port {t}\n  User ops\n{RIGHT}").host("127.0.0.1"),
    row("an address that leads elsewhere", "Host 127.0.0.9\n  HostName 127.0.0.1\n  Port {t}\n{RIGHT}")
        .host("127.0.0.9"),
    row(
        "HostName with %h",
        "Host 127.0.0\n  HostName %h.1\n  Port {t}\n{RIGHT}Host gpu\n  HostName 127.0.0.1\n  Port {t}\n{RIGHT}",
    ),
    row("the first value counts", "{GPU}  User first\n{RIGHT}Host *\n  User second\n  Port 1\n"),
    row("a pattern", "Host g?u\n  HostName 127.0.0.1\n  Port {t}\n{RIGHT}"),
    row(
        "a negated pattern",
        "Host * !gpu\n  User wrong\nHost gpu\n  HostName 127.0.0.1\n  Port {t}\n  User right\n{RIGHT}",
    ),
    row(
        "equal signs and quotes",
        "Host gpu\n  HostName=127.0.0.1\n  Port = {t}\n  IdentityFile \"~/.ssh/right\"\n",
    ),
    row("keywords in capitals", "HOST gpu\n  HOSTNAME 127.0.0.1\n  PORT {t}\n  IDENTITYFILE ~/.ssh/right\n"),
    row("Include", "Include conf.d/*.conf\n").files(&[("conf.d/a.conf", File::Text("{GPU}{RIGHT}"))]),
    row("Include below a Host", "Host gpu\n  Include more\n").files(&[(
        "more",
        File::Text("HostName 127.0.0.1\nPort {t}\nUser inc\nIdentityFile ~/.ssh/right\n"),
    )]),
    row("Match host", "{GPU}{RIGHT}Match host 127.0.0.1\n  User matched\n"),
    row("Match originalhost", "{GPU}{RIGHT}Match originalhost gpu\n  User matched\n"),
    row("Match user, by the inventory's", "{GPU}Match user eva\n{RIGHT}").given(&["-l", "eva"], "user: eva"),
    row("Match user, of another", "{GPU}  IdentityFile ~/.ssh/wrong\nMatch user other\n{RIGHT}")
        .given(&["-l", "eva"], "user: eva"),
    row("Match exec", "{GPU}{RIGHT}Match exec \"test %n = gpu\"\n  User matched\n"),
    row("Match exec that fails", "{GPU}{RIGHT}Match exec false\n  User matched\n"),
    row("Match localuser", "{GPU}{RIGHT}Match localuser root\n  User matched\n"),
    row("Match final", "{GPU}{RIGHT}Match final host 127.0.0.1\n  User matched\n"),
    row("Match all", "{GPU}{RIGHT}Match all\n  User matched\n"),
    // Keys in files.
    row("IdentityFile, absolute", "{GPU}  IdentityFile {home}/.ssh/right\n"),
    row("IdentityFile with %d", "{GPU}  IdentityFile %d/.ssh/right\n"),
    row("IdentityFile with %r", "{GPU}  User ops\n  IdentityFile ~/.ssh/of-%r\n")
        .files(&[("of-ops", File::Key(2))]),
    row("IdentityFile with %n", "{GPU}  IdentityFile ~/.ssh/of-%n\n").files(&[("of-gpu", File::Key(2))]),
    row("IdentityFile with %h", "{GPU}  IdentityFile ~/.ssh/of-%h\n")
        .files(&[("of-127.0.0.1", File::Key(2))]),
    row("IdentityFile with %u", "{GPU}  IdentityFile ~/.ssh/of-%u\n").files(&[("of-root", File::Key(2))]),
    row("IdentityFile with %p", "{GPU}  IdentityFile ~/.ssh/of-%p\n").files(&[("of-{t}", File::Key(2))]),
    row("IdentityFile with a variable", "{GPU}  IdentityFile ${KEYS}/right\n"),
    row("several IdentityFile", "{GPU}  IdentityFile ~/.ssh/wrong\n{RIGHT}"),
    row("an IdentityFile that is not there", "{GPU}  IdentityFile ~/.ssh/nowhere\n{RIGHT}"),
    row("the usual keys", "{GPU}").files(&[("id_ed25519", File::Key(2))]),
    row("the usual keys, without any", "{GPU}"),
    row("no usual keys beside IdentityFile", "{GPU}  IdentityFile ~/.ssh/wrong\n")
        .files(&[("id_ed25519", File::Key(2))]),
    row("an encrypted key", "{GPU}  IdentityFile ~/.ssh/locked\n"),
    row("keys of the inventory", "{GPU}")
        .given(&["-i", "{home}/.ssh/right"], "identities: [\"{home}/.ssh/right\"]"),
    row("keys of the inventory below ~", "{GPU}")
        .given(&["-i", "~/.ssh/right"], "identities: [\"~/.ssh/right\"]"),
    row("keys of the inventory and IdentityFile", "{GPU}{RIGHT}")
        .given(&["-i", "{home}/.ssh/wrong"], "identities: [\"{home}/.ssh/wrong\"]"),
    row("keys and user of the inventory, all else configured", "{GPU}  ProxyJump gate\n{GATE}").given(
        &["-l", "ops", "-i", "{home}/.ssh/right"],
        "user: ops, identities: [\"{home}/.ssh/right\"], agent: false",
    ),
    row("PubkeyAuthentication no", "{GPU}  PubkeyAuthentication no\n{RIGHT}"),
    row("PreferredAuthentications without keys", "{GPU}  PreferredAuthentications password\n{RIGHT}"),
    row("PreferredAuthentications with keys", "{GPU}  PreferredAuthentications password,publickey\n{RIGHT}"),
    // Agents.
    row("a key of the agent", "{GPU}").agent(&[2]),
    row("the agent's key before that of a file", "{GPU}{RIGHT}").agent(&[4]),
    row("the agent's right key behind wrong ones", "{GPU}").agent(&[9, 10, 2]),
    row("a configured key of the agent before its others", "{GPU}{RIGHT}").agent(&[4, 2]),
    row("IdentitiesOnly", "{GPU}  IdentitiesOnly yes\n{RIGHT}").agent(&[4]),
    row(
        "IdentitiesOnly with a key that does not fit",
        "{GPU}  IdentitiesOnly yes\n  IdentityFile ~/.ssh/wrong\n",
    )
    .agent(&[2]),
    row("IdentityFile that is a public key", "{GPU}  IdentitiesOnly yes\n  IdentityFile ~/.ssh/right.pub\n")
        .agent(&[4, 2]),
    row("a public key without its agent", "{GPU}  IdentityFile ~/.ssh/right.pub\n"),
    row("a public key alone, beside nothing", "{GPU}  IdentitiesOnly yes\n  IdentityFile ~/.ssh/card\n")
        .agent(&[4, 2]),
    row("an encrypted key that the agent has", "{GPU}  IdentitiesOnly yes\n  IdentityFile ~/.ssh/locked\n")
        .agent(&[2]),
    row("IdentityAgent below ~", "{GPU}  IdentityAgent ~/.ssh/agent.sock\n"),
    row("IdentityAgent over SSH_AUTH_SOCK", "{GPU}  IdentityAgent ~/.ssh/agent.sock\n").agent(&[9]),
    row("IdentityAgent with %d", "{GPU}  IdentityAgent %d/.ssh/agent.sock\n"),
    row("IdentityAgent of a variable", "{GPU}  IdentityAgent $OTHER_AGENT\n"),
    row("IdentityAgent with a variable", "{GPU}  IdentityAgent ${KEYS}/agent.sock\n"),
    row("IdentityAgent none", "{GPU}  IdentityAgent none\n").agent(&[2]),
    row("IdentityAgent SSH_AUTH_SOCK", "{GPU}  IdentityAgent SSH_AUTH_SOCK\n").agent(&[2]),
    // Certificates.
    row("a certificate next to its key", "{GPU}  User ops\n  IdentityFile ~/.ssh/certified\n"),
    row(
        "CertificateFile",
        "{GPU}  User ops\n  IdentityFile ~/.ssh/bare\n  CertificateFile ~/.ssh/elsewhere.pub\n",
    ),
    row(
        "CertificateFile with %r",
        "{GPU}  User ops\n  IdentityFile ~/.ssh/bare\n  CertificateFile ~/.ssh/for-%r.pub\n",
    ),
    row(
        "CertificateFile for a key of the agent",
        "{GPU}  User ops\n  IdentityFile ~/.ssh/bare.pub\n  CertificateFile ~/.ssh/elsewhere.pub\n",
    )
    .agent(&[8]),
    row("a certificate of another user", "{GPU}  User eva\n  IdentityFile ~/.ssh/certified\n"),
    // Bastions.
    row("ProxyJump user@host:port", "{GPU}{RIGHT}  ProxyJump me@127.0.0.1:{g}\n"),
    row("ProxyJump as a URI", "{GPU}{RIGHT}  ProxyJump ssh://me@127.0.0.1:{g}\n"),
    row(
        "ProxyJump to an alias with its own user and key",
        "{GPU}  User ops\n{RIGHT}  ProxyJump gate\n{GATE}",
    ),
    row("ProxyJump to an alias without a user", "{GPU}  User ops\n{RIGHT}  ProxyJump gate2\n{GATE2}"),
    row("ProxyJump with a user before an alias", "{GPU}{RIGHT}  ProxyJump me@gate\n{GATE}"),
    row("ProxyJump over two hops", "{GPU}{RIGHT}  ProxyJump gate,gate2\n{GATE}{GATE2}"),
    row(
        "a bastion behind a bastion of its own",
        "{GPU}{RIGHT}  ProxyJump gate2\n{GATE2}  ProxyJump gate\n{GATE}",
    ),
    row(
        "a bastion behind a ProxyCommand",
        "{GPU}{RIGHT}  ProxyJump gate2\n{GATE2}  ProxyCommand ssh -q -W %h:%p gate\n{GATE}",
    ),
    row("ProxyJump none before one for all", "{GPU}{RIGHT}  ProxyJump none\nHost *\n  ProxyJump gate\n"),
    row(
        "ProxyJump for all but the bastion",
        "{GPU}{RIGHT}{GATE}  ProxyJump none\nHost *\n  ProxyJump gate\n",
    ),
    row("a bastion that is not there", "{GPU}{RIGHT}  ProxyJump 127.0.0.1:1\n"),
    row("bastions of the inventory", "{GPU}{RIGHT}")
        .given(&["-J", "me@127.0.0.1:{g}"], "bastions: [\"me@127.0.0.1:{g}\"]"),
    row("bastions of the inventory, by alias", "{GPU}{RIGHT}{GATE}")
        .given(&["-J", "gate"], "bastions: [gate]"),
    row("bastions of the inventory over ProxyJump", "{GPU}{RIGHT}  ProxyJump gate2\n{GATE}{GATE2}")
        .given(&["-J", "gate"], "bastions: [gate]"),
    row("ProxyCommand", "{GPU}{RIGHT}  ProxyCommand ssh -q -W %h:%p gate\n{GATE}"),
    row("ProxyCommand with brackets", "{GPU}{RIGHT}  ProxyCommand ssh -q -W [%h]:%p %r@gate\n{GATE}"),
    row(
        "ProxyCommand for a name that nothing resolves",
        "Host gpu\n  HostName gpu.invalid\n  HostKeyAlias gpu\n{RIGHT}  ProxyCommand ssh -q -W 127.0.0.1:{t} gate\n{GATE}",
    ),
    row(
        "ProxyCommand none before one for all",
        "{GPU}{RIGHT}  ProxyCommand none\nHost *\n  ProxyCommand false\n",
    ),
    row("ProxyCommand that fails", "{GPU}{RIGHT}  ProxyCommand false\n"),
    row("ProxyJump before ProxyCommand", "{GPU}{RIGHT}  ProxyJump gate\n  ProxyCommand false\n{GATE}"),
    row(
        "ProxyCommand before ProxyJump",
        "{GPU}{RIGHT}  ProxyCommand ssh -q -W %h:%p gate\n  ProxyJump 127.0.0.1:1\n{GATE}",
    ),
    // Host keys.
    row("UserKnownHostsFile", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("{known}"))]),
    row("UserKnownHostsFile, two of them", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/none ~/.ssh/others\n")
        .files(&[("others", File::Text("{known}"))]),
    row("UserKnownHostsFile with %n", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/%n.keys\n")
        .files(&[("gpu.keys", File::Text("{known}"))]),
    row("UserKnownHostsFile without the host", "{GPU}{RIGHT}  UserKnownHostsFile /dev/null\n"),
    row(
        "GlobalKnownHostsFile",
        "{GPU}{RIGHT}  UserKnownHostsFile none\n  GlobalKnownHostsFile ~/.ssh/others\n",
    )
    .files(&[("others", File::Text("{known}"))]),
    row("HostKeyAlias", "{GPU}{RIGHT}  HostKeyAlias rack-7\n  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("rack-7 {hostkey}\n"))]),
    row("HostKeyAlias that is not known", "{GPU}{RIGHT}  HostKeyAlias rack-8\n"),
    row("a pattern in known_hosts", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("[127.0.*]:* {hostkey}\n"))]),
    row("a negated pattern in known_hosts", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("[127.0.*]:*,![127.0.0.1]:{t} {hostkey}\n"))]),
    row("a name without its port in known_hosts", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("127.0.0.1 {hostkey}\n"))]),
    row("another key in known_hosts", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("[127.0.0.1]:{t} {wrongkey}\n"))]),
    row("a revoked key", "{GPU}{RIGHT}  UserKnownHostsFile ~/.ssh/others\n")
        .files(&[("others", File::Text("@revoked * {hostkey}\n{known}"))]),
    row("StrictHostKeyChecking no, host known", "{GPU}{RIGHT}  StrictHostKeyChecking no\n"),
    row(
        "StrictHostKeyChecking no, host unknown",
        "{GPU}{RIGHT}  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n",
    )
    .named("stricthostkeychecking"),
    row(
        "StrictHostKeyChecking accept-new",
        "{GPU}{RIGHT}  StrictHostKeyChecking accept-new\n  UserKnownHostsFile ~/.ssh/fresh\n",
    )
    .named("stricthostkeychecking accept-new"),
    // What is not supported.
    row("AddressFamily inet", "{GPU}{RIGHT}  AddressFamily inet\n"),
    row("AddressFamily of no address", "{GPU}{RIGHT}  AddressFamily inet6\n"),
    row("BindAddress", "{GPU}{RIGHT}  BindAddress 127.0.0.2\n"),
    row("RevokedHostKeys", "{GPU}{RIGHT}  RevokedHostKeys ~/.ssh/wrong.pub\n")
        .files(&[("wrong.pub", File::Text("{wrongkey}\n"))])
        .named("revokedhostkeys"),
    row("BindInterface", "{GPU}{RIGHT}  BindInterface lo\n").named("bindinterface lo"),
    row("ProxyUseFdpass", "{GPU}{RIGHT}  ProxyUseFdpass yes\n  ProxyCommand false\n")
        .named("proxyusefdpass yes"),
    row(
        "KnownHostsCommand",
        "{GPU}{RIGHT}  UserKnownHostsFile /dev/null\n  KnownHostsCommand /bin/cat {home}/.ssh/known_hosts\n",
    )
    .named("knownhostscommand"),
    row("a line that ssh does not know", "{GPU}{RIGHT}  NoSuchOption yes\n")
        .named("Bad configuration option: nosuchoption"),
];

/// The servers, and what all rows share.
struct Ground {
    target: Server,
    gate: Server,
    gate2: Server,
    log: Log,
    dir: tempfile::TempDir,
}

impl Ground {
    async fn new() -> Self {
        let log = Log::default();
        let start = |name: &'static str, opens: &[u8]| {
            let authorized = opens.iter().map(|n| key(*n).public_key().clone()).collect();
            Server::start(Rules {
                authorized,
                user_authority: Some(key(5).public_key().clone()),
                instead: Some("exit 3"),
                log: Some((name, log.clone())),
                ..Rules::default()
            })
        };
        let (target, gate, gate2) = (
            start("target", &[2, 4]).await,
            start("gate", &[2, 4, 6]).await,
            start("gate2", &[2, 4, 6]).await,
        );
        Self { target, gate, gate2, log, dir: tempfile::tempdir().expect("a folder") }
    }

    /// Fills in what stands for something else.
    fn text(&self, text: &str) -> String {
        let host = line(key(1).public_key());
        let known: String =
            [&self.target, &self.gate, &self.gate2].map(|server| server.known(key(1).public_key())).concat();
        let mut text = text.to_owned();
        for (name, value) in [("{GPU}", GPU), ("{RIGHT}", RIGHT), ("{GATE2}", GATE2), ("{GATE}", GATE)] {
            text = text.replace(name, value);
        }
        text.replace("{known}", &known)
            .replace("{hostkey}", &host)
            .replace("{wrongkey}", &line(key(11).public_key()))
            .replace("{t}", &self.target.port.to_string())
            .replace("{g2}", &self.gate2.port.to_string())
            .replace("{g}", &self.gate.port.to_string())
            .replace("{home}", HOME)
    }

    /// Writes the home folder of a row.
    fn home(&self, row: &Row) -> PathBuf {
        let home = self.dir.path().join("home");
        let _ = std::fs::remove_dir_all(&home);
        let ssh = home.join(".ssh");
        std::fs::create_dir_all(&ssh).expect("made");
        let write = |name: &str, text: &str| {
            let path = ssh.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, text).expect("written");
            private(&path);
        };
        let public =
            |name: &str, key: &PrivateKey| write(name, &key.public_key().to_openssh().expect("a key"));
        let private_key = |name: &str, number: u8| private(&write_key(&ssh, name, &key(number)));
        write("config", &self.text(row.config));
        write("known_hosts", &self.text("{known}gpu {hostkey}\n"));
        for (name, number) in [("right", 2), ("wrong", 9), ("gatekey", 6), ("certified", 8), ("bare", 8)] {
            private_key(name, number);
        }
        public("right.pub", &key(2));
        public("card.pub", &key(2));
        public("bare.pub", &key(8));
        let signed = certificate(&key(5), key(8).public_key(), CertType::User, "ops", 4_000_000_000);
        for name in ["certified-cert.pub", "elsewhere.pub", "for-ops.pub"] {
            write(name, &signed.to_openssh().expect("text"));
        }
        let kdf = Kdf::Bcrypt { salt: vec![3; 16], rounds: 4 };
        let locked = key(2).encrypt_with(Cipher::Aes256Ctr, kdf, 77, "sesame").expect("encrypted");
        private(&write_key(&ssh, "locked", &locked));
        for (name, file) in row.files {
            let name = self.text(name);
            match file {
                File::Key(number) => private_key(&name, *number),
                File::Text(text) => write(&name, &self.text(text)),
            }
        }
        let section = self.text(row.given.1);
        let comma = if section.is_empty() { "" } else { ", " };
        let inventory = format!(
            "metadata: {{name: parity}}\nssh: {{hostKeys: {{file: none}}{comma}{section}}}\ncluster: {{k0s: {{version: v1.35.7+k0s.0}}}}\n\
             pools: {{a: {{role: single, hosts: {{h-1: {{address: {}, clusterAddress: 10.0.0.1}}}}}}}}\n",
            row.host
        );
        std::fs::create_dir_all(home.join("site")).expect("made");
        std::fs::write(home.join("site/inventory.yaml"), inventory).expect("written");
        home
    }

    /// Runs a program at home; returns the logins that it led to, and what it printed.
    async fn run(&self, row: &Row, home: &Path, agents: &str, program: &[String]) -> (Vec<String>, String) {
        self.log.lock().expect("not poisoned").clear();
        // The user database says where home is; the machine's own configuration must not count.
        let script = format!(
            "mount --bind '{}' {HOME} && mount -t tmpfs none /etc/ssh && cd {HOME} || exit 1\n{agents} \"$@\"; r=$?; [ -z \"$P\" ] || kill $P; exit $r",
            home.display()
        );
        let plain = rustix::process::geteuid().is_root();
        let mut unshare = tokio::process::Command::new("unshare");
        // Their own process namespace ends what a row has left running.
        unshare
            .args([
                if plain { "-m" } else { "-Urm" },
                "-p",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                &script,
                "sh",
            ])
            .args(program);
        unshare.env("HOME", HOME).env("USER", "root").env("KEYS", format!("{HOME}/.ssh"));
        unshare.env_remove("P");
        unshare.env("OTHER_AGENT", format!("{HOME}/.ssh/agent.sock")).env_remove("SSH_AUTH_SOCK");
        unshare.env("XDG_STATE_HOME", self.dir.path().join("state")).env("SHELL", "/bin/sh");
        unshare.stdin(Stdio::null()).kill_on_drop(true);
        if !row.agent.is_empty() {
            unshare.env("SSH_AUTH_SOCK", format!("{HOME}/.ssh/env.sock"));
        }
        let output = tokio::time::timeout(SSH_DEADLINE, unshare.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{}: {program:?} hangs", row.name)).expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let mut logins = self.log.lock().expect("not poisoned").clone();
        logins.dedup();
        (logins, text.into_owned())
    }

    /// Returns shell that starts the agents of a row, and ends them with it.
    fn agents(&self, row: &Row) -> String {
        let mut text = String::new();
        let mut agent = |socket: &str, keys: &[u8]| {
            let _ = write!(text, "ssh-agent -D -a {HOME}/.ssh/{socket} >/dev/null 2>&1 & P=\"$P $!\"; ");
            let _ = write!(text, "while [ ! -S {HOME}/.ssh/{socket} ]; do sleep 0.02; done; ");
            for number in keys {
                let name = format!("agent-key-{number}");
                private(&write_key(&self.dir.path().join("home/.ssh"), &name, &key(*number)));
                let file = format!("{HOME}/.ssh/{name}");
                let _ = write!(text, "SSH_AUTH_SOCK={HOME}/.ssh/{socket} ssh-add -q {file} && rm {file}; ");
            }
        };
        if !row.agent.is_empty() {
            agent("env.sock", row.agent);
        }
        if row.config.contains("agent.sock") || row.config.contains("OTHER_AGENT") {
            agent("agent.sock", &[2]);
        }
        text
    }
}

/// Where root's home is by the user database.
const HOME: &str = "/root";

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

/// Names keys by their numbers.
fn readable(logins: &[String]) -> String {
    let named = |login: &String| {
        let mut login = login.clone();
        for number in 1..=12 {
            let fingerprint = key(number).public_key().fingerprint(russh::keys::HashAlg::Sha256).to_string();
            login = login.replace(&fingerprint, &format!("key {number}"));
        }
        login
    };
    match logins.is_empty() {
        true => "refused".to_owned(),
        false => logins.iter().map(named).collect::<Vec<_>>().join(" > "),
    }
}

/// At least 60 configurations; see the top of this file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs openssh-client and mount namespaces: tests/run runs it"]
async fn openssh_and_provision_get_in_in_the_same_way() {
    let ground = Ground::new().await;
    let (only, mut differing, mut table) = (std::env::var("PARITY").ok(), Vec::new(), String::new());
    assert!(ROWS.len() >= 60, "{}", ROWS.len());
    for row in ROWS.iter().filter(|row| only.as_ref().is_none_or(|only| row.name.contains(only.as_str()))) {
        let texts = |words: &[&str]| words.iter().map(|w| ground.text(w)).collect::<Vec<_>>();
        let mut ssh = texts(&["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
        ssh.extend(texts(row.given.0));
        // A shell expands `~` before ssh sees it.
        ssh.iter_mut().for_each(|word| *word = word.replace("~/", &format!("{HOME}/")));
        ssh.extend(texts(&["--", row.host, "true"]));
        let home = ground.home(row);
        let (by_ssh, said) = ground.run(row, &home, &ground.agents(row), &ssh).await;
        let home = ground.home(row);
        let provision = [env!("CARGO_BIN_EXE_provision"), "facts", "-i", "site"].map(str::to_owned);
        let (by_provision, text) = ground.run(row, &home, &ground.agents(row), &provision).await;
        let named = row.named.filter(|named| text.contains(named));
        let fits = match row.named {
            Some(_) => named.is_some(),
            None => by_ssh == by_provision,
        };
        let ours = match named {
            Some(named) => format!("names `{named}`"),
            None => readable(&by_provision),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {ours} |{}",
            row.name,
            readable(&by_ssh),
            if fits { "" } else { " DIFFERS" }
        );
        if !fits {
            differing.push(format!("{}\n--- ssh\n{said}\n--- provision\n{text}", row.name));
        }
    }
    println!("| configuration | OpenSSH | provision |\n|---|---|---|\n{table}");
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n\n"));
}
