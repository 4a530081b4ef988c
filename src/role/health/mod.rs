//! Accelerator health: the test programs and how their output is judged. Pure: creates programs and parses text. `quick` is
//! part of every apply; `standard` judges the standard level; `gate` is that level before a node takes workloads; `levels`
//! are the tests of `provision verify`; `judge` reads what a host found.

mod frame;
mod gate;
mod judge;
mod levels;
mod links;
mod quick;
mod standard;
mod xid;

pub use gate::{forget, gate, kept, passed};
pub use judge::{BELOW_POOL, Finding, Health, Measure, Verdict, judge, judge_kept, median_findings};
pub use levels::{Level, program};
pub use links::{Links, links_gate};
pub use quick::{QuickInput, quick};
pub use standard::{Purpose, judging};
pub use xid::{isolate, needs_reboot, restart_app};
