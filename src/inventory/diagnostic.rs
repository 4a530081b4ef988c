//! Mistakes in an inventory: code, place, caret, hint; all of them at once.

use super::tree::Source;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::sync::Arc;

/// Where something stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
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
    pub place: Option<Place>,
    /// Said at the caret.
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
            place: None,
            label: None,
            source: None,
            hint: None,
        }
    }

    /// Returns a warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Says where.
    pub fn at(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// Says something at the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Says where the rule comes from.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// All findings of one inventory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostics {
    /// The inventory, as it was named.
    pub inventory: String,
    /// The findings, errors first, each in the order of its file.
    pub all: Vec<Diagnostic>,
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
    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.all.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Returns the number of warnings.
    pub fn warnings(&self) -> usize {
        self.all.len() - self.errors()
    }

    /// Sorts by file and place, errors before warnings.
    pub(super) fn sort(&mut self) {
        self.all.sort_by_key(|d| {
            let place = d.place.as_ref().map(|p| (p.source.name.clone(), p.start));
            (d.severity == Severity::Warning, place)
        });
        self.all.dedup();
    }

    /// Returns the findings as a person reads them, with a closing line that counts them.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in &self.all {
            let level = match diagnostic.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let mut group = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code).elements(
                diagnostic.place.iter().map(|place| {
                    let end = (place.start + place.len).min(place.source.text.len());
                    let start = place.start.min(end);
                    // A caret on one line: a mapping's span runs to its end.
                    let line = place.source.text[start..end].find('\n').map_or(end, |n| start + n);
                    Snippet::source(place.source.text.as_str()).path(place.source.name.as_str()).annotation(
                        AnnotationKind::Primary
                            .span(start..line.max(start))
                            .label(diagnostic.label.as_deref().unwrap_or("")),
                    )
                }),
            );
            if let Some(source) = &diagnostic.source {
                group = group.element(Level::NOTE.with_name("source").message(source.as_str()));
            }
            if let Some(hint) = &diagnostic.hint {
                group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
            }
            text.push_str(&renderer.render(&[group]).to_string());
            text.push_str("\n\n");
        }
        let (errors, warnings) = (self.errors(), self.warnings());
        let counts = match (errors, warnings) {
            (0, 0) => "no mistakes".to_owned(),
            (0, w) => count(w, "warning"),
            (e, 0) => count(e, "error"),
            (e, w) => format!("{}, {}", count(e, "error"), count(w, "warning")),
        };
        text + &format!("{counts} in {}; no host was contacted\n", self.inventory)
    }
}
