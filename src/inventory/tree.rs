//! YAML as a tree in which every value knows its file and position; merging of layers. Does not interpret values. Documents of
//! other tools are read with [`yaml`], within the same limits.

use super::diagnostic::{Diagnostic, Diagnostics, Problems, Source, SourceSpan};
use crate::state::is_steering;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A value with its span.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub span: SourceSpan,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, or nothing after the colon.
    Null,
    /// A scalar; quoted or not, as text.
    Text(String),
    /// A number.
    Number {
        /// As it stands in the file: what a text is made of (`1.10`, `00123`, `1e3`).
        written: String,
        /// In its shortest decimal form: what a number is read from.
        value: String,
    },
    /// `true` or `false`.
    Bool {
        /// As it stands in the file: `True`.
        written: String,
        /// Its value.
        value: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in order.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub span: SourceSpan,
    /// Its value.
    pub node: Node,
}

/// The tree without files, as the parser gives it.
enum Raw {
    Null,
    Text(String),
    Number(String),
    /// A number that no float holds, such as the revision `123e4567`, or none at all: `.nan`.
    Infinite(String),
    Bool(bool),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Raw;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
                Ok(Raw::Number(v.to_string()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
                Ok(Raw::Number(v.to_string()))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
                Ok(if v.is_finite() { Raw::Number(v.to_string()) } else { Raw::Infinite(v.to_string()) })
            }
            fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
                Ok(Raw::Text(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Raw::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn span(source: &Arc<Source>, location: serde_saphyr::Location) -> SourceSpan {
    let span = location.span();
    SourceSpan {
        source: source.clone(),
        line: location.line() as usize,
        column: location.column() as usize,
        start: span.byte_offset().unwrap_or(0) as usize,
        len: span.byte_len().unwrap_or(1).max(1) as usize,
    }
}

/// Refuses text that would steer a terminal or turn around what a reviewer reads.
pub(super) fn readable(text: &str, at: &SourceSpan, problems: &mut Problems) {
    if let Some(c) = text.chars().find(|c| is_steering(*c) && !matches!(c, '\n' | '\t')) {
        let message = format!("the character U+{:04X} is not allowed in an inventory", c as u32);
        problems.push(
            Diagnostic::error("E-CHARACTER", message)
                .at(at)
                .hint("Remove it: control and text-direction characters are not allowed"),
        );
    }
}

/// Returns a plain scalar as it stands in the file; `or` if it does not stand there alone, as behind a tag.
fn written(source: &Arc<Source>, location: serde_saphyr::Location, or: String) -> String {
    let at = span(source, location);
    let text = source.text.get(at.start..at.start.saturating_add(at.len)).unwrap_or_default().trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { or }
}

fn node(source: &Arc<Source>, raw: Spanned<Raw>, problems: &mut Problems) -> Node {
    let at = span(source, raw.referenced);
    // Of an alias, what it stands for.
    let defined = raw.defined;
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => {
            readable(&text, &at, problems);
            Value::Text(text)
        }
        Raw::Number(value) => Value::Number { written: written(source, defined, value.clone()), value },
        Raw::Infinite(value) => Value::Text(written(source, defined, value)),
        Raw::Bool(value) => Value::Bool { written: written(source, defined, value.to_string()), value },
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(source, item, problems)).collect()),
        Raw::Map(raw_entries) => {
            let mut entries: Vec<Entry> = Vec::new();
            let mut seen = std::collections::HashMap::new();
            for (key, value) in raw_entries {
                let key_span = span(source, key.referenced);
                readable(&key.value, &key_span, problems);
                let value = node(source, value, problems);
                if let Some(first) = seen.insert(key.value.clone(), key_span.line) {
                    problems.push(
                        Diagnostic::error("E-DUPLICATE-KEY", format!("duplicate key `{}`", key.value))
                            .at(&key_span)
                            .label(format!("also on line {first}"))
                            .hint("Remove one of the two"),
                    );
                    continue;
                }
                entries.push(Entry { key: key.value, span: key_span, node: value });
            }
            Value::Map(entries)
        }
    };
    Node { value, span: at }
}

/// Returns the place that `4, column 8` names; columns count characters.
fn spoken(source: &Arc<Source>, text: &str) -> Option<SourceSpan> {
    let (line, column) = text.split_once(", column ")?;
    let (line, column): (usize, usize) = (line.trim().parse().ok()?, column.trim().parse().ok()?);
    let mut lines = source.text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(line.checked_sub(1)?).map(str::len).sum();
    let here = lines.next().unwrap_or_default();
    let within = here.char_indices().nth(column.checked_sub(1)?).map_or(here.len(), |(at, _)| at);
    Some(SourceSpan { source: source.clone(), line, column, start: before + within, len: 1 })
}

/// What all files of an inventory may hold together. An alias counts each time that it stands for something.
pub(super) struct Budget {
    /// Values and keys; an inventory of 10,000 hosts has some 100,000. Each takes 700 bytes until all is read.
    nodes: usize,
    /// Text, in bytes.
    text: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: 400_000, text: 16 << 20 }
    }
}

/// Reads one file. `None` if it is not YAML; the problems say why.
pub(super) fn parse(source: &Arc<Source>, left: &mut Budget, problems: &mut Problems) -> Option<Node> {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_nodes = left.nodes;
    budget.max_events = left.nodes.saturating_mul(4).max(16);
    budget.max_total_scalar_bytes = left.text;
    budget.max_documents = 1;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    // YAML 1.2: `n` and `no` are names, not false.
    options.strict_booleans = true;
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(&source.text, options) {
        Ok(raw) => {
            let node = node(source, raw, problems);
            left.nodes = left.nodes.saturating_sub(node.count());
            left.text = left.text.saturating_sub(node.size());
            Some(node)
        }
        Err(error) if error.to_string().contains("budget") => {
            let whole = Budget::default();
            let message = format!(
                "the inventory exceeds the limit of {} values or {} MiB of text, counting every use of an alias",
                whole.nodes,
                whole.text >> 20
            );
            problems.push(
                Diagnostic::error("E-YAML", message)
                    .hint("Shorten it, or split it: one inventory describes one cluster"),
            );
            None
        }
        Err(error) => {
            // The parser's own errors have their position only in their text; the location is then the document's start.
            let text = error.without_snippet().to_string();
            let (what, at) = match text.rsplit_once(" at line ") {
                Some((what, at)) => (what.to_owned(), spoken(source, at)),
                None => (text, None),
            };
            let at = at.or_else(|| error.location().map(|location| span(source, location)));
            // A parser message may quote the file.
            let message =
                if source.quotable { format!("not valid YAML: {what}") } else { "not valid YAML".to_owned() };
            let mut problem = Diagnostic::error("E-YAML", message)
                .hint("Look at the caret or just before it: a missing colon, bracket or quote, or a tab");
            if let Some(at) = at {
                problem = problem.at(&at);
            }
            problems.push(problem);
            None
        }
    }
}

/// Reads a document of another tool: a mistake names its line, and no line is shown, for it may hold a secret.
pub fn yaml(name: &str, text: String) -> Result<Node, Diagnostics> {
    let source = Arc::new(Source { name: name.to_owned(), text, quotable: false });
    let mut problems = Problems::default();
    let node = parse(&source, &mut Budget::default(), &mut problems);
    match node {
        Some(node) if problems.is_empty() => Ok(node),
        _ => Err(problems.of(name.to_owned())),
    }
}

/// Reads a document of our own beside an inventory, such as a policy. Lines of it are shown under a mistake only if it says that it
/// is one of ours: a path may lead elsewhere.
pub fn document(name: &str, text: String) -> Result<Node, Diagnostics> {
    let quotable = text.lines().any(|line| line.starts_with("apiVersion: provision/"));
    let source = Arc::new(Source { name: name.to_owned(), text, quotable });
    let mut problems = Problems::default();
    let node = parse(&source, &mut Budget::default(), &mut problems);
    match node {
        Some(node) if problems.is_empty() => Ok(node),
        _ => Err(problems.of(name.to_owned())),
    }
}

/// Lays `over` on `base`: maps deep, lists and scalars replace, `null` deletes.
pub(super) fn merge(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Map(entries), Value::Map(more)) => {
            // By name once, for layers of thousands of hosts; what is deleted goes at the end, so that positions stay.
            let known: HashMap<String, usize> =
                entries.iter().enumerate().map(|(at, e)| (e.key.clone(), at)).collect();
            let mut deleted = HashSet::new();
            for entry in more {
                match (known.get(&entry.key), &entry.node.value) {
                    (Some(at), Value::Null) => {
                        deleted.insert(*at);
                    }
                    (Some(at), _) => merge(&mut entries[*at].node, entry.node),
                    (None, _) => entries.push(entry),
                }
            }
            let mut at = 0..;
            entries.retain(|_| at.next().is_some_and(|at| !deleted.contains(&at)));
        }
        (_, value) => *base = Node { value, span: over.span },
    }
}

impl Node {
    /// Returns whether a place is one of this value's own, or of what is in it.
    pub(super) fn holds(&self, span: &SourceSpan) -> bool {
        let same = |p: &SourceSpan| p.start == span.start && Arc::ptr_eq(&p.source, &span.source);
        same(&self.span)
            || match &self.value {
                Value::Map(entries) => entries.iter().any(|e| same(&e.span) || e.node.holds(span)),
                Value::List(items) => items.iter().any(|item| item.holds(span)),
                Value::Null | Value::Text(_) | Value::Number { .. } | Value::Bool { .. } => false,
            }
    }

    /// Returns the entries of a mapping.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|e| e.key == key).map(|e| &e.node)
    }

    /// Returns the value at a path, or the nearest above it.
    pub(super) fn at(&self, path: &[&str]) -> &Node {
        let mut at = self;
        for part in path {
            match at.get(part) {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    /// Returns how many values and keys it holds.
    fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| 1 + e.node.count()).sum(),
            Value::Null | Value::Bool { .. } | Value::Text(_) | Value::Number { .. } => 0,
        }
    }

    /// Returns about how much text it holds, in bytes.
    pub(super) fn size(&self) -> usize {
        match &self.value {
            Value::Null | Value::Bool { .. } => 1,
            Value::Text(text) | Value::Number { written: text, .. } => text.len() + 1,
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.key.len() + e.node.size()).sum(),
        }
    }

    /// Returns a scalar as text, as it is written.
    pub fn text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) | Value::Number { written: text, .. } | Value::Bool { written: text, .. } => {
                Some(text.clone())
            }
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Returns whether a tag of its tool's own (`!vault`, `!include`) stands before a scalar, whose key is at `key`.
    pub fn is_tagged(&self, key: &SourceSpan) -> bool {
        let text = &self.span.source.text;
        let before = text.get(key.start.saturating_add(key.len)..self.span.start).unwrap_or_default();
        let value = text.get(self.span.start..).unwrap_or_default();
        let tagged = before.contains('!') || value.starts_with('!');
        // `!!str` and its like are YAML's.
        let of_yaml = before.contains("!!") || value.starts_with("!!");
        tagged && !of_yaml && !matches!(self.value, Value::List(_) | Value::Map(_))
    }

    /// Returns a whole number, in quotes or not.
    pub fn whole(&self) -> Option<i64> {
        match &self.value {
            Value::Text(text) | Value::Number { value: text, .. } => text.parse().ok(),
            Value::Null | Value::Bool { .. } | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Returns the value as JSON, for what is passed on untouched.
    pub fn json(&self) -> serde_json::Value {
        self.as_json(&|_, value| serde_json::from_str(value).unwrap_or_else(|_| value.into()))
    }

    /// Returns the value as JSON in which a number is a text where it is written unlike that number, for comparing and
    /// showing: `1.10` and `1.1` are two versions.
    pub(super) fn json_as_written(&self) -> serde_json::Value {
        self.as_json(&|written, value| match serde_json::from_str(value) {
            Ok(number) if written == value => number,
            _ => written.into(),
        })
    }

    fn as_json(&self, number: &dyn Fn(&str, &str) -> serde_json::Value) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Text(text) => serde_json::Value::String(text.clone()),
            Value::Number { written, value } => number(written, value),
            Value::Bool { value, .. } => (*value).into(),
            Value::List(items) => items.iter().map(|item| item.as_json(number)).collect(),
            Value::Map(entries) => {
                let entry = |e: &Entry| (e.key.clone(), e.node.as_json(number));
                serde_json::Value::Object(entries.iter().map(entry).collect())
            }
        }
    }

    /// Returns what kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Text(_) => "text",
            Value::Number { .. } => "a number",
            Value::Bool { .. } => "true or false",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}
