//! Filesystem: created once, on an empty disk or on one with exactly the content that the inventory allows to wipe.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Failure, FailureKind, Fields, Filesystem, Observation, Verb};
use crate::template::quote;

impl Filesystem {
    fn is_ours(&self, on: &super::Signature) -> bool {
        on.kind == self.kind && on.uuid == self.uuid
    }
}

impl Kind for Filesystem {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.disks.insert(self.device.clone());
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        match result.disk(&self.device) {
            Err(why) => Observation::Unknown(why),
            Ok(on) if on.kind.is_empty() => Observation::Absent,
            Ok(on) => present([("type", on.kind.clone()), ("uuid", on.uuid.clone())]),
        }
    }

    fn wanted(&self) -> Fields {
        fields([("type", self.kind.clone()), ("uuid", self.uuid.clone())])
    }

    fn refusal(&self, result: &QueryResult) -> Option<Failure> {
        let refuse = |message: String, hint: String| {
            Some(Failure::new(FailureKind::Preflight, "E-DISK", message).hint(hint))
        };
        let device = &self.device;
        match result.disk(device) {
            Err(why) => refuse(why, format!("Check with: ls -l {device}; blkid -p {device}")),
            Ok(on) if on.kind.is_empty() || self.is_ours(on) || self.erase.as_ref() == Some(&on.kind) => None,
            Ok(on) => {
                let label =
                    if on.label.is_empty() { String::new() } else { format!(" labelled {}", on.label) };
                refuse(
                    format!("{device} contains {}{label}; it is not overwritten", on.kind),
                    format!(
                        "In `storage`, set keep: true to use it as it is, or erase: {} to wipe it (check with: blkid -p {device})",
                        on.kind
                    ),
                )
            }
        }
    }

    fn enact(&self, _: &Context) -> String {
        let make = match self.kind.as_str() {
            "xfs" => format!("mkfs.xfs -q -f -m uuid={} -- \"$d\"", quote(&self.uuid)),
            _ => format!("mkfs.ext4 -q -F -U {} -- \"$d\"", quote(&self.uuid)),
        };
        // Checked again right before: the disk may have been used since the plan.
        format!(
            "d={device}; [ -e \"$d\" ] || {{ echo \"$d does not exist\" >&2; exit 1; }}\n\
             r=0; s=$(blkid -p -o export -- \"$d\") || r=$?\n\
             case $r in 0|2) ;; *) echo \"blkid cannot identify the content of $d (exit $r)\" >&2; exit 1;; esac\n\
             k=$(printf '%s\\n' \"$s\" | sed -n -e 's/^TYPE=//p' -e 's/^PTTYPE=//p' | head -n 1)\n\
             if [ -n \"$k\" ]; then [ \"$k\" = {erase} ] || {{ echo \"$d contains $k; it is not overwritten\" >&2; exit 1; }}; wipefs -a -q -- \"$d\"; fi\n\
             {make}\n\
             udevadm settle --timeout=10 2>/dev/null || true\n",
            device = quote(&self.device),
            erase = quote(self.erase.as_deref().unwrap_or("nothing that may be wiped")),
        )
    }

    fn remove(&self, _: &Context) -> Option<String> {
        None // what is on a disk is never taken away
    }

    fn verb(&self, _: bool) -> Verb {
        Verb::Create
    }
}
