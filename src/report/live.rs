//! Events as they come: bars on a terminal, timestamped lines in a pipe, JSON lines for machines.

use super::summary::elapsed;
use crate::event::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// Targets that get a line of their own on a terminal.
const MOST_LINES: usize = 8;

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
}

/// Shows events until their sender is gone.
pub async fn show(mut events: UnboundedReceiver<Event>, mode: Mode) -> Shown {
    let mut shown = Shown::default();
    let mut bars = (mode == Mode::Bars).then(Bars::new);
    while let Some(event) = events.recv().await {
        if matches!(event, Event::StepDone { .. }) {
            shown.steps += 1;
        }
        match mode {
            Mode::Quiet => {}
            Mode::Json => {
                let mut value = serde_json::to_value(&event).unwrap_or_default();
                value["time"] = now().into();
                let _ = writeln!(std::io::stdout(), "{value}");
            }
            Mode::Lines { verbose } => {
                if let Some(line) = line(&event, verbose) {
                    let _ = writeln!(std::io::stderr(), "{} {line}", now());
                }
            }
            Mode::Bars => {
                if let Some(bars) = &mut bars {
                    bars.event(&event);
                }
            }
        }
    }
    if let Some(bars) = bars {
        bars.end();
    }
    shown
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns an event as one line; `None` for what only matters on a terminal.
fn line(event: &Event, verbose: bool) -> Option<String> {
    Some(match event {
        Event::RunStarted { run, inventory, hosts, steps, lab } => {
            let lab = if *lab { "LAB " } else { "" };
            format!("{lab}run {run} of {inventory}: {steps} steps on {hosts} hosts and the cluster")
        }
        Event::Observing { .. } | Event::StepStarted { .. } if !verbose => return None,
        Event::Observing { target } => format!("{target} observing"),
        Event::Observed { target, elapsed: took, resources } if verbose => {
            format!("{target} observed {resources} resources in {}", elapsed(*took))
        }
        Event::Observed { .. } => return None,
        Event::Unobserved { target, code, message } => format!("{target} not observed: [{code}] {message}"),
        Event::Waiting { target, reason } => format!("{target} waiting: {reason}"),
        Event::StepStarted { target, what, .. } => format!("{target} {what} begins"),
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
            format!("{target} converged: {changed} steps in {}", elapsed(*took))
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

/// Bars on a terminal: a line for each of the first targets that move, one for the others, one for all steps.
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    others: ProgressBar,
    lines: BTreeMap<String, ProgressBar>,
    waiting: BTreeMap<String, bool>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█░ ")
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let others = all.add(ProgressBar::new_spinner());
        others.set_style(style("  {msg}"));
        let total = all.add(ProgressBar::new(0));
        total.set_style(style("  total  {bar:24} {pos}/{len} steps · {elapsed}"));
        Self { all, total, others, lines: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    fn line(&mut self, target: &str, text: String) {
        self.waiting.entry(target.to_owned()).or_insert(true);
        if !self.lines.contains_key(target) && self.lines.len() < MOST_LINES {
            let bar = self.all.insert_before(&self.others, ProgressBar::new_spinner());
            bar.set_style(style("  {prefix:12} {wide_msg} {elapsed:>4}"));
            bar.set_prefix(target.to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            self.lines.insert(target.to_owned(), bar);
        }
        if let Some(bar) = self.lines.get(target) {
            bar.set_message(text);
        }
        let more = self.waiting.len() - self.lines.len();
        if more > 0 {
            let done =
                self.waiting.iter().filter(|(t, open)| !**open && !self.lines.contains_key(*t)).count();
            self.others.set_message(format!("… {more} more: {done} done, {} under way", more - done));
        }
    }

    /// A target that is done gives its line to the next.
    fn close(&mut self, target: &str, text: &str) {
        self.line(target, text.to_owned());
        self.waiting.insert(target.to_owned(), false);
        if self.waiting.len() > MOST_LINES
            && let Some(bar) = self.lines.remove(target)
        {
            bar.finish_and_clear();
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, steps, lab, .. } => {
                if *lab {
                    let _ = self.all.println(super::LAB);
                }
                let _ = self.all.println(format!(
                    "Applying {steps} steps · run {run} · Ctrl-C stops new work, twice detaches"
                ));
                self.total.set_length(*steps as u64);
                self.total.enable_steady_tick(Duration::from_millis(250));
            }
            Event::StepStarted { target, what, .. } => self.line(target, what.clone()),
            Event::StepProgress { target, note, .. } => self.line(target, note.clone()),
            Event::Waiting { target, reason } => self.line(target, format!("waiting: {reason}")),
            Event::StepDone { .. } | Event::StepSkipped { .. } => self.total.inc(1),
            Event::TargetDone { target, .. } => self.close(target, "done"),
            Event::TargetFailed { target, code, .. } => self.close(target, &format!("stopped: {code}")),
            Event::Warning { target, message } => {
                let target = target.as_deref().map(|t| format!("{t}: ")).unwrap_or_default();
                let _ = self.all.println(format!("warning: {target}{message}"));
            }
            Event::Note { message } => {
                let _ = self.all.println(message);
            }
            _ => {}
        }
    }

    fn end(self) {
        for bar in self.lines.values() {
            bar.finish();
        }
        self.others.finish_and_clear();
        self.total.finish();
    }
}
