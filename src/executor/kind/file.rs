//! File: replaced as a whole and atomically; compared by sha256; secrets by digest and never shown.

use super::{Answer, Ask, Context, Kind, fields, present};
use crate::state::{Content, Fields, File, Observation, REDACTED};
use crate::template::quote;
use base64::Engine;
use sha2::{Digest, Sha256};

/// Returns the lower-case hex sha256 of bytes.
pub(in crate::executor) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl File {
    fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Text(text) => text.as_bytes(),
            Content::Secret(secret) => secret.expose().as_bytes(),
        }
    }

    fn secret(&self) -> bool {
        matches!(self.content, Content::Secret(_))
    }

    /// What a plan shows for the content: enough to see that two differ, nothing of a secret.
    fn shown_content(&self) -> String {
        if self.secret() { REDACTED.to_owned() } else { format!("sha256:{}", &sha256(self.bytes())[..12]) }
    }
}

impl Kind for File {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.paths.insert(self.path.clone());
        ask.sums.insert(self.path.clone(), (sha256(self.bytes()), !self.secret()));
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let Some(stat) = answer.stat.get(&self.path) else { return Observation::Absent };
        if stat.file_type != "regular file" && stat.file_type != "regular empty file" {
            return present([("content", format!("({})", stat.file_type)), ("mode", stat.mode.clone())]);
        }
        let content = match answer.sums.get(&self.path) {
            Some(true) => self.shown_content(),
            Some(false) if self.secret() => "<another secret>".to_owned(),
            Some(false) => match answer.texts.get(&self.path) {
                Some(text) => format!("sha256:{}", &sha256(text.as_bytes())[..12]),
                None => "differs".to_owned(),
            },
            None => return Observation::Unknown(format!("{} could not be read", self.path)),
        };
        let mut seen =
            present([("content", content), ("mode", stat.mode.clone()), ("owner", stat.owner.clone())]);
        if let Observation::Present(seen) = &mut seen {
            seen.text = answer.texts.get(&self.path).cloned();
        }
        seen
    }

    fn wanted(&self) -> Fields {
        fields([
            ("content", self.shown_content()),
            ("mode", format!("{:o}", self.mode)),
            ("owner", self.owner.clone()),
        ])
    }

    fn enact(&self, _: &Context) -> String {
        let validate = match &self.validate {
            Some(command) => command.replace("{}", "\"$new\""),
            None => String::new(),
        };
        put(&self.path, self.bytes(), self.mode, &self.owner, &validate)
    }

    fn remove(&self, _: &Context) -> Option<String> {
        Some(format!("rm -f -- {}\n", quote(&self.path)))
    }

    fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Secret(_) => None,
        }
    }
}

/// Returns shell that replaces a file: written beside it, checked, synced, renamed. A reader sees the old or the new one,
/// and what a killed run leaves is overwritten by the next.
pub(super) fn put(path: &str, bytes: &[u8], mode: u32, owner: &str, validate: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    let path = quote(path);
    format!(
        "p={path}; new=$p.provision-new; mkdir -p -- \"${{p%/*}}\"; rm -f -- \"$new\"\n\
         (umask 077; base64 -d >\"$new\" <<'PUT_END'\n{encoded}\nPUT_END\n)\n\
         chown {} \"$new\"; chmod {mode:o} \"$new\"\n\
         {validate}\n\
         sync \"$new\" 2>/dev/null || sync; mv -f -- \"$new\" \"$p\"\n",
        quote(owner)
    )
}
