//! The driver's packages under a real apt: entries of the built-in role as they are, with packages of the real names and
//! versions. Modules and devices are none here; what could be loaded is a file.

use crate::kit::{Host, Setup, Site, fleet};

const ROLE: &str = include_str!("../../roles/nvidia/role.yaml");

/// The built-in role's entries that pin, look for and install packages, for one driver on a host with NVSwitches.
fn role(driver: &str) -> String {
    let open = if driver.starts_with("580") { "nvidia-open-580" } else { "nvidia-open" };
    let other = if driver.starts_with("580") { "nvidia-open" } else { "nvidia-open-580" };
    let (parts, fabric) = ([open, "nvidia-persistenced"], ["nvidia-fabricmanager", "libnvidia-nscq"]);
    let lockstep = [parts, fabric].concat().join(" ");
    let list = |names: &[&str]| format!("\"['{}']\"", names.join("', '"));
    let wanted = [
        "90-provision-nvidia\n",
        "name: nvidia-versions",
        "each: nvidia.other_packages",
        "each: nvidia.driver_packages",
        "each: nvidia.fabric_packages",
        "name: nvidia-libraries",
    ];
    let mut entries: Vec<String> = Vec::new();
    for line in ROLE.lines().filter(|l| !l.starts_with('#')) {
        match entries.last_mut() {
            Some(entry) if !line.starts_with("- ") => *entry += &format!("{line}\n"),
            _ => entries.push(format!("{line}\n")),
        }
    }
    entries.retain(|entry| wanted.iter().any(|part| entry.contains(part)));
    assert_eq!(entries.len(), wanted.len(), "each is in the role once: {entries:?}");
    entries
        .concat()
        .replace("nvidia.driver | replace('.', '[.]')", &format!("'{}'", driver.replace('.', "[.]")))
        .replace("nvidia.driver_packages", &list(&parts))
        .replace("nvidia.other_packages", &list(&[other]))
        .replace("nvidia.fabric_packages", &list(&fabric))
        .replace("nvidia.lockstep | join(' ')", &format!("'{lockstep}'"))
        .replace("nvidia.lockstep | length", "4")
        .replace("\"{{ nvidia.fabric_units }}\"", "[]")
        .replace("nvidia.driver }}", &format!("'{driver}' }}}}"))
}

/// Returns what is installed of the driver, name and version, and what could be loaded.
fn installed(host: &Host) -> String {
    host.sh("dpkg-query -W -f '${db:Status-Abbrev}${Package} ${Version}\\n' '*nvidia*' | sed -n 's/^[ih]i *//p' | sort; cat /var/lib/nvidia/loadable")
}

fn whole(driver: &str) -> String {
    let open = if driver.starts_with("580") { "nvidia-open-580" } else { "nvidia-open" };
    let mut names =
        ["libnvidia-compute", "libnvidia-nscq", "nvidia-fabricmanager", open, "nvidia-persistenced"];
    names.sort_unstable();
    names.iter().map(|name| format!("{name} {driver}-1\n")).collect::<String>() + driver
}

#[test]
fn a_driver_is_installed_held_upgraded_repaired_and_rolled_back() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, &role("580.126.09"));
    let host = &hosts[0];
    site.converge();
    assert_eq!(installed(host), whole("580.126.09"), "the pin keeps what they depend on at the same version");
    // Held and pinned: an admin's upgrade, or an unattended one, leaves all of it alone.
    host.sh("apt-get -qq -y dist-upgrade");
    assert_eq!(installed(host), whole("580.126.09"));

    site.role("base", &role("580.178.04"));
    site.converge();
    assert_eq!(installed(host), whole("580.178.04"));

    // Another branch: the package of the old one is held, and goes first.
    site.role("base", &role("595.91.07"));
    let plan = site.expect(2, &["plan"]);
    let at = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text} in {plan}"));
    assert!(at("package nvidia-open-580") < at("package nvidia-open "), "{plan}");
    site.converge();
    assert_eq!(installed(host), whole("595.91.07"));

    // One part changed behind our back is named, and brought back into lockstep.
    host.sh("apt-get -qq -y --allow-downgrades --allow-change-held-packages install nvidia-fabricmanager=580.178.04-1");
    assert_eq!(
        site.pending(),
        ["command/nvidia-libraries", "command/nvidia-versions", "package/nvidia-fabricmanager"]
    );
    site.converge();
    assert_eq!(installed(host), whole("595.91.07"));

    // A release that one part does not have is refused before anything is changed.
    site.role("base", &role("610.57.04"));
    let said = site.expect(1, &["apply", "--yes"]);
    assert!(said.contains("[E-NV-LOCKSTEP]") && said.contains("of libnvidia-nscq"), "{said}");
    assert_eq!(installed(host), whole("595.91.07"));

    // Back to the earlier pin.
    site.role("base", &role("580.178.04"));
    site.converge();
    assert_eq!(installed(host), whole("580.178.04"));
    let holds = "libnvidia-nscq nvidia-fabricmanager nvidia-open-580 nvidia-persistenced";
    assert_eq!(host.sh("apt-mark showhold | sort | tr '\\n' ' '").trim(), holds);
}
