//! A control plane that is backed up, lost, and begun again: SSH, sudo, shells and systemd are real, k0s is a stand-in.

use crate::kit::{Setup, Site, fleet};
use std::path::PathBuf;

/// A k0s whose backups are as large as those of clusters with images for air-gapped hosts, and do not pack.
const LARGE: &str = r#"#!/bin/sh
case $1 in backup) ;; *) exec /usr/local/real/k0s "$@";; esac
d=$(mktemp -d)
/usr/local/real/k0s "$@" | tar -xzC "$d"
head -c 60000000 /dev/urandom >"$d/images.tar"
tar -czC "$d" $(ls "$d")
rm -rf "$d"
"#;

#[test]
fn a_cluster_begins_again_on_real_hosts_with_a_large_backup() {
    let hosts = fleet().boot([Setup::new("cp-1"), Setup::new("w-1")]);
    let mut site = Site::new(&hosts);
    // sudo asks for a password: programs come through another pipe then.
    site.ssh = site.ssh.replacen("user: ops", "user: ada, sudoPassword: {secret: sudo}", 1);
    site.more += "secrets: {sudo: {env: SUDO}}\n";
    site.env.push(("SUDO".to_owned(), crate::kit::PASSWORD.to_owned()));
    site.write();
    site.converge();
    let before = site.expect(0, &["status"]);
    assert!(before.contains("1/1"), "{before}");

    hosts[0].sh(&format!(
        "mkdir /usr/local/real; mv /usr/local/bin/k0s /usr/local/real/k0s; cat >/usr/local/bin/k0s <<'END'\n{LARGE}END\nchmod 755 /usr/local/bin/k0s"
    ));
    let said = site.expect(0, &["backup", "--output", "json"]);
    let made: serde_json::Value = serde_json::from_str(said.lines().next().expect("a line")).expect("JSON");
    let file = PathBuf::from(made["backup"]["file"].as_str().expect("a file"));
    assert!(made["backup"]["bytes"].as_u64().is_some_and(|bytes| bytes > 60_000_000), "{made}");
    let file = file.to_str().expect("text");
    let left = hosts[0].sh("ls -A /var/lib/provision | grep -c backup || true");
    assert_eq!(left.trim(), "0", "nothing stays on the host");

    let refused = site.expect(3, &["restore", file, "--yes"]);
    assert!(refused.contains("cp-1 has a control plane"), "{refused}");
    site.expect(0, &["destroy", "--yes"]);
    hosts[0].sh("rm -r /usr/local/real; [ ! -e /usr/local/bin/k0s ] && [ ! -e /var/lib/provision ]");
    let restored = site.expect(0, &["restore", file, "--yes"]);
    let uid = made["backup"]["cluster"].as_str().expect("a uid");
    assert!(restored.contains(&format!("matches the backup (uid {uid})")), "{restored}");
    let shown = site.expect(0, &["plan"]);
    assert!(shown.contains("in sync"), "{shown}");
    let left = hosts[0].sh("ls -A /var/lib/provision | grep -cE 'restor|backup' || true");
    assert_eq!(left.trim(), "0");
}
