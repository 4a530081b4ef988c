//! Following a batch: its output becomes events and, at its end, a result.

use super::batch::{self, Line};
use super::{causes, frame};
use crate::event::{Event, Events};
use crate::state::{Failure, FailureKind, REDACTED, ResourceId, SecretText, Step};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Lines of output that a failure keeps.
const TAIL_LINES: usize = 20;
/// The longest line that is shown whole, in bytes; the rest of it is passed over.
const MOST_LINE: usize = 16 << 10;
/// Output of one batch that is shown and recorded, in bytes; its end is kept for a failure all the same.
const MOST_OUTPUT: usize = 8 << 20;

/// Turns a batch's output into events and, at its end, a result.
pub(super) struct Progress<'a> {
    host: String,
    state_dir: &'a str,
    events: &'a Events,
    steps: &'a [Step],
    secrets: Vec<Zeroizing<String>>,
    partial: Vec<u8>,
    /// So much of `partial` has no end of a line in it.
    scanned: usize,
    /// The rest of a line that is too long is passed over.
    cutting: bool,
    /// Bytes of output that were shown.
    shown: usize,
    current: Option<(String, Instant)>,
    tail: VecDeque<String>,
    reboot: bool,
    failed: Option<Failure>,
    /// The announced time without output between steps.
    patience: Duration,
}

impl<'a> Progress<'a> {
    /// Returns the progress of a batch of which nothing was heard yet.
    pub(super) fn new(
        host: String,
        state_dir: &'a str,
        events: &'a Events,
        steps: &'a [Step],
        secrets: &[SecretText],
    ) -> Self {
        Self {
            host,
            state_dir,
            events,
            steps,
            secrets: secrets.iter().flat_map(SecretText::forms).collect(),
            partial: Vec::new(),
            scanned: 0,
            cutting: false,
            shown: 0,
            current: None,
            tail: VecDeque::new(),
            reboot: false,
            failed: None,
            patience: Duration::ZERO,
        }
    }

    fn step(&self, id: &str) -> Option<&'a Step> {
        self.steps.iter().find(|s| s.resource.text() == id)
    }

    fn current_step(&self) -> Option<&'a Step> {
        self.current.as_ref().and_then(|(id, _)| self.step(id))
    }

    /// Returns how long the running step may still take.
    pub(super) fn left(&self) -> Duration {
        let deadline = Duration::from_secs(
            self.current_step().map_or(crate::state::DEFAULT_DEADLINE_S, |s| s.deadline_s),
        );
        let spent = self.current.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let deadline = if self.current.is_none() { deadline.max(self.patience) } else { deadline };
        deadline.saturating_sub(spent).max(Duration::from_millis(100))
    }

    /// Returns the failure of a step that took longer than that.
    pub(super) fn too_late(&self) -> Failure {
        let step = self.current_step();
        let mut failure = Failure::new(
            FailureKind::Step,
            "E-DEADLINE",
            format!(
                "{} timed out after {} s",
                step.map_or("the batch", |s| s.what.as_str()),
                step.map_or(crate::state::DEFAULT_DEADLINE_S, |s| s.deadline_s)
            ),
        )
        .hint("It may still complete: run `provision attach`, then apply again");
        failure.step = step.map(|s| s.id.clone());
        failure.tail = self.tail.iter().cloned().collect();
        failure
    }

    fn redact(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for form in &self.secrets {
            if line.contains(form.as_str()) {
                line = line.replace(form.as_str(), REDACTED);
            }
        }
        line
    }

    /// Takes bytes of output; returns the batch's result when its end is among them. Only whole lines count for the
    /// offset at which a new connection attaches.
    pub(super) fn feed(&mut self, bytes: &[u8], offset: &mut u64) -> Option<Result<bool, Failure>> {
        let mut bytes = bytes;
        if self.cutting {
            // A frame may follow output that does not end its line.
            let end = bytes.iter().position(|b| matches!(*b, b'\n' | frame::MARK_BYTE));
            let passed = match end {
                Some(at) if bytes[at] == b'\n' => at + 1,
                Some(at) => at,
                None => bytes.len(),
            };
            *offset += passed as u64;
            self.cutting = end.is_none();
            bytes = &bytes[passed..];
        }
        self.partial.extend_from_slice(bytes);
        loop {
            let fresh = &self.partial[self.scanned.min(self.partial.len())..];
            let Some(end) = fresh.iter().position(|b| *b == b'\n').map(|at| self.scanned + at) else {
                self.scanned = self.partial.len();
                return self.overlong(offset);
            };
            self.scanned = 0;
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
    }

    /// Shows the beginning of a line that has grown too long, and passes over the rest of it.
    fn overlong(&mut self, offset: &mut u64) -> Option<Result<bool, Failure>> {
        if self.partial.len() <= MOST_LINE {
            return None;
        }
        // A frame behind it stays; one that is too long itself is none.
        let frame = self.partial.iter().position(|b| *b == frame::MARK_BYTE).filter(|at| *at > 0);
        let rest = frame.map_or_else(Vec::new, |at| self.partial.split_off(at));
        let line = std::mem::replace(&mut self.partial, rest);
        self.scanned = 0;
        self.cutting = frame.is_none();
        *offset += line.len() as u64;
        let text = &line[..line.len().min(MOST_LINE)];
        self.line(Line::Text(String::from_utf8_lossy(text).into_owned() + "…"))
    }

    /// Forgets a line that a lost connection cut; it comes again.
    pub(super) fn cut(&mut self) {
        self.partial.clear();
        self.scanned = 0;
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
                    change: step.map_or_else(|| "done".to_owned(), |s| super::summary(&s.change)),
                    // Of a batch of an earlier run only the text of its ids is known.
                    kind: id.parse().map(|id: ResourceId| id.kind()).unwrap_or_default(),
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
                failure.hint = Some(match step.and_then(Step::wanted) {
                    Some(wanted) if wanted.once => {
                        "Fix the cause, then run the same command again".to_owned()
                    }
                    _ => format!("Fix the cause, then run `provision apply --limit {host}`"),
                });
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
                    .hint(format!(
                        "If that run no longer exists: ssh {host} sudo rm {}/lock",
                        self.state_dir
                    )),
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
                    "the batch on the host was interrupted (power loss, reboot or kill)",
                )
                .hint("Apply again; completed steps are skipped");
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
                let was = self.shown;
                self.shown = was.saturating_add(text.len() + 1);
                if self.shown <= MOST_OUTPUT {
                    events.emit(Event::Output { target: host, step, line: text });
                } else if was <= MOST_OUTPUT {
                    let line = "… the rest is kept only on the host".to_owned();
                    events.emit(Event::Output { target: host, step, line });
                }
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
        let secrets: Vec<_> = secrets.iter().map(|s| SecretText::new(*s)).collect();
        let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], &secrets);
        let mut offset = 0;
        // In packets of three bytes: nothing may depend on packet boundaries.
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

    /// 300 MB without an end of a line were read once per packet, and held.
    #[test]
    fn a_line_without_an_end_is_cut_and_hides_no_result() {
        let (events, mut receiver) = Events::channel();
        let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], &[]);
        let (mut offset, mut sent) = (0, 0u64);
        let packet = vec![b'x'; 32 << 10];
        for bytes in
            std::iter::once(b"\x1estep command/a\n".as_slice()).chain((0..2_000).map(|_| packet.as_slice()))
        {
            sent += bytes.len() as u64;
            assert!(progress.feed(bytes, &mut offset).is_none());
            assert!(progress.partial.len() <= MOST_LINE + packet.len());
        }
        let end = b"xx\x1edone command/a 7\n\x1erc 7\n";
        let failure = progress.feed(end, &mut offset).expect("an end").expect_err("a failure");
        assert_eq!((failure.exit, offset), (Some(7), sent + end.len() as u64));
        let mut shown = 0;
        while let Ok(event) = receiver.try_recv() {
            if let Event::Output { line, .. } = event {
                shown += line.len();
            }
        }
        assert!((MOST_LINE..2 * MOST_LINE).contains(&shown), "{shown}");
    }

    #[test]
    fn endless_output_is_shown_up_to_a_bound_and_its_end_is_kept() {
        let lines: String =
            (0..400_000).map(|n| format!("line {n} of a command that never tires\n")).collect();
        let (result, seen) = {
            let (events, mut receiver) = Events::channel();
            let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], &[]);
            let mut result = None;
            for packet in (lines + "\x1erc 1\n").as_bytes().chunks(32 << 10) {
                result = result.or_else(|| progress.feed(packet, &mut 0));
            }
            (result, std::iter::from_fn(|| receiver.try_recv().ok()).count())
        };
        assert!(seen < 250_000, "{seen} lines");
        let failure = result.expect("an end").expect_err("a failure");
        assert_eq!(failure.tail[19], "line 399999 of a command that never tires");
    }

    #[test]
    fn a_wait_for_ever_is_not_believed() {
        let (events, _receiver) = Events::channel();
        let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], &[]);
        assert!(progress.feed(b"\x1ewaiting 18446744073709551615 x\n", &mut 0).is_none());
        assert!(progress.left().as_secs() < 200_000);
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
    fn an_announced_wait_is_reported_and_allowed() {
        let (events, mut receiver) = Events::channel();
        let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], &[]);
        assert_eq!(progress.left().as_secs(), crate::state::DEFAULT_DEADLINE_S);
        assert!(progress.feed(b"\x1ewaiting 1200 waiting for cloud-init\n", &mut 0).is_none());
        assert!(progress.left().as_secs() >= 1200);
        let told = receiver.try_recv().expect("an event");
        assert!(matches!(told, Event::Waiting { reason, .. } if reason == "waiting for cloud-init"));
    }
}
