//! What each target is at: said again in pipes and JSON while nothing else happens, since silence looks like a hang.

use super::summary::elapsed;
use crate::event::Event;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After so long without an event it is said what is waited for.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// So many targets are named; of more, only how many there are.
const NAMED: usize = 5;

/// What one target is at.
struct Doing {
    what: String,
    since: Instant,
}

/// What all targets are at.
#[derive(Default)]
pub(super) struct Waits(BTreeMap<String, Doing>);

impl Waits {
    /// Takes note of an event that came at some moment.
    pub(super) fn take(&mut self, event: &Event, now: Instant) {
        let mut at = |target: &String, what: String| {
            self.0.insert(target.clone(), Doing { what, since: now });
        };
        match event {
            Event::Observing { target } => at(target, "observing".to_owned()),
            Event::Waiting { target, reason } => at(target, reason.clone()),
            Event::StepStarted { target, what, .. } => at(target, what.clone()),
            Event::StepProgress { target, note, .. } => {
                let since = self.0.get(target).map_or(now, |doing| doing.since);
                self.0.insert(target.clone(), Doing { what: note.clone(), since });
            }
            Event::Observed { target, .. }
            | Event::Unobserved { target, .. }
            | Event::Drained { target, .. }
            | Event::InService { target, .. }
            | Event::StepDone { target, .. }
            | Event::StepFailed { target, .. }
            | Event::TargetDone { target, .. }
            | Event::TargetFailed { target, .. } => drop(self.0.remove(target)),
            Event::RunFinished { .. } => self.0.clear(),
            _ => {}
        }
    }

    /// Returns what is waited for as events, longest first: of some targets each, of the rest how many there are.
    pub(super) fn events(&self, now: Instant) -> Vec<Event> {
        let mut all: Vec<(&String, &Doing)> = self.0.iter().collect();
        all.sort_by_key(|(_, doing)| doing.since);
        let mut events: Vec<Event> = all
            .iter()
            .take(NAMED)
            .map(|(target, doing)| Event::Waiting {
                target: (*target).clone(),
                reason: format!("{}, for {}", doing.what, elapsed(now.duration_since(doing.since))),
            })
            .collect();
        if all.len() > NAMED {
            events.push(Event::Note { message: format!("{} more hosts are in progress", all.len() - NAMED) });
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(target: &str, reason: &str) -> Event {
        Event::Waiting { target: target.to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn what_is_waited_for_is_said_with_its_time_until_it_ends() {
        let (mut waits, start) = (Waits::default(), Instant::now());
        waits.take(&waiting("w-1", "draining: 2 pods left"), start);
        let step = "reboot/nvidia".to_owned();
        let started =
            Event::StepStarted { target: "w-2".into(), step: step.clone(), what: "reboot nvidia".into() };
        waits.take(&started, start + Duration::from_secs(10));
        let note = "rebooting (timeout 10 min)".to_owned();
        waits
            .take(&Event::StepProgress { target: "w-2".into(), step, note }, start + Duration::from_secs(11));
        let later = start + Duration::from_secs(95);
        assert_eq!(
            waits.events(later),
            [
                waiting("w-1", "draining: 2 pods left, for 1m35s"),
                waiting("w-2", "rebooting (timeout 10 min), for 1m25s")
            ]
        );
        let done = Event::TargetDone { target: "w-1".into(), changed: 1, elapsed: Duration::ZERO };
        waits.take(&done, later);
        assert_eq!(waits.events(later).len(), 1);
        for n in 0..9 {
            waits.take(&waiting(&format!("h-{n}"), "waiting for wave 2 of 3"), later);
        }
        let events = waits.events(later);
        assert_eq!(events.len(), NAMED + 1);
        assert_eq!(events[NAMED], Event::Note { message: "5 more hosts are in progress".into() });
    }
}
