//! The inventory: one declarative description of one cluster. This room loads, merges, expands and validates it, and
//! resolves secrets. It never contacts a host.

mod model;

pub use model::*;
