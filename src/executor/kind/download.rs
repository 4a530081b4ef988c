//! Download: the host fetches a file itself, from the first source that gives the right bytes.

use super::{Answer, Ask, Context, How, Kind, Sum, fields, present};
use crate::state::{Download, Fields, Observation};
use crate::template::quote;

/// A source that sends next to nothing for this long is given up, in seconds.
const STALLED_SECONDS: u32 = 60;

impl Kind for Download {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.paths.insert(self.path.clone());
        ask.sums.insert(self.path.clone(), Sum { sha256: self.sha256.clone(), how: How::Stamped });
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let stat = match answer.stat(&self.path) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Observation::Absent,
            Err(why) => return Observation::Unknown(why),
        };
        if !stat.is_file() {
            return present([("sha256", format!("({})", stat.file_type)), ("mode", stat.mode.clone())]);
        }
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

/// Returns shell that fetches, checks and renames; a wrong sum from one source is no reason not to try the next. A part
/// that a cut-off run left is gone on with; what does not fit in the end is fetched again from its start.
pub(super) fn fetch(download: &Download) -> String {
    let urls = download.urls.iter().map(|u| quote(u)).collect::<Vec<_>>().join(" ");
    format!(
        "p={path}; new=$p.provision-new; mkdir -p -- \"${{p%/*}}\"; got=\n\
         get() {{ if command -v curl >/dev/null 2>&1; then curl -fsSL --connect-timeout 20 --speed-limit 1024 --speed-time {STALLED_SECONDS} --retry 3 -o \"$new\" \"$@\"\n\
         elif command -v wget >/dev/null 2>&1; then if [ \"$1\" = -C ]; then shift 2; set -- -c \"$1\"; fi; wget -q -T {STALLED_SECONDS} -t 3 -O \"$new\" \"$@\"\n\
         else echo 'neither curl nor wget is installed' >&2; rm -f -- \"$new\"; exit 1; fi; }}\n\
         fits() {{ s=$(sha256sum <\"$new\"); s=${{s%% *}}; [ \"$s\" = {sum} ]; }}\n\
         for u in {urls}; do\n\
         if [ -s \"$new\" ] && get -C - \"$u\" && fits; then got=yes; break; fi\n\
         rm -f -- \"$new\"; get \"$u\" || {{ echo \"$u could not be fetched\" >&2; continue; }}\n\
         if fits; then got=yes; break; fi\n\
         echo \"$u has sha256 $s, provision.lock says {sum}\" >&2; rm -f -- \"$new\"; done\n\
         if [ -z \"$got\" ]; then rm -f -- \"$new\"; echo \"no source gave $p\" >&2; exit 1; fi\n\
         chmod {mode:o} \"$new\"; sync \"$new\" 2>/dev/null || sync; mv -fT -- \"$new\" \"$p\"; stamp {sum} \"$p\"\n",
        path = quote(&download.path),
        sum = download.sha256,
        mode = download.mode,
    )
}
