//! Swap: off now, and its fstab lines commented out.

use super::query::SWAP_LINE;
use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Fields, Observation, Swap};

impl Kind for Swap {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.swap = true;
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let on: Vec<&str> = result.swap.iter().filter_map(|l| l.strip_prefix("on ")).collect();
        let fstab = result.swap.len() - on.len();
        present([
            ("in use", if on.is_empty() { "none".to_owned() } else { on.join(" ") }),
            ("fstab", if fstab == 0 { "none".to_owned() } else { format!("{fstab} lines") }),
        ])
    }

    fn wanted(&self) -> Fields {
        fields([("in use", "none".to_owned()), ("fstab", "none".to_owned())])
    }

    fn enact(&self, _: &Context) -> String {
        format!(
            "swapoff -a\n\
         if [ -e /etc/fstab ]; then sed -E 's/^({SWAP_LINE}([[:space:]]|$))/# provision: swap off: \\1/' \
         /etc/fstab >/etc/fstab.provision-new; chmod --reference=/etc/fstab /etc/fstab.provision-new; sync /etc/fstab.provision-new 2>/dev/null || sync; mv -f /etc/fstab.provision-new /etc/fstab; fi\n"
        )
    }

    fn remove(&self, _: &Context) -> Option<String> {
        None
    }
}
