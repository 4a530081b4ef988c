//! The cluster as a `Target`: join tokens, nodes, server-side apply, pruning, readiness, a question to the model. Speaks
//! the Kubernetes API only, through whatever stream it is given.

mod connect;
mod nodes;
mod objects;
mod target;
mod tokens;

pub use nodes::nodes;
pub use target::{Access, ClusterSetup, ClusterTarget, ask};
