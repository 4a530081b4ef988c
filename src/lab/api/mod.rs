//! The API stand-in: one unstructured store that speaks as much of the Kubernetes API as `provision` sends, and `kubectl`
//! through `provision tunnel` (get, describe, apply, edit, delete), and answers 501 with its name to everything else. It
//! is frozen: who needs more runs the lab on a real kube-apiserver.
//!
//! [`Store`] holds the objects, [`Api`] speaks HTTP/1.1 to them, [`housekeeping`] does what a
//! real control plane does by itself. RBAC objects and the schemas of definitions are stored and have no effect;
//! defaults are filled in only where something here reads them.

mod defaults;
mod discovery;
mod errors;
mod fields;
pub mod housekeeping;
mod http;
mod identity;
mod kinds;
mod managed;
mod merging;
mod objects;
mod patch;
mod reference;
mod remove;
mod request;
mod selector;
mod serve;
mod store;
mod tls;
mod validate;
mod watch;
mod write;

pub use self::http::{Body, json_answer};
pub use errors::{ApiError, FieldError};
pub use identity::{Identity, TokenUse, is_valid_token};
pub use objects::{condition, is_ending, now, place, text};
pub use serve::Api;
pub use store::{Action, Change, Store};
pub use tls::{Authority, AuthorityError, Pair, kubeconfig};
pub use write::{Options, Patch};
