//! The cluster as a `Target`: join tokens, nodes, server-side apply, pruning, readiness, drain, a question to the model.
//! Speaks the Kubernetes API only, through whatever stream it is given.
//!
//! [`ClusterTarget`] is the target; [`nodes()`] is what the inventory wants of nodes; [`ask()`] puts a question to a model
//! through its tenant's gateway.

mod access;
mod apply;
mod applyset;
mod chat;
mod connect;
mod devices;
mod differ;
mod drain;
mod errors;
mod etcd;
mod kinds;
mod lease;
mod nodes;
mod ready;
mod retire;
mod service;
mod survey;
mod target;
mod tokens;

pub use access::{Access, Answer};
pub use chat::ask;
pub use lease::Holder;
pub use nodes::nodes;
pub use retire::Retired;
pub use survey::{NodeSeen, Survey, WorkloadSeen, admin_kubeconfig, lent_kubeconfig};
pub use target::{ClusterSetup, ClusterTarget};
