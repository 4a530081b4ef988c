//! Why a host cannot be what the inventory says, told from its facts before anything is changed.

use super::accelerator::{REPOSITORIES, repository};
use super::desired::RoleInput;
use crate::catalog::version_cmp;
use crate::inventory::{Accelerator, DMA_BUF_KERNEL};
use crate::state::{Content, Failure, FailureKind, File, Headers, Resource, Spec};

/// Returns a reason not to begin.
pub(super) fn stop(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Preflight, code, message)
}

/// Returns how many accelerators of each product are on the bus, by catalog slug.
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

/// Returns every reason why this host cannot be what the inventory says.
pub(super) fn problems(input: &RoleInput<'_>) -> Vec<Failure> {
    let mut problems = Vec::new();
    if !matches!(input.facts.arch.as_str(), "x86_64" | "aarch64") {
        problems.push(
            stop("E-ARCH", format!("the processor is {}, not x86_64 or aarch64", input.facts.arch))
                .hint("by hand: uname -m"),
        );
    }
    if input.facts.package_manager.is_none() {
        problems.push(
            stop("E-OS", format!("neither apt nor dnf is on this host ({})", input.facts.os_slug()))
                .hint("by hand: command -v apt-get dnf"),
        );
    }
    let Some(accelerator) = &input.inventory.pool_of(input.host).accelerator else { return problems };
    let found = found(input);
    let (product, count) = (accelerator.product(), accelerator.count());
    let shown: Vec<String> = found.iter().map(|(name, count)| format!("{count} x {name}")).collect();
    let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    let by_hand = "by hand: grep -l -e 0x10de -e 0x1d0f /sys/bus/pci/devices/*/vendor";
    match found.as_slice() {
        [(name, n)] if name == product && *n == count => {}
        [(name, n)] if name == product && *n < count => {
            let bmc = input.host.bmc.as_deref().map(|b| format!("; its BMC is {b}")).unwrap_or_default();
            let message = format!("{count} x {product} declared, {n} found on the PCI bus");
            problems.push(
                stop("E-ACCEL-COUNT", message)
                    .cause("a device is gone from the bus: power, riser, or the device itself")
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
                    "driver packages are known for {}, and this is {}",
                    REPOSITORIES.join(", "),
                    input.facts.os_slug()
                ),
            )
            .hint("a roles/ folder beside the inventory can bring another nvidia or neuron role"),
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
                .cause("two owners of one driver mix versions until no GPU is seen (deepops#1257)")
                .hint("take it off by hand, then apply again; exactly one owner may install drivers"),
        );
    }
    problems
}

/// Returns why a host cannot have the network between hosts that the inventory says.
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
            0 => "it is no EC2 instance with EFA interfaces",
            _ => "each EFA is a network interface that was attached when the instance was made",
        };
        problems.push(
            stop("E-EFA-COUNT", format!("{wanted} EFA devices declared, {efa} found on the PCI bus"))
                .cause(cause)
                .hint("by hand: grep -l 0xefa /sys/bus/pci/devices/*/device; efa.count in the pool"),
        );
    }
    let mlx5 = count("15b3", "");
    if let Some(wanted) = pool.rdma.filter(|wanted| u64::from(*wanted) > mlx5) {
        problems.push(
            stop(
                "E-RDMA-COUNT",
                format!("{wanted} links declared, {mlx5} mlx5 devices found on the PCI bus"),
            )
            .hint("by hand: grep -l 0x15b3 /sys/bus/pci/devices/*/vendor; rdma.count in the pool"),
        );
    }
    let gpus = matches!(pool.accelerator, Some(Accelerator::Nvidia { .. }));
    let old = version_cmp(&facts.kernel, DMA_BUF_KERNEL) == std::cmp::Ordering::Less;
    // One that the inventory asks for was judged with it.
    if gpus && pool.is_linked() && pool.kernel.is_none() && old {
        let message = format!("its kernel is {}, older than {DMA_BUF_KERNEL}", facts.kernel);
        problems.push(
            stop("E-RDMA-KERNEL", message)
                .cause("GPU memory reaches the network by DMA-BUF, which older kernels do not have")
                .hint("by hand: uname -r; kernel: a newer release of the distribution"),
        );
    }
    problems
}

/// Returns why no module can be built and loaded on a host.
fn unbuildable(input: &RoleInput<'_>) -> Vec<Failure> {
    let facts = input.facts;
    let mut problems = Vec::new();
    if facts.secure_boot == Some(true) {
        let message = "Secure Boot is on, and a DKMS module's key can only be enrolled at the console";
        problems.push(
            stop("E-SECURE-BOOT", message)
                .hint("switch it off in the firmware, or enrol the key by hand: mokutil --sb-state"),
        );
    }
    // Another kernel that the inventory asks for brings its own headers, or its package fails by name.
    if facts.headers == Some(Headers::Gone) && input.inventory.pool_of(input.host).kernel.is_none() {
        let kernel = &facts.kernel;
        problems.push(
            stop(
                "E-HEADERS",
                format!("no repository of the host has headers of its running kernel {kernel}"),
            )
            .cause("modules are built against them; repositories drop those of old kernels")
            .hint(
                "os.kernel: a release whose headers there are; the host then changes to it, with one reboot",
            ),
        );
    }
    // Building and linking the driver broke a root of 4 GB (amazon-linux-2023#1054).
    const LEAST_FREE_KIB: u64 = 10 << 20;
    for path in ["/", "/var/lib"] {
        if let Some(free) = facts.free_kib.get(path).filter(|free| **free < LEAST_FREE_KIB) {
            let message = format!("{} GiB are free on {path}, a driver build wants 10", free >> 20);
            problems.push(stop("E-SPACE", message).hint("by hand: df -h / /var/lib"));
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
            if path.starts_with("/etc/k0s/containerd.d/") =>
        {
            Some((path, line.refuses(text)?))
        }
        _ => None,
    });
    refused
        .map(|(path, why)| {
            stop("E-CONTAINERD-DROPIN", format!("{path} {why}"))
                .hint("a role or template beside the inventory makes it: k0s would not start with it")
        })
        .collect()
}
