//! A plan as text: the same change on many hosts is one line, a pool is a heading, hazards stand beside it.

use super::summary::{elapsed, failure};
use crate::plan::{Plan, TargetPlan};
use crate::state::{Hazard, Step, TargetId, Verb};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much is shown.
#[derive(Clone, Copy, Debug)]
pub struct PlanView {
    /// Every host on its own.
    pub hosts: bool,
    /// Every step, with why.
    pub verbose: bool,
    /// How long observing took.
    pub observed_in: Duration,
}

fn sign(verb: Verb) -> char {
    match verb {
        Verb::Create => '+',
        Verb::Update => '~',
        Verb::Remove => '-',
        Verb::Run => '>',
    }
}

fn count(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// Returns what differs, in one line.
fn detail(step: &Step) -> String {
    if let Some(why) = &step.deferred {
        return format!("deferred: {why}");
    }
    let none = "(none)";
    match step.change.verb {
        Verb::Create | Verb::Run => step
            .change
            .fields
            .iter()
            .filter(|f| {
                !matches!(f.name.as_str(), "mode" | "owner" | "content" | "state" | "type" | "needed")
            })
            .filter_map(|f| Some(format!("{} {}", f.name, f.to.as_deref()?)))
            .collect::<Vec<_>>()
            .join(", "),
        Verb::Update => step
            .change
            .fields
            .iter()
            .map(|f| {
                format!(
                    "{} {} -> {}",
                    f.name,
                    f.from.as_deref().unwrap_or(none),
                    f.to.as_deref().unwrap_or(none)
                )
            })
            .collect::<Vec<_>>()
            .join(", "),
        Verb::Remove => step.why.clone().unwrap_or_default(),
    }
}

/// Returns the hazards of a pool's steps, counted by host.
fn hazards(targets: &[&TargetPlan]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for target in targets {
        let mut here: Vec<String> = target
            .steps
            .iter()
            .flat_map(|s| &s.hazards)
            // A restart of what does not run yet is no restart; the batch only does `try-restart`.
            .filter(|h| !matches!(h, Hazard::Restart(_)) || target.in_sync > target.steps.len())
            .map(ToString::to_string)
            .collect();
        here.sort();
        here.dedup();
        for hazard in here {
            *counts.entry(hazard).or_default() += 1;
        }
    }
    counts.iter().map(|(h, n)| format!("{h} {n}")).collect::<Vec<_>>().join(" · ")
}

fn hosts_word(names: &[&str], all: usize) -> String {
    match names {
        [one] if all > 1 => format!("{one} only"),
        [_] => String::new(),
        many => count(many.len(), "host"),
    }
}

fn steps(targets: &[&TargetPlan], view: PlanView, text: &mut String) {
    // The same change on many hosts is one line.
    let mut groups: Vec<(String, &Step, Vec<&str>)> = Vec::new();
    for target in targets {
        for step in &target.steps {
            let key = format!("{} {}", step.what, serde_json::to_string(&step.change).unwrap_or_default());
            let host = target.target.host().map(|h| h.as_str()).unwrap_or_default();
            match groups.iter_mut().find(|(k, ..)| *k == key) {
                Some((_, _, hosts)) => hosts.push(host),
                None => groups.push((key, step, vec![host])),
            }
        }
    }
    for (_, step, hosts) in groups {
        let line = format!("  {} {:<44} {}", sign(step.change.verb), step.what, detail(step));
        let hosts = hosts_word(&hosts, targets.len());
        *text += line.trim_end();
        if !hosts.is_empty() {
            *text += &format!("   {hosts}");
        }
        if let Some(why) = step.why.as_ref().filter(|_| view.verbose) {
            *text += &format!("   ({why})");
        }
        *text += "\n";
        for line in step.change.text.iter().flat_map(|t| t.lines()).filter(|l| !l.starts_with("@@")) {
            *text += &format!("      {line}\n");
        }
    }
}

/// Returns a plan as text.
pub fn plan_text(plan: &Plan, view: PlanView) -> String {
    let hosts = plan.targets.iter().filter(|t| t.target.host().is_some()).count();
    let seen = plan.targets.iter().filter(|t| t.unobserved.is_none()).count();
    let cluster = if plan.targets.iter().any(|t| t.target == TargetId::Cluster) { ", 1 cluster" } else { "" };
    let took = elapsed(view.observed_in);
    let mut text = String::new();
    if plan.lab {
        text += &format!("{}\n", super::LAB);
    }
    let unobserved: Vec<_> = plan.unobserved().collect();
    if plan.steps() == 0 && !plan.is_blind() {
        text += &format!("in sync: {}{cluster}, observed in {took}\n", count(hosts, "host"));
    } else {
        text += &format!(
            "Plan for {} · {}{cluster} · observed {seen} of {} in {took} · lock {}\n",
            plan.inventory,
            count(hosts, "host"),
            plan.targets.len(),
            plan.lock_digest
        );
    }
    let mut pools: BTreeMap<String, Vec<&TargetPlan>> = BTreeMap::new();
    for target in plan.targets.iter().filter(|t| !t.steps.is_empty() && t.target.host().is_some()) {
        let pool = target.pool.clone().unwrap_or_default();
        let key = if view.hosts || view.verbose { format!("{pool} {}", target.target) } else { pool };
        pools.entry(key).or_default().push(target);
    }
    for (pool, targets) in &pools {
        let heading = format!("{pool} ({})", count(targets.len(), "host"));
        text += format!("\n{heading:<50} {}", hazards(targets)).trim_end();
        text += "\n";
        steps(targets, view, &mut text);
    }
    for target in plan.targets.iter().filter(|t| t.target == TargetId::Cluster && !t.steps.is_empty()) {
        text += "\ncluster\n";
        steps(&[target], view, &mut text);
    }
    for (target, why) in &unobserved {
        text += "\n";
        text += &failure(&target.to_string(), why).replacen("failed", "could not be observed", 1);
    }
    for target in &plan.targets {
        for what in &target.unknown {
            text += &format!("\nunknown: {}: {what}", target.target);
        }
        for warning in &target.warnings {
            text += &format!("\nwarning: {}: {warning}", target.target);
        }
    }
    for (host, reason) in &plan.skipped {
        text += &format!("\nskipped: {host} ({reason})");
    }
    if plan.steps() > 0 {
        let busy = plan.targets.iter().filter(|t| !t.steps.is_empty()).count();
        text += &format!("\n  {} on {}\n", count(plan.steps(), "step"), count(busy, "target"));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
