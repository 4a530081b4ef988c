//! Carrying out a plan over `Target`s: what may run when, what a failure stops, who may leave service, and a journal of
//! intents. Knows no SSH and no HTTP.
//!
//! [`execute`] is the run. `board` is what its tasks share, `target` the way of one target, `report` how it ended.

mod board;
mod execute;
mod journal;
mod record;
mod report;
mod target;

pub use board::Cancel;
pub use execute::{RunInput, execute};
pub use journal::{History, Journal, JournalError, KillAt, Record, Transition, history, replay};
pub use record::{
    KEPT_RUNS, RecordError, Recorded, Recorder, Summary, Took, kind, past, recorded, recorded_targets,
    summary,
};
pub use report::{Outcome, RunReport};
