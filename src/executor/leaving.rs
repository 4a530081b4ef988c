//! Hosts that leave the cluster: what of ours is taken away, and what stays.

use crate::state::{Hazard, HostKind, Managed, Orphan, ResourceId};

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

#[cfg(test)]
mod tests {
    use super::*;

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
