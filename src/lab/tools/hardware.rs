//! Kernel modules and accelerator tools of a host: what a driver package makes loadable, what is loaded, and what
//! nvidia-smi and neuron-ls say of it.

use super::packages::Package;
use super::{Settings, fail, here, load, request, save};
use crate::lab::host::Request;
use crate::lab::spec::Hardware;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

type Modules = BTreeMap<String, String>;

/// Returns the version of a module that the installed packages provide.
fn provided(root: &Path, module: &str) -> Option<String> {
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
        "overlay" | "br_netfilter" | "ib_umad" | "mlx5_core" | "mlx5_ib" => Some(String::new()),
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
}

fn answering(root: &Path, hardware: Option<&Hardware>, modules: &Modules) -> u32 {
    let Some(hardware) = hardware else { return 0 };
    let _ = root;
    let module = if hardware.vendor == "nvidia" { "nvidia" } else { "neuron" };
    if modules.contains_key(module) { hardware.count } else { 0 }
}

/// Loads what is configured to be loaded at boot. Returns how many accelerators answer.
pub(super) fn boot(dir: &Path) -> u32 {
    let root = dir.join("root");
    let mut modules = Modules::new();
    let folder = root.join("etc/modules-load.d");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        for module in std::fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            if let Some(version) = provided(&root, module.trim()) {
                modules.insert(module.trim().to_owned(), version);
            }
        }
    }
    publish(&root, &dir.join("proc/modules"), &modules);
    let settings: Option<Settings> = std::fs::read_to_string(root.join("var/lib/lab/settings.json"))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok());
    answering(&root, settings.and_then(|s| s.hardware).as_ref(), &modules)
}

fn loaded() -> Modules {
    load(here(), "modules.json")
}

/// `modprobe`.
pub(super) fn modprobe(settings: &Settings, arguments: &[&str]) -> ExitCode {
    let mut modules = loaded();
    for module in arguments.iter().filter(|a| !a.starts_with('-')) {
        if modules.contains_key(*module) {
            continue;
        }
        let Some(version) = provided(here(), module) else {
            return fail(
                1,
                format!("modprobe: FATAL: Module {module} not found in directory /lib/modules/LAB"),
            );
        };
        modules.insert((*module).to_owned(), version);
    }
    publish(here(), Path::new("/proc/modules"), &modules);
    let _ =
        request(&Request::Accelerators { count: answering(here(), settings.hardware.as_ref(), &modules) });
    ExitCode::SUCCESS
}

/// `rmmod`.
pub(super) fn rmmod(arguments: &[&str]) -> ExitCode {
    let mut modules = loaded();
    for module in arguments.iter().filter(|a| !a.starts_with('-')) {
        if modules.remove(*module).is_none() {
            return fail(1, format!("rmmod: ERROR: Module {module} is not currently loaded"));
        }
    }
    publish(here(), Path::new("/proc/modules"), &modules);
    ExitCode::SUCCESS
}

/// `lsmod`.
pub(super) fn lsmod() -> ExitCode {
    println!("Module                  Size  Used by");
    for module in loaded().keys() {
        println!("{module:<22} 16384  0");
    }
    ExitCode::SUCCESS
}

/// `dkms status`.
pub(super) fn dkms() -> ExitCode {
    for module in ["nvidia", "neuron"] {
        if let Some(version) = provided(here(), module) {
            println!("{module}/{version}, LAB, x86_64: installed");
        }
    }
    ExitCode::SUCCESS
}

/// `nvidia-smi`: the list, the version, and queries of a few fields.
pub(super) fn nvidia_smi(settings: &Settings, arguments: &[&str]) -> ExitCode {
    let modules = loaded();
    let (Some(hardware), Some(version)) =
        (settings.hardware.as_ref().filter(|h| h.vendor == "nvidia"), modules.get("nvidia"))
    else {
        return fail(
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n",
        );
    };
    let query = arguments.iter().find_map(|a| a.strip_prefix("--query-gpu="));
    for index in 0..hardware.count {
        let uuid = format!("GPU-00000000-0000-4000-8000-{index:012x}");
        match query {
            None => println!("GPU {index}: {} (UUID: {uuid})", hardware.name),
            Some(fields) => {
                let values: Vec<String> = fields
                    .split(',')
                    .map(|field| match field {
                        "index" => index.to_string(),
                        "name" => hardware.name.clone(),
                        "uuid" => uuid.clone(),
                        "driver_version" => version.clone(),
                        "memory.total" => format!("{} MiB", hardware.memory_mib),
                        "fabric.state" => "Completed".to_owned(),
                        "fabric.status" => "Success".to_owned(),
                        _ => "[N/A]".to_owned(),
                    })
                    .collect();
                println!("{}", values.join(", "));
            }
        }
    }
    ExitCode::SUCCESS
}

/// `neuron-ls -j`.
pub(super) fn neuron_ls(settings: &Settings, _: &[&str]) -> ExitCode {
    let modules = loaded();
    let Some(hardware) =
        settings.hardware.as_ref().filter(|h| h.vendor == "neuron" && modules.contains_key("neuron"))
    else {
        return fail(1, "neuron-ls: error: no neuron device found (driver missing)");
    };
    let devices: Vec<serde_json::Value> = (0..hardware.count)
        .map(|n| {
            serde_json::json!({"neuron_device": n, "bdf": format!("{:02x}:00.0", 0x0c + n), "cpu_affinity": "0-15",
                "numa_node": "0", "connected_to": [], "nc_count": 4, "logical_neuroncore_config": 2,
                "memory_size": hardware.memory_mib << 20, "neuroncore_ids": [n * 4, n * 4 + 1, n * 4 + 2, n * 4 + 3],
                "neuron_processes": []})
        })
        .collect();
    print!("{}", serde_json::Value::Array(devices));
    ExitCode::SUCCESS
}
