//! What commands share: an inventory loaded with its warnings shown, and a fleet opened from it while events are shown.

use super::args::{Global, Output, Where};
use super::terminal::Annotation;
use super::{logging, terminal};
use crate::event::{Event, Events};
use crate::fleet::{Fleet, Loaded, Purpose, Selection, Source};
use crate::inventory::{Diagnostics, Severity};
use crate::report::{LAB, Mode, Shown, columns, show};
use crate::run::Recorder;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Returns whether findings are in colour (<https://no-color.org>), and how wide.
fn style() -> (bool, Option<usize>) {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let color = !is_dumb && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    (std::io::stderr().is_terminal() && color, columns(std::io::stderr()))
}

/// Prints findings of an inventory.
pub(super) fn print_findings(found: &Diagnostics) {
    let (color, width) = style();
    terminal::shown(&found.render_within(color, width));
    annotate(found);
}

/// Prints findings that were made after hosts were observed, without counting them.
pub(super) fn print_findings_only(found: &Diagnostics) {
    let (color, width) = style();
    terminal::shown(&found.render_each(color, width));
    annotate(found);
}

fn annotate(found: &Diagnostics) {
    for d in &found.all {
        let kind = match d.severity {
            Severity::Error => Annotation::Error,
            Severity::Warning => Annotation::Warning,
        };
        let hint = d.hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default();
        let place = d.span.as_ref().map(|span| (span.source.name.as_str(), span.line, span.column));
        terminal::annotate(kind, d.code, place, &format!("{}{hint}", d.message));
    }
}

/// Returns an inventory's source, with what the flags allow it to read.
pub(super) fn source(path: &Path, global: &Global) -> Source {
    let (allow_outside, mirror) = (global.allow_outside.clone(), global.mirror.clone());
    Source { allow_outside, mirror, ..Source::at(path) }
}

/// Loads an inventory, and prints its warnings.
pub(super) fn load(path: &Path, global: &Global) -> anyhow::Result<Loaded> {
    load_from(&source(path, global))
}

/// Loads the inventory of a source, and prints its warnings.
pub(super) fn load_from(source: &Source) -> anyhow::Result<Loaded> {
    let loaded = source.load()?;
    // A command that loads again and again tells what is new.
    let is_new = are_new(&TOLD_OF_INVENTORY, loaded.warnings.all.iter().map(|d| format!("{d:?}")).collect());
    if is_new && !loaded.warnings.all.is_empty() {
        print_findings(&loaded.warnings);
    }
    Ok(loaded)
}

/// Warnings that were printed last: of the inventory, and of what it is opened with.
static TOLD_OF_INVENTORY: Mutex<Vec<String>> = Mutex::new(Vec::new());
static TOLD_OF_FLEET: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Returns whether warnings are other ones than those before, and keeps them.
fn are_new(told: &Mutex<Vec<String>>, warnings: Vec<String>) -> bool {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let is_new = *told != warnings;
    *told = warnings;
    is_new
}

/// Returns how events are shown.
fn mode(global: &Global) -> Mode {
    match global.output {
        Output::Json => Mode::Json,
        _ if global.quiet => Mode::Quiet,
        _ if global.verbose > 0 || !std::io::stderr().is_terminal() => {
            Mode::Lines { verbose: global.verbose > 0 }
        }
        _ => Mode::Bars,
    }
}

/// What shows events while a command runs.
pub(super) struct Showing {
    task: JoinSet<Shown>,
    stop: watch::Sender<()>,
}

impl Showing {
    /// Waits until everything emitted so far is shown and recorded, and returns what that was.
    pub(super) async fn end(mut self) -> Shown {
        // Targets may keep a sender: what they emit from here on has nobody to show it to.
        let _ = self.stop.send(());
        self.task.join_next().await.and_then(Result::ok).unwrap_or_default()
    }
}

/// Returns a sink of events and what shows them; a command that is not a run shows only what cannot wait. A run is
/// recorded too, once it starts, in the inventory's folder of journals.
pub(super) fn watch_events(global: &Global, run: bool, journals: Option<PathBuf>) -> (Events, Showing) {
    let (events, receiver) = Events::channel();
    let mode = match mode(global) {
        _ if !run && global.verbose == 0 => Mode::Quiet,
        mode => mode,
    };
    let mut recorder = journals.map(Recorder::new);
    let tap = move |event: &Event| {
        logging::event(event);
        if let Some(recorder) = &mut recorder {
            recorder.take(event);
        }
    };
    let (stop, stopped) = watch::channel(());
    let mut task = JoinSet::new();
    task.spawn(show(receiver, stopped, mode, tap));
    (events, Showing { task, stop })
}

/// An open fleet whose events are shown.
pub(super) struct Session {
    /// The fleet.
    pub fleet: Fleet,
    /// Where events go.
    pub events: Events,
    showing: Showing,
}

impl Session {
    /// Opens what the flags name; `run` shows and records everything.
    pub(super) async fn open(
        place: &Where,
        global: &Global,
        purpose: Purpose,
        run: bool,
    ) -> anyhow::Result<Self> {
        let selection = place.selection(&[]);
        Self::of(&source(&place.inventory(), global), &selection, global, purpose, run).await
    }

    /// Opens a selection of the inventory of a source.
    pub(super) async fn of(
        source: &Source,
        selection: &Selection,
        global: &Global,
        purpose: Purpose,
        run: bool,
    ) -> anyhow::Result<Self> {
        let loaded = load_from(source)?;
        // A record that cannot be kept stops no command; a run says by itself where it cannot keep its journal.
        let journals = run.then(|| loaded.source.state.journals(&loaded.inventory).ok()).flatten();
        let (events, showing) = watch_events(global, run, journals);
        let fleet = Fleet::open(loaded, selection, purpose, &events).await?;
        if are_new(&TOLD_OF_FLEET, fleet.warnings.clone()) {
            for warning in &fleet.warnings {
                eprintln!("warning: {warning}");
            }
        }
        Ok(Self { fleet, events, showing })
    }

    /// Opens what the flags name, to be planned and changed; the machines of `lost` hosts are off for good.
    pub(super) async fn change(
        place: &Where,
        lost: &[String],
        global: &Global,
        run: bool,
    ) -> anyhow::Result<Self> {
        let selection = place.selection(lost);
        Self::of(&source(&place.inventory(), global), &selection, global, Purpose::Change, run).await
    }

    /// Opens what the flags name, to be looked at by a command whose results do not say whether hosts are simulated.
    pub(super) async fn look(place: &Where, global: &Global) -> anyhow::Result<Self> {
        let session = Self::open(place, global, Purpose::Look, false).await?;
        if session.fleet.is_lab() && !global.quiet && global.output != Output::Json {
            eprintln!("{LAB}");
        }
        Ok(session)
    }

    /// Waits until all events are shown; what is printed afterwards stands below them.
    pub(super) async fn settle(self) -> (Fleet, Shown) {
        let Self { fleet, events, showing } = self;
        drop(events);
        (fleet, showing.end().await)
    }

    /// Ends a command: shows remaining events, and stops a lab that was started for it.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let (fleet, _) = self.settle().await;
        Ok(fleet.close()?)
    }
}
