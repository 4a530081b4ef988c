//! Why a host cannot be what the inventory says, told from its facts before anything is changed.

use super::accelerator::{REPOSITORIES, repository};
use super::desired::RoleInput;
use crate::state::{Failure, FailureKind};

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
    if found != [(product.to_owned(), count)] {
        let shown: Vec<String> = found.iter().map(|(name, count)| format!("{count} x {name}")).collect();
        let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
        problems.push(
            stop("E-ACCEL-MISMATCH", format!("{count} x {product} declared, {shown} found on the PCI bus"))
                .hint("by hand: grep -l -e 0x10de -e 0x1d0f /sys/bus/pci/devices/*/vendor"),
        );
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
    if input.facts.secure_boot == Some(true) {
        problems.push(
            stop(
                "E-SECURE-BOOT",
                "Secure Boot is on, and a DKMS module's key can only be enrolled at the console",
            )
            .hint("switch it off in the firmware, or enrol the key by hand: mokutil --sb-state"),
        );
    }
    problems
}
