//! Values of fields with sensitive names, as YAML, JSON, TOML, ini, shell, HTTP headers, URLs and logs write them.

use super::text::{Text, pattern};
use crate::state::REDACTED;
use regex::bytes::Regex;
use std::ops::Range;
use std::sync::OnceLock;

/// Names that tell a secret, whatever comes before them: `HF_TOKEN`, `dbPassword`, `aws_secret_access_key`.
const STRONG: &str = r"(?:(?:api|access|private|secret|client|encryption|decryption|signing|master|(?:pre-?)?shared|session|account|storage|license|deploy|webhook|admin|root|subscription|service|unseal|recovery|consumer|app|user|auth|application|developer)[ _.-]?key|pass(?:[ _-]?(?:word|phrase)|wd|code)|(?:require|user|db|root|admin|bind|http|smtp|ldap|proxy)(?:pass(?:word|wd|phrase|code)?|pw)|masterauth|secret|token|credentials?|authorization|(?-i:[A-Z0-9]_(?:KEY|AUTH)|[a-z](?:Pass|Pwd|Psk|Creds?|Cookie)\b))";
/// Names that do so only as words of their own: `DB_PASS`, not `bypass`.
const WEAK: &str = r"(?:pass|pwd|pw|psk|auth|creds?|(?:set-)?cookie|otp|pin)";
/// What may come after a name without making it another: `client-key-data`, `password2`, but not `passwordFile`.
const SUFFIX: &str = r"(?:[_-]?(?:data|value|b64|base64|plain|text|string|hash|v?\d{1,2})|(?-i:Prod|Production|Dev|Test|Stage|Staging|Live|Old|New|Primary|Secondary|Backup))?";
/// A longer name is none: so many bytes.
const MOST_NAME: usize = 256;
/// Suffixes of a name after its keyword that say whose or which secret it is.
const WHICH: [&str; 36] = [
    "prod",
    "production",
    "prd",
    "dev",
    "devel",
    "development",
    "test",
    "testing",
    "stage",
    "staging",
    "stg",
    "live",
    "qa",
    "uat",
    "ci",
    "old",
    "new",
    "current",
    "previous",
    "next",
    "primary",
    "secondary",
    "backup",
    "main",
    "default",
    "base",
    "ro",
    "rw",
    "readonly",
    "master",
    "replica",
    "internal",
    "external",
    "admin",
    "root",
    "local",
];
/// Those that make it another thing: where it is, how long it lasts.
const OTHER: [&str; 90] = [
    "file",
    "files",
    "filename",
    "path",
    "paths",
    "dir",
    "directory",
    "folder",
    "name",
    "names",
    "id",
    "ids",
    "url",
    "uri",
    "endpoint",
    "host",
    "hostname",
    "port",
    "server",
    "servers",
    "service",
    "addr",
    "address",
    "user",
    "username",
    "users",
    "login",
    "email",
    "domain",
    "region",
    "type",
    "types",
    "kind",
    "class",
    "mode",
    "method",
    "methods",
    "policy",
    "count",
    "counts",
    "total",
    "usage",
    "limit",
    "limits",
    "max",
    "min",
    "ttl",
    "timeout",
    "expiry",
    "expires",
    "expire",
    "expiration",
    "lifetime",
    "duration",
    "interval",
    "days",
    "seconds",
    "age",
    "len",
    "length",
    "size",
    "bits",
    "alg",
    "algo",
    "algorithm",
    "format",
    "encoding",
    "version",
    "issuer",
    "audience",
    "scope",
    "scopes",
    "provider",
    "backend",
    "prefix",
    "header",
    "ref",
    "sock",
    "socket",
    "agent",
    "enabled",
    "disabled",
    "enable",
    "disable",
    "required",
    "allowed",
    "namespace",
    "cache",
    "label",
    "fingerprint",
];

/// Returns a pattern of names, the weak ones in the group `weak`.
pub(super) fn names() -> String {
    format!(r"(?i)(?:{STRONG}|(?P<weak>{WEAK})){SUFFIX}")
}

/// A telling name in a text.
pub(super) struct Name<'a> {
    pub(super) start: usize,
    pub(super) end: usize,
    /// The name itself, where it is a keyword only as a separate word.
    pub(super) weak: Option<&'a [u8]>,
    /// How the name goes on after the telling part.
    pub(super) rest: Rest,
}

/// What comes after the telling part of a name.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rest {
    /// Nothing, or what leaves no doubt.
    Clear,
    /// Words in capitals, as of variables: `DB_PASS_EU`.
    Words,
    /// Words that the value has to confirm: `token_usage`, `SIG_KEY_X`.
    Vague,
}

/// Returns the first telling name from `from` on.
pub(super) fn next_name<'a>(pattern: &Regex, text: &'a [u8], mut from: usize) -> Option<Name<'a>> {
    while from < text.len() {
        let matched = pattern.captures_at(text, from)?;
        let whole = matched.get(0)?;
        let weak = matched.name("weak");
        let letter = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphabetic);
        let inside =
            letter(whole.start().checked_sub(1).and_then(|at| text.get(at))) || letter(text.get(whole.end()));
        if weak.is_some() && inside {
            from = whole.start() + 1;
            continue;
        }
        let weak = weak.map(|m| m.as_bytes());
        let start = name_start(text, whole.end());
        // `X_KEY` and `X_AUTH` tell only by being capitals.
        let doubtful = weak.is_some() || whole.as_bytes().get(1) == Some(&b'_');
        let (end, rest) = longer(text, start, whole.end(), doubtful).unwrap_or((whole.end(), Rest::Clear));
        return Some(Name { start, end, weak, rest });
    }
    None
}

/// Returns where a name ends that goes on after its telling part: `SIGNING_SECRET_V2`, `DB_PASS_PROD`.
fn longer(text: &[u8], start: usize, end: usize, doubtful: bool) -> Option<(usize, Rest)> {
    let part = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let count = text[end..].iter().take(MOST_NAME).take_while(part).count();
    let tail = &text[end..end + count];
    let tail = &tail[..tail.iter().rposition(u8::is_ascii_alphanumeric)? + 1];
    if tail[0].is_ascii_alphanumeric() {
        return None;
    }
    let capitals = !text[start..end].iter().any(u8::is_ascii_lowercase);
    let weak_capitals = capitals && text[..end].ends_with(b"PASS") || text[..end].ends_with(b"PWD");
    let mut rest = Rest::Clear;
    for piece in tail[1..].split(|b| b"_-.".contains(b)) {
        let one = piece.strip_suffix(b"s").or(piece.strip_suffix(b"S")).unwrap_or(piece);
        let is = |word: &&str| [piece, one].iter().any(|p| p.eq_ignore_ascii_case(word.as_bytes()));
        let digits = piece.strip_prefix(b"v").or(piece.strip_prefix(b"V")).unwrap_or(piece);
        if WHICH.iter().any(is) || (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)) {
            continue;
        } else if piece.is_empty() || OTHER.iter().any(is) || tail.iter().any(|b| b"-.".contains(b)) {
            return None;
        }
        rest = match (capitals, doubtful) {
            (true, false) if rest != Rest::Vague => Rest::Words,
            (true, true) if weak_capitals && rest != Rest::Vague => Rest::Words,
            (false, true) => return None,
            _ => Rest::Vague,
        };
    }
    Some((end + tail.len(), rest))
}

struct Patterns {
    name: Regex,
    /// What makes it an assignment, right after the name.
    assign: Regex,
    /// `name: DB_PASSWORD`, `value: …`, on one line or two.
    pair: Regex,
    /// `password is …`, `Password …`
    said: Regex,
    /// A block of YAML: `|`, `>-`, `!!binary |`, or nothing.
    block: Regex,
    /// Tags and anchors of YAML before a value.
    tags: Regex,
    /// A line of YAML with a key.
    keyed: Regex,
    xml: Regex,
    /// A name with characters that URLs or JSON escape, and its value.
    escaped: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: OnceLock<Option<Patterns>> = OnceLock::new();
    let compile = || -> Result<Patterns, regex::Error> {
        Ok(Patterns {
            name: pattern(&names())?,
            assign: pattern(r#"^(?P<quote>\\*["'`])?\]?[ \t]*(?P<is>:=|=>|==|=|:|%3[AaDd])[ \t]*"#)?,
            pair: pattern(
                r#"^\\*["']?[ \t]*,?[ \t]*(?:\r?\n)?[ \t]*\\*["']?(?i:value)\\*["']?[ \t]*[:=][ \t]*"#,
            )?,
            said: pattern(r"^(?i:[ \t]+(?:is|was|set to|changed to|reset to|now))*[ \t]+")?,
            block: pattern(
                r"^(?P<tags>(?:[!&]\S*[ \t]*)+)?(?P<mark>[|>][+-]?\d?[+-]?)?[ \t]*(?:#(?:[ \t#].*)?)?$",
            )?,
            tags: pattern(r"^(?:[!&]\S*[ \t]+)+")?,
            keyed: pattern(r#"^(?:- +)?["']?[\w./-]+["']?[ \t]*:(?:[ \t]|$)"#)?,
            xml: pattern(r"^(?:[ \t][^<>\n]*)?>")?,
            escaped: pattern(
                r#"(?P<name>[\w.-]{0,64}(?:%|\\u00)[0-9A-Fa-f]{2}(?:[\w.-]|%[0-9A-Fa-f]{2}|\\u00[0-9A-Fa-f]{2}){0,64})\\*["']?[ \t]*[=:][ \t]*(?:\\*["'])?(?P<value>[^&\s"'<>\\]+)"#,
            )?,
        })
    };
    PATTERNS.get_or_init(|| compile().ok()).as_ref()
}

/// Returns whether the patterns compile.
#[cfg(test)]
pub(super) fn complete() -> bool {
    patterns().is_some()
}

/// Returns where the name that ends at `end` begins.
pub(super) fn name_start(text: &[u8], end: usize) -> usize {
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    end - text[..end].iter().rev().take(MOST_NAME).take_while(|b| part(b)).count()
}

/// Returns whether a value means "none" or is only a reference.
pub(super) fn is_ordinary(value: &[u8], weak: bool) -> bool {
    const NOTHING: [&str; 14] =
        ["", "true", "false", "null", "nil", "none", "yes", "no", "on", "off", "~", "<nil>", "<none>", "{}"];
    const ROOTS: [&str; 15] = [
        "/etc/", "/var/", "/run/", "/tmp/", "/root", "/home/", "/opt/", "/usr/", "/proc/", "/sys/", "/dev/",
        "/mnt/", "/srv/", "/data/", "/lib/",
    ];
    let value = value.trim_ascii();
    let bare = value.strip_suffix(b",").unwrap_or(value);
    let bare = bare.strip_suffix(b")").or(bare.strip_suffix(b"}")).unwrap_or(bare);
    let few = weak && bare.len() < 4 && bare.iter().all(u8::is_ascii_digit);
    let says = |word: &&str| bare.eq_ignore_ascii_case(word.as_bytes());
    few || (weak && value.starts_with(b"/"))
        || NOTHING.iter().any(says)
        || value == REDACTED.as_bytes()
        || ROOTS.iter().any(|root| value.starts_with(root.as_bytes()))
}

/// Returns whether a word by itself could be a secret: letters with digits, or with signs that words do not have.
fn is_odd(word: &[u8]) -> bool {
    let word = word.trim_ascii_end();
    let digits = word.iter().any(u8::is_ascii_digit);
    let letters = word.iter().any(u8::is_ascii_alphabetic);
    word.len() >= 6 && letters && (digits || word.iter().any(|b| b"!@#$%^&*+=~".contains(b)))
}

/// Adds what is found.
pub(super) fn find(text: &Text<'_>, found: &mut Vec<Range<usize>>) {
    let Some(patterns) = patterns() else { return };
    let mut from = 0;
    while let Some(name) = next_name(&patterns.name, text.bytes, from) {
        let values = name.values(text, patterns);
        from = values.last().map_or(name.end, |value| value.end.max(name.end));
        found.extend(values);
    }
    for field in patterns.escaped.captures_iter(text.bytes) {
        let (Some(name), Some(value)) = (field.name("name"), field.name("value")) else { continue };
        let name = unescaped(name.as_bytes());
        let told = next_name(&patterns.name, &name, 0).is_some_and(|told| told.end == name.len());
        if told && !is_ordinary(value.as_bytes(), false) {
            found.push(value.range());
        }
    }
}

/// Returns a name without the escapes of URLs and JSON.
fn unescaped(mut name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((first, rest)) = name.split_first() {
        let escape =
            name.strip_prefix(b"%").or(name.strip_prefix(b"\\u00")).and_then(|e| e.split_at_checked(2));
        let byte = escape.and_then(|(hex, rest)| {
            Some((u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?, rest))
        });
        let (byte, rest) = byte.unwrap_or((*first, rest));
        out.push(byte);
        name = rest;
    }
    out
}

impl Name<'_> {
    fn is(&self, names: &[&str]) -> bool {
        self.weak.is_some_and(|weak| names.iter().any(|name| weak.eq_ignore_ascii_case(name.as_bytes())))
    }

    /// Returns whether its value is all of the rest of a line, spaces and all.
    fn is_header(&self, text: &Text<'_>) -> bool {
        let name = &text.bytes[self.start..self.end];
        let ends = |with: &str| {
            name.len() >= with.len() && name[name.len() - with.len()..].eq_ignore_ascii_case(with.as_bytes())
        };
        ends("authorization") || ends("cookie")
    }

    /// Returns whether nothing but signs or another field's colon comes before it on its line: then its value may have
    /// blanks.
    fn leads(&self, text: &Text<'_>) -> bool {
        let before = text.bytes[text.line(self.start).start..self.start].trim_ascii_end();
        let before = before.strip_suffix(b"export").unwrap_or(before);
        before.iter().all(|b| b" \t#;-*>|/{[\"'".contains(b))
            || before.ends_with(b":")
            || before.ends_with(b";")
    }

    fn values(&self, text: &Text<'_>, patterns: &Patterns) -> Vec<Range<usize>> {
        let rest = &text.bytes[self.end..];
        if let Some(assign) = patterns.assign.captures(rest) {
            let at = self.end + assign.get(0).map_or(0, |m| m.end());
            let is = assign.name("is").map_or(&b":"[..], |m| m.as_bytes());
            return self.assigned(text, patterns, at, assign.name("quote").is_some(), is);
        }
        if let Some(pair) = patterns.pair.find(rest) {
            let (value, _) = text.value(self.end + pair.end());
            return self.kept(text, value);
        }
        if self.start > 0
            && text.bytes[self.start - 1] == b'<'
            && let Some(open) = patterns.xml.find(rest)
        {
            let at = self.end + open.end();
            let close = text.bytes[at..].iter().position(|b| *b == b'<').map_or(at, |n| at + n);
            return self.kept(text, text.trimmed(at..close));
        }
        self.told(text, patterns)
    }

    fn kept(&self, text: &Text<'_>, value: Range<usize>) -> Vec<Range<usize>> {
        let bytes = &text.bytes[value.clone()];
        // Docker's `auth` is base64 of a name and a password; the word alone means a method more often.
        let method = |b: &[u8]| b.len() < 8 || !(is_odd(b) || b.contains(&b' ') || mixed(b));
        // The shell's own variables.
        let folder = matches!(&text.bytes[self.start..self.end], b"PWD" | b"OLDPWD");
        // Pins of chips have short numbers, or names.
        let pin = |b: &[u8]| {
            let b = b.trim_ascii_end();
            let digits = b.iter().take_while(|b| b.is_ascii_digit()).count();
            digits >= 4 && !b[digits..].iter().any(u8::is_ascii_alphanumeric)
        };
        let unlike = match self.rest {
            Rest::Clear => false,
            Rest::Words => bytes.windows(3).any(|w| w == b"://"),
            Rest::Vague => !is_odd(bytes) || bytes.trim_ascii().contains(&b' '),
        };
        let ordinary = is_ordinary(bytes, self.weak.is_some())
            || (self.is(&["auth"]) && method(bytes))
            || (self.is(&["pin"]) && !pin(bytes))
            || folder
            || unlike;
        if ordinary { Vec::new() } else { vec![value] }
    }

    fn assigned(
        &self,
        text: &Text<'_>,
        patterns: &Patterns,
        at: usize,
        closed: bool,
        is: &[u8],
    ) -> Vec<Range<usize>> {
        let line = text.line(self.start);
        let own = at.min(line.end);
        // A backslash at the end of a line: the value is on the next.
        let at = text.continued(own);
        let (line, below) = if at == own { (line, false) } else { (text.line(at), true) };
        let rest = &text.bytes[at..line.end];
        let block = patterns.block.captures(rest).filter(|_| !below && matches!(is, b":" | b"="));
        if let Some(block) = block {
            let marked = !rest.trim_ascii().is_empty() && !rest.starts_with(b"#");
            let values = self.below(text, patterns, marked);
            // What looks like a tag and has nothing below it is the value.
            let tags = block.name("tags").filter(|_| values.is_empty() && block.name("mark").is_none());
            return tags.map_or(values, |tags| self.kept(text, text.trimmed(at..at + tags.end())));
        }
        if let Some(tags) = patterns.tags.find(rest).filter(|_| is == b":") {
            let (value, quoted) = text.value(at + tags.end());
            let end = if !quoted && self.leads(text) { line.end } else { value.end };
            let mut values = self.kept(text, value.start..end);
            // Some passwords look like tags.
            if !values.is_empty() {
                values.insert(0, text.trimmed(at..at + tags.end()));
            }
            return values;
        }
        let (value, quoted) = text.value(at);
        if quoted {
            return self.kept(text, value);
        }
        if rest.starts_with(b"[") {
            let end = rest.iter().position(|b| *b == b']').map_or(line.end, |n| at + n);
            return self.kept(text, at + 1..end.max(at + 1));
        }
        if rest.starts_with(b"{") {
            return Vec::new();
        }
        // `"NAME=two words"`: the quote before the name ends the value.
        let opened = self.start.checked_sub(1).map(|before| text.bytes[before]).filter(|_| !closed);
        if let Some(quote @ (b'"' | b'\'' | b'`')) = opened {
            let slashes = text.bytes[..self.start - 1].iter().rev().take_while(|b| **b == b'\\').count();
            let end = text.closing(at, quote, slashes).unwrap_or(line.end);
            return self.kept(text, at..end);
        }
        let whole = !below && (self.is_header(text) || self.leads(text));
        let end = if whole { line.end } else { text.word(value) };
        // In a list of `key=value;`, blanks belong to the value.
        let listed = self.start > 0 && text.bytes[self.start - 1] == b';';
        let end = match text.bytes[at..end].iter().position(|b| *b == b';').filter(|_| listed) {
            Some(n) => at + n,
            None => end,
        };
        let mut values = self.kept(text, at..end);
        // A word that a backslash breaks goes on below.
        let broken = end == line.end && text.bytes[at..end].ends_with(b"\\");
        if broken && !values.is_empty() && !text.bytes[at..end - 1].ends_with(b" ") {
            values.push(text.value(text.continued(end - 1)).0);
        }
        values
    }

    /// Returns the value that begins on the next line, as YAML allows; `block` says that it is marked as one.
    fn below(&self, text: &Text<'_>, patterns: &Patterns, block: bool) -> Vec<Range<usize>> {
        let first = text.number(self.start);
        let own = text.indent(first);
        let mut values = Vec::new();
        for number in first + 1..text.starts.len() {
            let line = text.trimmed(text.nth(number));
            let part = &text.bytes[line.clone()];
            if part.is_empty() {
                if block { continue } else { break }
            }
            if text.indent(number) <= own || (!block && patterns.keyed.is_match(part)) {
                break;
            }
            values.extend(self.kept(text, line));
        }
        values
    }

    /// Returns a value that is given in prose.
    fn told(&self, text: &Text<'_>, patterns: &Patterns) -> Vec<Range<usize>> {
        let Some(gap) = patterns.said.find(&text.bytes[self.end..]) else { return Vec::new() };
        let line = text.line(self.start);
        let (value, quoted) = text.value((self.end + gap.end()).min(line.end));
        let word = &text.bytes[value.clone()];
        // `requirepass x`, `Password x`: nothing else on the line but the word that sets it.
        const SETTERS: [&str; 7] = ["", "ENV", "ARG", "setenv", "set", "set -x", "config set"];
        let number = word.iter().all(u8::is_ascii_digit);
        let before = text.bytes[line.start..self.start].trim_ascii();
        let near = &before[before.len().saturating_sub(64)..];
        let git = near.windows(10).any(|w| w.eq_ignore_ascii_case(b"git config"));
        let alone = !number
            && (git || SETTERS.iter().any(|setter| before.eq_ignore_ascii_case(setter.as_bytes())))
            && text.bytes[value.end.min(line.end)..line.end].iter().all(|b| b"\"'` \t.".contains(b));
        let name = &text.bytes[self.start..self.end];
        let telling = !name.eq_ignore_ascii_case(b"secret") && !self.is(&["auth", "pass", "cookie", "pin"]);
        // `passphrase is correct horse`: several words, unless they tell of it.
        const TOLD: [&str; 22] = [
            "not",
            "no",
            "wrong",
            "bad",
            "correct",
            "incorrect",
            "valid",
            "invalid",
            "empty",
            "missing",
            "needed",
            "required",
            "set",
            "ok",
            "too",
            "the",
            "a",
            "for",
            "to",
            "in",
            "only",
            "never",
        ];
        let said = gap.as_bytes().iter().any(u8::is_ascii_alphabetic);
        let tells = |word: &[u8]| {
            let letters = word.iter().rposition(u8::is_ascii_alphanumeric).map_or(0, |last| last + 1);
            let word = &word[..letters];
            word.ends_with(b"ed") || TOLD.iter().any(|told| word.eq_ignore_ascii_case(told.as_bytes()))
        };
        let phrase = name.len() >= 6 && name[name.len() - 6..].eq_ignore_ascii_case(b"phrase");
        if phrase && said && !quoted && !tells(word) {
            self.kept(text, value.start..line.end.max(value.end))
        } else if alone || (telling && (quoted || is_odd(word))) {
            self.kept(text, value)
        } else {
            Vec::new()
        }
    }
}

/// Returns whether capitals come after small letters or are mixed with digits, as in base64.
fn mixed(word: &[u8]) -> bool {
    word.windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase()) || word.ends_with(b"=")
}
