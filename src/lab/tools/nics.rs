//! Network devices of a host: which are driven, and their ports.

use super::common::{has, settings_of};
use crate::lab::hardware_fault::HardwareFault;
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

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
