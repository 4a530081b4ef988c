//! One managed line in a shared file, identified by its mark.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Fields, LineInFile, Observation};
use crate::template::quote;

impl LineInFile {
    /// Returns shell that rewrites the file without our line, and with `last` after it. The mark ends the line: another
    /// of our lines may have a name that begins with this one's.
    fn rewrite(&self, last: &str) -> String {
        let mark = quote(&format!(" # provision: {}", self.name));
        format!(
            "p={}; new=$p.provision-new; m={mark}; touch \"$p\"; trap 'rm -f -- \"$new\"' EXIT\n\
             {{ while IFS= read -r l || [ -n \"$l\" ]; do case $l in *\"$m\") ;; *) printf '%s\\n' \"$l\";; esac; done <\"$p\"; {last} }} >\"$new\"\n\
             chmod --reference=\"$p\" \"$new\"; chown --reference=\"$p\" \"$new\"; sync \"$new\" 2>/dev/null || sync\n\
             mv -fT -- \"$new\" \"$p\"\n",
            quote(&self.path)
        )
    }
}

impl Kind for LineInFile {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.lines.insert(self.path.clone());
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        match result.lines.get(&(self.path.clone(), self.name.clone())) {
            Some(line) => present([("line", line.clone())]),
            None => Observation::Absent,
        }
    }

    fn wanted(&self) -> Fields {
        fields([("line", self.line.clone())])
    }

    fn enact(&self, _: &Context) -> String {
        let line = quote(&format!("{} # provision: {}", self.line, self.name));
        self.rewrite(&format!("printf '%s\\n' {line};"))
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("[ -e {} ] || exit 0\n{}", quote(&self.path), self.rewrite("")))
    }
}
