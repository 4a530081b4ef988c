//! Filesystem: made once, on a disk that carries nothing, or exactly what the inventory says may go.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Failure, FailureKind, Fields, Filesystem, Observation, Verb};
use crate::template::quote;

impl Filesystem {
    fn is_ours(&self, on: &super::Signature) -> bool {
        on.kind == self.kind && on.uuid == self.uuid
    }
}

impl Kind for Filesystem {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.disks.insert(self.device.clone());
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        match answer.disk(&self.device) {
            Err(why) => Observation::Unknown(why),
            Ok(on) if on.kind.is_empty() => Observation::Absent,
            Ok(on) => present([("type", on.kind.clone()), ("uuid", on.uuid.clone())]),
        }
    }

    fn wanted(&self) -> Fields {
        fields([("type", self.kind.clone()), ("uuid", self.uuid.clone())])
    }

    fn refusal(&self, answer: &Answer) -> Option<Failure> {
        let refuse = |message: String, hint: String| {
            Some(Failure::new(FailureKind::Preflight, "E-DISK", message).hint(hint))
        };
        let device = &self.device;
        match answer.disk(device) {
            Err(why) => refuse(why, format!("by hand: ls -l {device}; blkid -p {device}")),
            Ok(on) if on.kind.is_empty() || self.is_ours(on) || self.erase.as_ref() == Some(&on.kind) => None,
            Ok(on) => {
                let label =
                    if on.label.is_empty() { String::new() } else { format!(" labelled {}", on.label) };
                refuse(
                    format!("{device} carries {}{label}; it is not overwritten", on.kind),
                    format!(
                        "by hand: blkid -p {device}; in its `storage`, keep: true uses it as it is, erase: {} makes it anew",
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
        // Looked at once more, right before: between the plan and now somebody may have put something there.
        format!(
            "d={device}; [ -e \"$d\" ] || {{ echo \"$d is not there\" >&2; exit 1; }}\n\
             r=0; s=$(blkid -p -o export -- \"$d\") || r=$?\n\
             case $r in 0|2) ;; *) echo \"blkid cannot tell what $d carries (exit $r)\" >&2; exit 1;; esac\n\
             k=$(printf '%s\\n' \"$s\" | sed -n -e 's/^TYPE=//p' -e 's/^PTTYPE=//p' | head -n 1)\n\
             if [ -n \"$k\" ]; then [ \"$k\" = {erase} ] || {{ echo \"$d carries $k; it is not overwritten\" >&2; exit 1; }}; wipefs -a -q -- \"$d\"; fi\n\
             {make}\n\
             udevadm settle --timeout=10 2>/dev/null || true\n",
            device = quote(&self.device),
            erase = quote(self.erase.as_deref().unwrap_or("nothing that may go")),
        )
    }

    fn remove(&self, _: &Context) -> Option<String> {
        None // what is on a disk is never taken away
    }

    fn verb(&self, _: bool) -> Verb {
        Verb::Create
    }
}
