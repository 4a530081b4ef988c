//! Stand-ins for the tools of a host, in one executable, told apart by name. They answer as the real ones do (exit
//! status, shapes, key phrases) and keep their state in the host's own `/var/lib/lab`.

mod diagnostics;
mod hardware;
mod k0s;
mod mig;
mod misc;
mod nics;
mod packages;
pub mod units;

use super::hardware_fault::HardwareFault;
use super::host::Request;
use super::on_host;
use super::spec::{FaultKind, Hardware};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// What the lab has told a host about itself.
#[derive(Deserialize, Default)]
pub(super) struct Settings {
    pub hardware: Option<Hardware>,
    pub sudo_sha256: Option<String>,
    pub faults: Vec<FaultKind>,
}

impl Settings {
    /// Returns what is wrong with the hardware.
    pub fn hardware_faults(&self) -> impl Iterator<Item = &HardwareFault> {
        self.faults.iter().filter_map(|f| match f {
            FaultKind::Hardware(fault) => Some(fault),
            _ => None,
        })
    }
}

/// Where the state of a host's tools is, seen from inside.
const STATE: &str = "/var/lib/lab";

/// Reads a piece of state below a host's root; its default if there is none.
pub(super) fn load<T: DeserializeOwned + Default>(root: &Path, name: &str) -> T {
    let path = root.join(STATE.trim_start_matches('/')).join(name);
    std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Writes a piece of state, as a whole.
pub(super) fn save<T: Serialize>(root: &Path, name: &str, state: &T) {
    let folder = root.join(STATE.trim_start_matches('/'));
    let temporary = folder.join(format!("{name}.{}", std::process::id()));
    let text = serde_json::to_string(state).unwrap_or_default();
    if std::fs::write(&temporary, text).is_ok() {
        let _ = std::fs::rename(temporary, folder.join(name));
    }
}

/// The root as a tool sees it.
pub(super) fn here() -> &'static Path {
    Path::new("/")
}

fn settings() -> Settings {
    std::fs::read_to_string("/var/lib/lab/settings.json")
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Asks the lab to do something that outlives this process.
pub(super) fn request(request: &Request) -> Result<(), String> {
    ask(request).map(|_| ())
}

/// Asks the lab, and returns what it says.
pub(super) fn ask(request: &Request) -> Result<String, String> {
    if on_host::is_here() {
        return on_host::request(request);
    }
    let unreachable = |error: std::io::Error| format!("the lab does not answer: {error}");
    let mut stream = UnixStream::connect("/run/lab/init.sock").map_err(unreachable)?;
    let text = serde_json::to_string(request).unwrap_or_default();
    stream.write_all(format!("{text}\n").as_bytes()).map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(unreachable)?;
    match answer.trim_end().strip_prefix("error ") {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer.trim_end().trim_start_matches("ok").trim_start().to_owned()),
    }
}

/// Prints an error and returns a status.
pub(super) fn fail(status: u8, message: impl std::fmt::Display) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(status)
}

/// What happens to a host's files when it boots. Returns how many accelerators answer afterwards, and instances of
/// split GPUs by profile.
pub fn boot(dir: &Path) -> (u32, BTreeMap<String, u32>) {
    hardware::boot(dir)
}

/// Runs as a stand-in; `None` if the name is none of theirs.
pub fn run(name: &str, arguments: &[OsString]) -> Option<ExitCode> {
    let mut words: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    // The mirror's k0s script runs the tool under its own name, with `k0s` as the first word.
    let name = if name == "tool" && !words.is_empty() { words.remove(0) } else { name.to_owned() };
    let a: Vec<&str> = words.iter().map(String::as_str).collect();
    let settings = settings();
    let called = format!("{name} {} ", a.join(" "));
    let hangs = |f: &FaultKind| matches!(f, FaultKind::HungTool(t) if called.starts_with(&format!("{t} ")));
    if settings.faults.iter().any(hangs) {
        loop {
            std::thread::park();
        }
    }
    Some(match name.as_str() {
        "apt-get" => packages::apt_get(&settings, &a),
        "apt-mark" => packages::apt_mark(&a),
        "apt-cache" => packages::apt_cache(&settings, &a),
        "dpkg-query" => packages::dpkg_query(&a),
        "dpkg" => ExitCode::SUCCESS,
        "systemctl" => units::systemctl(&a),
        "systemd-run" => units::systemd_run(&a),
        "journalctl" => units::journalctl(),
        "k0s" => k0s::k0s(&a),
        "modprobe" => hardware::modprobe(&settings, &a),
        "rmmod" => hardware::rmmod(&settings, &a),
        "lsmod" => hardware::lsmod(),
        "nvidia-smi" => hardware::nvidia_smi(&settings, &a),
        "neuron-ls" => hardware::neuron_ls(&settings, &a),
        "efa-installer" => nics::efa_installer(&settings, &a),
        "dkms" => hardware::dkms(&settings, &a),
        "dmesg" => diagnostics::dmesg(&settings),
        "dcgmi" => diagnostics::dcgmi(&settings),
        "nvbandwidth" => diagnostics::nvbandwidth(&settings, &a),
        "all_reduce_perf" => diagnostics::all_reduce(&settings),
        "nccom-test" => diagnostics::nccom_test(&settings),
        "fio" => diagnostics::fio(),
        "uname" => misc::uname(&a),
        "nvidia-ctk" => hardware::nvidia_ctk(&a),
        "update-initramfs" | "nvidia-persistenced" | "crictl" | "timedatectl" => ExitCode::SUCCESS,
        "sudo" => misc::sudo(&settings, &a),
        "reboot" => units::systemctl(&["reboot"]),
        "hostnamectl" => misc::hostnamectl(&a),
        "swapoff" => misc::swapoff(),
        "sysctl" => misc::sysctl(&a),
        "curl" => misc::curl(&a),
        "wget" => fail(1, "LAB: wget is not simulated; curl is"),
        "ip" => misc::ip(),
        "chronyc" => misc::chronyc(),
        "cloud-init" => misc::cloud_init(),
        "mokutil" => fail(1, "EFI variables are not supported on this system"),
        "df" => misc::df(&settings, &a),
        _ => return None,
    })
}
