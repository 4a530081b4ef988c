//! What is ours in the cluster: kubectl's ApplySet (KEP-3659), so that `kubectl` can tell too. A ConfigMap is the parent,
//! every object that we created carries its id; what carries it and is wanted no more is pruned. What was there before
//! us is adopted: brought to what is wanted, never labelled, never removed.

use super::kinds::{KINDS, Kind, Leftovers, Place};
use crate::state::{Managed, Object, Ready, Resource, Spec, Stage};
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
    pub fn new(inventory: &str) -> Self {
        let parent = format!("applyset-{inventory}");
        // KEP-3659: base64url of sha256 of name.namespace.kind.group, without padding.
        let digest = Sha256::digest(format!("{parent}.{NAMESPACE}.ConfigMap."));
        let id = format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest));
        Self { parent, id }
    }

    /// Returns the parent and its namespace, to be applied before the members.
    pub fn parents(&self, desired: &[Resource]) -> Vec<Resource> {
        let (mut kinds, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for resource in desired {
            let Spec::Object(object) = &resource.spec else { continue };
            let place = Place::of(&object.manifest);
            let Some(kind) = Kind::named(&place.kind).filter(|k| k.leftovers == Leftovers::Prune) else {
                continue;
            };
            kinds.insert(kind.group_kind());
            if !place.namespace.is_empty() && place.namespace != NAMESPACE {
                namespaces.insert(place.namespace);
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
    pub fn selector(&self) -> String {
        format!("{PART_OF}={}", self.id)
    }

    /// Returns whether an object is a member.
    pub fn holds(&self, live: &Value) -> bool {
        live["metadata"]["labels"][PART_OF] == self.id
    }

    /// Returns a manifest as it is applied onto what is there now: a member, or adopted.
    pub fn applied(&self, manifest: &Value, live: Option<&Value>) -> Value {
        let mut manifest = manifest.clone();
        let place = Place::of(&manifest);
        let prunable = Kind::named(&place.kind).is_some_and(|k| k.leftovers == Leftovers::Prune);
        let parent = place.namespace == NAMESPACE && place.name == self.parent;
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
    pub fn orphans(members: Vec<Place>, desired: &[Resource]) -> Vec<Managed> {
        let wanted: BTreeSet<&str> = desired.iter().map(|r| r.id.as_str()).collect();
        let rank = |place: &Place| KINDS.iter().position(|k| k.kind == place.kind);
        let mut orphans: Vec<Place> =
            members.into_iter().filter(|p| !wanted.contains(p.id().as_str())).collect();
        orphans.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        orphans.dedup();
        orphans
            .into_iter()
            .map(|place| Managed {
                kind: "object".to_owned(),
                id: place.id(),
                hash: String::new(),
                undo: None,
                adopted: false,
            })
            .collect()
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
        let place = |id: &str| Place::from_id(id).expect("an id");
        let members = [
            "ModelRoute/models/a-x",
            "Deployment/models/x",
            "ModelServer/models/x",
            "Service/b/a",
            "RuntimeClass/nvidia",
        ];
        let desired = [Resource::new(
            "t",
            Spec::Object(Box::new(Object {
                stage: Stage::Base,
                manifest: service(),
                ready: Ready::Accepted,
            })),
        )];
        let orphans = ApplySet::orphans(members.map(place).to_vec(), &desired);
        let ids: Vec<&str> = orphans.iter().map(|m| m.id.as_str()).collect();
        assert_eq!(
            ids,
            ["RuntimeClass/nvidia", "Deployment/models/x", "ModelServer/models/x", "ModelRoute/models/a-x"]
        );
    }
}
