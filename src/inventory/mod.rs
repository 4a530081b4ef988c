//! The inventory: one declarative description of one cluster. This room loads, merges, expands and validates it, and
//! resolves secrets. It never contacts a host.

mod accelerators;
mod build;
mod check;
mod diagnostic;
mod hosts;
mod init;
mod keys;
mod limit;
mod load;
mod model;
mod range;
mod secrets;
mod tree;

pub use accelerators::DMA_BUF_KERNEL;
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use init::{Init, init_text, newest};
pub use keys::schema;
pub use limit::{LimitError, select, skipped};
pub use load::{Disk, Files, Loaded, explain, load, load_from};
pub use model::*;
pub use secrets::{SecretError, Secrets};
pub use tree::Source;
