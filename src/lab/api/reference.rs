//! Which object a request is about.

use super::{
    kinds::{Kind, Version},
    store::Store,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// An object, or the place of one that is to be made.
#[derive(Clone, Debug)]
pub struct ObjectRef {
    /// The kind.
    pub kind: Arc<Kind>,
    /// The version asked for.
    pub version: Version,
    /// The namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// The name; empty to create one from `generateName`.
    pub name: String,
}

impl ObjectRef {
    /// Returns a reference in the preferred version of a kind.
    pub fn of(kind: Arc<Kind>, namespace: &str, name: &str) -> Option<Self> {
        let version = kind.versions.first()?.clone();
        Some(Self { kind, version, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Returns a reference to an object of a served kind.
    pub fn named(store: &Store, kind: &str, namespace: &str, name: &str) -> Option<Self> {
        let kind = store.lock().kinds.get(kind)?.clone();
        Self::of(kind, namespace, name)
    }

    /// Returns an object in the version asked for.
    pub fn present(&self, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = json!(self.api_version());
        object
    }

    /// Returns `apiVersion` of the request.
    pub fn api_version(&self) -> String {
        self.kind.api_version(&self.version.name)
    }
}
