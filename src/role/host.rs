//! What a host's facts alone say against it, and what a person should know of it. Nothing is switched off or changed.

use super::context::{interface_address, own_address};
use super::desired::RoleInput;
use super::findings::{Finding, stop, warn};
use crate::inventory::{Inventory, NodeRole};
use crate::state::Facts;

/// Older kernels lack what containerd and drivers need: RHEL 8's is the oldest that vendors still build for.
const OLDEST_KERNEL: (u32, u32) = (4, 18);
/// cgroup v2 is complete from here on (Kubernetes documentation, "About cgroup v2").
const CGROUP_V2_KERNEL: (u32, u32) = (5, 8);
/// From this Kubernetes on the kubelet's failCgroupV1 is true unless said (KEP-5573; k0s 1.35's pre-flight too).
const CGROUP_V2_ONLY: (u32, u32) = (1, 35);
/// Clocks further apart break certificates and tokens, in seconds.
pub(super) const MOST_SKEW_S: i64 = 300;
/// Clocks further apart are told, in seconds; observing takes about this long at the worst.
pub(super) const SEEN_SKEW_S: i64 = 5;
/// k0s unpacks what it embeds: its data takes about its own size once more, and images come on top (k0s's own sysinfo
/// wants 1.8 GiB free).
const K0S_DATA_KIB: u64 = 2 << 20;

/// Distributions on which something of this program was run; see docs/verification.md.
const TRIED: [&str; 1] = ["debian12"];

/// Returns the first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Returns the free space of the file system that a path is on, in KiB.
fn free(facts: &Facts, path: &str) -> Option<u64> {
    let holds = |mount: &str| mount == "/" || path == mount || path.starts_with(&format!("{mount}/"));
    facts.free_kib.iter().filter(|(m, _)| holds(m)).max_by_key(|(m, _)| m.len()).map(|(_, free)| *free)
}

/// Returns whether a worker profile of the inventory lets the kubelet start on cgroup v1.
fn allows_cgroup_v1(inventory: &Inventory) -> bool {
    let profiles = inventory.cluster.k0s_config.pointer("/spec/workerProfiles").and_then(|p| p.as_array());
    profiles.is_some_and(|all| all.iter().any(|p| p.pointer("/values/failCgroupV1") == Some(&false.into())))
}

/// Returns everything that the facts say; what stops the host first.
pub fn check(input: &RoleInput<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    kernel(input, &mut found);
    space(input, &mut found);
    clock(input.facts, &mut found);
    others(input.facts, &mut found);
    interface(input, &mut found);
    found.sort_by_key(|f| !f.stops());
    found
}

fn kernel(input: &RoleInput<'_>, found: &mut Vec<Finding>) {
    let facts = input.facts;
    let hint = "by hand: uname -r; install a newer kernel of the distribution and reboot";
    match version(&facts.kernel) {
        Some(kernel) if kernel < OLDEST_KERNEL => {
            let (a, b) = OLDEST_KERNEL;
            found.push(stop("E-KERNEL", format!("its kernel is {}, older than {a}.{b}", facts.kernel), hint));
        }
        Some(kernel) if kernel < CGROUP_V2_KERNEL && facts.cgroup == Some(2) => {
            let message = format!("its kernel is {}; cgroup v2 is complete from 5.8 on", facts.kernel);
            found.push(warn("W-KERNEL", message, hint));
        }
        _ => {}
    }
    let slug = facts.os_slug();
    if !slug.is_empty() && !TRIED.contains(&slug.as_str()) {
        let message = format!("no test of this version was run on {slug}");
        found.push(warn("W-OS", message, "apply to one host first: --limit"));
    }
    let worker = input.inventory.pool_of(input.host).role.is_worker();
    if worker && facts.cgroup == Some(1) {
        let hint = "by hand: stat -fc %T /sys/fs/cgroup; boot with systemd.unified_cgroup_hierarchy=1, or set \
                    failCgroupV1: false in a worker profile of cluster.k0s.config";
        let wanted = &input.inventory.cluster.k0s_version;
        let only_v2 = version(wanted).is_some_and(|v| v >= CGROUP_V2_ONLY);
        found.push(match only_v2 && !allows_cgroup_v1(input.inventory) {
            true => {
                stop("E-CGROUP", format!("cgroup v1; the kubelet of k0s {wanted} does not start on it"), hint)
            }
            false => warn("W-CGROUP", "cgroup v1, which Kubernetes gives up", hint),
        });
    }
}

/// Room for what the lock file says is to come, and no mount on which it could not run.
fn space(input: &RoleInput<'_>, found: &mut Vec<Finding>) {
    let facts = input.facts;
    let binary = input.lock.get(&format!("k0s-{}", facts.arch)).map_or(0, |l| l.size.div_ceil(1024));
    let there = |id: &str| facts.managed.iter().any(|m| m.id == id);
    let mut wanted = Vec::new();
    if !there("download//usr/local/bin/k0s") {
        wanted.push(("/usr/local/bin", binary, "the k0s binary of the lock file"));
    }
    if !there("command/k0s-ready") {
        wanted.push((
            "/var/lib/k0s",
            binary.max(1) + if binary > 1024 { K0S_DATA_KIB } else { 0 },
            "k0s and its images",
        ));
    }
    for (path, needed, what) in wanted {
        if let Some(free) = free(facts, path).filter(|free| *free < needed) {
            let message = format!("{path} has {} MiB free, {what} take {} MiB", free >> 10, needed >> 10);
            found.push(stop("E-NO-SPACE", message, format!("by hand: df -h {path}")));
        }
    }
    for path in ["/usr/local/bin", "/var/lib/k0s", "/opt"] {
        let on = |mount: &str| mount == "/" || path == mount || path.starts_with(&format!("{mount}/"));
        let mount = facts.mounts.iter().filter(|m| on(&m.path)).max_by_key(|m| m.path.len());
        if let Some(mount) = mount.filter(|m| m.options.split(',').any(|o| o == "noexec")) {
            let message =
                format!("{path} is on {}, which is mounted noexec: nothing could run from there", mount.path);
            let hint = format!(
                "by hand: findmnt -T {path}; mount -o remount,exec {0}, and its line in /etc/fstab",
                mount.path
            );
            found.push(stop("E-NOEXEC", message, hint));
        }
    }
}

fn clock(facts: &Facts, found: &mut Vec<Finding>) {
    let skew = facts.skew_s;
    let way = if skew < 0 { "behind" } else { "ahead of" };
    let hint = "by hand: date -u, here and there; timedatectl set-ntp true, or chronyc makestep";
    let message = format!("its clock is {} s {way} this machine's", skew.abs());
    match skew.abs() {
        s if s > MOST_SKEW_S => found.push(stop("E-CLOCK", message, hint)),
        s if s > SEEN_SKEW_S => found.push(warn("W-CLOCK", message, hint)),
        _ => {}
    }
}

/// What else lives there.
fn others(facts: &Facts, found: &mut Vec<Finding>) {
    for service in &facts.services {
        let by_hand = format!("by hand: systemctl status {service}");
        let name = service.trim_end_matches(".service");
        found.push(match name {
            "k3s" | "k3s-agent" | "rke2-server" | "rke2-agent" | "kubelet" | "snap.microk8s.daemon-kubelite" => {
                let hint = format!("{by_hand}; take it away: two cannot share ports, CNI and cgroups");
                stop("E-FOREIGN-KUBERNETES", format!("{name} runs there"), hint)
            }
            "docker" | "containerd" | "crio" => {
                let hint = format!("{by_hand}; take it away if nothing needs it: k0s brings its own");
                warn("W-FOREIGN-RUNTIME", format!("{name} runs beside k0s's containerd"), hint)
            }
            "fapolicyd" => {
                let hint = "fapolicyd-cli --file add /usr/local/bin/k0s; fapolicyd-cli --file add /var/lib/k0s/bin/; \
                            fapolicyd-cli --update";
                warn("W-FAPOLICYD", "fapolicyd runs and refuses programs that no package brought; it is left as it is", hint)
            }
            _ => warn(
                "W-FIREWALL",
                format!("{name} runs; it is left as it is"),
                "open the ports of docs/reference/errors.md; provision preflight tries them",
            ),
        });
    }
    if facts.selinux.as_deref() == Some("enforcing") {
        let hint = "by hand: getenforce; install container-selinux, then restorecon -v /usr/local/bin/k0s";
        found.push(warn("W-SELINUX", "SELinux enforces; it is left as it is", hint));
    }
    if facts.apparmor {
        let hint = "by hand: aa-status; nothing to do unless a profile of yours confines containers";
        found.push(warn("W-APPARMOR", "AppArmor is on; it is left as it is", hint));
    }
    if facts.cloud_init.as_deref() == Some("running") {
        found.push(warn(
            "W-CLOUD-INIT",
            "cloud-init still runs",
            "by hand: cloud-init status --wait; packages wait for it",
        ));
    }
}

/// The cluster's interface carries the cluster's address.
fn interface(input: &RoleInput<'_>, found: &mut Vec<Finding>) {
    let pool = input.inventory.pool_of(input.host);
    let Some(interface) = &pool.cluster_interface else { return };
    let there: Vec<String> = input.facts.addresses.iter().map(|(i, a)| format!("{i} {a}")).collect();
    let there = if there.is_empty() { "no addresses were told".to_owned() } else { there.join(", ") };
    match interface_address(input.facts, interface) {
        None => {
            let message = format!("it has no interface {interface} with an IPv4 address ({there})");
            found.push(stop("E-INTERFACE", message, "by hand: ip -br addr"));
        }
        Some(_) if input.host.node_ip || pool.role != NodeRole::Worker => {
            let wanted = own_address(input);
            let carries = |(i, a): &&(String, String)| i == interface && a.split('/').next() == Some(&wanted);
            if !input.facts.addresses.iter().any(|a| carries(&a)) {
                let message = format!("{interface} does not carry the cluster address {wanted} ({there})");
                found.push(stop("E-INTERFACE", message, "by hand: ip -br addr"));
            }
        }
        Some(_) => {}
    }
}
