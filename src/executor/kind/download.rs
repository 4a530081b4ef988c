//! Download: the host fetches a file itself, from the first source with the right content.

use super::{Context, HostQuery, How, Kind, QueryResult, Sum, fields, present};
use crate::k0s;
use crate::state::{Download, Facts, Fields, Observation, Resource, ResourceId, Spec};
use crate::template::quote;
use std::collections::{BTreeMap, BTreeSet};

/// The text for a file with different content.
const OTHER: &str = "different content";

/// The folder of a host for files that are delivered to it over SSH, by sha256. Not in ours, which is root's alone: other hosts
/// take them from here as the login.
pub(crate) const DELIVERED: &str = "/var/cache/provision";

/// A source that sends next to nothing for this long is given up, in seconds.
const STALLED_SECONDS: u32 = 60;

impl Kind for Download {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.paths.insert(self.path.clone());
        query.sums.insert(self.path.clone(), Sum { sha256: self.sha256.clone(), how: How::Stamped });
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let stat = match result.stat(&self.path) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Observation::Absent,
            Err(why) => return Observation::Unknown(why),
        };
        if !stat.is_file() {
            return present([(field(self), format!("({})", stat.file_type)), ("mode", stat.mode.clone())]);
        }
        let sum = match result.sums.get(&self.path) {
            Some(true) => content(self),
            Some(false) => OTHER.to_owned(),
            None => return Observation::Unknown(format!("{} could not be read", self.path)),
        };
        present([(field(self), sum), ("mode", stat.mode.clone())])
    }

    fn wanted(&self) -> Fields {
        fields([(field(self), content(self)), ("mode", format!("{:o}", self.mode))])
    }

    fn enact(&self, _: &Context) -> String {
        fetch(self)
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("rm -f -- {}\n", quote(&self.path)))
    }
}

/// Returns the name of the field for the content.
fn field(download: &Download) -> &'static str {
    if download.version.is_some() { "version" } else { "sha256" }
}

/// Returns what is shown of the content that is wanted.
fn content(download: &Download) -> String {
    download.version.clone().unwrap_or_else(|| short(&download.sha256))
}

/// Returns the sums of files that steps for these resources would fetch.
pub(crate) fn to_fetch(desired: &[Resource], seen: &BTreeMap<ResourceId, Observation>) -> BTreeSet<String> {
    let differs = |r: &&Resource| match seen.get(&r.id) {
        Some(observation @ Observation::Present(_)) => super::diff(r, observation).is_some(),
        _ => true,
    };
    let fetched = |r: &Resource| match &r.spec {
        Spec::Download(download) => Some(download.sha256.clone()),
        Spec::PackageRepository(repository) => repository.key.as_ref().map(|key| key.sha256.clone()),
        _ => None,
    };
    desired.iter().filter(differs).filter_map(fetched).collect()
}

/// Names the version of what is there instead, where the facts tell it.
pub(crate) fn name_versions(
    desired: &[Resource],
    facts: &Facts,
    seen: &mut BTreeMap<ResourceId, Observation>,
) {
    let Some(there) = &facts.k0s_version else { return };
    for resource in desired {
        let Spec::Download(Download { path, version: Some(wanted), .. }) = &resource.spec else { continue };
        if path == k0s::BINARY
            && let Some(Observation::Present(seen)) = seen.get_mut(&resource.id)
            && let Some(version) = seen.fields.get_mut("version").filter(|version| *version == OTHER)
        {
            // The same version with other bytes is still not what is locked.
            *version = if there == wanted { format!("{there} ({OTHER})") } else { there.clone() };
        }
    }
}

fn short(sum: &str) -> String {
    sum.get(..12).unwrap_or(sum).to_owned()
}

/// Returns shell that takes what was delivered, or fetches, then checks and renames; a wrong sum from one source is no reason not to try the next. A part
/// that a cut-off run left is gone on with; what does not fit in the end is fetched again from its start.
pub(super) fn fetch(download: &Download) -> String {
    let urls = download.urls.iter().map(|u| quote(u)).collect::<Vec<_>>().join(" ");
    format!(
        "p={path}; new=$p.provision-new; mkdir -p -- \"${{p%/*}}/\"; got=\n\
         get() {{ if command -v curl >/dev/null 2>&1; then curl -fsSL --connect-timeout 20 --speed-limit 1024 --speed-time {STALLED_SECONDS} --retry 3 -o \"$new\" \"$@\"\n\
         elif command -v wget >/dev/null 2>&1; then if [ \"$1\" = -C ]; then shift 2; set -- -c \"$1\"; fi; wget -q -T {STALLED_SECONDS} -t 3 -O \"$new\" \"$@\"\n\
         else echo 'neither curl nor wget is installed' >&2; rm -f -- \"$new\"; exit 1; fi; }}\n\
         fits() {{ s=$(sha256sum <\"$new\"); s=${{s%% *}}; [ \"$s\" = {sum} ]; }}\n\
         {from}\
         d={DELIVERED}/{sum}; if [ -z \"$got\" ] && [ -f \"$d\" ] && mv -fT -- \"$d\" \"$new\" && fits; then got=yes; fi\n\
         [ -n \"$got\" ] || [ -z \"$OFFLINE\" ] || {{ echo \"$p was not delivered to this host\" >&2; exit 1; }}\n\
         for u in {urls}; do [ -z \"$got\" ] || break\n\
         if [ -s \"$new\" ] && get -C - \"$u\" && fits; then got=yes; break; fi\n\
         rm -f -- \"$new\"; get \"$u\" || {{ echo \"$u could not be fetched\" >&2; continue; }}\n\
         if fits; then got=yes; break; fi\n\
         echo \"$u has sha256 $s, provision.lock says {sum}\" >&2; rm -f -- \"$new\"; done\n\
         if [ -z \"$got\" ]; then rm -f -- \"$new\"; echo \"no source gave $p\" >&2; exit 1; fi\n\
         chmod {mode:o} \"$new\"; sync \"$new\" 2>/dev/null || sync; mv -fT -- \"$new\" \"$p\"; stamp {sum} \"$p\"\n",
        from = download.from.as_deref().map_or_else(String::new, |from| format!(
            "if [ -f {0} ] && mv -fT -- {0} \"$new\" && fits; then got=yes; fi\n",
            quote(from)
        )),
        path = quote(&download.path),
        sum = download.sha256,
        mode = download.mode,
    )
}
