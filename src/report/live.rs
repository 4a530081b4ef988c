//! Live events: bars on a terminal, timestamped lines in a pipe, JSON lines for machines.

use super::bars::Bars;
use super::layout::{columns, fit};
use super::summary::elapsed;
use super::waits::{SILENCE, Waits};
use super::words::{count, say};
use crate::event::Event;
use crate::state::{plain_json, plain_line};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

/// How events are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Bars on standard error.
    Bars,
    /// A line an event on standard error.
    Lines {
        /// Output of steps too.
        verbose: bool,
    },
    /// JSON lines on standard output.
    Json,
    /// Nothing.
    Quiet,
}

/// What was shown, for the end.
#[derive(Debug, Default)]
pub struct Shown {
    /// Steps carried out.
    pub steps: usize,
    /// Steps carried out, by kind of resource.
    pub changed: BTreeMap<String, usize>,
}

/// Shows events until their senders are gone or `stop` fires; events emitted before that are still shown.
/// Each event goes to `tap` first.
pub async fn show(
    mut events: UnboundedReceiver<Event>,
    mut stop: watch::Receiver<()>,
    mode: Mode,
    mut tap: impl FnMut(&Event),
) -> Shown {
    let mut shown = Shown::default();
    let mut bars = (mode == Mode::Bars).then(Bars::new);
    let mut open = true;
    // Bars show what is waited for all the time.
    let says_waits = matches!(mode, Mode::Json | Mode::Lines { .. });
    let mut waits = Waits::default();
    let mut silent = tokio::time::interval(SILENCE);
    silent.reset();
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            _ = stop.changed(), if open => {
                open = false;
                events.close();
                continue;
            }
            _ = silent.tick(), if says_waits => {
                for event in waits.events(Instant::now()) {
                    print(&event, mode);
                }
                continue;
            }
        };
        let Some(event) = event else { break };
        tap(&event);
        if says_waits {
            waits.take(&event, Instant::now());
        }
        if let Event::StepDone { kind, .. } = &event {
            shown.steps += 1;
            *shown.changed.entry(kind.clone()).or_default() += 1;
        }
        match &mut bars {
            Some(bars) => bars.event(&event),
            None if print(&event, mode) => silent.reset(),
            None => {}
        }
    }
    if let Some(bars) = bars {
        bars.end();
    }
    shown
}

/// Prints an event where it is not shown by bars; returns whether it is one that is printed.
fn print(event: &Event, mode: Mode) -> bool {
    match mode {
        Mode::Quiet | Mode::Bars => false,
        Mode::Json => {
            let mut value = serde_json::to_value(event).unwrap_or_default();
            value["time"] = now().into();
            let _ = writeln!(std::io::stdout(), "{}", plain_json(&value.to_string()));
            true
        }
        Mode::Lines { verbose } => match line(event, verbose) {
            Some(line) => {
                let line = format!("{} {}\n", now(), plain_line(&line));
                let _ = std::io::stderr().write_all(fit(&line, columns(std::io::stderr())).as_bytes());
                true
            }
            None => false,
        },
    }
}

/// Returns an event as one line, with all that `-v` shows; `None` for what only matters on a terminal.
pub fn event_line(event: &Event) -> Option<String> {
    line(event, true)
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns an event as one line; `None` for what only matters on a terminal.
fn line(event: &Event, verbose: bool) -> Option<String> {
    Some(match event {
        Event::RunStarted { run, inventory, hosts, steps, lab, about_s } => {
            let lab = if *lab { "LAB " } else { "" };
            let about = about_s.map(|s| format!(", about {}", say(s))).unwrap_or_default();
            format!(
                "{lab}run {run} of {inventory}: {} on {} and the cluster{about}",
                count(*steps, "step"),
                count(*hosts, "host")
            )
        }
        Event::TargetPlanned { .. } => return None,
        Event::Observing { .. } | Event::StepStarted { .. } if !verbose => return None,
        Event::Observing { target } => format!("{target} observing"),
        Event::Observed { target, elapsed: took, resources } if verbose => {
            format!("{target} observed {resources} resources in {}", elapsed(*took))
        }
        Event::Observed { .. } => return None,
        Event::Unobserved { target, code, message } => format!("{target} not observed: [{code}] {message}"),
        Event::Waiting { target, reason } => format!("{target} {reason}"),
        Event::Drained { target, elapsed: took } => format!("{target} drained in {}", elapsed(*took)),
        Event::InService { target, elapsed: took } => format!("{target} in service after {}", elapsed(*took)),
        Event::StepStarted { target, what, .. } => format!("{target} {what} started"),
        Event::StepProgress { target, step, note } if verbose => format!("{target} {step} {note}"),
        Event::StepProgress { .. } => return None,
        Event::StepDone { target, step, change, elapsed: took, .. } => {
            format!("{target} {step} {change} in {}", elapsed(*took))
        }
        Event::StepSkipped { target, step, reason } => format!("{target} {step} skipped: {reason}"),
        Event::StepFailed { target, step, code, message, .. } => {
            format!("{target} {step} FAILED [{code}] {message}")
        }
        Event::Output { target, line, .. } if verbose => format!("{target} | {line}"),
        Event::Output { .. } => return None,
        Event::TargetDone { target, changed, elapsed: took } => {
            format!("{target} converged: {} in {}", count(*changed, "step"), elapsed(*took))
        }
        Event::TargetFailed { target, code, message } => format!("{target} stopped: [{code}] {message}"),
        Event::Warning { target: Some(target), message } => format!("{target} warning: {message}"),
        Event::Warning { target: None, message } => format!("warning: {message}"),
        Event::Note { message } => message.clone(),
        Event::RunFinished { run, converged, failed, elapsed: took } => {
            format!("run {run} ended: {converged} converged, {failed} failed in {}", elapsed(*took))
        }
    })
}
