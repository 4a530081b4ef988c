//! The inventory: one declarative description of one cluster. This room loads, merges, expands and validates it, and
//! resolves secrets. It never contacts a host.

mod limit;
mod model;

pub use limit::{LimitError, select, skipped};
pub use model::*;
