//! The inventory: one declarative description of one cluster. This module loads, merges, expands and validates it, and
//! resolves secrets. It never contacts a host.

mod accelerators;
mod build;
mod check;
mod diagnostic;
mod edge;
mod extra;
mod files;
mod forms;
mod grammar;
mod hosts;
mod init;
mod keys;
mod limit;
mod load;
mod model;
mod range;
mod reader;
mod routing;
mod secrets;
mod snapshot;
mod tenant;
mod tree;
mod written;

pub use accelerators::DMA_BUF_KERNEL;
pub(crate) use check::{may_have_label, may_have_taint};
pub use diagnostic::{Diagnostic, Diagnostics, Severity, Source, SourceSpan};
pub use edge::{MOST_KEYS, keys_file};
pub use extra::{EXTRA_KINDS, MODELS_NAMESPACE};
pub use files::{Disk, Files, git, tidy};
pub(crate) use grammar::{address_fault, is_bastion, is_dns_label, is_interface, is_note, is_user};
pub use hosts::MOST_HOSTS;
pub use init::{
    K0S, POD_CIDR, SERVICE_CIDR, Starter, StarterHost, StarterPool, StarterSsh, newest, starter_text,
};
pub use keys::schema;
pub use limit::{LimitError, select, skipped};
pub use load::{Loaded, catalog_beside, explain, load, load_from, no_disk};
pub use model::*;
pub use range::Range;
pub use secrets::{AGE_IDENTITY, SecretError, Secrets, needs, open_age};
pub use snapshot::{Recording, Snapshot};
pub use tree::{Entry, Node, Value, document, yaml};
