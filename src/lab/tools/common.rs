//! What the stand-ins share: what the lab has told the host, their state, and asking the lab.

use crate::lab::hardware_fault::HardwareFault;
use crate::lab::on_host;
use crate::lab::request::Request;
use crate::lab::spec::{FaultKind, Hardware};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What the lab has told a host about itself.
#[derive(Deserialize, Default)]
pub(super) struct Settings {
    pub hardware: Option<Hardware>,
    pub sudo_sha256: Option<String>,
    pub faults: Vec<FaultKind>,
}

impl Settings {
    /// Returns what is wrong with the hardware.
    pub(super) fn hardware_faults(&self) -> impl Iterator<Item = &HardwareFault> {
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

/// Asks the lab to do something that outlives this process.
pub(super) fn request(request: &Request) -> Result<(), String> {
    ask(request).map(|_| ())
}

/// Asks the lab, and returns what it says.
pub(super) fn ask(request: &Request) -> Result<String, String> {
    if on_host::is_here() {
        return on_host::request(request.clone());
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

/// Returns the words of a command line that are neither options nor the values of these.
pub(super) fn plain<'a>(arguments: &[&'a str], with_values: &[&str]) -> Vec<&'a str> {
    let before = [""].iter().chain(arguments);
    let pairs = before
        .zip(arguments)
        .filter(|(before, word)| !word.starts_with('-') && !with_values.contains(before));
    pairs.map(|(_, word)| *word).collect()
}

/// How a tool that failed ends: its status, and what it says on standard error.
pub(super) struct Failed(pub u8, pub String);
/// How a tool ends.
pub(super) type Ended = Result<(), Failed>;

impl From<String> for Failed {
    fn from(message: String) -> Self {
        Self(1, message)
    }
}

/// Returns a failure.
pub(super) fn fail<T>(status: u8, message: impl std::fmt::Display) -> Result<T, Failed> {
    Err(Failed(status, message.to_string()))
}

/// Returns what the lab has told a host, seen from outside or inside.
pub(super) fn settings_of(root: &Path) -> Option<Settings> {
    let text = std::fs::read_to_string(root.join("var/lib/lab/settings.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// Returns whether something is wrong with the hardware.
pub(super) fn has(settings: &Settings, fault: &HardwareFault) -> bool {
    settings.hardware_faults().any(|f| f == fault)
}
