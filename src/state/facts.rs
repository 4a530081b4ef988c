//! Facts of one host, gathered by the first section of the observing exec. Owns no parsing.

use super::{Hazard, ResourceId, RunId, Spec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A host's facts. A field that could not be read is empty or `None`, never guessed.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct Facts {
    /// `uname -s`.
    pub kernel_name: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`: `x86_64` or `aarch64`.
    pub arch: String,
    /// The static hostname.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// DMI product uuid, where readable.
    pub product_uuid: String,
    /// `/etc/os-release`: ID, VERSION_ID, VERSION_CODENAME, ID_LIKE and the rest.
    pub os: BTreeMap<String, String>,
    /// The package manager found.
    pub package_manager: Option<PackageManager>,
    /// `/run/systemd/system` exists.
    pub systemd: bool,
    /// Effective user id of the program (0 when sudo worked).
    pub uid: u32,
    /// Number of processors.
    pub cpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// The host's clock, seconds since 1970.
    pub now_s: i64,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// Free KiB by path: `/`, `/var`, `/var/lib`, `/tmp`, and every other mount of a local disk.
    pub free_kib: BTreeMap<String, u64>,
    /// Mounted file systems, without those of containers and the kernel's own.
    pub mounts: Vec<Mounted>,
    /// The host's clock against this machine's, in seconds; 0 within the time that the answer took.
    pub skew_s: i64,
    /// `enforcing` or `permissive`, where SELinux is.
    pub selinux: Option<String>,
    /// AppArmor is on.
    pub apparmor: bool,
    /// Units that run and that preflight looks for: other runtimes and distributions, firewalls, fapolicyd.
    pub services: Vec<String>,
    /// Those of them that start at boot, running or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enabled: Vec<String>,
    /// Interface and address with prefix, such as `("eth0", "10.0.0.5/24")`.
    pub addresses: Vec<(String, String)>,
    /// PCI functions of the vendors we know (10de, 1d0f, 15b3), from sysfs.
    pub pci: Vec<PciFunction>,
    /// Loaded kernel modules, by name, with `/sys/module/<name>/version` where there is one.
    pub modules: BTreeMap<String, String>,
    /// EFI Secure Boot, if known.
    pub secure_boot: Option<bool>,
    /// Whether modules can be built for the running kernel; only on hosts with accelerators.
    pub headers: Option<Headers>,
    /// Drivers from other installers than our packages; only on hosts with accelerators.
    pub foreign_drivers: Vec<String>,
    /// Lines of dnf's configuration that hide packages; only on hosts with accelerators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub package_filters: Vec<PackageFilter>,
    /// Installed packages and their versions, asked for only where there are such lines.
    #[serde(skip)]
    pub installed: Option<Vec<(String, String)>>,
    /// cgroup version, 1 or 2.
    pub cgroup: Option<u8>,
    /// The version of the k0s binary on the host, if there is one.
    pub k0s_version: Option<String>,
    /// Certificates of a controller, in the order of their files. They are not secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// k0s came up on the host at least once since we installed it.
    pub k0s_was_up: bool,
    /// Files of a Kubernetes node or control plane on the host, whoever made them: what k0s keeps, and CNI configurations.
    pub cluster_files: Vec<String>,
    /// A restore that has not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreLeft>,
    /// cloud-init's status word, where it is installed.
    pub cloud_init: Option<String>,
    /// What we own on the host, from `/var/lib/provision/managed.json`.
    pub managed: Vec<Managed>,
    /// The lock record, from `/var/lib/provision/lock`.
    pub lock: Option<LockRecord>,
    /// Batches that have not ended: run folders without `rc`.
    pub open_batches: Vec<OpenBatch>,
}

/// A certificate that a controller uses.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Certificate {
    /// Who it is of: its common name.
    pub name: String,
    /// Who signed it: the common name of the authority.
    pub issuer: String,
    /// It may sign others.
    pub authority: bool,
    /// When it begins to be valid, in seconds since 1970.
    pub from_s: i64,
    /// When it ends, in seconds since 1970.
    pub until_s: i64,
}

/// How far a restore has come that is not over.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreLeft {
    /// The backup is on the host, or restored in part.
    Pending,
    /// The backup is restored; k0s may not have started since.
    Restored,
}

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Mounted {
    /// Where.
    pub path: String,
    /// Its type.
    pub kind: String,
    /// Its options, comma-separated.
    pub options: String,
}

/// The package managers that we speak.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum PackageManager {
    /// apt and dpkg.
    Apt,
    /// dnf and rpm.
    Dnf,
}

/// A line of dnf's configuration that hides packages from it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct PackageFilter {
    /// `main`, or the repository that it is about.
    pub repository: String,
    /// `exclude`, `excludepkgs`, `includepkgs` or `disable_excludes`.
    pub option: String,
    /// Its patterns.
    pub patterns: Vec<String>,
}

/// Whether the headers of the running kernel are available.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Headers {
    /// They are installed.
    Present,
    /// A repository of the host has them, or none was asked yet.
    Installable,
    /// The host knows its repositories, and none has them.
    Gone,
}

/// One PCI function; all ids are four lower-case hex digits without `0x`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct PciFunction {
    /// Such as `0000:0c:00.0`.
    pub address: String,
    /// Vendor id.
    pub vendor: String,
    /// Device id.
    pub device: String,
    /// Six hex digits of class, subclass, interface.
    pub class: String,
    /// Subsystem vendor id.
    pub subsystem_vendor: String,
    /// Subsystem device id.
    pub subsystem_device: String,
}

/// Something that we created on the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
pub struct Managed {
    /// Which resource.
    pub id: ResourceId,
    /// sha256 of the spec that made it.
    pub hash: String,
    /// Shell that removes it, recorded when it was made, if the id alone is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// It was there before us: adopted, never removed.
    #[serde(default)]
    pub adopted: bool,
    /// Hazards of removing it, as its role declared them when it was made: what changing it disturbs, removing it does
    /// too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hazards: Vec<Hazard>,
}

impl Managed {
    /// Returns the hash that a resource made from a spec is recorded with.
    pub fn hash_of(spec: &Spec) -> String {
        let text = serde_json::to_vec(spec).unwrap_or_default();
        Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Who works on a host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LockRecord {
    /// `user@machine`.
    pub owner: String,
    /// The run.
    pub run: RunId,
    /// The host's boot id when it was taken.
    pub boot_id: String,
    /// Seconds since 1970 after which the record is stale.
    pub expires_s: i64,
    /// A batch holds the flock at this moment.
    #[serde(default)]
    pub held: bool,
}

/// A batch that was started and has not ended.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct OpenBatch {
    /// Its folder's name under `/var/lib/provision/runs`.
    pub id: String,
    /// Its program still runs (it holds its flock).
    pub alive: bool,
}

impl Facts {
    /// Returns whether we made or adopted a resource on the host.
    pub fn owns(&self, resource: &ResourceId) -> bool {
        self.managed.iter().any(|m| m.id == *resource)
    }

    /// Returns os-release's ID and VERSION_ID joined, such as `ubuntu2404`, `debian12`, `rhel9`, `amzn2023`.
    pub fn os_slug(&self) -> String {
        let id = self.os.get("ID").map(String::as_str).unwrap_or("");
        let version = self.os.get("VERSION_ID").map(String::as_str).unwrap_or("");
        let version = match id {
            "ubuntu" => version.replace('.', ""),
            _ => version.split('.').next().unwrap_or("").to_owned(),
        };
        format!("{id}{version}")
    }
}
