//! YAML as a tree in which every value knows its file and place; merging of layers. Owns no meaning.

use super::diagnostic::{Diagnostic, Place};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A file's name and text.
#[derive(PartialEq, Eq, Debug)]
pub struct Source {
    /// As shown in messages.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, or nothing after the colon.
    Null,
    /// A scalar; quoted or not, as text.
    Text(String),
    /// A number as written.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
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
    pub place: Place,
    /// Its value.
    pub node: Node,
}

/// The tree without files, as the parser gives it.
enum Raw {
    Null,
    Text(String),
    Number(String),
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
                Ok(Raw::Number(v.to_string()))
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

fn place(source: &Arc<Source>, location: serde_saphyr::Location) -> Place {
    let span = location.span();
    Place {
        source: source.clone(),
        line: location.line() as usize,
        column: location.column() as usize,
        start: span.byte_offset().unwrap_or(0) as usize,
        len: span.byte_len().unwrap_or(1).max(1) as usize,
    }
}

fn node(source: &Arc<Source>, raw: Spanned<Raw>, problems: &mut Vec<Diagnostic>) -> Node {
    let at = place(source, raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::Number(text) => Value::Number(text),
        Raw::Bool(b) => Value::Bool(b),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(source, item, problems)).collect()),
        Raw::Map(raw_entries) => {
            let mut entries: Vec<Entry> = Vec::new();
            let mut seen = std::collections::HashMap::new();
            for (key, value) in raw_entries {
                let key_place = place(source, key.referenced);
                let value = node(source, value, problems);
                if let Some(first) = seen.insert(key.value.clone(), key_place.line) {
                    problems.push(
                        Diagnostic::error("E-DUPLICATE-KEY", format!("duplicate key `{}`", key.value))
                            .at(&key_place)
                            .label(format!("it stands on line {first} too"))
                            .hint("keep one of the two"),
                    );
                    continue;
                }
                entries.push(Entry { key: key.value, place: key_place, node: value });
            }
            Value::Map(entries)
        }
    };
    Node { value, place: at }
}

/// Returns the place that `4, column 8` names.
fn spoken(source: &Arc<Source>, text: &str) -> Option<Place> {
    let (line, column) = text.split_once(", column ")?;
    let (line, column): (usize, usize) = (line.trim().parse().ok()?, column.trim().parse().ok()?);
    let before: usize = source.text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let start = (before + column.checked_sub(1)?).min(source.text.len().saturating_sub(1));
    let start = (0..=start).rev().find(|at| source.text.is_char_boundary(*at))?;
    Some(Place { source: source.clone(), line, column, start, len: 1 })
}

/// Reads one file. `None` if it is no YAML at all; the problems say why.
pub fn parse(source: &Arc<Source>, problems: &mut Vec<Diagnostic>) -> Option<Node> {
    /// An inventory of 10,000 hosts has some 60,000 values.
    const MOST_NODES: usize = 2_000_000;
    let mut budget = serde_saphyr::Budget::default();
    budget.max_nodes = MOST_NODES;
    budget.max_events = 4 * MOST_NODES;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    // YAML 1.2: `n` and `no` are names, not false.
    options.strict_booleans = true;
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(&source.text, options) {
        Ok(raw) => Some(node(source, raw, problems)),
        Err(error) => {
            // The parser's own errors say their place in words alone; the location is then the document's start.
            let text = error.without_snippet().to_string();
            let (what, at) = match text.rsplit_once(" at line ") {
                Some((what, at)) => (what.to_owned(), spoken(source, at)),
                None => (text, None),
            };
            let at = at.or_else(|| error.location().map(|location| place(source, location)));
            let mut problem = Diagnostic::error("E-YAML", format!("not valid YAML: {what}")).hint(
                "the mistake is at the caret or just before it: a missing colon, bracket or quote, or a tab",
            );
            if let Some(at) = at {
                problem = problem.at(&at);
            }
            problems.push(problem);
            None
        }
    }
}

/// Lays `over` on `base`: maps deep, lists and scalars replace, `null` deletes.
pub fn merge(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Map(entries), Value::Map(more)) => {
            // By name once, for layers of thousands of hosts; what is deleted goes at the end, so that places stay.
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
        (_, value) => *base = Node { value, place: over.place },
    }
}

impl Node {
    /// Returns whether a place is one of this value's own, or of what is in it.
    pub fn holds(&self, place: &Place) -> bool {
        let same = |p: &Place| p.start == place.start && Arc::ptr_eq(&p.source, &place.source);
        same(&self.place)
            || match &self.value {
                Value::Map(entries) => entries.iter().any(|e| same(&e.place) || e.node.holds(place)),
                Value::List(items) => items.iter().any(|item| item.holds(place)),
                Value::Null | Value::Text(_) | Value::Number(_) | Value::Bool(_) => false,
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

    /// Returns a scalar as text.
    pub fn text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text.clone()),
            Value::Bool(b) => Some(b.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Returns the value as JSON, for what is passed on untouched.
    pub fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Text(text) => serde_json::Value::String(text.clone()),
            Value::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
            Value::Bool(b) => (*b).into(),
            Value::List(items) => items.iter().map(Node::json).collect(),
            Value::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.json())).collect())
            }
        }
    }

    /// Returns what kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Text(_) => "text",
            Value::Number(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}
