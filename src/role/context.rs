//! What role files and templates can name: the host, its pool, its facts, and what follows from them.

use super::desired::RoleInput;
use super::preflight::stop;
use super::{accelerator, k0s};
use crate::inventory::Host;
use crate::state::{Failure, PackageManager};
use serde_json::{Value, json};

/// Kernel settings: key, value, and whether an admin's larger value stays. EKS and kubespray set these
/// (accelerators.md §3); kubelet checks the last four.
const SYSCTLS: [(&str, &str, bool); 11] = [
    ("net.ipv4.ip_forward", "1", true),
    ("net.bridge.bridge-nf-call-iptables", "1", true),
    ("net.bridge.bridge-nf-call-ip6tables", "1", true),
    ("fs.inotify.max_user_instances", "8192", true),
    ("fs.inotify.max_user_watches", "524288", true),
    ("vm.max_map_count", "524288", true),
    ("kernel.pid_max", "4194304", true),
    ("vm.overcommit_memory", "1", false),
    ("vm.panic_on_oom", "0", false),
    ("kernel.panic", "10", true),
    ("kernel.panic_on_oops", "1", true),
];

/// Returns the address that etcd, kubelet and the API use.
pub(super) fn address(host: &Host) -> String {
    host.cluster_address.map(|a| a.to_string()).unwrap_or_else(|| host.address.clone())
}

/// Returns a locked artifact as a download to `path`.
pub(super) fn download(input: &RoleInput<'_>, name: &str, path: &str, mode: u32) -> Result<Value, Failure> {
    let locked = input.lock.get(name).ok_or_else(|| {
        stop("E-LOCK", format!("provision.lock does not have {name}")).hint("provision lock")
    })?;
    Ok(json!({"path": path, "urls": locked.urls, "sha256": locked.sha256, "mode": mode}))
}

/// Returns the lines of /etc/hosts: the host's own, and those of the controllers, so that a person finds them when
/// nothing else resolves names.
fn names(input: &RoleInput<'_>) -> Vec<Value> {
    let line =
        |name: &str, host: &Host| json!({"name": name, "line": format!("{} {}", address(host), host.name)});
    let own = std::iter::once(line("self", input.host));
    let others = input.inventory.controllers().filter(|h| h.name != input.host.name);
    own.chain(others.map(|h| line(h.name.as_str(), h))).collect()
}

fn sysctls(input: &RoleInput<'_>) -> Vec<Value> {
    let own = &input.inventory.os.sysctls;
    let ours = SYSCTLS.iter().filter(|(key, ..)| !own.contains_key(*key));
    ours.map(|(key, value, raise_only)| json!({"key": key, "value": value, "raise_only": raise_only}))
        .chain(own.iter().map(
            |(key, value)| json!({"key": key, "value": value, "raise_only": value.parse::<u64>().is_ok()}),
        ))
        .collect()
}

/// Returns everything that roles may name.
pub(super) fn context(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let RoleInput { inventory, host, facts, catalog, .. } = *input;
    let pool = inventory.pool_of(host);
    let apt = facts.package_manager != Some(PackageManager::Dnf);
    let product = pool.accelerator.as_ref().and_then(|a| catalog.product(a.product()));
    Ok(json!({
        "inventory": {"name": inventory.name},
        "cluster": inventory.cluster,
        "pool": pool,
        "host": {"name": host.name, "address": address(host), "rack": host.rack, "labels": host.labels},
        "facts": facts,
        "os": inventory.os,
        "os_slug": facts.os_slug(),
        "apt": apt,
        "repository": accelerator::repository(facts),
        "chrony": if apt { "chrony.service" } else { "chronyd.service" },
        "names": names(input),
        "sysctls": sysctls(input),
        "product": product,
        "kernel": accelerator::kernel(input),
        "keys": accelerator::keys(input)?,
        "nvidia": accelerator::nvidia(input),
        "neuron": accelerator::neuron(input),
        "k0s": k0s::k0s(input)?,
    }))
}
