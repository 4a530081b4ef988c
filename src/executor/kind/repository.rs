//! Package repository: our own definition file, its key by sha256, and updated package lists.

use super::super::digest::sha256;
use super::download::fetch;
use super::file::put;
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

impl Kind for PackageRepository {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.paths.insert(self.path());
        query.sums.insert(self.path(), Sum { sha256: sha256(self.definition.as_bytes()), how: How::Shown });
        if let Some(key) = &self.key {
            query.paths.insert(key.path.clone());
            query.sums.insert(key.path.clone(), Sum { sha256: key.sha256.clone(), how: How::Stamped });
        }
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        match result.stat(&self.path()) {
            Ok(Some(_)) => {}
            Ok(None) => return Observation::Absent,
            Err(why) => return Observation::Unknown(why),
        }
        let state = |path: &str| if result.sums.get(path) == Some(&true) { "as wanted" } else { "differs" };
        let key = self.key.as_ref().map_or("none", |key| state(&key.path));
        present([("definition", state(&self.path()).to_owned()), ("key", key.to_owned())])
    }

    fn wanted(&self) -> Fields {
        let key = if self.key.is_some() { "as wanted" } else { "none" };
        fields([("definition", "as wanted".to_owned()), ("key", key.to_owned())])
    }

    fn enact(&self, _: &Context) -> String {
        let key = self.key.as_ref().map(fetch).unwrap_or_default();
        let file = put(&self.path(), self.definition.as_bytes(), 0o644, "root:root");
        let path = quote(&self.path());
        // A definition whose package lists cannot be fetched is removed, so that the next run tries again.
        let refresh = if self.is_apt() {
            // Only this list: another one that is broken is not our failure. apt exits 0 with an expired key or an
            // unreachable source and goes on with the old lists, so its words decide.
            format!(
                "{}; r=$u\n\
                 case $o in *EXPKEYSIG*|*NO_PUBKEY*|*'not signed'*|*'Failed to fetch'*|*'Some index files failed'*) r=100;; esac\n\
                 [ $r -eq 0 ] || {{ rm -f -- {path}; exit $r; }}\n",
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
        format!("{key}{file}{refresh}")
    }

    fn remove(&self, _: &Context) -> Option<String> {
        let key = self.key.as_ref().map(|k| quote(&k.path)).unwrap_or_default();
        Some(format!("rm -f -- {} {key}\n", quote(&self.path())))
    }
}
