//! Resource kinds: for each the query, how its result is read, what differs, and the shell that changes
//! it. One file per kind. Kinds share one query per host: `HostQuery` collects it, `QueryResult` reads what comes back.

mod command;
mod download;
mod file;
mod filesystem;
mod hostname;
mod line_in_file;
mod module;
mod mount;
mod package;
mod path;
mod query;
mod query_result;
mod reboot;
mod repository;
mod sources;
mod swap;
mod sysctl;
mod unit;

pub(super) use download::{DELIVERED, name_versions, to_fetch};
pub(super) use package::PACKAGES;
pub(super) use query::{HostQuery, How, Sum};
pub(super) use query_result::{QueryResult, Signature};
pub(super) use unit::UNITS;

use crate::state::{
    Change, Failure, FieldDiff, Fields, Observation, PackageManager, Resource, SecretText, Seen, Spec, Verb,
};

/// What a kind knows.
pub(super) trait Kind {
    /// Adds what observing it needs to the query.
    fn query(&self, id: &str, query: &mut HostQuery);
    /// Reads what was seen.
    fn observe(&self, id: &str, result: &QueryResult) -> Observation;
    /// Returns why nothing may be begun on a host on which this was seen.
    fn refusal(&self, _: &QueryResult) -> Option<Failure> {
        None
    }
    /// Returns the fields as they should be. Only these are compared.
    fn wanted(&self) -> Fields;
    /// Returns shell that brings it about; exit status 0 means done. Runs under `set -e`, with stdin closed.
    fn enact(&self, context: &Context) -> String;
    /// Returns shell that takes it away; `None` if removing means leaving it alone.
    fn remove(&self, context: &Context) -> Option<String>;
    /// Returns the secret that enacting it needs, by the name under which the shell finds it in `$L`.
    fn payload(&self) -> Option<(String, SecretText)> {
        None
    }
    /// Returns the content for a diff, where it is text that may be shown.
    fn text(&self) -> Option<&str> {
        None
    }
    /// Returns what a plan calls doing it.
    fn verb(&self, exists: bool) -> Verb {
        if exists { Verb::Update } else { Verb::Create }
    }
}

/// What enacting shell may depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub package_manager: Option<PackageManager>,
}

/// Returns the kind behind a host resource; `None` for what belongs to the cluster.
pub(super) fn of(spec: &Spec) -> Option<&dyn Kind> {
    Some(match spec {
        Spec::Package(k) => k,
        Spec::PackageRepository(k) => k,
        Spec::File(k) => k,
        Spec::Directory(k) => k,
        Spec::LineInFile(k) => k,
        Spec::Symlink(k) => k,
        Spec::Download(k) => k,
        Spec::Unit(k) => k,
        Spec::KernelModule(k) => k,
        Spec::Sysctl(k) => k,
        Spec::Filesystem(k) => k,
        Spec::Mount(k) => k,
        Spec::Swap(k) => k,
        Spec::Hostname(k) => k,
        Spec::Command(k) => k,
        Spec::Reboot(k) => k,
        Spec::Object(_) | Spec::Node(_) | Spec::JoinToken(_) | Spec::Chat(_) => return None,
    })
}

/// Returns fields from pairs.
pub(super) fn fields<const N: usize>(pairs: [(&str, String); N]) -> Fields {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// Returns an observation of something that exists.
pub(super) fn present<const N: usize>(pairs: [(&str, String); N]) -> Observation {
    Observation::Present(Seen { fields: fields(pairs), ..Seen::default() })
}

/// Compares what is wanted with what was seen. `None`: nothing to do, or state unknown (see `Observation`).
pub fn diff(resource: &Resource, observation: &Observation) -> Option<Change> {
    let kind = of(&resource.spec)?;
    let wanted = kind.wanted();
    let seen = match observation {
        Observation::Present(seen) => Some(seen),
        Observation::Absent => None,
        Observation::Unknown(_) | Observation::Deferred(_) => return None,
    };
    let now = |name: &str| seen.and_then(|s| s.fields.get(name));
    let differing: Vec<FieldDiff> = wanted
        .iter()
        .filter(|(name, to)| now(name) != Some(*to))
        .map(|(name, to)| FieldDiff { name: name.clone(), from: now(name).cloned(), to: Some(to.clone()) })
        .collect();
    if differing.is_empty() {
        return None;
    }
    let text = match (kind.text(), seen) {
        (Some(to), Some(Seen { text: Some(from), .. })) => Some(
            similar::TextDiff::from_lines(from.as_str(), to).unified_diff().context_radius(2).to_string(),
        ),
        _ => None,
    };
    Some(Change { verb: kind.verb(seen.is_some()), fields: differing, text })
}
