//! The commands of the k0s role that others know, and whether a host has joined, by the record that one leaves.

use super::paths::{CONTROLLER_UNIT, WORKER_UNIT};
use crate::state::{Facts, HostKind, ResourceId};

/// The command of the k0s role that writes its unit, before its first start.
pub const INSTALL: &str = "k0s-install";
/// The command of the k0s role that restarts k0s when what it was started with has changed.
pub const STARTED: &str = "k0s-started";
/// The command of the k0s role that waits until k0s is up; its record stays on the host.
pub const READY: &str = "k0s-ready";

/// The command of the k0s role that writes the token which a host joins with.
const TOKEN: &str = "k0s-token";

/// Returns whether the k0s that we installed on a host joined a cluster with a token, or made one itself; `None` if we have not
/// installed any.
pub fn joined_with_token(facts: &Facts) -> Option<bool> {
    is_ours(facts).then(|| facts.owns(&ResourceId::host(HostKind::Command, TOKEN)))
}

/// Returns whether k0s was seen up on a host in an earlier run.
pub fn has_joined(facts: &Facts) -> bool {
    facts.k0s_was_up && may_have_joined(facts)
}

/// Returns whether k0s was started on a host in an earlier run: the cluster may count it as a member, even if it was not seen
/// up.
pub fn may_have_joined(facts: &Facts) -> bool {
    facts.owns(&ResourceId::host(HostKind::Command, READY))
}

/// Returns whether the k0s on a host is one that we installed: its files are of this cluster, even if it was not seen up yet.
pub fn is_ours(facts: &Facts) -> bool {
    let units = [CONTROLLER_UNIT, WORKER_UNIT].map(|unit| ResourceId::host(HostKind::Unit, unit));
    let commands = [INSTALL, STARTED, READY].map(|name| ResourceId::host(HostKind::Command, name));
    units.iter().chain(&commands).any(|id| facts.owns(id))
}
