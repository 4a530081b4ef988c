//! Download: the host fetches a file itself, from the first source that gives the right bytes.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Download, Fields, Observation};
use crate::template::quote;

impl Kind for Download {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.paths.insert(self.path.clone());
        // The content is no text to show.
        ask.sums.insert(self.path.clone(), (self.sha256.clone(), false));
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let Some(stat) = answer.stat.get(&self.path) else { return Observation::Absent };
        let sum = match answer.sums.get(&self.path) {
            Some(true) => short(&self.sha256),
            Some(false) => "another content".to_owned(),
            None => return Observation::Unknown(format!("{} could not be read", self.path)),
        };
        present([("sha256", sum), ("mode", stat.mode.clone())])
    }

    fn wanted(&self) -> Fields {
        fields([("sha256", short(&self.sha256)), ("mode", format!("{:o}", self.mode))])
    }

    fn enact(&self, _: &Context) -> String {
        fetch(self)
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("rm -f -- {}\n", quote(&self.path)))
    }
}

fn short(sum: &str) -> String {
    sum.get(..12).unwrap_or(sum).to_owned()
}

/// Returns shell that fetches, checks and renames; a wrong sum from one source is no reason not to try the next.
pub(super) fn fetch(download: &Download) -> String {
    let urls = download.urls.iter().map(|u| quote(u)).collect::<Vec<_>>().join(" ");
    format!(
        "p={path}; new=$p.provision-new; mkdir -p -- \"${{p%/*}}\"; got=\n\
         for u in {urls}; do rm -f -- \"$new\"\n\
         if command -v curl >/dev/null 2>&1; then curl -fsSL --connect-timeout 20 --retry 3 -o \"$new\" \"$u\" || continue\n\
         elif command -v wget >/dev/null 2>&1; then wget -q -T 20 -t 3 -O \"$new\" \"$u\" || continue\n\
         else echo 'neither curl nor wget is installed' >&2; exit 1; fi\n\
         s=$(sha256sum <\"$new\"); s=${{s%% *}}\n\
         if [ \"$s\" = {sum} ]; then got=yes; break; fi\n\
         echo \"$u has sha256 $s, provision.lock says {sum}\" >&2; done\n\
         if [ -z \"$got\" ]; then rm -f -- \"$new\"; echo \"no source gave $p\" >&2; exit 1; fi\n\
         chmod {mode:o} \"$new\"; sync \"$new\" 2>/dev/null || sync; mv -f -- \"$new\" \"$p\"\n",
        path = quote(&download.path),
        sum = download.sha256,
        mode = download.mode,
    )
}
