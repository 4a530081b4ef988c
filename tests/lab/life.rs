//! The life of a cluster: hosts added, reset and joined again, controllers replaced, all of it destroyed and made again.

use super::story::{Story, text};
use super::twin::site;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};

/// Files that a reset leaves changed: swap stays off, and the host keeps its name.
const STAYS: [&str; 2] = ["/etc/fstab", "/etc/hostname"];

impl Story {
    fn reset(&self, more: &[&str]) -> Output {
        let at = self.at();
        self.run(&[&["reset", "-i", &at], more].concat())
    }

    fn destroy(&self, more: &[&str]) -> Output {
        let at = self.at();
        self.run(&[&["destroy", "-i", &at], more].concat())
    }

    /// Returns the files of a host but those that a reset leaves changed.
    fn files(&self, host: &str) -> BTreeMap<PathBuf, String> {
        let mut tree = self.tree();
        let of = format!("/hosts/{host}/root/");
        tree.retain(|path, _| {
            let path = path.to_string_lossy();
            path.contains(&of) && !STAYS.iter().any(|stays| path.ends_with(stays))
        });
        tree
    }

    /// Runs a command with this typed on its terminal; what it printed is in the output.
    fn typed(&self, arguments: &[&str], line: &str) -> Output {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("text");
        let slave = std::fs::OpenOptions::new().read(true).write(true).open(name).expect("opened");
        let mut command = self.command(arguments);
        command.stdin(slave).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("the binary runs");
        let mut master = std::fs::File::from(master);
        master.write_all(format!("{line}\n").as_bytes()).expect("typed");
        child.wait_with_output().expect("it ends")
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn a_worker_is_reset_only_when_its_name_is_typed_and_joins_again_as_new() {
    let story = Story::of(&site(1));
    story.up();
    let fresh = story.files("w-1");
    story.applied();
    let applied = story.tree();

    let dry = story.reset(&["w-1", "--dry-run"]);
    assert_eq!(code(&dry), Some(2), "{}", text(&dry));
    let shown = text(&dry);
    for line in [
        "> command k0s-reset",
        "- package chrony",
        "- file /etc/security/limits.d",
        "- node w-1  drain, then delete",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let at = story.at();
    let unconfirmed = story.reset(&["w-1"]);
    assert_eq!(code(&unconfirmed), Some(1), "without a terminal: {}", text(&unconfirmed));
    assert!(text(&unconfirmed).contains("then add --yes"), "{}", text(&unconfirmed));
    let wrong = story.typed(&["reset", "-i", &at, "w-1"], "h-1");
    assert_eq!(code(&wrong), Some(2), "{}", text(&wrong));
    assert!(
        text(&wrong).contains("Type its name:") && text(&wrong).contains("nothing was changed"),
        "{}",
        text(&wrong)
    );
    assert_eq!(story.tree(), applied);
    assert!(story.node("w-1").is_some());
    for wrong in [&["nobody", "--yes"][..], &["w-1", "--lost", "h-1", "--yes"], &["--yes"]] {
        let refused = story.reset(wrong);
        assert_ne!(code(&refused), Some(0), "{wrong:?}: {}", text(&refused));
    }
    assert_eq!(story.tree(), applied);

    let done = story.typed(&["reset", "-i", &at, "w-1"], "w-1");
    assert_eq!(code(&done), Some(0), "{}", text(&done));
    assert!(text(&done).contains("A reboot of the hosts is recommended"), "{}", text(&done));
    assert_eq!(story.files("w-1"), fresh);
    for gone in ["/var/lib/provision", "/var/lib/k0s", "/var/lib/kubelet", "/etc/k0s", "/run/k0s"] {
        assert!(!story.file("w-1", gone).exists(), "{gone}");
    }
    assert!(story.node("w-1").is_none());
    let nothing = story.reset(&["w-1", "--yes", "--output", "json"]);
    assert_eq!(code(&nothing), Some(0), "{}", text(&nothing));

    // It is still in the inventory: the next apply has it join as any new host.
    let pending = story.pending();
    assert!(pending["w-1"].contains(&"command/k0s-token".to_owned()), "{pending:?}");
    assert!(!pending.contains_key("h-1") && !pending.contains_key("cp-1"), "{pending:?}");
    story.applied();
    assert!(story.node("w-1").is_some());
}

#[test]
fn what_was_there_before_stays() {
    let story = Story::of(&site(1));
    story.up();
    story.on("w-1", "sudo apt-get install -y chrony");
    story.on("w-1", "sudo mkdir -p /etc/k0s && echo mine | sudo tee /etc/k0s/mine >/dev/null");
    story.applied();
    story.on("w-1", "sudo mkdir -p /var/lib/kubelet/pods/x && echo volume | sudo tee /var/lib/kubelet/pods/x/y >/dev/null");
    let done = story.reset(&["w-1", "--yes"]);
    assert_eq!(code(&done), Some(0), "{}", text(&done));
    assert!(!text(&done).contains("package/chrony"), "{}", text(&done));
    assert!(story.on("w-1", "dpkg-query -W -f '${Package}' chrony").contains("chrony"));
    assert_eq!(std::fs::read_to_string(story.file("w-1", "/etc/k0s/mine")).expect("it stays"), "mine\n");
    assert!(!story.file("w-1", "/var/lib/kubelet").exists());
}

#[test]
fn controllers_are_replaced_the_first_one_too_and_quorum_is_kept() {
    let story = Story::of(&site(3));
    story.up();
    story.applied();
    let all = story.reset(&["control", "--yes"]);
    assert_eq!(code(&all), Some(3), "{}", text(&all));
    assert!(
        text(&all).contains("error[E-QUORUM]") && text(&all).contains("provision destroy"),
        "{}",
        text(&all)
    );
    story.on("cp-2", "sudo systemctl stop k0scontroller.service");
    let two = story.reset(&["cp-3", "--yes", "--output", "json"]);
    assert_eq!(code(&two), Some(3), "{}", text(&two));
    let last = String::from_utf8_lossy(&two.stdout).lines().last().map(str::to_owned).expect("an end");
    let json: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(json["refused"][0]["code"], "E-QUORUM");
    assert!(text(&two).contains("unhealthy etcd members: cp-2"), "{}", text(&two));
    assert_eq!(story.members().len(), 3, "nothing was done");
    story.on("cp-2", "sudo systemctl start k0scontroller.service");

    // The one that made the cluster joins it again, and makes no other.
    let done = story.reset(&["cp-1", "--yes"]);
    assert_eq!(code(&done), Some(0), "{}", text(&done));
    assert_eq!(story.members_on("cp-2"), ["cp-2", "cp-3"]);
    let pending = story.pending();
    assert!(pending["cp-1"].contains(&"command/k0s-token".to_owned()), "{pending:?}");
    assert!(!pending.contains_key("cp-2") && !pending.contains_key("w-1"), "{pending:?}");
    story.applied();
    assert_eq!(story.members_on("cp-2"), ["cp-1", "cp-2", "cp-3"]);
    // Two at once, as long as one stays.
    let done = story.reset(&["cp-[2-3]", "--yes"]);
    assert_eq!(code(&done), Some(0), "{}", text(&done));
    assert_eq!(story.members(), ["cp-1"]);
    let last = story.reset(&["cp-1", "--yes"]);
    assert_eq!(code(&last), Some(3), "{}", text(&last));
    assert!(
        text(&last).contains("no member would remain") || text(&last).contains("no controller would remain")
    );
    story.applied();
    assert_eq!(story.members(), ["cp-1", "cp-2", "cp-3"]);
}

#[test]
fn a_cluster_is_destroyed_and_made_again() {
    let story = Story::of(&site(1));
    story.up();
    let hosts = ["cp-1", "h-1", "w-1"];
    let fresh: Vec<_> = hosts.iter().map(|h| story.files(h)).collect();
    // Begun small, a host added, one reset and joined again.
    let first = story.apply(&["--limit", "cp-1,w-1"]);
    assert_eq!(code(&first), Some(0), "{}", text(&first));
    assert!(story.node("w-1").is_some() && story.node("h-1").is_none());
    story.applied();
    assert!(story.node("h-1").is_some());
    let gone = story.reset(&["h-1", "--yes"]);
    assert_eq!(code(&gone), Some(0), "{}", text(&gone));
    assert_eq!(story.files("h-1"), fresh[1]);
    story.applied();
    let at = story.at();
    let wrong = story.typed(&["destroy", "-i", &at], "yes");
    assert_eq!(code(&wrong), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("Type the inventory's name (runs):"), "{}", text(&wrong));
    assert!(story.node("w-1").is_some());
    let done = story.destroy(&["--yes", "--output", "json"]);
    assert_eq!(code(&done), Some(0), "{}", text(&done));
    let end = String::from_utf8_lossy(&done.stdout).lines().last().map(str::to_owned).expect("an end");
    let end: Value = serde_json::from_str(&end).expect("JSON");
    assert_eq!(end["exit"], 0);
    let left: Vec<_> = hosts.iter().map(|h| story.files(h)).collect();
    for ((host, left), fresh) in hosts.iter().zip(left).zip(fresh) {
        assert_eq!(left, fresh, "{host}");
    }
    story.applied();
    assert!(story.node("w-1").is_some());
}

#[test]
fn a_lost_host_is_no_obstacle() {
    let story = Story::of(&site(1));
    story.up();
    story.applied();
    story.control().inject("w-1=lost").expect("it answers").expect("injected");
    let refused = story.reset(&["w-1", "--yes"]);
    assert_eq!(code(&refused), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("add `--lost w-1`"), "{}", text(&refused));
    assert!(story.node("w-1").is_some());
    let done = story.reset(&["w-1", "--lost", "w-1", "--yes"]);
    assert_eq!(code(&done), Some(0), "{}", text(&done));
    assert!(story.node("w-1").is_none());
}

#[test]
fn a_reset_that_is_killed_anywhere_is_carried_on() {
    let story = Story::of(&site(1));
    story.up();
    let fresh = story.files("w-1");
    for transition in ["begun", "started", "done", "verified", "finished"] {
        story.applied();
        let killed = story.reset(&["w-1", "--yes", "--fault", &format!("kill@{transition}")]);
        assert_eq!(code(&killed), None, "killed at {transition}: {}", text(&killed));
        let rest = story.reset(&["w-1", "--yes"]);
        assert_eq!(code(&rest), Some(0), "after {transition}: {}", text(&rest));
        assert_eq!(story.files("w-1"), fresh, "after {transition}");
        assert!(!story.file("w-1", "/var/lib/provision").exists(), "after {transition}");
        assert!(story.node("w-1").is_none(), "after {transition}");
    }
}

/// The commands of the how-to, word for word.
#[test]
fn the_how_to_does_what_it_says() {
    let story = Story::new();
    story.up();
    assert_eq!(code(&story.apply(&[])), Some(0));
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/reset.md");
    let page = std::fs::read_to_string(page).expect("read");
    let commands =
        page.lines().filter_map(|l| l.strip_prefix("$ provision ")).filter(|c| c.contains("inventories/lab"));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 5);
    for command in commands {
        let own = command.replace("inventories/lab", &story.at());
        let output = story.run(&own.split_whitespace().collect::<Vec<_>>());
        let expected = if own.contains("--dry-run") { 2 } else { 0 };
        assert_eq!(code(&output), Some(expected), "provision {own}\n{}", text(&output));
    }
}

/// k0s renews certificates only when it starts: a controller whose certificates are in the last quarter of their life is restarted
/// by the plan, one after the other.
#[test]
fn certificates_that_are_due_are_renewed_one_controller_at_a_time() {
    let story = Story::of(&site(3));
    story.up();
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::now();
    let made = |issuer: &str, ends: std::time::SystemTime| {
        let named = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params
        };
        let issuer = rcgen::Issuer::new(named(issuer), rcgen::KeyPair::generate().expect("a key"));
        let mut params = named("kubernetes-admin");
        (params.not_before, params.not_after) = ((ends - day * 365).into(), ends.into());
        params.signed_by(&rcgen::KeyPair::generate().expect("a key"), &issuer).expect("signed").pem()
    };
    let install = |host: &str, name: &str, pem: &str| {
        let path = format!("/var/lib/k0s/pki/{name}");
        story.on(
            host,
            &format!(
                "echo '{pem}' | sudo tee {path} >/dev/null; sudo touch -d '1 hour ago' /var/lib/k0s/pki/*.crt"
            ),
        );
    };
    // Half of its life is left; and what k0s does not sign, it does not renew.
    install("cp-1", "admin.crt", &made("kubernetes-ca", now + day * 180));
    install("cp-1", "theirs.crt", &made("acme", now + day));
    let (code, plan) = story.plan();
    assert_eq!(code, 0, "{plan}");
    for host in ["cp-1", "cp-2"] {
        install(host, "admin.crt", &made("kubernetes-ca", now + day * 60));
    }
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    assert!(
        plan.contains("command k0s-certificates")
            && plan.contains("certificate kubernetes-admin expires on 20"),
        "{plan}"
    );
    assert!(plan.contains("restart k0scontroller 2 · one at a time, gated on etcd"), "{plan}");
    let output = story.apply(&[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("no `{what}` in {said}"));
    let (first, second) = (at("cp-1 command/k0s-certificates"), at("cp-2 command/k0s-certificates"));
    let ready = |host: &str| at(&format!("{host} command/k0s-ready"));
    assert!(ready("cp-1") < second || ready("cp-2") < first, "one waits for the other: {said}");
    assert!(!said.contains("cp-3 command"), "{said}");
    let (code, plan) = story.plan();
    assert_eq!(code, 0, "{plan}");
}
