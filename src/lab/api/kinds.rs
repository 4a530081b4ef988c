//! Which kinds the API serves: the built-in table, and what CustomResourceDefinitions add.

use super::objects::text;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

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

/// The kinds served now.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    all: HashMap<String, Arc<Kind>>,
}

impl Kinds {
    /// Returns the built-in kinds.
    pub(super) fn built_in() -> Self {
        let mut this = Self { all: HashMap::new() };
        for line in BUILT_IN.lines() {
            let [id, kind, short, namespaced, status] = line.split(' ').collect::<Vec<_>>()[..] else {
                continue;
            };
            let (plural, group) = id.split_once('.').unwrap_or((id, ""));
            this.add(Kind {
                group: group.to_owned(),
                plural: plural.to_owned(),
                singular: kind.to_lowercase(),
                kind: kind.to_owned(),
                id: id.to_owned(),
                namespaced: namespaced == "namespaced",
                short_names: Some(short).filter(|s| *s != "-").map(str::to_owned).into_iter().collect(),
                versions: vec![Version { name: "v1".to_owned(), status: status == "status" }],
                custom: false,
            });
        }
        this
    }

    /// Returns a kind by group and plural.
    pub(super) fn find(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.by_id(&id(group, plural))
    }

    /// Says whether anything of a group is served, or would be by a real API.
    pub(super) fn serves(&self, group: &str) -> bool {
        is_built_in(group) || self.all.values().any(|kind| kind.group == group)
    }

    /// Returns a kind by `plural.group`.
    pub(super) fn by_id(&self, id: &str) -> Option<Arc<Kind>> {
        self.all.get(id).cloned()
    }

    /// Returns all kinds, by group and plural.
    pub(super) fn sorted(&self) -> Vec<Arc<Kind>> {
        let mut all: Vec<_> = self.all.values().cloned().collect();
        all.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        all
    }

    /// Serves a kind, or its new definition.
    pub(super) fn add(&mut self, kind: Kind) {
        self.all.insert(kind.id.clone(), Arc::new(kind));
    }

    /// Stops serving a custom kind.
    pub(super) fn remove(&mut self, id: &str) {
        self.all.remove(id);
    }
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
    versions.sort_by_key(|v| std::cmp::Reverse(age(&v.name)));
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

/// Orders versions as Kubernetes does: stable before beta before alpha, then the higher number.
pub(super) fn age(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or(version);
    let (major, level, minor) = if let Some((major, minor)) = rest.split_once("beta") {
        (major, 1, minor)
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (major, 0, minor)
    } else {
        (rest, 2, "")
    };
    (level, major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut names = ["v1alpha1", "v2", "v1beta2", "v1", "v1beta1"];
        names.sort_by_key(|v| std::cmp::Reverse(age(v)));
        assert_eq!(names, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]);
    }
}
