//! What role templates can say: the host, its facts, versions and names that depend on them. Owns the rules that need
//! more than a template: flags of k0s, package names, what is declared against what is found.

use super::desired::RoleInput;
use crate::catalog::{ACCELERATOR_LABEL, Fabric, OpenModule, POOL_LABEL, STARTING_TAINT};
use crate::inventory::{Accelerator, Endpoint, NodeRole};
use crate::state::{Failure, FailureKind, PackageManager, Resource, Spec};
use serde_json::{Value, json};

/// Raised where lower, never lowered: EKS and kubespray set these (accelerators.md §3); kubelet wants the last four.
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

/// The NVSwitch generations that show on the bus (pciids: A100, H100).
const NVSWITCHES: [&str; 2] = ["1af1", "22a3"];

fn stop(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Preflight, code, message)
}

/// Returns how many functions of a PCI class prefix a vendor has, by catalog product.
fn found(input: &RoleInput<'_>) -> Vec<(String, u32)> {
    let mut counts: Vec<(String, u32)> = Vec::new();
    for function in &input.facts.pci {
        // 0300 and 0302 are GPUs; an NVSwitch is a bridge and an audio function is 0403. Neuron devices are told by id.
        let gpu = function.vendor == "10de"
            && (function.class.starts_with("0300") || function.class.starts_with("0302"));
        let product = input.catalog.by_pci(
            &function.vendor,
            &function.device,
            &function.subsystem_vendor,
            &function.subsystem_device,
        );
        let name = match product {
            Some(product) if gpu || function.vendor == "1d0f" => product.slug.clone(),
            None if gpu => format!("unknown NVIDIA device {}", function.device),
            _ => continue,
        };
        match counts.iter_mut().find(|(n, _)| *n == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts
}

/// Returns every reason why this host cannot be what the inventory says.
pub(super) fn preflight(input: &RoleInput<'_>) -> Vec<Failure> {
    let mut problems = Vec::new();
    let pool = input.inventory.pool_of(input.host);
    if let Some(accelerator) = &pool.accelerator {
        let found = found(input);
        let wanted = (accelerator.product().to_owned(), accelerator.count());
        if found != [wanted.clone()] {
            let shown: Vec<String> = found.iter().map(|(name, count)| format!("{count} x {name}")).collect();
            let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
            problems.push(
                stop(
                    "E-ACCEL-MISMATCH",
                    format!("{} x {} are declared, {shown} found on the PCI bus", wanted.1, wanted.0),
                )
                .hint("by hand: grep -l -e 0x10de -e 0x1d0f /sys/bus/pci/devices/*/vendor"),
            );
        }
        if input.facts.package_manager != Some(PackageManager::Apt) {
            problems.push(
                stop(
                    "E-OS",
                    format!(
                        "accelerator roles know Debian and Ubuntu so far, this is {}",
                        input.facts.os_slug()
                    ),
                )
                .hint("a roles/ folder beside the inventory can add another"),
            );
        }
        if input.facts.secure_boot == Some(true) {
            problems.push(
                stop(
                    "E-SECURE-BOOT",
                    "Secure Boot is on, and a DKMS module's key can only be enrolled at the console",
                )
                .hint("switch it off in the firmware, or enrol the key by hand: mokutil --sb-state"),
            );
        }
    }
    if !matches!(input.facts.arch.as_str(), "x86_64" | "aarch64") {
        problems.push(stop("E-ARCH", format!("{} is not x86_64 or aarch64", input.facts.arch)));
    }
    problems
}

/// Returns everything that templates may use.
pub(super) fn context(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let RoleInput { inventory, host, facts, .. } = *input;
    let apt = facts.package_manager != Some(PackageManager::Dnf);
    let address = host.cluster_address.map(|a| a.to_string()).unwrap_or_else(|| host.address.clone());
    let mut sysctls: Vec<Value> = SYSCTLS
        .iter()
        .filter(|(key, ..)| !inventory.os.sysctls.contains_key(*key))
        .map(|(key, value, raise_only)| json!({"key": key, "value": value, "raise_only": raise_only}))
        .collect();
    for (key, value) in &inventory.os.sysctls {
        sysctls.push(json!({"key": key, "value": value, "raise_only": value.parse::<u64>().is_ok()}));
    }
    Ok(json!({
        "host": {"name": host.name, "address": address, "hosts_line": format!("{address} {}", host.name)},
        "facts": facts,
        "os": inventory.os,
        "os_slug": facts.os_slug(),
        "apt": apt,
        "chrony": if apt { "chrony.service" } else { "chronyd.service" },
        "sysctls": sysctls,
        "keys": keys(input)?,
        "nvidia": nvidia(input),
        "neuron": neuron(input),
        "k0s": k0s(input)?,
    }))
}

/// Returns a locked artifact as a download to `path`.
fn download(input: &RoleInput<'_>, name: &str, path: &str, mode: u32) -> Result<Value, Failure> {
    let locked = input.lock.get(name).ok_or_else(|| {
        stop("E-LOCK", format!("provision.lock does not have {name}")).hint("provision lock")
    })?;
    Ok(json!({"path": path, "urls": locked.urls, "sha256": locked.sha256, "mode": mode}))
}

fn keys(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let key = |name: &str, file: &str| download(input, name, &format!("/etc/apt/keyrings/{file}.asc"), 0o644);
    Ok(match &input.inventory.pool_of(input.host).accelerator {
        Some(Accelerator::Nvidia { .. }) => json!({
            "cuda": key("nvidia-cuda-key", "nvidia-cuda")?,
            "toolkit": key("nvidia-toolkit-key", "nvidia-container-toolkit")?,
        }),
        Some(Accelerator::Neuron { .. }) => json!({"neuron": key("neuron-key", "neuron")?}),
        None => Value::Null,
    })
}

fn nvidia(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Nvidia { product, driver, .. }) = &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let Some(product) = input.catalog.product(product) else { return Value::Null };
    let branch: u32 = driver.split('.').next().and_then(|b| b.parse().ok()).unwrap_or(0);
    // From branch 590 on the packages have lost the branch in their names.
    let open = product.open_module != OpenModule::Unsupported;
    let package = match (open, branch >= 590) {
        (true, true) => "nvidia-open".to_owned(),
        (true, false) => format!("nvidia-open-{branch}"),
        (false, true) => "cuda-drivers".to_owned(),
        (false, false) => format!("cuda-drivers-{branch}"),
    };
    let switch =
        input.facts.pci.iter().any(|f| f.vendor == "10de" && NVSWITCHES.contains(&f.device.as_str()));
    let nvlsm = product.fabric == Fabric::FabricManagerNvlsm;
    json!({
        "driver": driver,
        "driver_package": package,
        "fabric_manager": nvlsm || (product.fabric == Fabric::FabricManager && switch),
        "nvlsm": nvlsm,
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}

fn neuron(input: &RoleInput<'_>) -> Value {
    let Some(Accelerator::Neuron { product, sdk, .. }) = &input.inventory.pool_of(input.host).accelerator
    else {
        return Value::Null;
    };
    let (Some(product), Some(row)) = (input.catalog.product(product), input.catalog.neuron_sdk(sdk)) else {
        return Value::Null;
    };
    json!({
        "driver": row.driver,
        "tools": row.tools,
        "logical_cores": matches!(product.arch.as_str(), "trainium2" | "trainium3"),
        "reboot_deadline_s": product.reboot_deadline_s,
    })
}

fn k0s(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let RoleInput { inventory, catalog, host, facts, .. } = *input;
    let pool = inventory.pool_of(host);
    let controller = pool.role.is_controller();
    let first = inventory.controllers().next().is_some_and(|h| h.name == host.name);
    let role = if controller { "controller" } else { "worker" };
    let token = match (controller, first) {
        (true, true) => None,
        (true, false) => Some("controller"),
        (false, _) => Some("worker"),
    };
    let mut labels: Vec<String> = vec![format!("{POOL_LABEL}={}", pool.name)];
    if let Some(accelerator) = &pool.accelerator {
        let vendor = if matches!(accelerator, Accelerator::Nvidia { .. }) { "nvidia" } else { "neuron" };
        labels.push(format!("{ACCELERATOR_LABEL}={vendor}"));
    }
    // Exactly as k0s writes them into its unit: `--name=value`, sorted by name.
    let mut flags: Vec<(&str, String)> =
        vec![("data-dir", "/var/lib/k0s".to_owned()), ("kubelet-root-dir", "/var/lib/kubelet".to_owned())];
    if controller {
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
        flags.push(("labels", labels.join(",")));
        flags.push(("taints", STARTING_TAINT.to_owned()));
    }
    if controller && !pool.role.is_worker() {
        flags.retain(|(name, _)| *name != "kubelet-root-dir");
    }
    if token.is_some() {
        flags.push(("token-file", "/etc/k0s/k0stoken".to_owned()));
    }
    flags.sort();
    let line: String = flags.iter().map(|(name, value)| format!(" --{name}={value}")).collect();
    let install = format!("install {role} --force{line}");
    let joined_file = if controller { "/var/lib/k0s/pki/admin.conf" } else { "/var/lib/k0s/kubelet.conf" };
    let spent = "printf spent >/etc/k0s/k0stoken";
    let (ready_guard, ready_apply) = match token {
        Some(_) => (
            format!("[ -e {joined_file} ] && [ \"$(cat /etc/k0s/k0stoken 2>/dev/null)\" = spent ]"),
            // Overwritten, not deleted: k0s 1.35.1 reads it at every start.
            spent.to_owned(),
        ),
        None => (format!("[ -e {joined_file} ]"), String::from("true")),
    };
    let registries: Vec<Value> =
        inventory.registries.iter().map(|(h, r)| json!({"host": h, "mirror": r.mirror})).collect();
    let unit = format!("k0s{role}.service");
    Ok(json!({
        "binary": download(input, &format!("k0s-{}", facts.arch), "/usr/local/bin/k0s", 0o755)?,
        "restarts": [unit.clone()],
        "containerd": catalog.k0s_line(&inventory.cluster.k0s_version).map_or(1, |l| l.containerd),
        "registries": if pool.role.is_worker() { registries } else { Vec::new() },
        "nvidia": matches!(pool.accelerator, Some(Accelerator::Nvidia { .. })),
        "config": controller.then(|| config(input)),
        "token": token,
        "joined_file": joined_file,
        "install_guard": format!(
            "grep -qxF {} /etc/systemd/system/{unit} 2>/dev/null",
            crate::template::quote(&format!("ExecStart=/usr/local/bin/k0s {role}{line}"))
        ),
        "install": install,
        "unit": unit,
        "ready_text": if controller { "control plane up" } else { "joined" },
        "ready_guard": ready_guard,
        "ready_apply": ready_apply,
    }))
}

/// Returns the k0s configuration as JSON text, which is YAML too.
fn config(input: &RoleInput<'_>) -> String {
    let RoleInput { inventory, host, .. } = *input;
    let address = host.cluster_address.map(|a| a.to_string()).unwrap_or_else(|| host.address.clone());
    let single = inventory.pool_of(host).role == NodeRole::Single;
    let mut sans: Vec<String> = inventory
        .controllers()
        .map(|h| h.cluster_address.map(|a| a.to_string()).unwrap_or_else(|| h.address.clone()))
        .collect();
    let mut api = json!({"address": address});
    let node_local = match &inventory.cluster.endpoint {
        Endpoint::External { address } => {
            api["externalAddress"] = json!(address);
            sans.push(address.clone());
            false
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
    if !single {
        spec["storage"] = json!({"type": "etcd", "etcd": {"peerAddress": address}});
    }
    let mut whole = json!({"apiVersion": "k0s.k0sproject.io/v1beta1", "kind": "ClusterConfig",
        "metadata": {"name": "k0s"}, "spec": spec});
    lay(&mut whole, &inventory.cluster.k0s_config);
    serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
}

/// Lays `over` on `base` by the inventory's merge rule.
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

/// A reboot follows from whatever of its role stands before it: packages and blacklists.
pub(super) fn link_reboots(resources: &mut [Resource]) {
    for index in 0..resources.len() {
        let (before, rest) = resources.split_at_mut(index);
        let Some(resource) = rest.first_mut() else { continue };
        let role = resource.role.clone();
        if let Spec::Reboot(reboot) = &mut resource.spec {
            let causes =
                before.iter().filter(|r| r.role == role && matches!(&r.spec, Spec::Package(p) if p.hold));
            reboot.when_changed = causes.map(|r| r.id.clone()).collect();
        }
    }
}
