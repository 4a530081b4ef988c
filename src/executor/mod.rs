//! A host as a `Target`: observed and changed over SSH, with nothing on it but sshd and a POSIX shell. Resource kinds
//! live in `kind/`, one file each.

mod batch;
mod causes;
mod control;
mod facts;
mod frame;
mod kind;
mod look;
mod progress;
mod removal;
mod sudo;
mod support;
mod talk;
mod target;

pub use causes::{CAUSES, Cause, known_causes};
pub use control::ControlPlane;
pub use frame::Sections;
pub use kind::{diff, removal};
pub use look::{Look, LookEnd, Looked, Ran};
pub use sudo::Sudo;
pub use support::{redacted, support_archive, support_looks};
pub use target::{DesiredFn, HostSetup, HostTarget, STATE_DIR, combine, lacking};

use kind::sha256;

use crate::state::{Change, Content, Facts, Failure, Observation, Resource, ResourceId, Spec, Step, Verb};
use std::collections::BTreeMap;

/// Gathers what must be asked of a host to observe these resources.
fn ask(resources: &[Resource]) -> kind::Ask {
    let mut ask = kind::Ask::default();
    for resource in resources {
        if let Some(kind) = kind::of(&resource.spec) {
            kind.ask(resource.id.as_str(), &mut ask);
        }
    }
    ask
}

/// Reads what a host answered of these resources; `None` if the answer was cut.
pub fn observations(resources: &[Resource], answer: &str) -> Option<BTreeMap<ResourceId, Observation>> {
    let answer = kind::Answer::parse(&Sections::parse(answer)?);
    let observe = |r: &Resource| Some((r.id.clone(), kind::of(&r.spec)?.observe(r.id.as_str(), &answer)));
    Some(resources.iter().filter_map(observe).collect())
}

/// Returns why nothing may be begun on a host that answered so.
fn refusals(resources: &[Resource], answer: &str) -> Vec<Failure> {
    let Some(sections) = Sections::parse(answer) else { return Vec::new() };
    let answer = kind::Answer::parse(&sections);
    resources.iter().filter_map(|r| kind::of(&r.spec)?.refusal(&answer)).collect()
}

/// Returns the whole text that a host would be sent to observe these resources, facts, then state, to be looked at: the
/// digests of secrets, which could be guessed from, are left out.
pub fn observe_program(resources: &[Resource]) -> String {
    let mut ask = ask(resources);
    for resource in resources {
        if let Spec::File(file) = &resource.spec
            && matches!(file.content, Content::Secret(_))
            && let Some(sum) = ask.sums.get_mut(&file.path)
        {
            sum.sha256 = crate::state::REDACTED.to_owned();
        }
    }
    facts::program(STATE_DIR) + &ask.program(STATE_DIR, false)
}

/// Returns the whole program that a host would run for these steps.
pub fn enact_program(steps: &[Step], resources: &[Resource], facts: &Facts) -> String {
    let place = batch::Place { state: STATE_DIR, batch: "BATCH", run: "RUN", owner: "you@here" };
    batch::program(&place, steps, resources, facts)
}

/// Returns the text that starts a batch detached and follows it, without the secrets that it would carry.
pub fn launch_program(program: &str) -> String {
    let place = batch::Place { state: STATE_DIR, batch: "BATCH", run: "RUN", owner: "you@here" };
    batch::launcher(&place, Some(program), &batch::Payloads::new(), false, 0)
}

/// Returns a change in one line: `580.126.09 -> 580.178.04`.
pub fn summary(change: &Change) -> String {
    match change.verb {
        Verb::Remove => "removed".to_owned(),
        Verb::Create => "created".to_owned(),
        Verb::Run => "done".to_owned(),
        Verb::Update => change
            .fields
            .iter()
            .map(|f| {
                format!(
                    "{} {} -> {}",
                    f.name,
                    f.from.as_deref().unwrap_or("(none)"),
                    f.to.as_deref().unwrap_or("(none)")
                )
            })
            .collect::<Vec<_>>()
            .join(", "),
    }
}
