//! Roles: inventory, catalog, lock file and a host's facts -> the resources that the host should have. A role is a
//! folder `roles/<name>/` with a `role.yaml` (the form is in `entry`) and `templates/`; a user's file of the same path in
//! a `roles/` folder beside the inventory takes the place of a built-in one.

mod accelerator;
mod context;
mod desired;
mod entry;
pub mod health;
mod k0s;
mod preflight;

pub use desired::{RoleInput, desired};
