//! Reboot: only if its guard requires it; verified by the new boot id.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Fields, Observation, Reboot, Verb};
use crate::template::quote;

impl Kind for Reboot {
    fn query(&self, id: &str, query: &mut HostQuery) {
        query.guards.insert(id.to_owned(), self.guard.clone());
    }

    fn observe(&self, id: &str, result: &QueryResult) -> Observation {
        match result.guard(id) {
            Ok(guard) if guard.rc == 0 => present([("needed", "no".to_owned())]),
            Ok(guard) if guard.line.is_empty() => present([("needed", "yes".to_owned())]),
            Ok(guard) => present([("needed", format!("yes: {}", guard.line))]),
            Err(why) => Observation::Unknown(why),
        }
    }

    fn wanted(&self) -> Fields {
        fields([("needed", "no".to_owned())])
    }

    fn enact(&self, _: &Context) -> String {
        // Asked again at the time; the end of the batch does the rest.
        format!(
            "if /bin/sh -c {}; then echo 'no reboot is needed after all'; else : >\"$B/reboot\"; fi\n",
            quote(&self.guard)
        )
    }

    fn remove(&self, _: &Context) -> Option<String> {
        None
    }

    fn verb(&self, _: bool) -> Verb {
        Verb::Run
    }
}
