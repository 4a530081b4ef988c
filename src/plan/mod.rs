//! Planning: what was observed, against what is wanted, becomes steps. Pure: no I/O, no clock, no randomness.

mod build;
mod compare;
mod kinds;
mod outlook;
mod saved;

pub use build::{Batch, Plan, PlanInput, TargetPlan, again, batches, build, steps_of, unknown, verified};
pub use compare::{FieldChange, HostChange, InventoryDiff, PoolChange, changed_roles, compare};
pub use kinds::{Kind, kinds};
pub use outlook::{Capacity, Outlook, Past, PoolOutlook, Turns, outlook};
pub use saved::{Moved, SavedError, load, save, stale};
