//! The lab: a simulated fleet on this machine. Real SSH, real shell programs, a real file tree per host; hardware,
//! packages, systemd, k0s, the Kubernetes API, engines and router are stand-ins and say so. Imports no other module but
//! `event/`, so that it does not share their mistakes.

pub mod api;
mod artifacts;
mod authorized_keys;
mod beneath;
mod boot;
pub mod cluster;
mod control;
mod hardware_fault;
mod host;
mod isolate;
#[cfg(target_os = "linux")]
mod keeper;
mod limits;
mod machine;
mod net;
pub mod on_host;
mod pods;
mod program;
mod request;
#[cfg(target_os = "linux")]
mod sandbox;
mod session;
mod sockets;
mod spec;
mod start;
mod status;
#[cfg(target_os = "linux")]
mod syscalls;
mod tools;
mod tree;
mod walls;

pub use cluster::programs_in;
pub use control::{Control, STAY};
pub use hardware_fault::HardwareFault;
pub use sockets::{connect, sockets};
pub use spec::{Fault, FaultKind, Hardware, Host, Spec};
pub use start::{Artifact, Lab, LabError};
pub use status::{Counters, HostStatus, Status};
pub use tree::clear;
pub use walls::Wall;

use std::process::ExitCode;
use walls::TOOL;

/// Runs as a stand-in tool or sets up a sandbox, if that is what this process was started for. Called first in `main`.
pub fn entry() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    let name = std::path::Path::new(&name).file_name()?.to_string_lossy().into_owned();
    let rest: Vec<_> = arguments.collect();
    if let Some(code) = isolate::entry(&rest) {
        return Some(code);
    }
    if name == TOOL && rest.first().is_some_and(|a| a == boot::NAME) {
        return Some(boot::boot());
    }
    // The one of the next version is called so until it takes its place.
    if name.strip_suffix(".next").unwrap_or(&name) == "k0s" && on_host::is_here() {
        return tools::run("k0s", &rest);
    }
    if std::env::var_os("PROVISION_LAB").is_none()
        && !std::path::Path::new("/var/lib/lab/settings.json").exists()
    {
        return None;
    }
    tools::run(&name, &rest)
}
