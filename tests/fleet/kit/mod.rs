//! Real Debian hosts for tests, and the client's side of them.
//!
//! A test asks for the hosts it wants, writes an inventory for them and runs the real binary:
//!
//! ```ignore
//! let hosts = fleet().boot([Setup::new("cp-1"), Setup::new("w-1").disk("600m")]);
//! let site = Site::new(&hosts);                     // an inventory of them, a lock file, known_hosts
//! let ran = site.run(&["apply", "--yes"]);          // `provision`, inside the fleet's network
//! assert_eq!(ran.code, Some(0), "{}", ran.text);
//! assert_eq!(hosts[1].sh("cat /etc/hostname"), "w-1");
//! ```
//!
//! - [`Fleet`] is one for all tests of the process: a mount and a network namespace, held by a process,
//!   for everything else; the tree all hosts share; a local mirror of packages and of k0s.
//! - [`Host`] is booted by systemd-nspawn with its own systemd, sshd, sudo, apt and address; it ends with its value.
//! - [`Link`](link::Link) cuts, slows and thins out a host's connection.
//! - [`Site`] is an inventory in its own folder.
//!
//! The machine's own network and files are never touched, and nothing remains when the test process ends in any
//! way: the namespaces go with their last process. Stand-ins on the hosts, each named here: `modprobe` and `rmmod` (there
//! is no kernel to load into), a few files of `/proc/sys` that containers may not write, the packages `chrony` and `dkms`,
//! image and headers of the running kernel, and `k0s` with the cluster behind it. Hosts with accelerators
//! ([`Setup::hgx_h100`], [`Setup::trainium2`]) also have a generated PCI tree, a `dmesg` that prints a file, and what the
//! packages of `vendors` bring: nvidia-smi, nvidia-ctk, neuron-ls, daemons that sleep (`standins/`).

#![allow(dead_code, unused_imports, reason = "a kit is for tests to come as well")]

mod accelerators;
mod boot;
mod fleet;
pub mod link;
mod packages;
mod site;
mod tree;
mod vendors;

pub use boot::{Host, Setup};
pub use fleet::{Fleet, HUB, fleet};
pub use packages::{K0S, K0S_NEXT, MIRROR};
pub use site::{Ran, Running, Site};
pub use tree::PASSWORD;

use std::process::Command;

/// Runs a program to its end and returns its output; panics with all it said if it fails.
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}\n{out}{err}", output.status);
    out
}

/// Asks again and again until something is there; panics with `what` if it does not come in time.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    /// Far more than anything here takes, even on a busy machine.
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(90);
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "{what} did not come in {} s", DEADLINE.as_secs());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
