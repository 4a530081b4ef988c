//! One line of ours in a file that others own too, found again by its mark.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Fields, LineInFile, Observation};
use crate::template::quote;

impl LineInFile {
    /// Returns shell that rewrites the file without our line, and with `last` after it.
    fn rewrite(&self, last: &str) -> String {
        let mark = quote(&format!("# provision: {}", self.name));
        format!(
            "p={}; new=$p.provision-new; touch \"$p\"; {{ grep -vF {mark} \"$p\" || true; {last} }} >\"$new\"\n\
             chmod --reference=\"$p\" \"$new\"; chown --reference=\"$p\" \"$new\"; mv -f -- \"$new\" \"$p\"\n",
            quote(&self.path)
        )
    }
}

impl Kind for LineInFile {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.lines.insert(self.path.clone());
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        match answer.lines.get(&(self.path.clone(), self.name.clone())) {
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
        Some(self.rewrite(""))
    }
}
