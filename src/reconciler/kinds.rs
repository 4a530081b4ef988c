//! The supported kinds: their API paths, and whether they are pruned.

use crate::state::ObjectId;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};

/// A kind that we apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Version that our manifests are written in.
    pub version: &'static str,
    /// `kind` of its objects.
    pub kind: &'static str,
    /// As in paths.
    pub plural: &'static str,
    /// Where its objects live.
    pub scope: Scope,
    /// What happens to objects that nothing wants any more.
    pub leftovers: Leftovers,
}

/// Where objects live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// In namespaces.
    Namespace,
    /// In the cluster.
    Cluster,
}

/// What happens to managed objects that are no longer wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leftovers {
    /// They are removed.
    Prune,
    /// They stay: with a namespace or a definition goes what others put into it.
    Keep,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    leftovers: Leftovers,
) -> Kind {
    Kind { group, version, kind, plural, scope, leftovers }
}

use Leftovers::{Keep, Prune};
use Scope::{Cluster, Namespace};

const RBAC: &str = "rbac.authorization.k8s.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const KTHENA: &str = "networking.serving.volcano.sh";

/// Every kind that we apply, in the order in which they come into being; they are removed in the reverse.
pub(super) const KINDS: [Kind; 19] = [
    kind(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        Cluster,
        Keep,
    ),
    kind("", "v1", "Namespace", "namespaces", Cluster, Keep),
    kind("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", Cluster, Prune),
    kind("", "v1", "ServiceAccount", "serviceaccounts", Namespace, Prune),
    kind(RBAC, "v1", "ClusterRole", "clusterroles", Cluster, Prune),
    kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", Cluster, Prune),
    kind("", "v1", "ConfigMap", "configmaps", Namespace, Prune),
    kind("", "v1", "Secret", "secrets", Namespace, Prune),
    kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", Namespace, Prune),
    kind("", "v1", "Service", "services", Namespace, Prune),
    kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", Namespace, Prune),
    kind("apps", "v1", "DaemonSet", "daemonsets", Namespace, Prune),
    kind("apps", "v1", "Deployment", "deployments", Namespace, Prune),
    kind(GATEWAY, "v1", "GatewayClass", "gatewayclasses", Cluster, Prune),
    kind(GATEWAY, "v1", "Gateway", "gateways", Namespace, Prune),
    kind("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools", Namespace, Prune),
    kind(GATEWAY, "v1", "HTTPRoute", "httproutes", Namespace, Prune),
    kind(KTHENA, "v1alpha1", "ModelServer", "modelservers", Namespace, Prune),
    kind(KTHENA, "v1alpha1", "ModelRoute", "modelroutes", Namespace, Prune),
];

impl Kind {
    /// Returns the kind of an object.
    pub(super) fn of(object: &ObjectId) -> Option<&'static Kind> {
        KINDS.iter().find(|k| k.kind == object.kind && k.group == object.group)
    }

    /// Returns a kind of the core group by name.
    pub(super) fn core(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|k| k.kind == name && k.group.is_empty())
    }

    /// Returns what one of its objects is called.
    pub(super) fn object(&self, namespace: String, name: String) -> ObjectId {
        ObjectId { group: self.group.to_owned(), kind: self.kind.to_owned(), namespace, name }
    }

    /// Returns `Kind.group`, as in ApplySet annotations.
    pub(super) fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// Returns whether requests are routed by its objects; Deployments and DaemonSets are counted otherwise.
    pub(super) fn routes(&self) -> bool {
        matches!(
            self.kind,
            "Service"
                | "GatewayClass"
                | "Gateway"
                | "InferencePool"
                | "HTTPRoute"
                | "ModelServer"
                | "ModelRoute"
        )
    }

    /// Returns its API, in a namespace where it has one.
    pub(super) fn api(&self, client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(self.group, self.version, self.kind),
            self.plural,
        );
        match (self.scope, namespace) {
            (Scope::Namespace, namespace) if !namespace.is_empty() => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
            _ => Api::all_with(client.clone(), &resource),
        }
    }
}

/// Returns the API of nodes, unstructured.
pub(super) fn node_api(client: &kube::Client) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Node"), "nodes");
    Api::all_with(client.clone(), &resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extra_kind_can_be_applied_and_pruned() {
        for (version, name) in crate::inventory::EXTRA_KINDS {
            let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
            let kind = KINDS.iter().find(|k| k.kind == name && k.group == group).expect(name);
            assert_eq!((kind.version, kind.scope, kind.leftovers), (version, Namespace, Prune), "{name}");
        }
    }
}
