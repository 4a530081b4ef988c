//! Pods with a network of their own, as a container runtime makes it, so that two replicas of a program that binds all addresses can
//! run at once; and what such pods need of a cluster: the address of the API, and names of headless Services.

use super::super::servers::Program;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// The Service `kubernetes`: one of the names in the API server's certificate.
pub const API: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The node's side of every pod's link.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 241, 0, 1);

static NEXT: AtomicU8 = AtomicU8::new(2);

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip runs");
    assert!(status.success(), "ip {words}: {status}");
}

/// The network of a pod. It stays when the pod's container ends, as the kubelet keeps it for the next one.
pub struct Sandbox {
    pub address: Ipv4Addr,
    /// The process that keeps the namespace, as a pause container does.
    pause: Program,
    dir: tempfile::TempDir,
}

impl Sandbox {
    /// Makes one with an address, a route to the node and a name server.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(10, 241, 0, number);
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("resolv.conf"), format!("nameserver {DNS}\n")).expect("written");
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let pause = Program::spawn(dir.path(), "pause", &mut command).expect("started");
        let this = Self { address, pause, dir };
        let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        let began = Instant::now();
        while std::fs::read_link(this.namespace()).is_ok_and(|namespace| namespace == own) {
            assert!(began.elapsed() < Duration::from_secs(10), "no network namespace was made");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = this.pause.pid();
        ip(&format!("link add pod{number} type veth peer name eth0 netns {pid}"));
        ip(&format!("address add {NODE}/32 dev pod{number}"));
        ip(&format!("link set pod{number} up"));
        ip(&format!("route add {address}/32 dev pod{number} src {NODE}"));
        for words in [
            "link set lo up".to_owned(),
            format!("address add {address}/32 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add {NODE}/32 dev eth0"),
            format!("route add default via {NODE}"),
        ] {
            let status = this.command("ip").args(words.split(' ')).status().expect("ip runs");
            assert!(status.success(), "ip {words} in a pod: {status}");
        }
        this
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.pause.pid())
    }

    /// Returns a command that runs a program in this network; its process is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace())).arg(program);
        command
    }

    /// Returns a command that runs a program which finds the cluster's name server in `/etc/resolv.conf`.
    pub fn command_with_names(&self, program: &Path) -> Command {
        let mut command = self.command("unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(self.dir.path().join("resolv.conf")).arg(program);
        command
    }
}

/// The addresses of headless Services, by name.
type Records = Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>;

/// The cluster's API and DNS at the addresses of their Services, until dropped.
pub struct Services {
    records: Records,
    _tasks: JoinSet<()>,
}

impl Services {
    /// Serves the API that listens on a port of loopback, and names.
    pub async fn start(api: u16) -> Self {
        for address in [API, DNS] {
            ip(&format!("address replace {address}/32 dev lo"));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("pods reach each other");
        let records = Records::default();
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind((API, 443)).await.expect("the address of the API");
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    let Ok(mut to) = TcpStream::connect(("127.0.0.1", api)).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        let socket = UdpSocket::bind((DNS, 53)).await.expect("the address of DNS");
        let known = records.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let reply = reply(&buffer[..length], &known.lock().expect("no panic"));
                if let Some(reply) = reply {
                    let _ = socket.send_to(&reply, from).await;
                }
            }
        });
        Self { records, _tasks: tasks }
    }

    /// Adds a pod to a Service's endpoints.
    pub fn add(&self, service: &str, pod: Ipv4Addr) {
        let mut records = self.records.lock().expect("no panic");
        records.entry(service.to_owned()).or_default().push(pod);
    }

    /// Removes a pod from a Service's endpoints.
    pub fn remove(&self, service: &str, pod: Ipv4Addr) {
        let mut records = self.records.lock().expect("no panic");
        records.entry(service.to_owned()).or_default().retain(|address| *address != pod);
    }
}

/// Returns the answer to a query of DNS: addresses of IPv4, nothing of other types, an error for an unknown name.
fn reply(query: &[u8], records: &BTreeMap<String, Vec<Ipv4Addr>>) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = query.get(12..at + 4)?;
    let is_address = question.get(question.len() - 4..question.len() - 2)? == [0, 1];
    let found = records.get(&labels.join("."));
    let addresses: &[Ipv4Addr] = found.filter(|_| is_address).map_or(&[], Vec::as_slice);
    let code = if found.is_some() { 0 } else { 3 };
    let count = u8::try_from(addresses.len()).ok()?;
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x85, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend(question);
    for address in addresses {
        // The name of the question, an address, of the internet, for 5 s.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
