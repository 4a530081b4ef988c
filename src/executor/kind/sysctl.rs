//! Kernel setting: live through /proc/sys, at boot through a file of ours; never lowered where that was asked.

use super::file::{put, sha256};
use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Fields, Observation, Sysctl};
use crate::template::quote;

impl Sysctl {
    fn path(&self) -> String {
        format!("/etc/sysctl.d/90-provision-{}.conf", self.key)
    }

    fn text(&self) -> String {
        format!("{} = {}\n", self.key, self.value)
    }

    /// An admin's larger number is as good as ours.
    fn suffices(&self, live: &str) -> bool {
        self.raise_only
            && match (live.parse::<u64>(), self.value.parse::<u64>()) {
                (Ok(live), Ok(wanted)) => live > wanted,
                _ => false,
            }
    }
}

impl Kind for Sysctl {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.sysctls.insert(self.key.clone());
        ask.paths.insert(self.path());
        ask.sums.insert(self.path(), (sha256(self.text().as_bytes()), true));
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let Some(live) = answer.sysctls.get(&self.key) else {
            return present([("live", "(no such setting)".to_owned()), ("at boot", "no".to_owned())]);
        };
        if self.suffices(live) {
            // Ours would lower it at the next boot, so the file must not be there either.
            return present([("live", self.value.clone()), ("at boot", self.value.clone())]);
        }
        let at_boot = match answer.sums.get(&self.path()) {
            Some(true) => self.value.clone(),
            Some(false) => "another".to_owned(),
            None => "no".to_owned(),
        };
        present([("live", live.clone()), ("at boot", at_boot)])
    }

    fn wanted(&self) -> Fields {
        fields([("live", self.value.clone()), ("at boot", self.value.clone())])
    }

    fn enact(&self, _: &Context) -> String {
        let file = put(&self.path(), self.text().as_bytes(), 0o644, "root:root", "");
        let live = quote(&format!("/proc/sys/{}", self.key.replace('.', "/")));
        format!("{file}printf '%s\\n' {} >{live}\n", quote(&self.value))
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("rm -f -- {}\n", quote(&self.path())))
    }
}
