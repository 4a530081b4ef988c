//! Hosts with accelerators: a PCI tree of plain files that is mounted over the kernel's at every boot.

use super::boot::Setup;
use super::{HUB, MIRROR, vendors};

/// A kernel log without the machine's own.
const DMESG: &str = "#!/bin/sh\ncat /run/fleet-kernel/log 2>/dev/null; true\n";

/// Shell that makes a PCI function.
fn function(address: &str, vendor: &str, device: &str, class: &str) -> String {
    let subsystem = if vendor == "0x10de" { "0x16c1" } else { "0x7364" };
    let files = [
        ("vendor", vendor),
        ("device", device),
        ("class", class),
        ("subsystem_vendor", vendor),
        ("subsystem_device", subsystem),
        ("numa_node", "0"),
        ("current_link_width", "16"),
        ("max_link_width", "16"),
        ("current_link_speed", "32.0 GT/s PCIe"),
        ("max_link_speed", "32.0 GT/s PCIe"),
    ];
    let written = files.iter().map(|(name, text)| format!("echo '{text}' >$d/{name}; "));
    format!("d=/opt/fake/pci/{address}; mkdir -p $d; {}\n", written.collect::<String>())
}

impl Setup {
    /// What every host with accelerators has here: the vendors' names, headers to be had, space for a build.
    fn accelerated(mut self, count: u32) -> Self {
        self.accelerators = Some(count);
        let hosts: String = vendors::NAMES.iter().map(|name| format!("{HUB} {name}\n")).collect();
        self.disk("12g").file("/usr/local/bin/dmesg", "755", DMESG).prepare(&format!(
            "printf '%s' '{hosts}' >>/etc/hosts
             echo 'deb [trusted=yes] {MIRROR}/headers ./' >/etc/apt/sources.list.d/headers.list"
        ))
    }

    /// Eight H100 of an HGX board and its four NVSwitches.
    pub fn hgx_h100(self) -> Self {
        let gpus =
            (0..8).map(|n| function(&format!("0000:{:02x}:00.0", 0x1a + n), "0x10de", "0x2330", "0x030200"));
        let switches =
            (0..4).map(|n| function(&format!("0000:{:02x}:00.0", 0x5a + n), "0x10de", "0x22a3", "0x068000"));
        let script: String = gpus.chain(switches).collect();
        self.accelerated(8).prepare(&script)
    }

    /// Sixteen Trainium2, with what their driver shows in sysfs while it is loaded.
    pub fn trainium2(self) -> Self {
        let mut script = String::new();
        for n in 0..16 {
            script += &function(&format!("0000:{:02x}:00.0", 0x1a + n), "0x1d0f", "0x7364", "0x088000");
            script += &format!(
                "d=/opt/fake/virtual/neuron_device/neuron{n}/stats/hardware; mkdir -p $d/health_status
                 for f in mem_ecc_uncorrected sram_ecc_uncorrected mem_ecc_repairable_uncorrected; do echo 0 >$d/$f; done
                 echo >$d/health_status/unhealthy_components\n"
            );
        }
        self.accelerated(16).prepare(&script)
    }
}
