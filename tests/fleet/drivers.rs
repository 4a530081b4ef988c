//! The complete built-in nvidia role on hosts with an HGX H100 board on their PCI bus: detection, plan, apply, reboot, gate.
//! Packages have the real names and versions and come signed over TLS from the vendors' names; the driver, its tools and
//! the board are stand-ins (`kit/standins`).

use crate::kit::{Host, Setup, Site, fleet};

fn h100(driver: &str) -> String {
    format!("{{nvidia: {{product: h100-sxm5-80gb, count: 8, driver: \"{driver}\"}}}}")
}

/// Returns what is installed of the driver, name and version.
fn installed(host: &Host) -> String {
    host.sh("dpkg-query -W -f '${db:Status-Abbrev}${Package} ${Version}\\n' '*nvidia*' libcuda1 | sed -n 's/^[ih]i *//p' | grep -v container | sort")
}

/// Returns the module that counts as loaded.
fn loaded(host: &Host) -> String {
    host.sh("cat /sys/module/nvidia/version")
}

fn whole(driver: &str) -> String {
    let open = if driver.starts_with("580") { "nvidia-open-580" } else { "nvidia-open" };
    let mut names = [
        "libcuda1",
        "libnvidia-ml1",
        "libnvidia-nscq",
        "nvidia-driver-cuda",
        "nvidia-fabricmanager",
        "nvidia-kernel-open-dkms",
        open,
        "nvidia-persistenced",
    ];
    names.sort_unstable();
    names.map(|name| format!("{name} {driver}-1")).join("\n")
}

#[test]
fn a_driver_is_installed_held_upgraded_repaired_and_rolled_back() {
    let hosts = fleet().boot([Setup::new("cp-1"), Setup::new("h-1").hgx_h100()]);
    let mut site = Site::accelerated(&hosts, &h100("580.126.09"));
    let host = &hosts[1];
    site.converge();
    assert_eq!(installed(host), whole("580.126.09"), "the pin keeps what they depend on at the same version");
    assert_eq!(loaded(host), "580.126.09");
    host.sh("systemctl is-active nvidia-persistenced nvidia-fabricmanager; grep -q 580.126.09 /var/run/cdi/nvidia.yaml");

    // Held and pinned: an admin's upgrade, or an unattended one, leaves all of it alone.
    host.sh("apt-get -qq -y dist-upgrade");
    assert_eq!(installed(host), whole("580.126.09"));

    // What changed the packages all the same left its module loaded: named, and brought back.
    let names = whole("580.178.04").lines().map(|l| l.replace(' ', "=") + " ").collect::<String>();
    host.sh(&format!("apt-get -qq -y --allow-change-held-packages install {names}"));
    assert_eq!((installed(host), loaded(host)), (whole("580.178.04"), "580.126.09".to_owned()));
    let plan = site.expect(2, &["plan"]);
    assert!(plan.contains("E-NV-MISMATCH"), "{plan}");
    site.converge();
    assert_eq!((installed(host), loaded(host)), (whole("580.126.09"), "580.126.09".to_owned()));
    let boots = host.boots();

    // A live change: nothing holds the module, so no reboot is needed.
    site.accelerate(&hosts, &h100("580.178.04"), "");
    site.converge();
    assert_eq!((installed(host), loaded(host)), (whole("580.178.04"), "580.178.04".to_owned()));
    assert_eq!(host.boots(), boots, "unloaded by reference count");

    // Another branch: the package of the old one is held, and goes first. Something holds the module: one reboot.
    host.sh("echo nvidia >/run/fleet-kernel/held");
    site.accelerate(&hosts, &h100("595.91.07"), "");
    let plan = site.expect(2, &["plan"]);
    let at = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text} in {plan}"));
    assert!(at("package nvidia-open-580") < at("package nvidia-open "), "{plan}");
    site.converge();
    assert_eq!((installed(host), loaded(host)), (whole("595.91.07"), "595.91.07".to_owned()));
    assert_eq!(host.boots(), boots + 1, "one reboot takes out what is held");

    // One part changed behind our back is named, and brought back into lockstep.
    host.sh("apt-get -qq -y --allow-downgrades --allow-change-held-packages install nvidia-fabricmanager=580.178.04-1");
    let pending = site.pending();
    for part in ["command/nvidia-libraries", "command/nvidia-versions", "package/nvidia-fabricmanager"] {
        assert!(pending.iter().any(|p| p == part), "{part} in {pending:?}");
    }
    site.converge();
    assert_eq!(installed(host), whole("595.91.07"));

    // A release that one part does not have is refused before anything is changed.
    site.accelerate(&hosts, &h100("610.57.04"), "");
    let said = site.expect(1, &["apply", "--yes"]);
    assert!(said.contains("[E-NV-LOCKSTEP]") && said.contains("of libnvidia-nscq"), "{said}");
    assert_eq!((installed(host), loaded(host)), (whole("595.91.07"), "595.91.07".to_owned()));

    // Back to the earlier pin; after a power cycle all is still well.
    site.accelerate(&hosts, &h100("580.178.04"), "");
    site.converge();
    assert_eq!((installed(host), loaded(host)), (whole("580.178.04"), "580.178.04".to_owned()));
    let holds = host.sh("apt-mark showhold | sort | grep nvidia | grep -v container | tr '\\n' ' '");
    assert_eq!(holds.trim(), "libnvidia-nscq nvidia-fabricmanager nvidia-open-580 nvidia-persistenced");
    host.restart();
    let shown = site.expect(0, &["plan"]);
    assert!(shown.contains("in sync"), "{shown}");
}

#[test]
fn one_host_that_cannot_have_its_driver_stops_alone() {
    let new = |name: &str| Setup::new(name).hgx_h100();
    let hosts = fleet().boot([
        Setup::new("cp-1"),
        new("h-well"),
        new("h-missing").prepare("rm -r /opt/fake/pci/0000:1c:00.0"),
        new("h-unbuildable").prepare("touch /opt/fake/unbuildable"),
        // The lists were had, and there are no headers in them.
        new("h-headers").prepare("rm /etc/apt/sources.list.d/headers.list"),
    ]);
    hosts[4].sh("apt-get -qq update");
    let site = Site::accelerated(&hosts, &h100("580.178.04"));
    let said = site.expect(1, &["apply", "--yes"]);
    let wanted = [("h-missing", "E-ACCEL-COUNT"), ("h-unbuildable", "E-NV-DKMS"), ("h-headers", "E-HEADERS")];
    for (host, code) in wanted {
        assert!(said.lines().any(|l| l.contains(host) && l.contains(code)), "{host} {code} in {said}");
    }
    assert_eq!((installed(&hosts[1]), loaded(&hosts[1])), (whole("580.178.04"), "580.178.04".to_owned()));
    for host in &hosts[2..] {
        assert!(!host.try_sh("test -e /sys/module/nvidia").status.success(), "{} has no driver", host.name);
    }
    // A GPU that is lost later is told by the same name, and a host that can build goes on where it stopped.
    hosts[3].sh("rm /opt/fake/unbuildable");
    hosts[1].sh("rm -r /opt/fake/pci/0000:1c:00.0");
    let said = site.expect(1, &["apply", "--yes"]);
    assert!(said.lines().any(|l| l.contains("h-well") && l.contains("E-ACCEL-COUNT")), "{said}");
    assert_eq!(loaded(&hosts[3]), "580.178.04");
}
