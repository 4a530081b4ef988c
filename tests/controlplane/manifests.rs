//! Every manifest that is rendered for every example inventory, against a real API with strict field validation, with the
//! definitions of Gateway API, Inference Extension and Kthena as upstream ships them; and the whole of `inventories/lab`,
//! from definitions to available engines.

use super::contract::Site;
use super::contract::rest::{Rest, text};
use super::kit::{converge, steps, target};
use super::nodes::Kubelet;
use super::servers::ControlPlane;
use super::{Test, assets, tests};
use provision::catalog::Catalog;
use provision::event::Events;
use provision::inventory::{Inventory, load};
use provision::reconciler::nodes;
use provision::serving::{ServingInput, desired};
use provision::state::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub fn tests() -> Vec<Test> {
    tests!(manifests:
        definitions_are_those_of_the_catalog,
        every_manifest_of_every_example_is_accepted_and_stays,
        the_lab_inventory_is_brought_up_whole,
    )
    .to_vec()
}

const EXAMPLES: [&str; 5] = ["lab", "three-nodes", "h100-rack", "trn2-ultraserver", "mixed"];

fn catalog() -> Catalog {
    Catalog::builtin().expect("the catalog")
}

fn example(name: &str) -> Inventory {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories").join(name);
    load(&path, &catalog()).unwrap_or_else(|d| panic!("{}", d.render(false))).inventory
}

fn wanted(inventory: &Inventory, crds: &[Value]) -> Vec<Resource> {
    let tokens = inventory.secrets.keys().map(|k| (k.to_string(), SecretText::new("hf_of_a_test"))).collect();
    desired(&ServingInput { inventory, catalog: &catalog(), crds: crds.to_vec(), tokens }).expect("objects")
}

fn manifest(resource: &Resource) -> &Value {
    let Spec::Object(object) = &resource.spec else { panic!("{} is no object", resource.id) };
    &object.manifest
}

/// Returns the path of an object and of its collection.
fn paths(manifest: &Value) -> (String, String) {
    let plural = match manifest["kind"].as_str().expect("a kind") {
        "RuntimeClass" => "runtimeclasses".to_owned(),
        "NetworkPolicy" => "networkpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let version = text(manifest, "/apiVersion");
    let root = if version.contains('/') { "apis" } else { "api" };
    let all = match manifest["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    };
    (format!("{all}/{}", text(manifest, "/metadata/name")), all)
}

pub async fn definitions_are_those_of_the_catalog(_: &ControlPlane) {
    let catalog = catalog();
    let release = catalog.kthena("v1.0.0").expect("the release");
    assert_eq!(assets::definition_version("github.com/volcano-sh/kthena"), "v1.0.0");
    assert_eq!(assets::definition_version("sigs.k8s.io/gateway-api"), release.gateway_api);
    let extension = assets::definition_version("sigs.k8s.io/gateway-api-inference-extension");
    assert_eq!(extension, release.inference_extension);
}

pub async fn every_manifest_of_every_example_is_accepted_and_stays(plane: &ControlPlane) {
    let rest = Rest::new(&plane.kubeconfig(), "");
    let crds = assets::definitions().expect("definitions");
    let mut kinds = BTreeSet::new();
    for name in EXAMPLES {
        let mut all = wanted(&example(name), &crds);
        // Nothing runs here: that it is accepted is what is asked.
        for resource in &mut all {
            resource.deadline_s = 60;
            if let Spec::Object(object) = &mut resource.spec
                && object.ready == Ready::Available
            {
                object.ready = Ready::Accepted;
            }
        }
        // The set is that of the lab in each: one inventory is one cluster, and this is one cluster.
        let cluster = target(plane, "examples", all.clone(), Events::none());
        converge(&cluster).await;
        for resource in &all {
            let manifest = manifest(resource);
            kinds.insert(text(manifest, "/kind"));
            let (one, all) = paths(manifest);
            let live = rest.get(&one).await.expect(200);
            // A whole object is decoded more strictly than an apply: each field must be known by name.
            let mut fresh = manifest.clone();
            fresh["metadata"].as_object_mut().expect("metadata").remove("name");
            fresh["metadata"]["generateName"] = json!("strict-");
            if fresh["kind"] != "CustomResourceDefinition" && fresh["kind"] != "Service" {
                let path = format!("{all}?fieldValidation=Strict&dryRun=All");
                let made = rest.post(&path, &fresh).await;
                assert_eq!(made.code, 201, "{name}: {}: {:#}", resource.id, made.body);
            }
            lost(&format!("{name}: {}", resource.id), manifest, &live);
        }
        println!("    {name}: {} objects", all.len());
    }
    // Of all kinds that any template makes.
    let expected = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "Gateway",
        "ModelRoute",
        "ModelServer",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "RuntimeClass",
        "Secret",
        "Service",
        "ServiceAccount",
    ];
    let seen: Vec<&str> = kinds.iter().map(String::as_str).collect();
    assert_eq!(seen, expected);
    // A bad route is refused by its real schema.
    let route = json!({"apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
        "metadata": {"name": "bad", "namespace": "default"}, "spec": {"modelName": "m"}});
    let path = "/apis/networking.serving.volcano.sh/v1alpha1/namespaces/default/modelroutes";
    rest.post(path, &route).await.refused(422, "Invalid", "spec.rules: Required value");
    converge(&target(plane, "examples", Vec::new(), Events::none())).await;
}

/// Asserts that the API kept everything that a manifest says.
fn lost(place: &str, wanted: &Value, live: &Value) {
    match wanted {
        Value::Object(map) => {
            for (key, value) in map {
                // A quantity may be written in another way.
                if matches!(key.as_str(), "limits" | "requests" | "sizeLimit") {
                    assert!(live.get(key).is_some(), "{place}.{key} is gone");
                    continue;
                }
                lost(&format!("{place}.{key}"), value, live.get(key).unwrap_or(&Value::Null));
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                lost(&format!("{place}[{n}]"), item, live.get(n).unwrap_or(&Value::Null));
            }
        }
        other => assert_eq!(other, live, "{place}"),
    }
}

pub async fn the_lab_inventory_is_brought_up_whole(plane: &ControlPlane) {
    let rest = Rest::new(&plane.kubeconfig(), "");
    let inventory = example("lab");
    let crds = assets::definitions().expect("definitions");
    // In the order of an apply: device plugins before nodes, engines after them.
    let late = |r: &Resource| matches!(&r.spec, Spec::Object(o) if o.stage >= Stage::Engine);
    let (engines, mut all): (Vec<_>, Vec<_>) = wanted(&inventory, &crds).into_iter().partition(late);
    all.extend(nodes(&inventory));
    all.extend(engines);
    for resource in &mut all {
        resource.deadline_s = 120;
    }
    let names: Vec<String> = all
        .iter()
        .filter_map(|r| match &r.spec {
            Spec::Node(node) => Some(node.name.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(names.len(), 4, "all but the controller");
    let starting = json!([{"key": "provision.dev/starting", "value": "true", "effect": "NoSchedule"}]);
    let kubelet = Kubelet::start(&rest, &names, starting).await;
    let cluster = target(plane, &inventory.name, all.clone(), Events::none());
    let todo = steps(&cluster).await;
    let enacting = async { cluster.enact(&todo, &StepOutputs::new()).await };
    // Device plugins report when their pods run, which the real controllers make and the real scheduler places.
    let plugging = async {
        let mut left: BTreeMap<String, (String, u64)> = BTreeMap::new();
        for resource in &all {
            let Spec::Node(node) = &resource.spec else { continue };
            left.extend(
                node.allocatable.iter().map(|(key, count)| (node.name.clone(), (key.clone(), *count))),
            );
        }
        assert_eq!(left.len(), 3);
        while !left.is_empty() {
            let pods = rest.get("/api/v1/namespaces/kube-system/pods").await.expect(200);
            for pod in pods["items"].as_array().into_iter().flatten() {
                let plugin = text(pod, "/spec/containers/0/image").contains("device-plugin");
                if !plugin || pod["status"]["phase"] != "Running" {
                    continue;
                }
                if let Some((key, count)) = left.remove(&text(pod, "/spec/nodeName")) {
                    let status = json!({"status": {"capacity": {&key: count.to_string()}, "allocatable": {&key: count.to_string()}}});
                    let path = format!("/api/v1/nodes/{}/status", text(pod, "/spec/nodeName"));
                    rest.merge(&path, &status).await.expect(200);
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let (enacted, ()) = tokio::join!(enacting, plugging);
    enacted.expect("enacted");
    assert_eq!(steps(&cluster).await, [], "the second plan is empty");
    for resource in &all {
        let Spec::Object(object) = &resource.spec else { continue };
        if object.ready == Ready::Available && object.manifest["kind"] == "Deployment" {
            let (one, _) = paths(&object.manifest);
            let live = rest.get(&one).await.expect(200);
            assert_eq!(live["status"]["availableReplicas"], live["spec"]["replicas"], "{}", resource.id);
        }
    }
    let gone = target(plane, &inventory.name, Vec::new(), Events::none());
    converge(&gone).await;
    kubelet.end(&rest, &names).await;
}
