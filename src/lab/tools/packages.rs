//! The package manager stand-in: any package of any version, and what driver packages do to a host.

use super::common::{Ended, Settings, fail, here, load, plain, save};
use super::units;
use crate::lab::hardware_fault::HardwareFault;
use crate::lab::spec::FaultKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize, Default, Clone)]
pub(super) struct Package {
    pub version: String,
    pub held: bool,
}

type Packages = BTreeMap<String, Package>;

pub(super) fn installed() -> Packages {
    let mut all: Packages = load(here(), "packages.json");
    if all.is_empty() {
        for (name, version) in [
            ("openssh-server", "1:9.2p1-2"),
            ("systemd", "252.39-1"),
            ("unattended-upgrades", "2.9.1"),
            ("kmod", "30+20221128-1"),
        ] {
            all.insert(name.to_owned(), Package { version: version.to_owned(), held: false });
        }
    }
    all
}

/// The version that a pattern finds: any revision, any release of a line, or, of Neuron's tools, a version that ends in a commit.
fn found(name: &str, pattern: &str) -> String {
    let Some(rest) = pattern.strip_suffix('*') else { return pattern.to_owned() };
    let rest = if rest.ends_with(['.', '-']) { format!("{rest}1") } else { rest.to_owned() };
    if name.contains("neuronx-tools") { format!("{rest}-526c2b7f6") } else { rest }
}

/// The version of a package that is asked for without one.
fn candidate(name: &str) -> &'static str {
    match name {
        "chrony" => "4.3-2",
        "conntrack" => "1:1.4.7-1",
        _ => "1.0-1",
    }
}

/// What a package brings besides itself.
fn effects(name: &str) {
    match name {
        "chrony" | "nvidia-persistenced" => units::install(&format!("{name}.service"), true),
        "datacenter-gpu-manager-4-core" => units::install("nvidia-dcgm.service", false),
        "nvidia-fabricmanager" | "nvidia-imex" => units::install(&format!("{name}.service"), false),
        // A kernel that was installed boots next, if it is the newest.
        name => {
            if let Some(release) = name.strip_prefix("linux-image-") {
                let _ = std::fs::create_dir_all("/boot");
                let _ = std::fs::write(format!("/boot/vmlinuz-{release}"), "LAB\n");
            }
        }
    }
}

/// `apt-get`.
pub(super) fn apt_get(settings: &Settings, arguments: &[&str]) -> Ended {
    let words = plain(arguments, &["-o"]);
    let Some((verb, names)) = words.split_first() else { return Ok(()) };
    // No package of the lab depends on another: what a command would remove is what it names.
    if arguments.contains(&"-s") {
        for name in names.iter().filter(|_| matches!(*verb, "remove" | "purge")) {
            println!("Remv {name} [LAB]");
        }
        return Ok(());
    }
    let full = settings.faults.contains(&FaultKind::DiskFull);
    if matches!(*verb, "install" | "remove" | "purge") {
        frontend_lock(settings, arguments)?;
    }
    let mut all = installed();
    match *verb {
        "update" => println!("LAB: package lists are a stand-in\nReading package lists..."),
        "install" => {
            for word in names {
                let (name, version) = word.split_once('=').unwrap_or((word, candidate(word)));
                let version = found(name, version);
                println!("LAB: Setting up {name} ({version}) ...");
                let broken = |what: &str| {
                    let end = "E: Sub-process /usr/bin/dpkg returned an error code (1)";
                    fail(100, format!("dpkg: error processing {what}\n{end}"))
                };
                if full {
                    let why = "cannot copy extracted data: No space left on device";
                    return broken(&format!("archive {name} (--unpack):\n {why}"));
                }
                if settings.faults.contains(&FaultKind::FailPackage(name.to_owned())) {
                    let why = "LAB fault: the maintainer script failed with exit status 1";
                    return broken(&format!("package {name} (--configure):\n {why}"));
                }
                let held = all.get(name).is_some_and(|p| p.held);
                all.insert(name.to_owned(), Package { version, held });
                save(here(), "packages.json", &all);
                effects(name);
            }
        }
        "remove" | "purge" => {
            for name in names {
                let changes_held = arguments.contains(&"--allow-change-held-packages");
                if all.get(*name).is_some_and(|p| p.held) && !changes_held {
                    let why =
                        "Held packages were changed and -y was used without --allow-change-held-packages.";
                    return fail(100, format!("E: {why}"));
                }
                println!("LAB: Removing {name} ...");
                all.remove(*name);
                if *name == "chrony" {
                    units::uninstall("chrony.service");
                }
            }
            save(here(), "packages.json", &all);
        }
        other => return fail(100, format!("E: LAB: apt-get {other} is not simulated")),
    }
    Ok(())
}

/// Releases of the driver that the lab's repository has.
const DRIVERS: [&str; 7] =
    ["570.158.01", "580.126.09", "580.178.04", "595.45.04", "595.71.05", "595.91.07", "610.57.04"];

/// `apt-cache policy NAMES` and `apt-cache madison NAME`: everything is there but what a fault takes away.
pub(super) fn apt_cache(settings: &Settings, arguments: &[&str]) -> Ended {
    let Some((verb, names)) = arguments.split_first() else { return Ok(()) };
    for name in names.iter().filter(|n| !n.starts_with('-')) {
        let gone = settings.hardware_faults().any(|fault| match fault {
            HardwareFault::HeadersGone => name.starts_with("linux-headers-"),
            HardwareFault::NoVersion(package) => package == name,
            _ => false,
        });
        match *verb {
            "policy" | "madison" if gone => {}
            "policy" => println!("{name}:\n  Installed: (none)\n  Candidate: {}", candidate(name)),
            "madison" => {
                for version in DRIVERS {
                    println!("{name:>10} | {version}-1 | http://lab LAB/main amd64 Packages");
                }
            }
            other => return fail(100, format!("E: LAB: apt-cache {other} is not simulated")),
        }
    }
    Ok(())
}

/// Waits for dpkg's lock while another holds it, for as long as `DPkg::Lock::Timeout` says. A holder that never lets go
/// is waited for a hundredth of that: ten simulated minutes would be too long.
fn frontend_lock(settings: &Settings, arguments: &[&str]) -> Ended {
    let Some(seconds) = settings.faults.iter().find_map(|f| match f {
        FaultKind::AptLock(seconds) => Some(*seconds),
        _ => None,
    }) else {
        return Ok(());
    };
    let held = "Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)";
    let timeout: u64 =
        arguments.iter().find_map(|a| a.strip_prefix("DPkg::Lock::Timeout=")?.parse().ok()).unwrap_or(0);
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // The other one began when the lock was first asked for.
    let since: Option<u64> = load(here(), "apt-lock.json");
    let since = since.unwrap_or_else(|| now().as_millis() as u64);
    save(here(), "apt-lock.json", &Some(since));
    let free = seconds.map(|s| since + s * 1000);
    let patience = now().as_millis() as u64 + if free.is_some() { timeout * 1000 } else { timeout * 10 };
    let mut told = false;
    loop {
        let now = now().as_millis() as u64;
        if free.is_some_and(|free| now >= free) {
            return Ok(());
        }
        if now >= patience {
            let advice = "Be aware that removing the lock file is not a solution and may break your system.";
            let lock = "the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?";
            return fail(100, format!("E: {held}\nN: {advice}\nE: Unable to acquire {lock}"));
        }
        if !told {
            println!("Waiting for cache lock: {held}...");
            told = true;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// `apt-mark`.
pub(super) fn apt_mark(arguments: &[&str]) -> Ended {
    let mut all = installed();
    match arguments.split_first() {
        Some((&"showhold", _)) => {
            for (name, _) in all.iter().filter(|(_, p)| p.held) {
                println!("{name}");
            }
            return Ok(());
        }
        Some((verb @ (&"hold" | &"unhold"), names)) => {
            for name in names {
                let Some(package) = all.get_mut(*name) else {
                    let what = format!("installed nor candidate version from package '{name}'");
                    return fail(100, format!("E: Can't select {what}"));
                };
                package.held = *verb == "hold";
            }
        }
        _ => return fail(100, "E: LAB: apt-mark knows hold, unhold and showhold"),
    }
    save(here(), "packages.json", &all);
    Ok(())
}

/// `dpkg-query -W -f FORMAT NAMES`.
pub(super) fn dpkg_query(arguments: &[&str]) -> Ended {
    let all = installed();
    let format =
        arguments.iter().skip_while(|a| **a != "-f").nth(1).copied().unwrap_or("${Package}\\t${Version}\\n");
    let mut missing = false;
    let mut names = plain(arguments, &["-f"]);
    if names.is_empty() {
        names.extend(all.keys().map(String::as_str));
    }
    for name in names {
        let Some(package) = all.get(name) else {
            eprintln!("dpkg-query: no packages found matching {name}");
            missing = true;
            continue;
        };
        let status = if package.held { "hi " } else { "ii " };
        let line = format
            .replace("${Package}", name)
            .replace("${db:Status-Abbrev}", status)
            .replace("${Version}", &package.version)
            .replace("${Architecture}", "amd64")
            .replace("${Depends}", "")
            .replace("${Pre-Depends}", "")
            .replace("\\t", "\t")
            .replace("\\n", "\n");
        print!("{line}");
    }
    if missing { fail(1, "") } else { Ok(()) }
}
