//! Roles: inventory, catalog, lock file and a host's facts -> the resources that the host should have. A role is a
//! folder `roles/<name>/` with a `role.yaml` (minijinja makes YAML of it) and `templates/`; a user's folder of the same
//! name beside the inventory takes the place of a built-in one.

mod context;
mod desired;
mod entry;

pub use desired::{RoleInput, desired};
