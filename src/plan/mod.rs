//! Planning: observations and desired state become steps. Pure: no I/O, no clock, no randomness.

mod api_keys;
mod build;
mod compare;
mod drift;
mod impact;
mod kinds;
mod leaving;
mod model;
mod policy;
mod ports;
mod saved;
mod schedule;

pub use build::{PlanInput, again, build, nodes_to_drain, steps_of, unknown};
pub use compare::{FieldChange, HostChange, InventoryDiff, PoolChange, changed_roles, compare};
pub use drift::{Difference, Drift, Unobserved};
pub use impact::{Past, impact};
pub use kinds::{Kind, kinds};
pub use model::{
    Batch, Capacity, Commit, Delivery, Impact, Plan, PoolImpact, RolloutOrder, Sources, TargetPlan, Waves,
};
pub use policy::{
    Case, CaseResult, Cases, CiJob, CommitFacts, Effect, Facts, InventoryFacts, MOST_POLICIES, MOST_POLICY,
    Moment, PlanFacts, Policies, PolicyReport, Rule, RuleOutcome, RuleResult, User,
};
pub use ports::PortMove;
pub use saved::{Moved, SavedError, load, save, stale, wider};
pub use schedule::{Scheduler, Wait};
