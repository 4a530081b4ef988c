//! The health of accelerators: what is asked of a host and how the answers are judged. Pure: makes programs and reads
//! text. `quick` is part of every apply; `gate` is the standard level before a node takes work; `levels` are asked for by
//! `provision verify`; `judge` reads what came back.

mod gate;
mod judge;
mod levels;
mod links;
mod quick;
mod xid;

pub use gate::{forget, gate, judging, kept, passed};
pub use judge::{BELOW_POOL, Finding, Health, Measure, Verdict, judge, judge_kept, median_findings};
pub use levels::{Level, program};
pub use links::{Links, links_gate};
pub use quick::{QuickInput, quick};
pub use xid::{isolate, needs_reboot, restart_app};
