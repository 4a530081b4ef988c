//! What the stand-in tools of a host ask of the lab.

use super::cluster::Cluster;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request of a stand-in tool.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(super) enum Request {
    /// `systemd-run`: starts a program that outlives its exec.
    Run {
        /// The command line.
        command: String,
    },
    /// A k0s unit starts.
    Start {
        /// The unit.
        unit: String,
    },
    /// A k0s unit stops.
    Stop,
    /// `k0s reset`.
    Reset,
    /// `k0s etcd member-list`.
    Members,
    /// `k0s etcd leave`.
    Leave {
        /// The member's peer address.
        address: String,
    },
    /// `k0s backup`: what the store holds, as one line of text.
    Snapshot,
    /// `k0s restore`: such a text.
    Restore {
        /// The text.
        snapshot: String,
    },
    /// `k0s kubeconfig create`.
    ClientCertificate {
        /// The user.
        user: String,
        /// Its group: k0s puts whatever `--groups` says into one.
        group: String,
        /// How long it is valid.
        seconds: u64,
    },
    /// A driver was loaded or unloaded: so many accelerators answer.
    Accelerators {
        /// How many.
        count: u32,
        /// Instances of split GPUs, by profile.
        #[serde(default)]
        mig: BTreeMap<String, u32>,
    },
    /// The machine reboots.
    Reboot,
}

impl Request {
    /// Does what concerns the cluster, and returns its answer; gives back what only the host itself can do.
    pub(super) fn carry_out(self, cluster: &Cluster, host: &str) -> Result<Result<String, String>, Self> {
        match self {
            Self::Stop => cluster.stop(host),
            Self::Reset => cluster.reset(host),
            Self::Members => {
                let members = cluster.members(host).ok_or_else(|| "context deadline exceeded".to_owned());
                return Ok(members.map(|members| serde_json::json!({"members": members}).to_string()));
            }
            Self::Leave { address } => return Ok(cluster.leave(&address).map(|()| String::new())),
            Self::Snapshot => return Ok(cluster.snapshot(host)),
            Self::Restore { snapshot } => {
                return Ok(cluster.restore(host, &snapshot).map(|()| String::new()));
            }
            Self::ClientCertificate { user, group, seconds } => {
                return Ok(cluster.client_certificate(user, group, seconds));
            }
            Self::Accelerators { count, mig } => cluster.set_accelerators(host, count, mig),
            Self::Run { .. } | Self::Start { .. } | Self::Reboot => return Err(self),
        }
        Ok(Ok(String::new()))
    }
}
