//! Hostname: static and live.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Fields, Hostname, Observation};
use crate::template::quote;

impl Kind for Hostname {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.hostname = true;
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let (live, fixed) = &answer.hostname;
        present([("live", live.clone()), ("static", fixed.clone())])
    }

    fn wanted(&self) -> Fields {
        fields([("live", self.name.clone()), ("static", self.name.clone())])
    }

    fn enact(&self, _: &Context) -> String {
        format!("hostnamectl set-hostname -- {}\n", quote(&self.name))
    }

    fn remove(&self, _: &Context) -> Option<String> {
        None
    }
}
