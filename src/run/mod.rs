//! Carrying out a plan over `Target`s: what may run when, what a failure stops, and a journal of intents. Knows no SSH
//! and no HTTP.

mod execute;
mod journal;

pub use execute::{Cancel, Outcome, RunInput, RunReport, execute};
pub use journal::{History, Journal, JournalError, Record, Transition, history, replay};
