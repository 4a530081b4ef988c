//! What a lab is made from: its own input type, so that the simulation shares no assumption with the modules that it tests.

use super::hardware_fault::{HardwareFault, NAMES as HARDWARE_FAULTS};
use super::walls::Wall;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// A whole lab.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Spec {
    /// The inventory's name, for screens.
    pub name: String,
    /// Where everything of the lab is kept: `hosts/`, keys, the mirror's lock entries.
    pub dir: PathBuf,
    /// The executable that stand-in tools and `lab-init` run from.
    pub exe: PathBuf,
    /// Address of the mirror; its port is chosen by the system.
    pub mirror: IpAddr,
    /// k0s versions that the mirror serves: the inventory's first, then those to which it may be changed.
    pub k0s_versions: Vec<String>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Faults to inject.
    pub faults: Vec<Fault>,
    /// A folder with kube-apiserver and etcd, which then run in place of the API stand-in, and with
    /// kube-controller-manager and kube-scheduler if they are to run too.
    #[serde(default)]
    pub control_plane: Option<PathBuf>,
    /// Walls that are not put up around programs on hosts. Nothing of an inventory ever gets here.
    #[serde(default)]
    pub without: Vec<Wall>,
    /// The mirror has nothing to serve: what hosts would download is delivered to them.
    #[serde(default)]
    pub unserved: bool,
}

/// One simulated host.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Host {
    /// Its name; what `hostname` says before anything was done is `localhost`.
    pub name: String,
    /// Loopback address of its SSH server.
    pub address: IpAddr,
    /// Port of its SSH server.
    pub port: u16,
    /// Its hardware.
    pub hardware: Option<Hardware>,
    /// sudo wants the password with this sha256, in lower-case hex; without one it asks for none. The password itself
    /// is in no file of the lab, as it is in no /etc/shadow.
    pub sudo_sha256: Option<String>,
}

/// Simulated accelerators.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Hardware {
    /// `nvidia` or `neuron`.
    pub vendor: String,
    /// Product name as tools print it.
    pub name: String,
    /// PCI vendor, four hex digits.
    pub pci_vendor: String,
    /// PCI device, four hex digits.
    pub pci_device: String,
    /// How many.
    pub count: u32,
    /// NVSwitches: PCI device and how many.
    pub switches: Option<(String, u32)>,
    /// Network devices: PCI vendor, device and how many.
    #[serde(default)]
    pub nics: Option<(String, String, u32)>,
    /// Memory of one, in MiB.
    pub memory_mib: u64,
    /// Extended resource that the device plugin offers.
    pub resource: String,
}

/// Something that goes wrong on purpose.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Fault {
    /// The host.
    pub host: String,
    /// What goes wrong.
    pub kind: FaultKind,
    /// It begins when the host announces this step (`package/chrony`), not at once.
    #[serde(default)]
    pub step: Option<String>,
}

/// The faults.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The first connection is cut after this many bytes from the host; at a step, all of them at once.
    LinkCut(u64),
    /// Every exec starts this much later, in milliseconds.
    Slow(u64),
    /// Installing this package fails.
    FailPackage(String),
    /// The disk is full.
    DiskFull,
    /// The host presents another host key than the known one.
    WrongHostKey,
    /// Nothing listens.
    Unreachable,
    /// The machine loses its power and stays away: its connections, its programs, its kubelet and its API.
    Lost,
    /// A tool hangs when it is called like this: `nvidia-smi`, `k0s status`.
    HungTool(String),
    /// Another package manager holds the lock for so many seconds from the first try on; for good if none are given.
    AptLock(Option<u64>),
    /// A reboot never comes back.
    RebootHangs,
    /// An accelerator, or what its driver needs, is broken.
    Hardware(HardwareFault),
}

impl Host {
    /// Lets sudo ask for a password.
    pub fn set_sudo_password(&mut self, password: &str) {
        self.sudo_sha256 = Some(super::artifacts::sha256(password.as_bytes()));
    }
}

impl Fault {
    /// Reads `host=kind`, `host=kind:argument`, each with `@step` behind it if it is to begin there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, rest) = text.split_once('=').ok_or_else(|| format!("`{text}` is not host=kind"))?;
        let (kind, step) = match rest.split_once('@') {
            Some((kind, step)) => (kind, Some(step.to_owned())),
            None => (rest, None),
        };
        let (kind, argument) = kind.split_once(':').unwrap_or((kind, ""));
        // What is decided when a connection begins cannot begin at a step.
        if step.is_some() && matches!(kind, "wrong-host-key" | "unreachable") {
            return Err(format!("`{kind}` is from the start; it takes no @STEP (`lost` does)"));
        }
        let number = |default: u64| match argument {
            "" => Ok(default),
            text => text.parse().map_err(|_| format!("`{text}` is no number")),
        };
        let kind = match kind {
            "link-cut" => FaultKind::LinkCut(number(20_000)?),
            "slow" => FaultKind::Slow(number(500)?),
            "fail-package" if !argument.is_empty() => FaultKind::FailPackage(argument.to_owned()),
            "disk-full" => FaultKind::DiskFull,
            "wrong-host-key" => FaultKind::WrongHostKey,
            "unreachable" => FaultKind::Unreachable,
            "reboot-hangs" => FaultKind::RebootHangs,
            "lost" => FaultKind::Lost,
            "hung-tool" if !argument.is_empty() => FaultKind::HungTool(argument.to_owned()),
            "apt-lock" if argument.is_empty() => FaultKind::AptLock(None),
            "apt-lock" => FaultKind::AptLock(Some(number(0)?)),
            kind => match HardwareFault::parse(kind, argument) {
                Some(fault) => FaultKind::Hardware(fault),
                None => {
                    return Err(format!(
                        "`{kind}` is no fault; they are link-cut[:BYTES], slow[:MS], fail-package:NAME, disk-full, \
                         wrong-host-key, unreachable, reboot-hangs, lost, hung-tool:COMMAND, apt-lock[:SECONDS], \
                         {HARDWARE_FAULTS}; most take @STEP"
                    ));
                }
            },
        };
        Ok(Self { host: host.to_owned(), kind, step })
    }
}

impl Spec {
    /// Returns the faults of a host that are there from the start.
    pub fn faults_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a FaultKind> + 'a {
        self.faults.iter().filter(move |f| f.host == host && f.step.is_none()).map(|f| &f.kind)
    }

    /// Returns whether a wall is put up.
    pub(super) fn has(&self, wall: Wall) -> bool {
        !self.without.contains(&wall)
    }

    /// Returns the folder of a host.
    pub fn host_dir(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host)
    }
}
