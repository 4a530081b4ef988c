//! Stand-ins for the tools of a host, in one executable, told apart by name. They answer as the real ones do (exit
//! status, shapes, key phrases) and keep their state in the host's own `/var/lib/lab`.

mod common;
mod diagnostics;
mod hardware;
mod k0s;
mod k0s_users;
mod mig;
mod misc;
mod nics;
mod packages;
mod ssh;
mod system;
pub(super) mod units;

use self::common::{Failed, fail};
use super::spec::FaultKind;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// What happens to a host's files when it boots. Returns how many accelerators answer afterwards, and instances of
/// split GPUs by profile.
pub(super) fn boot(dir: &Path) -> (u32, BTreeMap<String, u32>) {
    hardware::boot(dir)
}

/// Asks the lab to do something, as a tool does.
pub(super) fn request(request: &super::request::Request) -> Result<(), String> {
    common::request(request)
}

/// Runs as a stand-in; `None` if the name is none of theirs.
pub(super) fn run(name: &str, arguments: &[OsString]) -> Option<ExitCode> {
    let mut words: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    // The mirror's k0s script runs the tool under its own name, with `k0s` as the first word.
    let name = if name == "tool" && !words.is_empty() { words.remove(0) } else { name.to_owned() };
    let a: Vec<&str> = words.iter().map(String::as_str).collect();
    let settings = common::settings_of(common::here()).unwrap_or_default();
    let called = format!("{name} {} ", a.join(" "));
    let hangs = |f: &FaultKind| matches!(f, FaultKind::HungTool(t) if called.starts_with(&format!("{t} ")));
    if settings.faults.iter().any(hangs) {
        loop {
            std::thread::park();
        }
    }
    let ended = match name.as_str() {
        "apt-get" => packages::apt_get(&settings, &a),
        "apt-mark" => packages::apt_mark(&a),
        "apt-cache" => packages::apt_cache(&settings, &a),
        "dpkg-query" => packages::dpkg_query(&a),
        "systemctl" => units::systemctl(&a),
        "systemd-run" => units::systemd_run(&a),
        "journalctl" => units::journalctl(),
        "k0s" => k0s::k0s(&a),
        "modprobe" => hardware::modprobe(&settings, &a),
        "rmmod" => hardware::rmmod(&settings, &a),
        "lsmod" => hardware::lsmod(),
        "nvidia-smi" => hardware::nvidia_smi(&settings, &a),
        "neuron-ls" => hardware::neuron_ls(&settings),
        "efa-installer" => hardware::efa_installer(&settings, &a),
        "dkms" => hardware::dkms(&settings, &a),
        "dmesg" => diagnostics::dmesg(&settings),
        "dcgmi" => diagnostics::dcgmi(&settings),
        "nvbandwidth" => diagnostics::nvbandwidth(&settings, &a),
        "all_reduce_perf" => diagnostics::all_reduce(&settings),
        "nccom-test" => diagnostics::nccom_test(&settings),
        "fio" => diagnostics::fio(),
        "uname" => system::uname(&a),
        "arch" | "nproc" | "uptime" | "free" | "ps" | "ss" | "lsblk" | "findmnt" | "chronyc"
        | "cloud-init" => system::fixed(&name),
        "getconf" => system::getconf(&a),
        "nvidia-ctk" => hardware::nvidia_ctk(&a),
        "crictl" | "dpkg" | "ip" | "nvidia-persistenced" | "timedatectl" | "update-initramfs" => Ok(()),
        "sudo" => misc::sudo(&settings, &a),
        "reboot" => units::systemctl(&["reboot"]),
        "hostnamectl" => misc::hostnamectl(&a),
        "swapoff" => misc::swapoff(),
        "sysctl" => misc::sysctl(&a),
        "curl" => misc::curl(&a),
        "ssh" => ssh::ssh(&a),
        "wget" => fail(1, "LAB: wget is not simulated; curl is"),
        "mokutil" => fail(1, "EFI variables are not supported on this system"),
        "df" => misc::df(&settings, &a),
        _ => return None,
    };
    Some(ended.map_or_else(
        |Failed(status, said)| {
            eprint!("{said}{}", if said.is_empty() { "" } else { "\n" });
            ExitCode::from(status)
        },
        |()| ExitCode::SUCCESS,
    ))
}
