//! The cluster as a `Target`: join tokens, nodes, server-side apply, pruning, readiness, drain, chat checks of models.
//! Speaks only the Kubernetes API, over a stream that it is given.
//!
//! [`ClusterTarget`] is the target; [`nodes()`] is the desired state of nodes; [`chat_completion()`] sends a prompt to a model
//! through its tenant's gateway.

mod access;
mod ahead;
mod apply;
mod applyset;
mod chain;
mod chat;
mod cluster;
mod connect;
mod devices;
mod differ;
mod drain;
mod errors;
pub mod fuzz;
mod gateway_tls;
mod holder;
mod kinds;
mod kubeconfig;
mod lease;
mod nodes;
mod pods;
mod ready;
mod retire;
mod service;
mod survey;
mod target;

pub use access::Access;
pub use ahead::{Ahead, DeprecatedApi};
pub use chat::{chat_completion, chat_stream};
pub use cluster::{ClusterSetup, ClusterTarget, Retired};
pub use holder::Holder;
pub use kubeconfig::{ClientUser, admin_kubeconfig, kubeconfig_for};
pub use nodes::nodes;
pub use pods::{Cause, CauseKind};
pub use survey::{NodeSeen, Survey, WorkloadSeen};
