//! The resources of a host that is to leave: nothing but the command that takes k0s off it. All else that we made is removed
//! as what no role wants any more.

use crate::k0s::{self, RESET, RESET_DEADLINE_S};
use crate::state::{Command, Facts, Resource, Spec, Unit};

/// The role by which plans show these.
const ROLE: &str = "reset";

/// Returns what is wanted of a host that is to be as before its first apply. A k0s that somebody else installed stays.
pub fn reset(facts: &Facts) -> Vec<Resource> {
    if !k0s::is_ours(facts) {
        return Vec::new();
    }
    let command = Command {
        name: RESET.to_owned(),
        wanted: "no k0s, and none of its data".to_owned(),
        guard: k0s::is_reset(),
        apply: k0s::reset(),
        undo: None,
        when_changed: Vec::new(),
    };
    let mut resource = Resource::new(ROLE, Spec::Command(command));
    resource.deadline_s = RESET_DEADLINE_S;
    resource.once = true;
    vec![resource]
}

/// Returns what is wanted of a host that the cluster forgets: its k0s stays, and does not run.
pub fn stopped(facts: &Facts) -> Vec<Resource> {
    if !k0s::is_ours(facts) {
        return Vec::new();
    }
    let unit =
        |name: &str| Unit { name: name.to_owned(), enabled: Some(false), active: Some(false), masked: false };
    let units = [k0s::WORKER_UNIT, k0s::CONTROLLER_UNIT].map(|name| Spec::Unit(unit(name)));
    units.into_iter().map(|unit| Resource::new("retired", unit)).collect()
}
