//! How parts of an inventory's tree are read: texts, numbers, secrets, ranges, each with its mistake at its place.

use super::diagnostic::{Diagnostic, Problems, Source, SourceSpan};
use super::files::Files;
use super::model::*;
use super::range::{MOST_OF_ALL, Range};
use super::tree::Node;
use crate::state::{HostName, shortened};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Where hosts are named, for what is found wrong with them later.
pub(super) type HostSpans = HashMap<HostName, SourceSpan>;

/// Reads `10%` or `3`.
pub(super) fn share(text: &str) -> Option<Share> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| *p <= 100).map(Share::Percent),
        None => text.parse().ok().map(Share::Hosts),
    }
}

/// A type that a whole number of an inventory may have.
pub(super) trait Whole: TryFrom<i64> {
    /// The largest, as shown.
    const MOST: u64;
}

impl Whole for u16 {
    const MOST: u64 = u16::MAX as u64;
}

impl Whole for u32 {
    const MOST: u64 = u32::MAX as u64;
}

/// What reading needs.
pub(super) struct Reader<'a> {
    pub files: &'a dyn Files,
    pub root: &'a Path,
    pub top: &'a Node,
    pub problems: &'a mut Problems,
    /// Texts that ranges have stood for.
    pub expanded: usize,
    /// Bytes that ranges have copied to their hosts.
    pub copied: usize,
    /// Where hosts are named.
    pub spans: HostSpans,
}

pub(super) fn text(node: Option<&Node>, key: &str) -> Option<String> {
    node?.get(key)?.text()
}

pub(super) fn texts(node: Option<&Node>, key: &str) -> Vec<String> {
    match node.and_then(|n| n.get(key)).map(|n| &n.value) {
        Some(super::tree::Value::List(items)) => items.iter().filter_map(Node::text).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn text_map(node: Option<&Node>, key: &str) -> BTreeMap<String, String> {
    let entries = node.and_then(|n| n.get(key)).map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|e| Some((e.key.clone(), e.node.text()?))).collect()
}

pub(super) fn flag(node: Option<&Node>, key: &str, default: bool) -> bool {
    match node.and_then(|n| n.get(key)).map(|n| &n.value) {
        Some(super::tree::Value::Bool { value, .. }) => *value,
        _ => default,
    }
}

impl Reader<'_> {
    pub(super) fn error(
        &mut self,
        code: &'static str,
        node: &Node,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.push(Diagnostic::error(code, message).at(&node.span).hint(hint));
    }

    /// Tells of an error without the line that it is on, which may hold a secret.
    pub(super) fn error_unquoted(
        &mut self,
        code: &'static str,
        node: &Node,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let Source { name, text, .. } = &*node.span.source;
        let source = Arc::new(Source { name: name.clone(), text: text.clone(), quotable: false });
        let span = SourceSpan { source, ..node.span.clone() };
        self.problems.push(Diagnostic::error(code, message).at(&span).hint(hint));
    }

    /// Reads a number that must fit its type; the table of keys has seen that it is one.
    pub(super) fn fits<T: Whole>(&mut self, node: Option<&Node>, key: &str) -> Option<T> {
        let value = node?.get(key)?;
        // What is no number at all has been told already.
        let number = value.whole()?;
        let fitting = T::try_from(number).ok();
        if fitting.is_none() {
            let hint = format!("Use a whole number from 0 to {}", T::MOST);
            self.error("E-TYPE", value, format!("invalid value {number} for `{key}`"), hint);
        }
        fitting
    }

    /// Reads a number that is at most so large.
    pub(super) fn at_most<T: Whole + PartialOrd + std::fmt::Display>(
        &mut self,
        node: Option<&Node>,
        key: &str,
        most: T,
    ) -> Option<T> {
        let number: T = self.fits(node, key)?;
        if number > most {
            let hint = format!("Use a whole number of at most {most}");
            self.error("E-VALUE", node?.get(key)?, format!("`{key}` is {number}, more than {most}"), hint);
            return None;
        }
        Some(number)
    }

    /// Reads a mapping from any name to a number.
    pub(super) fn counts(&mut self, node: &Node) -> BTreeMap<String, u32> {
        node.entries().iter().filter_map(|e| Some((e.key.clone(), self.fits(Some(node), &e.key)?))).collect()
    }

    /// Reads a number within limits.
    pub(super) fn between<T: Whole + PartialOrd + std::fmt::Display>(
        &mut self,
        node: Option<&Node>,
        key: &str,
        least: T,
        most: T,
    ) -> Option<T> {
        let number: T = self.fits(node, key)?;
        if number < least || number > most {
            let hint = format!("Use a whole number from {least} to {most}");
            self.error(
                "E-VALUE",
                node?.get(key)?,
                format!("`{key}` is {number}, outside {least} to {most}"),
                hint,
            );
            return None;
        }
        Some(number)
    }

    /// Reads `port`; nothing listens on port 0.
    pub(super) fn port(&mut self, node: Option<&Node>) -> Option<u16> {
        let port: u16 = self.fits(node, "port")?;
        if port == 0 {
            let hint = "Use a whole number from 1 to 65535";
            self.error("E-TYPE", node?.get("port")?, "invalid value 0 for `port`", hint);
            return None;
        }
        Some(port)
    }

    /// Reads `{secret: NAME}`; the name must be known.
    pub(super) fn secret(
        &mut self,
        node: Option<&Node>,
        key: &str,
        known: &BTreeMap<String, SecretSource>,
    ) -> Option<String> {
        let reference = node?.get(key)?.get("secret")?;
        let name = reference.text()?;
        // One that is written but cannot be read has been told already.
        let written = self.top.get("secrets").is_some_and(|secrets| secrets.get(&name).is_some());
        if !known.contains_key(&name) && !written {
            let hint = match known.is_empty() {
                true => format!("Add it: secrets: {{{name}: {{env: NAME}}}}"),
                false => {
                    format!("Use one of the secrets: {}", some_of(known.keys().map(String::as_str)))
                }
            };
            self.error("E-UNKNOWN-SECRET", reference, format!("unknown secret `{name}`"), hint);
        }
        Some(name)
    }

    pub(super) fn word<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let text = node.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
            let near =
                names.iter().min_by_key(|w| strsim::osa_distance(w, &text)).copied().unwrap_or_default();
            let message = format!("`{text}` is not one of {}", names.join(", "));
            self.error("E-VALUE", node, message, format!("Did you mean `{near}`?"));
        }
        found
    }
}

/// Reads a file of certificates and takes it apart.
pub(super) fn certificates(r: &mut Reader<'_>, node: &Node, field: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let Some(name) = node.text() else { return Vec::new() };
    let path = r.root.join(&name);
    let hint = format!("Set {field} to a PEM file next to the inventory with at least one certificate");
    let text = match r.files.read(&path) {
        Ok(text) => text,
        Err(error) => {
            r.error("E-READ", node, format!("cannot read {}: {error}", path.display()), &hint);
            return Vec::new();
        }
    };
    let found: Vec<String> = text
        .split(BEGIN)
        .skip(1)
        .filter_map(|part| Some(format!("{BEGIN}\n{}\n{END}\n", part.split_once(END)?.0.trim())))
        .collect();
    if found.is_empty() {
        r.error("E-CA", node, format!("{} contains no certificate", path.display()), hint);
    }
    found
}

/// Expands a name or address pattern, with any problem reported at `span`.
pub(super) fn expand_at(r: &mut Reader<'_>, span: &SourceSpan, pattern: &str) -> Option<Vec<String>> {
    let range = Range::of(pattern).and_then(|range| {
        if r.expanded.saturating_add(range.count()) > MOST_OF_ALL {
            return Err(format!("all ranges together expand to more than {MOST_OF_ALL} values"));
        }
        Ok(range)
    });
    match range {
        Ok(range) => {
            r.expanded += range.count();
            Some(range.texts())
        }
        Err(why) => {
            let message = format!("cannot expand `{}`: {why}", shortened(pattern, 60));
            let hint = "Use ranges such as h-[001-064] or 10.20.[1-2].[1-9,11]";
            r.problems.push(Diagnostic::error("E-RANGE", message).at(span).hint(hint));
            None
        }
    }
}

/// Returns the first names of many, for a hint.
pub(super) fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    /// More than so many are no help.
    const MOST: usize = 20;
    let mut names = names.peekable();
    let first: Vec<&str> = names.by_ref().take(MOST).collect();
    first.join(", ") + if names.peek().is_some() { ", …" } else { "" }
}
