//! Warnings that are found while an inventory is opened, kept for its plans.

use crate::event::Event;
use crate::plan::Plan;
use crate::state::TargetId;
use std::sync::{Arc, Mutex, PoisonError};

/// A warning, with the host that it is about, if it is about one.
pub(super) type Warning = (Option<String>, String);

/// Warnings as they are emitted, until the opening ends.
#[derive(Clone)]
pub(super) struct Noticed(Arc<Mutex<Option<Vec<Warning>>>>);

impl Noticed {
    /// Returns it twice: to ask, and to tell.
    pub(super) fn new() -> (Self, Self) {
        let noticed = Self(Arc::new(Mutex::new(Some(Vec::new()))));
        (noticed.clone(), noticed)
    }

    /// Keeps an event if it is a warning.
    pub(super) fn take(&self, event: &Event) {
        let Event::Warning { target, message } = event else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_mut() {
            known.push((target.clone(), message.clone()));
        }
    }

    /// Ends it, and returns the warnings.
    pub(super) fn end(&self) -> Vec<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

/// Adds warnings to a plan: to the host that each is about, otherwise to the cluster.
pub(super) fn add_to(plan: &mut Plan, warnings: &[Warning]) {
    for (about, warning) in warnings {
        let is = |wanted: &str| plan.targets.iter().position(|t| t.target.to_string() == wanted);
        let at = about.as_deref().and_then(is).or_else(|| is(&TargetId::Cluster.to_string()));
        if let Some(target) = plan.targets.get_mut(at.unwrap_or_default())
            && !target.warnings.contains(warning)
        {
            target.warnings.push(warning.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_after_the_opening_is_not_kept() {
        let (told, notice) = Noticed::new();
        let warning = |message: &str| Event::Warning { target: None, message: message.to_owned() };
        notice.take(&warning("a secret is missing"));
        notice.take(&Event::Note { message: "a note".to_owned() });
        assert_eq!(told.end(), [(None, "a secret is missing".to_owned())]);
        notice.take(&warning("later"));
        assert_eq!(told.end(), []);
    }
}
