//! Paths of k0s on a host, and the names of its units.

/// The binary.
pub const BINARY: &str = "/usr/local/bin/k0s";
/// The binary of the version that is to come, until it takes its place.
pub const NEXT_BINARY: &str = "/usr/local/bin/k0s.next";
/// What it keeps (`--data-dir`).
pub const DATA_DIR: &str = "/var/lib/k0s";
/// What it keeps while it runs: sockets, and the configuration that it was started with.
pub const RUN_DIR: &str = "/run/k0s";
/// Its configuration.
pub const CONFIG_DIR: &str = "/etc/k0s";
/// A controller's configuration.
pub const CONFIG: &str = "/etc/k0s/k0s.yaml";
/// Drop-ins of its containerd.
pub const CONTAINERD_DROP_INS: &str = "/etc/k0s/containerd.d";
/// What a host joins with.
pub const TOKEN: &str = "/etc/k0s/k0stoken";
/// Certificates and keys of a controller.
pub const PKI_DIR: &str = "/var/lib/k0s/pki";
/// The admin kubeconfig, written when a controller's control plane has come up.
pub const ADMIN_KUBECONFIG: &str = "/var/lib/k0s/pki/admin.conf";
/// A kubelet's kubeconfig, written when a worker has joined.
pub const KUBELET_KUBECONFIG: &str = "/var/lib/k0s/kubelet.conf";
/// The kubelet's folder from the first join on: device plugins, exporters and CSI drivers expect it there.
pub const KUBELET_DIR: &str = "/var/lib/kubelet";
/// A controller's certificates, as shell patterns. They are not secret; the keys are separate files.
pub const CERTIFICATES: [&str; 2] = ["/var/lib/k0s/pki/*.crt", "/var/lib/k0s/pki/etcd/*.crt"];

/// Where CNI plugins put their configuration; containerd takes the first by name.
pub const CNI_DIR: &str = "/etc/cni/net.d";
/// What a node or a control plane leaves on a host, as shell patterns.
pub const CLUSTER_FILES: [&str; 5] =
    ["/var/lib/k0s/pki", "/var/lib/k0s/etcd", "/var/lib/k0s/db", KUBELET_KUBECONFIG, "/etc/cni/net.d/*"];

/// The unit of a controller.
pub const CONTROLLER_UNIT: &str = "k0scontroller.service";
/// The unit of a worker.
pub const WORKER_UNIT: &str = "k0sworker.service";

/// Returns the unit of a host's k0s.
pub fn unit(controller: bool) -> &'static str {
    if controller { CONTROLLER_UNIT } else { WORKER_UNIT }
}

/// Returns what is written when a host has become part of the cluster.
pub fn joined_file(controller: bool) -> &'static str {
    if controller { ADMIN_KUBECONFIG } else { KUBELET_KUBECONFIG }
}

/// What a program prints on a host that has no control plane (yet).
pub const NO_CONTROL_PLANE: &str = "none";
