//! A host as a `Target`: observed and changed over SSH, with nothing on it but sshd and a POSIX shell. Resource kinds
//! live in `kind/`, one file each.

mod batch;
mod causes;
mod facts;
mod frame;
mod kind;
mod removal;
mod sudo;
mod talk;
mod target;

pub use causes::{CAUSES, Cause};
pub use frame::Sections;
pub use kind::{diff, removal};
pub use sudo::Sudo;
pub use target::{DesiredFn, HostSetup, HostTarget, STATE_DIR};

use kind::sha256;

use crate::state::{Change, Facts, Lates, Resource, Step, Verb};

/// Returns the whole text that a host would be sent to observe these resources: facts, then state.
pub fn observe_program(resources: &[Resource]) -> String {
    let mut ask = kind::Ask::default();
    for resource in resources {
        if let Some(kind) = kind::of(&resource.spec) {
            kind.ask(resource.id.as_str(), &mut ask);
        }
    }
    facts::program(STATE_DIR) + &ask.program()
}

/// Returns the whole program that a host would run for these steps.
pub fn enact_program(steps: &[Step], resources: &[Resource], facts: &Facts) -> String {
    let place = batch::Place { state: STATE_DIR, batch: "BATCH", run: "RUN", owner: "you@here" };
    batch::program(&place, steps, resources, facts)
}

/// Returns the text that starts a batch detached and follows it.
pub fn launch_program(program: &str) -> String {
    let place = batch::Place { state: STATE_DIR, batch: "BATCH", run: "RUN", owner: "you@here" };
    batch::launcher(&place, Some(program), &Lates::new(), 0)
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
