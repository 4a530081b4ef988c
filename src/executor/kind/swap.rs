//! Swap: off now, and its fstab lines commented out.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Fields, Observation, Swap};

impl Kind for Swap {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.swap = true;
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let on: Vec<&str> = answer.swap.iter().filter_map(|l| l.strip_prefix("on ")).collect();
        let fstab = answer.swap.len() - on.len();
        present([
            ("in use", if on.is_empty() { "none".to_owned() } else { on.join(" ") }),
            ("fstab", if fstab == 0 { "none".to_owned() } else { format!("{fstab} lines") }),
        ])
    }

    fn wanted(&self) -> Fields {
        fields([("in use", "none".to_owned()), ("fstab", "none".to_owned())])
    }

    fn enact(&self, _: &Context) -> String {
        "swapoff -a\n\
         if [ -e /etc/fstab ]; then sed -E 's/^([^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+swap[[:space:]])/# provision: swap off: \\1/' \
         /etc/fstab >/etc/fstab.provision-new; chmod --reference=/etc/fstab /etc/fstab.provision-new; sync /etc/fstab.provision-new 2>/dev/null || sync; mv -f /etc/fstab.provision-new /etc/fstab; fi\n"
            .to_owned()
    }

    fn remove(&self, _: &Context) -> Option<String> {
        None
    }
}
