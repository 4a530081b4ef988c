//! The lab: a twin of the fleet on this machine. Real SSH, real shell programs, a real file tree per host; hardware,
//! packages, systemd, k0s, the Kubernetes API, engines and router are stand-ins and say so. Shares no room with the rest
//! but `event/`, so that it does not share their mistakes.

pub mod api;
mod artifacts;
pub mod cluster;
mod hardware_fault;
mod host;
mod isolate;
mod net;
pub mod on_host;
mod session;
mod spec;
mod start;
mod tools;
mod tree;
#[cfg(target_os = "linux")]
mod walls;

pub use hardware_fault::HardwareFault;
pub use host::Counters;
pub use spec::{Fault, FaultKind, Hardware, Host, Spec};
pub use start::{Artifact, Lab, LabError};

use std::process::ExitCode;

/// Runs as a stand-in tool or as the builder of walls, if that is what this process was started for. Called first thing
/// in `main`.
pub fn entry() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    let name = std::path::Path::new(&name).file_name()?.to_string_lossy().into_owned();
    let rest: Vec<_> = arguments.collect();
    if rest.first().is_some_and(|a| a == isolate::INIT) {
        return Some(isolate::init(&rest[1..]));
    }
    if name == "k0s" && on_host::is_here() {
        return tools::run(&name, &rest);
    }
    if std::env::var_os("PROVISION_LAB").is_none()
        && !std::path::Path::new("/var/lib/lab/settings.json").exists()
    {
        return None;
    }
    tools::run(&name, &rest)
}
