//! Faults of simulated accelerators and of what their drivers need. They are there from the start and survive a reboot,
//! as a broken machine's do.

use serde::{Deserialize, Serialize};
use serde_json::json;

/// What is wrong with a host's hardware or driver.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum HardwareFault {
    /// No repository has headers of the running kernel.
    HeadersGone,
    /// The fabric never comes up: every GPU stays "In Progress".
    FabricStuck,
    /// The kernel log has this Xid as soon as the driver is loaded.
    Xid(u32),
    /// One accelerator is not on the bus.
    #[serde(rename = "device-missing")]
    Missing,
    /// The first accelerator has uncorrectable memory errors.
    Ecc,
    /// The first GPU waits for a reset to remap rows.
    RemapPending,
    /// The first GPU's PCIe link is at half its width.
    #[serde(rename = "pcie-width")]
    Pcie,
    /// Collectives are slower than on other hosts, and fast enough for the published floor.
    SlowCollective,
    /// Diagnostics and collectives fail, and a quick look sees nothing.
    #[serde(rename = "diag-fails")]
    Diagnostics,
    /// nouveau is loaded at every boot, whatever is blacklisted.
    Nouveau,
    /// The driver's libraries are of another version than its module, as after an unattended upgrade.
    DriverMismatch,
    /// The Neuron module that gets loaded is always this one.
    NeuronDriver(String),
    /// Secure Boot is on.
    SecureBoot,
    /// No repository has the wanted version of this package.
    NoVersion(String),
    /// One network device is not on the bus.
    NicMissing,
    /// The first network port is down.
    LinkDown,
    /// The module is not built, and the packages install all the same.
    DkmsSkipped,
}

/// The names, as they are written.
pub(super) const NAMES: &str = "headers-gone, fabric-stuck, xid:NUMBER, device-missing, ecc, remap-pending, pcie-width, slow-collective, diag-fails, nouveau, \
                         driver-mismatch, neuron-driver:VERSION, secure-boot, no-version:PACKAGE, dkms-skipped, nic-missing, link-down";

impl HardwareFault {
    /// Reads a kind and its argument; `None` if it is none of these.
    pub fn parse(kind: &str, argument: &str) -> Option<Self> {
        let value = match argument {
            "" => json!(kind),
            argument => json!({kind: argument.parse::<u32>().map_or_else(|_| json!(argument), |n| json!(n))}),
        };
        serde_json::from_value(value).ok()
    }
}
