//! A text as the finders see it: lines, indentation, values and quotes; and how their patterns are compiled.

use regex::bytes::{Regex, RegexBuilder};
use std::ops::Range;

/// A compiled pattern may take so much memory, in bytes: the largest of gitleaks' rules takes a tenth of it.
const MOST_PATTERN_BYTES: usize = 16 << 20;

/// The most lines of a quoted value: an unclosed quote must not redact the rest of a log.
const MOST_QUOTED_LINES: usize = 32;

/// Whether a quote is open is told from so many bytes before at most, or lines of megabytes would be read again and again.
const MOST_BEFORE: usize = 1024;

/// Compiles a pattern over bytes: logs are not always UTF-8, and ASCII classes keep patterns small.
pub(super) fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(MOST_PATTERN_BYTES)
        .dfa_size_limit(MOST_PATTERN_BYTES)
        .build()
}

/// A text and where its lines begin, so that hostile lines of megabytes cost no more than others.
pub(super) struct Text<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) starts: Vec<usize>,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let breaks = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
        Self { bytes, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Returns the number of the line that holds `at`.
    pub(super) fn number(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// Returns a line by its number, without its line break; an empty one past the end.
    pub(super) fn nth(&self, number: usize) -> Range<usize> {
        let Some(start) = self.starts.get(number).copied() else { return self.bytes.len()..self.bytes.len() };
        let end = self.starts.get(number + 1).map_or(self.bytes.len(), |next| next - 1);
        let cut = end > start && self.bytes[end - 1] == b'\r';
        start..if cut { end - 1 } else { end }
    }

    /// Returns the line that holds `at`.
    pub(super) fn line(&self, at: usize) -> Range<usize> {
        self.nth(self.number(at))
    }

    /// Returns how far a line is indented; a list's dash counts as a blank.
    pub(super) fn indent(&self, number: usize) -> usize {
        let line = &self.bytes[self.nth(number)];
        line.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'-')).count()
    }

    /// Returns a range without blanks at both ends.
    pub(super) fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        let part = &self.bytes[range.clone()];
        let left = part.len() - part.trim_ascii_start().len();
        range.start + left..range.start + left + part.trim_ascii().len()
    }

    /// Returns the value that begins at `at`, and whether it is quoted: what is inside its quotes, whatever these are;
    /// otherwise up to a blank.
    pub(super) fn value(&self, at: usize) -> (Range<usize>, bool) {
        let line = self.line(at).end.max(at);
        let rest = &self.bytes[at..line];
        let slashes = rest.iter().take_while(|b| **b == b'\\').count();
        match rest.get(slashes) {
            Some(quote @ (b'"' | b'\'' | b'`')) => {
                let inside = at + slashes + 1;
                (inside..self.closing(inside, *quote, slashes).unwrap_or(line), true)
            }
            _ => {
                let blank = |b: &u8| b.is_ascii_whitespace() || *b == 0;
                (at..rest.iter().position(blank).map_or(line, |n| at + n), false)
            }
        }
    }

    /// Returns where a word goes on that only a backslash at the end of its line stands before; `at` itself otherwise.
    pub(super) fn continued(&self, at: usize) -> usize {
        let number = self.number(at);
        let alone = self.bytes[at..self.nth(number).end.max(at)].trim_ascii() == b"\\";
        let below = self.trimmed(self.nth(number + 1));
        if alone && !below.is_empty() { below.start } else { at }
    }

    /// Returns whether a quote is open at `at`, judging by the line before it.
    pub(super) fn is_quoted(&self, at: usize, quote: u8) -> bool {
        let start = self.line(at).start;
        let near = start.max(at.saturating_sub(MOST_BEFORE));
        near > start || self.bytes[near..at].iter().filter(|b| **b == quote).count() % 2 == 1
    }

    /// Returns where a word ends that began without a quote: one that opens further on may hold blanks, as in shells,
    /// and goes to the end of the line if nothing closes it.
    pub(super) fn word(&self, value: Range<usize>) -> usize {
        let is_quote = |b: &u8| matches!(b, b'"' | b'\'');
        let Some(first) = self.bytes[value.clone()].iter().find(|b| is_quote(b)) else { return value.end };
        if self.is_quoted(value.start, *first) {
            return value.end;
        }
        let line = self.line(value.start).end;
        let mut open = None;
        for at in value.start..line {
            let byte = self.bytes[at];
            match open {
                None if byte.is_ascii_whitespace() => return at,
                None => open = Some(byte).filter(is_quote),
                Some(quote) => open = Some(quote).filter(|quote| *quote != byte),
            }
        }
        line
    }

    /// Returns where a quoted text is closed: by the same quote after as many backslashes as opened it, on the same line
    /// or on those below that are indented further. Three quotes in a row are closed by three, on whatever line.
    pub(super) fn closing(&self, inside: usize, quote: u8, slashes: usize) -> Option<usize> {
        let triple = [quote; 3];
        if slashes == 0 && inside > 0 && self.bytes[inside - 1..].starts_with(&triple) {
            let from = inside + 2;
            return self.bytes[from..].windows(3).position(|w| w == triple).map(|n| from + n);
        }
        let first = self.number(inside);
        let mut before = 0;
        for number in first..first + MOST_QUOTED_LINES {
            let line = self.nth(number);
            let broken = number > first && self.bytes[..line.start].trim_ascii_end().ends_with(b"\\");
            if number > first && !broken && self.indent(number) <= self.indent(first) {
                break;
            }
            before = if broken { 0 } else { before };
            for at in line.start.max(inside)..line.end {
                match self.bytes[at] {
                    b'\\' => before += 1,
                    byte if byte == quote && (before == slashes || (slashes == 0 && before % 2 == 0)) => {
                        return Some(at - before.min(slashes));
                    }
                    _ => before = 0,
                }
            }
        }
        None
    }
}
