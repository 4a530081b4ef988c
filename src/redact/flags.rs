//! Secrets in the arguments of programs, as `ps`, units, journals and pod specs show them.

use super::fields::{is_ordinary, names, next_name};
use super::text::{Text, pattern};
use regex::bytes::Regex;
use std::ops::Range;
use std::sync::OnceLock;

/// Programs whose `-p`, `-P`, `-a` or `-w` is a password; elsewhere these are ports, paths and more.
const PROGRAMS: &str = r"(?i)\b(?:mysql\w*|mariadb[\w-]*|sshpass|docker login|podman login|nerdctl login|oras login|skopeo login|buildah login|crane auth login|helm registry login|ipmitool|ipmi-\w+|redis-cli|mongo\w*|ldap\w+|smbclient|racadm)\b";

struct Patterns {
    name: Regex,
    /// What separates a flag from its value: blanks, or the marks of a list in JSON or YAML.
    gap: Regex,
    /// `-u name:password`
    user: Regex,
    /// `--from-literal=key=value`: a secret whatever its key is called.
    literal: Regex,
    program: Regex,
    short: Regex,
    /// What is piped into a program that asks for a password.
    piped: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: OnceLock<Option<Patterns>> = OnceLock::new();
    let compile = || -> Result<Patterns, regex::Error> {
        Ok(Patterns {
            name: pattern(&names())?,
            gap: pattern(
                r#"^(?:\\*["'](?:[ \t]*,[ \t]*(?:\r?\n[ \t]*)?|[ \t]+)|["']?[ \t]*\r?\n[ \t]*-[ \t]+|[ \t]+\\\r?\n[ \t]*|[ \t\x00]+)"#,
            )?,
            user: pattern(
                r#"(?:^|[\s"',\x00])(?:-[uU]|--(?:user|proxy-user|userpwd|creds|src-creds|dest-creds|auth))(?:=|\\*["'][ \t]*,[ \t]*|[ \t\x00]*)(?P<value>\\*"[^"\n]*|'[^'\n]*|[^\s"'\x00]+)"#,
            )?,
            literal: pattern(
                r#"--from-(?:literal|env)(?:=|\\*["'][ \t]*,[ \t]*|[ \t]+\\\r?\n[ \t]*|[ \t\x00]+)(?P<quote>\\*["'])?[\w./-]+="#,
            )?,
            program: pattern(PROGRAMS)?,
            short: pattern(r#"[ \t\x00"'](?:-[pPaw])(?:=|["'],[ \t]*|[ \t\x00]*)"#)?,
            piped: pattern(
                r#"(?:echo|printf)[ \t]+(?:-\w+[ \t]+)*(?P<value>[^|\n]+?)[ \t]*\|[^\n]*(?:--stdin|-stdin|sudo +-S|chpasswd|passwd|cryptsetup|kinit)"#,
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

/// Adds what is found.
pub(super) fn find(text: &Text<'_>, found: &mut Vec<Range<usize>>) {
    let Some(patterns) = patterns() else { return };
    long(text, patterns, found);
    for user in patterns.user.captures_iter(text.bytes).filter_map(|c| c.name("value")) {
        let slashes = user.as_bytes().iter().take_while(|b| **b == b'\\').count();
        let value = &user.as_bytes()[slashes..];
        let separator = if value.contains(&b':') { b':' } else { b'%' };
        let Some(at) = value.iter().position(|b| *b == separator) else { continue };
        let (name, password) = (&value[..at], &value[at + 1..]);
        let numbers = |b: &[u8]| b.iter().all(u8::is_ascii_digit);
        // `-u 1000:1000`, `-U //host`, and addresses are no logins.
        if password.is_empty() || (numbers(name) && numbers(password)) || password.starts_with(b"//") {
            continue;
        }
        found.push(user.start() + slashes + at + 1..user.end());
    }
    literals(text, patterns, found);
    let mut done = 0;
    for program in patterns.program.find_iter(text.bytes) {
        // All flags of a line are looked at once, however many programs it names.
        if program.start() < done {
            continue;
        }
        let line = text.line(program.start());
        let mut from = program.end();
        done = line.end;
        while let Some(flag) = patterns.short.find_at(&text.bytes[..line.end], from) {
            let (value, _) = text.value(flag.end());
            from = flag.end().max(value.end);
            let word = &text.bytes[value.clone()];
            // Ports, and what follows a flag without a value.
            if !word.starts_with(b"-") && !word.iter().all(u8::is_ascii_digit) {
                found.push(value);
            }
            if from >= line.end {
                break;
            }
        }
    }
    found.extend(patterns.piped.captures_iter(text.bytes).filter_map(|c| Some(c.name("value")?.range())));
}

/// Adds the values of flags with telling names.
fn long(text: &Text<'_>, patterns: &Patterns, found: &mut Vec<Range<usize>>) {
    let mut from = 0;
    while let Some(name) = next_name(&patterns.name, text.bytes, from) {
        from = name.end;
        if text.bytes.get(name.start) != Some(&b'-') {
            continue;
        }
        let Some(gap) = patterns.gap.find(&text.bytes[name.end..]) else { continue };
        let (value, quoted) = text.value(name.end + gap.end());
        // In a list of JSON the value is closed by the quote that was passed over.
        let value = match text.bytes[value.clone()].iter().position(|b| matches!(b, b'"' | b'\'')) {
            Some(n) if !quoted && n > 0 && text.is_quoted(name.start, text.bytes[value.start + n]) => {
                value.start..value.start + n
            }
            _ if !quoted => value.start..text.word(value),
            _ => value,
        };
        let word = &text.bytes[value.clone()];
        if (quoted || !word.starts_with(b"-")) && !is_ordinary(word, false) {
            found.push(value);
        }
    }
}

/// Adds what is given as `key=value` to a secret that is made.
fn literals(text: &Text<'_>, patterns: &Patterns, found: &mut Vec<Range<usize>>) {
    for literal in patterns.literal.captures_iter(text.bytes) {
        let Some(whole) = literal.get(0) else { continue };
        let at = whole.end();
        let before = whole.start().checked_sub(1).map(|before| text.bytes[before]);
        let quote = match literal.name("quote") {
            Some(quote) => quote.as_bytes().split_last().map(|(quote, slashes)| (*quote, slashes.len())),
            None => before.filter(|b| matches!(b, b'"' | b'\'')).map(|quote| {
                let start = whole.start() - 1;
                (quote, text.bytes[..start].iter().rev().take_while(|b| **b == b'\\').count())
            }),
        };
        let value = match quote {
            Some((quote, slashes)) => {
                at..text.closing(at, quote, slashes).unwrap_or(text.line(at).end.max(at))
            }
            None => match text.value(at) {
                (value, true) => value,
                (value, false) => value.start..text.word(value),
            },
        };
        if !is_ordinary(&text.bytes[value.clone()], false) {
            found.push(value);
        }
    }
}
