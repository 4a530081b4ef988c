//! Files from this machine to many hosts that fetch nothing: each leaves it once, and hosts pass it on.

use crate::kit::{Kit, exists, write};
use provision::event::{Event, Events};
use provision::executor::Sudo;
use provision::fleet::{Distribution, Parcel, Peer, distribute};
use provision::run::Cancel;
use provision::state::HostName;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// Content that no compression makes smaller.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(size).collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A lab, and a file that all of its hosts want.
struct Rack {
    kit: Kit,
    names: Vec<String>,
    content: Vec<u8>,
}

impl Rack {
    async fn up(hosts: usize, size: usize) -> Self {
        let names: Vec<String> = (1..=hosts).map(|n| format!("h-{n:02}")).collect();
        let short: Vec<&str> = names.iter().map(String::as_str).collect();
        let kit = Kit::up(&short, |_| {}).await;
        Self { kit, names, content: noise(size) }
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn delivered(&self, host: &str) -> std::path::PathBuf {
        self.kit.file(host, &format!("/var/cache/provision/{}", sum(&self.content)))
    }

    /// Replaces a tool of a host.
    fn tool(&self, host: &str, name: &str, script: &str) {
        let path = self.kit.spec.host_dir(host).join("usr-local/bin").join(name);
        let _ = std::fs::remove_file(&path);
        write(&path, format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }

    async fn distribute(&self, events: &Events) -> Distribution {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&self.content).expect("written");
        let peer = |name: &String| {
            let at = self.kit.spec.hosts.iter().find(|h| h.name == *name).expect("the host");
            let host = Arc::new(self.kit.target_with(name, Vec::new(), Sudo::Required(None), events.clone()));
            let peer = Peer { host, address: at.address.to_string(), port: at.port, user: "ubuntu".into() };
            (HostName::new(name.as_str()), peer)
        };
        let peers: BTreeMap<HostName, Peer> = self.names.iter().map(peer).collect();
        let parcel = Parcel {
            title: "k0s-x86_64 v1".into(),
            sha256: sum(&self.content),
            size: self.size(),
            file: Arc::new(file),
            to: peers.keys().cloned().collect::<BTreeSet<_>>(),
        };
        let (_stop, cancel) = Cancel::new();
        distribute(peers, vec![parcel], "TEST1", events, cancel).await
    }

    /// Every host has the file, and nothing that let others in.
    fn is_delivered(&self) {
        for name in &self.names {
            let found = std::fs::read(self.delivered(name)).unwrap_or_default();
            assert!(found == self.content, "{name}: {} bytes", found.len());
            assert!(!exists(&self.delivered(name).with_extension("part")), "{name}");
            let keys = self.kit.read(name, "/root/.ssh/authorized_keys");
            assert!(!keys.contains("provision"), "{name}: {keys}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "64 logins at once: tests/run runs it by itself"]
async fn a_file_for_64_hosts_leaves_this_machine_once() {
    let rack = Rack::up(64, 4 << 20).await;
    let before: u64 = rack.kit.lab.counters().values().map(|c| c.received).sum();
    let done = rack.distribute(&Events::none()).await;
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    rack.is_delivered();
    assert_eq!((done.from_here, done.passed), (1, 63));
    assert_eq!((done.bytes, done.sent), (rack.size(), rack.size()));
    // As the hosts count it, with all programs: what came over connections from here.
    let received = rack.kit.lab.counters().values().map(|c| c.received).sum::<u64>() - before;
    let times = received as f64 / rack.size() as f64;
    println!("64 hosts, {} bytes: {received} left this machine, {times:.2}x", rack.size());
    assert!(times < 1.25, "{times:.2}x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_is_gone_on_with() {
    let rack = Rack::up(3, 1 << 20).await;
    let half = rack.content.len() / 2;
    for name in ["h-01", "h-02"] {
        write(rack.delivered(name).with_extension("part"), &rack.content[..half]);
    }
    // What is longer than the file, or begins in another way, is not the beginning of it.
    write(rack.delivered("h-03").with_extension("part"), vec![0; half]);
    let done = rack.distribute(&Events::none()).await;
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    rack.is_delivered();
    assert_eq!(done.sent, rack.size() - half as u64, "the first host got the other half");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_passes_on_is_compared_with_the_sum() {
    let rack = Rack::up(3, 256 << 10).await;
    // It gives something else, without end.
    rack.tool("h-01", "tail", "exec cat /dev/zero");
    let done = rack.distribute(&Events::none()).await;
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    rack.is_delivered();
    assert!(done.from_here > 1, "this machine had to help: {done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_hosts_cannot_pass_files_on_this_machine_delivers_to_each() {
    let rack = Rack::up(9, 64 << 10).await;
    for name in &rack.names {
        rack.tool(name, "ssh", "echo 'Permission denied (publickey).' >&2; exit 255");
    }
    let (events, mut seen) = Events::channel();
    let done = rack.distribute(&events).await;
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    rack.is_delivered();
    assert_eq!((done.passed, done.from_here), (0, 9));
    let warnings: Vec<String> = std::iter::from_fn(|| seen.try_recv().ok())
        .filter_map(|event| match event {
            Event::Warning { target: None, message } => Some(message),
            _ => None,
        })
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Permission denied"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_full_disk_fails_alone() {
    let rack = Rack::up(3, 64 << 10).await;
    rack.tool("h-02", "mkdir", "exit 1");
    let done = rack.distribute(&Events::none()).await;
    assert_eq!(done.failures.keys().map(ToString::to_string).collect::<Vec<_>>(), ["h-02"]);
    for name in ["h-01", "h-03"] {
        assert!(exists(&rack.delivered(name)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_host_stay_as_they_were() {
    let rack = Rack::up(2, 1 << 10).await;
    let own = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ eva@desk";
    for name in &rack.names {
        // Without a newline at its end.
        write(rack.kit.file(name, "/root/.ssh/authorized_keys"), own);
    }
    let done = rack.distribute(&Events::none()).await;
    assert!(done.failures.is_empty() && done.passed == 1, "{done:?}");
    rack.is_delivered();
    for name in &rack.names {
        assert_eq!(rack.kit.read(name, "/root/.ssh/authorized_keys").trim_end(), own, "{name}");
    }
}
