//! Ports between hosts (k0s docs/networking.md). kube-router's 179 and Calico's 4789 (UDP, which cannot be tested) are the
//! CNI's.

/// Port of the Kubernetes API, where workers join too.
pub const API_PORT: u16 = 6443;
/// Port of the k0s join API, where controllers join.
pub const JOIN_PORT: u16 = 9443;
/// Port of konnectivity.
pub const KONNECTIVITY_PORT: u16 = 8132;
/// Port of etcd's peers.
pub const ETCD_PEER_PORT: u16 = 2380;
/// Port of the kubelet.
pub const KUBELET_PORT: u16 = 10250;
/// Port of kube-router's BGP.
pub const BGP_PORT: u16 = 179;

/// A port, who needs it of whom, and what for.
pub struct Port {
    /// The TCP port.
    pub port: u16,
    /// Needed by controllers, by workers.
    pub from: (bool, bool),
    /// Of controllers, of workers.
    pub to: (bool, bool),
    /// What for.
    pub what: &'static str,
}

/// The table.
pub const PORTS: [Port; 6] = [
    Port { port: API_PORT, from: (true, true), to: (true, false), what: "Kubernetes API" },
    Port { port: JOIN_PORT, from: (true, false), to: (true, false), what: "k0s join API" },
    Port { port: KONNECTIVITY_PORT, from: (false, true), to: (true, false), what: "konnectivity" },
    Port { port: ETCD_PEER_PORT, from: (true, false), to: (true, false), what: "etcd" },
    Port { port: KUBELET_PORT, from: (true, false), to: (false, true), what: "kubelet" },
    Port { port: BGP_PORT, from: (false, true), to: (false, true), what: "kube-router BGP" },
];
