//! Package: an exact version from apt or dnf, held if asked. The package manager waits for its locks by itself.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Ensure, Fields, Observation, Package, PackageManager};
use crate::template::quote;

/// How long apt waits for another apt, in seconds: unattended-upgrades takes minutes on first boot.
const LOCK_SECONDS: u32 = 600;

impl Package {
    /// Returns an installed version as it compares: `1.2-*` is satisfied by any revision of 1.2.
    fn shown(&self, installed: &str) -> String {
        match &self.version {
            None => "any".to_owned(),
            Some(wanted) => match wanted.strip_suffix('*') {
                Some(prefix) if installed.starts_with(prefix) => wanted.clone(),
                _ => installed.to_owned(),
            },
        }
    }

    fn apt(&self, word: &str) -> String {
        format!(
            "apt-get {word} -y -o DPkg::Lock::Timeout={LOCK_SECONDS} -o Dpkg::Options::=--force-confold \
             -o Dpkg::Options::=--force-confdef"
        )
    }
}

impl Kind for Package {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.packages.insert(self.name.clone());
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        if !answer.packages_known {
            return Observation::Unknown("the package database gave no answer".to_owned());
        }
        match (answer.packages.get(&self.name), self.ensure) {
            (None, Ensure::Present) => Observation::Absent,
            (None, Ensure::Absent) => present([("installed", "no".to_owned())]),
            (Some(_), Ensure::Absent) => present([("installed", "yes".to_owned())]),
            (Some(version), Ensure::Present) => present([
                ("version", self.shown(version)),
                (
                    "held",
                    if answer.holds.contains(&self.name) || !self.hold { self.hold } else { false }
                        .to_string(),
                ),
            ]),
        }
    }

    fn wanted(&self) -> Fields {
        match self.ensure {
            Ensure::Absent => fields([("installed", "no".to_owned())]),
            Ensure::Present => fields([
                ("version", self.version.clone().unwrap_or_else(|| "any".to_owned())),
                ("held", self.hold.to_string()),
            ]),
        }
    }

    fn enact(&self, context: &Context) -> String {
        let name = quote(&self.name);
        match (context.package_manager, self.ensure) {
            (Some(PackageManager::Dnf), Ensure::Present) => {
                let exact = match &self.version {
                    Some(version) => quote(&format!("{}-{version}", self.name)),
                    None => name.clone(),
                };
                let lock =
                    if self.hold { format!("dnf -q versionlock add {exact}\n") } else { String::new() };
                format!("dnf install -y {exact}\n{lock}")
            }
            (Some(PackageManager::Dnf), Ensure::Absent) => format!("dnf remove -y {name}\n"),
            (_, Ensure::Present) => {
                let exact = match &self.version {
                    Some(version) => quote(&format!("{}={version}", self.name)),
                    None => name.clone(),
                };
                let install = format!(
                    "{} --allow-downgrades --allow-change-held-packages {exact}",
                    self.apt("install")
                );
                let hold =
                    if self.hold { format!("apt-mark hold {name} >/dev/null\n") } else { String::new() };
                // A fresh image has no package lists; one look before giving up.
                format!(
                    "o=$({install} 2>&1) && r=0 || r=$?; printf '%s\\n' \"$o\"\n\
                     case $o in *'Unable to locate package'*|*'has no installation candidate'*|*\"was not found\"*) \
                     apt-get update -o DPkg::Lock::Timeout={LOCK_SECONDS}; {install};; *) [ $r -eq 0 ] || exit $r;; esac\n{hold}"
                )
            }
            (_, Ensure::Absent) => format!("{} {name}\n", self.apt("remove")),
        }
    }

    fn remove(&self, context: &Context) -> Option<String> {
        let gone = Package { ensure: Ensure::Absent, ..self.clone() };
        let unhold = match context.package_manager {
            Some(PackageManager::Dnf) => format!("dnf -q versionlock delete {} || true\n", quote(&self.name)),
            _ => format!("apt-mark unhold {} >/dev/null || true\n", quote(&self.name)),
        };
        Some(unhold + &gone.enact(context))
    }
}
