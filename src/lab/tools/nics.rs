//! Network devices of a host, and the stand-in of the EFA installer: what it installs, and what it leaves behind.

use super::hardware::{has, modprobe, settings_of};
use super::packages::{Package, installed};
use super::{Settings, fail, here, save};
use crate::lab::hardware_fault::HardwareFault;
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;

/// Shows which devices are driven, and their ports.
pub(super) fn publish(root: &Path, modules: &BTreeMap<String, String>) {
    let class = root.join("sys/class/infiniband");
    let _ = std::fs::remove_dir_all(&class);
    let Some(settings) = settings_of(root) else { return };
    let Some((vendor, ..)) = settings.hardware.as_ref().and_then(|h| h.nics.clone()) else { return };
    let (driver, ports) = match vendor.as_str() {
        "1d0f" => ("efa", true),
        _ => ("mlx5_core", modules.contains_key("mlx5_ib")),
    };
    let is = |folder: &Path, name: &str, value: &str| {
        std::fs::read_to_string(folder.join(name)).is_ok_and(|text| text.trim().starts_with(value))
    };
    let devices = std::fs::read_dir(root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
    let mut devices: Vec<_> = devices
        .map(|e| e.path())
        .filter(|d| is(d, "vendor", &format!("0x{vendor}")) && is(d, "class", "0x02"))
        .collect();
    devices.sort();
    for (n, device) in devices.iter().enumerate() {
        let link = device.join("driver");
        let _ = std::fs::remove_file(&link);
        if !modules.contains_key(driver) {
            continue;
        }
        let target = format!("../../../../bus/pci/drivers/{driver}");
        let _ = symlink(&target, &link);
        if !ports {
            continue;
        }
        let name = if driver == "efa" { format!("rdmap{n}s0") } else { format!("mlx5_{n}") };
        let shown = class.join(name);
        let port = shown.join("ports/1");
        let _ = std::fs::create_dir_all(&port);
        let down = n == 0 && has(&settings, &HardwareFault::LinkDown);
        let _ = std::fs::write(port.join("state"), if down { "1: DOWN\n" } else { "4: ACTIVE\n" });
        let _ = std::fs::create_dir_all(shown.join("device"));
        let _ = symlink(&target, shown.join("device/driver"));
    }
}

/// `efa_installer.sh`, by its version: the driver's package, and one that hands GPU memory to it.
pub(super) fn efa_installer(settings: &Settings, arguments: &[&str]) -> ExitCode {
    let Some((version, options)) = arguments.split_first() else { return ExitCode::FAILURE };
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
    let _ = modprobe(settings, &["ib_uverbs"]);
    let _ = modprobe(settings, &["efa"]);
    println!("EFA installation complete.");
    ExitCode::SUCCESS
}
