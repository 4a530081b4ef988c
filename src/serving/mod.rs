//! Serving: models, tenants and router of the inventory -> the Kubernetes objects that should be there. Templates are
//! data in `templates/manifests/`, a folder per component and upstream version.

mod desired;

pub use desired::{ServingError, ServingInput, chats, desired};
