//! A host as a `Target`: observed and changed over SSH, with nothing on it but sshd and a POSIX shell. Resource kinds
//! are in `kind/`, one file each.

mod batch;
mod bounded;
mod causes;
mod control;
mod delivery;
mod digest;
mod facts;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod kind;
mod leaving;
mod look;
mod observe;
mod passing;
mod progress;
mod records;
mod removal;
mod requirements;
mod root_shell;
mod stream;
mod sudo;
mod support;
mod target;
mod watchdog;

pub use causes::{CAUSES, Cause, known_causes};
pub use delivery::Delivered;
pub use frame::Sections;
pub use kind::diff;
pub use leaving::Leaving;
pub use look::{Look, LookEnd, Looked, Ran};
pub use passing::PassSource;
pub use requirements::{combine, lacking};
pub use sudo::Sudo;
pub use support::{support_archive, support_looks};
pub use target::{DesiredFn, HostSetup, HostTarget, STATE_DIR};

use crate::state::{Change, Content, Facts, Failure, Observation, Resource, ResourceId, Spec, Step, Verb};
use std::collections::BTreeMap;
use watchdog::Watchdog;

/// Builds the query that observes these resources.
fn query(resources: &[Resource]) -> kind::HostQuery {
    let mut query = kind::HostQuery::default();
    for resource in resources {
        if let Some(kind) = kind::of(&resource.spec) {
            kind.query(&resource.id.text(), &mut query);
        }
    }
    query
}

/// Parses the output of the query for these resources; `None` if it is truncated.
pub fn observations(resources: &[Resource], output: &str) -> Option<BTreeMap<ResourceId, Observation>> {
    let result = kind::QueryResult::parse(&Sections::parse(output)?);
    let observe = |r: &Resource| Some((r.id.clone(), kind::of(&r.spec)?.observe(&r.id.text(), &result)));
    Some(resources.iter().filter_map(observe).collect())
}

/// Parses the facts in what a host printed; the error says what is missing. `None` if the output is truncated.
pub fn facts_in(output: &str) -> Option<Result<Facts, String>> {
    Some(facts::parse(&Sections::parse(output)?))
}

/// Returns why nothing may be started on a host, given the output of its query.
fn refusals(resources: &[Resource], output: &str) -> Vec<Failure> {
    let Some(sections) = Sections::parse(output) else { return Vec::new() };
    let result = kind::QueryResult::parse(&sections);
    resources.iter().filter_map(|r| kind::of(&r.spec)?.refusal(&result)).collect()
}

/// Returns the whole text that a host would be sent to observe these resources, facts, then state, to be looked at: the
/// digests of secrets, which could be guessed from, are left out. A host on which a tool hangs is sent it once more, with a
/// watchdog for each tool.
pub fn observe_program(resources: &[Resource]) -> String {
    let mut query = query(resources);
    for resource in resources {
        if let Spec::File(file) = &resource.spec
            && matches!(file.content, Content::Secret(_))
            && let Some(sum) = query.sums.get_mut(&file.path)
        {
            sum.sha256 = crate::state::REDACTED.to_owned();
        }
    }
    facts::program(STATE_DIR, Watchdog::Whole) + &query.program(STATE_DIR, false, Watchdog::Whole)
}

/// What a batch belongs to whose program is only shown.
const SHOWN: batch::BatchContext<'static> = batch::BatchContext {
    state: STATE_DIR,
    batch: "BATCH",
    run: "RUN",
    owner: "you@here",
    leaves: false,
    offline: false,
};

/// Returns the whole program that a host would run for these steps.
pub fn enact_program(steps: &[Step], facts: &Facts) -> String {
    batch::program(&SHOWN, steps, facts)
}

/// Returns the text that starts a batch detached and follows it, without the secrets that it would carry.
pub fn launch_program(program: &str) -> String {
    batch::launcher(&SHOWN, Some(program), &batch::Payloads::new(), false, 0)
}

/// Returns a change in one line: `580.126.09 -> 580.178.04`.
pub fn summary(change: &Change) -> String {
    match change.verb {
        Verb::Remove => "removed".to_owned(),
        Verb::Create => "created".to_owned(),
        Verb::Run => "done".to_owned(),
        Verb::Update => change.fields.iter().map(|f| f.shown()).collect::<Vec<_>>().join(", "),
    }
}
