//! The rows of the catalog: their types, and queries on a single row. Loading is in `load`.

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
    /// The switches are in trays of their own (NVL72): a host needs the memory exchange daemon, and no Fabric Manager.
    Imex,
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
    /// First branch with the open flavour, where the closed one works on older branches too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_from: Option<u32>,
    /// Oldest Neuron driver that knows the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_driver: Option<String>,
    /// Last line of the Neuron driver that knows the device, such as `2.24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_driver: Option<String>,
    /// The most MIG instances of one; `None` where there is no MIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_instances: Option<u32>,
    /// The physical cores of a Neuron device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Logical core sizes that a Neuron device can be set to; empty where it cannot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logical_cores: Vec<u32>,
    /// The only architecture of hosts with it, as printed by `uname -m`; `None` if both exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_arch: Option<String>,
    /// How long a reboot of a host with it may take, in seconds.
    pub reboot_deadline_s: u64,
    /// Where the row comes from.
    pub source: String,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

impl Product {
    /// Returns whether one of its PCI ids has these, whatever the subsystem.
    pub fn has(&self, vendor: &str, device: &str) -> bool {
        self.pci.iter().any(|id| id.vendor == vendor && id.device == device)
    }

    /// Returns whether the open kernel modules are what a branch takes for it, unless the inventory says otherwise.
    pub fn open_by_default(&self, branch: u32) -> bool {
        self.open_module != OpenModule::Unsupported && self.open_from.is_none_or(|from| branch >= from)
    }

    /// Returns the systemd units of the daemons that its fabric needs, which have the driver's version; `switch` says
    /// whether an NVSwitch is on the bus (accelerators.md §1.7).
    pub fn fabric_units(&self, switch: bool) -> &'static [&'static str] {
        match self.fabric {
            Fabric::FabricManagerNvlsm => &["nvidia-fabricmanager.service"],
            Fabric::FabricManager if switch => &["nvidia-fabricmanager.service"],
            Fabric::Imex => &["nvidia-imex.service"],
            _ => &[],
        }
    }
}

impl NvidiaPackages {
    /// Returns whether the row is about a system and a branch.
    pub fn covers(&self, system: &str, branch: u32) -> bool {
        self.systems.iter().any(|s| s == system)
            && self.from.is_none_or(|from| branch >= from)
            && self.to.is_none_or(|to| branch <= to)
    }
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
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

/// The branch from which on only the open kernel modules exist.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenOnly {
    /// Such as 620.
    pub branch: u32,
    /// Where it comes from.
    pub source: String,
}

/// The first driver branch that runs a CUDA major.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CudaFloor {
    /// Such as 13.
    pub cuda: u32,
    /// Such as 580.
    pub branch: u32,
    /// Where the row comes from.
    pub source: String,
}

/// An NVSwitch that shows on the bus.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switch {
    /// PCI vendor.
    pub vendor: String,
    /// PCI device.
    pub device: String,
    /// The vendor's name.
    pub name: String,
    /// Where the row comes from.
    pub source: String,
}

/// Package names of the NVIDIA driver on some systems, for a range of branches. `{branch}` is filled in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NvidiaPackages {
    /// Such as `debian12`, by their names in NVIDIA's repository.
    pub systems: Vec<String>,
    /// First branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// Last branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
    /// The driver with open modules.
    pub open: Vec<String>,
    /// The driver with closed modules.
    pub closed: Vec<String>,
    /// Fabric Manager and what goes with it.
    pub fabric_manager: Vec<String>,
    /// Further ones where the NVLink subnet manager runs; x86_64 only.
    #[serde(default)]
    pub nvlsm: Vec<String>,
    /// The memory exchange daemon and what goes with it.
    pub imex: Vec<String>,
    /// The persistence daemon.
    pub persistenced: String,
    /// What the NVLink subnet manager needs and has versions of its own.
    pub loose: Vec<String>,
    /// The module stream without its flavour, where there are streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Where the row comes from.
    pub source: String,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

/// A Neuron SDK release.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NeuronSdk {
    /// Such as `2.32.0`.
    pub sdk: String,
    /// Version of `aws-neuronx-dkms`, exact or a line such as `2.29.*`; `None` where it is not known: then its images are
    /// known, and hosts cannot be set up with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Version of `aws-neuronx-tools`; any version where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// Version of the runtime in its images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Oldest runtime that its driver takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_runtime: Option<String>,
    /// Oldest driver that its images take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_driver: Option<String>,
    /// Products that it serves models on.
    pub products: Vec<String>,
    /// Products whose hosts may run its driver, though its serving images do not support them.
    #[serde(default)]
    pub host_products: Vec<String>,
    /// The newest kernel that its driver was tested on, by product and system; empty where no table was found.
    #[serde(default)]
    pub kernels: BTreeMap<String, BTreeMap<String, String>>,
    /// Where the row comes from.
    pub source: String,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

/// What an engine requests of its host by default.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineRequests {
    /// `vllm` or `sglang`.
    pub engine: String,
    /// CPUs of a replica.
    pub cpu: u32,
    /// CPUs for each accelerator of a replica.
    pub cpu_per_accelerator: u32,
    /// Memory of a replica, in GiB.
    pub memory_gib: u32,
    /// Memory for each accelerator of a replica, in GiB.
    pub memory_gib_per_accelerator: u32,
    /// The most that /dev/shm takes, in GiB.
    pub shm_gib: u32,
    /// Where the row comes from.
    pub source: String,
}

/// What an engine image needs of its host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineImage {
    /// The image's name: `*` is any text, `{sdk}` the SDK release that the name carries.
    pub image: String,
    /// Its CUDA major.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<u32>,
    /// Products that it runs on; empty means unknown.
    #[serde(default)]
    pub products: Vec<String>,
    /// Where the row comes from.
    pub source: String,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

/// What an image needs, once its row is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineNeeds<'a> {
    /// The row.
    pub row: &'a EngineImage,
    /// The Neuron SDK release that the image's name carries.
    pub sdk: Option<String>,
}

impl EngineImage {
    /// Returns what an image needs if this row is about it.
    pub fn needs<'a>(&'a self, image: &str) -> Option<EngineNeeds<'a>> {
        let sdk = fits(&self.image, image)?;
        Some(EngineNeeds { row: self, sdk: Some(sdk).filter(|s| !s.is_empty()) })
    }
}

/// Fits a text to a pattern of `*` and one `{sdk}`; returns what stands for `{sdk}`.
fn fits(pattern: &str, text: &str) -> Option<String> {
    let Some((before, after)) = pattern.split_once("{sdk}") else {
        return glob(pattern, text).then(String::new);
    };
    let starts = text.char_indices().map(|(at, _)| at);
    starts.filter(|at| glob(before, &text[..*at])).find_map(|at| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        (end > 0 && glob(after, &rest[end..])).then(|| rest[..end].to_owned())
    })
}

/// Returns whether a text is what a pattern of `*` stands for. The parts between stars are taken where they come first: that
/// leaves the most for those behind them, so nothing is ever tried twice.
pub fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (between, last) = rest.rsplit_once('*').map_or((None, rest), |(between, last)| (Some(between), last));
    for part in between.into_iter().flat_map(|between| between.split('*')) {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// What is done about a fault of a GPU, mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing.
    Ignore,
    /// The application starts again.
    RestartApp,
    /// The GPU is reset, with nothing running on it.
    Reset,
    /// The host reboots.
    Reboot,
    /// The host is taken out and a person looks.
    Isolate,
}

/// What some Xids ask for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct XidRow {
    /// What is done.
    pub action: Action,
    /// The numbers.
    pub xids: Vec<u32>,
    /// The message itself says `Fatal` or `Nonfatal`, and what is not fatal asks for nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_severity: bool,
    /// With one of these on the same GPU the error was contained, and asks for no reset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contained_by: Vec<u32>,
    /// Where the row comes from.
    pub source: String,
}

/// The MIG profiles of some products.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigRow {
    /// Which products.
    pub products: Vec<String>,
    /// The first driver with MIG on them, where older ones run the products too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_driver: Option<String>,
    /// What their GPUs can be split into.
    pub profiles: Vec<MigProfile>,
    /// Where the row comes from.
    pub source: String,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

/// A kind of GPU instance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigProfile {
    /// Such as `3g.40gb`.
    pub name: String,
    /// How many of it a GPU takes.
    pub most: u32,
    /// Memory slices that one takes.
    pub memory: u32,
}

impl MigProfile {
    /// Returns the compute slices that one takes: the number before the `g`; 0 for a name of another form.
    pub fn compute(&self) -> u32 {
        self.name.split_once("g.").and_then(|(n, _)| n.parse().ok()).unwrap_or(0)
    }
}

impl MigRow {
    /// Returns why a GPU does not take a layout, if it does not. Every profile has to be known.
    pub fn refuses(&self, layout: &BTreeMap<String, u32>) -> Option<String> {
        let (mut compute, mut memory) = (0, 0);
        for (name, count) in layout {
            let profile = self.profiles.iter().find(|p| p.name == *name)?;
            if *count > profile.most {
                return Some(format!("a GPU supports at most {} x {name}", profile.most));
            }
            compute += profile.compute() * count;
            memory += profile.memory * count;
        }
        let all = |of: fn(&MigProfile) -> u32| self.profiles.iter().map(of).max().unwrap_or(0);
        let (most_compute, most_memory) = (all(MigProfile::compute), all(|p| p.memory));
        match () {
            () if compute > most_compute => {
                Some(format!("it needs {compute} compute slices, a GPU has {most_compute}"))
            }
            () if memory > most_memory => {
                Some(format!("it needs {memory} memory slices, a GPU has {most_memory}"))
            }
            () => None,
        }
    }
}

/// The least that a healthy host reaches in a test.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Floor {
    /// Such as `all-reduce`.
    pub test: String,
    /// For which products.
    pub products: Vec<String>,
    /// For hosts with so many; any number where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// The least.
    pub floor: f64,
    /// Its unit.
    pub unit: String,
    /// Where the row comes from.
    pub source: String,
}

/// Compares versions number by number: `2.30.2.0` is newer than `2.29`. A `*` ends the comparison.
pub fn version_cmp(a: &str, b: &str) -> std::cmp::Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
    };
    let (a, b) = (numbers(a), numbers(b));
    let n = a.len().min(b.len());
    a[..n].cmp(&b[..n])
}

/// What going from one k0s version to another is (Kubernetes' version skew policy: the API server goes up one minor at a
/// time, and never down one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum K0sStep {
    /// Up, by no more than a minor; or nothing.
    Fine,
    /// Down, within a minor.
    PatchDown,
    /// Down, to an earlier minor.
    MinorDown,
    /// Up, over a minor.
    SkipsMinor,
}

impl K0sStep {
    /// Returns the numbers of a version: v1.35.7+k0s.0, v1.36.0-rc.1+k0s.0.
    fn numbers(version: &str) -> Option<Vec<u32>> {
        let (kubernetes, build) = version.trim().strip_prefix('v')?.split_once("+k0s.")?;
        let release = kubernetes.split('-').next()?;
        let numbers: Option<Vec<u32>> = release.split('.').chain([build]).map(|n| n.parse().ok()).collect();
        numbers.filter(|numbers| numbers.len() == 4)
    }

    /// Returns the minor of a version: `(1, 35)`.
    pub fn minor(version: &str) -> Option<(u32, u32)> {
        Self::numbers(version).map(|numbers| (numbers[0], numbers[1]))
    }

    /// Returns whether two versions are known to be of one minor.
    pub fn same_minor(from: &str, to: &str) -> bool {
        Self::minor(from).is_some_and(|from| Self::minor(to) == Some(from))
    }

    /// Returns what a step is; `None` where a version cannot be read.
    pub fn between(from: &str, to: &str) -> Option<Self> {
        let (from, to) = (Self::numbers(from)?, Self::numbers(to)?);
        Some(match (from[0] == to[0]).then(|| to[1].cmp(&from[1])) {
            None if to[0] < from[0] => Self::MinorDown,
            None => Self::SkipsMinor,
            Some(std::cmp::Ordering::Less) => Self::MinorDown,
            Some(std::cmp::Ordering::Greater) if to[1] - from[1] > 1 => Self::SkipsMinor,
            Some(std::cmp::Ordering::Equal) if to[2..] < from[2..] => Self::PatchDown,
            Some(_) => Self::Fine,
        })
    }

    /// Returns why a step must not be taken, as the end of a sentence.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Fine | Self::PatchDown => None,
            Self::MinorDown => Some("goes back a minor version, which Kubernetes does not support"),
            Self::SkipsMinor => Some("skips a minor version; upgrade Kubernetes one minor version at a time"),
        }
    }
}

/// A k0s minor.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct K0sLine {
    /// Such as `1.35`.
    pub minor: String,
    /// Major version of the embedded containerd: 1 takes `version = 2` drop-ins, 2 refuses them.
    pub containerd: u32,
    /// Its full version.
    pub containerd_version: String,
    /// Releases that can be asked for.
    pub versions: Vec<String>,
    /// The day of its Kubernetes' end of life, `YYYY-MM-DD`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eol: Option<String>,
    /// Releases that must not be used, and why.
    #[serde(default)]
    pub refused: BTreeMap<String, String>,
    /// Where the row comes from.
    pub source: String,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

impl K0sLine {
    /// Returns why a containerd drop-in keeps this k0s from starting, if it does.
    pub fn refuses(&self, drop_in: &str) -> Option<String> {
        let stated = drop_in.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "version").then(|| value.split('#').next().unwrap_or_default().trim().to_owned())
        });
        let (version, foreign) = match self.containerd {
            1 => ("2", "io.containerd.cri.v1"),
            _ => ("3", "io.containerd.grpc.v1.cri"),
        };
        let containerd = &self.containerd_version;
        match stated {
            Some(stated) if stated != version => Some(format!(
                "has version = {stated}; containerd {containerd} of k0s {} needs {version}",
                self.minor
            )),
            _ if drop_in.contains(foreign) => Some(format!(
                "configures {foreign}, which containerd {containerd} of k0s {} does not have",
                self.minor
            )),
            _ => None,
        }
    }
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
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
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
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
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
    /// The architecture that it is for, as printed by `uname -m`; none if it is for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Of a key: the fingerprints of the only primary keys that it may hold, in upper-case hex; empty where they are not
    /// known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<String>,
    /// Where the fingerprints come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What of the row is not confirmed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

/// The key of the taint that every node joins with and keeps until its gates have passed.
pub const STARTING_TAINT_KEY: &str = "provision.dev/starting";

/// The same taint as `k0s --taints` and the API write it.
pub const STARTING_TAINT: &str = "provision.dev/starting=true:NoSchedule";

/// The node label that selects the device plugin of a node: `nvidia` or `neuron`.
pub const ACCELERATOR_LABEL: &str = "provision.dev/accelerator";

/// The node label that carries the pool.
pub const POOL_LABEL: &str = "provision.dev/pool";

/// Returns the device plugin that reports an extended resource, by the name that its DaemonSet and pods carry
/// (`templates/manifests/{nvidia,neuron}`).
pub fn device_plugin(resource: &str) -> Option<&'static str> {
    match resource.split_once('/')?.0 {
        "nvidia.com" => Some("nvidia-device-plugin"),
        "aws.amazon.com" => Some("neuron-device-plugin"),
        _ => None,
    }
}
