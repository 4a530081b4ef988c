//! What a simulated cluster is made from and what its machines hand in and get back. The lab's own input types: no
//! other room's are used, so that a mistake there cannot hide here.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// A cluster before anything runs on it.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Every machine that may join, by name.
    pub hosts: BTreeMap<String, HostSpec>,
    /// Names or addresses under which the API answers besides the controllers' own (a VIP, a load balancer).
    pub endpoints: Vec<String>,
    /// What kubelets call their version, `v1.35.7+k0s` (without the `.N`).
    pub kubelet_version: String,
    /// Parts of image names that cannot be pulled.
    pub broken_images: Vec<String>,
    /// How long things take.
    pub pace: Pace,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            endpoints: Vec::new(),
            kubelet_version: "v1.35.7+k0s".into(),
            broken_images: Vec::new(),
            pace: Pace::default(),
        }
    }
}

/// One machine.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Addresses under which other machines know it; the first becomes the node's InternalIP.
    pub addresses: Vec<String>,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Accelerators plugged in.
    pub accelerators: Option<Accelerators>,
}

impl Default for HostSpec {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            arch: "amd64".into(),
            cpus: 16,
            memory_kib: 64 << 20,
            accelerators: None,
        }
    }
}

/// The accelerators of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accelerators {
    /// Who made them.
    pub vendor: Vendor,
    /// How many devices.
    pub count: u32,
    /// Cores a device offers, for Neuron's core resource.
    pub cores_per_device: u32,
}

/// Makers of accelerators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// `nvidia.com/gpu`.
    Nvidia,
    /// `aws.amazon.com/neuron` and `aws.amazon.com/neuroncore`.
    Neuron,
}

/// How long simulated things take. Real ones take minutes; the order is what the lab keeps.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From a kubelet's registration to the network being up and the node Ready.
    pub network: Duration,
    /// An image pull.
    pub pull: Duration,
    /// From an engine's start to `/health` answering 200.
    pub engine_load: Duration,
    /// From a ready router pod to its webhook answering.
    pub webhook: Duration,
    /// From a silent kubelet to the node being NotReady (40 s in truth).
    pub lost: Duration,
    /// Between a pod's deletion and its end.
    pub stop: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            network: Duration::from_millis(100),
            pull: Duration::from_millis(30),
            engine_load: Duration::from_millis(50),
            webhook: Duration::from_millis(200),
            lost: Duration::from_millis(200),
            stop: Duration::from_millis(20),
        }
    }
}

/// What `k0s controller` starts with.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct ControllerStart {
    /// The text of k0s.yaml.
    pub config_yaml: String,
    /// The join token; none for the first controller and for one that joined before.
    pub token: Option<String>,
    /// `--enable-worker` or `--single`: the worker half.
    pub worker: Option<WorkerStart>,
    /// `--single`.
    pub single: bool,
    /// `--no-taints`.
    pub no_taints: bool,
}

/// What `k0s worker` starts with.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct WorkerStart {
    /// The join token; none for one that joined before.
    pub token: Option<String>,
    /// `--labels`; count only at the first registration.
    pub labels: BTreeMap<String, String>,
    /// `--taints`, each `key=value:Effect`; count only at the first registration.
    pub taints: Vec<String>,
    /// Runtime handlers that containerd knows besides `runc`; `None` lets every RuntimeClass pass.
    pub runtimes: Option<Vec<String>>,
}

/// What a started controller has below `/var/lib/k0s`.
#[derive(Clone, Debug)]
pub struct ControllerFiles {
    /// `pki/admin.conf`.
    pub admin_conf: String,
    /// The admin's certificate in PEM, as it lies in `pki/admin.crt`.
    pub admin_crt: String,
    /// `pki/ca.crt`.
    pub ca_crt: String,
    /// `pki/ca.key`.
    pub ca_key: String,
    /// `kubelet.conf`, with a worker half.
    pub kubelet_conf: Option<String>,
}

/// What a started worker has as `/var/lib/k0s/kubelet.conf`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KubeletConf(pub String);
