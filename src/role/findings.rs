//! What preflight can find: one table of stable codes, each with what it means and what to do next. The reference page
//! `docs/reference/errors.md` is this table; a test keeps them the same.

use crate::state::{Failure, FailureKind};

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
        "nothing answers at the host's address and port",
        "check address, port, bastions and the machine itself (its BMC)",
    ),
    (
        "E-SSH-HOSTKEY-UNKNOWN",
        "the host's key is in no known_hosts file",
        "provision trust shows it and writes it down",
    ),
    (
        "E-SSH-HOSTKEY-CHANGED",
        "the host shows another key than the known one",
        "find out why before trusting the new one: a reinstalled host, or another machine",
    ),
    (
        "E-SSH-REFUSED",
        "the server, or a bastion on the way, does not let connections through",
        "AllowTcpForwarding and MaxSessions in the sshd_config that the message names",
    ),
    (
        "E-SSH-SETUP",
        "a bastion is not written as [user@]host[:port]",
        "ssh.bastions in the inventory, or ProxyJump in the ssh configuration",
    ),
    ("E-SSH-LOST", "the connection went while the host was asked", "the same command again; then the link"),
    ("E-SSH-AUTH", "no key, agent or password was accepted", "ssh to it by hand with the same user and key"),
    (
        "E-SUDO-PASSWORD",
        "sudo wants a password, and there is none or a wrong one",
        "ssh.sudoPassword in the inventory, or NOPASSWD for the login",
    ),
    ("E-SUDO-REFUSED", "the login may not become root", "sudo -l on the host; a line in /etc/sudoers.d"),
    ("E-SUDO-TTY", "sudo insists on a terminal", "no `Defaults requiretty` for the login, in /etc/sudoers.d"),
    ("E-SUDO-MISSING", "there is no sudo on the host", "install it, or log in as root (ssh.user)"),
    ("E-SHELL", "the root shell ended before it answered", "log in by hand: sudo -n /bin/sh -c true"),
    ("E-TIMEOUT", "the host did not answer in time", "log in by hand: something on the host hangs"),
    (
        "E-FACTS",
        "the host's answer cannot be read, or was cut",
        "the same command again; the message names what",
    ),
    ("E-NOT-LINUX", "the host does not run Linux", "uname -s on the host"),
    ("E-NOT-ROOT", "the program does not run as root", "sudo -n id -u on the host"),
    ("E-NO-SYSTEMD", "the host was not booted with systemd", "ls -d /run/systemd/system on the host"),
    ("E-ARCH", "the processor is neither x86_64 nor aarch64", "uname -m on the host"),
    (
        "E-OS",
        "the distribution has neither apt nor dnf, or no driver packages are known for it",
        "a roles/ folder beside the inventory can bring another role",
    ),
    (
        "E-KERNEL",
        "the kernel is older than containers and drivers can use",
        "a newer kernel of the distribution, then reboot",
    ),
    (
        "E-CGROUP",
        "this k0s's kubelet does not start on cgroup v1",
        "boot with systemd.unified_cgroup_hierarchy=1, or failCgroupV1: false in a worker profile of cluster.k0s.config",
    ),
    ("E-NO-SPACE", "a path has less room than what is to be put there", "df -h on the host; make room"),
    (
        "E-NOEXEC",
        "a path from which programs must run is mounted noexec",
        "mount -o remount,exec, and the line in /etc/fstab",
    ),
    (
        "E-CLOCK",
        "the clock is more than five minutes off this machine's or the other hosts'",
        "timedatectl on the host; certificates and tokens would be refused",
    ),
    (
        "E-FOREIGN-KUBERNETES",
        "another kubelet or Kubernetes distribution runs there",
        "take it away; two cannot share ports, CNI and cgroups",
    ),
    (
        "E-INTERFACE",
        "the pool's clusterInterface is not there, or does not carry the cluster address",
        "ip -br addr on the host",
    ),
    (
        "E-DISK",
        "a disk of `storage` carries something, is not there or is in use",
        "blkid -p on the host; `keep` or `erase` in the inventory says what to do with it",
    ),
    (
        "E-MACHINE-ID",
        "two hosts have one machine id: a cloned image",
        "tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id, and reboot",
    ),
    ("E-HOSTNAME", "a host calls itself as another host of the inventory", "swapped addresses, or a clone"),
    ("E-ADDRESS-TAKEN", "a host carries another's cluster address", "ip -br addr on both"),
    ("E-PORT-TAKEN", "something else listens on a port that k0s needs", "ss -lntp on the host"),
    (
        "E-PORT-BLOCKED",
        "a host cannot reach a port of another; the arrow is the direction",
        "open it in the firewall of the host named second, and on the way",
    ),
    (
        "E-PROXY-UNREACHABLE",
        "the host cannot reach network.proxy",
        "the proxy's address, and the firewall on the way",
    ),
    (
        "E-REPOSITORY-UNREACHABLE",
        "the host cannot reach a package repository of its roles",
        "the firewall on the way; `repositories` or network.proxy in the inventory",
    ),
    ("E-K0S-SYSINFO", "the target k0s rejects the host", "k0s sysinfo on the host"),
    (
        "E-ACCEL-MISMATCH",
        "other accelerators are on the PCI bus than declared",
        "lspci on the host; accelerator in the pool",
    ),
    (
        "E-ACCEL-COUNT",
        "fewer or more accelerators are on the PCI bus than declared",
        "lspci on the host; docs/reference/health.md",
    ),
    (
        "E-EFA-COUNT",
        "other EFA devices are on the PCI bus than declared, or the host is no EC2 instance with any",
        "efa.count in the pool; EFA interfaces are attached when an instance is made",
    ),
    (
        "E-RDMA-COUNT",
        "fewer mlx5 devices are on the PCI bus than links declared",
        "lspci on the host; rdma.count in the pool",
    ),
    (
        "E-RDMA-KERNEL",
        "the kernel is older than DMA-BUF between GPUs and networks wants (5.12)",
        "a newer kernel of the distribution, then reboot",
    ),
    (
        "E-CONTAINERD-DROPIN",
        "a containerd drop-in there keeps this k0s from starting",
        "take it away, or write it in the form that this k0s takes",
    ),
    (
        "E-HEADERS",
        "the running kernel's headers are not to be had",
        "a kernel whose headers the repositories have, then reboot",
    ),
    ("E-NV-FOREIGN", "a driver of another owner is installed", "take it away as the message says"),
    ("E-SPACE", "too little room for drivers", "df -h on the host; make room"),
    (
        "E-SECURE-BOOT",
        "Secure Boot is on, and a locally built driver would not load",
        "switch it off, or enrol the key at the console",
    ),
    ("W-KERNEL", "the kernel is older than cgroup v2 wants (5.8)", "a newer kernel of the distribution"),
    ("W-OS", "no tests were run on this distribution", "watch the first apply of one host: --limit"),
    ("W-CGROUP", "cgroup v1: Kubernetes gives it up", "boot with systemd.unified_cgroup_hierarchy=1"),
    (
        "W-CLOCK",
        "the clock is some seconds off this machine's or the other hosts'",
        "chronyc tracking on the host",
    ),
    (
        "W-SELINUX",
        "SELinux enforces; it is left as it is",
        "the policy package container-selinux, and restorecon /usr/local/bin/k0s",
    ),
    (
        "W-FAPOLICYD",
        "fapolicyd runs; it is left as it is and refuses what no package brought",
        "fapolicyd-cli --file add /usr/local/bin/k0s; fapolicyd-cli --file add /var/lib/k0s/bin/; fapolicyd-cli --update",
    ),
    (
        "W-APPARMOR",
        "AppArmor is on; it is left as it is",
        "nothing, unless a profile of yours confines containers",
    ),
    (
        "W-FIREWALL",
        "a firewall runs; it is looked at, never changed",
        "the ports below, and 8472 or 4789 UDP where the CNI wants them",
    ),
    (
        "W-FOREIGN-RUNTIME",
        "a container runtime of the distribution runs beside k0s's",
        "take it away if nothing needs it; it can confuse accelerator tools",
    ),
    (
        "W-PRODUCT-UUID",
        "two hosts have one product uuid",
        "harmless, unless something tells hosts apart by it",
    ),
    ("W-PORTS-UNTRIED", "no port could be tried: no bash and no nc", "install one, or check by hand"),
    ("W-K0S-SYSINFO", "the target k0s warns of the host", "k0s sysinfo on the host"),
    ("W-CLOUD-INIT", "cloud-init still runs", "packages wait for it"),
];
