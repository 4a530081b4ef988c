//! Multi-line secrets: keys between BEGIN and END, even without their end, and the data of Kubernetes Secrets.

use super::text::{Text, pattern};
use regex::bytes::Regex;
use std::ops::Range;
use std::sync::OnceLock;

/// An armoured key ends within so many lines, or what does not look like one ends it: an RSA key of 16,384 bits has 200.
const MOST_KEY_LINES: usize = 400;

struct Patterns {
    /// Where a key begins: PEM, OpenSSH, PGP (messages too, which may be encrypted to a password), SSH2, PuTTY,
    /// OpenVPN.
    begin: Regex,
    end: Regex,
    /// A line of a key whose end was cut off: one word of base64, or a header.
    body: Regex,
    /// The last word of a line that a journal put its own words before.
    tail: Regex,
    kind: Regex,
    data: Regex,
    json_kind: Regex,
    json_data: Regex,
    /// Marks of a JSON Web Key (RFC 7517) in a text, and its private parts.
    jwk: Regex,
    jwk_part: Regex,
    /// A name and a password of OpenVPN, each on a line.
    login: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: OnceLock<Option<Patterns>> = OnceLock::new();
    let compile = || -> Result<Patterns, regex::Error> {
        Ok(Patterns {
            begin: pattern(
                r"(?i)-{4,5} ?BEGIN [a-z0-9 ]*(?:PRIVATE KEY(?: BLOCK)?|PGP MESSAGE|STATIC KEY V\d+) ?-{4,5}|private-lines: ?\d+",
            )?,
            end: pattern(
                r"(?i)-{4,5} ?END [a-z0-9 ]*(?:PRIVATE KEY(?: BLOCK)?|PGP MESSAGE|STATIC KEY V\d+) ?-{4,5}|private-mac: ?\S+",
            )?,
            body: pattern(r#"^(?:[A-Za-z0-9+/=_.\\"',|-]+|(?:[A-Z][A-Za-z0-9-]*: .*))$"#)?,
            tail: pattern(r"[A-Za-z0-9+/=\\]{24,}$")?,
            kind: pattern(r#"^[ \t-]*["']?kind["']?:[ \t]*["']?Secret["']?[ \t,]*$"#)?,
            data: pattern(r#"^[ \t-]*["']?(?:data|stringData)["']?:[ \t]*$"#)?,
            json_kind: pattern(r#"\\*"kind\\*"\s*:\s*\\*"Secret\\*""#)?,
            json_data: pattern(r#"\\*"(?:data|stringData)\\*"\s*:\s*\{([^{}]*)\}"#)?,
            jwk: pattern(r#"\\*["']kty\\*["']\s*:"#)?,
            jwk_part: pattern(r#"\\*["'](?:d|p|q|dp|dq|qi|k|r|t)\\*["']\s*:\s*\\*["']([^"'\\\s]{4,})"#)?,
            login: pattern(r"(?i)<auth-user-pass>\s*\S+[ \t]*\r?\n[ \t]*([^\r\n]+)")?,
        })
    };
    PATTERNS.get_or_init(|| compile().ok()).as_ref()
}

/// Adds what is found.
pub(super) fn find(text: &Text<'_>, found: &mut Vec<Range<usize>>) {
    let Some(patterns) = patterns() else { return };
    keys(text, patterns, found);
    secrets(text, patterns, found);
    if patterns.jwk.is_match(text.bytes) {
        let parts = patterns.jwk_part.captures_iter(text.bytes);
        found.extend(parts.filter_map(|part| Some(part.get(1)?.range())));
    }
    let logins = patterns.login.captures_iter(text.bytes);
    found.extend(logins.filter_map(|login| Some(login.get(1)?.range())));
}

fn keys(text: &Text<'_>, patterns: &Patterns, found: &mut Vec<Range<usize>>) {
    // A log whose older part is left out can begin inside a key.
    let mut after = 0;
    for end in patterns.end.find_iter(text.bytes) {
        let own = patterns.begin.find_at(&text.bytes[..end.start()], after).is_some();
        after = end.end();
        let last = text.number(end.start());
        let lines = (last.saturating_sub(MOST_KEY_LINES)..last).rev().map(|n| text.trimmed(text.nth(n)));
        let body = |line: &std::ops::Range<usize>| {
            patterns.tail.find(&text.bytes[line.clone()]).map(|m| line.start + m.start())
        };
        found.extend(lines.map_while(|line| Some(body(&line)?..line.end)).take_while(|_| !own));
    }
    let mut from = 0;
    while let Some(begin) = patterns.begin.find_at(text.bytes, from) {
        let first = text.number(begin.start());
        let limit = text.nth(first + MOST_KEY_LINES).end;
        let another = patterns.begin.find_at(&text.bytes[..limit], begin.end()).map_or(limit, |b| b.start());
        // What comes before it on the line, such as a journal's time and unit, comes before every line of it.
        if let Some(end) = patterns.end.find_at(&text.bytes[..another], begin.end()) {
            found.push(begin.end()..end.start());
            from = end.end();
            continue;
        }
        let line = text.line(begin.start());
        found.push(begin.end()..line.end);
        from = line.end;
        for number in first + 1..first + MOST_KEY_LINES {
            let whole = text.nth(number);
            let line = text.trimmed(whole.clone());
            let part = &text.bytes[line.clone()];
            if whole.start >= another {
                break;
            } else if patterns.body.is_match(part) {
                found.push(line.clone());
            } else if let Some(tail) = patterns.tail.find(part) {
                found.push(line.start + tail.start()..line.end);
            } else if !part.is_empty() || number > first + 3 {
                break;
            }
            from = from.max(line.end);
        }
    }
}

/// Adds the values of Secrets: whatever their keys are called.
fn secrets(text: &Text<'_>, patterns: &Patterns, found: &mut Vec<Range<usize>>) {
    let count = text.starts.len();
    let line = |number: usize| &text.bytes[text.nth(number)];
    let mut document = 0;
    for number in 0..=count {
        if number < count && !line(number).starts_with(b"---") && !line(number).starts_with(b"## ") {
            continue;
        }
        if (document..number).any(|n| patterns.kind.is_match(line(n))) {
            let mut inside = None;
            for n in document..number {
                if patterns.data.is_match(line(n)) {
                    inside = Some(text.indent(n));
                } else if inside.is_some_and(|indent| text.indent(n) > indent) {
                    let whole = text.nth(n);
                    let value = line(n)
                        .iter()
                        .position(|b| *b == b':')
                        .map_or(whole.start, |at| whole.start + at + 1);
                    found.push(text.trimmed(value..whole.end));
                } else {
                    inside = None;
                }
            }
        }
        document = number;
    }
    if patterns.json_kind.is_match(text.bytes) {
        for data in patterns.json_data.captures_iter(text.bytes) {
            found.extend(data.get(1).map(|inner| inner.range()));
        }
    }
}
