//! Errors in an inventory: code, location, caret, hint; all of them at once.

use crate::state::{plain_in_place, plain_line, shortened};
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A file's name and text.
#[derive(PartialEq, Eq, Debug)]
pub struct Source {
    /// As shown in messages.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// Lines of it may be shown: it is an inventory, and no other file that an inventory led to.
    pub quotable: bool,
}

/// Findings of one code that are shown one by one; the others are counted.
const MOST_OF_A_CODE: usize = 20;
/// The longest message or hint that is shown whole, in characters.
const MOST_MESSAGE: usize = 600;
/// The longest line that is shown under a message, in bytes: more is no help to a reader.
const MOST_LINE: usize = 1_000;

/// A range of text in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceSpan {
    /// The file.
    pub source: Arc<Source>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Byte offset of its start.
    pub start: usize,
    /// Its length in bytes.
    pub len: usize,
}

impl SourceSpan {
    /// Returns the line on which it starts, and its span in that line; nothing of what is behind the line's end. The
    /// bounds are those of characters, whatever the parser said.
    fn line(&self) -> (&str, Range<usize>) {
        let text = self.source.text.as_str();
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let start = boundary(self.start).unwrap_or(0);
        let begin = text[..start].rfind('\n').map_or(0, |n| n + 1);
        let line = text[begin..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let from = (start - begin).min(line.len());
        let end = boundary(self.start.saturating_add(self.len)).unwrap_or(start).max(start);
        // A mapping's span runs to its end; a caret within a character covers all of it.
        let one = line[from..].chars().next().map_or(0, char::len_utf8);
        let to = (end - begin).max(from + one).min(line.len()).max(from);
        (line, from..to)
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The inventory cannot be used.
    Error,
    /// It can, but look.
    Warning,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong; no full stop.
    pub message: String,
    /// Where.
    pub span: Option<SourceSpan>,
    /// The label at the caret.
    pub label: Option<String>,
    /// Where the rule comes from.
    pub source: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Returns an error.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            span: None,
            label: None,
            source: None,
            hint: None,
        }
    }

    /// Returns a warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds the location.
    pub fn at(mut self, span: &SourceSpan) -> Self {
        self.span = Some(span.clone());
        self
    }

    /// Adds a label at the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds the source of the rule.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Findings as they are collected: of each code the first ones, and how many more there were.
#[derive(Default)]
pub(super) struct Problems {
    all: Vec<Diagnostic>,
    of_a_code: BTreeMap<&'static str, usize>,
}

impl Problems {
    /// Adds a finding.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        let seen = self.of_a_code.entry(diagnostic.code).or_default();
        *seen += 1;
        if *seen <= MOST_OF_A_CODE {
            self.all.push(diagnostic);
        }
    }

    /// Returns whether another finding of a code would only be counted, so that nothing need be looked up for it.
    pub(super) fn is_full(&self, code: &str) -> bool {
        self.of_a_code.get(code).is_some_and(|seen| *seen >= MOST_OF_A_CODE)
    }

    /// Returns the findings that are kept.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.all.iter()
    }

    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns all of them, sorted: errors first, each in the order of its file.
    pub(super) fn of(mut self, inventory: String) -> Diagnostics {
        // Sections are read more than once, so the same may have been found again.
        self.all.sort_by_cached_key(|d| {
            let span = d.span.as_ref().map(|p| (p.source.name.clone(), p.start));
            (d.severity == Severity::Warning, span)
        });
        self.all.dedup();
        let more = self.of_a_code.into_iter().filter(|(_, n)| *n > MOST_OF_A_CODE);
        let more = more.map(|(code, n)| (code, n - MOST_OF_A_CODE)).collect();
        Diagnostics { inventory, all: self.all, more }
    }
}

/// All findings of one inventory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostics {
    /// The inventory, as it was named.
    pub inventory: String,
    /// The findings, errors first, each in the order of its file.
    pub all: Vec<Diagnostic>,
    /// How many more there were of a code than are shown.
    pub more: BTreeMap<&'static str, usize>,
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

fn count(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

impl Diagnostics {
    /// Returns these findings and more, those of a code counted together.
    pub fn with(self, more: impl IntoIterator<Item = Diagnostic>) -> Self {
        let mut problems = Problems::default();
        self.all.into_iter().chain(more).for_each(|found| problems.push(found));
        let mut all = problems.of(self.inventory);
        for (code, count) in self.more {
            *all.more.entry(code).or_default() += count;
        }
        all
    }

    fn count(&self, severity: Severity) -> usize {
        let of = |d: &&Diagnostic| d.severity == severity;
        // A code is always of one severity.
        let more = |code: &str| self.all.iter().find(|d| d.code == code).is_some_and(|d| of(&d));
        let more: usize = self.more.iter().filter(|(code, _)| more(code)).map(|(_, n)| n).sum();
        self.all.iter().filter(of).count() + more
    }

    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Returns the number of warnings.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// Returns the findings as a person reads them, with a closing line that counts them. Nothing that the inventory says
    /// steers the terminal.
    pub fn render(&self, color: bool) -> String {
        self.render_within(color, None)
    }

    /// Returns the same with lines of source cut to a terminal's columns; messages are as long as they are.
    pub fn render_within(&self, color: bool, width: Option<usize>) -> String {
        let text = self.render_each(color, width);
        let (errors, warnings) = (self.errors(), self.warnings());
        let counts = match (errors, warnings) {
            (0, 0) => "no errors".to_owned(),
            (0, w) => count(w, "warning"),
            (e, 0) => count(e, "error"),
            (e, w) => format!("{}, {}", count(e, "error"), count(w, "warning")),
        };
        // With warnings alone a command goes on, and may contact hosts.
        let end = if errors > 0 { "; no host was contacted" } else { "" };
        text + &format!("{counts} in {}{end}\n", plain_line(&self.inventory))
    }

    /// Returns the findings without a closing line.
    pub fn render_each(&self, color: bool, width: Option<usize>) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in &self.all {
            let level = match diagnostic.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let fit = |text: &str| plain_line(&shortened(text, MOST_MESSAGE)).into_owned();
            let mut group = level
                .primary_title(fit(&diagnostic.message))
                .id(diagnostic.code)
                .elements([] as [Origin<'_>; 0]);
            if let Some(span) = &diagnostic.span {
                let (line, range) = span.line();
                let name = plain_line(&span.source.name).into_owned();
                group = if span.source.quotable && line.len() <= MOST_LINE {
                    let label = diagnostic.label.as_deref().map(fit).unwrap_or_default();
                    let annotation = AnnotationKind::Primary.span(range).label(label);
                    let line = plain_in_place(line);
                    let snippet = Snippet::source(line).line_start(span.line).path(name);
                    group.element(snippet.annotation(annotation))
                } else {
                    let origin = Origin::path(name).line(span.line).char_column(span.column);
                    group.element(origin)
                };
            }
            if let Some(source) = &diagnostic.source {
                group = group.element(Level::NOTE.with_name("source").message(fit(source)));
            }
            if let Some(hint) = &diagnostic.hint {
                group = group.element(Level::HELP.with_name("hint").message(fit(hint)));
            }
            // The width is that of the source, without line numbers.
            let digits = diagnostic.span.as_ref().map_or(0, |span| span.line.to_string().len());
            let renderer = match width {
                Some(width) => renderer.clone().term_width(width.saturating_sub(digits + 3)),
                None => renderer.clone(),
            };
            text.push_str(&renderer.render(&[group]).to_string());
            text.push_str("\n\n");
        }
        for (code, n) in &self.more {
            text += &format!("… and {n} more of {code}\n\n");
        }
        text
    }
}
