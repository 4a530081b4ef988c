//! Hostname: static and transient.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Fields, Hostname, Observation};
use crate::template::quote;

impl Kind for Hostname {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.hostname = true;
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let (live, fixed) = &result.hostname;
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
