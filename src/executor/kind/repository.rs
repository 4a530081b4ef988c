//! Package repository: our own definition file, its key by sha256, and updated package lists.

use super::super::digest::sha256;
use super::download::fetch;
use super::file::put;
use super::sources::{AptSource, turn_on};
use super::{Context, HostQuery, How, Kind, QueryResult, Sum, fields, present};
use crate::state::{Fields, Observation, PackageRepository};
use crate::template::quote;

impl PackageRepository {
    /// The package manager that a definition is for, by its format.
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

/// The guard that looks for other entries of a repository.
fn others(id: &str) -> String {
    format!("{id} in other lists")
}

impl Kind for PackageRepository {
    fn query(&self, id: &str, query: &mut HostQuery) {
        if let Some(source) = AptSource::of(&self.definition) {
            query.guards.insert(others(id), source.conflicting(&self.path()));
        }
        query.paths.insert(self.path());
        query.sums.insert(self.path(), Sum { sha256: sha256(self.definition.as_bytes()), how: How::Shown });
        if let Some(key) = &self.key {
            query.paths.insert(key.path.clone());
            query.sums.insert(key.path.clone(), Sum { sha256: key.sha256.clone(), how: How::Stamped });
        }
    }

    fn observe(&self, id: &str, result: &QueryResult) -> Observation {
        match result.stat(&self.path()) {
            Ok(Some(_)) => {}
            Ok(None) => return Observation::Absent,
            Err(why) => return Observation::Unknown(why),
        }
        let state = |path: &str| if result.sums.get(path) == Some(&true) { "as wanted" } else { "differs" };
        let key = self.key.as_ref().map_or("none", |key| state(&key.path));
        let mut definition = state(&self.path()).to_owned();
        if let Some(lists) = result.guard(&others(id)).ok().map(|guard| &guard.line).filter(|l| !l.is_empty())
        {
            definition += &format!(", with another key in {lists}");
        }
        present([("definition", definition), ("key", key.to_owned())])
    }

    fn wanted(&self) -> Fields {
        let key = if self.key.is_some() { "as wanted" } else { "none" };
        fields([("definition", "as wanted".to_owned()), ("key", key.to_owned())])
    }

    fn enact(&self, _: &Context) -> String {
        let key = self.key.as_ref().map(fetch).unwrap_or_default();
        let file = put(&self.path(), self.definition.as_bytes(), 0o644, "root:root");
        let path = quote(&self.path());
        // Ours must not make apt fail on the whole host: lists that it could read before are still to be read after.
        let (off, all) = match AptSource::of(&self.definition) {
            Some(source) => (
                format!(
                    "apt-get indextargets >/dev/null 2>&1 && readable=yes || readable=\n{}",
                    source.turn_off(&self.path())
                ),
                format!(
                    "[ -z \"$readable\" ] || a=$(apt-get indextargets 2>&1 >/dev/null) || {{ rm -f -- {path}; restore $off; \
                     echo \"E-APT-SOURCES: apt cannot read its lists with this repository, so the repository was removed again: $a\"; exit 1; }}\n"
                ),
            ),
            None => (String::new(), String::new()),
        };
        // A definition whose package lists cannot be fetched is removed, so that the next run tries again.
        let refresh = if self.is_apt() {
            // Only this list: another one that is broken is not our failure. apt exits 0 with an expired key or an
            // unreachable source and goes on with the old lists, so its words decide.
            format!(
                "{}; r=$u\n\
                 case $o in *EXPKEYSIG*|*NO_PUBKEY*|*'not signed'*|*'Failed to fetch'*|*'Some index files failed'*) r=100;; esac\n\
                 [ $r -eq 0 ] || {{ rm -f -- {path}; restore $off; exit $r; }}\n",
                super::package::update(&format!(
                    " -o Dir::Etc::sourcelist={path} -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"
                ))
            )
        } else {
            let only: String = self
                .definition
                .lines()
                .filter_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'))
                .map(|id| format!(" --repo={}", quote(id)))
                .collect();
            format!("dnf -q{only} makecache || {{ r=$?; rm -f -- {path}; exit $r; }}\n")
        };
        format!("{off}{key}{file}{all}{refresh}")
    }

    fn remove(&self, _: &Context) -> Option<String> {
        let key = self.key.as_ref().map(|k| quote(&k.path)).unwrap_or_default();
        let on = if self.is_apt() { turn_on() } else { String::new() };
        Some(format!("rm -f -- {} {key}\n{on}", quote(&self.path())))
    }
}
