//! Desired state of a host or the cluster, as data. Owns the types of resource kinds; how a kind is observed, compared and
//! enacted is in `executor/` (hosts) and `reconciler/` (cluster).

use super::{Hazard, HostKind, HostName, JoinRole, ObjectId, ResourceId, SecretText, StepOutput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One thing that should be so on a target. The resources of a target are a list, enacted in its order.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Resource {
    /// What it is, unique on the target.
    pub id: ResourceId,
    /// The role, model, tenant or component that wants it; printed as the step's origin.
    pub role: String,
    /// Why it is wanted, if that is not plain from the resource itself; a phrase without a full stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Desired state.
    pub spec: Spec,
    /// Units to restart in the same batch when this changed (only if they are running).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<String>,
    /// Hazards of changing it, beyond `restarts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hazards: Vec<Hazard>,
    /// Outputs of other steps that enacting it needs; a resource with one starts a batch of its own.
    #[serde(default, rename = "late", skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<StepOutput>,
    /// How long enacting it may take, in seconds.
    pub deadline_s: u64,
    /// It is done once, because that was asked for, and is no state that stays wanted: the host keeps no record of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// What comes after it on its host is another batch: a node is drained only once this is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gate: bool,
}

/// The default deadline of a resource, in seconds.
pub const DEFAULT_DEADLINE_S: u64 = 300;

impl Resource {
    /// Returns a resource with no hazards, no step outputs and the default deadline.
    pub fn new(role: impl Into<String>, spec: Spec) -> Self {
        Self {
            id: spec.id(),
            role: role.into(),
            why: None,
            spec,
            restarts: Vec::new(),
            hazards: Vec::new(),
            inputs: Vec::new(),
            deadline_s: DEFAULT_DEADLINE_S,
            once: false,
            gate: false,
        }
    }
}

/// The kinds of resource.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Spec {
    /// A package of the host's package manager (apt or dnf).
    Package(Package),
    /// A package repository with its signing key.
    PackageRepository(PackageRepository),
    /// A file with given content.
    File(File),
    /// A directory.
    Directory(Directory),
    /// One line in a file that others own too.
    LineInFile(LineInFile),
    /// A symbolic link.
    Symlink(Symlink),
    /// A file fetched by the host from a URL or its mirrors, checked by sha256.
    Download(Download),
    /// A systemd unit's state.
    Unit(Unit),
    /// A kernel module, loaded now and at boot, or blocked.
    KernelModule(KernelModule),
    /// A kernel setting, live and at boot.
    Sysctl(Sysctl),
    /// A filesystem on a disk.
    Filesystem(Filesystem),
    /// A mounted filesystem, now and at boot.
    Mount(Mount),
    /// Swap: off now and after boot.
    Swap(Swap),
    /// The host's name.
    Hostname(Hostname),
    /// A guarded command.
    Command(Command),
    /// A reboot, when one is needed.
    Reboot(Reboot),
    /// A Kubernetes object (cluster only).
    Object(Box<Object>),
    /// A node's labels, taints and schedulability (cluster only).
    Node(Node),
    /// A short-lived join token, made when some step needs it (cluster only).
    JoinToken(JoinToken),
    /// A question to a model through a tenant's gateway; proves that serving works (cluster only).
    Chat(Chat),
}

impl Spec {
    /// Returns what it is, unique on its target.
    pub fn id(&self) -> ResourceId {
        let host = |kind, name: &str| ResourceId::host(kind, name);
        match self {
            Spec::Package(p) => host(HostKind::Package, &p.name),
            Spec::PackageRepository(r) => host(HostKind::PackageRepository, &r.name),
            Spec::File(f) => host(HostKind::File, &f.path),
            Spec::Directory(d) => host(HostKind::Directory, &d.path),
            Spec::LineInFile(l) => ResourceId::host(HostKind::LineInFile, format!("{}#{}", l.path, l.name)),
            Spec::Symlink(l) => host(HostKind::Symlink, &l.path),
            Spec::Download(d) => host(HostKind::Download, &d.path),
            Spec::Unit(u) => host(HostKind::Unit, &u.name),
            Spec::KernelModule(m) => host(HostKind::KernelModule, &m.name),
            Spec::Sysctl(s) => host(HostKind::Sysctl, &s.key),
            Spec::Filesystem(f) => host(HostKind::Filesystem, &f.device),
            Spec::Mount(m) => host(HostKind::Mount, &m.path),
            Spec::Swap(_) => host(HostKind::Swap, "all"),
            Spec::Hostname(_) => host(HostKind::Hostname, "self"),
            Spec::Command(c) => host(HostKind::Command, &c.name),
            Spec::Reboot(r) => host(HostKind::Reboot, &r.name),
            Spec::Object(o) => ResourceId::Object(ObjectId::of(&o.manifest)),
            Spec::Node(n) => ResourceId::Node(HostName::new(n.name.clone())),
            Spec::JoinToken(t) => ResourceId::JoinToken(t.role),
            Spec::Chat(c) => ResourceId::Chat { tenant: c.tenant.clone(), model: c.model.clone() },
        }
    }
}

/// A package; `version` of `None` means "any version, installed".
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Package {
    /// The package's name in the host's package manager.
    pub name: String,
    /// The exact version, as the package manager prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Present, or absent.
    #[serde(default)]
    pub ensure: Ensure,
    /// Held: not upgraded or removed by anything but us.
    #[serde(default)]
    pub hold: bool,
}

/// Whether something should exist.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Ensure {
    /// It should exist.
    #[default]
    Present,
    /// It should not exist.
    Absent,
}

/// A package repository. On apt: `/etc/apt/sources.list.d/<name>.sources` (deb822) and
/// `/etc/apt/keyrings/<name>.asc`; on dnf: `/etc/yum.repos.d/<name>.repo`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct PackageRepository {
    /// The file's stem.
    pub name: String,
    /// The whole text of the `.sources` or `.repo` file.
    pub definition: String,
    /// Where the signing key is fetched from, if it is not packaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Download>,
}

/// A file's content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Plain text, shown in diffs.
    Text(String),
    /// Secret text: compared by digest, never shown.
    Secret(SecretText),
}

/// A file, replaced as a whole and atomically.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// What it holds.
    pub content: Content,
    /// Octal permission bits, such as 0o644.
    pub mode: u32,
    /// `user:group`.
    pub owner: String,
    /// A command line that must accept the new file before it replaces the old; `{}` is the new file's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate: Option<String>,
}

/// A directory; its content is left alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Directory {
    /// Absolute path.
    pub path: String,
    /// Octal permission bits.
    pub mode: u32,
    /// `user:group`.
    pub owner: String,
}

/// One line in a shared file such as `/etc/hosts`, marked by a trailing `# provision: <name>` comment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LineInFile {
    /// Absolute path.
    pub path: String,
    /// Which of our lines it is.
    pub name: String,
    /// The line without its mark.
    pub line: String,
}

/// A symbolic link.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Symlink {
    /// Absolute path of the link.
    pub path: String,
    /// What it points to.
    pub target: String,
}

/// A file that the host fetches itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Download {
    /// Absolute path on the host.
    pub path: String,
    /// Its URLs, tried in order.
    pub urls: Vec<String>,
    /// Lower-case hex sha256 of the content.
    pub sha256: String,
    /// Octal permission bits.
    pub mode: u32,
    /// Its version, if the file can print it: a plan then shows versions instead of sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where an earlier step put it on the host: it is moved from there if it has the right content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A systemd unit.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Unit {
    /// With its suffix: `chrony.service`.
    pub name: String,
    /// Started at boot; `None` leaves that alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Running now; `None` leaves that alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Masked: cannot be started by anything.
    #[serde(default)]
    pub masked: bool,
}

/// A kernel module.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct KernelModule {
    /// The module's name with underscores.
    pub name: String,
    /// Loaded now and at boot (`Present`), or blacklisted and not loaded (`Absent`).
    #[serde(default)]
    pub ensure: Ensure,
    /// The loaded module must report this version, or one of this line (`2.29.*`), in `/sys/module/<name>/version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A kernel setting; live value and our own file are both part of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Sysctl {
    /// Dotted key.
    pub key: String,
    /// The value as the kernel prints it.
    pub value: String,
    /// Never lower an admin's larger number.
    #[serde(default)]
    pub raise_only: bool,
}

/// A filesystem, made on a disk that carries nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Filesystem {
    /// The disk, below `/dev/disk/by-id`: names that the kernel gives may be another disk's after a reboot.
    pub device: String,
    /// `ext4` or `xfs`.
    pub kind: String,
    /// The uuid that marks it as managed.
    pub uuid: String,
    /// What may be on the disk and goes, such as `ext4`, `gpt` or `LVM2_member`; anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<String>,
}

/// A mount, by a systemd mount unit of our own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Mount {
    /// Where; absolute.
    pub path: String,
    /// What: `/dev/disk/by-uuid/…` or `/dev/disk/by-id/…`.
    pub what: String,
    /// The filesystem's type, or `auto`.
    pub kind: String,
    /// Mount options, comma-separated.
    pub options: String,
}

/// All swap off, and its `/etc/fstab` lines commented out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Swap {}

/// The host's static name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Hostname {
    /// The name.
    pub name: String,
}

/// A command that brings something about which no other kind covers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Command {
    /// A name, unique on the host.
    pub name: String,
    /// POSIX shell that changes nothing: exit 0 if all is as it should be, 1 if `apply` is needed. What it prints (one
    /// line at most) is shown as the present state.
    pub guard: String,
    /// POSIX shell that brings it about; the guard must hold afterwards. The output `token/worker` arrives as the
    /// path of a 0600 file in `$LATE_token_worker`, unlinked when the command ends.
    pub apply: String,
    /// POSIX shell that takes it back when no role wants it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// What the plan shows as the wanted state.
    pub wanted: String,
    /// Run the command also when one of these resources changes in the same plan, even if the guard holds now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when_changed: Vec<ResourceId>,
}

/// A reboot; its batch ends with it, and the next begins on the new boot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Reboot {
    /// A name, unique on the host.
    pub name: String,
    /// POSIX shell: exit 0 if no reboot is needed; what it prints is the reason when one is.
    pub guard: String,
    /// Plan a reboot when one of these resources changes, even if the guard holds now; at the time the guard is asked
    /// again, and a reboot that turned out not to be needed is skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when_changed: Vec<ResourceId>,
}

/// When a Kubernetes object is applied, lowest first; the next stage waits for the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Custom resource definitions; done when Established.
    Crd,
    /// Namespaces, service accounts, RBAC, runtime classes, config.
    Base,
    /// Router, device plugins; done when available, webhooks answering.
    Component,
    /// Engines; done when ready.
    Engine,
    /// Gateways, model servers, routes.
    Route,
}

/// A Kubernetes object, applied server-side with field manager `provision`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Object {
    /// When it is applied.
    pub stage: Stage,
    /// The manifest: `apiVersion`, `kind`, `metadata.name`, `metadata.namespace` where namespaced, and the rest.
    pub manifest: serde_json::Value,
    /// What its readiness means.
    #[serde(default)]
    pub ready: Ready,
}

/// What "done" means for an object beyond having been accepted.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// Accepted is done.
    #[default]
    Accepted,
    /// A CRD's Established condition.
    Established,
    /// A Deployment's available replicas, or a DaemonSet's on the nodes that are up.
    Available,
}

/// A node, as the cluster should see it. Only the keys named here are managed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Labels that must have these values.
    pub labels: BTreeMap<String, String>,
    /// Taints, `key=value:Effect` or `key:Effect`, that must be there.
    pub taints: Vec<String>,
    /// Cordoned because the host is in maintenance; `None` leaves cordons of others alone.
    pub cordoned: bool,
    /// Extended resources that must be allocatable before the startup taint goes, such as `nvidia.com/gpu: 8`.
    pub allocatable: BTreeMap<String, u64>,
    /// The Kubernetes version that its kubelet must have to be back in service, such as `v1.35.7`; `None` for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<String>,
}

/// A join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct JoinToken {
    /// What it lets join.
    pub role: JoinRole,
}

/// A question through a tenant's gateway.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Chat {
    /// The tenant.
    pub tenant: String,
    /// The served model name.
    pub model: String,
    /// The node port of the tenant's gateway, reached on a worker through SSH.
    pub node_port: u16,
}
