//! The API stand-in: one unstructured store that speaks enough of the Kubernetes API for everything `provision` sends,
//! and answers 501 with its name to what it does not simulate.
//!
//! [`Store`] holds the objects, [`serve_connection`] and [`Api`] speak HTTP/1.1 to them, [`housekeeping`] does what a
//! real control plane does by itself. RBAC objects are stored and have no effect: see [`Identity`].

mod defaults;
mod discovery;
mod fields;
pub mod housekeeping;
mod http;
mod identity;
mod invalid;
mod kinds;
mod managed;
mod patch;
mod refusal;
mod remove;
mod schema;
mod selector;
mod serve;
mod services;
mod shape;
mod store;
mod subresource;
mod tls;
mod watch;
mod write;

pub use self::http::{Body, json_answer, text_answer};
pub use identity::{Identity, TokenUse, token_stands};
pub use kinds::{Kind, Version};
pub use refusal::{FieldError, Refusal};
pub use remove::{Removal, Removed};
pub use selector::LabelSelector;
pub use serve::{Api, serve_connection};
pub use store::{Gate, Store, condition, now, suffix, text, uuid};
pub use tls::{Authority, AuthorityError, Credential, Pair, kubeconfig};
pub use write::{Options, Patch, Place};
