//! The health of accelerators: what is asked of a host and how the answers are judged. Pure: makes programs and reads
//! text. `quick` is part of every apply; `levels` are asked for by `provision verify`; `judge` reads what came back.

mod judge;
mod levels;
mod quick;

pub use judge::{Finding, Health, Measure, Verdict, judge, median_findings};
pub use levels::{Level, program};
pub use quick::{QuickInput, needs_reboot, quick};
