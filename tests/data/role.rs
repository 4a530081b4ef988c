//! Data tests of `role`: what a host should have, from facts.

use provision::artifact::{Lock, Locked};
use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::role::{RoleInput, desired};
use provision::state::{Content, Facts, Failure, PackageManager, PciFunction, Resource, Spec};
use std::path::Path;

fn inventory(k0s: &str, catalog: &Catalog) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/lab/inventory.yaml");
    let text = std::fs::read_to_string(example).expect("the example").replace("v1.35.7+k0s.0", k0s);
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    load(&dir.path().join("site.yaml"), catalog).unwrap_or_else(|d| panic!("{d}")).inventory
}

fn facts(gpus: usize) -> Facts {
    let gpu = PciFunction {
        vendor: "10de".into(),
        device: "2330".into(),
        class: "030200".into(),
        ..PciFunction::default()
    };
    Facts {
        kernel_name: "Linux".into(),
        arch: "x86_64".into(),
        os: [("ID", "debian"), ("VERSION_ID", "12")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        package_manager: Some(PackageManager::Apt),
        systemd: true,
        pci: vec![gpu; gpus],
        ..Facts::default()
    }
}

fn wanted(k0s: &str, host: &str, gpus: usize) -> Result<Vec<Resource>, Vec<Failure>> {
    let catalog = Catalog::builtin().expect("the catalog");
    let inventory = inventory(k0s, &catalog);
    let locked =
        Locked { version: "x".into(), urls: vec!["http://m/x".into()], sha256: "0".repeat(64), size: 1 };
    let mut lock = Lock::default();
    for artifact in catalog.artifacts() {
        lock.artifacts.insert(artifact.name.clone(), locked.clone());
    }
    let host = &inventory.hosts[host];
    desired(&RoleInput { inventory: &inventory, catalog: &catalog, lock: &lock, host, facts: &facts(gpus) })
}

fn file(resources: &[Resource], path: &str) -> String {
    resources
        .iter()
        .find_map(|r| match &r.spec {
            Spec::File(file) if file.path == path => match &file.content {
                Content::Text(text) => Some(text.clone()),
                Content::Secret(_) => None,
            },
            _ => None,
        })
        .unwrap_or_else(|| panic!("{path} is wanted"))
}

#[test]
fn the_containerd_drop_in_follows_the_k0s_line() {
    let path = "/etc/k0s/containerd.d/nvidia.toml";
    let old = file(&wanted("v1.35.7+k0s.0", "h-1", 8).expect("wanted"), path);
    assert!(old.starts_with("version = 2\n") && old.contains("io.containerd.grpc.v1.cri"), "{old}");
    // containerd 2.3 of k0s 1.36 refuses the other form, and k0s does not start.
    let new = file(&wanted("v1.36.3+k0s.2", "h-1", 8).expect("wanted"), path);
    assert!(new.starts_with("version = 3\n") && !new.contains("io.containerd.grpc.v1.cri"), "{new}");
}

#[test]
fn the_drop_in_comes_before_the_unit_and_the_driver_before_k0s() {
    let resources = wanted("v1.35.7+k0s.0", "h-1", 8).expect("wanted");
    let at = |id: &str| resources.iter().position(|r| r.id.as_str() == id).unwrap_or_else(|| panic!("{id}"));
    let order = [
        "hostname/self",
        "package/nvidia-open-580",
        "reboot/nvidia",
        "kernel-module/nvidia",
        "download//usr/local/bin/k0s",
        "file//etc/k0s/containerd.d/nvidia.toml",
        "command/k0s-token",
        "command/k0s-install",
        "unit/k0sworker.service",
        "command/k0s-ready",
    ];
    let places: Vec<usize> = order.iter().map(|id| at(id)).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(resources[at("command/k0s-token")].late[0].as_str(), "token/worker");
}

#[test]
fn what_is_declared_must_be_on_the_bus() {
    let failures = wanted("v1.35.7+k0s.0", "h-1", 7).expect_err("one is missing");
    assert_eq!(failures[0].code, "E-ACCEL-MISMATCH");
    assert!(failures[0].message.contains("7 x h100-sxm5-80gb found"), "{}", failures[0].message);
}

#[test]
fn the_first_controller_joins_nobody() {
    let resources = wanted("v1.35.7+k0s.0", "cp-1", 0).expect("wanted");
    assert!(resources.iter().all(|r| r.late.is_empty()));
    let config = file(&resources, "/etc/k0s/k0s.yaml");
    assert!(
        config.contains("\"podCIDR\": \"10.240.0.0/16\"")
            && config.contains("\"peerAddress\": \"127.77.0.11\""),
        "{config}"
    );
}
