//! Roles: inventory, catalog, lock file and a host's facts -> the resources that the host should have. A role is a
//! folder `roles/<name>/` with a `role.yaml` (its format is in `entry`) and `templates/`; a user's file of the same path in
//! a `roles/` folder next to the inventory overrides a built-in one.

mod accelerator;
mod context;
mod desired;
mod entry;
mod excluded;
mod fields;
mod findings;
pub mod health;
mod host;
mod input;
mod k0s;
pub mod leaving;
mod mig;
mod mistakes;
mod needs;
mod network;
mod os_kernel;
mod ports;
mod preflight;
mod rdma;
mod repository;
mod restore;
mod secret;
mod values;

pub use desired::{desired, resources};
pub use fields::fields_of;
pub use findings::{Finding, TABLE};
pub use host::check;
pub use input::{RoleInput, is_new};
pub use mistakes::mistakes;
pub use needs::artifacts;
pub use ports::{Try, among, findings, program, tries};
pub use repository::repositories;
pub use restore::restoring;
