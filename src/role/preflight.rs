//! Preflight checks of a host, from its facts, before anything is changed.

use super::input::{REPOSITORIES, RoleInput, repository, stop};
use crate::catalog::version_cmp;
use crate::inventory::{Accelerator, DMA_BUF_KERNEL};
use crate::k0s;
use crate::state::{Content, Failure, File, Headers, Resource, Spec};

/// Returns how many accelerators of each product are on the bus, by catalog slug.
fn found(input: &RoleInput<'_>) -> Vec<(String, u32)> {
    let mut counts: Vec<(String, u32)> = Vec::new();
    for function in &input.facts.pci {
        // 0300 and 0302 are GPUs; an NVSwitch is a bridge and an audio function is 0403. Neuron devices are recognised by id.
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
            // Named as an inventory may name a product that the catalog does not know.
            None if gpu => format!("{}:{}", function.vendor, function.device),
            _ => continue,
        };
        match counts.iter_mut().find(|(n, _)| *n == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts
}

/// Returns every failed preflight check of this host.
pub(super) fn problems(input: &RoleInput<'_>) -> Vec<Failure> {
    let mut problems = Vec::new();
    if !matches!(input.facts.arch.as_str(), "x86_64" | "aarch64") {
        problems.push(
            stop("E-ARCH", format!("the processor is {}, not x86_64 or aarch64", input.facts.arch))
                .hint("Check with: uname -m"),
        );
    }
    if input.facts.package_manager.is_none() {
        problems.push(
            stop("E-OS", format!("neither apt nor dnf is installed ({})", input.facts.os_slug()))
                .hint("Check with: command -v apt-get dnf"),
        );
    }
    let Some(accelerator) = &input.inventory.pool_of(input.host).accelerator else { return problems };
    let found = found(input);
    let (product, count) = (accelerator.product(), accelerator.count());
    let shown: Vec<String> = found.iter().map(|(name, count)| format!("{count} x {name}")).collect();
    let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    let by_hand = "Check with: grep -l -e 0x10de -e 0x1d0f /sys/bus/pci/devices/*/vendor";
    match found.as_slice() {
        [(name, n)] if name == product && *n == count => {}
        [(name, n)] if name == product && *n < count => {
            let bmc = input.host.bmc.as_deref().map(|b| format!("; its BMC is {b}")).unwrap_or_default();
            let message = format!("{count} x {product} declared, {n} found on the PCI bus");
            problems.push(
                stop("E-ACCEL-COUNT", message)
                    .cause("a device is missing from the bus: check power, riser and the device itself")
                    .hint(format!("{by_hand}{bmc}")),
            );
        }
        _ => problems.push(
            stop("E-ACCEL-MISMATCH", format!("{count} x {product} declared, {shown} found on the PCI bus"))
                .hint(by_hand),
        ),
    }
    if input.facts.package_manager.is_some() && repository(input.facts).is_none() {
        problems.push(
            stop(
                "E-OS",
                format!(
                    "there are driver packages for {}, but this is {}",
                    REPOSITORIES.join(", "),
                    input.facts.os_slug()
                ),
            )
            .hint("Override the nvidia or neuron role in a roles/ folder next to the inventory"),
        );
    }
    let module = match accelerator {
        Accelerator::Nvidia { .. } => "nvidia",
        Accelerator::Neuron { .. } => "neuron",
    };
    // What runs has been built, signed and loaded: these are about what has still to be built.
    if !input.facts.modules.contains_key(module) {
        problems.extend(unbuildable(input));
    }
    problems.extend(fabric(input));
    for foreign in &input.facts.foreign_drivers {
        problems.push(
            stop("E-NV-FOREIGN", format!("the host has {foreign}"))
                .cause("two installers of one driver mix versions until no GPU is detected (deepops#1257)")
                .hint("Remove it, then apply again; only one installer may own the driver"),
        );
    }
    problems
}

/// Returns failed checks of the network between hosts.
fn fabric(input: &RoleInput<'_>) -> Vec<Failure> {
    let (facts, pool) = (input.facts, input.inventory.pool_of(input.host));
    let mut problems = Vec::new();
    let count = |vendor: &str, device: &str| {
        let is = |f: &&crate::state::PciFunction| {
            f.vendor == vendor && f.device.starts_with(device) && f.class.starts_with("02")
        };
        facts.pci.iter().filter(is).count() as u64
    };
    let efa = count("1d0f", "efa");
    if let Some(wanted) = pool.efa.filter(|wanted| u64::from(*wanted) != efa) {
        let cause = match efa {
            0 => "not an EC2 instance with EFA interfaces",
            _ => "Attach EFA network interfaces when the instance is created",
        };
        problems.push(
            stop("E-EFA-COUNT", format!("{wanted} EFA devices declared, {efa} found on the PCI bus"))
                .cause(cause)
                .hint("Check efa.count of the pool against: grep -l 0xefa /sys/bus/pci/devices/*/device"),
        );
    }
    let mlx5 = count("15b3", "");
    if let Some(wanted) = pool.rdma.filter(|wanted| u64::from(*wanted) > mlx5) {
        problems.push(
            stop(
                "E-RDMA-COUNT",
                format!("{wanted} links declared, {mlx5} mlx5 devices found on the PCI bus"),
            )
            .hint("Check rdma.count of the pool against: grep -l 0x15b3 /sys/bus/pci/devices/*/vendor"),
        );
    }
    let gpus = matches!(pool.accelerator, Some(Accelerator::Nvidia { .. }));
    let old = version_cmp(&facts.kernel, DMA_BUF_KERNEL) == std::cmp::Ordering::Less;
    // One that the inventory asks for was judged with it.
    if gpus && pool.is_linked() && pool.kernel.is_none() && old {
        let message = format!("kernel {} is older than {DMA_BUF_KERNEL}", facts.kernel);
        problems.push(
            stop("E-RDMA-KERNEL", message)
                .cause("GPUDirect needs DMA-BUF, which older kernels do not support")
                .hint("Set `kernel` to a newer release of the distribution (check with: uname -r)"),
        );
    }
    problems
}

/// Returns why no module can be built and loaded on a host.
fn unbuildable(input: &RoleInput<'_>) -> Vec<Failure> {
    let facts = input.facts;
    let mut problems = Vec::new();
    if facts.secure_boot == Some(true) {
        let message = "Secure Boot is on, and the key of a DKMS module can only be enrolled at the console";
        problems.push(stop("E-SECURE-BOOT", message).hint(
            "Turn it off in the firmware, or enroll the key with mokutil (check with: mokutil --sb-state)",
        ));
    }
    // Another kernel that the inventory asks for brings its own headers, or its package fails by name.
    if facts.headers == Some(Headers::Gone) && input.inventory.pool_of(input.host).kernel.is_none() {
        let kernel = &facts.kernel;
        problems.push(
            stop(
                "E-HEADERS",
                format!("no repository of the host has headers for its running kernel {kernel}"),
            )
            .cause("modules are built against them, and repositories drop those of old kernels")
            .hint("Set os.kernel to a release whose headers are available; the host then reboots into it"),
        );
    }
    // Building and linking the driver broke a root of 4 GB (amazon-linux-2023#1054).
    const LEAST_FREE_KIB: u64 = 10 << 20;
    for path in ["/", "/var/lib"] {
        if let Some(free) = facts.free_kib.get(path).filter(|free| **free < LEAST_FREE_KIB) {
            let message = format!("{path} has {} GiB free, a driver build needs 10", free >> 20);
            problems.push(stop("E-SPACE", message).hint("Free up space (df -h / /var/lib)"));
            break;
        }
    }
    problems
}

/// Returns the containerd drop-ins among resources that would keep this k0s from starting.
pub(super) fn drop_ins(input: &RoleInput<'_>, resources: &[Resource]) -> Vec<Failure> {
    let Some(line) = input.catalog.k0s_line(&input.inventory.cluster.k0s_version) else { return Vec::new() };
    let refused = resources.iter().filter_map(|r| match &r.spec {
        Spec::File(File { path, content: Content::Text(text), .. })
            if path.starts_with(k0s::CONTAINERD_DROP_INS) =>
        {
            Some((path, line.refuses(text)?))
        }
        _ => None,
    });
    refused
        .map(|(path, why)| {
            stop("E-CONTAINERD-DROPIN", format!("{path} {why}")).hint(
                "Fix the role or template next to the inventory that creates it: k0s would not start with it",
            )
        })
        .collect()
}
