//! A site whose hosts can reach only their proxy: packages and k0s are downloaded through it, and k0s inherits it.

use crate::kit::{HUB, MIRROR, Setup, Site, fleet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The proxy's port.
const PORT: u16 = 3128;
/// What only the proxy can resolve.
const OUTSIDE: &str = "http://mirror.fleet.test:8000";

/// Answers one request by asking the mirror.
fn relay(mut client: TcpStream, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    let first = head.lines().next().unwrap_or_default().to_owned();
    seen.lock().expect("no panic").push(first.clone());
    let Some(path) = first.split(' ').nth(1).and_then(|url| url.strip_prefix(OUTSIDE)) else {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut mirror = TcpStream::connect(MIRROR.trim_start_matches("http://"))?;
    let asked = head.replacen(&format!("{OUTSIDE}{path}"), path, 1);
    mirror.write_all(asked.as_bytes())?;
    mirror.shutdown(Shutdown::Write)?;
    let mut answer = BufReader::new(mirror);
    let mut status = String::new();
    answer.read_line(&mut status)?;
    client.write_all(format!("{status}Connection: close\r\n").as_bytes())?;
    std::io::copy(&mut answer.by_ref(), &mut client).map(drop)
}

#[test]
fn packages_and_k0s_come_through_the_proxy_and_k0s_inherits_it() {
    let sources = format!("sed -i 's|{MIRROR}|{OUTSIDE}|' /etc/apt/sources.list");
    let hosts = fleet().boot([Setup::new("cp-1").prepare(&sources), Setup::new("w-1").prepare(&sources)]);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    fleet().inside(move || {
        let listener = TcpListener::bind((HUB, PORT)).expect("the proxy's port");
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let log = log.clone();
                // Who hangs up half-way needs no answer.
                std::thread::spawn(move || drop(relay(client, &log)));
            }
        });
    });
    let mut site = Site::new(&hosts);
    site.more = format!("network: {{proxy: \"http://{HUB}:{PORT}\", noProxy: [10.77.0.0/16]}}\n");
    site.write();
    let lock = site.path("provision.lock");
    let text = std::fs::read_to_string(&lock).expect("read");
    std::fs::write(&lock, text.replace(MIRROR, OUTSIDE)).expect("written");
    assert!(!hosts[1].try_sh("getent hosts mirror.fleet.test").status.success(), "only the proxy knows it");
    site.converge();
    let asked = seen.lock().expect("no panic").clone();
    let fetched =
        |what: &str| asked.iter().filter(|line| line.contains(OUTSIDE) && line.contains(what)).count();
    assert!(fetched("/k0s-") >= 2, "each host fetches k0s: {asked:?}");
    assert!(fetched("chrony_") >= 2, "each host installs packages: {asked:?}");
    for (host, unit) in [(&hosts[0], "k0scontroller"), (&hosts[1], "k0sworker")] {
        let environment = host.sh(&format!("systemctl show -p Environment {unit}"));
        assert!(environment.contains(&format!("HTTPS_PROXY=http://{HUB}:{PORT}")), "{environment}");
        assert!(
            environment.contains("10.240.0.0/16"),
            "the cluster's own networks go past it: {environment}"
        );
        host.sh("apt-get update -q");
    }
    // Taken out of the inventory, it is taken off the hosts.
    site.more.clear();
    site.write();
    std::fs::write(&lock, text.replace(MIRROR, OUTSIDE)).expect("written");
    let pending = site.pending();
    assert!(pending.iter().any(|r| r.contains("90-provision-proxy")), "{pending:?}");
    site.expect(0, &["apply", "--yes"]);
    hosts[1].sh("test ! -e /etc/apt/apt.conf.d/90-provision-proxy");
}
