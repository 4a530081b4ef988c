//! Serving: models, tenants and router of the inventory -> the Kubernetes objects that should be there. Templates are
//! data in `templates/manifests/`, a folder per component and upstream version.
//!
//! [`desired()`] returns the objects in the order in which they are applied; [`chats()`] the chat checks that verify them.

mod desired;
mod edge;
mod engine;
mod input;
mod manifests;
mod router;
mod routes;

pub use desired::{Part, Workload, chats, desired, objects, workloads};
pub use edge::{is_proxy_files, issuer, proxy_file};
pub use input::{ServingError, ServingInput};
