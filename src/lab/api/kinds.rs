//! Which kinds the API serves: the built-in table, and what CustomResourceDefinitions add.

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
    /// Where `/scale` finds its numbers.
    pub scale: Option<Scale>,
    /// The OpenAPI schema, for custom kinds.
    pub schema: Option<Arc<Value>>,
}

/// JSON pointers behind the scale subresource.
#[derive(Clone, PartialEq, Debug)]
pub struct Scale {
    /// Wanted replicas.
    pub spec: String,
    /// Counted replicas.
    pub status: String,
    /// The selector, as text in custom kinds.
    pub selector: Option<String>,
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

    /// Returns the subresources of a version and the verbs they take.
    pub fn subresources(&self, version: &Version) -> Vec<(&'static str, &'static [&'static str])> {
        const READ_WRITE: &[&str] = &["get", "patch", "update"];
        let mut found = Vec::new();
        if version.status {
            found.push(("status", READ_WRITE));
        }
        if version.scale.is_some() {
            found.push(("scale", READ_WRITE));
        }
        match self.id.as_str() {
            "pods" => {
                found.push(("binding", &["create"]));
                found.push(("eviction", &["create"]));
                found.push(("log", &["get"]));
            }
            "namespaces" => found.push(("finalize", &["update"])),
            _ => {}
        }
        found
    }
}

const NAMESPACED: u8 = 1;
const STATUS: u8 = 2;
const SCALE: u8 = 4;

/// (group, version, plural, kind, short names, flags)
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, u8);

const BUILT_IN: &[Row] = &[
    ("", "v1", "configmaps", "ConfigMap", "cm", NAMESPACED),
    ("", "v1", "endpoints", "Endpoints", "ep", NAMESPACED),
    ("", "v1", "events", "Event", "ev", NAMESPACED),
    ("", "v1", "limitranges", "LimitRange", "limits", NAMESPACED),
    ("", "v1", "namespaces", "Namespace", "ns", STATUS),
    ("", "v1", "nodes", "Node", "no", STATUS),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc", NAMESPACED | STATUS),
    ("", "v1", "persistentvolumes", "PersistentVolume", "pv", STATUS),
    ("", "v1", "pods", "Pod", "po", NAMESPACED | STATUS),
    ("", "v1", "resourcequotas", "ResourceQuota", "quota", NAMESPACED | STATUS),
    ("", "v1", "secrets", "Secret", "", NAMESPACED),
    ("", "v1", "serviceaccounts", "ServiceAccount", "sa", NAMESPACED),
    ("", "v1", "services", "Service", "svc", NAMESPACED | STATUS),
    (
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        "",
        0,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        "",
        STATUS,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "",
        0,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "",
        0,
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd,crds",
        STATUS,
    ),
    ("apiregistration.k8s.io", "v1", "apiservices", "APIService", "", STATUS),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", "", NAMESPACED),
    ("apps", "v1", "daemonsets", "DaemonSet", "ds", NAMESPACED | STATUS),
    ("apps", "v1", "deployments", "Deployment", "deploy", NAMESPACED | STATUS | SCALE),
    ("apps", "v1", "replicasets", "ReplicaSet", "rs", NAMESPACED | STATUS | SCALE),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", "csr", STATUS),
    ("coordination.k8s.io", "v1", "leases", "Lease", "", NAMESPACED),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "", NAMESPACED),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "netpol", NAMESPACED),
    ("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", "", 0),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", NAMESPACED | STATUS),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", "", 0),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", "", 0),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", "", NAMESPACED),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", "", NAMESPACED),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "pc", 0),
    ("storage.k8s.io", "v1", "csidrivers", "CSIDriver", "", 0),
    ("storage.k8s.io", "v1", "csinodes", "CSINode", "", 0),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", "sc", 0),
];

/// Kinds that a real API serves and the lab does not: asked for, they are named instead of missing.
const NOT_SIMULATED: &[(&str, &str)] = &[
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("apps", "statefulsets"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("events.k8s.io", "events"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Says whether a real API serves this kind and the lab does not.
pub fn is_left_out(group: &str, plural: &str) -> bool {
    NOT_SIMULATED.contains(&(group, plural))
}

/// The kinds served now.
#[derive(Clone, Debug)]
pub struct Kinds {
    all: HashMap<String, Arc<Kind>>,
}

impl Kinds {
    /// Returns the built-in kinds.
    pub fn built_in() -> Self {
        let all = BUILT_IN
            .iter()
            .map(|(group, version, plural, kind, short, flags)| {
                let scale = (flags & SCALE != 0).then(|| Scale {
                    spec: "/spec/replicas".into(),
                    status: "/status/replicas".into(),
                    selector: None,
                });
                let version =
                    Version { name: (*version).into(), status: flags & STATUS != 0, scale, schema: None };
                let id = id(group, plural);
                let kind = Kind {
                    group: (*group).into(),
                    plural: (*plural).into(),
                    singular: kind.to_lowercase(),
                    kind: (*kind).into(),
                    id: id.clone(),
                    namespaced: flags & NAMESPACED != 0,
                    short_names: short.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
                    versions: vec![version],
                    custom: false,
                };
                (id, Arc::new(kind))
            })
            .collect();
        Self { all }
    }

    /// Returns a kind by group and plural.
    pub fn find(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.all.get(&id(group, plural)).cloned()
    }

    /// Says whether anything of a group is served, or would be by a real API.
    pub fn serves(&self, group: &str) -> bool {
        self.all.values().any(|kind| kind.group == group) || NOT_SIMULATED.iter().any(|(g, _)| *g == group)
    }

    /// Returns a kind by `plural.group`.
    pub fn by_id(&self, id: &str) -> Option<Arc<Kind>> {
        self.all.get(id).cloned()
    }

    /// Returns all kinds, by group and plural.
    pub fn sorted(&self) -> Vec<Arc<Kind>> {
        let mut all: Vec<_> = self.all.values().cloned().collect();
        all.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        all
    }

    /// Serves a kind, or its new definition.
    pub fn add(&mut self, kind: Kind) {
        self.all.insert(kind.id.clone(), Arc::new(kind));
    }

    /// Serves a custom kind no more.
    pub fn remove(&mut self, id: &str) {
        self.all.remove(id);
    }
}

fn id(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// Reads a kind out of a CustomResourceDefinition; `None` when it serves nothing.
pub fn from_definition(definition: &Value) -> Option<Kind> {
    let spec = definition.get("spec")?;
    let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut versions: Vec<_> = spec
        .get("versions")?
        .as_array()?
        .iter()
        .filter(|v| v["served"] == Value::Bool(true))
        .map(|v| Version {
            name: v["name"].as_str().unwrap_or_default().to_owned(),
            status: v.pointer("/subresources/status").is_some(),
            scale: v.pointer("/subresources/scale").map(|scale| {
                let pointer = |key: &str| scale[key].as_str().map(|path| path.replace('.', "/"));
                Scale {
                    spec: pointer("specReplicasPath").unwrap_or_default(),
                    status: pointer("statusReplicasPath").unwrap_or_default(),
                    selector: pointer("labelSelectorPath"),
                }
            }),
            schema: v.pointer("/schema/openAPIV3Schema").map(|s| Arc::new(s.clone())),
        })
        .collect();
    if versions.is_empty() {
        return None;
    }
    versions.sort_by_key(|v| std::cmp::Reverse(age(&v.name)));
    let (group, plural) = (text("/group"), text("/names/plural"));
    let kind = text("/names/kind");
    let singular = match text("/names/singular") {
        empty if empty.is_empty() => kind.to_lowercase(),
        singular => singular,
    };
    Some(Kind {
        id: id(&group, &plural),
        group,
        plural,
        singular,
        kind,
        namespaced: text("/scope") == "Namespaced",
        short_names: spec
            .pointer("/names/shortNames")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default(),
        versions,
        custom: true,
    })
}

/// Orders versions as Kubernetes does: stable before beta before alpha, then the higher number.
pub fn age(version: &str) -> (u8, u32, u32) {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let rest = version.strip_prefix('v').unwrap_or(version);
    let major = digits(rest);
    let tail = &rest[major.len()..];
    let (level, minor) = if let Some(n) = tail.strip_prefix("beta") {
        (1, n)
    } else if let Some(n) = tail.strip_prefix("alpha") {
        (0, n)
    } else {
        (2, "")
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
