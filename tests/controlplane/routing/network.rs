//! A network of its own for the routing cases: the router and Envoy bind all addresses, and pods need addresses. This program
//! runs itself again in new namespaces of network, processes and mounts; when it ends there, the kernel ends what it started.

use super::super::assets::Missing;
use std::process::{Command, ExitStatus, Stdio};

/// Set inside.
const INSIDE: &str = "PROVISION_TEST_NETWORK";
/// Addresses that are all this machine's: those of pods, and of clients elsewhere.
const ADDRESSES: [&str; 2] = ["10.240.0.0/16", "192.0.2.0/24"];

/// Whether this process is in the network of the routing cases.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Returns an error if namespaces cannot be made here.
pub fn check() -> Result<(), Missing> {
    let tried = unshare().args(["ip", "link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Missing(format!(
            "a network namespace (unshare of util-linux, ip of iproute2): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(e) => Err(Missing(format!("unshare, of util-linux: {e}"))),
    }
}

/// Runs this program in a network of its own with the same arguments.
pub fn run_inside() -> std::io::Result<ExitStatus> {
    unshare()
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
}

/// Brings loopback up, with the addresses.
pub fn bring_up() {
    let routes = ADDRESSES.map(|addresses| format!("route add local {addresses} dev lo"));
    for words in std::iter::once("link set lo up").chain(routes.iter().map(String::as_str)) {
        let status = Command::new("ip").args(words.split(' ')).status().expect("ip runs");
        assert!(status.success(), "ip {words}: {status}");
    }
}
