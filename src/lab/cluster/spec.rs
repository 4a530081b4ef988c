//! What a simulated cluster is made from and what its machines hand in. The lab's own input types: no other module's are
//! used, so that a mistake there cannot hide here.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A cluster before anything runs on it.
#[derive(Clone, Default, Debug)]
pub struct ClusterSpec {
    /// Every machine that may join, by name.
    pub hosts: BTreeMap<String, HostSpec>,
}

impl ClusterSpec {
    /// Returns the names and addresses under which the API answers.
    pub fn api_names(&self) -> Vec<String> {
        let fixed = ["kubernetes", "kubernetes.default", "localhost", "127.0.0.1"].map(str::to_owned);
        fixed.into_iter().chain(self.hosts.values().flat_map(|h| h.addresses.clone())).collect()
    }
}

/// One machine.
#[derive(Clone, Default, Debug)]
pub struct HostSpec {
    /// Addresses under which other machines know it; the first becomes the node's InternalIP.
    pub addresses: Vec<String>,
    /// Accelerators plugged in.
    pub accelerators: Option<u32>,
}

/// Flags of a k0s command line, by name.
pub type Flags = BTreeMap<String, String>;

fn is_set(flags: &Flags, name: &str) -> bool {
    flags.get(name).is_some_and(|value| value == "true")
}

/// The k0s version that starts: `v1.35.7+k0s.0`.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct K0sVersion(pub String);

impl Default for K0sVersion {
    fn default() -> Self {
        Self("v1.35.7+k0s.0".to_owned())
    }
}

impl K0sVersion {
    /// Returns what its API server and kubelet call their version: without the `.N` behind `+k0s`.
    pub fn kubernetes(&self) -> &str {
        self.0.rsplit_once("+k0s").map_or(&self.0, |(version, _)| &self.0[..version.len() + "+k0s".len()])
    }
}

/// What `k0s controller` starts with.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct ControllerStart {
    /// What starts.
    pub version: K0sVersion,
    /// The join token; none for the first controller and for one that joined before.
    pub token: Option<String>,
    /// `--enable-worker` or `--single`: the worker half.
    pub worker: Option<WorkerStart>,
}

/// What `k0s worker` starts with.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct WorkerStart {
    /// What starts.
    pub version: K0sVersion,
    /// The join token; none for one that joined before.
    pub token: Option<String>,
    /// `--labels`; count only at the first registration.
    pub labels: BTreeMap<String, String>,
    /// `--taints`, each `key=value:Effect`; count only at the first registration.
    pub taints: Vec<String>,
}

impl ControllerStart {
    /// Reads the flags of `k0s controller`.
    pub fn new(version: K0sVersion, flags: &Flags, token: Option<String>) -> Self {
        let single = is_set(flags, "single");
        let worker = (single || is_set(flags, "enable-worker")).then(|| {
            let mut worker = WorkerStart::new(version.clone(), flags, None);
            if !single && !is_set(flags, "no-taints") {
                worker.taints.push("node-role.kubernetes.io/control-plane:NoSchedule".to_owned());
            }
            worker
        });
        Self { version, token, worker }
    }
}

impl WorkerStart {
    /// Reads the flags of `k0s worker`.
    pub fn new(version: K0sVersion, flags: &Flags, token: Option<String>) -> Self {
        let list = |name: &str| {
            let text = flags.get(name).map_or("", String::as_str);
            text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let labels = list("labels");
        let labels = labels.iter().filter_map(|l| l.split_once('='));
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Self { version, token, labels, taints: list("taints") }
    }
}

/// What a started k0s has written: the text of each file, by its path on the host.
pub type Files = BTreeMap<&'static str, String>;
