//! Kernel module: loaded now and at boot, with the version it must report; or blocked.

use super::super::digest::sha256;
use super::file::put;
use super::{Context, HostQuery, How, Kind, QueryResult, Sum, fields};
use crate::state::{Ensure, Fields, KernelModule, Observation, Seen};
use crate::template::quote;

impl KernelModule {
    /// Our own file: loads at boot, or blacklists.
    fn file(&self) -> (String, String) {
        match self.ensure {
            Ensure::Present => {
                (format!("/etc/modules-load.d/provision-{}.conf", self.name), format!("{}\n", self.name))
            }
            Ensure::Absent => (
                format!("/etc/modprobe.d/provision-no-{}.conf", self.name),
                format!("blacklist {0}\noptions {0} modeset=0\n", self.name),
            ),
        }
    }
}

impl KernelModule {
    /// Returns a loaded version as it compares: `2.29.*` is satisfied by any release of that line.
    fn shown(&self, loaded: &str) -> String {
        match self.version.as_deref().map(|wanted| (wanted, wanted.strip_suffix('*'))) {
            Some((wanted, Some(line))) if loaded.starts_with(line) => wanted.to_owned(),
            _ => loaded.to_owned(),
        }
    }
}

impl Kind for KernelModule {
    fn query(&self, _: &str, query: &mut HostQuery) {
        let (path, text) = self.file();
        query.modules.insert(self.name.clone());
        query.paths.insert(path.clone());
        query.sums.insert(path, Sum { sha256: sha256(text.as_bytes()), how: How::Shown });
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let Some((loaded, version)) = result.modules.get(&self.name) else {
            return Observation::Unknown("the list of modules is missing from the output".to_owned());
        };
        let at_boot = result.sums.get(&self.file().0) == Some(&true);
        if !loaded && !at_boot && self.ensure == Ensure::Present {
            return Observation::Absent;
        }
        let word = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let mut seen = Seen { fields: fields([("loaded", word(*loaded))]), ..Seen::default() };
        let file_field = if self.ensure == Ensure::Present { "at boot" } else { "blacklisted" };
        seen.fields.insert(file_field.to_owned(), word(at_boot));
        if self.version.is_some() {
            seen.fields.insert("version".to_owned(), self.shown(version));
        }
        Observation::Present(seen)
    }

    fn wanted(&self) -> Fields {
        match self.ensure {
            // Whether a module that must not be loaded still is, is the reboot's business.
            Ensure::Absent => fields([("blacklisted", "yes".to_owned())]),
            Ensure::Present => {
                let mut wanted = fields([("loaded", "yes".to_owned()), ("at boot", "yes".to_owned())]);
                if let Some(version) = &self.version {
                    wanted.insert("version".to_owned(), version.clone());
                }
                wanted
            }
        }
    }

    fn enact(&self, _: &Context) -> String {
        let (path, text) = self.file();
        let file = put(&path, text.as_bytes(), 0o644, "root:root");
        let name = quote(&self.name);
        match self.ensure {
            Ensure::Absent => file,
            Ensure::Present => {
                let gate = match &self.version {
                    None => String::new(),
                    Some(version) => {
                        let pattern = match version.strip_suffix('*') {
                            Some(line) => quote(line) + "*",
                            None => quote(version),
                        };
                        format!(
                            "v=; [ -r /sys/module/{name}/version ] && read -r v </sys/module/{name}/version\n\
                         case $v in {pattern});; *) echo \"module {name} is loaded as version ${{v:-unknown}}, {version} is wanted\" >&2; exit 1;; esac\n",
                            version = quote(version)
                        )
                    }
                };
                format!("{file}modprobe -- {name}\n{gate}")
            }
        }
    }

    fn remove(&self, _: &Context) -> Option<String> {
        // The module itself stays as it is: something may use it. Both files, as only the name is remembered of it.
        let other = match self.ensure {
            Ensure::Present => Ensure::Absent,
            Ensure::Absent => Ensure::Present,
        };
        let opposite = KernelModule { ensure: other, ..self.clone() };
        Some(format!("rm -f -- {} {}\n", quote(&self.file().0), quote(&opposite.file().0)))
    }
}
