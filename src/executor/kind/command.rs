//! Guarded command, for what no other kind covers. Its guard decides whether it is needed, and verifies it.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Command, Fields, Observation, Verb};
use crate::template::quote;

impl Kind for Command {
    fn query(&self, id: &str, query: &mut HostQuery) {
        query.guards.insert(id.to_owned(), self.guard.clone());
    }

    fn observe(&self, id: &str, result: &QueryResult) -> Observation {
        match result.guard(id) {
            Ok(guard) if guard.rc == 0 => present([("state", self.wanted.clone())]),
            Ok(guard) if guard.line.is_empty() => Observation::Absent,
            // A guard that fails while it prints what is wanted must still read as different.
            Ok(guard) if guard.line == self.wanted => {
                present([("state", format!("{} (not yet: exit {})", guard.line, guard.rc))])
            }
            Ok(guard) => present([("state", guard.line.clone())]),
            Err(why) => Observation::Unknown(why),
        }
    }

    fn wanted(&self) -> Fields {
        fields([("state", self.wanted.clone())])
    }

    fn enact(&self, _: &Context) -> String {
        format!("/bin/sh -e -c {}\n", quote(&self.apply))
    }

    fn remove(&self, _: &Context) -> Option<String> {
        self.undo.as_ref().map(|undo| format!("/bin/sh -e -c {}\n", quote(undo)))
    }

    fn verb(&self, _: bool) -> Verb {
        Verb::Run
    }
}
