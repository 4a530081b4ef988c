//! Package repository: our own definition file, its key by sha256, and the lists brought up to date.

use super::download::fetch;
use super::file::{put, sha256};
use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Fields, Observation, PackageRepository};
use crate::template::quote;

impl PackageRepository {
    /// The definition says by its form which package manager it is for.
    fn is_apt(&self) -> bool {
        self.definition.contains("URIs:")
    }

    fn path(&self) -> String {
        if self.is_apt() {
            format!("/etc/apt/sources.list.d/{}.sources", self.name)
        } else {
            format!("/etc/yum.repos.d/{}.repo", self.name)
        }
    }
}

impl Kind for PackageRepository {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.paths.insert(self.path());
        ask.sums.insert(self.path(), (sha256(self.definition.as_bytes()), true));
        if let Some(key) = &self.key {
            ask.paths.insert(key.path.clone());
            ask.sums.insert(key.path.clone(), (key.sha256.clone(), false));
        }
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        if !answer.stat.contains_key(&self.path()) {
            return Observation::Absent;
        }
        let state = |path: &str| if answer.sums.get(path) == Some(&true) { "as wanted" } else { "differs" };
        let key = self.key.as_ref().map_or("none", |key| state(&key.path));
        present([("definition", state(&self.path()).to_owned()), ("key", key.to_owned())])
    }

    fn wanted(&self) -> Fields {
        let key = if self.key.is_some() { "as wanted" } else { "none" };
        fields([("definition", "as wanted".to_owned()), ("key", key.to_owned())])
    }

    fn enact(&self, _: &Context) -> String {
        let key = self.key.as_ref().map(fetch).unwrap_or_default();
        let file = put(&self.path(), self.definition.as_bytes(), 0o644, "root:root", "");
        let refresh = if self.is_apt() {
            // apt exits 0 with an expired key and goes on with the old lists, so its words decide.
            "o=$(apt-get update -o DPkg::Lock::Timeout=600 2>&1) || { printf '%s\\n' \"$o\"; exit 100; }; printf '%s\\n' \"$o\"\n\
             case $o in *EXPKEYSIG*|*NO_PUBKEY*|*'not signed'*) exit 100;; esac\n"
        } else {
            "dnf -q makecache\n"
        };
        format!("{key}{file}{refresh}")
    }

    fn remove(&self, _: &Context) -> Option<String> {
        let key = self.key.as_ref().map(|k| quote(&k.path)).unwrap_or_default();
        Some(format!("rm -f -- {} {key}\n", quote(&self.path())))
    }
}
