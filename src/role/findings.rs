//! The findings of preflight: a table of stable codes with meaning and hint. The reference page
//! `docs/reference/errors.md` is generated from it; a test compares them.

use crate::state::{Failure, FailureKind};

/// Clocks further apart break certificates and tokens, in seconds.
pub(super) const MOST_SKEW_S: i64 = 300;
/// Larger clock differences are reported, in seconds; observing takes about this long at worst.
pub(super) const SEEN_SKEW_S: i64 = 5;

/// A thing that preflight found on one host.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// Stable code; `E-` stops the host, `W-` does not.
    pub code: &'static str,
    /// What was found; no full stop.
    pub message: String,
    /// What to do next; for what stops a host, the command to check by hand.
    pub hint: String,
}

impl Finding {
    /// Returns whether the host must not go on.
    pub fn stops(&self) -> bool {
        self.code.starts_with("E-")
    }

    /// Returns it as the failure of a host.
    pub fn failure(&self) -> Failure {
        Failure::new(FailureKind::Preflight, self.code, self.message.clone()).hint(self.hint.clone())
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}; {}", self.code, self.message, self.hint)
    }
}

/// Returns a reason not to begin.
pub(super) fn stop(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { code, message: message.into(), hint: hint.into() }
}

/// Returns something to know.
pub(super) fn warn(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    stop(code, message, hint)
}

/// Code, what it means, what to do. Every code that preflight gives stands here.
pub const TABLE: &[(&str, &str, &str)] = &[
    (
        "E-SSH-UNREACHABLE",
        "no response at the host's address and port",
        "Check address, port, bastions and the machine itself (through its BMC)",
    ),
    (
        "E-SSH-HOSTKEY-UNKNOWN",
        "the host's key is not in any known_hosts file",
        "Run `provision trust` to check and record it",
    ),
    (
        "E-SSH-HOSTKEY-CHANGED",
        "the host's key differs from the recorded one",
        "Find out why before trusting the new key: a reinstalled host, or another machine",
    ),
    (
        "E-SSH-REFUSED",
        "the server or a bastion does not forward connections",
        "Check AllowTcpForwarding and MaxSessions in the sshd_config named in the message",
    ),
    (
        "E-SSH-SETUP",
        "a bastion is not of the form [user@]host[:port]",
        "Fix ssh.bastions in the inventory, or ProxyJump in the ssh configuration",
    ),
    ("E-SSH-LOST", "the connection was lost", "Run the same command again; then check the link"),
    ("E-SSH-AUTH", "no key, agent or password was accepted", "Log in with ssh, using the same user and key"),
    (
        "E-SUDO-PASSWORD",
        "sudo requires a password, and it is missing or wrong",
        "Set ssh.sudoPassword in the inventory, or NOPASSWD for the login",
    ),
    (
        "E-SUDO-REFUSED",
        "the login may not use sudo",
        "Check `sudo -l` on the host; add a rule in /etc/sudoers.d",
    ),
    (
        "E-SUDO-TTY",
        "sudo requires a terminal",
        "Remove `Defaults requiretty` for the login in /etc/sudoers.d",
    ),
    ("E-SUDO-MISSING", "sudo is not installed on the host", "Install it, or log in as root (ssh.user)"),
    (
        "E-SHELL",
        "the root shell exited early, or the login runs something else (a forced command, nologin)",
        "Log in and run: sudo -n /bin/sh -c true; check ssh.user, and `command=` in authorized_keys on the host",
    ),
    ("E-TIMEOUT", "the host timed out", "Log in and look for hung processes on the host"),
    ("E-FACTS", "the host's output is unreadable or truncated", "Run the same command again"),
    ("E-NOT-LINUX", "the host does not run Linux", "Check with `uname -s` on the host"),
    ("E-NOT-ROOT", "commands do not run as root", "Check with `sudo -n id -u` on the host"),
    (
        "E-NO-SYSTEMD",
        "the host was not booted with systemd",
        "Check with `ls -d /run/systemd/system` on the host",
    ),
    ("E-ARCH", "the processor is neither x86_64 nor aarch64", "Check with `uname -m` on the host"),
    (
        "E-OS",
        "the distribution has neither apt nor dnf, or there are no driver packages for it",
        "Override the role in a roles/ folder next to the inventory",
    ),
    (
        "E-KERNEL",
        "the kernel is too old for containers and drivers",
        "Install a newer kernel of the distribution, then reboot",
    ),
    (
        "E-CGROUP",
        "the kubelet of this k0s version does not start on cgroup v1",
        "Boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false in a worker profile of cluster.k0s.config",
    ),
    ("E-NO-SPACE", "not enough disk space for the files to install", "Free up space (`df -h` on the host)"),
    (
        "E-NOEXEC",
        "a path that must hold executables is mounted noexec",
        "Run `mount -o remount,exec`, and fix the line in /etc/fstab",
    ),
    (
        "E-CLOCK",
        "the clock is more than 5 minutes off that of this machine or of the other hosts",
        "Check `timedatectl` on the host; certificates and tokens would be rejected",
    ),
    (
        "E-FOREIGN-KUBERNETES",
        "another kubelet or Kubernetes distribution is running on the host, or starts at its next boot",
        "Remove it; two cannot share ports, CNI and cgroups",
    ),
    (
        "E-EARLIER-CLUSTER",
        "the host has k0s data or a CNI configuration of a cluster that provision did not set up",
        "Run `k0s stop; k0s reset` and reboot if nothing needs that cluster, and remove the files named in the message",
    ),
    (
        "E-K0S-ROLE",
        "the host was moved between pools of workers and of controllers, and k0s does not change its role in place",
        "Run `provision reset HOST`, then apply: the host joins with its new role",
    ),
    (
        "E-INTERFACE",
        "the pool's clusterInterface does not exist or does not have the cluster address",
        "Check with `ip -br addr` on the host",
    ),
    (
        "E-DISK",
        "a disk of `storage` has content, does not exist or is in use",
        "Check with `blkid -p` on the host; set `keep` or `erase` in the inventory",
    ),
    (
        "E-MACHINE-ID",
        "two hosts have the same machine id (a cloned image)",
        "Run `tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id` and reboot",
    ),
    (
        "E-HOSTNAME",
        "a host has the hostname of another host of the inventory",
        "Check for swapped addresses or a clone",
    ),
    (
        "E-NODE-NAME",
        "with os.hostname: keep, the hostname differs from the host's name in the inventory, so its node would not be found",
        "Set the hostname with `hostnamectl set-hostname`, or remove os.hostname from the inventory",
    ),
    ("E-ADDRESS-TAKEN", "a host has the cluster address of another host", "Check with `ip -br addr` on both"),
    ("E-PORT-TAKEN", "another process listens on a port that k0s needs", "Check with `ss -lntp` on the host"),
    (
        "E-PORT-BLOCKED",
        "a host cannot reach a port of another host (the arrow shows the direction)",
        "Open the port in the firewall of the second host and on the path",
    ),
    (
        "E-PROXY-UNREACHABLE",
        "the host cannot reach network.proxy",
        "Check the proxy's address and the firewalls on the path",
    ),
    (
        "E-REPOSITORY-UNREACHABLE",
        "the host cannot reach a package repository of its roles",
        "Check the firewalls on the path; set `repositories` or network.proxy in the inventory",
    ),
    (
        "E-K0S-SKEW",
        "the requested k0s version skips a minor version or goes back one",
        "Check `k0s version` on the host; change cluster.k0s.version by one minor version at a time",
    ),
    ("E-K0S-SYSINFO", "`k0s sysinfo` rejects the host", "Run `k0s sysinfo` on the host"),
    (
        "E-ACCEL-MISMATCH",
        "the accelerators on the PCI bus differ from the inventory",
        "Check `lspci` on the host and `accelerator` of the pool",
    ),
    (
        "E-ACCEL-COUNT",
        "the number of accelerators on the PCI bus differs from the inventory",
        "Check `lspci` on the host; see docs/reference/health.md",
    ),
    (
        "E-EFA-COUNT",
        "the EFA devices on the PCI bus differ from the inventory, or the host is not an EC2 instance with EFA",
        "Check efa.count of the pool; EFA interfaces are attached when an instance is created",
    ),
    (
        "E-RDMA-COUNT",
        "fewer mlx5 devices on the PCI bus than declared links",
        "Check `lspci` on the host and rdma.count of the pool",
    ),
    (
        "E-RDMA-KERNEL",
        "the kernel is too old for GPUDirect over DMA-BUF (5.12)",
        "Install a newer kernel of the distribution, then reboot",
    ),
    (
        "E-CONTAINERD-DROPIN",
        "a containerd drop-in on the host prevents this k0s version from starting",
        "Remove it, or rewrite it for the containerd of this k0s version",
    ),
    (
        "E-HEADERS",
        "the headers of the running kernel are not available",
        "Install a kernel whose headers are in the repositories, then reboot",
    ),
    (
        "E-DNF-EXCLUDED",
        "exclude or includepkgs in dnf's configuration hides packages that the driver needs",
        "Change the line that the message names, in /etc/dnf/dnf.conf or /etc/yum.repos.d",
    ),
    ("E-NV-FOREIGN", "a driver from another installer is present", "Remove it as described in the message"),
    ("E-SPACE", "not enough disk space for drivers", "Free up space (`df -h` on the host)"),
    (
        "E-SECURE-BOOT",
        "Secure Boot is on, and a locally built driver will not load",
        "Turn it off, or enroll the key at the console",
    ),
    (
        "W-KERNEL",
        "the kernel is too old for complete cgroup v2 support (5.8)",
        "Install a newer kernel of the distribution",
    ),
    ("W-OS", "this distribution has not been tested", "Apply to one host first, with --limit"),
    (
        "W-NEURON-SYSTEM",
        "AWS has not tested this SDK's driver on this distribution with these devices",
        "Apply to one host first, with --limit, or use a distribution that was tested",
    ),
    ("W-CGROUP", "cgroup v1 is deprecated in Kubernetes", "Boot with systemd.unified_cgroup_hierarchy=1"),
    (
        "W-CERTIFICATE-AUTHORITY",
        "a certificate authority of the cluster expires within a year",
        "Back up the cluster, and replace it before that day (k0s's documentation, Custom CA)",
    ),
    (
        "W-CLOCK",
        "the clock is some seconds off that of this machine or of the other hosts",
        "Check `chronyc tracking` on the host",
    ),
    (
        "W-SELINUX",
        "SELinux is enforcing; it is not changed",
        "Install container-selinux, then run `restorecon /usr/local/bin/k0s`",
    ),
    (
        "W-FAPOLICYD",
        "fapolicyd is running; it is not changed and blocks programs that no package installed",
        "fapolicyd-cli --file add /usr/local/bin/k0s; fapolicyd-cli --file add /var/lib/k0s/bin/; fapolicyd-cli --update",
    ),
    (
        "W-APPARMOR",
        "AppArmor is enabled; it is not changed",
        "Nothing to do, unless one of your profiles confines containers",
    ),
    (
        "W-FIREWALL",
        "a firewall is running; it is tested, never changed",
        "Open the ports below, and 8472 or 4789 UDP if the CNI uses them",
    ),
    (
        "W-FOREIGN-RUNTIME",
        "a container runtime of the distribution is running besides that of k0s",
        "Remove it if nothing needs it; it can confuse accelerator tools",
    ),
    (
        "W-PRODUCT-UUID",
        "two hosts have the same product UUID",
        "Harmless unless other software identifies hosts by it",
    ),
    (
        "W-PORTS-UNTRIED",
        "ports could not be tested: neither bash nor nc is installed",
        "Install one of them, or test the ports manually",
    ),
    (
        "W-K0S-DOWNGRADE",
        "the requested k0s version is an earlier patch release",
        "Read the release notes of both: fixes are reverted",
    ),
    (
        "W-API-REMOVED",
        "clients of the cluster use an API that the requested Kubernetes no longer has",
        "Find them in the API server's audit log, or by the object's managedFields, and upgrade them first",
    ),
    (
        "W-FEATURE-GATE",
        "cluster.k0s.config sets a feature gate that can no longer be switched",
        "Remove it: a component does not start with a gate that it does not know",
    ),
    ("W-K0S-SYSINFO", "`k0s sysinfo` reports a warning", "Run `k0s sysinfo` on the host"),
    ("W-CLOUD-INIT", "cloud-init is still running", "Package steps wait for it"),
];
