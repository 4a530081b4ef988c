//! `extraObjects`: Kubernetes objects that are applied after all others, as they are written.

use super::diagnostic::{Diagnostic, Problems};
use super::grammar::is_dns_label;
use super::model::Inventory;
use super::reader::Reader;
use super::tree::{Node, Value};
use crate::state::{ObjectId, shortened};
use std::collections::BTreeMap;

/// Kinds that may be given, with their `apiVersion`. What is of the whole cluster, or holds secrets, is not among them.
pub const EXTRA_KINDS: [(&str, &str); 12] = [
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("inference.networking.k8s.io/v1", "InferencePool"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("networking.serving.volcano.sh/v1alpha1", "ModelServer"),
    ("networking.serving.volcano.sh/v1alpha1", "ModelRoute"),
];
/// Where they are unless they say otherwise: beside models, gateways and routes.
pub const MODELS_NAMESPACE: &str = "models";
/// Objects of an inventory.
const MOST: usize = 256;
/// Size of an object, in bytes.
const MOST_BYTES: usize = 256 << 10;
/// What may stand in `metadata`.
const METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];
/// Prefixes of labels and annotations that are not free.
const RESERVED: [&str; 3] =
    ["applyset.kubernetes.io/", "provision.dev/", "kubectl.kubernetes.io/last-applied"];

const HINT: &str = "Write it as a manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {}}";

fn items(node: Option<&Node>) -> &[Node] {
    match node.map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

/// Reads the objects; one without a namespace gets that of the models.
pub(super) fn read(r: &Reader<'_>) -> Vec<serde_json::Value> {
    let objects = items(r.top.get("extraObjects")).iter().take(MOST);
    let objects = objects.filter(|item| item.size() <= MOST_BYTES).map(Node::json).map(|mut manifest| {
        if manifest["metadata"].is_object() && manifest["metadata"]["namespace"].is_null() {
            manifest["metadata"]["namespace"] = MODELS_NAMESPACE.into();
        }
        manifest
    });
    objects.filter(|manifest| manifest["metadata"].is_object()).collect()
}

/// Returns what is wrong with an object, and what to do.
fn fault(item: &Node, inventory: &Inventory) -> Option<(String, String)> {
    let text = |path: &[&str]| {
        let (last, above) = path.split_last()?;
        item.at(above).get(last).filter(|node| matches!(node.value, Value::Text(_)))?.text()
    };
    let said = |message: &str| Some((message.to_owned(), HINT.to_owned()));
    if item.size() > MOST_BYTES {
        return Some((format!("an object of over {} KiB", MOST_BYTES >> 10), "Split it".to_owned()));
    }
    let (Some(version), Some(kind)) = (text(&["apiVersion"]), text(&["kind"])) else {
        return said("an object without `apiVersion` or `kind`");
    };
    let both = format!("{version} {kind}");
    let shown = shortened(&both, 80);
    if !EXTRA_KINDS.contains(&(version.as_str(), kind.as_str())) {
        let all: Vec<String> =
            EXTRA_KINDS.iter().map(|(version, kind)| format!("{version} {kind}")).collect();
        return Some((format!("`{shown}` is not supported here"), format!("Use one of {}", all.join(", "))));
    }
    let Some(name) = text(&["metadata", "name"]) else { return said("an object without `metadata.name`") };
    if name.len() > 253 || !name.split('.').all(is_dns_label) {
        let message = format!("`{}` is not a name of an object", shortened(&name, 80));
        return Some((message, "Use lower-case letters, digits, `-` and `.`".to_owned()));
    }
    let metadata = item.at(&["metadata"]);
    if let Some(entry) = metadata.entries().iter().find(|e| !METADATA.contains(&e.key.as_str())) {
        let message = format!("`metadata.{}` cannot be set", shortened(&entry.key, 80));
        return Some((message, format!("Use only {}", METADATA.join(", "))));
    }
    let keys =
        ["labels", "annotations"].into_iter().filter_map(|key| metadata.get(key)).flat_map(Node::entries);
    if let Some(entry) = keys.into_iter().find(|e| RESERVED.iter().any(|prefix| e.key.starts_with(prefix))) {
        let message = format!("`{}` is reserved", shortened(&entry.key, 80));
        return Some((message, "Use a prefix of your own, such as example.com/".to_owned()));
    }
    if item.get("status").is_some() {
        return Some(("`status` cannot be set".to_owned(), "Remove it".to_owned()));
    }
    let namespace = match metadata.get("namespace") {
        None => MODELS_NAMESPACE.to_owned(),
        Some(_) => text(&["metadata", "namespace"]).unwrap_or_default(),
    };
    let ours = ["kthena-system", "provision-system"].contains(&namespace.as_str());
    if !is_dns_label(&namespace) || ours || namespace.starts_with("kube-") {
        let message = format!("objects in namespace `{}` are not supported", shortened(&namespace, 80));
        return Some((message, "Use `models` or a namespace of your own".to_owned()));
    }
    let of_router = ["gateway.", "inference.", "networking.serving."].iter().any(|g| version.starts_with(g));
    if of_router && inventory.router.is_none() {
        return Some((
            format!("`{shown}` requires `router`"),
            "Add router: {kthena: {version: v1.0.0}}".to_owned(),
        ));
    }
    if let Some(router) = inventory.router.as_ref().filter(|_| kind == "ModelServer")
        && item.at(&["spec"]).get("trafficPolicy").is_some()
    {
        let message = format!("Kthena {} ignores `spec.trafficPolicy`", router.version);
        return Some((message, "Remove it".to_owned()));
    }
    let taken = namespace == MODELS_NAMESPACE
        && match kind.as_str() {
            "Deployment" | "ModelServer" => inventory.models.contains_key(&name),
            "Gateway" => name.strip_prefix("tenant-").is_some_and(|t| inventory.tenants.contains_key(t)),
            _ => false,
        };
    taken.then(|| (format!("{kind} `{name}` is made from the inventory"), "Use another name".to_owned()))
}

/// Adds what is wrong with the objects.
pub(super) fn check(inventory: &Inventory, top: &Node, problems: &mut Problems) {
    let Some(node) = top.get("extraObjects") else { return };
    let all = items(Some(node));
    let mut error = |node: &Node, (message, hint): (String, String)| {
        problems.push(Diagnostic::error("E-EXTRA-OBJECT", message).at(&node.span).hint(hint));
    };
    if all.len() > MOST {
        error(
            node,
            (format!("{} objects, more than {MOST}", all.len()), "Use another tool for so many".to_owned()),
        );
    }
    let mut seen: BTreeMap<ObjectId, usize> = BTreeMap::new();
    for item in all.iter().take(MOST) {
        if let Some(fault) = fault(item, inventory) {
            error(item, fault);
            continue;
        }
        let mut manifest = item.json();
        if manifest["metadata"]["namespace"].is_null() {
            manifest["metadata"]["namespace"] = MODELS_NAMESPACE.into();
        }
        let id = ObjectId::of(&manifest);
        if let Some(line) = seen.insert(id, item.span.line) {
            let message = format!("the same object is also on line {line}");
            error(item, (message, "Remove one of the two".to_owned()));
        }
    }
}
