//! The simulated cluster behind the API: joins, nodes, pods, device plugins, engines, the router.
//!
//! [`Cluster`] is all that a lab host sees: `k0s` starts and stops things on it, and connections are dialled into it.

mod client;
#[allow(clippy::module_inception, reason = "the main type lives in the file of its name")]
mod cluster;
mod control_plane;
mod edge;
mod mirror;
mod ports;
mod programs;
mod router;
mod spec;
mod workloads;

pub use cluster::Cluster;
pub use control_plane::{ControlPlane, has_programs_of_pods, programs_in};
pub use programs::PodPrograms;
pub use spec::{ClusterSpec, ControllerStart, Files, Flags, HostSpec, K0sVersion, WorkerStart};
