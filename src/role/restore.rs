//! The step that restores a backup on the first controller: after its k0s is configured, before it is installed: a
//! host that reboots in between starts none.

use crate::k0s;
use crate::state::{Command, HostKind, Resource, ResourceId, Spec};
use crate::template::quote;

/// Unpacking an archive and writing a store of several GiB takes minutes.
const DEADLINE_S: u64 = 1800;

/// Puts the step into the resources of the first controller. `backup` is what plans call the backup.
pub fn restoring(resources: &mut Vec<Resource>, sha256: &str, backup: &str) {
    let command = Command {
        name: k0s::RESTORE.to_owned(),
        wanted: "restored".to_owned(),
        guard: format!(
            "{} || {{ echo {}; exit 1; }}",
            k0s::is_restored(sha256),
            quote(&format!("restores {backup}"))
        ),
        apply: k0s::restore(sha256),
        undo: None,
        when_changed: Vec::new(),
    };
    let mut resource = Resource::new("restore", Spec::Command(command));
    resource.deadline_s = DEADLINE_S;
    resource.once = true;
    let install = ResourceId::host(HostKind::Command, k0s::INSTALL);
    let at = resources.iter().position(|r| r.id == install).unwrap_or(resources.len());
    resources.insert(at, resource);
}
