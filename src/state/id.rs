//! What a resource, a step and a step's output are: identities as data. Text is for people and for the files that we write
//! ourselves (managed.json, saved plans, run records); only those are read back.

use super::{HostName, TargetId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Which kind of node a token lets join.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum JoinRole {
    /// A worker, at the Kubernetes API.
    Worker,
    /// A controller, at the k0s join API.
    Controller,
}

impl JoinRole {
    /// Returns the word that `k0s token create --role` takes.
    pub fn as_str(self) -> &'static str {
        match self {
            JoinRole::Worker => "worker",
            JoinRole::Controller => "controller",
        }
    }

    /// Reads such a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Worker, Self::Controller].into_iter().find(|role| role.as_str() == word)
    }
}

/// The kinds of resource on a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "each is described at its variant of `Spec`")]
pub enum HostKind {
    Package,
    PackageRepository,
    File,
    Directory,
    LineInFile,
    Symlink,
    Download,
    Unit,
    KernelModule,
    Sysctl,
    Filesystem,
    Mount,
    Swap,
    Hostname,
    Command,
    Reboot,
}

impl HostKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Package,
        Self::PackageRepository,
        Self::File,
        Self::Directory,
        Self::LineInFile,
        Self::Symlink,
        Self::Download,
        Self::Unit,
        Self::KernelModule,
        Self::Sysctl,
        Self::Filesystem,
        Self::Mount,
        Self::Swap,
        Self::Hostname,
        Self::Command,
        Self::Reboot,
    ];

    /// Returns its name in kebab case, as role files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::PackageRepository => "package-repository",
            Self::File => "file",
            Self::Directory => "directory",
            Self::LineInFile => "line-in-file",
            Self::Symlink => "symlink",
            Self::Download => "download",
            Self::Unit => "unit",
            Self::KernelModule => "kernel-module",
            Self::Sysctl => "sysctl",
            Self::Filesystem => "filesystem",
            Self::Mount => "mount",
            Self::Swap => "swap",
            Self::Hostname => "hostname",
            Self::Command => "command",
            Self::Reboot => "reboot",
        }
    }
}

/// A Kubernetes object. Two groups may have a kind of the same name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// Its API group; empty for the core.
    pub group: String,
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its namespace; empty for an object of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectId {
    /// Reads it from a manifest.
    pub fn of(manifest: &serde_json::Value) -> Self {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default();
        let group = text("/apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        Self {
            group: group.to_owned(),
            kind: text("/kind").to_owned(),
            namespace: text("/metadata/namespace").to_owned(),
            name: text("/metadata/name").to_owned(),
        }
    }
}

/// What a resource is, unique on its target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceId {
    /// A resource of a host: its kind, and its name among those.
    Host(HostKind, String),
    /// A Kubernetes object.
    Object(ObjectId),
    /// A node of the cluster.
    Node(HostName),
    /// A short-lived join token.
    JoinToken(JoinRole),
    /// A member of etcd, by its host.
    EtcdMember(HostName),
    /// A question to a model through a tenant's gateway.
    Chat {
        /// The tenant.
        tenant: String,
        /// The served model name.
        model: String,
    },
}

impl ResourceId {
    /// Returns the id of a resource of a host.
    pub fn host(kind: HostKind, name: impl Into<String>) -> Self {
        Self::Host(kind, name.into())
    }

    /// Returns the kind's name: `package`, `node`, or `Deployment.apps` of an object.
    pub fn kind(&self) -> String {
        match self {
            Self::Host(kind, _) => kind.as_str().to_owned(),
            Self::Object(o) if o.group.is_empty() => o.kind.clone(),
            Self::Object(o) => format!("{}.{}", o.kind, o.group),
            Self::Node(_) => "node".to_owned(),
            Self::JoinToken(_) => "token".to_owned(),
            Self::EtcdMember(_) => "etcd-member".to_owned(),
            Self::Chat { .. } => "chat".to_owned(),
        }
    }

    /// Returns the name among resources of its kind.
    fn name(&self) -> String {
        match self {
            Self::Host(_, name) => name.clone(),
            Self::Object(o) if o.namespace.is_empty() => o.name.clone(),
            Self::Object(o) => format!("{}/{}", o.namespace, o.name),
            Self::Node(host) | Self::EtcdMember(host) => host.to_string(),
            Self::JoinToken(role) => role.as_str().to_owned(),
            Self::Chat { tenant, model } => format!("{tenant}/{model}"),
        }
    }

    /// Returns it for a file that we write and read again: `package/chrony`, `Deployment.apps/models/qwen`.
    pub fn text(&self) -> String {
        format!("{}/{}", self.kind(), self.name())
    }

    /// Returns it for a sentence: `package chrony`, `Deployment models/qwen`.
    pub fn what(&self) -> String {
        match self {
            Self::Object(o) => format!("{} {}", o.kind, self.name()),
            _ => format!("{} {}", self.kind(), self.name()),
        }
    }

    /// Returns the kind of a resource of a host.
    pub fn host_kind(&self) -> Option<HostKind> {
        match self {
            Self::Host(kind, _) => Some(*kind),
            _ => None,
        }
    }

    /// Returns the node, if it is one.
    pub fn node(&self) -> Option<&HostName> {
        match self {
            Self::Node(host) => Some(host),
            _ => None,
        }
    }
}

/// A text is not the id of a resource.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not the id of a resource, such as `package/chrony`")]
pub struct InvalidId(String);

impl FromStr for ResourceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId(text.to_owned());
        let (kind, name) = text.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(invalid)?;
        if let Some(kind) = HostKind::ALL.into_iter().find(|k| k.as_str() == kind) {
            return Ok(Self::host(kind, name));
        }
        match kind {
            "node" => return Ok(Self::Node(HostName::new(name))),
            "token" => return JoinRole::parse(name).map(Self::JoinToken).ok_or_else(invalid),
            "etcd-member" => return Ok(Self::EtcdMember(HostName::new(name))),
            "chat" => {
                let (tenant, model) = name.split_once('/').ok_or_else(invalid)?;
                return Ok(Self::Chat { tenant: tenant.to_owned(), model: model.to_owned() });
            }
            _ => {}
        }
        if !kind.starts_with(|c: char| c.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let [group, kind, namespace, name] = [group, kind, namespace, name].map(str::to_owned);
        Ok(Self::Object(ObjectId { group, kind, namespace, name }))
    }
}

/// Stands for an id where the test build has no text to read back (feature `opaque-ids`).
#[cfg(feature = "opaque-ids")]
fn opaque(id: &impl std::hash::Hash) -> String {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish().to_string()
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "opaque-ids")]
        return f.pad(&opaque(self));
        #[cfg(not(feature = "opaque-ids"))]
        f.pad(&self.text())
    }
}

/// Gives a type that is written as text the schema of a text.
macro_rules! schema_of_text {
    ($ident:ident, $description:literal) => {
        impl JsonSchema for $ident {
            fn schema_name() -> Cow<'static, str> {
                stringify!($ident).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "description": $description})
            }
        }
    };
}
schema_of_text!(ResourceId, "A resource of a host or of the cluster, such as `package/chrony`.");
schema_of_text!(
    StepOutput,
    "What a step makes for other steps of its run: `token/worker` or `token/controller`."
);

impl Serialize for ResourceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for ResourceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What others may wait for, unique in a plan.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum StepId {
    /// A step: its target, and its resource there.
    Step(TargetId, ResourceId),
    /// A target was found in sync and, if it was drained, is back in service. In no plan itself.
    Verified(TargetId),
}

impl StepId {
    /// Returns the target.
    pub fn target(&self) -> &TargetId {
        match self {
            Self::Step(target, _) | Self::Verified(target) => target,
        }
    }

    /// Returns the resource of a step.
    pub fn resource(&self) -> Option<&ResourceId> {
        match self {
            Self::Step(_, resource) => Some(resource),
            Self::Verified(_) => None,
        }
    }
}

impl TargetId {
    /// Returns the id of the step that acts on `resource` of this target.
    pub fn step(&self, resource: &ResourceId) -> StepId {
        StepId::Step(self.clone(), resource.clone())
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(target, resource) => write!(f, "{target}:{resource}"),
            Self::Verified(target) => write!(f, "{target}"),
        }
    }
}

/// What a step makes for other steps of its run; it is in no plan and on no disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StepOutput {
    /// A join token.
    JoinToken(JoinRole),
}

impl StepOutput {
    /// Returns it as role files spell it: `token/worker`.
    pub fn text(self) -> String {
        let Self::JoinToken(role) = self;
        format!("token/{}", role.as_str())
    }

    /// Returns the resource of the cluster whose step makes it.
    pub fn resource(self) -> ResourceId {
        let Self::JoinToken(role) = self;
        ResourceId::JoinToken(role)
    }
}

impl Serialize for StepOutput {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for StepOutput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let role = text.strip_prefix("token/").and_then(JoinRole::parse);
        role.map(Self::JoinToken).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is no output of a step, expected token/worker or token/controller"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_read_back_from_its_text() {
        let object = |group: &str, namespace: &str| {
            let [group, kind, namespace, name] = [group, "Gateway", namespace, "a.b"].map(str::to_owned);
            ResourceId::Object(ObjectId { group, kind, namespace, name })
        };
        let ids = [
            ResourceId::host(HostKind::File, "/etc/hosts"),
            ResourceId::host(HostKind::LineInFile, "/etc/hosts#cluster"),
            ResourceId::Node("h-1".into()),
            ResourceId::EtcdMember("cp-1".into()),
            ResourceId::JoinToken(JoinRole::Controller),
            ResourceId::Chat { tenant: "ads".into(), model: "org/model".into() },
            object("gateway.networking.k8s.io", "ads"),
            object("networking.istio.io", "ads"),
            object("", ""),
        ];
        for id in &ids {
            assert_eq!(id.text().parse().as_ref(), Ok(id));
        }
        assert_ne!(ids[6], ids[7], "one kind in two groups");
        for text in ["", "file/", "thing/x", "token/root", "chat/x", "nothing"] {
            assert!(text.parse::<ResourceId>().is_err(), "{text}");
        }
    }
}
