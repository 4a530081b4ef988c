//! The only way to the standard streams. `print!`, `println!`, `eprint!` and `eprintln!` mean the
//! macros of this file everywhere in `cli/`: output of hosts, APIs and inventories is sanitised for a terminal, and
//! a stream that cannot be written (a closed pipe, a full disk) is reported at the end instead of by a panic.

use super::hints::complete;
use crate::fleet::StateDir;
use crate::report::{columns, fit};
use crate::state::{plain, plain_json};
use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};

/// Standard output is JSON: characters are escaped there, not replaced.
static JSON: AtomicBool = AtomicBool::new(false);
/// The word that lets the runner of GitHub Actions obey commands again.
static RESUME: OnceLock<String> = OnceLock::new();
/// Annotations that were made.
static ANNOTATED: AtomicUsize = AtomicUsize::new(0);
/// So many are made: GitHub shows 50 of a job, and a fleet may have thousands of hosts.
const MOST_ANNOTATIONS: usize = 50;
/// Characters of one: its runner cuts long ones.
const MOST_MESSAGE: usize = 4_000;
/// Why standard output took no more.
static REFUSED: OnceLock<Error> = OnceLock::new();
/// Whether anything panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Prints to standard output.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::terminal::out(format_args!($($text)*)) };
}

/// Prints a line to standard output.
macro_rules! println {
    () => { $crate::cli::terminal::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::terminal::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints lines to standard output, wrapped on a terminal: for screens, not for data.
macro_rules! screen {
    ($($text:tt)*) => { $crate::cli::terminal::screen(format_args!($($text)*)) };
}

/// Prints to standard error.
macro_rules! eprint {
    ($($text:tt)*) => { $crate::cli::terminal::err(format_args!($($text)*)) };
}

/// Prints a line to standard error.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::terminal::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Marks standard output as JSON.
pub(super) fn is_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Writes to standard output what is fit for it.
pub(super) fn out(text: Arguments<'_>) {
    let text = text.to_string();
    let json = JSON.load(Ordering::Relaxed);
    raw(&in_ci(&if json { plain_json(&text) } else { plain(&text) }, json));
}

/// Whether a service runs this that obeys commands in the output of programs: GitHub Actions, Azure Pipelines, TeamCity.
static OBEYED: LazyLock<bool> = LazyLock::new(|| {
    ["GITHUB_ACTIONS", "TF_BUILD", "TEAMCITY_VERSION"].iter().any(|name| std::env::var_os(name).is_some())
});
/// How their commands begin: at the start of a line, and anywhere.
const COMMAND_AT_START: &str = "::";
const COMMANDS: [&str; 3] = ["##[", "##vso[", "##teamcity["];

/// Returns a text in which such a service finds no command: hosts and inventories have a say in it.
fn in_ci(text: &str, json: bool) -> Cow<'_, str> {
    if *OBEYED { disobeyed(text, json) } else { Cow::Borrowed(text) }
}

fn disobeyed(text: &str, json: bool) -> Cow<'_, str> {
    let starts = |line: &str| !json && line.trim_start().starts_with(COMMAND_AT_START);
    if !text.lines().any(starts) && !COMMANDS.iter().any(|command| text.contains(command)) {
        return Cow::Borrowed(text);
    }
    let lines = text.split_inclusive('\n').map(|line| match starts(line) {
        true => line.replacen(COMMAND_AT_START, ": :", 1),
        false => line.to_owned(),
    });
    // In JSON they can stand in a string only.
    let apart = if json { "\\u0023#" } else { "# #" };
    let whole: String = lines.collect();
    Cow::Owned(COMMANDS.iter().fold(whole, |text, c| text.replace(c, &c.replacen("##", apart, 1))))
}

/// How an annotation is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Annotation {
    Error,
    Warning,
    Notice,
}

/// Makes annotations of GitHub Actions of what is told with [`annotate`]. Until [`end`] its runner obeys no other commands in the
/// output: what hosts and inventories say is in it. Standard error goes to standard output from here on: the runner obeys both, and
/// reads them in no order, so that lines of one could come before the command in the other that stops commands.
pub(super) fn begin_annotations() {
    let _ = rustix::stdio::dup2_stderr(std::io::stdout());
    let bytes: [u8; 16] = rand::random();
    let word: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    raw(&format!("::stop-commands::{word}\n"));
    let _ = RESUME.set(word);
}

/// Tells GitHub Actions of something, if that is asked for; `place` is a file, a line and a column.
/// <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>
pub(super) fn annotate(kind: Annotation, title: &str, place: Option<(&str, usize, usize)>, message: &str) {
    let Some(word) = RESUME.get() else { return };
    if ANNOTATED.fetch_add(1, Ordering::Relaxed) >= MOST_ANNOTATIONS {
        return;
    }
    let message: String = message.chars().take(MOST_MESSAGE).collect();
    let command = command(kind, title, place, &message);
    raw(&format!("::{word}::\n{command}\n::stop-commands::{word}\n"));
}

/// Returns an annotation as the runner reads it.
fn command(kind: Annotation, title: &str, place: Option<(&str, usize, usize)>, message: &str) -> String {
    let data = |text: &str| plain(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let name = match kind {
        Annotation::Error => "error",
        Annotation::Warning => "warning",
        Annotation::Notice => "notice",
    };
    let place = place.map(|(file, line, column)| {
        // Paths are those of the repository.
        let workspace = std::env::var("GITHUB_WORKSPACE").unwrap_or_default();
        let inside = file.strip_prefix(&workspace).and_then(|rest| rest.strip_prefix('/'));
        let file = inside.filter(|_| !workspace.is_empty()).unwrap_or(file);
        format!("file={},line={line},col={column},", property(file))
    });
    format!("::{name} {}title={}::{}", place.unwrap_or_default(), property(title), data(message))
}

/// Writes our own text to standard output.
fn raw(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        let _ = REFUSED.set(error);
    }
}

/// Returns the columns of the terminal on standard output, for what prints tables there.
pub(super) fn width() -> Option<usize> {
    columns(std::io::stdout())
}

/// Writes a screen to standard output.
pub(super) fn screen(text: Arguments<'_>) {
    let text = plain(&text.to_string()).into_owned();
    out(format_args!("{}", fit(&complete(&text), width())));
}

/// Writes sanitised text to standard error. Failures are ignored: there is nowhere to report them.
pub(super) fn err(text: Arguments<'_>) {
    shown(&plain(&text.to_string()));
}

/// Writes a text with our own colours to standard error, whose parts were sanitised already.
pub(super) fn shown(text: &str) {
    let text = complete(text);
    let text: &str = &text;
    super::logging::note(text);
    let text = fit(text, columns(std::io::stderr()));
    let _ = std::io::stderr().lock().write_all(in_ci(&text, false).as_bytes());
}

/// Returns the exit code of a command that would end with `code`: not well where its output was not taken whole, or
/// where something panicked.
pub(super) fn end(code: u8) -> u8 {
    if let Some(word) = RESUME.get() {
        raw(&format!("::{word}::\n"));
    }
    // What was written last may still be in a buffer.
    if let Err(error) = std::io::stdout().flush() {
        let _ = REFUSED.set(error);
    }
    if let Some(error) = REFUSED.get() {
        // A reader that closed the pipe has seen enough.
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!(
                "error[E-OUTPUT]: cannot write to standard output: {error}\n  = next: Free up disk space there; completed changes stay in place"
            );
        }
        return if code == super::exit::PENDING {
            super::exit::FAILED
        } else {
            code.max(super::exit::FAILED)
        };
    }
    if PANICKED.load(Ordering::Relaxed) { code.max(super::exit::FAILED) } else { code }
}

/// Makes a panic anywhere a report that can be sent: a file in the state folder, and a line that names it.
pub(super) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICKED.store(true, Ordering::Relaxed);
        let report = report(info);
        let place = keep(&report);
        match place {
            Ok(path) => eprintln!(
                "error[E-PANIC]: internal error: {}\n  = next: Send {} to the maintainers",
                first_line(&report),
                path.display()
            ),
            Err(_) => eprintln!("error[E-PANIC]: internal error:\n{report}"),
        }
    }));
}

fn first_line(report: &str) -> &str {
    report.lines().next().unwrap_or_default()
}

/// Returns what is known of a panic: no arguments and no environment, which may hold secrets.
fn report(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let said = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("no message");
    let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    let said: String = said.chars().take(2_000).collect();
    let trace = std::backtrace::Backtrace::force_capture();
    format!("{said}{place}\nprovision {}\n\n{trace}\n", env!("CARGO_PKG_VERSION"))
}

fn keep(report: &str) -> anyhow::Result<std::path::PathBuf> {
    let name = format!("panic-{}-{:08x}.txt", std::process::id(), rand::random::<u32>());
    Ok(StateDir::default().write(&["faults"], &name, report)?)
}

#[cfg(test)]
mod tests {
    use super::disobeyed;

    #[test]
    fn no_service_finds_a_command_in_what_a_host_says() {
        let said = "fine\n  ::add-mask::a\n::set-output name=x::y\na ##[add-mask]b ##vso[task.setvariable]c ##teamcity[d]\na::b\n";
        let shown = disobeyed(said, false);
        assert!(shown.lines().all(|line| !line.trim_start().starts_with("::")), "{shown}");
        assert!(!shown.contains("##"), "{shown}");
        assert!(shown.starts_with("fine\n") && shown.ends_with("a::b\n"), "{shown}");
        assert_eq!(shown.lines().count(), said.lines().count());
        let json = "{\"a\": \"##[add-mask]b\",\n \"::c\": 1}\n";
        let shown = disobeyed(json, true);
        assert!(!shown.contains("##["), "{shown}");
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(same(&shown), same(json));
    }
}
