//! What changing or removing a resource may disturb.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an operator must know before allowing a step.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Hazard {
    /// The host reboots.
    Reboot,
    /// The node is drained first.
    Drain,
    /// A unit restarts.
    Restart(String),
    /// Data goes.
    DataLoss(String),
    /// Endangers the etcd quorum.
    Quorum,
    /// Pods of a lost node are deleted without anything that could end them: only a machine that is off runs none of them.
    ForceDelete(String),
}

/// What is said before the pod that is lost.
const POD: &str = "pod ";

impl Hazard {
    /// Returns the hazard of evicting a pod, `namespace/name`, that no controller makes again.
    pub fn lost_pod(pod: &str) -> Self {
        Self::DataLoss(format!("{POD}{pod}"))
    }

    /// Returns the pod that is lost, if it is one.
    pub fn pod(&self) -> Option<&str> {
        match self {
            Self::DataLoss(what) => what.strip_prefix(POD),
            _ => None,
        }
    }
}

impl std::fmt::Display for Hazard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hazard::Reboot => f.write_str("reboot"),
            Hazard::Drain => f.write_str("drain"),
            Hazard::Restart(unit) => write!(f, "restart:{unit}"),
            Hazard::DataLoss(what) => write!(f, "data-loss:{what}"),
            Hazard::Quorum => f.write_str("quorum"),
            Hazard::ForceDelete(node) => write!(f, "force-delete:{node}"),
        }
    }
}
