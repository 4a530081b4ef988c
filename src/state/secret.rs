//! Text that must never be shown: it has no `Display`, its `Debug` is redacted, serialising it yields a marker, and it
//! is wiped from memory when dropped.

use base64::Engine;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use zeroize::Zeroizing;

/// Replaces a secret wherever one would be shown or stored.
pub const REDACTED: &str = "<secret>";

/// A shorter secret cannot be distinguished from ordinary text, in bytes.
const SHORTEST: usize = 4;

/// A secret value, such as a token or a password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes ownership of a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the secret itself; the only way to it, so that a reader can find every use.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the texts by which the secret would be known in one line of output: each of its own lines, and both whole
    /// and by line in base64 and percent-encoded, as URLs and manifests carry it. Longest first, so that no part is left.
    /// Secrets too short to be distinguished from ordinary text are left out.
    pub fn forms(&self) -> Vec<Zeroizing<String>> {
        let standard = base64::engine::general_purpose::STANDARD;
        let whole = self.0.as_str();
        let lines = whole.lines().map(str::trim).filter(|l| l.len() >= SHORTEST);
        let parts: BTreeSet<&str> = lines
            .clone()
            .chain([whole, whole.trim_end()].into_iter().filter(|w| w.trim().len() >= SHORTEST))
            .collect();
        let encoded = parts.iter().flat_map(|part| [standard.encode(part), percent(part)]);
        let forms: BTreeSet<String> =
            lines.map(str::to_owned).chain(encoded).filter(|f| !f.contains('\n')).collect();
        let mut forms: Vec<_> = forms.into_iter().map(Zeroizing::new).collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms
    }
}

/// Returns text as it stands in a URL: unreserved characters as they are (RFC 3986, 2.3).
fn percent(text: &str) -> String {
    let byte = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (b as char).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(SecretText::new)
    }
}

#[cfg(test)]
mod tests {
    use super::SecretText;

    #[test]
    fn a_secret_is_known_by_its_lines_and_by_what_they_are_encoded_as() {
        let forms = SecretText::new("pass word/1\nab\n").forms();
        let forms: Vec<&str> = forms.iter().map(|f| f.as_str()).collect();
        for form in ["pass word/1", "pass%20word%2F1", "cGFzcyB3b3JkLzE=", "cGFzcyB3b3JkLzEKYWIK"] {
            assert!(forms.contains(&form), "{form} is not in {forms:?}");
        }
        assert!(!forms.contains(&"ab"), "too short: every line would be full of it");
        assert!(forms.is_sorted_by_key(|f| std::cmp::Reverse(f.len())));
    }
}
