//! Kernel modules and accelerator tools of a host: what a driver package makes loadable, what is loaded, and what
//! nvidia-smi and neuron-ls say of it.

use super::common::{Ended, Failed, Settings, fail, has, here, load, plain, request, save, settings_of};
use super::mig::{self, Mig};
use super::nics;
use super::packages::{Package, installed};
use crate::lab::hardware_fault::HardwareFault;
use crate::lab::machine;
use crate::lab::request::Request;
use crate::lab::spec::Hardware;
use std::collections::BTreeMap;
use std::path::Path;

type Modules = BTreeMap<String, String>;

/// Returns the version of a module that is loaded when it is asked for: what was built, or an older one that lies in its way.
fn provided(root: &Path, settings: &Settings, module: &str) -> Option<String> {
    let built = built(root, settings, module)?;
    let old = settings.hardware_faults().find_map(|f| match f {
        HardwareFault::NeuronDriver(version) => Some(version.clone()),
        _ => None,
    });
    Some(old.filter(|_| module == "neuron").unwrap_or(built))
}

/// Returns the version of a module that was built of the installed packages.
fn built(root: &Path, settings: &Settings, module: &str) -> Option<String> {
    if matches!(module, "nvidia" | "neuron" | "efa") && has(settings, &HardwareFault::DkmsSkipped) {
        return None;
    }
    let packages: BTreeMap<String, Package> = load(root, "packages.json");
    let upstream = |version: &str| version.split(['-', '+']).next().unwrap_or_default().to_owned();
    let by = |matches: &dyn Fn(&str) -> bool| {
        packages.iter().find(|(name, _)| matches(name)).map(|(_, p)| upstream(&p.version))
    };
    match module {
        "nvidia" => by(&|n| {
            n.starts_with("nvidia-dkms")
                || n.starts_with("nvidia-open")
                || n.starts_with("kmod-nvidia")
                || n.starts_with("cuda-drivers")
        }),
        "neuron" => by(&|n| n == "aws-neuronx-dkms"),
        "nvidia_uvm" => built(root, settings, "nvidia").map(|_| String::new()),
        // A module calls itself by its package's version and a letter.
        "efa" => by(&|n| n == "efa").map(|version| version + "g"),
        "overlay" | "br_netfilter" | "ib_umad" | "ib_uverbs" | "rdma_ucm" | "mlx5_core" | "mlx5_ib" => {
            Some(String::new())
        }
        _ => None,
    }
}

/// Shows the loaded modules where programs look for them. `dir` is the host's folder from outside, or none from inside.
fn publish(root: &Path, proc_modules: &Path, modules: &Modules) {
    let lines: String = modules.keys().map(|m| format!("{m} 16384 0 - Live 0x0000000000000000\n")).collect();
    let _ = std::fs::write(proc_modules, lines);
    let folder = root.join("sys/module");
    let _ = std::fs::remove_dir_all(&folder);
    for (module, version) in modules {
        let module = folder.join(module);
        let _ = std::fs::create_dir_all(&module);
        let _ = std::fs::write(module.join("initstate"), "live\n");
        if !version.is_empty() {
            let _ = std::fs::write(module.join("version"), format!("{version}\n"));
        }
    }
    save(root, "modules.json", modules);
    devices(root, modules.contains_key("neuron"));
    nics::publish(root, modules);
}

/// Writes the sysfs files of the Neuron driver.
fn devices(root: &Path, driven: bool) {
    let folder = root.join("sys/devices/virtual/neuron_device");
    let _ = std::fs::remove_dir_all(&folder);
    let Some(settings) = settings_of(root).filter(|_| driven) else { return };
    let Some(hardware) = settings.hardware.as_ref().filter(|h| h.vendor == "neuron") else { return };
    for n in 0..present(&settings, hardware) {
        let stats = folder.join(format!("neuron{n}/stats/hardware"));
        let _ = std::fs::create_dir_all(stats.join("health_status"));
        let errors = if n == 0 && has(&settings, &HardwareFault::Ecc) { "3\n" } else { "0\n" };
        let _ = std::fs::write(stats.join("mem_ecc_uncorrected"), errors);
        let _ = std::fs::write(stats.join("sram_ecc_uncorrected"), "0\n");
        let _ = std::fs::write(stats.join("mem_ecc_repairable_uncorrected"), "0\n");
        let _ = std::fs::write(stats.join("health_status/unhealthy_components"), "\n");
    }
}

/// Returns how many accelerators are there.
fn present(settings: &Settings, hardware: &Hardware) -> u32 {
    hardware.count - u32::from(has(settings, &HardwareFault::Missing)).min(hardware.count)
}

fn answering(settings: &Settings, modules: &Modules) -> u32 {
    let Some(hardware) = &settings.hardware else { return 0 };
    let module = if hardware.vendor == "nvidia" { "nvidia" } else { "neuron" };
    if modules.contains_key(module) { present(settings, hardware) } else { 0 }
}

/// Says what a device plugin would find.
fn tell(settings: &Settings, modules: &Modules) {
    let count = answering(settings, modules);
    let _ = request(&Request::Accelerators { count, mig: instances(here(), count) });
}

/// Returns the instances of split GPUs that answer, by profile.
fn instances(root: &Path, count: u32) -> BTreeMap<String, u32> {
    let mig = Mig::of(root);
    if mig.enabled && count > 0 { mig.counts() } else { BTreeMap::new() }
}

/// Loads what is configured to be loaded at boot. Returns how many accelerators answer, and instances by profile.
pub(super) fn boot(dir: &Path) -> (u32, BTreeMap<String, u32>) {
    let root = dir.join("root");
    let Some(settings) = settings_of(&root) else { return (0, BTreeMap::new()) };
    mig::boot(&root);
    let newest = std::fs::read_dir(root.join("boot")).into_iter().flatten().flatten();
    let newest = newest
        .filter_map(|e| e.file_name().to_string_lossy().strip_prefix("vmlinuz-").map(str::to_owned))
        .max();
    if let Some(release) = newest {
        // A host whose folders are gone boots no kernel.
        let _ = machine::boot(dir, &release);
    }
    let mut modules = Modules::new();
    if has(&settings, &HardwareFault::Nouveau) {
        modules.insert("nouveau".to_owned(), String::new());
    }
    let folder = root.join("etc/modules-load.d");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        for module in std::fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            if let Some(version) = provided(&root, &settings, module.trim()) {
                modules.insert(module.trim().to_owned(), version);
            }
        }
    }
    publish(&root, &dir.join("proc/modules"), &modules);
    let count = answering(&settings, &modules);
    let mig = instances(&root, count);
    (count, mig)
}

pub(super) fn loaded() -> Modules {
    load(here(), "modules.json")
}

/// `modprobe`.
pub(super) fn modprobe(settings: &Settings, arguments: &[&str]) -> Ended {
    let mut modules = loaded();
    for module in plain(arguments, &[]) {
        if modules.contains_key(module) {
            continue;
        }
        if module == "nvidia" && modules.contains_key("nouveau") {
            return fail(1, "modprobe: ERROR: could not insert 'nvidia': No such device");
        }
        let Some(version) = provided(here(), settings, module) else {
            let what = format!("Module {module} not found in directory /lib/modules/LAB");
            return fail(1, format!("modprobe: FATAL: {what}"));
        };
        modules.insert(module.to_owned(), version);
    }
    loaded_now(settings, &modules)
}

/// Shows what is loaded now, and what a device plugin would find of it.
fn loaded_now(settings: &Settings, modules: &Modules) -> Ended {
    publish(here(), Path::new("/proc/modules"), modules);
    tell(settings, modules);
    Ok(())
}

/// `rmmod`.
pub(super) fn rmmod(settings: &Settings, arguments: &[&str]) -> Ended {
    let mut modules = loaded();
    for module in plain(arguments, &[]) {
        if modules.remove(module).is_none() {
            return fail(1, format!("rmmod: ERROR: Module {module} is not currently loaded"));
        }
    }
    loaded_now(settings, &modules)
}

/// `lsmod`.
pub(super) fn lsmod() -> Ended {
    println!("Module                  Size  Used by");
    for module in loaded().keys() {
        println!("{module:<22} 16384  0");
    }
    Ok(())
}

/// `dkms status [-k KERNEL]` and `dkms autoinstall`.
pub(super) fn dkms(settings: &Settings, arguments: &[&str]) -> Ended {
    let kernel = arguments.iter().skip_while(|a| **a != "-k").nth(1).unwrap_or(&"LAB");
    if arguments.first() == Some(&"autoinstall") && has(settings, &HardwareFault::DkmsSkipped) {
        return fail(11, format!("Error! Your kernel headers for kernel {kernel} cannot be found"));
    }
    for (module, name) in [("nvidia", "nvidia"), ("neuron", "aws-neuronx"), ("efa", "efa")] {
        if let Some(version) = built(here(), settings, module) {
            let version = version.trim_end_matches('g');
            println!("{name}/{version}, {kernel}, x86_64: installed");
        }
    }
    Ok(())
}

/// `nvidia-ctk cdi generate --output=FILE`.
pub(super) fn nvidia_ctk(arguments: &[&str]) -> Ended {
    let Some(file) = arguments.iter().find_map(|a| a.strip_prefix("--output=")) else {
        return Ok(());
    };
    let Some(version) = loaded().get("nvidia").cloned() else {
        return fail(1, "failed to initialize NVML: Driver Not Loaded");
    };
    let text = format!(
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n# LAB\n- hostPath: /usr/lib/libnvidia-ml.so.{version}\n"
    );
    std::fs::write(file, text).or_else(|error| fail(1, format!("failed to write {file}: {error}")))
}

/// `nvidia-smi`: the list, the version, and queries of a few fields.
pub(super) fn nvidia_smi(settings: &Settings, arguments: &[&str]) -> Ended {
    let modules = loaded();
    let (Some(hardware), Some(version)) =
        (settings.hardware.as_ref().filter(|h| h.vendor == "nvidia"), modules.get("nvidia"))
    else {
        let advice = "Make sure that the latest NVIDIA driver is installed and running.\n";
        let why = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.";
        return fail(9, format!("{why} {advice}"));
    };
    if arguments.iter().any(|a| a.starts_with("--query-compute-apps")) {
        return Ok(()); // nothing runs on them
    }
    if has(settings, &HardwareFault::DriverMismatch) {
        let newer = version.rsplit_once('.').map_or(version.as_str(), |(head, _)| head);
        println!("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {newer}");
        return fail(18, "");
    }
    let gpus = present(settings, hardware);
    if let Some(ended) = mig::run(settings, arguments, gpus) {
        tell(settings, &modules);
        return ended;
    }
    let split = Mig::of(here());
    let query = arguments.iter().find_map(|a| a.strip_prefix("--query-gpu="));
    let stuck = has(settings, &HardwareFault::FabricStuck);
    for index in 0..gpus {
        let unwell = |fault: &HardwareFault| index == 0 && has(settings, fault);
        let uuid = format!("GPU-00000000-0000-4000-8000-{index:012x}");
        match query {
            None => {
                println!("GPU {index}: {} (UUID: {uuid})", hardware.name);
                for (n, profile) in split.instances.get(&index).into_iter().flatten().enumerate() {
                    println!(
                        "  MIG {profile:<11} Device {n:>2}: (UUID: MIG-00000000-0000-4000-{index:04x}-{n:012x})"
                    );
                }
            }
            Some(fields) => {
                let values: Vec<String> = fields
                    .split(',')
                    .map(|field| match field {
                        "index" => index.to_string(),
                        "name" => hardware.name.clone(),
                        "uuid" => uuid.clone(),
                        "driver_version" => version.clone(),
                        "memory.total" => format!("{} MiB", hardware.memory_mib),
                        "pci.bus_id" => format!("00000000:{:02X}:00.0", 0x0c + index),
                        "mig.mode.current" | "mig.mode.pending" if split.enabled => "Enabled".to_owned(),
                        "mig.mode.current" | "mig.mode.pending" => "Disabled".to_owned(),
                        "fabric.state" if stuck => "In Progress".to_owned(),
                        "fabric.status" if stuck => "N/A".to_owned(),
                        "fabric.state" => "Completed".to_owned(),
                        "fabric.status" => "Success".to_owned(),
                        "ecc.errors.uncorrected.volatile.total" if unwell(&HardwareFault::Ecc) => {
                            "3".to_owned()
                        }
                        "ecc.errors.uncorrected.volatile.total" => "0".to_owned(),
                        "remapped_rows.pending" if unwell(&HardwareFault::RemapPending) => "Yes".to_owned(),
                        "remapped_rows.pending" | "remapped_rows.failure" => "No".to_owned(),
                        _ => "[N/A]".to_owned(),
                    })
                    .collect();
                println!("{}", values.join(", "));
            }
        }
    }
    Ok(())
}

/// `neuron-ls -j`.
pub(super) fn neuron_ls(settings: &Settings) -> Ended {
    let modules = loaded();
    let Some(hardware) =
        settings.hardware.as_ref().filter(|h| h.vendor == "neuron" && modules.contains_key("neuron"))
    else {
        return fail(1, "neuron-ls: error: no neuron device found (driver missing)");
    };
    let devices: Vec<serde_json::Value> = (0..present(settings, hardware))
        .map(|n| {
            serde_json::json!({"neuron_device": n, "bdf": format!("{:02x}:00.0", 0x0c + n), "cpu_affinity": "0-15",
                "numa_node": "0", "connected_to": [], "nc_count": 4, "logical_neuroncore_config": 2,
                "memory_size": hardware.memory_mib << 20, "neuroncore_ids": [n * 4, n * 4 + 1, n * 4 + 2, n * 4 + 3],
                "neuron_processes": []})
        })
        .collect();
    print!("{}", serde_json::Value::Array(devices));
    Ok(())
}

/// `efa_installer.sh`, by its version: the driver's package, and one that hands GPU memory to it.
pub(super) fn efa_installer(settings: &Settings, arguments: &[&str]) -> Ended {
    let Some((version, options)) = arguments.split_first() else { return fail(1, "") };
    if !options.contains(&"--yes") && !options.contains(&"-y") {
        return fail(1, "This script will install the EFA kernel driver. Do you wish to continue? [y/N]");
    }
    println!(
        "= Starting Amazon Elastic Fabric Adapter Installation Script =\n= EFA Installer Version: {version} ="
    );
    let mut packages = installed();
    for (name, version) in [("efa", "3.1.0-1"), ("efa-nv-peermem", "1.2.3-1"), ("rdma-core", "63.0-1")] {
        packages.insert(name.to_owned(), Package { version: version.to_owned(), held: false });
    }
    save(here(), "packages.json", &packages);
    let written = std::fs::create_dir_all("/opt/amazon")
        .and_then(|()| {
            let text = format!(
                "# EFA installer version: {version}\n# Debug packages installed: no\n# Packages installed:\n\
                 efa_3.1.0-1.amzn1_all efa-nv-peermem_1.2.3-1.amzn1_all rdma-core_63.0-1\n"
            );
            std::fs::write("/opt/amazon/efa_installed_packages", text)
        })
        .and_then(|()| std::fs::create_dir_all("/etc/modules-load.d"))
        .and_then(|()| std::fs::write("/etc/modules-load.d/efa_nv_peermem.conf", "efa_nv_peermem\n"));
    if let Err(error) = written {
        return fail(1, format!("Error: failed to write installed packages file. {error}"));
    }
    // The real one does not look at what modprobe says either.
    for module in ["ib_uverbs", "efa"] {
        if let Err(Failed(_, said)) = modprobe(settings, &[module]) {
            eprintln!("{said}");
        }
    }
    println!("EFA installation complete.");
    Ok(())
}
