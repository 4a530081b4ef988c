//! File: replaced as a whole and atomically; compared by sha256; secrets by digest and never shown.

use super::super::digest::sha256;
use super::{Context, HostQuery, How, Kind, QueryResult, Sum, fields, present};
use crate::state::{Content, Fields, File, Observation, REDACTED, SecretText};
use crate::template::quote;
use base64::Engine;

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
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.paths.insert(self.path.clone());
        let how = if self.secret() { How::Secret } else { How::Shown };
        query.sums.insert(self.path.clone(), Sum { sha256: sha256(self.bytes()), how });
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let stat = match result.stat(&self.path) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Observation::Absent,
            Err(why) => return Observation::Unknown(why),
        };
        if !stat.is_file() {
            return present([("content", format!("({})", stat.file_type)), ("mode", stat.mode.clone())]);
        }
        let content = match result.sums.get(&self.path) {
            Some(true) => self.shown_content(),
            Some(false) if self.secret() => "<another secret>".to_owned(),
            Some(false) => match result.texts.get(&self.path) {
                Some(text) => format!("sha256:{}", &sha256(text.as_bytes())[..12]),
                None => "differs".to_owned(),
            },
            None => return Observation::Unknown(format!("{} could not be read", self.path)),
        };
        let mut seen = present([
            ("content", content),
            ("mode", stat.mode.clone()),
            ("owner", stat.owner_like(&self.owner)),
        ]);
        if let Observation::Present(seen) = &mut seen {
            seen.text = result.texts.get(&self.path).cloned();
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
        let validate = self.validate.as_ref().map(|command| command.replace("{}", "\"$new\""));
        let source = match self.payload() {
            // A secret is no part of the program, which stays on the host: it comes as a file in memory, read once.
            Some((name, _)) => format!("cat \"$L/{name}\" >\"$new\"; rm -f -- \"$L/{name}\""),
            None => inline(self.bytes()),
        };
        replace(&self.path, &source, self.mode, &self.owner, validate.as_deref().unwrap_or(":"))
    }

    fn payload(&self) -> Option<(String, SecretText)> {
        match &self.content {
            Content::Secret(secret) => {
                Some((format!("file-{}", &sha256(self.path.as_bytes())[..16]), secret.clone()))
            }
            Content::Text(_) => None,
        }
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

/// Returns shell that writes bytes to `$new`.
fn inline(bytes: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!("base64 -d >\"$new\" <<'PUT_END'\n{encoded}\nPUT_END")
}

/// Returns shell that replaces a file by these bytes.
pub(super) fn put(path: &str, bytes: &[u8], mode: u32, owner: &str) -> String {
    replace(path, &inline(bytes), mode, owner, ":")
}

/// Returns shell that replaces a file: written next to it, checked, synced, renamed. A reader sees the old or the new one;
/// a failure takes the new one away, and what a killed run leaves is overwritten by the next.
fn replace(path: &str, source: &str, mode: u32, owner: &str, validate: &str) -> String {
    format!(
        "p={}; new=$p.provision-new; mkdir -p -- \"${{p%/*}}/\"; rm -f -- \"$new\"; trap 'rm -f -- \"$new\"' EXIT\n\
         (umask 077; set -e\n{source}\n)\n\
         chown {} \"$new\"; chmod {mode:o} \"$new\"\n\
         {validate}\n\
         sync \"$new\" 2>/dev/null || sync; mv -fT -- \"$new\" \"$p\"\n",
        quote(path),
        quote(owner)
    )
}
