//! What the accelerator roles need to know beyond a template: repositories by operating system, package names by driver
//! branch, fabric daemons by what is on the bus.

use super::context::download;
use super::desired::RoleInput;
use crate::catalog::Fabric;
use crate::inventory::{Accelerator, ModuleFlavour};
use crate::state::{Facts, Failure, PackageManager};
use serde_json::{Value, json};

/// The operating systems that NVIDIA's repository has folders for and that AWS tests its driver on, by their names in
/// NVIDIA's repository (accelerators.md §1.5, §2.2).
pub(super) const REPOSITORIES: [&str; 5] = ["debian12", "ubuntu2204", "ubuntu2404", "rhel9", "amzn2023"];

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
    let Some(Accelerator::Nvidia { product, driver, module, .. }) =
        &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let Some(product) = input.catalog.product(product) else { return Value::Null };
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    let system = repository(input.facts).unwrap_or_default();
    let Some(names) = input.catalog.packages_of(system, branch) else { return Value::Null };
    let open = match module {
        Some(flavour) => *flavour == ModuleFlavour::Open,
        None => product.open_by_default(branch),
    };
    let named = |names: &[String]| -> Vec<String> {
        names.iter().map(|name| name.replace("{branch}", &branch.to_string())).collect()
    };
    let switch = input.facts.pci.iter().any(|f| input.catalog.is_switch(&f.vendor, &f.device));
    let nvlsm = product.fabric == Fabric::FabricManagerNvlsm;
    let fabric_manager = nvlsm || (product.fabric == Fabric::FabricManager && switch);
    // Everything of one version: a fabric manager of another refuses to start (gpu-operator#544).
    let mut driver_packages = named(if open { &names.open } else { &names.closed });
    driver_packages.push(names.persistenced.clone());
    let mut fabric_packages = Vec::new();
    if fabric_manager {
        fabric_packages.extend(named(&names.fabric_manager));
    }
    if nvlsm && input.facts.arch == "x86_64" {
        fabric_packages.extend(named(&names.nvlsm));
    }
    let imex = product.fabric == Fabric::Imex;
    if imex {
        fabric_packages.extend(named(&names.imex));
    }
    json!({
        "driver": driver,
        "branch": branch,
        "open": open,
        "driver_packages": driver_packages,
        "fabric_packages": fabric_packages,
        "loose_packages": if nvlsm { named(&names.loose) } else { Vec::new() },
        "stream": names.stream.as_ref().map(|s| {
            s.replace("{branch}", &branch.to_string()) + if open { "-open" } else { "-dkms" }
        }),
        "fabric_manager": fabric_manager,
        "nvlsm": nvlsm,
        "imex": imex,
        "arch": product.arch,
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}

/// Returns `neuron`: null on hosts without Neuron devices.
pub(super) fn neuron(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Neuron { product, sdk, lnc, .. }) =
        &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let (Some(product), Some(row)) = (input.catalog.product(product), input.catalog.neuron_sdk(sdk)) else {
        return Value::Null;
    };
    json!({
        "driver": row.driver,
        "tools": row.tools,
        // Two joined cores are what images are compiled for (Neuron documents, default on Trn2 and Trn3).
        "logical_cores": product.logical_cores.last().map(|most| lnc.unwrap_or(*most)),
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}
