//! What the objects of serving are made from, and why they could not be made.

use crate::catalog::Catalog;
use crate::inventory::Inventory;
use crate::state::SecretText;
use crate::template;
use serde_json::Value;
use std::collections::BTreeMap;

/// What serving is made from.
pub struct ServingInput<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The catalog.
    pub catalog: &'a Catalog,
    /// Definitions of custom resources, from the locked artifacts.
    pub crds: Vec<Value>,
    /// Hugging Face tokens, by the secret's name. One that is not known here may be left out: its Secret is then left
    /// as it is.
    pub tokens: BTreeMap<String, SecretText>,
}

/// Why the objects could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// A template.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    /// What a template made is no YAML.
    #[error("{name}, rendered: {why}")]
    Yaml {
        /// The template.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An extra object is one that is made from the inventory.
    #[error("extraObjects: {what} is made from the inventory; use another name")]
    Duplicate {
        /// The object.
        what: String,
    },
    /// The files of the proxy do not fit into one ConfigMap.
    #[error(
        "the proxy's files have {bytes} bytes and {most} are possible: use fewer tenants in one cluster, or remove expired keys from their lists"
    )]
    TooLarge {
        /// Their size, in bytes.
        bytes: usize,
        /// The largest, in bytes.
        most: usize,
    },
    /// The catalog lacks something.
    #[error("no {what} in the catalog")]
    Catalog {
        /// What it lacks.
        what: String,
    },
}
