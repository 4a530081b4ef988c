//! Carries out a plan over `Target`s: what may run when, what a failure stops, which nodes may leave service, and a journal
//! of intents. Knows no SSH and no HTTP.
//!
//! [`execute`] is the run. `state` is what its tasks share, `target` runs one target, `report` how it ended.

mod chain;
mod execute;
mod journal;
mod ledger;
mod record;
mod report;
mod state;
mod target;

pub use chain::{Chain, ChainReport, Evidence, Head, Line, Link, RecordKind, sha256};
pub use execute::{RunInput, execute};
pub use journal::{History, Journal, JournalError, KillAt, Record, Transition, history, records, replay};
pub use ledger::{RunBegun, RunEnded, StepLog, StepRecord, TargetEnded};
pub use record::{
    KEPT_RUNS, RecordError, Recorded, Recorder, Summary, Took, past, recorded, recorded_hosts,
    recorded_targets, summary,
};
pub use report::{Outcome, RunReport};
pub use state::Cancel;
