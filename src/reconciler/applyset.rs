//! What is managed in the cluster: an ApplySet (KEP-3659), which `kubectl` understands too. A ConfigMap is the parent,
//! every object that we created carries its id; objects with it that are no longer wanted are pruned. Objects that existed
//! before are adopted: updated, but never labelled or removed.

use super::kinds::{KINDS, Kind, Leftovers};
use crate::state::{Object, ObjectId, Orphan, Ready, Resource, ResourceId, Spec, Stage};
use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Field manager of everything that we apply.
pub(super) const MANAGER: &str = "provision";
/// On every member of the set.
const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// On what was there before us.
const ADOPTED: &str = "provision.dev/adopted";
/// Where parents live.
const NAMESPACE: &str = "provision-system";

/// The set of one inventory's objects.
#[derive(Clone, Debug)]
pub(super) struct ApplySet {
    parent: String,
    id: String,
}

impl ApplySet {
    /// Returns the set of an inventory.
    pub(super) fn new(inventory: &str) -> Self {
        let parent = format!("applyset-{inventory}");
        // KEP-3659: base64url of sha256 of name.namespace.kind.group, without padding.
        let digest = Sha256::digest(format!("{parent}.{NAMESPACE}.ConfigMap."));
        let id = format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest));
        Self { parent, id }
    }

    /// Returns the parent and its namespace, to be applied before the members.
    pub(super) fn parents(&self, desired: &[Resource]) -> Vec<Resource> {
        let (mut kinds, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for resource in desired {
            let Spec::Object(object) = &resource.spec else { continue };
            let object_id = ObjectId::of(&object.manifest);
            let Some(kind) = Kind::of(&object_id).filter(|k| k.leftovers == Leftovers::Prune) else {
                continue;
            };
            kinds.insert(kind.group_kind());
            if !object_id.namespace.is_empty() && object_id.namespace != NAMESPACE {
                namespaces.insert(object_id.namespace);
            }
        }
        if kinds.is_empty() {
            return Vec::new();
        }
        let joined = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(",");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let parent = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.parent, "namespace": NAMESPACE,
            "labels": {"applyset.kubernetes.io/id": self.id},
            "annotations": {"applyset.kubernetes.io/tooling": "provision/v1",
                "applyset.kubernetes.io/contains-group-kinds": joined(kinds),
                "applyset.kubernetes.io/additional-namespaces": joined(namespaces)}}});
        [namespace, parent]
            .map(|manifest| {
                let object = Object { stage: Stage::Base, manifest, ready: Ready::Accepted };
                Resource::new("applyset", Spec::Object(Box::new(object)))
            })
            .to_vec()
    }

    /// Returns what picks members in a list.
    pub(super) fn selector(&self) -> String {
        format!("{PART_OF}={}", self.id)
    }

    /// Returns whether an object is a member.
    pub(super) fn holds(&self, live: &Value) -> bool {
        live["metadata"]["labels"][PART_OF] == self.id
    }

    /// Returns a manifest as it is applied onto what is there now: a member, or adopted.
    pub(super) fn applied(&self, manifest: &Value, live: Option<&Value>) -> Value {
        let mut manifest = manifest.clone();
        let object_id = ObjectId::of(&manifest);
        let prunable = Kind::of(&object_id).is_some_and(|k| k.leftovers == Leftovers::Prune);
        let parent = object_id.namespace == NAMESPACE && object_id.name == self.parent;
        if !prunable || parent {
            return manifest;
        }
        let adopted = live.is_some_and(|live| {
            let ours = live["metadata"]["managedFields"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|m| m["manager"] == MANAGER && m["operation"] == "Apply");
            !self.holds(live) && (!ours || live["metadata"]["annotations"][ADOPTED] == "true")
        });
        if adopted {
            manifest["metadata"]["annotations"][ADOPTED] = json!("true");
        } else {
            manifest["metadata"]["labels"][PART_OF] = json!(self.id);
        }
        manifest
    }

    /// Returns members that nothing wants any more, in the order in which such kinds are made.
    pub(super) fn orphans(members: Vec<ObjectId>, desired: &[Resource]) -> Vec<Orphan> {
        let wanted: BTreeSet<&ResourceId> = desired.iter().map(|r| &r.id).collect();
        let rank = |id: &ObjectId| KINDS.iter().position(|k| k.kind == id.kind && k.group == id.group);
        let mut members = members;
        members.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        members.dedup();
        let ids = members.into_iter().map(ResourceId::Object).filter(|id| !wanted.contains(id));
        ids.map(|id| Orphan { id, hazards: Vec::new(), managed: None }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"}})
    }

    #[test]
    fn the_id_is_what_kubectl_computes() {
        // printf %s applyset-lab.provision-system.ConfigMap. | sha256sum | xxd -r -p | base64 | tr +/ -_ | tr -d =
        let set = ApplySet::new("lab");
        assert_eq!(set.id, "applyset-Zt-tNUjWwkPZ1bJk8uiS-TS9TiUjYr77JAm52tlgjNE-v1");
        assert!(set.id.len() <= 63, "a label value");
    }

    #[test]
    fn what_was_there_before_us_is_adopted_for_good() {
        let set = ApplySet::new("lab");
        let fresh = set.applied(&service(), None);
        assert!(set.holds(&fresh), "what we make is ours");
        let mut foreign = service();
        foreign["metadata"]["managedFields"] = json!([{"manager": "kubectl", "operation": "Update"}]);
        let mut adopted = set.applied(&service(), Some(&foreign));
        assert!(!set.holds(&adopted));
        adopted["metadata"]["managedFields"] = json!([{"manager": MANAGER, "operation": "Apply"}]);
        assert!(!set.holds(&set.applied(&service(), Some(&adopted))), "also the second time");
        let mut stripped = fresh.clone();
        stripped["metadata"]["labels"] = json!({});
        stripped["metadata"]["managedFields"] = json!([{"manager": MANAGER, "operation": "Apply"}]);
        assert!(set.holds(&set.applied(&service(), Some(&stripped))), "a label taken off is put back");
    }

    #[test]
    fn namespaces_and_definitions_are_never_members() {
        let set = ApplySet::new("lab");
        for kind in ["Namespace", "CustomResourceDefinition"] {
            let manifest = json!({"kind": kind, "metadata": {"name": "x"}});
            assert_eq!(set.applied(&manifest, None), manifest);
        }
    }

    #[test]
    fn orphans_are_listed_so_that_their_reverse_is_the_order_of_removal() {
        let object_id = |id: &str| match id.parse() {
            Ok(ResourceId::Object(id)) => id,
            other => panic!("{other:?}"),
        };
        let members = [
            "ModelRoute.networking.serving.volcano.sh/models/a-x",
            "Deployment.apps/models/x",
            "ModelServer.networking.serving.volcano.sh/models/x",
            "Service/b/a",
            "RuntimeClass.node.k8s.io/nvidia",
        ];
        let desired = [Resource::new(
            "t",
            Spec::Object(Box::new(Object {
                stage: Stage::Base,
                manifest: service(),
                ready: Ready::Accepted,
            })),
        )];
        let orphans = ApplySet::orphans(members.map(object_id).to_vec(), &desired);
        let ids: Vec<String> = orphans.iter().map(|o| o.id.what()).collect();
        assert_eq!(
            ids,
            ["RuntimeClass nvidia", "Deployment models/x", "ModelServer models/x", "ModelRoute models/a-x"]
        );
    }
}
