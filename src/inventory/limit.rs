//! `--limit`: which hosts a command works on. Owns the expression's grammar: comma-separated names, pools, patterns with
//! `*` and `?`, ranges such as `h-[001-010]`; a leading `!` excludes what follows.

use super::range::Range;
use super::{HostState, Inventory};
use crate::state::HostName;
use std::collections::BTreeSet;

/// Why a `--limit` expression cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// A term selects nothing.
    #[error("--limit: no host, pool or pattern matches `{term}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    Nothing {
        /// The term.
        term: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// Everything was left out.
    #[error("--limit selects no active host")]
    Empty,
}

/// Returns the hosts that an expression selects, whatever their state; all of them without one. An expression that only
/// leaves out starts from all.
pub fn select(inventory: &Inventory, expression: Option<&str>) -> Result<BTreeSet<HostName>, LimitError> {
    let all: BTreeSet<HostName> = inventory.hosts.keys().cloned().collect();
    let Some(expression) = expression else { return Ok(all) };
    let terms: Vec<&str> = split(expression);
    let only_excludes = terms.iter().all(|t| t.starts_with('!'));
    let mut selected = if only_excludes { all } else { BTreeSet::new() };
    for term in terms {
        match term.strip_prefix('!') {
            Some(out) => {
                for name in matching(inventory, out)? {
                    selected.remove(&name);
                }
            }
            None => selected.extend(matching(inventory, term)?),
        }
    }
    if selected.is_empty() { Err(LimitError::Empty) } else { Ok(selected) }
}

/// Splits at commas outside brackets.
fn split(expression: &str) -> Vec<&str> {
    let mut depth = 0usize;
    expression
        .split(|c| {
            match c {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .collect()
}

fn matching(inventory: &Inventory, term: &str) -> Result<Vec<HostName>, LimitError> {
    if inventory.pools.contains_key(term) {
        return Ok(inventory
            .hosts
            .values()
            .filter(|h| h.pool.as_str() == term)
            .map(|h| h.name.clone())
            .collect());
    }
    let found: Vec<HostName> = match pattern(term) {
        Ok(pattern) => inventory.hosts.keys().filter(|n| pattern.is_match(n.as_str())).cloned().collect(),
        Err(_) => Vec::new(), // a range too large to be one
    };
    if found.is_empty() {
        let names =
            inventory.hosts.keys().map(HostName::as_str).chain(inventory.pools.keys().map(|p| p.as_str()));
        let suggestion = names
            .map(|n| (strsim::osa_distance(n, term), n))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map(|(_, n)| n.to_owned());
        return Err(LimitError::Nothing { term: term.to_owned(), suggestion });
    }
    Ok(found)
}

/// Turns a term into an anchored pattern; a range becomes the alternatives that it stands for.
fn pattern(term: &str) -> Result<regex::Regex, regex::Error> {
    let mut text = String::from("^");
    let mut rest = term;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' => text.push_str(".*"),
            '?' => text.push('.'),
            '[' => match rest.split_once(']') {
                Some((inner, after)) => {
                    text.push_str(&format!("(?:{})", numbers(inner).join("|")));
                    rest = after;
                }
                None => text.push_str("\\["),
            },
            c => text.push_str(&regex::escape(&c.to_string())),
        }
    }
    text.push('$');
    regex::Regex::new(&text)
}

/// Returns the numbers of `001-003,7` with their padding; what is no range, or stands for too many, stands for itself.
fn numbers(inner: &str) -> Vec<String> {
    /// Alternatives that a pattern may hold.
    const MOST: usize = 20_000;
    let pattern = format!("[{inner}]");
    match Range::of(&pattern) {
        Ok(range) if range.count() <= MOST => range.texts(),
        _ => vec![regex::escape(&pattern)],
    }
}

/// Returns whether a host takes no part, with the text for it.
pub fn skipped(inventory: &Inventory) -> Vec<(HostName, String)> {
    inventory
        .hosts
        .values()
        .filter(|h| h.state != HostState::Active)
        .map(|h| {
            let state = match h.state {
                HostState::Active => "active",
                HostState::Maintenance => "maintenance",
                HostState::Retired => "retired",
            };
            let reason = h.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
            let until = h.until.as_deref().map(|u| format!(" until {u}")).unwrap_or_default();
            (h.name.clone(), format!("{state}{reason}{until}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_inside_brackets_do_not_split() {
        assert_eq!(split("h-[1-3,7], general ,!h-2"), ["h-[1-3,7]", "general", "!h-2"]);
    }

    #[test]
    fn patterns_are_anchored_and_keep_padding() {
        let pattern = |term| pattern(term).expect("a pattern");
        let p = pattern("h-[001-003,7]");
        assert!(p.is_match("h-002") && p.is_match("h-7"));
        assert!(!p.is_match("h-2") && !p.is_match("h-0021") && !p.is_match("xh-002"));
        assert!(pattern("h-*").is_match("h-anything"));
        assert!(!pattern("h-?").is_match("h-12"));
        assert!(!pattern("a.b").is_match("axb"));
        assert!(!pattern(&format!("h-[{}]", vec!["1-99999"; 500].join(","))).is_match("h-1"), "a bomb");
    }
}
