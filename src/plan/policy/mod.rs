//! Policies: rules in files that refuse a change, warn of it, or ask for approvals, as expressions over what would change, the
//! inventory, and who does it. Pure and bounded: no I/O, no clock, and a stranger's policy can neither hang nor exhaust memory.

mod cases;
mod expression;
mod facts;
mod file;
mod judge;
mod of_inventory;
mod of_plan;

pub use cases::{Case, CaseResult, Cases};
pub use facts::*;
pub use file::{Effect, MOST_POLICIES, MOST_POLICY, Policies, Rule};
pub use judge::{PolicyReport, RuleOutcome, RuleResult};
