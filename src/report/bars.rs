//! Progress bars on a terminal: a line for each active target, one for all others, one for the whole run. Targets share a
//! fixed set of lines, so that the display does not jump; the bars are removed at the end, the summary stays.

use super::layout;
use super::words::{count, say};
use crate::event::Event;
use crate::state::{plain, plain_line};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::collections::BTreeMap;
use std::time::Duration;

/// Targets that get a line of their own, on a terminal that is high enough.
const MOST_LINES: usize = 8;
/// Lines of a terminal that bars leave alone.
const OTHER_LINES: usize = 5;
/// The widest name that is shown whole.
const MOST_NAME: usize = 20;
/// Columns of a bar, and of one on a narrow terminal.
const BAR: (usize, usize) = (20, 8);
/// A terminal of fewer columns is narrow.
const NARROW: usize = 90;
/// How often times move on. Slower than the eye calls flicker.
const TICK: Duration = Duration::from_millis(500);
/// An estimate of our own needs this part of the steps done, as one in so many.
const TOLD_AFTER: u64 = 10;

/// What a target is at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Working,
    Waiting,
    Failed,
    Done,
}

struct Target {
    steps: usize,
    done: usize,
    state: State,
    text: String,
}

struct Line {
    bar: ProgressBar,
    target: Option<String>,
}

/// The bars of a run.
pub(super) struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    others: ProgressBar,
    lines: Vec<Line>,
    targets: BTreeMap<String, Target>,
    styles: Styles,
    name_width: usize,
}

struct Styles {
    working: ProgressStyle,
    plain: ProgressStyle,
}

/// Returns a duration as a clock that only moves by the second: `48s`, `2m10s`, `1h05m`.
fn clock(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

/// Returns what a name looks like in a column: cut in its middle, since hosts differ at both ends.
fn fit(name: &str, width: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= width {
        return format!("{name:<width$}");
    }
    let (head, tail) = (width / 2, width - width / 2 - 1);
    chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
}

/// Returns the remaining time: from earlier runs, else from the pace so far; `None` if neither is known yet.
fn left(about_s: Option<u64>, position: u64, length: u64, elapsed: Duration) -> Option<u64> {
    let (position, length) = (position.min(length), length.max(1));
    match about_s {
        _ if position >= length => None,
        Some(about) if elapsed.as_secs() <= about => {
            // Both the steps done and the time elapsed give an estimate; the longer one is safer.
            let by_steps = about * (length - position) / length;
            Some(by_steps.max(1))
        }
        _ if position * TOLD_AFTER >= length => {
            Some((elapsed.as_secs() * (length - position) / position.max(1)).max(1))
        }
        _ => None,
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▌░")
        .with_key("clock", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&clock(state.elapsed()));
        })
}

/// Returns columns and rows of the terminal on standard error.
fn size() -> (usize, usize) {
    layout::terminal_size(std::io::stderr()).unwrap_or((80, 24))
}

impl Bars {
    /// Returns the bars; nothing is drawn before the first event.
    pub(super) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(5), size())
    }

    fn on(target: ProgressDrawTarget, (columns, rows): (usize, usize)) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let bar = if columns < NARROW { BAR.1 } else { BAR.0 };
        let most = MOST_LINES.min(rows.saturating_sub(OTHER_LINES)).max(1);
        let styles = Styles {
            working: style(&format!("  {{prefix}} {{bar:{bar}.cyan/dim}} {{wide_msg}} {{clock:>6}}")),
            plain: style("  {prefix} {wide_msg}"),
        };
        let lines = (0..most)
            .map(|_| Line { bar: all.add(ProgressBar::new(0).with_style(style(""))), target: None })
            .collect();
        let others = all.add(ProgressBar::new(0).with_style(style("  {wide_msg}")));
        let total = all.add(ProgressBar::new(0).with_style(style("")));
        Self { all, total, others, lines, targets: BTreeMap::new(), styles, name_width: 5 }
    }

    fn say(&self, text: &str) {
        let _ = self.all.println(layout::fit(&plain(text), layout::columns(std::io::stderr())));
    }

    fn begin(&mut self, steps: usize, about_s: Option<u64>) {
        let bar = if size().0 < NARROW { BAR.1 } else { BAR.0 };
        let total = style(&format!("  total  {{bar:{bar}.green/dim}} {{pos}}/{{len}} · {{clock}}{{left}}"));
        let total = total.with_key("left", move |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let left = left(about_s, state.pos(), state.len().unwrap_or(0), state.elapsed());
            if let Some(left) = left {
                let _ = write!(w, " · {} left", say(left));
            }
        });
        self.total.set_style(total);
        self.total.set_length(steps as u64);
        self.total.reset_elapsed();
        self.total.enable_steady_tick(TICK);
    }

    /// Puts a target's state on its line; gives it one if it has none and one is free or held by a lesser target.
    fn update(&mut self, name: &str, state: State, text: Option<String>) {
        let target = self.targets.entry(name.to_owned()).or_insert_with(|| Target {
            steps: 0,
            done: 0,
            state: State::Waiting,
            text: String::new(),
        });
        let began = state == State::Working && (target.state != State::Working || text.is_some());
        target.state = state;
        if let Some(text) = text {
            target.text = text;
        }
        let at =
            self.lines.iter().position(|l| l.target.as_deref() == Some(name)).or_else(|| self.seat(state));
        if let Some(at) = at {
            self.draw(at, name, began);
        }
        self.count();
    }

    /// Returns a line for a target in `state`: a free one, else that of the target which matters least.
    fn seat(&self, state: State) -> Option<usize> {
        if let Some(free) = self.lines.iter().position(|l| l.target.is_none()) {
            return Some(free);
        }
        let held = self
            .lines
            .iter()
            .enumerate()
            .filter_map(|(at, line)| Some((self.targets.get(line.target.as_deref()?)?.state, at)));
        held.filter(|(theirs, _)| *theirs > state).max().map(|(_, at)| at)
    }

    fn draw(&mut self, at: usize, name: &str, began: bool) {
        let Some(target) = self.targets.get(name) else { return };
        let line = &mut self.lines[at];
        let fresh = line.target.as_deref() != Some(name);
        line.target = Some(name.to_owned());
        let style = if target.state == State::Working { &self.styles.working } else { &self.styles.plain };
        line.bar.set_style(style.clone());
        line.bar.set_prefix(fit(&plain_line(name), self.name_width));
        line.bar.set_length(target.steps.max(1) as u64);
        line.bar.set_position(target.done as u64);
        line.bar.set_message(plain_line(&target.text).into_owned());
        if fresh || began {
            line.bar.reset_elapsed();
            line.bar.enable_steady_tick(TICK);
        }
    }

    fn count(&self) {
        let shown: Vec<&str> = self.lines.iter().filter_map(|l| l.target.as_deref()).collect();
        let more = self.targets.len() - shown.len();
        if more == 0 {
            // What was counted before has a line of its own by now.
            self.others.set_message("");
            return;
        }
        let mut counts = [0usize; 4];
        for (name, target) in &self.targets {
            if !shown.contains(&name.as_str()) {
                counts[target.state as usize] += 1;
            }
        }
        let [working, waiting, failed, done] = counts;
        self.others.set_message(format!(
            "… {more} more: {working} running, {waiting} waiting, {done} done, {failed} failed"
        ));
    }

    /// Shows an event.
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, steps, lab, about_s, .. } => {
                if *lab {
                    self.say(super::LAB);
                }
                self.say(&format!(
                    "Applying {} · run {run} · Ctrl-C stops new steps, twice detaches (`provision attach` reconnects)",
                    count(*steps, "step")
                ));
                self.begin(*steps, *about_s);
            }
            Event::TargetPlanned { target, steps } => {
                self.name_width = self.name_width.max(target.chars().count().min(MOST_NAME));
                let state = State::Waiting;
                self.targets.insert(
                    target.clone(),
                    Target { steps: *steps, done: 0, state, text: "waiting".to_owned() },
                );
            }
            Event::StepStarted { target, what, .. } => {
                self.update(target, State::Working, Some(what.clone()))
            }
            Event::StepProgress { target, note, .. } => {
                let known =
                    self.targets.get(target).map(|t| t.text.split(": ").next().unwrap_or("").to_owned());
                let text = known.map_or_else(|| note.clone(), |what| format!("{what}: {note}"));
                if let Some(known) = self.targets.get_mut(target) {
                    known.text = text;
                }
                self.update(target, State::Working, None);
            }
            Event::Waiting { target, reason } => {
                self.update(target, State::Waiting, Some(reason.clone()));
            }
            Event::StepDone { target, .. } | Event::StepSkipped { target, .. } => {
                self.total.inc(1);
                if let Some(known) = self.targets.get_mut(target) {
                    known.done += 1;
                }
                self.update(target, State::Working, None);
            }
            Event::StepFailed { target, step, code, message, .. } => {
                self.say(&format!("{target} failed at {step}: [{code}] {message}"));
            }
            Event::TargetDone { target, .. } => self.update(target, State::Done, Some("done".to_owned())),
            Event::TargetFailed { target, code, .. } if code == "E-INTERRUPTED" => {
                self.update(target, State::Done, Some("stopped".to_owned()));
            }
            Event::TargetFailed { target, code, message } => {
                self.update(target, State::Failed, Some(format!("failed: [{code}] {message}")));
            }
            Event::Warning { target, message } => {
                let target = target.as_deref().map(|t| format!("{t}: ")).unwrap_or_default();
                self.say(&format!("warning: {target}{message}"));
            }
            Event::Note { message } => self.say(message),
            _ => {}
        }
    }

    /// Takes all bars off the screen.
    pub(super) fn end(self) {
        for line in &self.lines {
            line.bar.finish_and_clear();
        }
        self.others.finish_and_clear();
        self.total.finish_and_clear();
        let _ = self.all.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{InMemoryTerm, TermLike};

    fn screen(columns: u16, hosts: usize, more: &[Event]) -> String {
        let term = InMemoryTerm::new(24, columns);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
        let mut bars = Bars::on(target, (usize::from(columns), 24));
        for n in 1..=hosts {
            bars.event(&Event::TargetPlanned { target: format!("h-{n:03}"), steps: 4 });
        }
        for event in more {
            bars.event(event);
        }
        // Drawing is held to a rate; what is shown last is shown whole.
        for bar in bars.lines.iter().map(|l| &l.bar).chain([&bars.others]) {
            std::thread::sleep(Duration::from_millis(20));
            bar.tick();
        }
        assert!(term.width() == columns);
        term.contents()
    }

    fn started(n: usize) -> Event {
        Event::StepStarted {
            target: format!("h-{n:03}"),
            step: "package/x".into(),
            what: "package nvidia-open-580 and a name that does not fit on any narrow terminal".into(),
        }
    }

    #[test]
    fn those_that_work_are_seen_and_the_others_counted() {
        let mut events: Vec<Event> = (1..=9)
            .map(|n| Event::Waiting { target: format!("h-{n:03}"), reason: "wave 2 of 3".into() })
            .collect();
        events.push(started(12));
        let shown = screen(100, 20, &events);
        assert!(shown.contains("h-012 ░"), "a target that works takes the line of one that waits:\n{shown}");
        assert!(shown.contains("… 12 more: 0 running, 12 waiting, 0 done, 0 failed"), "{shown}");
    }

    #[test]
    fn no_target_is_counted_when_all_have_a_line() {
        let shown = screen(100, 2, &[started(1), started(2)]);
        assert!(shown.contains("h-001") && !shown.contains("more:"), "{shown}");
    }

    #[test]
    fn a_narrow_terminal_gets_lines_that_fit() {
        let shown = screen(60, 3, &[started(1), started(2)]);
        assert!(shown.lines().all(|l| l.chars().count() <= 60), "{shown}");
        assert!(shown.contains("package nvidia-open-580"), "{shown}");
    }

    #[test]
    fn what_a_host_says_does_not_steer_the_terminal() {
        let hostile = "x\u{1b}[2J\u{1b}]0;T\u{7}\r\ny".to_owned();
        let events = [
            Event::StepStarted { target: "h-001".into(), step: "a".into(), what: hostile.clone() },
            Event::Warning { target: Some("h-001".into()), message: hostile },
        ];
        let shown = screen(100, 2, &events);
        assert!(shown.contains("x␛[2J␛]0;T␇") && !shown.contains('\u{7}'), "{shown}");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fit("rack-17-node-003.ams.example.net", 20), "rack-17-no…ample.net");
        assert_eq!(fit("h-1", 5), "h-1  ");
    }

    #[test]
    fn remaining_time_is_shown_when_known() {
        let minute = Duration::from_secs(60);
        assert_eq!(left(Some(600), 50, 100, minute), Some(300));
        assert_eq!(left(None, 5, 100, minute), None, "too early");
        assert_eq!(left(None, 50, 100, minute), Some(60));
        assert_eq!(left(Some(30), 50, 100, minute), Some(60), "an estimate that was wrong is dropped");
        assert_eq!(left(None, 100, 100, minute), None);
    }
}
