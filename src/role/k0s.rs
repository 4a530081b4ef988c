//! What the k0s role needs to know beyond a template: flags as k0s writes them into its unit, its configuration, and
//! who joins with which token.

use super::context::{download, own_address};
use super::desired::RoleInput;
use super::{network, secret};
use crate::catalog::{ACCELERATOR_LABEL, POOL_LABEL, STARTING_TAINT};
use crate::inventory::{Accelerator, Endpoint, NodeRole};
use crate::state::{Failure, JoinRole};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BINARY: &str = "/usr/local/bin/k0s";

/// Returns ` --name=value …` exactly as k0s writes it into its unit: sorted by name, and labels sorted too, because k0s
/// keeps them in a map (k0s cmd/install/util.go, pkg/config/cli.go). In any other order the unit would never be as
/// wanted.
///
/// Only what stays the same for the life of a node is here, as any change restarts k0s: further labels and taints are
/// kept through the API, which a kubelet's own flags would not change after it has registered.
fn flags(input: &RoleInput<'_>, token: Option<JoinRole>) -> String {
    let pool = input.inventory.pool_of(input.host);
    let mut flags: Vec<(&str, String)> = vec![("data-dir", "/var/lib/k0s".to_owned())];
    if pool.role.is_controller() {
        flags.push(("config", "/etc/k0s/k0s.yaml".to_owned()));
    }
    match pool.role {
        NodeRole::ControllerWorker => {
            flags.extend([("enable-worker", "true".to_owned()), ("no-taints", "true".to_owned())])
        }
        NodeRole::Single => flags.push(("single", "true".to_owned())),
        NodeRole::Controller | NodeRole::Worker => {}
    }
    if pool.role.is_worker() {
        let mut labels = vec![format!("{POOL_LABEL}={}", pool.name)];
        match &pool.accelerator {
            Some(Accelerator::Nvidia { .. }) => labels.push(format!("{ACCELERATOR_LABEL}=nvidia")),
            Some(Accelerator::Neuron { .. }) => labels.push(format!("{ACCELERATOR_LABEL}=neuron")),
            None => {}
        }
        labels.sort();
        if input.host.node_ip || pool.cluster_interface.is_some() {
            flags.push(("kubelet-extra-args", format!("--node-ip={}", own_address(input))));
        }
        // Device plugins, exporters and CSI drivers expect the kubelet there; it can only be said at the first start.
        flags.push(("kubelet-root-dir", "/var/lib/kubelet".to_owned()));
        flags.push(("labels", labels.join(",")));
        flags.push(("taints", STARTING_TAINT.to_owned()));
    }
    if token.is_some() {
        flags.push(("token-file", "/etc/k0s/k0stoken".to_owned()));
    }
    flags.sort();
    flags.iter().map(|(name, value)| format!(" --{name}={value}")).collect()
}

/// Returns `k0s`.
pub(super) fn k0s(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let RoleInput { inventory, catalog, host, facts, lock, .. } = *input;
    let pool = inventory.pool_of(host);
    let controller = pool.role.is_controller();
    let first = inventory.controllers().next().is_some_and(|h| h.name == host.name);
    let role = if controller { "controller" } else { "worker" };
    let token = match (controller, first) {
        (true, true) => None,
        (true, false) => Some(JoinRole::Controller),
        (false, _) => Some(JoinRole::Worker),
    };
    let flags = flags(input, token);
    let config = controller.then(|| config(input));
    let name = format!("k0s-{}", facts.arch);
    let environment = network::k0s_drop_in(input);
    let pool = inventory.pool_of(input.host);
    let memlock = pool.is_linked();
    let binary = download(input, &name, BINARY, 0o755)?;
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
        .filter_map(|(h, r)| Some(json!({"host": h, "mirror": r.mirror.as_ref()?})))
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
    Ok(json!({
        "version": inventory.cluster.k0s_version,
        "role": role,
        "controller": controller,
        "unit": format!("k0s{role}.service"),
        "binary": binary,
        // Written when the host has become part of the cluster.
        "joined_file": if controller { "/var/lib/k0s/pki/admin.conf" } else { "/var/lib/k0s/kubelet.conf" },
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
        "exec_start": format!("ExecStart={BINARY} {role}{flags}"),
        "started": started,
    }))
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
        // VRRP sends this in the clear: it tells clusters on one network apart and keeps nobody out (k0s docs/cplb.md).
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
