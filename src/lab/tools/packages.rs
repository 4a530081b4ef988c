//! The package manager stand-in: any package of any version, and what driver packages do to a host.

use super::common::{Settings, fail, here, load, save};
use super::units;
use crate::lab::hardware_fault::HardwareFault;
use crate::lab::spec::FaultKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::ExitCode;

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
        "chrony" => units::install("chrony.service", true),
        "nvidia-fabricmanager" => units::install("nvidia-fabricmanager.service", false),
        "nvidia-persistenced" => units::install("nvidia-persistenced.service", true),
        "nvidia-imex" => units::install("nvidia-imex.service", false),
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
pub(super) fn apt_get(settings: &Settings, arguments: &[&str]) -> ExitCode {
    let mut words = Vec::new();
    let mut skip = false;
    for word in arguments {
        match *word {
            _ if skip => skip = false,
            "-o" => skip = true,
            w if w.starts_with('-') => {}
            w => words.push(w),
        }
    }
    let Some((verb, names)) = words.split_first() else { return ExitCode::SUCCESS };
    // No package of the lab depends on another: what a command would remove is what it names.
    if arguments.contains(&"-s") {
        for name in names.iter().filter(|_| matches!(*verb, "remove" | "purge")) {
            println!("Remv {name} [LAB]");
        }
        return ExitCode::SUCCESS;
    }
    let full = settings.faults.contains(&FaultKind::DiskFull);
    if matches!(*verb, "install" | "remove" | "purge")
        && let Err(code) = frontend_lock(settings, arguments)
    {
        return code;
    }
    match *verb {
        "update" => {
            println!("LAB: package lists are a stand-in\nReading package lists...");
            ExitCode::SUCCESS
        }
        "install" => {
            let mut all = installed();
            for word in names {
                let (name, version) = word.split_once('=').unwrap_or((word, candidate(word)));
                let version = found(name, version);
                println!("LAB: Setting up {name} ({version}) ...");
                if full {
                    return fail(
                        100,
                        format!(
                            "dpkg: error processing archive {name} (--unpack):\n cannot copy extracted data: No space left on device\nE: Sub-process /usr/bin/dpkg returned an error code (1)"
                        ),
                    );
                }
                if settings.faults.contains(&FaultKind::FailPackage(name.to_owned())) {
                    return fail(
                        100,
                        format!(
                            "dpkg: error processing package {name} (--configure):\n LAB fault: the maintainer script failed with exit status 1\nE: Sub-process /usr/bin/dpkg returned an error code (1)"
                        ),
                    );
                }
                let held = all.get(name).is_some_and(|p| p.held);
                all.insert(name.to_owned(), Package { version, held });
                save(here(), "packages.json", &all);
                effects(name);
            }
            ExitCode::SUCCESS
        }
        "remove" | "purge" => {
            let mut all = installed();
            for name in names {
                let changes_held = arguments.contains(&"--allow-change-held-packages");
                if all.get(*name).is_some_and(|p| p.held) && !changes_held {
                    return fail(
                        100,
                        "E: Held packages were changed and -y was used without --allow-change-held-packages.",
                    );
                }
                println!("LAB: Removing {name} ...");
                all.remove(*name);
                if *name == "chrony" {
                    units::uninstall("chrony.service");
                }
            }
            save(here(), "packages.json", &all);
            ExitCode::SUCCESS
        }
        other => fail(100, format!("E: LAB: apt-get {other} is not simulated")),
    }
}

/// Releases of the driver that the lab's repository has.
const DRIVERS: [&str; 7] =
    ["570.158.01", "580.126.09", "580.178.04", "595.45.04", "595.71.05", "595.91.07", "610.57.04"];

/// `apt-cache policy NAMES` and `apt-cache madison NAME`: everything is there but what a fault takes away.
pub(super) fn apt_cache(settings: &Settings, arguments: &[&str]) -> ExitCode {
    let Some((verb, names)) = arguments.split_first() else { return ExitCode::SUCCESS };
    for name in names.iter().filter(|n| !n.starts_with('-')) {
        let gone = settings.hardware_faults().any(|fault| match fault {
            HardwareFault::HeadersGone => name.starts_with("linux-headers-"),
            HardwareFault::NoVersion(package) => package == name,
            _ => false,
        });
        match *verb {
            "policy" if gone => {}
            "policy" => println!("{name}:\n  Installed: (none)\n  Candidate: {}", candidate(name)),
            "madison" if gone => {}
            "madison" => {
                for version in DRIVERS {
                    println!("{name:>10} | {version}-1 | http://lab LAB/main amd64 Packages");
                }
            }
            other => return fail(100, format!("E: LAB: apt-cache {other} is not simulated")),
        }
    }
    ExitCode::SUCCESS
}

/// Waits for dpkg's lock while another holds it, for as long as `DPkg::Lock::Timeout` says. A holder that never lets go
/// is waited for a hundredth of that: ten simulated minutes would be too long.
fn frontend_lock(settings: &Settings, arguments: &[&str]) -> Result<(), ExitCode> {
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
            return Err(fail(
                100,
                format!(
                    "E: {held}\nN: Be aware that removing the lock file is not a solution and may break your system.\n\
                     E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?"
                ),
            ));
        }
        if !told {
            println!("Waiting for cache lock: {held}...");
            told = true;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// `apt-mark`.
pub(super) fn apt_mark(arguments: &[&str]) -> ExitCode {
    let mut all = installed();
    match arguments.split_first() {
        Some((&"showhold", _)) => {
            for (name, _) in all.iter().filter(|(_, p)| p.held) {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        Some((verb @ (&"hold" | &"unhold"), names)) => {
            for name in names {
                match all.get_mut(*name) {
                    Some(package) => package.held = *verb == "hold",
                    None => {
                        return fail(
                            100,
                            format!("E: Can't select installed nor candidate version from package '{name}'"),
                        );
                    }
                }
            }
        }
        _ => return fail(100, "E: LAB: apt-mark knows hold, unhold and showhold"),
    }
    save(here(), "packages.json", &all);
    ExitCode::SUCCESS
}

/// `dpkg-query -W -f FORMAT NAMES`.
pub(super) fn dpkg_query(arguments: &[&str]) -> ExitCode {
    let all = installed();
    let mut format = "${Package}\\t${Version}\\n";
    let mut names = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "-f" => format = words.next().copied().unwrap_or_default(),
            w if w.starts_with('-') => {}
            w => names.push(w),
        }
    }
    let mut missing = false;
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
    ExitCode::from(u8::from(missing))
}
