//! Identities as newtypes, so that a host name is never taken for a pool name. Owns no validation beyond "non-empty";
//! the inventory checks DNS-1123.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! name {
    ($(#[$doc:meta])* $ident:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Debug)]
        #[serde(transparent)]
        pub struct $ident(String);

        impl $ident {
            /// Wraps a name that is already known to be valid.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $ident {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $ident {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $ident {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }

        impl From<String> for $ident {
            fn from(name: String) -> Self {
                Self(name)
            }
        }
    };
}

name! {
    /// A host of the inventory; also its hostname and node name.
    HostName
}
name! {
    /// A pool of the inventory: hosts that are alike.
    PoolName
}
name! {
    /// One run of `apply`, as shown to a person: five characters such as `8XKQ2`.
    RunId
}
/// What a step acts on: one host, or the cluster behind the Kubernetes API.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum TargetId {
    /// A host, over SSH.
    Host(HostName),
    /// The cluster, over the Kubernetes API.
    Cluster,
}

impl TargetId {
    /// Returns the host's name, if the target is a host.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            TargetId::Host(name) => Some(name),
            TargetId::Cluster => None,
        }
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetId::Host(name) => name.fmt(f),
            TargetId::Cluster => f.pad("cluster"),
        }
    }
}
