//! Template values of the k0s role: flags as k0s writes them into its unit, its configuration, and the join token of each
//! host.

use super::input::{RoleInput, day, download, own_address};
use super::{network, secret};
use crate::catalog::{ACCELERATOR_LABEL, POOL_LABEL, STARTING_TAINT};
use crate::inventory::{Accelerator, Endpoint, NodeRole};
use crate::k0s::{self, Install};
use crate::state::{Failure, JoinRole};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Returns how k0s is installed on the host.
fn install(input: &RoleInput<'_>, token: Option<JoinRole>) -> Install {
    let pool = input.inventory.pool_of(input.host);
    let labels = pool.role.is_worker().then(|| {
        let mut labels = vec![format!("{POOL_LABEL}={}", pool.name)];
        match &pool.accelerator {
            Some(Accelerator::Nvidia { .. }) => labels.push(format!("{ACCELERATOR_LABEL}=nvidia")),
            Some(Accelerator::Neuron { .. }) => labels.push(format!("{ACCELERATOR_LABEL}=neuron")),
            None => {}
        }
        labels
    });
    let own_address = (input.host.node_ip || pool.cluster_interface.is_some()).then(|| own_address(input));
    Install {
        controller: pool.role.is_controller(),
        enable_worker: pool.role == NodeRole::ControllerWorker,
        single: pool.role == NodeRole::Single,
        labels,
        taint: STARTING_TAINT.to_owned(),
        node_ip: own_address,
        token: token.is_some(),
    }
}

/// Returns `k0s`.
pub(super) fn k0s(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let RoleInput { inventory, catalog, host, facts, lock, .. } = *input;
    let pool = inventory.pool_of(host);
    let controller = pool.role.is_controller();
    let first = inventory.controllers().next().is_some_and(|h| h.name == host.name);
    // How a controller came to its cluster is its own history: another order in the inventory restarts none. Made anew, the first
    // one joins the cluster that the others have.
    let joins = || !first || input.joins;
    let token = match controller {
        true if k0s::joined_with_token(facts).unwrap_or_else(joins) => Some(JoinRole::Controller),
        true => None,
        false => Some(JoinRole::Worker),
    };
    let install = install(input, token);
    let flags = install.flags();
    let config = controller.then(|| config(input));
    let name = format!("k0s-{}", facts.arch);
    let environment = network::k0s_drop_in(input);
    let pool = inventory.pool_of(input.host);
    let memlock = pool.is_linked();
    let mut binary = download(input, &name, k0s::BINARY, 0o755)?;
    binary["version"] = json!(lock.get(&name).map(|locked| &locked.version));
    // Where another version is in its place, or none: it is asked about the host before it goes there.
    let next = (facts.k0s_version.as_ref() != Some(&inventory.cluster.k0s_version)).then(|| {
        let mut next = binary.clone();
        next["path"] = json!(k0s::NEXT_BINARY);
        binary["from"] = json!(k0s::NEXT_BINARY);
        next
    });
    // What a running k0s was started with; anything else on disk wants a restart.
    let mut started = Sha256::new();
    for part in [
        lock.get(&name).map(|l| l.sha256.as_str()).unwrap_or_default(),
        &flags,
        config.as_deref().unwrap_or(""),
    ] {
        started.update(part.as_bytes());
        started.update([0]);
    }
    // Only where there are any: what is not used must not restart every k0s of older inventories.
    for part in [environment.clone().unwrap_or_default(), network::certificates_digest(input)] {
        started.update(part.as_bytes());
    }
    if memlock {
        started.update("memlock");
    }
    let started: String = started.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let registries: Vec<Value> = inventory
        .registries
        .iter()
        .filter_map(|(host, registry)| {
            let mirror = registry.mirror.as_ref()?;
            Some(json!({"host": host, "mirror": mirror, "override_path": is_api_root(mirror)}))
        })
        .collect();
    // containerd asks for credentials by the host that it talks to (containerd docs/cri/registry.md); docker.io is
    // served by registry-1.docker.io.
    let logins: Vec<Value> = inventory
        .registries
        .iter()
        .filter_map(|(name, registry)| {
            let at = registry.mirror.as_deref().and_then(|m| m.split("://").nth(1));
            let host = match at.and_then(|m| m.split('/').next()) {
                Some(mirror) => mirror,
                None if name == "docker.io" => "registry-1.docker.io",
                None => name,
            };
            Some(json!({"host": host, "auth": secret::basic(registry.credentials.as_deref()?)}))
        })
        .collect();
    let any = !inventory.registries.is_empty() && pool.role.is_worker();
    let drop_ins: Vec<Value> = inventory
        .cluster
        .containerd
        .iter()
        .map(|(name, text)| json!({"name": name, "text": format!("{}\n", text.trim_end())}))
        .collect();
    let renew = k0s::due(&facts.certificates, facts.now_s).filter(|_| k0s::has_joined(facts) && controller);
    let renew = renew.map(|c| {
        let word = if c.until_s < facts.now_s { "expired" } else { "expires" };
        format!("certificate {} {word} on {}", c.name, day(c.until_s))
    });
    let own_drop_ins: Vec<String> = ["nvidia", "registries"]
        .into_iter()
        .chain(inventory.cluster.containerd.keys().map(String::as_str))
        .map(|name| format!("/etc/k0s/containerd.d/{name}.toml"))
        .collect();
    // As `k0s etcd member-list` prints a member: its name, and its peer address.
    let several = controller && inventory.controllers().nth(1).is_some();
    let member = several.then(|| {
        let address = own_address(input);
        let address = if address.contains(':') { format!("[{address}]") } else { address };
        json!({"name": format!("\"{}\":", host.name), "address": format!("//{address}:{}", k0s::ETCD_PEER_PORT)})
    });
    Ok(json!({
        "version": inventory.cluster.k0s_version,
        "role": install.role(),
        "controller": controller,
        "unit": k0s::unit(controller),
        "worker": pool.role.is_worker(),
        "binary": binary,
        "next": next,
        "renew": renew,
        "own_drop_ins": own_drop_ins,
        // Written when the host has become part of the cluster.
        "joined_file": k0s::joined_file(controller),
        "containerd": catalog.k0s_line(&inventory.cluster.k0s_version).map_or(1, |l| l.containerd),
        "drop_ins": if pool.role.is_worker() { drop_ins } else { Vec::new() },
        "environment": environment,
        "memlock": memlock,
        "any_registry": any,
        "logins": logins,
        "registries": if pool.role.is_worker() { registries } else { Vec::new() },
        "nvidia": pool.role.is_worker() && matches!(pool.accelerator, Some(Accelerator::Nvidia { .. })),
        "config": config,
        "token": token.map(JoinRole::as_str),
        "flags": flags,
        "exec_start": install.exec_start(),
        "member": member,
        "started": started,
    }))
}

/// Returns whether a mirror's URL is that of its API for a project, such as `https://harbor.example.com/v2/proxy`: containerd
/// appends `/v2` to any path that does not end in it (containerd docs/hosts.md, `override_path`).
fn is_api_root(mirror: &str) -> bool {
    let path = mirror.split("://").nth(1).and_then(|rest| rest.split_once('/'));
    let mut segments = path.map_or("", |(_, path)| path).split('/').filter(|s| !s.is_empty()).rev();
    segments.next().is_some_and(|last| last != "v2") && segments.any(|segment| segment == "v2")
}

/// Returns the k0s configuration as JSON text, which is YAML too.
fn config(input: &RoleInput<'_>) -> String {
    let RoleInput { inventory, host, .. } = *input;
    let address = own_address(input);
    let single = inventory.pool_of(host).role == NodeRole::Single;
    // Of its own names only: with the others' in it, adding a controller would restart all of them.
    let mut sans = vec![address.clone(), host.name.to_string()];
    let mut api = json!({"address": address});
    let node_local = match &inventory.cluster.endpoint {
        Endpoint::External { address } => {
            api["externalAddress"] = json!(address);
            sans.push(address.clone());
            false
        }
        Endpoint::Vip { address, .. } => {
            sans.push(address.addr().to_string());
            !single
        }
        Endpoint::NodeLocal => !single,
    };
    api["sans"] = json!(sans);
    let mut spec = json!({
        "api": api,
        "network": {
            "podCIDR": inventory.cluster.pod_cidr.to_string(),
            "serviceCIDR": inventory.cluster.service_cidr.to_string(),
            "nodeLocalLoadBalancing": {"enabled": node_local},
        },
        "telemetry": {"enabled": false},
    });
    if let Endpoint::Vip { address, interface } = &inventory.cluster.endpoint {
        // VRRP sends this in the clear: it separates clusters on one network but is no access control (k0s docs/cplb.md).
        let pass: String = Sha256::digest(format!("{}{address}", inventory.name).as_bytes())
            .iter()
            .take(4)
            .map(|b| format!("{b:02x}"))
            .collect();
        let mut vrrp = json!({"virtualIPs": [address.to_string()], "authPass": pass});
        if let Some(interface) = interface {
            vrrp["interface"] = json!(interface);
        }
        spec["network"]["controlPlaneLoadBalancing"] =
            json!({"enabled": true, "type": "Keepalived", "keepalived": {"vrrpInstances": [vrrp]}});
    }
    if !single {
        spec["storage"] = json!({"type": "etcd", "etcd": {"peerAddress": address}});
    }
    let mut whole = json!({"apiVersion": "k0s.k0sproject.io/v1beta1", "kind": "ClusterConfig",
        "metadata": {"name": "k0s"}, "spec": spec});
    lay(&mut whole, &inventory.cluster.k0s_config);
    serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
}

/// Lays `over` on `base` by the inventory's merge rule: maps deep, lists replace, null deletes.
fn lay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match value {
                    Value::Null => {
                        base.remove(key);
                    }
                    value => lay(base.entry(key.clone()).or_insert(Value::Null), value),
                }
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}
