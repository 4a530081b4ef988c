//! The variables of role files and templates: the host, its pool, its facts, and derived values.

use super::input::{RoleInput, address, own_address, repository};
use super::{accelerator, k0s, network, os_kernel, rdma};
use crate::inventory::Host;
use crate::k0s::DATA_DIR;
use crate::state::{Failure, PackageManager};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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

/// Returns the lines of /etc/hosts: the host's own, and those of the controllers, so that a person finds them when
/// nothing else resolves names.
fn names(input: &RoleInput<'_>) -> Vec<Value> {
    let line =
        |name: &str, host: &Host| json!({"name": name, "line": format!("{} {}", address(host), host.name)});
    let own = format!("{} {}", own_address(input), input.host.name);
    let own = std::iter::once(json!({"name": "self", "line": own}));
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

/// Returns the uuid that marks a managed filesystem: always the same for a host and a path, so that a plan can name it
/// before it is made (RFC 9562, version 8).
fn uuid(input: &RoleInput<'_>, path: &str) -> String {
    let seed = format!("provision {} {} {path}", input.inventory.name, input.host.name);
    let mut bytes: [u8; 16] = std::array::from_fn(|_| 0);
    bytes.copy_from_slice(&Sha256::digest(seed.as_bytes())[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Returns the filesystems to be made and the mounts, before k0s first starts.
fn storage(input: &RoleInput<'_>) -> Value {
    let pool = input.inventory.pool_of(input.host);
    let paths = [(DATA_DIR, &pool.data_disk), (pool.models_path.as_str(), &pool.models_disk)];
    let (mut made, mut mounts) = (Vec::new(), Vec::new());
    for (path, disk) in paths {
        let Some(disk) = disk else { continue };
        let uuid = uuid(input, path);
        let (what, kind) = match disk.keep {
            true => (disk.disk.clone(), "auto"),
            false => (format!("/dev/disk/by-uuid/{uuid}"), disk.filesystem.as_str()),
        };
        if !disk.keep {
            let hazards: Vec<Value> = disk
                .erase
                .iter()
                .map(|erase| json!({"data-loss": format!("{erase} on {}", disk.disk)}))
                .collect();
            let filesystem =
                json!({"device": disk.disk, "kind": disk.filesystem, "uuid": uuid, "erase": disk.erase});
            made.push(json!({"filesystem": filesystem, "hazards": hazards}));
        }
        mounts.push(json!({"path": path, "what": what, "kind": kind, "options": "defaults,nofail,noatime"}));
    }
    let xfs = made.iter().any(|m| m["filesystem"]["kind"] == "xfs");
    json!({"made": made, "mounts": mounts, "xfs": xfs, "data": pool.data_disk.is_some()})
}

/// All that roles may name, and the fields of what has always the same ones.
pub(super) const NAMES: [(&str, &[&str]); 21] = [
    ("inventory", &["name"]),
    ("cluster", &[]),
    ("pool", &[]),
    ("host", &["name", "address", "rack", "labels"]),
    ("facts", &[]),
    ("os", &[]),
    ("os_slug", &[]),
    ("apt", &[]),
    ("repository", &[]),
    ("chrony", &[]),
    ("names", &[]),
    ("network", &[]),
    ("storage", &[]),
    ("sysctls", &[]),
    ("product", &[]),
    ("kernel", &[]),
    ("keys", &[]),
    ("nvidia", &[]),
    ("neuron", &[]),
    ("rdma", &[]),
    ("k0s", &[]),
];

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
        "host": {"name": host.name, "address": own_address(input), "rack": host.rack, "labels": host.labels},
        "facts": facts,
        "os": inventory.os,
        "os_slug": facts.os_slug(),
        "apt": apt,
        "repository": repository(facts),
        "chrony": if apt { "chrony.service" } else { "chronyd.service" },
        "names": names(input),
        "network": network::network(input),
        "storage": storage(input),
        "sysctls": sysctls(input),
        "product": product,
        "kernel": os_kernel::context(pool.kernel.as_ref().unwrap_or(&facts.kernel), pool.kernel.is_some()),
        "keys": accelerator::keys(input)?,
        "nvidia": accelerator::nvidia(input),
        "neuron": accelerator::neuron(input),
        "rdma": rdma::rdma(input)?,
        "k0s": k0s::k0s(input)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Lock;
    use crate::catalog::Catalog;
    use crate::state::Facts;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn the_names_are_those_of_the_context() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: x}\n\
            cluster: {k0s: {version: v1.35.7+k0s.0}}\npools: {c: {role: single, hosts: {a: {address: 10.1.0.1}}}}\n";
        let path = dir.path().join("site.yaml");
        std::fs::write(&path, text).expect("written");
        let catalog = Catalog::builtin().expect("the catalog");
        let inventory = crate::inventory::load(&path, &catalog).unwrap_or_else(|d| panic!("{d}")).inventory;
        let lock = Lock::unresolved(&crate::role::artifacts(&inventory, &catalog));
        let (host, secrets) = (&inventory.hosts["a"], BTreeMap::new());
        let facts = Facts { arch: "x86_64".to_owned(), ..Facts::default() };
        let (inventory, catalog, lock, facts) = (&inventory, &catalog, &lock, &facts);
        let input = RoleInput { inventory, catalog, lock, host, facts, secrets: &secrets, joins: false };
        let context = context(&input).unwrap_or_else(|failure| panic!("{failure}"));
        let keys = |value: &Value| -> BTreeSet<String> {
            value.as_object().expect("a mapping").keys().cloned().collect()
        };
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(keys(&context), named(&NAMES.map(|(name, _)| name)));
        for (name, fields) in NAMES.iter().filter(|(_, fields)| !fields.is_empty()) {
            assert_eq!(keys(&context[name]), named(fields), "{name}");
        }
    }
}
