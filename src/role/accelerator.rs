//! What the accelerator roles need to know beyond a template: repositories by operating system, package names by driver
//! branch, fabric daemons by what is on the bus.

use super::context::download;
use super::desired::RoleInput;
use crate::catalog::{Fabric, OpenModule};
use crate::inventory::Accelerator;
use crate::state::{Facts, Failure, PackageManager};
use serde_json::{Value, json};

/// The operating systems that NVIDIA's repository has folders for and that AWS tests its driver on, by their names in
/// NVIDIA's repository (accelerators.md §1.5, §2.2).
pub(super) const REPOSITORIES: [&str; 5] = ["debian12", "ubuntu2204", "ubuntu2404", "rhel9", "amzn2023"];

/// The NVSwitch generations that show on the bus (pciids: A100, H100).
const NVSWITCHES: [&str; 2] = ["1af1", "22a3"];

/// From this branch on, package names have lost the branch (Ubuntu 590 and later, accelerators.md §1.5).
const PLAIN_NAMES: u32 = 590;
/// From this branch on, Fabric Manager has one name everywhere.
const ONE_FABRIC_NAME: u32 = 580;

/// Returns the name of a host's operating system in NVIDIA's repository. Rebuilds of RHEL use RHEL's.
pub(super) fn repository(facts: &Facts) -> Option<&'static str> {
    let slug = facts.os_slug();
    let like = facts.os.get("ID_LIKE").map(String::as_str).unwrap_or_default();
    let version = facts.os.get("VERSION_ID").map(String::as_str).unwrap_or_default();
    let name = match slug.as_str() {
        _ if like.split_whitespace().any(|l| l == "rhel") && version.split('.').next() == Some("9") => {
            "rhel9"
        }
        slug => slug,
    };
    REPOSITORIES.into_iter().find(|known| *known == name)
}

/// Returns the signing keys that the host's accelerator role needs, by its name in the role.
pub(super) fn keys(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let apt = input.facts.package_manager != Some(PackageManager::Dnf);
    let key = |artifact: &str, name: &str| {
        let path = if apt {
            format!("/etc/apt/keyrings/{name}.asc")
        } else {
            format!("/etc/pki/rpm-gpg/RPM-GPG-KEY-{name}")
        };
        download(input, artifact, &path, 0o644)
    };
    Ok(match &input.inventory.pool_of(input.host).accelerator {
        Some(Accelerator::Nvidia { .. }) => json!({
            "cuda": key(if apt { "nvidia-cuda-key" } else { "nvidia-cuda-rpm-key" }, "nvidia-cuda")?,
            "toolkit": key("nvidia-toolkit-key", "nvidia-container-toolkit")?,
        }),
        Some(Accelerator::Neuron { .. }) => json!({"neuron": key("neuron-key", "neuron")?}),
        None => Value::Null,
    })
}

/// Returns `nvidia`: null on hosts without NVIDIA GPUs.
pub(super) fn nvidia(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Nvidia { product, driver, .. }) = &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let Some(product) = input.catalog.product(product) else { return Value::Null };
    let apt = input.facts.package_manager != Some(PackageManager::Dnf);
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let open = product.open_module != OpenModule::Unsupported;
    let name = if open { "nvidia-open" } else { "cuda-drivers" };
    // On RHEL the flavour is a module stream, and the kernel module a package of its own.
    let driver_packages = match (apt, open) {
        (true, _) if branch >= PLAIN_NAMES => vec![name.to_owned()],
        (true, _) => vec![format!("{name}-{branch}")],
        (false, true) => vec!["kmod-nvidia-open-dkms".to_owned(), "nvidia-driver-cuda".to_owned()],
        (false, false) => vec!["kmod-nvidia-latest-dkms".to_owned(), "nvidia-driver-cuda".to_owned()],
    };
    let fabric_package = match (apt, branch >= ONE_FABRIC_NAME) {
        (_, true) => "nvidia-fabricmanager".to_owned(),
        (true, false) => format!("nvidia-fabricmanager-{branch}"),
        (false, false) => "nvidia-fabric-manager".to_owned(),
    };
    let switch =
        input.facts.pci.iter().any(|f| f.vendor == "10de" && NVSWITCHES.contains(&f.device.as_str()));
    let nvlsm = product.fabric == Fabric::FabricManagerNvlsm;
    json!({
        "driver": driver,
        "driver_packages": driver_packages,
        "stream": if open { format!("{branch}-open") } else { format!("{branch}-dkms") },
        "fabric_manager": nvlsm || (product.fabric == Fabric::FabricManager && switch),
        "fabric_package": fabric_package,
        "nvlsm": nvlsm,
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}

/// Returns `neuron`: null on hosts without Neuron devices.
pub(super) fn neuron(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Neuron { product, sdk, .. }) = &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let (Some(product), Some(row)) = (input.catalog.product(product), input.catalog.neuron_sdk(sdk)) else {
        return Value::Null;
    };
    json!({
        "driver": row.driver,
        "tools": row.tools,
        "logical_cores": matches!(product.arch.as_str(), "trainium2" | "trainium3"),
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}
