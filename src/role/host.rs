//! Preflight checks and warnings from a host's facts alone. Nothing is turned off or changed.

use super::findings::{Finding, MOST_SKEW_S, SEEN_SKEW_S, stop, warn};
use super::input::{RoleInput, day, interface_address, is_new, own_address, repository};
use crate::catalog::K0sStep;
use crate::inventory::{Accelerator, Inventory, NodeRole};
use crate::k0s;
use crate::state::{Facts, HostKind, ResourceId};

/// Older kernels lack what containerd and drivers need: RHEL 8's is the oldest that vendors still build for.
const OLDEST_KERNEL: (u32, u32) = (4, 18);
/// cgroup v2 is complete from here on (Kubernetes documentation, "About cgroup v2").
const CGROUP_V2_KERNEL: (u32, u32) = (5, 8);
/// From this Kubernetes on the kubelet's failCgroupV1 defaults to true (KEP-5573; k0s 1.35's pre-flight too).
const CGROUP_V2_ONLY: (u32, u32) = (1, 35);
/// k0s unpacks what it embeds: its data takes about its own size once more, and images come on top (k0s's own sysinfo
/// wants 1.8 GiB free).
const K0S_DATA_KIB: u64 = 2 << 20;

/// An authority that ends within a year is told of: replacing one takes planning.
const AUTHORITY_NOTICE_S: i64 = 365 * 86_400;

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

/// Returns all findings of the facts, failures first.
pub fn check(input: &RoleInput<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    kernel(input, &mut found);
    space(input, &mut found);
    clock(input.facts, &mut found);
    others(input.facts, &mut found);
    authorities(input.facts, &mut found);
    interface(input, &mut found);
    found.extend(k0s(input));
    found.extend(earlier_cluster(input));
    found.extend(other_role(input));
    found.extend(node_name(input));
    found.sort_by_key(|f| !f.stops());
    found
}

/// Whether the host's k0s can become the one that is wanted. What a host that is no node yet has lying about is replaced.
fn k0s(input: &RoleInput<'_>) -> Option<Finding> {
    let (from, to) = (input.facts.k0s_version.as_ref()?, &input.inventory.cluster.k0s_version);
    if is_new(input.facts) {
        return None;
    }
    let step = K0sStep::between(from, to)?;
    let hint = match step {
        K0sStep::MinorDown => format!(
            "Hosts that run an earlier version can go on without it: --limit '!{}'. To go back, restore the backup that was made \
             before the upgrade",
            input.host.name
        ),
        _ => "Change cluster.k0s.version by one minor version at a time (check with: k0s version)".to_owned(),
    };
    match step.refusal() {
        Some(why) => Some(stop("E-K0S-SKEW", format!("k0s {from} -> {to} {why}"), hint)),
        None if step == K0sStep::PatchDown => {
            let message = format!("k0s {from} -> {to} is a downgrade to an earlier patch release");
            Some(warn("W-K0S-DOWNGRADE", message, "Read the release notes of both: fixes are reverted"))
        }
        None => None,
    }
}

/// What another cluster left on a host: a k0s that finds its own data starts as a member of that cluster, needs no token,
/// and a CNI configuration that comes first by name connects every pod.
fn earlier_cluster(input: &RoleInput<'_>) -> Option<Finding> {
    let facts = input.facts;
    if k0s::is_ours(facts) {
        return None;
    }
    let provider = input.inventory.cluster.k0s_config.pointer("/spec/network/provider");
    let own = match provider.and_then(|p| p.as_str()) {
        Some("custom") => None,
        Some(name) => Some(format!("10-{name}.conflist")),
        None => Some("10-kuberouter.conflist".to_owned()),
    };
    let speaks = |path: &str| match path.strip_prefix(k0s::CNI_DIR) {
        Some(file) => {
            let file = file.trim_start_matches('/');
            let read = [".conf", ".conflist", ".json"].iter().any(|ending| file.ends_with(ending));
            let worker = input.inventory.pool_of(input.host).role.is_worker();
            worker && read && own.as_deref().is_some_and(|own| file < own)
        }
        None => true,
    };
    let files: Vec<&str> = facts.cluster_files.iter().map(String::as_str).filter(|p| speaks(p)).collect();
    // What a restore has put there is ours.
    if files.is_empty() || facts.restore.is_some() {
        return None;
    }
    let data: Vec<&str> = files.iter().filter(|p| p.starts_with(k0s::DATA_DIR)).copied().collect();
    let hint = match data.is_empty() {
        false => format!(
            "If nothing needs that cluster any more, run `k0s stop; k0s reset` and reboot, then remove what is left of: {}",
            files.join(" ")
        ),
        true => format!("If nothing needs them any more, remove: {}", files.join(" ")),
    };
    let message =
        format!("the host has files of a cluster that provision did not set up: {}", files.join(", "));
    Some(stop("E-EARLIER-CLUSTER", message, hint))
}

/// A k0s that joined as a worker does not become a controller, nor the other way round: what it keeps is of its role, and a
/// controller is a member of etcd.
fn other_role(input: &RoleInput<'_>) -> Option<Finding> {
    let wants_controller = input.inventory.pool_of(input.host).role.is_controller();
    let owns = |controller| input.facts.owns(&ResourceId::host(HostKind::Unit, k0s::unit(controller)));
    if owns(wants_controller) || !owns(!wants_controller) {
        return None;
    }
    let name = |controller| if controller { "a controller" } else { "a worker" };
    let message = format!(
        "k0s on the host is installed as {}, and the inventory makes it {}; k0s does not change its role in place",
        name(!wants_controller),
        name(wants_controller)
    );
    let hint = format!(
        "Run `provision reset {}`, which drains it and takes it out of the cluster, then apply: it joins as {} (check with: \
         systemctl status {})",
        input.host.name,
        name(wants_controller),
        k0s::unit(!wants_controller)
    );
    Some(stop("E-K0S-ROLE", message, hint))
}

/// A kubelet registers its node by the host's name, in lower case, and a node of another name is not found.
fn node_name(input: &RoleInput<'_>) -> Option<Finding> {
    let (name, hostname) = (&input.host.name, input.facts.hostname.to_lowercase());
    let worker = input.inventory.pool_of(input.host).role.is_worker();
    if input.inventory.os.manage_hostname || !worker || hostname.is_empty() || hostname == name.as_str() {
        return None;
    }
    let message = format!(
        "the kubelet would register node {hostname}, but the inventory has {name} (os.hostname: keep)"
    );
    let hint = format!("Run `hostnamectl set-hostname {name}`, or remove os.hostname (check with: hostname)");
    Some(stop("E-NODE-NAME", message, hint))
}

fn kernel(input: &RoleInput<'_>, found: &mut Vec<Finding>) {
    let facts = input.facts;
    let hint = "Install a newer kernel of the distribution and reboot (check with: uname -r)";
    match version(&facts.kernel) {
        Some(kernel) if kernel < OLDEST_KERNEL => {
            let (a, b) = OLDEST_KERNEL;
            found.push(stop("E-KERNEL", format!("kernel {} is older than {a}.{b}", facts.kernel), hint));
        }
        Some(kernel) if kernel < CGROUP_V2_KERNEL && facts.cgroup == Some(2) => {
            let message =
                format!("kernel {} is older than 5.8, which has complete cgroup v2 support", facts.kernel);
            found.push(warn("W-KERNEL", message, hint));
        }
        _ => {}
    }
    let slug = facts.os_slug();
    if !slug.is_empty() && !TRIED.contains(&slug.as_str()) {
        let message = format!("this version has not been tested on {slug}");
        found.push(warn("W-OS", message, "Apply to one host first, with --limit"));
    }
    found.extend(neuron_system(input));
    let worker = input.inventory.pool_of(input.host).role.is_worker();
    if worker && facts.cgroup == Some(1) {
        let hint = "Boot with systemd.unified_cgroup_hierarchy=1 (check with: stat -fc %T /sys/fs/cgroup), or set \
                    failCgroupV1: false in a worker profile of cluster.k0s.config";
        let wanted = &input.inventory.cluster.k0s_version;
        let only_v2 = version(wanted).is_some_and(|v| v >= CGROUP_V2_ONLY);
        found.push(match only_v2 && !allows_cgroup_v1(input.inventory) {
            true => stop(
                "E-CGROUP",
                format!("the host uses cgroup v1, on which the kubelet of k0s {wanted} does not start"),
                hint,
            ),
            false => warn("W-CGROUP", "cgroup v1 is deprecated in Kubernetes", hint),
        });
    }
}

/// Whether AWS has tested the SDK's driver on this distribution. Drivers of which no table was found are not judged.
fn neuron_system(input: &RoleInput<'_>) -> Option<Finding> {
    let accelerator = input.inventory.pool_of(input.host).accelerator.as_ref()?;
    let Accelerator::Neuron { product, sdk, .. } = accelerator else { return None };
    let tested = &input.catalog.neuron_sdk(sdk)?.kernels;
    let systems = tested.get(product);
    let slug = repository(input.facts)?;
    if tested.is_empty() || systems.is_some_and(|systems| systems.contains_key(slug)) {
        return None;
    }
    let message = format!("AWS has not tested the driver of SDK {sdk} with {product} on {slug}");
    let hint = match systems {
        Some(systems) => format!(
            "Apply to one host first, with --limit; tested: {}",
            systems.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
        None => "Apply to one host first, with --limit; AWS names no tested distribution for it".to_owned(),
    };
    Some(warn("W-NEURON-SYSTEM", message, hint))
}

/// Checks disk space for the pinned downloads, and that their mounts allow executables.
fn space(input: &RoleInput<'_>, found: &mut Vec<Finding>) {
    let facts = input.facts;
    let binary = input.lock.get(&format!("k0s-{}", facts.arch)).map_or(0, |l| l.size.div_ceil(1024));
    let mut wanted = Vec::new();
    if !facts.owns(&ResourceId::host(HostKind::Download, k0s::BINARY)) {
        wanted.push(("/usr/local/bin", binary, "the k0s binary"));
    }
    if !k0s::has_joined(facts) {
        wanted.push((
            k0s::DATA_DIR,
            binary.max(1) + if binary > 1024 { K0S_DATA_KIB } else { 0 },
            "k0s and its images",
        ));
    }
    for (path, needed, what) in wanted {
        if let Some(free) = free(facts, path).filter(|free| *free < needed) {
            let message = format!("{path} has {} MiB free, {what} need {} MiB", free >> 10, needed >> 10);
            found.push(stop("E-NO-SPACE", message, format!("Free up space (df -h {path})")));
        }
    }
    for path in ["/usr/local/bin", k0s::DATA_DIR, "/opt"] {
        let on = |mount: &str| mount == "/" || path == mount || path.starts_with(&format!("{mount}/"));
        let mount = facts.mounts.iter().filter(|m| on(&m.path)).max_by_key(|m| m.path.len());
        if let Some(mount) = mount.filter(|m| m.options.split(',').any(|o| o == "noexec")) {
            let message = format!("{path} is on {}, which is mounted noexec", mount.path);
            let hint = format!(
                "Run `mount -o remount,exec {0}` and fix its line in /etc/fstab (check with: findmnt -T {path})",
                mount.path
            );
            found.push(stop("E-NOEXEC", message, hint));
        }
    }
}

fn clock(facts: &Facts, found: &mut Vec<Finding>) {
    let skew = facts.skew_s;
    let way = if skew < 0 { "behind" } else { "ahead of" };
    let hint = "Compare `date -u` on both machines; run `timedatectl set-ntp true` or `chronyc makestep`";
    let message = format!("its clock is {} s {way} this machine's", skew.abs());
    match skew.abs() {
        s if s > MOST_SKEW_S => found.push(stop("E-CLOCK", message, hint)),
        s if s > SEEN_SKEW_S => found.push(warn("W-CLOCK", message, hint)),
        _ => {}
    }
}

/// k0s renews what an authority signs, and never the authority itself.
fn authorities(facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(ends) = k0s::authority_ends(&facts.certificates, facts.now_s, AUTHORITY_NOTICE_S) {
        let word = if ends.until_s < facts.now_s { "expired" } else { "expires" };
        let message = format!("the certificate authority {} {word} on {}", ends.name, day(ends.until_s));
        let hint = "k0s does not renew it: back up the cluster, and replace it before that day (k0s's documentation, Custom CA)";
        found.push(warn("W-CERTIFICATE-AUTHORITY", message, hint));
    }
}

/// What would come back with the next boot, which a driver needs. A node of ours has been booted with it before.
fn sleeping(facts: &Facts, found: &mut Vec<Finding>) {
    let stopped = facts.enabled.iter().filter(|service| !facts.services.contains(service));
    for service in stopped.filter(|_| is_new(facts)) {
        let name = service.trim_end_matches(".service");
        let message = format!("{name} is not running, but enabled: it starts at the next boot");
        let hint = format!("Run `systemctl disable {service}` (check with: systemctl is-enabled {service})");
        match name {
            "k3s"
            | "k3s-agent"
            | "rke2-server"
            | "rke2-agent"
            | "kubelet"
            | "snap.microk8s.daemon-kubelite" => {
                found.push(stop("E-FOREIGN-KUBERNETES", message, hint));
            }
            "fapolicyd" => found.push(warn("W-FAPOLICYD", message, hint)),
            // Ubuntu has ufw enabled on every host: its own configuration says whether it does anything.
            "firewalld" => found.push(warn("W-FIREWALL", message, hint)),
            _ => {}
        }
    }
}

/// What else lives there.
fn others(facts: &Facts, found: &mut Vec<Finding>) {
    sleeping(facts, found);
    for service in &facts.services {
        let by_hand = format!("Check with: systemctl status {service}");
        let name = service.trim_end_matches(".service");
        found.push(match name {
            "k3s" | "k3s-agent" | "rke2-server" | "rke2-agent" | "kubelet" | "snap.microk8s.daemon-kubelite" => {
                let hint = format!("{by_hand}. Remove it: two cannot share ports, CNI and cgroups");
                stop("E-FOREIGN-KUBERNETES", format!("{name} is running"), hint)
            }
            "docker" | "containerd" | "crio" => {
                let hint = format!("{by_hand}. Remove it if nothing needs it: k0s has its own");
                warn("W-FOREIGN-RUNTIME", format!("{name} is running besides the containerd of k0s"), hint)
            }
            "fapolicyd" => {
                let hint = "fapolicyd-cli --file add /usr/local/bin/k0s; fapolicyd-cli --file add /var/lib/k0s/bin/; \
                            fapolicyd-cli --update";
                warn("W-FAPOLICYD", "fapolicyd is running and blocks programs that no package installed; it is not changed", hint)
            }
            _ => warn(
                "W-FIREWALL",
                format!("{name} is running; it is not changed"),
                "Open the ports listed in docs/reference/errors.md; `provision preflight` tests them",
            ),
        });
    }
    if facts.selinux.as_deref() == Some("enforcing") {
        let hint =
            "Install container-selinux, then run `restorecon -v /usr/local/bin/k0s` (check with: getenforce)";
        found.push(warn("W-SELINUX", "SELinux is enforcing; it is not changed", hint));
    }
    if facts.apparmor {
        let hint = "Nothing to do, unless one of your profiles confines containers (check with: aa-status)";
        found.push(warn("W-APPARMOR", "AppArmor is enabled; it is not changed", hint));
    }
    if facts.cloud_init.as_deref() == Some("running") {
        found.push(warn(
            "W-CLOUD-INIT",
            "cloud-init is still running",
            "Wait with: cloud-init status --wait; package steps wait for it too",
        ));
    }
}

/// The cluster's interface carries the cluster's address.
fn interface(input: &RoleInput<'_>, found: &mut Vec<Finding>) {
    let pool = input.inventory.pool_of(input.host);
    let Some(interface) = &pool.cluster_interface else { return };
    let there: Vec<String> = input.facts.addresses.iter().map(|(i, a)| format!("{i} {a}")).collect();
    let there = if there.is_empty() { "no addresses reported".to_owned() } else { there.join(", ") };
    match interface_address(input.facts, interface) {
        None => {
            let message = format!("no interface {interface} with an IPv4 address ({there})");
            found.push(stop("E-INTERFACE", message, "Check with: ip -br addr"));
        }
        Some(_) if input.host.node_ip || pool.role != NodeRole::Worker => {
            let wanted = own_address(input);
            let carries = |(i, a): &&(String, String)| i == interface && a.split('/').next() == Some(&wanted);
            if !input.facts.addresses.iter().any(|a| carries(&a)) {
                let message = format!("{interface} does not have the cluster address {wanted} ({there})");
                found.push(stop("E-INTERFACE", message, "Check with: ip -br addr"));
            }
        }
        Some(_) => {}
    }
}
