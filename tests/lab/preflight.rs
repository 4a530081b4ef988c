//! Preflight as a user meets it: one host that cannot be had, with the reason and what to do; the others go on.

use crate::story::{Story, text};
use std::os::unix::fs::PermissionsExt;

/// Puts a program before the real one of that name.
pub fn stand_in(story: &Story, host: &str, name: &str, script: &str) {
    let path = story.lab().join("hosts").join(host).join("usr-local/bin").join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

/// Carries connections to the hosts' addresses, where an inventory that is no lab's looks for them, to their sockets.
fn listen_for_hosts(story: &Story) {
    let sockets = provision::lab::sockets(&story.lab());
    for (name, host) in story.control().status().expect("it answers").hosts {
        let listener = std::net::TcpListener::bind((host.address, host.port)).expect("bound");
        let sockets = sockets.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = provision::lab::connect(&sockets, &name).expect("the host listens");
                let (mut from, mut to) =
                    (near.try_clone().expect("a copy"), far.try_clone().expect("a copy"));
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                std::thread::spawn(move || {
                    let (mut from, mut to) = (far, near);
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        });
    }
}

/// Runs preflight; returns its exit code and text.
fn preflight(story: &Story) -> (i32, String) {
    let output = story.run(&["preflight", "-i", &story.at()]);
    (output.status.code().unwrap_or(-1), text(&output))
}

/// The lines of one host.
fn of<'a>(shown: &'a str, host: &str) -> &'a str {
    let start = shown.find(&format!("{host}:\n")).unwrap_or_else(|| panic!("{host} is named: {shown}"));
    let rest = &shown[start + host.len() + 2..];
    let end = rest
        .lines()
        .scan(0, |at, l| {
            let here = *at;
            *at += l.len() + 1;
            Some((here, l))
        })
        .find(|(_, l)| !l.starts_with(' '))
        .map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

fn check(shown: &str, host: &str, code: &str, next: &str) {
    let lines = of(shown, host);
    assert!(lines.contains(&format!("[{code}]")), "{host} {code}: {shown}");
    assert!(lines.contains(next), "{host} says what to do next, {next}: {lines}");
}

#[test]
fn a_fresh_fleet_passes_and_nothing_is_changed() {
    let story = Story::new();
    story.up();
    let before = story.plan().1;
    let (code, shown) = preflight(&story);
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("5/5 hosts passed preflight"), "{shown}");
    let steps = |text: &str| text.lines().find(|l| l.contains(" steps")).map(str::to_owned);
    assert_eq!(steps(&before), steps(&story.plan().1));
}

#[test]
fn what_the_operating_system_lacks_is_said_with_what_to_do() {
    let story = Story::new();
    story.up();
    stand_in(
        &story,
        "w-1",
        "uname",
        "case $1 in -s*) echo Darwin w-1 24.0.0 arm64;; *) exec /opt/lab/tool uname \"$@\";; esac",
    );
    std::fs::remove_dir(story.file("h-1", "/run/systemd/system")).expect("removed");
    stand_in(&story, "b-1", "date", "case $* in +%s) echo 1000000000;; *) exec /usr/bin/date \"$@\";; esac");
    stand_in(
        &story,
        "t-1",
        "systemctl",
        "case $1 in is-active) for u in \"$@\"; do case $u in is-active) ;; k3s.service|docker.service|fapolicyd.service|ufw.service) echo active;; *) echo inactive;; esac; done; exit 3;; esac; exec /opt/lab/tool systemctl \"$@\"",
    );
    std::fs::create_dir_all(story.file("t-1", "/sys/fs/selinux")).expect("made");
    crate::kit::write(story.file("t-1", "/sys/fs/selinux/enforce"), "1");
    std::fs::create_dir_all(story.file("t-1", "/sys/module/apparmor/parameters")).expect("made");
    crate::kit::write(story.file("t-1", "/sys/module/apparmor/parameters/enabled"), "Y\n");
    stand_in(
        &story,
        "cp-1",
        "df",
        "echo Filesystem; for p in \"$@\"; do case $p in /*) echo \"/dev/x 1 1 1024 1% $p\";; esac; done",
    );
    let (code, shown) = preflight(&story);
    assert_eq!(code, 1, "{shown}");
    check(&shown, "w-1", "E-NOT-LINUX", "uname -s");
    check(&shown, "h-1", "E-NO-SYSTEMD", "ls -d /run/systemd/system");
    check(&shown, "b-1", "E-CLOCK", "date -u");
    check(&shown, "cp-1", "E-NO-SPACE", "df -h");
    check(&shown, "t-1", "E-FOREIGN-KUBERNETES", "systemctl status k3s.service");
    for (code, next) in [
        ("W-FOREIGN-RUNTIME", "systemctl status docker.service"),
        ("W-FAPOLICYD", "fapolicyd-cli"),
        ("W-FIREWALL", "errors.md"),
        ("W-SELINUX", "getenforce"),
        ("W-APPARMOR", "aa-status"),
    ] {
        check(&shown, "t-1", code, next);
    }
    assert!(shown.contains("0/5 hosts"), "{shown}");
}

#[test]
fn kernel_cgroup_and_mounts_are_judged_against_the_inventory() {
    let story = Story::new();
    story.up();
    stand_in(
        &story,
        "w-1",
        "uname",
        "case $1 in -snrm) echo Linux w-1 3.10.0-1160 x86_64;; *) exec /opt/lab/tool uname \"$@\";; esac",
    );
    std::fs::remove_file(story.file("h-1", "/sys/fs/cgroup/cgroup.controllers")).expect("removed");
    stand_in(
        &story,
        "b-1",
        "grep",
        "case $* in */proc/self/mounts*) echo '/proc/self/mounts:/dev/x / ext4 rw 0 0'; echo '/proc/self/mounts:/dev/y /var ext4 rw,noexec 0 0';; *) exec /usr/bin/grep \"$@\";; esac",
    );
    let (code, shown) = preflight(&story);
    assert_eq!(code, 1, "{shown}");
    check(&shown, "w-1", "E-KERNEL", "uname -r");
    check(&shown, "h-1", "E-CGROUP", "systemd.unified_cgroup_hierarchy=1");
    check(&shown, "b-1", "E-NOEXEC", "findmnt -T /var/lib/k0s");
    assert!(shown.contains("t-1: ok") || shown.contains("t-1:\n"), "{shown}");
    assert!(shown.contains("2/5 hosts"), "{shown}");
}

#[test]
fn hosts_that_are_one_machine_or_bear_anothers_name_do_not_go_on_and_the_rest_do() {
    let story = Story::new();
    story.up();
    std::fs::copy(story.file("h-1", "/etc/machine-id"), story.file("b-1", "/etc/machine-id"))
        .expect("copied");
    crate::kit::write(story.file("t-1", "/etc/hostname"), "w-1\n");
    let (code, shown) = preflight(&story);
    assert_eq!(code, 1, "{shown}");
    check(&shown, "h-1", "E-MACHINE-ID", "/proc/sys/kernel/random/uuid");
    check(&shown, "b-1", "E-MACHINE-ID", "same machine id as h-1");
    check(&shown, "t-1", "E-HOSTNAME", "hostnamectl");
    let applied = story.apply(&["--limit", "cp-1,w-1,t-1"]);
    let said = text(&applied);
    assert_eq!(applied.status.code(), Some(1), "{said}");
    assert!(said.contains("E-HOSTNAME"), "{said}");
    assert!(story.file("w-1", "/var/lib/k0s/kubelet.conf").exists(), "w-1 went on: {said}");
    assert!(!story.file("t-1", "/var/lib/k0s/kubelet.conf").exists(), "t-1 did not");
}

#[test]
fn a_host_that_cannot_be_reached_or_trusted_or_entered_stops_itself() {
    let story = Story::new();
    let up =
        story.run(&["lab", "up", &story.at(), "--fault", "h-1=unreachable", "--fault", "b-1=wrong-host-key"]);
    assert!(up.status.success(), "{}", text(&up));
    // Its key is not known any more.
    let known = story.lab().join("known_hosts");
    let lines = std::fs::read_to_string(&known).expect("readable");
    let site = std::fs::read_to_string(story.inventory.join("inventory.yaml")).expect("readable");
    let address = site.split("t-1: {address: ").nth(1).and_then(|r| r.split('}').next()).expect("an address");
    let kept: String = lines.lines().filter(|l| !l.contains(address)).map(|l| format!("{l}\n")).collect();
    assert_ne!(kept, lines, "it was there");
    std::fs::write(&known, kept).expect("written");
    // sudo wants a password that the inventory does not have.
    let settings = story.file("w-1", "/var/lib/lab/settings.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&settings).expect("there")).expect("JSON");
    // The sha256 of a password that nobody knows here.
    json["sudo_sha256"] = "0".repeat(64).into();
    std::fs::write(&settings, json.to_string()).expect("written");
    let (code, shown) = preflight(&story);
    assert_eq!(code, 1, "{shown}");
    check(&shown, "h-1", "E-SSH-UNREACHABLE", "next: ");
    check(&shown, "b-1", "E-SSH-HOSTKEY-CHANGED", "next: ");
    check(&shown, "t-1", "E-SSH-HOSTKEY-UNKNOWN", "provision trust");
    check(&shown, "w-1", "E-SUDO-PASSWORD", "sudo");
    assert!(shown.contains("1/5 hosts"), "{shown}");
    assert!(shown.contains("cp-1: ok") || shown.contains("cp-1:\n  warning"), "{shown}");
}

#[test]
fn a_login_that_is_refused_says_so() {
    let story = Story::new();
    story.up();
    let path = story.inventory.join("inventory.yaml");
    let site = std::fs::read_to_string(&path).expect("readable");
    let other = story.inventory.join("other");
    let key = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other)
        .status();
    if !key.is_ok_and(|s| s.success()) {
        // Without OpenSSH's tools the lab's own host key serves as a key that nobody accepts.
        std::fs::write(&other, "no key\n").expect("written");
    }
    std::fs::write(&path, site.replace("identities: [.lab/id_ed25519]", "identities: [other]"))
        .expect("written");
    // An inventory of the lab by its addresses uses the lab's key; `trust`ed hosts of any other would not.
    std::fs::write(
        &path,
        std::fs::read_to_string(&path).expect("readable").replace(".lab/known_hosts", "known"),
    )
    .expect("written");
    std::fs::copy(story.lab().join("known_hosts"), story.inventory.join("known")).expect("copied");
    std::fs::copy(story.lab().join("provision.lock"), story.inventory.join("provision.lock"))
        .expect("copied");
    listen_for_hosts(&story);
    let (code, shown) = preflight(&story);
    std::fs::write(&path, site).expect("written");
    assert_eq!(code, 1, "{shown}");
    check(&shown, "w-1", "E-SSH-AUTH", "next: ");
    assert!(shown.contains("0/5 hosts"), "{shown}");
}

#[test]
fn a_port_that_something_else_holds_and_one_that_nobody_answers_on_are_named_with_the_direction() {
    let story = Story::new();
    story.up();
    let site = std::fs::read_to_string(story.inventory.join("inventory.yaml")).expect("readable");
    let address =
        site.split("cp-1: {address: ").nth(1).and_then(|r| r.split('}').next()).expect("an address");
    // Hosts have a network of their own: only a program on one can hold its ports.
    crate::kit::write(
        story.file("cp-1", "/tmp/squatter"),
        format!(
            "use Socket; socket(S, 2, 1, 0); bind(S, sockaddr_in(2380, inet_aton('{address}'))) or die; listen(S, 9); sleep 600"
        ),
    );
    story.on(
        "cp-1",
        &format!("systemd-run perl /tmp/squatter && until bash -c '</dev/tcp/{address}/2380' 2>&1; do sleep 0.1; done"),
    );
    // A firewall that drops: the connection is never answered. A host that is busy answers the second time.
    stand_in(
        &story,
        "w-1",
        "bash",
        &format!(
            "case $* in *'{address} 8132'*) exec sleep 60;; *'{address} 6443'*) mkdir /tmp/tried && exec sleep 60;; esac\n\
             exec /usr/bin/bash \"$@\""
        ),
    );
    let (code, shown) = preflight(&story);
    assert_eq!(code, 1, "{shown}");
    check(&shown, "cp-1", "E-PORT-TAKEN", "ss -lntp 'sport = :2380'");
    check(
        &shown,
        "w-1",
        "E-PORT-BLOCKED",
        &format!("w-1 -> cp-1 ({address}:8132, konnectivity): no response within 9 s"),
    );
    check(&shown, "w-1", "E-PORT-BLOCKED", &format!("</dev/tcp/{address}/8132"));
    assert!(of(&shown, "w-1").matches("error[").count() == 1, "6443 is merely closed: {shown}");
}

#[test]
fn json_carries_the_same() {
    let story = Story::new();
    story.up();
    std::fs::remove_dir(story.file("h-1", "/run/systemd/system")).expect("removed");
    let output = story.run(&["preflight", "-i", &story.at(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["h-1"]["failures"][0]["code"], "E-NO-SYSTEMD");
    assert_eq!(json["cp-1"]["failures"], serde_json::json!([]));
}

/// Which k0s is there is asked of the host: a plan shows versions, and stops what Kubernetes could not do.
#[test]
fn a_change_of_k0s_shows_versions_and_a_skipped_minor_stops_the_host() {
    let story = Story::new();
    story.up();
    let output = story.apply(&["--limit", "cp-1"]);
    assert!(output.status.success(), "{}", text(&output));
    let plan_from = |version: &str| {
        let script = format!("K0S_LAB_VERSION={version} exec /opt/lab/tool k0s \"$@\"");
        stand_in(&story, "cp-1", "k0s", &script);
        let output = story.run(&["plan", "-i", &story.at(), "--limit", "cp-1"]);
        (output.status.code().unwrap_or(-1), text(&output))
    };
    let (code, plan) = plan_from("v1.34.10+k0s.0");
    assert_eq!(code, 2, "{plan}");
    let change =
        plan.lines().find(|l| l.contains("download /usr/local/bin/k0s")).unwrap_or_else(|| panic!("{plan}"));
    assert!(plan.contains("v1.34.10+k0s.0 -> v1.35.7+k0s.0"), "{plan}");
    assert!(!change.contains("sha256") && !plan.contains("W-K0S-DOWNGRADE"), "{plan}");
    let (code, plan) = plan_from("v1.33.1+k0s.0");
    assert_eq!(code, 1, "{plan}");
    assert!(plan.contains("[E-K0S-SKEW]: k0s v1.33.1+k0s.0 -> v1.35.7+k0s.0 skips a minor"), "{plan}");
    let (code, plan) = plan_from("v1.35.9+k0s.0");
    assert_eq!(code, 2, "{plan}");
    assert!(plan.contains("[W-K0S-DOWNGRADE]"), "{plan}");
    // The lab serves the versions that the catalog had when it came up: another one is never called in sync.
    let newer = "k0sLines:\n  - {minor: \"1.36\", containerd: 2, containerdVersion: 2.3.3, versions: [v1.36.99+k0s.0], source: a test}\n";
    std::fs::create_dir(story.inventory.join("catalog")).expect("made");
    std::fs::write(story.inventory.join("catalog/k0s.yaml"), newer).expect("written");
    let file = story.inventory.join("inventory.yaml");
    let text_before = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, text_before.replace("v1.35.7+k0s.0", "v1.36.99+k0s.0")).expect("written");
    let (code, plan) = plan_from("v1.35.7+k0s.0");
    assert_eq!(code, 1, "{plan}");
    assert!(plan.contains("E-LOCK-VERSION") && plan.contains("provision lab down"), "{plan}");
}

/// Its checks are asked before anything else is changed on a host, and before its node leaves service.
#[test]
fn what_k0s_refuses_is_known_before_anything_is_changed() {
    let story = Story::new();
    let file = story.inventory.join("inventory.yaml");
    let inventory = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, inventory.replace("v1.35.7+k0s.0", "v1.36.3+k0s.2")).expect("written");
    story.up();
    // The containerd of 1.36 does not take the form of this one.
    let theirs = "/etc/k0s/containerd.d/theirs.toml";
    story.on("w-1", &format!("sudo mkdir -p /etc/k0s/containerd.d; echo 'version = 2' | sudo tee {theirs}"));
    let output = story.apply(&["--limit", "cp-1,w-1"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("w-1 stopped: [E-K0S-SYSINFO]") && said.contains("expected 3, got 2"), "{said}");
    assert!(said.contains("k0s.next sysinfo"), "the hint is a command: {said}");
    assert!(!story.file("w-1", "/etc/chrony/sources.d/provision.sources").exists(), "{said}");
    assert!(!story.file("w-1", "/usr/local/bin/k0s").exists(), "{said}");
    assert_eq!(story.on("w-1", "hostname").trim(), "localhost", "not even its name: {said}");
    story.on("w-1", &format!("sudo rm {theirs}"));
    let output = story.apply(&["--limit", "cp-1,w-1"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!story.file("w-1", "/usr/local/bin/k0s.next").exists(), "it took its place");
    let output = story.run(&["plan", "-i", &story.at(), "--limit", "cp-1,w-1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}
