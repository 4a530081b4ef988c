//! The complete built-in neuron role on a host with sixteen Trainium2 on its PCI bus. Packages have the real names and come
//! signed from a mirror in the inventory that replaces AWS's host; the driver and its tools are stand-ins (`kit/standins`).

use crate::kit::{Host, Setup, Site, fleet};

fn trainium2(sdk: &str) -> String {
    format!("{{neuron: {{product: trainium2, count: 16, sdk: \"{sdk}\"}}}}")
}

/// Returns what is installed of the SDK, and the module that counts as loaded.
fn state(host: &Host) -> String {
    host.sh("dpkg-query -W -f '${db:Status-Abbrev}${Package} ${Version}\\n' 'aws-neuron*' | sed -n 's/^[ih]i *//p' | sort; cat /sys/module/neuron/version")
}

const OLD: &str = "aws-neuronx-collectives 2.33.19.0-6a1b2c3d4\naws-neuronx-dkms 2.29.9.0\naws-neuronx-runtime-lib 2.33.19.0-6a1b2c3d4\naws-neuronx-tools 2.31.15.0-5c7949a6a\n2.29.9.0";
const NEW: &str = "aws-neuronx-collectives 2.34.10.0-7b2c3d4e5\naws-neuronx-dkms 2.30.2.0\naws-neuronx-runtime-lib 2.34.10.0-7b2c3d4e5\naws-neuronx-tools 2.32.28.0-526c2b7f6\n2.30.2.0";

#[test]
fn a_neuron_driver_is_installed_held_repaired_and_rolled_back() {
    let hosts = fleet().boot([Setup::new("cp-1"), Setup::new("t-1").trainium2()]);
    let mut site = Site::accelerated(&hosts, &trainium2("2.31.1"));
    let host = &hosts[1];
    site.converge();
    assert_eq!(state(host), OLD);
    host.sh("apt-get -qq -y dist-upgrade");
    assert_eq!(state(host), OLD, "held");
    assert_eq!(host.boots(), 1, "a first driver needs no reboot");

    site.accelerate(&hosts, &trainium2("2.32.0"), "");
    site.converge();
    assert_eq!(state(host), NEW);
    assert_eq!(host.boots(), 1, "unloaded by reference count");

    // Changed behind our back and booted: the module is not the SDK's, and what holds it wants a reboot.
    host.sh(
        "apt-get -qq -y --allow-downgrades --allow-change-held-packages install aws-neuronx-dkms=2.29.9.0",
    );
    host.restart();
    host.sh("echo neuron >/run/fleet-kernel/held");
    let plan = site.expect(2, &["plan"]);
    assert!(plan.contains("driver 2.29.9.0 is loaded"), "{plan}");
    site.converge();
    assert_eq!(state(host), NEW);
    assert_eq!(host.boots(), 3, "one reboot takes out what is held");

    // Back to the earlier SDK and its tools.
    site.accelerate(&hosts, &trainium2("2.31.1"), "");
    site.converge();
    assert_eq!(state(host), OLD);

    // The kernel as desired state: the running one, as no other can run in a container; a newer one beside it is named.
    let kernel = host.sh("uname -r");
    site.accelerate(&hosts, &trainium2("2.31.1"), &format!(", kernel: \"{kernel}\""));
    site.converge();
    assert!(host.sh("apt-mark showhold").contains(&format!("linux-image-{kernel}")));
    host.sh("touch /boot/vmlinuz-999.1.0");
    let said = site.expect(1, &["apply", "--yes"]);
    assert!(said.contains("[E-KERNEL-NEWER]") && said.contains("999.1.0"), "{said}");
}
