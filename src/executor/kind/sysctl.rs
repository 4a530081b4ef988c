//! Sysctl setting: at runtime through /proc/sys, at boot through our own file; never lowered if so requested.

use super::super::digest::sha256;
use super::file::put;
use super::query::sysctl_path;
use super::{Context, HostQuery, How, Kind, QueryResult, Sum, fields, present};
use crate::state::{Fields, Observation, Sysctl};
use crate::template::quote;

impl Sysctl {
    fn path(&self) -> String {
        format!("/etc/sysctl.d/90-provision-{}.conf", self.key)
    }

    fn text(&self) -> String {
        format!("{} = {}\n", self.key, self.value)
    }

    /// The value as it compares: the kernel separates several numbers by tabs.
    fn value(&self) -> String {
        self.value.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A larger number set by an admin is accepted.
    fn suffices(&self, live: &str) -> bool {
        self.raise_only
            && match (live.parse::<u64>(), self.value.parse::<u64>()) {
                (Ok(live), Ok(wanted)) => live > wanted,
                _ => false,
            }
    }
}

impl Kind for Sysctl {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.sysctls.insert(self.key.clone());
        query.paths.insert(self.path());
        query.sums.insert(self.path(), Sum { sha256: sha256(self.text().as_bytes()), how: How::Shown });
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let live = match result.sysctl(&sysctl_path(&self.key)) {
            Ok(Some(live)) => live,
            Ok(None) => {
                return present([("live", "(no such setting)".to_owned()), ("at boot", "no".to_owned())]);
            }
            Err(why) => return Observation::Unknown(why),
        };
        let file = match result.stat(&self.path()) {
            Ok(file) => file.is_some(),
            Err(why) => return Observation::Unknown(why),
        };
        if self.suffices(live) {
            // Ours would lower it at the next boot, so the file must not be there.
            let at_boot = if file { format!("{} (lowers {live})", self.value()) } else { self.value() };
            return present([("live", self.value()), ("at boot", at_boot)]);
        }
        let at_boot = match result.sums.get(&self.path()) {
            Some(true) => self.value(),
            Some(false) => "another".to_owned(),
            None if file => {
                return Observation::Unknown(format!("{} could not be read", self.path()));
            }
            None => "no".to_owned(),
        };
        present([("live", live.to_owned()), ("at boot", at_boot)])
    }

    fn wanted(&self) -> Fields {
        fields([("live", self.value()), ("at boot", self.value())])
    }

    fn enact(&self, _: &Context) -> String {
        let file = put(&self.path(), self.text().as_bytes(), 0o644, "root:root");
        let live = quote(&sysctl_path(&self.key));
        let set = format!("{file}printf '%s\\n' {} >{live}\n", quote(&self.value));
        match self.value.parse::<u64>() {
            Ok(number) if self.raise_only => format!(
                "v=$(cat {live}); if [ \"$v\" -gt {number} ] 2>/dev/null; then rm -f -- {}; else\n{set}fi\n",
                quote(&self.path())
            ),
            _ => set,
        }
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("rm -f -- {}\n", quote(&self.path())))
    }
}
