//! The end of a run: what failed with its last lines, what changed, what to do next.

use super::words::{count, names};
use crate::state::{Failure, FailureKind, TargetId, plain, plain_line};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds of resource that the summary counts by name.
const KINDS_SHOWN: usize = 5;

/// Returns a duration for people: `0.9 s`, `48 s`, `2m10s`.
pub fn elapsed(d: Duration) -> String {
    match d.as_secs() {
        0..10 => format!("{:.1} s", d.as_secs_f64()),
        s @ 10..60 => format!("{s} s"),
        s => format!("{}m{:02}s", s / 60, s % 60),
    }
}

/// Returns a failure with its last lines, cause and hint. `effects` describes the effect on other targets.
pub(super) fn failure(target: &str, verb: &str, failure: &Failure, effects: &str) -> String {
    let at = failure.step.as_ref().and_then(|step| step.resource());
    let at = at.map(|step| format!(" at {step}")).unwrap_or_default();
    let exit = match (failure.exit, failure.after) {
        (Some(exit), Some(after)) => format!(" (exit {exit} after {})", elapsed(after)),
        (Some(exit), None) => format!(" (exit {exit})"),
        _ => String::new(),
    };
    let effects = if effects.is_empty() { String::new() } else { format!("; {effects}") };
    // A message that only repeats the step and its exit status is left out.
    let plain = failure.exit.is_some() && failure.message.contains("failed (exit");
    let said = if plain { String::new() } else { format!(": {}", within(&failure.message)) };
    let mut text = format!("{target} {verb}{at}{exit} [{}]{said}{effects}\n", failure.code);
    for line in &failure.tail {
        text += &format!("  | {}\n", plain_line(line));
    }
    if let Some(cause) = &failure.cause {
        text += &format!("  = cause: {}\n", within(cause));
    }
    if let Some(hint) = &failure.hint {
        text += &format!("  = next: {}\n", within(hint));
    }
    text
}

/// Returns a text with its continuation lines indented, so that none looks like a line of provision.
pub fn within(text: &str) -> String {
    plain(text.trim_end()).replace('\n', "\n      ")
}

/// One target that failed, and what that means for its pool.
pub struct Failed<'a> {
    /// The target.
    pub target: &'a TargetId,
    /// Why.
    pub failure: &'a Failure,
    /// Its pool's name, the failures there, and how many are allowed.
    pub budget: Option<(&'a str, usize, usize)>,
    /// Other hosts of its pool in this run that did not fail.
    pub others: usize,
}

/// How a run ended, as the summary shows it.
pub struct Ended<'a> {
    /// Its id.
    pub run: &'a str,
    /// Targets that took part.
    pub targets: usize,
    /// Those that failed.
    pub failures: Vec<Failed<'a>>,
    /// Those that were stopped before their end, or detached.
    pub stopped: Vec<&'a TargetId>,
    /// Steps carried out.
    pub steps: usize,
    /// The same, by kind of resource.
    pub changed: &'a BTreeMap<String, usize>,
    /// How long it took.
    pub took: Duration,
    /// The operator stopped it.
    pub interrupted: bool,
    /// It ran against the lab.
    pub lab: bool,
    /// How the inventory was named on the command line: `-i site.yaml`.
    pub inventory: String,
    /// The same with the other arguments: `-i site.yaml --limit h-001 --lab`; `None` if there is nothing to continue with.
    pub place: Option<String>,
    /// It carried out a saved plan.
    pub saved: bool,
}

/// Returns the number of changes by kind, most first: `64 packages, 3 files, 7 others`.
fn changes(changed: &BTreeMap<String, usize>) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, n) in changed {
        // Kubernetes kinds are written with a capital.
        let cluster = kind.starts_with(char::is_uppercase);
        *kinds.entry(if cluster { "cluster object" } else { kind }).or_default() += n;
    }
    let mut kinds: Vec<(&str, usize)> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let say = |(kind, n): (&str, usize)| match kind {
        "package-repository" => format!("{n} package {}", if n == 1 { "repository" } else { "repositories" }),
        "directory" if n > 1 => format!("{n} directories"),
        "line-in-file" => count(n, "line"),
        "kernel-module" => count(n, "kernel module"),
        "swap" => format!("{n} swap off"),
        "chat" => count(n, "chat check"),
        kind => count(n, kind),
    };
    let others: usize = kinds.iter().skip(KINDS_SHOWN).map(|(_, n)| n).sum();
    let mut shown: Vec<String> = kinds.into_iter().take(KINDS_SHOWN).map(say).collect();
    if others > 0 {
        shown.push(count(others, "other"));
    }
    shown.join(", ")
}

/// Returns the failures: each with its output; those that only waited for others, together.
fn failures(ended: &Ended<'_>) -> String {
    let mut text = String::new();
    let mut blocked: BTreeMap<(&str, &str, Option<&str>), Vec<String>> = BTreeMap::new();
    for failed in &ended.failures {
        let why = failed.failure;
        if matches!(why.kind, FailureKind::Blocked | FailureKind::Interrupted) {
            let key = (why.code.as_str(), why.message.as_str(), why.hint.as_deref());
            blocked.entry(key).or_default().push(failed.target.to_string());
            continue;
        }
        let mut effects = Vec::new();
        if failed.others > 0 {
            let verb = if failed.others == 1 { "continues" } else { "continue" };
            effects.push(format!("{} in its pool {verb}", count(failed.others, "other host")));
        }
        if let Some((_, used, allowed)) = failed.budget {
            effects.push(format!("failure budget used: {used}/{allowed}"));
        }
        let target = failed.target.to_string();
        text += &failure(&target, "failed", why, &effects.join(", "));
        text += &format!(
            "  = full output: provision history show {run} {target} {place}\n\n",
            run = ended.run,
            place = ended.inventory
        );
    }
    for ((code, message, hint), targets) in blocked {
        let list: Vec<&str> = targets.iter().map(String::as_str).collect();
        text += &format!("{} skipped [{code}]: {message}\n", names(&list));
        if let Some(hint) = hint {
            text += &format!("  = next: {hint}\n");
        }
        text += "\n";
    }
    text
}

/// Returns the summary of a run.
pub fn run_summary(ended: &Ended<'_>) -> String {
    let mut text = String::from("\n");
    if ended.lab {
        text += &format!("{}\n", super::LAB);
    }
    text += &failures(ended);
    let (failed, stopped) = (ended.failures.len(), ended.stopped.len());
    let part = |n: usize, word: &str| if n == 0 { String::new() } else { format!(", {n} {word}") };
    let of = part(failed, "failed or skipped") + &part(stopped, "stopped");
    text += &format!(
        "{}/{} targets converged in {}{of} · run {} recorded\n",
        ended.targets - failed - stopped,
        ended.targets,
        elapsed(ended.took),
        ended.run
    );
    if ended.steps > 0 {
        text += &format!("changed: {} ({})\n", count(ended.steps, "step"), changes(ended.changed));
    }
    let Some(place) = &ended.place else { return text };
    text += &match () {
        () if ended.interrupted && failed + stopped > 0 => {
            // Of a saved plan, what is done by now is out of date.
            let how = if ended.saved { "the same command with --skip-stale" } else { "the same command" };
            format!("Interrupted. Run {how} to continue; `provision attach {place}` follows running steps\n")
        }
        () if failed > 0 => {
            format!(
                "next: Fix the failures and re-run `provision apply {place}`; completed steps are skipped\n"
            )
        }
        () => format!("next: provision status {place}\n"),
    };
    text
}
