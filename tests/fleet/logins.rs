//! Logging in: keys, certificates, agent, passwords, login shells, sudo, bastions, and what sshd limits.

use crate::kit::{Fleet, Host, PASSWORD, Setup, Site, fleet};

/// One host, of which only facts are wanted.
fn one(setup: Setup) -> (Vec<Host>, Site) {
    let hosts = fleet().boot([setup]);
    let site = Site::only(&hosts, "[]\n");
    (hosts, site)
}

/// The `ssh` section for a login.
fn ssh(user: &str, key: &str, more: &str) -> String {
    let key = fleet().key(key);
    format!("{{user: {user}, identities: [{}], hostKeys: {{file: known_hosts}}{more}}}", key.display())
}

const NO_AGENT: &str = ", agent: false";
const SUDO: &str = ", agent: false, sudoPassword: {secret: sudo}";

fn with_password(site: &mut Site, password: &str) {
    site.more = "secrets: {sudo: {env: SUDO_PASSWORD}}\n".to_owned();
    site.env = vec![("SUDO_PASSWORD".to_owned(), password.to_owned())];
}

#[test]
fn login_shells_that_are_slow_or_not_bash_or_not_posix_or_talk() {
    let (_hosts, mut site) = one(Setup::new("h-1"));
    for user in ["ops", "dash", "slow", "root"] {
        site.ssh = ssh(user, "plain", NO_AGENT);
        site.write();
        let text = site.expect(0, &["facts"]);
        assert!(text.contains("debian"), "{user}: {text}");
    }
    // Start-up files that print, a shell without `NAME=value command`, and sudo with a password on top.
    for user in ["noisy", "csh"] {
        site.ssh = ssh(user, "plain", SUDO);
        with_password(&mut site, PASSWORD);
        site.write();
        site.expect(0, &["facts"]);
    }
}

#[test]
fn sudo_with_a_password_applies() {
    let (hosts, mut site) = one(Setup::new("h-1"));
    site.role("base", "- file: {path: /etc/from-ada, content: \"x\\n\"}\n");
    site.ssh = ssh("ada", "plain", SUDO);
    with_password(&mut site, PASSWORD);
    site.write();
    // Hardened hosts run nothing from folders that everybody may write to, and sudo has a terminal of its own for commands.
    hosts[0].sh("mount -o remount,noexec /dev/shm; mount -t tmpfs -o noexec,mode=1777 none /tmp; echo 'Defaults use_pty' >/etc/sudoers.d/pty");
    site.converge();
    assert_eq!(hosts[0].sh("stat -c %U /etc/from-ada"), "root");
    assert_eq!(hosts[0].sh("ls -A /dev/shm"), "", "the password does not stay");
    // What a command prints and ends with is the command's. The kit's own arguments come last, behind its end.
    let inventory = site.path("").display().to_string();
    let command = [
        "exec",
        "-i",
        &inventory,
        "--limit",
        "*",
        "--root",
        "--output",
        "json",
        "--",
        "sh",
        "-c",
        "echo mine >&2; exit 5",
    ];
    let text = site.expect(1, &command);
    assert!(text.contains(r#""exit":5"#) && text.contains(r#""stderr":"mine\n""#), "{text}");
}

#[test]
fn a_wrong_sudo_password_is_tried_once_and_named() {
    let (hosts, mut site) = one(Setup::new("h-1"));
    site.ssh = ssh("ada", "plain", SUDO);
    with_password(&mut site, "wrong-horse");
    site.write();
    let text = site.expect(1, &["plan"]);
    assert!(text.contains("E-SUDO-PASSWORD") && text.contains("sudo rejects the password"), "{text}");
    assert!(!text.contains("wrong-horse"), "{text}");
    let log = hosts[0].journal("-t sudo");
    assert!(log.contains("1 incorrect password attempt"), "{log}");
    assert_eq!(log.matches("authentication failure").count(), 1, "one attempt counts once: {log}");
    // None given at all is another matter.
    site.ssh = ssh("ada", "plain", NO_AGENT);
    site.write();
    let text = site.expect(1, &["plan"]);
    assert!(text.contains("sudo requires a password and none is configured"), "{text}");
}

#[test]
fn a_login_without_sudo_rights_is_reported() {
    let (_hosts, mut site) = one(Setup::new("h-1"));
    site.ssh = ssh("eve", "plain", SUDO);
    with_password(&mut site, PASSWORD);
    site.write();
    let text = site.expect(1, &["plan"]);
    assert!(text.contains("E-SUDO-REFUSED"), "{text}");
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_only() {
    let (_hosts, mut site) = one(Setup::new("h-1"));
    site.ssh = ssh("ops", "encrypted", ", agent: false, passphrase: {secret: key}");
    site.more = "secrets: {key: {env: PASSPHRASE}}\n".to_owned();
    site.env = vec![("PASSPHRASE".to_owned(), Fleet::PASSPHRASE.to_owned())];
    site.write();
    site.expect(0, &["facts"]);
    site.env = vec![("PASSPHRASE".to_owned(), "another".to_owned())];
    let text = site.expect(1, &["facts"]);
    assert!(text.contains("wrong passphrase"), "{text}");
}

#[test]
fn a_user_certificate_opens_what_its_authority_may() {
    let (_hosts, mut site) = one(Setup::new("h-1"));
    site.ssh = ssh("cert", "certified", NO_AGENT);
    site.write();
    site.expect(0, &["facts"]);
    // The key alone is not enough.
    site.ssh = ssh("cert", "plain", NO_AGENT);
    site.write();
    let text = site.expect(1, &["facts"]);
    assert!(text.contains("rejects the login of cert") && text.contains("the server accepts"), "{text}");
}

#[test]
fn a_host_certificate_is_trusted_by_its_authority() {
    let (hosts, site) = one(Setup::new("h-1").certified());
    let known = format!("@cert-authority {} {}", hosts[0].address, fleet().public("host_ca"));
    std::fs::write(site.path("known_hosts"), known).expect("written");
    site.expect(0, &["facts"]);
    let known = format!("@cert-authority {} {}", hosts[0].address, fleet().public("user_ca"));
    std::fs::write(site.path("known_hosts"), known).expect("written");
    let text = site.expect(1, &["facts"]);
    assert!(text.contains("host"), "{text}");
}

#[test]
fn the_agents_keys_are_offered() {
    let (_hosts, mut site) = one(Setup::new("h-1"));
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ssh-agent");
    crate::kit::until("the agent", || socket.exists().then_some(()));
    let added = std::process::Command::new("ssh-add")
        .arg("-q")
        .arg(fleet().key("plain"))
        .env("SSH_AUTH_SOCK", &socket)
        .status();
    site.ssh = "{user: ops, hostKeys: {file: known_hosts}}".to_owned();
    site.env = vec![("SSH_AUTH_SOCK".to_owned(), socket.display().to_string())];
    site.write();
    let with = site.run(&["facts"]);
    site.env.clear();
    let without = site.run(&["facts"]);
    let _ = agent.kill();
    let _ = agent.wait();
    assert!(added.expect("ssh-add").success());
    assert_eq!(with.code, Some(0), "{}", with.text);
    assert_eq!(without.code, Some(1), "{}", without.text);
    assert!(without.text.contains("rejects the login of ops"), "{}", without.text);
}

#[test]
fn a_server_that_wants_a_key_and_a_password_gets_both() {
    let (_hosts, mut site) = one(Setup::new("h-1"));
    site.ssh = ssh("kim", "plain", ", agent: false, password: {secret: login}");
    site.more = "secrets: {login: {env: LOGIN}}\n".to_owned();
    site.env = vec![("LOGIN".to_owned(), PASSWORD.to_owned())];
    site.write();
    site.expect(0, &["facts"]);
    site.ssh = ssh("kim", "plain", NO_AGENT);
    site.write();
    let text = site.expect(1, &["facts"]);
    assert!(text.contains("requires another method") && text.contains("keyboard-interactive"), "{text}");
}

#[test]
fn one_session_at_a_time_is_enough() {
    let (hosts, mut site) = one(Setup::new("h-1").sshd("MaxSessions 1"));
    site.role("base", "- file: {path: /etc/narrow, content: \"x\\n\"}\n");
    site.ssh = ssh("ada", "plain", SUDO);
    with_password(&mut site, PASSWORD);
    site.write();
    site.converge();
    assert_eq!(hosts[0].sh("cat /etc/narrow"), "x");
}

#[test]
fn forty_hosts_behind_a_bastion_share_one_connection_and_none_is_dropped() {
    let hosts = fleet().boot([Setup::new("b-1"), Setup::new("w-1")]);
    let mut site = Site::only(&hosts[1..], "[]\n");
    let (bastion, worker) = (&hosts[0], &hosts[1]);
    // One sshd with forty addresses: MaxStartups 10:30:60 counts for all of them together.
    let mut known = format!("{} {}\n", bastion.address, bastion.host_key);
    // Every inventory has a controller; facts of others do not ask it.
    site.hosts = vec![("cp-0".to_owned(), "control".to_owned(), "10.77.255.1".to_owned(), String::new())];
    for n in 1..=40 {
        let address = format!("10.77.200.{n}");
        worker.sh(&format!("ip addr add {address}/32 dev host0"));
        fleet().sh(&format!("ip route replace {address}/32 via {}", worker.address));
        bastion.sh(&format!("ip route replace {address}/32 via {}", worker.address));
        known += &format!("{address} {}\n", worker.host_key);
        site.hosts.push((format!("w-{n}"), "general".to_owned(), address, String::new()));
    }
    std::fs::write(site.path("known_hosts"), known).expect("written");
    site.ssh = ssh("ops", "plain", &format!(", agent: false, bastions: [\"{}\"]", bastion.address));
    site.limit = Some("general".to_owned());
    site.write();
    let text = site.expect(0, &["facts"]);
    assert_eq!(text.lines().filter(|l| l.starts_with("w-")).count(), 40, "{text}");
    let logins = |host: &Host| host.journal("-t sshd").matches("Accepted publickey").count();
    assert_eq!((logins(bastion), logins(worker)), (1, 40));
}

#[test]
fn a_bastion_that_forwards_nothing_is_named_with_the_setting() {
    let hosts = fleet().boot([Setup::new("b-1").sshd("AllowTcpForwarding no"), Setup::new("w-1")]);
    let mut site = Site::only(&hosts[1..], "[]\n");
    let known: String = hosts.iter().map(|h| format!("{} {}\n", h.address, h.host_key)).collect();
    std::fs::write(site.path("known_hosts"), known).expect("written");
    site.ssh = ssh("ops", "plain", &format!(", agent: false, bastions: [\"{}\"]", hosts[0].address));
    site.write();
    let text = site.expect(1, &["plan"]);
    assert!(text.contains("does not forward connections"), "{text}");
    assert!(text.contains("AllowTcpForwarding"), "{text}");
}
