//! Guarded command: for what no other kind covers. Its guard is the truth, before and after.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Command, Fields, Observation, Verb};
use crate::template::quote;

impl Kind for Command {
    fn ask(&self, id: &str, ask: &mut Ask) {
        ask.guards.insert(id.to_owned(), self.guard.clone());
    }

    fn observe(&self, id: &str, answer: &Answer) -> Observation {
        match answer.guards.get(id) {
            Some(guard) if guard.rc == 0 => present([("state", self.wanted.clone())]),
            Some(guard) if guard.rc < 124 => match guard.line.as_str() {
                "" => Observation::Absent,
                line => present([("state", line.to_owned())]),
            },
            Some(guard) if guard.rc == 124 => Observation::Unknown("timed out".to_owned()),
            Some(guard) => Observation::Unknown(format!("guard ended with {}: {}", guard.rc, guard.line)),
            None => Observation::Unknown("the guard gave no answer".to_owned()),
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
