//! Directory and symbolic link: resources that `stat` alone can observe.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Directory, Fields, Observation, Symlink};
use crate::template::quote;

impl Kind for Directory {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.paths.insert(self.path.clone());
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        match result.stat(&self.path) {
            Ok(None) => Observation::Absent,
            Ok(Some(stat)) => present([
                ("type", stat.file_type.clone()),
                ("mode", stat.mode.clone()),
                ("owner", stat.owner_like(&self.owner)),
            ]),
            Err(why) => Observation::Unknown(why),
        }
    }

    fn wanted(&self) -> Fields {
        fields([
            ("type", "directory".to_owned()),
            ("mode", format!("{:o}", self.mode)),
            ("owner", self.owner.clone()),
        ])
    }

    fn enact(&self, _: &Context) -> String {
        let path = quote(&self.path);
        format!("mkdir -p -- {path}; chown {} {path}; chmod {:o} {path}\n", quote(&self.owner), self.mode)
    }

    fn remove(&self, _: &Context) -> Option<String> {
        // Only if empty: files of others stay.
        Some(format!("rmdir -- {} 2>/dev/null || true\n", quote(&self.path)))
    }
}

impl Kind for Symlink {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.paths.insert(self.path.clone());
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        match result.stat(&self.path) {
            Err(why) => Observation::Unknown(why),
            Ok(None) => Observation::Absent,
            Ok(Some(stat)) => {
                let target = stat.target.clone().unwrap_or_else(|| format!("({})", stat.file_type));
                present([("target", target)])
            }
        }
    }

    fn wanted(&self) -> Fields {
        fields([("target", self.target.clone())])
    }

    fn enact(&self, _: &Context) -> String {
        format!(
            "p={}; mkdir -p -- \"${{p%/*}}/\"; ln -sfn -- {} \"$p.provision-new\"; mv -Tf -- \"$p.provision-new\" \"$p\"\n",
            quote(&self.path),
            quote(&self.target)
        )
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("[ ! -L {0} ] || rm -f -- {0}\n", quote(&self.path)))
    }
}
