//! The rows of the catalog. Owns shapes and the questions one row can answer; loading is in `load`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who makes an accelerator.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Vendor {
    /// NVIDIA, PCI vendor 10de.
    Nvidia,
    /// AWS Annapurna (Neuron), PCI vendor 1d0f.
    Neuron,
}

/// Whether NVIDIA's open kernel modules know a part.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OpenModule {
    /// Only the closed flavour works.
    Unsupported,
    /// Both work; open is preferred.
    #[default]
    Supported,
    /// Only the open flavour works.
    Required,
}

/// What connects the accelerators of a host, and so which daemons it needs.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Fabric {
    /// Nothing, or links that need no daemon.
    #[default]
    None,
    /// NVSwitch up to the third generation: Fabric Manager, only where a switch is on the bus.
    FabricManager,
    /// NVSwitch of the fourth generation: Fabric Manager and the NVLink subnet manager.
    FabricManagerNvlsm,
    /// NeuronLink; the driver does it.
    NeuronLink,
}

/// A PCI identity; all four hex digits, lower case.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PciId {
    /// Vendor id.
    pub vendor: String,
    /// Device id.
    pub device: String,
    /// Subsystem vendor, where the device id alone is two products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvendor: Option<String>,
    /// Subsystem device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdevice: Option<String>,
}

/// An accelerator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Product {
    /// Kebab-case key, such as `h100-sxm5-80gb`.
    pub slug: String,
    /// The vendor's name.
    pub name: String,
    /// Who makes it.
    pub vendor: Vendor,
    /// Architecture, such as `hopper` or `trainium2`.
    pub arch: String,
    /// Marketing memory in GiB; for display, never compared with what a driver reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<u32>,
    /// Its PCI ids.
    pub pci: Vec<PciId>,
    /// Which NVIDIA module flavours work.
    #[serde(default)]
    pub open_module: OpenModule,
    /// Fabric.
    #[serde(default)]
    pub fabric: Fabric,
    /// Earliest NVIDIA driver branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_branch: Option<u32>,
    /// Last NVIDIA driver branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_branch: Option<u32>,
    /// How long a reboot of a host with it may take, in seconds.
    pub reboot_deadline_s: u64,
    /// Where the row comes from.
    pub source: String,
}

/// An NVIDIA driver branch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DriverBranch {
    /// Such as 580.
    pub branch: u32,
    /// `long-term`, `production` or `new-feature`.
    pub kind: String,
    /// End of life, `YYYY-MM`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eol: Option<String>,
    /// The newest release known.
    pub latest: String,
    /// The newest CUDA major that it runs natively.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<u32>,
    /// Where the row comes from.
    pub source: String,
}

/// A Neuron SDK release.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NeuronSdk {
    /// Such as `2.32.0`.
    pub sdk: String,
    /// Version of `aws-neuronx-dkms`.
    pub driver: String,
    /// Version of `aws-neuronx-tools`; any version where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// Products that it serves models on.
    pub products: Vec<String>,
    /// Products whose hosts may run its driver, though its serving images do not support them.
    #[serde(default)]
    pub host_products: Vec<String>,
    /// Where the row comes from.
    pub source: String,
}

/// A k0s minor.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct K0sLine {
    /// Such as `1.35`.
    pub minor: String,
    /// Major version of the embedded containerd: 1 takes `version = 2` drop-ins, 2 refuses them.
    pub containerd: u32,
    /// Releases that can be asked for.
    pub versions: Vec<String>,
    /// Releases that must not be used, and why.
    #[serde(default)]
    pub refused: BTreeMap<String, String>,
    /// Where the row comes from.
    pub source: String,
}

/// A Kthena release.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KthenaRelease {
    /// Such as `v1.0.0`; upstream tags carry the `v`.
    pub version: String,
    /// The router's image.
    pub router_image: String,
    /// Gateway API release that it was tested with.
    pub gateway_api: String,
    /// Inference Extension release that it was tested with.
    pub inference_extension: String,
    /// Where the row comes from.
    pub source: String,
}

/// Something that runs in the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// Such as `nvidia-device-plugin`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its image.
    pub image: String,
    /// Where the row comes from.
    pub source: String,
}

/// A file that is fetched by lock file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactSource {
    /// Its key in the lock file, such as `k0s-x86_64`.
    pub name: String,
    /// Its version; `cluster` means the inventory's k0s version.
    pub version: String,
    /// Where upstream publishes it; `{version}` is filled in.
    pub url: String,
    /// Upstream's list of sha256 sums, if it publishes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<String>,
}

/// The key of the taint that every node joins with and keeps until its gates have passed.
pub const STARTING_TAINT_KEY: &str = "provision.dev/starting";

/// The same taint as `k0s --taints` and the API write it.
pub const STARTING_TAINT: &str = "provision.dev/starting=true:NoSchedule";

/// The node label that says which device plugin a node wants: `nvidia` or `neuron`.
pub const ACCELERATOR_LABEL: &str = "provision.dev/accelerator";

/// The node label that carries the pool.
pub const POOL_LABEL: &str = "provision.dev/pool";
