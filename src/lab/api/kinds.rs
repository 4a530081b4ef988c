//! Which kinds the API serves: the built-in table, and what CustomResourceDefinitions add.

use super::objects::text;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// A served kind, in all its versions.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group, empty for the core.
    pub group: String,
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// `kind` of its objects.
    pub kind: String,
    /// `deployments.apps`: how messages and the store name it.
    pub id: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Short names.
    pub short_names: Vec<String>,
    /// Served versions, the preferred one first.
    pub versions: Vec<Version>,
    /// Whether a CustomResourceDefinition made it.
    pub custom: bool,
}

/// A version of a kind.
#[derive(Clone, Debug)]
pub struct Version {
    /// `v1`.
    pub name: String,
    /// Whether `/status` is apart from the rest.
    pub status: bool,
}

impl Kind {
    /// Returns a version by name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }

    /// Returns `apiVersion` for a version of it.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }
}

/// Served kinds, one a line: `plural.group`, kind, short name, whether in namespaces, whether `/status` is apart.
const BUILT_IN: &str = "
configmaps ConfigMap cm namespaced -
events Event ev namespaced -
namespaces Namespace ns - status
nodes Node no - status
pods Pod po namespaced status
secrets Secret - namespaced -
serviceaccounts ServiceAccount sa namespaced -
services Service svc namespaced status
customresourcedefinitions.apiextensions.k8s.io CustomResourceDefinition crd - status
daemonsets.apps DaemonSet ds namespaced status
deployments.apps Deployment deploy namespaced status
replicasets.apps ReplicaSet rs namespaced status
leases.coordination.k8s.io Lease - namespaced -
endpointslices.discovery.k8s.io EndpointSlice - namespaced -
networkpolicies.networking.k8s.io NetworkPolicy netpol namespaced -
runtimeclasses.node.k8s.io RuntimeClass - - -
poddisruptionbudgets.policy PodDisruptionBudget pdb namespaced status
clusterrolebindings.rbac.authorization.k8s.io ClusterRoleBinding - - -
clusterroles.rbac.authorization.k8s.io ClusterRole - - -
";

/// Groups of a real API. What the lab does not serve of them is answered with its name.
const GROUPS: &str = "admissionregistration.k8s.io apiextensions.k8s.io apiregistration.k8s.io apps authentication.k8s.io \
    authorization.k8s.io autoscaling batch certificates.k8s.io coordination.k8s.io discovery.k8s.io events.k8s.io \
    flowcontrol.apiserver.k8s.io networking.k8s.io node.k8s.io policy rbac.authorization.k8s.io resource.k8s.io \
    scheduling.k8s.io storage.k8s.io";

/// Says whether a group is one of a real API's own.
pub(super) fn is_built_in(group: &str) -> bool {
    group.is_empty() || GROUPS.split(' ').any(|other| other == group)
}

/// Kinds by `plural.group`.
pub(super) type Kinds = BTreeMap<String, Arc<Kind>>;

/// Returns the built-in kinds.
pub(super) fn built_in() -> Kinds {
    let kinds = BUILT_IN.lines().filter_map(|line| {
        let [id, kind, short, namespaced, status] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (plural, group) = id.split_once('.').unwrap_or((id, ""));
        let kind = Kind {
            group: group.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            id: id.to_owned(),
            namespaced: namespaced == "namespaced",
            short_names: Some(short).filter(|s| *s != "-").map(str::to_owned).into_iter().collect(),
            versions: vec![Version { name: "v1".to_owned(), status: status == "status" }],
            custom: false,
        };
        Some((kind.id.clone(), Arc::new(kind)))
    });
    kinds.collect()
}

/// Returns `plural.group`.
pub(super) fn id(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// Reads a kind out of a CustomResourceDefinition; `None` when it serves nothing.
pub(super) fn from_definition(definition: &Value) -> Option<Kind> {
    let spec = definition.get("spec")?;
    let mut versions: Vec<_> = spec["versions"]
        .as_array()?
        .iter()
        .filter(|v| v["served"] == true)
        .map(|v| Version { name: text(v, "/name"), status: v.pointer("/subresources/status").is_some() })
        .collect();
    versions.sort_by_key(|v| std::cmp::Reverse(kube::core::Version::parse(&v.name).priority()));
    let (group, plural) = (text(spec, "/group"), text(spec, "/names/plural"));
    let short_names = spec.pointer("/names/shortNames").and_then(Value::as_array);
    (!versions.is_empty()).then(|| Kind {
        id: id(&group, &plural),
        group,
        plural,
        singular: text(spec, "/names/singular"),
        kind: text(spec, "/names/kind"),
        namespaced: text(spec, "/scope") == "Namespaced",
        short_names: short_names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        versions,
        custom: true,
    })
}
