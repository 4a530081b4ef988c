//! Following a batch: its output becomes events and, at its end, a result.

use super::batch::{self, Line};
use super::{causes, frame};
use crate::event::{Event, Events};
use crate::state::{Failure, FailureKind, REDACTED, SecretText, Step};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Lines of output that a failure keeps.
const TAIL_LINES: usize = 20;

/// Turns a batch's output into events and, at its end, a result.
pub(super) struct Progress<'a> {
    host: String,
    state_dir: &'a str,
    events: &'a Events,
    steps: &'a [Step],
    secrets: Vec<SecretText>,
    partial: Vec<u8>,
    current: Option<(String, Instant)>,
    tail: VecDeque<String>,
    reboot: bool,
    failed: Option<Failure>,
    /// How long the batch has said that it may be silent between steps.
    patience: Duration,
}

impl<'a> Progress<'a> {
    /// Returns the progress of a batch of which nothing was heard yet.
    pub fn new(
        host: String,
        state_dir: &'a str,
        events: &'a Events,
        steps: &'a [Step],
        secrets: Vec<SecretText>,
    ) -> Self {
        Self {
            host,
            state_dir,
            events,
            steps,
            secrets,
            partial: Vec::new(),
            current: None,
            tail: VecDeque::new(),
            reboot: false,
            failed: None,
            patience: Duration::ZERO,
        }
    }

    fn step(&self, id: &str) -> Option<&'a Step> {
        self.steps.iter().find(|s| s.resource.as_str() == id)
    }

    fn current_step(&self) -> Option<&'a Step> {
        self.current.as_ref().and_then(|(id, _)| self.step(id))
    }

    /// Returns how long the running step may still take.
    pub fn left(&self) -> Duration {
        let deadline = Duration::from_secs(
            self.current_step().map_or(crate::state::DEFAULT_DEADLINE_S, |s| s.deadline_s),
        );
        let spent = self.current.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let deadline = if self.current.is_none() { deadline.max(self.patience) } else { deadline };
        deadline.saturating_sub(spent).max(Duration::from_millis(100))
    }

    /// Returns the failure of a step that took longer than that.
    pub fn too_late(&self) -> Failure {
        let step = self.current_step();
        let mut failure = Failure::new(
            FailureKind::Step,
            "E-DEADLINE",
            format!(
                "{} took longer than {} s",
                step.map_or("the batch", |s| s.what.as_str()),
                step.map_or(crate::state::DEFAULT_DEADLINE_S, |s| s.deadline_s)
            ),
        )
        .hint("it is not cut off and may still end well: provision attach, then apply again");
        failure.step = step.map(|s| s.id.clone());
        failure.tail = self.tail.iter().cloned().collect();
        failure
    }

    fn redact(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in &self.secrets {
            for part in secret.expose().lines().filter(|l| l.trim().len() > 3) {
                if line.contains(part) {
                    line = line.replace(part, REDACTED);
                }
            }
        }
        line
    }

    /// Takes bytes of output; returns the batch's result when its end is among them. Only whole lines count for the
    /// offset at which a new connection attaches.
    pub fn feed(&mut self, bytes: &[u8], offset: &mut u64) -> Option<Result<bool, Failure>> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            *offset += line.len() as u64;
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            // A command's output need not end its line; the frame behind it counts all the same.
            let (text, frame) = frame::split(&line);
            if (frame.is_none() || !text.is_empty())
                && let Some(result) = self.line(Line::Text(text.to_owned()))
            {
                return Some(result);
            }
            if let Some(result) = frame.and_then(|frame| self.line(batch::read_frame(frame))) {
                return Some(result);
            }
        }
        None
    }

    /// Forgets a line that a lost connection cut; it comes again.
    pub fn cut(&mut self) {
        self.partial.clear();
    }

    fn line(&mut self, line: Line) -> Option<Result<bool, Failure>> {
        let host = self.host.clone();
        let events = self.events;
        match line {
            Line::Step(id) => {
                let what = self.step(&id).map_or_else(|| id.clone(), |s| s.what.clone());
                events.emit(Event::StepStarted { target: host, step: id.clone(), what });
                self.current = Some((id, Instant::now()));
                self.tail.clear();
            }
            Line::Done(id, 0) => {
                let elapsed = self.current.take().map_or(Duration::ZERO, |(_, since)| since.elapsed());
                let step = self.step(&id);
                events.emit(Event::StepDone {
                    target: host,
                    what: step.map_or_else(|| id.clone(), |s| s.what.clone()),
                    change: step.map(|s| super::summary(&s.change)).unwrap_or_default(),
                    step: id,
                    elapsed,
                });
            }
            Line::Done(id, rc) => {
                let elapsed = self.current.take().map(|(_, since)| since.elapsed());
                let step = self.step(&id);
                let what = step.map_or_else(|| id.clone(), |s| s.what.clone());
                let mut failure =
                    Failure::new(FailureKind::Step, "E-STEP", format!("{what} failed (exit {rc})"));
                failure.step = step.map(|s| s.id.clone());
                failure.exit = Some(rc);
                failure.after = elapsed;
                failure.tail = self.tail.iter().cloned().collect();
                failure.hint = Some(format!("provision apply --limit {host}, once the cause is gone"));
                let failure = causes::explain(failure);
                events.emit(Event::StepFailed {
                    target: host,
                    step: id,
                    code: failure.code.clone(),
                    message: failure.message.clone(),
                    exit: Some(rc),
                    elapsed: elapsed.unwrap_or_default(),
                });
                self.failed = Some(failure);
            }
            Line::Locked(record) => {
                let owner: serde_json::Value = serde_json::from_str(&record).unwrap_or_default();
                let text = |key: &str| owner.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
                self.failed = Some(
                    Failure::new(
                        FailureKind::Locked,
                        "E-LOCKED",
                        format!("{host} is locked by {} (run {})", text("owner"), text("run")),
                    )
                    .hint(format!("if that run is gone: ssh {host} sudo rm {}/lock", self.state_dir)),
                );
            }
            Line::Waiting(reason, most) => {
                self.patience = most + Duration::from_secs(crate::state::DEFAULT_DEADLINE_S);
                events.emit(Event::Waiting { target: host, reason });
            }
            Line::Reboot => self.reboot = true,
            Line::Rc(0) => return Some(Ok(self.reboot)),
            Line::Rc(rc) => {
                let fallback = || {
                    let mut failure =
                        Failure::new(FailureKind::Step, "E-BATCH", format!("the batch failed (exit {rc})"));
                    failure.tail = self.tail.iter().cloned().collect();
                    failure.exit = Some(rc);
                    causes::explain(failure)
                };
                return Some(Err(self.failed.take().unwrap_or_else(fallback)));
            }
            Line::Gone | Line::Interrupted => {
                let mut failure = Failure::new(
                    FailureKind::Step,
                    "E-INTERRUPTED",
                    "the batch on the host was interrupted before its end (power, reboot or kill)",
                )
                .hint("apply again: the host is observed afresh and what is left is done");
                failure.step = self.current_step().map(|s| s.id.clone());
                return Some(Err(failure));
            }
            Line::Text(text) => {
                let text = self.redact(&text);
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(text.clone());
                let step = self.current.as_ref().map(|(id, _)| id.clone()).unwrap_or_default();
                events.emit(Event::Output { target: host, step, line: text });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events_of(output: &str, secrets: &[&str]) -> (Option<Result<bool, Failure>>, Vec<Event>) {
        let (events, mut receiver) = Events::channel();
        let secrets = secrets.iter().map(|s| SecretText::new(*s)).collect();
        let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], secrets);
        let mut offset = 0;
        // In packets of three bytes: nothing may depend on where the network cuts.
        let mut result = None;
        for packet in output.as_bytes().chunks(3) {
            result = result.or_else(|| progress.feed(packet, &mut offset));
        }
        let mut seen = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            seen.push(event);
        }
        (result, seen)
    }

    #[test]
    fn output_without_a_newline_hides_no_result() {
        let output = "\x1estep command/a\nboom\x1edone command/a 3\n\x1erc 3\n";
        let (result, seen) = events_of(output, &[]);
        let failure = result.expect("an end").expect_err("a failure");
        assert_eq!((failure.exit, failure.tail.as_slice()), (Some(3), ["boom".to_owned()].as_slice()));
        assert!(seen.iter().any(|e| matches!(e, Event::StepFailed { exit: Some(3), .. })), "{seen:?}");
    }

    #[test]
    fn the_last_20_lines_are_kept_without_secrets() {
        let lines: String = (0..30).map(|n| format!("line {n} canary-1\n")).collect();
        let output = format!("\x1estep a/b\n{lines}\x1edone a/b 1\n\x1erc 1\n");
        let (result, seen) = events_of(&output, &["canary-1"]);
        let failure = result.expect("an end").expect_err("a failure");
        assert_eq!(failure.tail.len(), 20);
        assert_eq!(failure.tail[0], "line 10 <secret>");
        assert!(!format!("{seen:?}{failure:?}").contains("canary-1"));
    }

    #[test]
    fn a_lock_names_its_owner_and_the_command_that_clears_it() {
        let record = r#"{"owner":"eva@desk","run":"ABCDE","boot_id":"x","expires_s":1}"#;
        let (result, _) = events_of(&format!("\x1elocked {record}\n\x1erc 75\n"), &[]);
        let failure = result.expect("an end").expect_err("a failure");
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Locked, "E-LOCKED"));
        assert!(failure.message.contains("eva@desk") && failure.message.contains("ABCDE"), "{failure}");
        assert!(failure.hint.is_some_and(|h| h.contains("rm /var/lib/provision/lock")));
    }

    #[test]
    fn a_wait_that_was_announced_is_told_and_allowed() {
        let (events, mut receiver) = Events::channel();
        let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], Vec::new());
        assert_eq!(progress.left().as_secs(), crate::state::DEFAULT_DEADLINE_S);
        assert!(progress.feed(b"\x1ewaiting 1200 cloud-init still runs\n", &mut 0).is_none());
        assert!(progress.left().as_secs() >= 1200);
        let told = receiver.try_recv().expect("an event");
        assert!(matches!(told, Event::Waiting { reason, .. } if reason == "cloud-init still runs"));
    }
}
