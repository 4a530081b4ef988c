//! Logs: of libraries, on stderr or in a file, and of everything that a command did, in that file.

use crate::event::Event;
use crate::redact::redacted;
use crate::report::event_line;
use crate::state::plain_line;
use crate::template::quote;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;

/// Libraries that say more than anybody reads at `debug`.
const LOUD: [&str; 4] = ["h2", "hyper", "hyper_util", "rustls"];

/// Whether libraries are shown on stderr even where there is a file.
static VERBOSE: AtomicBool = AtomicBool::new(false);
/// Whether the file could not be written.
static FULL: AtomicBool = AtomicBool::new(false);
/// The log file of this process.
static LOG: OnceLock<Mutex<File>> = OnceLock::new();

/// Starts logging as the flags and PROVISION_LOG ask: errors of libraries alone without them. Fails if the file cannot be opened.
/// `command` is what is run, without its arguments.
pub(super) fn start(verbose: u8, file: Option<&Path>, command: &str) -> io::Result<()> {
    VERBOSE.store(verbose > 1, Ordering::Relaxed);
    if let Some(path) = file {
        let (opened, others) = opened(path)?;
        let _ = LOG.set(Mutex::new(opened));
        if let Some(others) = others {
            eprintln!("warning: {others}");
        }
        let (version, process) = (env!("CARGO_PKG_VERSION"), std::process::id());
        note(&format!("provision {version}: {command} (process {process})"));
    }
    let asked = std::env::var("PROVISION_LOG").unwrap_or_default();
    let named = (!asked.is_empty()).then(|| targets(&asked)).flatten();
    let wanted = named.unwrap_or_else(|| usual(verbose, file.is_some()));
    let layer = tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_writer(Sink);
    tracing_subscriber::registry().with(wanted).with(layer).init();
    Ok(())
}

/// Opens a log file, which names hosts, users and addresses: no link, which may lead to another file than meant, and nothing that
/// is no file. Returns it, and who else can read it.
fn opened(path: &Path) -> io::Result<(File, Option<String>)> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a link")),
        Err(rustix::io::Errno::NXIO) => return Err(io::Error::other("it is not a regular file")),
        Err(error) => return Err(error.into()),
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let (name, mode) = (path.display(), found.mode() & 0o777);
    let others = match () {
        () if found.uid() != rustix::process::geteuid().as_raw() => {
            Some(format!("{name} belongs to another user, who can read this log"))
        }
        () if mode & 0o044 != 0 => Some(format!(
            "other users can read {name} (mode {mode:o}); to change that: chmod 600 {}",
            quote(&name.to_string())
        )),
        () => None,
    };
    Ok((file, others))
}

/// Returns what is logged without PROVISION_LOG.
fn usual(verbose: u8, to_file: bool) -> Targets {
    match verbose {
        0 | 1 if to_file => Targets::new().with_default(LevelFilter::WARN),
        0 | 1 => Targets::new().with_default(LevelFilter::ERROR),
        _ => Targets::new()
            .with_default(LevelFilter::DEBUG)
            .with_targets(LOUD.map(|name| (name, LevelFilter::INFO))),
    }
}

/// Returns what a list of `LEVEL` and `MODULE=LEVEL` asks for; a list that cannot be read is named on stderr.
fn targets(asked: &str) -> Option<Targets> {
    asked.parse().inspect_err(|error| eprintln!("warning: PROVISION_LOG is ignored: {error}")).ok()
}

/// Writes an event to the log file.
pub(super) fn event(event: &Event) {
    if LOG.get().is_some()
        && let Some(line) = event_line(event)
    {
        note(&line);
    }
}

/// Writes a text to the log file, with the time before each line, and without secrets, colours and control characters.
pub(super) fn note(text: &str) {
    let Some(log) = LOG.get() else { return };
    let time = time();
    let text = redacted(&console::strip_ansi_codes(text), &[]);
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines: String = lines.map(|line| format!("{time} {}\n", plain_line(line))).collect();
    let Ok(mut log) = log.lock() else { return };
    if let Err(error) = log.write_all(lines.as_bytes())
        && !FULL.swap(true, Ordering::Relaxed)
    {
        let _ = writeln!(io::stderr(), "warning: the log file is incomplete: {error}");
    }
}

fn time() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Where libraries log: in the file, or on stderr.
struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        note(&text);
        if LOG.get().is_none() || VERBOSE.load(Ordering::Relaxed) {
            let _ = write!(io::stderr(), "{} {text}", time());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::{targets, usual};
    use tracing_subscriber::filter::LevelFilter;

    #[test]
    fn levels_are_read_per_module() {
        let read = targets("warn,russh=trace").expect("a list");
        assert_eq!(read.default_level(), Some(LevelFilter::WARN));
        assert_eq!(read.to_string(), "russh=trace,warn");
        assert!(targets("russh=loud").is_none());
    }

    #[test]
    fn libraries_speak_with_the_second_v() {
        assert_eq!(usual(1, false).default_level(), Some(LevelFilter::ERROR));
        assert_eq!(usual(2, false).default_level(), Some(LevelFilter::DEBUG));
    }
}
