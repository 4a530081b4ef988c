//! Observing a host: facts and state in one exec. Owns the order of the two, and what follows when a tool hangs.

use super::frame::Sections;
use super::requirements::{combine, lacking};
use super::root_shell::{RootShell, RootShellError};
use super::target::{FACTS_DEADLINE, HostTarget, TIMED_OUT, prelude};
use super::watchdog::{FACTS_WITHIN, STATE_WITHIN, Watchdog};
use super::{facts, leaving};
use crate::state::{
    Facts, Failure, FailureKind, Observation, Observed, Orphan, Resource, ResourceId, Target,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// State arrives within this time; every tool on the host has a shorter one of its own.
const STATE_DEADLINE: Duration = Duration::from_secs(180);

/// This machine's clock, seconds since 1970.
fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl HostTarget {
    /// Observes once.
    pub(super) async fn observe_once(&self) -> Result<Observed, Failure> {
        let (mut shell, facts, waiting) = self.gather().await?;
        let mut lacks = lacking(&facts);
        // Taking things away needs no room.
        lacks.retain(|f| self.leaving.is_none() || f.code != "E-NO-SPACE");
        if !lacks.is_empty() {
            return Err(combine(lacks));
        }
        let desired = (self.setup.desired)(&facts).map_err(combine)?;
        let query = super::query(&desired);
        let program = |watchdog| query.program(&self.setup.state_dir, self.deep, watchdog);
        let answer = match self.watchdog() {
            Watchdog::Whole => match shell.run(&program(Watchdog::Whole), STATE_WITHIN).await {
                Err(RootShellError::TimedOut) => None,
                ended => Some(ended),
            },
            Watchdog::PerTool => Some(shell.run(&program(Watchdog::PerTool), STATE_DEADLINE).await),
        };
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Err(self.shell_failure(error, &shell, "state")),
            None => {
                self.watch_each_tool();
                let program = prelude() + &program(Watchdog::PerTool);
                let (other, answer) = self.first(&program, STATE_DEADLINE, "state").await?;
                // The old one is still with the tool that hangs; it ends with it.
                shell = other;
                answer
            }
        };
        shell.end().await;
        let mut seen = super::observations(&desired, &answer)
            .ok_or_else(|| Failure::new(FailureKind::Unobserved, "E-FACTS", "the output is truncated"))?;
        super::kind::name_versions(&desired, &facts, &mut seen);
        let refused = super::refusals(&desired, &answer);
        if !refused.is_empty() {
            return Err(combine(refused));
        }
        let wanted: BTreeSet<&ResourceId> = desired.iter().map(|r| &r.id).collect();
        let orphans = facts.managed.iter().filter(|m| !m.adopted && !wanted.contains(&m.id));
        let orphans: Vec<Orphan> = orphans.filter_map(|m| leaving::orphan(self.leaving, m)).collect();
        let as_wanted = |r: &Resource| {
            seen.get(&r.id)
                .is_some_and(|o| matches!(o, Observation::Present(_)) && super::diff(r, o).is_none())
        };
        let clean = self.leaving.is_some() && orphans.is_empty() && desired.iter().all(as_wanted);
        let mut warnings = Vec::new();
        if facts.cloud_init.as_deref() == Some("running") {
            warnings.push("cloud-init is still running; package steps wait for its lock".to_owned());
        }
        for open in facts.open_batches.iter().filter(|b| b.alive) {
            warnings.push(format!("batch {} of an earlier run is still running", open.id));
        }
        if !waiting.is_empty() {
            warnings.push(format!(
                "an earlier run failed before restarting {}; the next change on this host restarts it",
                waiting.join(" ")
            ));
        }
        let to_fetch = super::kind::to_fetch(&desired, &seen);
        self.with_last(|l| {
            l.facts = facts.clone();
            l.to_fetch = to_fetch;
            l.desired = desired.clone();
            l.clean = clean;
        });
        Ok(Observed { target: self.id(), facts, desired, seen, orphans, warnings })
    }

    /// Returns how tools are bounded: one that hung makes the difference for as long as this target lives.
    fn watchdog(&self) -> Watchdog {
        match self.with_last(|l| l.tool_hung) {
            true => Watchdog::PerTool,
            false => Watchdog::Whole,
        }
    }

    fn watch_each_tool(&self) {
        self.with_last(|l| l.tool_hung = true);
    }

    async fn gather(&self) -> Result<(RootShell, Facts, Vec<String>), Failure> {
        let program = |watchdog| prelude() + &facts::program(&self.setup.state_dir, watchdog);
        let mut asked_s = now_s();
        let mut asked = match self.watchdog() {
            Watchdog::Whole => self.first(&program(Watchdog::Whole), FACTS_WITHIN, "facts").await,
            Watchdog::PerTool => self.first(&program(Watchdog::PerTool), FACTS_DEADLINE, "facts").await,
        };
        if self.watchdog() == Watchdog::Whole && matches!(&asked, Err(failure) if failure.code == TIMED_OUT) {
            self.watch_each_tool();
            asked_s = now_s();
            asked = self.first(&program(Watchdog::PerTool), FACTS_DEADLINE, "facts").await;
        }
        let (shell, answer) = asked?;
        let answered_s = now_s();
        let unread = |why: String| Failure::new(FailureKind::Unobserved, "E-FACTS", why);
        let sections =
            Sections::parse(&answer).ok_or_else(|| unread("the output is truncated".to_owned()))?;
        let mut facts = facts::parse(&sections).map_err(unread)?;
        // The host read its clock at some moment in between.
        let late = facts.now_s.saturating_sub(answered_s).max(0);
        facts.skew_s = late.saturating_add(facts.now_s.saturating_sub(asked_s).min(0));
        // Remains of a killed run are removed at the end of this one, even if it changes nothing.
        if !sections.lines("left").iter().all(|l| l.trim().is_empty()) {
            self.with_last(|l| l.touched = true);
        }
        let waiting = sections.first("restarts").split_whitespace().map(str::to_owned).collect();
        Ok((shell, facts, waiting))
    }

    /// Returns the host's facts, by one exec.
    pub async fn facts(&self) -> Result<Facts, Failure> {
        let (shell, facts, _) = self.gather().await?;
        shell.end().await;
        Ok(facts)
    }
}
