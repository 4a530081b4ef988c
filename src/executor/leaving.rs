//! Hosts that leave the cluster: what of ours is taken away, and what stays.

use super::kind::DELIVERED;
use crate::k0s;
use crate::state::{Hazard, HostKind, Managed, Orphan, ResourceId};
use crate::template::quote;

/// What becomes of a host that leaves the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// All that we made on it is taken away, our own records last.
    Reset {
        /// File systems that we made are wiped too.
        wipe_data: bool,
    },
    /// It stays as it is, but for what is wanted of it.
    Kept,
}

/// Returns the removal of something of ours that nothing wants any more; `None` if it stays on a host that leaves.
pub(super) fn orphan(leaving: Option<Leaving>, managed: &Managed) -> Option<Orphan> {
    let mut orphan = Orphan::from(managed.clone());
    let Some(leaving) = leaving else { return Some(orphan) };
    let Leaving::Reset { wipe_data } = leaving else { return None };
    // The cluster has let go of the host by then, and nothing that is taken away needs a reboot.
    orphan.hazards.retain(|h| !matches!(h, Hazard::Reboot | Hazard::Drain));
    if let ResourceId::Host(HostKind::Filesystem, device) = &managed.id {
        if !wipe_data {
            return None;
        }
        orphan.hazards.push(Hazard::DataLoss(device.clone()));
    }
    Some(orphan)
}

/// Returns shell that removes our folder, `$S`, from a host on which nothing of ours is left: not while a batch runs, nor while
/// somebody else has the host.
pub(super) fn remove_records(owner: &str) -> String {
    format!(
        "u=; for b in \"$S\"/runs/*; do [ ! -d \"$b\" ] || [ -e \"$b/rc\" ] || u=yes; done\n\
         r=$(cat \"$S/lock\" 2>/dev/null); e=$(printf '%s' \"$r\" | sed -n 's/.*\"expires_s\":\\([0-9]*\\).*/\\1/p')\n\
         case $r in *'\"owner\":\"'{owner}'\"'*) e=0;; esac\n\
         if [ -z \"$u\" ] && [ \"${{e:-0}}\" -le \"$(date +%s)\" ]; then {empty}rm -rf -- {DELIVERED} \"$S\"; fi\n",
        owner = quote(owner),
        empty = k0s::remove_empty_folders(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Removes our folder with this lock record and batch, and returns whether it is gone.
    fn removed(lock: &str, ended: bool) -> bool {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("state");
        let batch = state.join("runs/AAAAA-1");
        std::fs::create_dir_all(&batch).expect("made");
        std::fs::write(state.join("lock"), lock).expect("written");
        if ended {
            std::fs::write(batch.join("rc"), "0").expect("written");
        }
        // Nothing of the machine that runs the test is looked at.
        let shell = remove_records("me@here").replace(&k0s::remove_empty_folders(), "");
        let shell = format!("S='{}'\n{shell}", state.display());
        assert!(Command::new("/bin/sh").args(["-e", "-c", &shell]).status().expect("a shell").success());
        !state.exists()
    }

    #[test]
    fn records_stay_while_a_batch_runs_or_somebody_else_has_the_host() {
        let record = |owner: &str, expires: i64| {
            format!("{{\"owner\":\"{owner}\",\"run\":\"BBBBB\",\"boot_id\":\"x\",\"expires_s\":{expires}}}\n")
        };
        assert!(removed("", true));
        assert!(!removed("", false), "it still runs");
        assert!(removed(&record("me@here", i64::MAX), true), "of an earlier run of ours");
        assert!(!removed(&record("eva@desk", 9_999_999_999), true));
        assert!(removed(&record("eva@desk", 1), true), "it has run out");
    }

    #[test]
    fn data_goes_only_if_that_was_asked_for_and_nothing_goes_from_a_host_that_is_kept() {
        let managed = |kind, hazards: &[Hazard]| Managed {
            id: ResourceId::host(kind, "/dev/x"),
            hash: String::new(),
            undo: None,
            adopted: false,
            hazards: hazards.to_vec(),
        };
        let filesystem = managed(HostKind::Filesystem, &[]);
        assert_eq!(orphan(Some(Leaving::Reset { wipe_data: false }), &filesystem), None);
        let wiped = orphan(Some(Leaving::Reset { wipe_data: true }), &filesystem).expect("wiped");
        assert_eq!(wiped.hazards, [Hazard::DataLoss("/dev/x".to_owned())]);
        let package = managed(HostKind::Package, &[Hazard::Reboot, Hazard::Drain]);
        assert_eq!(orphan(Some(Leaving::Kept), &package), None);
        let removed = orphan(Some(Leaving::Reset { wipe_data: false }), &package).expect("removed");
        assert_eq!(removed.hazards, []);
        assert_eq!(orphan(None, &package).expect("removed").hazards.len(), 2);
    }
}
