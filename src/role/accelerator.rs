//! Template values of the accelerator roles: repositories by operating system, package names by driver
//! branch, fabric daemons by the devices on the bus.

use super::health::{Links, QuickInput, forget, gate, isolate, needs_reboot, passed, quick, restart_app};
use super::input::{RoleInput, address, download, repository};
use super::{mig, rdma};
use crate::catalog::{Catalog, Fabric, version_cmp};
use crate::inventory::{Accelerator, ModuleFlavour};
use crate::state::{Failure, PackageManager};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeSet;

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

/// Returns the gate before a node takes work: passed once for a driver, a kernel and a number of devices.
fn standard(input: &RoleInput<'_>, look: QuickInput<'_>) -> Value {
    let release = input.inventory.pool_of(input.host).kernel.as_ref().unwrap_or(&input.facts.kernel);
    // By then they have their driver.
    let look = QuickInput { links: rdma::links(input), ..look };
    let key = format!("{} {} x {}, kernel {release}", look.driver, look.count, look.product.slug);
    json!({"passed": passed(&key), "gate": gate(look, &key), "forget": forget()})
}

/// Returns `nvidia`: null on hosts without NVIDIA GPUs.
pub(super) fn nvidia(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Nvidia { product, count, driver, module, mig: layout, diagnostics }) =
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
    let fabric_units = product.fabric_units(switch);
    let lockstep: Vec<&String> = driver_packages.iter().chain(&fabric_packages).collect();
    let mut units = vec!["nvidia-persistenced.service"];
    units.extend(fabric_units);
    let look = QuickInput {
        catalog: input.catalog,
        product: &product,
        count: *count,
        driver,
        units: &units,
        wait: false,
        mig: layout.as_ref().is_some_and(|l| l.values().any(|n| *n > 0)),
        links: Links::default(),
    };
    json!({
        "lockstep": lockstep,
        "fabric_units": fabric_units,
        "imex_nodes": imex_nodes(input),
        "needs_reboot": needs_reboot(input.catalog),
        "mig": layout.as_ref().zip(input.catalog.mig(&product.slug)).map(|(l, row)| mig::context(l, row)),
        "isolate": isolate(input.catalog),
        "restart_app": restart_app(input.catalog),
        "health": quick(look),
        "health_gate": quick(QuickInput { wait: true, ..look }),
        "standard": standard(input, look),
        "driver": driver,
        "dkms": dkms(&NVIDIA_DKMS, driver),
        "branch": branch,
        "open": open,
        "other_packages": other_packages(input, system, &driver_packages),
        "driver_packages": driver_packages,
        "fabric_packages": fabric_packages,
        "loose_packages": if nvlsm { named(&names.loose) } else { Vec::new() },
        "diagnostics": diagnostics,
        "dcgm_packages": dcgm_packages(input.catalog, branch, &product.arch),
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

/// Returns DCGM 4's packages for a driver branch; the names are the same for apt and dnf. Diagnostics are built for the CUDA major
/// that the driver runs (NVIDIA's DCGM documents, installation; Amazon Linux 2023's list of NVIDIA packages); of what CUDA 13 has
/// dropped, those for 12 run too (Azure/azhpc-images installs both for V100).
fn dcgm_packages(catalog: &Catalog, branch: u32, arch: &str) -> Vec<String> {
    let runs =
        catalog.cuda_floors().iter().filter(|floor| floor.branch <= branch).map(|floor| floor.cuda).max();
    let mut majors: Vec<u32> = runs.into_iter().collect();
    if runs.is_some_and(|cuda| cuda > LAST_CUDA_OF_OLD) && OLD_ARCHITECTURES.contains(&arch) {
        majors.push(LAST_CUDA_OF_OLD);
    }
    let of =
        |cuda: &u32| ["", "proprietary-"].map(|part| format!("datacenter-gpu-manager-4-{part}cuda{cuda}"));
    let common = ["core", "proprietary"].map(|part| format!("datacenter-gpu-manager-4-{part}"));
    common.into_iter().chain(majors.iter().flat_map(of)).collect()
}

/// The last CUDA major with code for these architectures (CUDA 13.0 release notes).
const LAST_CUDA_OF_OLD: u32 = 12;
const OLD_ARCHITECTURES: [&str; 3] = ["maxwell", "pascal", "volta"];

/// The names that packages of NVIDIA's module have in dkms; others (`nvidia-fs`, `nvidia-peermem`) are other modules.
const NVIDIA_DKMS: [&str; 6] =
    ["nvidia", "nvidia-open", "nvidia-current", "nvidia-current-open", "nvidia-srv", "nvidia-srv-open"];

/// Returns a pattern of `grep -E` for the lines of `dkms status` that show this version of a module as installed:
/// `NAME/VERSION, KERNEL, ARCH: installed`, with `NAME, VERSION` before dkms 3.
fn dkms(names: &[&str], version: &str) -> String {
    let version = version.replace('.', "[.]").replace('*', "[^,]*");
    format!("^({})[/,] ?{version}, .*: installed", names.join("|"))
}

/// Returns the driver packages of other branches and of the other flavour: two of them refuse each other, or leave a module
/// of the wrong one behind (deepops#1257).
fn other_packages(input: &RoleInput<'_>, system: &str, own: &[String]) -> Vec<String> {
    let mut others = BTreeSet::new();
    for row in input.catalog.branches() {
        let Some(names) = input.catalog.packages_of(system, row.branch) else { continue };
        let all = names.open.iter().chain(&names.closed);
        others.extend(all.map(|name| name.replace("{branch}", &row.branch.to_string())));
    }
    others.into_iter().filter(|name| !own.contains(name)).collect()
}

/// Returns the hosts that share memory over NVLink with this one, itself included: those of its pool in its rack.
fn imex_nodes(input: &RoleInput<'_>) -> String {
    let neighbours = input.inventory.hosts_of(&input.host.pool).filter(|h| h.rack == input.host.rack);
    neighbours.map(|h| format!("{}\n", address(h))).collect()
}

/// Returns the version of a package for any build of a release: AWS's packages of its tools carry a commit after it.
fn any_build(release: &str) -> String {
    format!("{}*", release.trim_end_matches('*'))
}

/// Returns the line of a version: `2.34` of `2.34.10`.
fn line(version: &str) -> Option<String> {
    let (major, rest) = version.split_once('.')?;
    Some(format!("{major}.{}", rest.split('.').next()?))
}

/// Returns `neuron`: null on hosts without Neuron devices.
pub(super) fn neuron(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Neuron { product, count, sdk, lnc, diagnostics }) =
        &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let (Some(product), Some(row)) = (input.catalog.product(product), input.catalog.neuron_sdk(sdk)) else {
        return Value::Null;
    };
    let driver = row.driver.as_deref().unwrap_or_default();
    let look = QuickInput {
        catalog: input.catalog,
        product: &product,
        count: *count,
        driver,
        units: &[],
        wait: false,
        mig: false,
        links: Links::default(),
    };
    // Modules fail to build on kernels that are newer than those they were tested on (aws-neuron-sdk#843).
    let system = repository(input.facts).unwrap_or_default();
    let release = input.inventory.pool_of(input.host).kernel.as_ref().unwrap_or(&input.facts.kernel);
    let tested = row.kernels.get(&product.slug).and_then(|systems| systems.get(system));
    let newer = tested.filter(|tested| version_cmp(release, tested) == Ordering::Greater);
    let kernel_note =
        newer.map(|tested| format!("kernel {release} is newer than {tested}, the newest tested kernel"));
    json!({
        "kernel_note": kernel_note,
        "sdk": sdk,
        "driver": driver,
        "dkms": dkms(&["aws-neuronx"], driver),
        // Versions of packages may go on after the release's own number.
        "driver_package": any_build(driver),
        "tools_package": row.tools.as_deref().map(any_build),
        "libraries_package": row.runtime.as_deref().filter(|_| *diagnostics).and_then(line).map(|line| format!("{line}.*")),
        "health": quick(look),
        "health_gate": quick(QuickInput { wait: true, ..look }),
        "standard": standard(input, look),
        // Two joined cores are what images are compiled for (Neuron documents, default on Trn2 and Trn3).
        "logical_cores": product.logical_cores.last().map(|most| lnc.unwrap_or(*most)),
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}
