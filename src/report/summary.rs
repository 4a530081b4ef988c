//! The end of a run: what failed with its last lines, what changed, what to do next.

use crate::state::{Failure, TargetId};
use std::time::Duration;

/// Returns a duration as a person says it: `0.9 s`, `48 s`, `2m10s`.
pub fn elapsed(d: Duration) -> String {
    match d.as_secs() {
        0..10 => format!("{:.1} s", d.as_secs_f64()),
        s @ 10..60 => format!("{s} s"),
        s => format!("{}m{:02}s", s / 60, s % 60),
    }
}

/// Returns a failure with its last lines, cause and what to do next.
pub(super) fn failure(target: &str, failure: &Failure) -> String {
    let at = failure.step.as_ref().map(|s| s.as_str().split_once(':').map_or(s.as_str(), |(_, r)| r));
    let at = at.map(|step| format!(" at {step}")).unwrap_or_default();
    let exit = match (failure.exit, failure.after) {
        (Some(exit), Some(after)) => format!(" (exit {exit} after {})", elapsed(after)),
        (Some(exit), None) => format!(" (exit {exit})"),
        _ => String::new(),
    };
    let mut text = format!("{target} failed{at}{exit}: [{}] {}\n", failure.code, failure.message);
    for line in &failure.tail {
        text += &format!("  | {line}\n");
    }
    if let Some(cause) = &failure.cause {
        text += &format!("  = cause: {cause}\n");
    }
    if let Some(hint) = &failure.hint {
        text += &format!("  = next: {hint}\n");
    }
    text
}

/// How a run ended, as the summary shows it.
pub struct Ended<'a> {
    /// Its id.
    pub run: &'a str,
    /// Targets that took part.
    pub targets: usize,
    /// Those that failed.
    pub failures: Vec<(&'a TargetId, &'a Failure)>,
    /// Those that were stopped before their end, or went on alone.
    pub stopped: Vec<&'a TargetId>,
    /// Steps carried out.
    pub steps: usize,
    /// How long it took.
    pub took: Duration,
    /// The operator stopped it.
    pub interrupted: bool,
    /// It ran against the lab.
    pub lab: bool,
}

/// Returns the summary of a run.
pub fn run_summary(ended: &Ended<'_>) -> String {
    let mut text = String::from("\n");
    if ended.lab {
        text += &format!("{}\n", super::LAB);
    }
    for (target, why) in &ended.failures {
        text += &failure(&target.to_string(), why);
        text += "\n";
    }
    let (failed, stopped) = (ended.failures.len(), ended.stopped.len());
    let part = |n: usize, word: &str| if n == 0 { String::new() } else { format!(", {n} {word}") };
    let of = part(failed, "failed") + &part(stopped, "stopped");
    text += &format!(
        "{} of {} targets converged in {}, {} steps carried out{of} · run {} recorded\n",
        ended.targets - failed - stopped,
        ended.targets,
        elapsed(ended.took),
        ended.steps,
        ended.run
    );
    if ended.interrupted {
        text += "stopped by you; the same command goes on from here\n";
    }
    text
}
