//! The rules of gitleaks (<https://github.com/gitleaks/gitleaks>, MIT, see LICENSE.gitleaks next to this file), unchanged,
//! at commit b58d3f102cf3a2c84cb7f923d05c25c9b1aed84b: keywords, patterns, entropy and allowlists.

use super::text::{Text, pattern};
use aho_corasick::AhoCorasick;
use regex::bytes::{Captures, Regex};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

const RULES: &str = include_str!("gitleaks.toml");

/// A rule is tried so many lines before a line with a keyword of it, and so many after.
const LINES: (usize, usize) = (1, 3);
/// And no further than so many bytes before and after the keyword, whatever the lines: the longest of the rules' secrets
/// fits.
const REACH: (usize, usize) = (1024, 4096);
/// What most rules begin with: any name before the word that matters. It is no part of the secret, and without it a
/// pattern begins with literals, which is ten times as fast.
const ANY_NAME: &str = r"[\w.-]{0,50}?";

#[derive(Deserialize)]
struct File {
    allowlist: Allowlist,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: String,
    /// A rule about names of files has none.
    regex: Option<String>,
    #[serde(default)]
    secret_group: usize,
    #[serde(default)]
    entropy: f64,
    #[serde(default)]
    keywords: Vec<String>,
    #[serde(default)]
    allowlists: Vec<Allowlist>,
    #[serde(skip)]
    compiled: OnceLock<Option<Regex>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Allowlist {
    #[serde(default)]
    regex_target: Target,
    #[serde(default)]
    regexes: Vec<String>,
    #[serde(default)]
    stopwords: Vec<String>,
    #[serde(skip)]
    compiled: OnceLock<Vec<Regex>>,
}

/// What an allowlist looks at.
#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Target {
    #[default]
    Secret,
    Match,
    Line,
}

impl Rule {
    fn pattern(&self) -> Option<&Regex> {
        self.compiled.get_or_init(|| pattern(&self.regex.as_ref()?.replacen(ANY_NAME, "", 1)).ok()).as_ref()
    }

    /// Returns the secret of a match: the group that the rule names, or the first that took part.
    fn secret(&self, matched: &Captures<'_>) -> Option<Range<usize>> {
        let first = || matched.iter().skip(1).flatten().find(|m| !m.is_empty());
        let group = if self.secret_group > 0 { matched.get(self.secret_group) } else { first() };
        Some(group.or(matched.get(0))?.range())
    }
}

impl Allowlist {
    /// Returns whether it lets a secret pass. Paths mean nothing in an archive.
    fn allows(&self, secret: &[u8], matched: &[u8], line: &[u8]) -> bool {
        let compile = || self.regexes.iter().filter_map(|r| pattern(r).ok()).collect();
        let target = match self.regex_target {
            Target::Secret => secret,
            Target::Match => matched,
            Target::Line => line,
        };
        let secret = secret.to_ascii_lowercase();
        let holds = |word: &String| secret.windows(word.len().max(1)).any(|w| w == word.as_bytes());
        self.compiled.get_or_init(compile).iter().any(|r| r.is_match(target))
            || self.stopwords.iter().any(holds)
    }
}

/// All rules, and which of them a keyword calls for.
struct Published {
    file: File,
    keywords: AhoCorasick,
    called: Vec<Vec<usize>>,
}

impl Published {
    fn read() -> Option<Self> {
        let file: File = toml::from_str(RULES).ok()?;
        let mut words: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, rule) in file.rules.iter().enumerate().filter(|(_, rule)| rule.regex.is_some()) {
            rule.keywords.iter().for_each(|word| words.entry(word).or_default().push(number));
        }
        let keywords = AhoCorasick::builder().ascii_case_insensitive(true).build(words.keys()).ok()?;
        let called = words.into_values().collect();
        Some(Self { file, keywords, called })
    }

    /// Returns the parts of a text that each rule is to be tried on.
    fn windows(&self, text: &Text<'_>) -> Vec<Vec<Range<usize>>> {
        let mut windows: Vec<Vec<Range<usize>>> = vec![Vec::new(); self.file.rules.len()];
        let (mut line, mut seen) = (0, vec![None; self.called.len()]);
        for word in self.keywords.find_overlapping_iter(text.bytes) {
            let short = line_of(text, &mut line, word.end() - 1);
            let at = word.start();
            // A keyword that repeats on a line needs to match only once in a while.
            let last = &mut seen[word.pattern().as_usize()];
            if last.is_some_and(|last| at < last + REACH.0 / 2 && text.starts[short] <= last) {
                continue;
            }
            *last = Some(at);
            let start = text.nth(short.saturating_sub(LINES.0)).start.max(at.saturating_sub(REACH.0));
            let end = text.nth((short + LINES.1).min(text.starts.len() - 1)).end.min(at + REACH.1);
            for rule in &self.called[word.pattern().as_usize()] {
                match windows[*rule].last_mut() {
                    Some(last) if start <= last.end => {
                        last.start = last.start.min(start);
                        last.end = last.end.max(end);
                    }
                    _ => windows[*rule].push(start..end),
                }
            }
        }
        windows
    }
}

/// Returns the number of the line that holds `at`, going on from where the last question was.
fn line_of(text: &Text<'_>, line: &mut usize, at: usize) -> usize {
    while text.starts.get(*line + 1).is_some_and(|next| *next <= at) {
        *line += 1;
    }
    *line
}

fn published() -> Option<&'static Published> {
    static READ: OnceLock<Option<Published>> = OnceLock::new();
    READ.get_or_init(Published::read).as_ref()
}

/// Returns Shannon's entropy of a text in bits per byte, as gitleaks reckons it.
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    text.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let all = text.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| *n as f64 / all).map(|p| -p * p.log2()).sum()
}

/// Returns whether what the generic rule took for a secret is a word or a digest: logs are full of both after the word
/// `key`. Of fields with telling names digests are taken all the same, by our own patterns.
fn is_plain(text: &[u8]) -> bool {
    let hex = text.len() >= 16 && text.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-');
    hex || !text.iter().any(u8::is_ascii_digit)
}

/// Adds what is found.
pub(super) fn find(text: &Text<'_>, found: &mut Vec<Range<usize>>) {
    let Some(published) = published() else { return };
    for (rule, windows) in published.file.rules.iter().zip(published.windows(text)) {
        let Some(pattern) = rule.pattern().filter(|_| !windows.is_empty()) else { continue };
        for window in windows {
            let part = &text.bytes[window.clone()];
            for matched in pattern.captures_iter(part) {
                let (Some(secret), Some(whole)) = (rule.secret(&matched), matched.get(0)) else { continue };
                let bytes = &part[secret.clone()];
                let line = &text.bytes[text.line(window.start + whole.start())];
                let allows = |list: &Allowlist| list.allows(bytes, whole.as_bytes(), line);
                let plain = rule.id.starts_with("generic") && is_plain(bytes);
                if !plain
                    && (rule.entropy == 0.0 || entropy(bytes) > rule.entropy)
                    && !allows(&published.file.allowlist)
                    && !rule.allowlists.iter().any(allows)
                {
                    found.push(window.start + secret.start..window.start + secret.end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that this build cannot use, by name; one more must be looked at before it is added.
    const UNUSED: [&str; 1] = ["pkcs12-file"];
    /// What gitleaks lets pass and we do not: Go takes a brace without a number for itself, Rust does not.
    const NOT_ALLOWED: [&str; 4] = [
        r#"['"]?\$?{{[^}]+}}['"]?:['"]?\$?{{[^}]+}}['"]?"#,
        r#"import[ \t]+{[ \t\w,]+}[ \t]+from[ \t]+['"][^'"]+['"]"#,
        r"^\$(?:\d+|{\d+})$",
        r"^\${(?:[A-Z_]+|[a-z_]+)}$",
    ];

    #[test]
    fn every_rule_compiles_but_those_named_here() {
        let published = published().expect("the rules are TOML");
        let unused: Vec<&str> =
            published.file.rules.iter().filter(|r| r.pattern().is_none()).map(|r| r.id.as_str()).collect();
        assert_eq!(unused, UNUSED);
        let rules = || published.file.rules.iter().filter(|r| r.regex.is_some());
        assert!(rules().all(|r| !r.keywords.is_empty()), "a rule without keywords would never be tried");
        assert!(rules().count() > 200);
        let lists = rules().flat_map(|r| &r.allowlists).chain([&published.file.allowlist]);
        let unknown: Vec<&str> = lists
            .flat_map(|list| &list.regexes)
            .map(String::as_str)
            .filter(|t| pattern(t).is_err())
            .collect();
        assert_eq!(unknown, NOT_ALLOWED);
    }

    #[test]
    fn entropy_is_that_of_shannon() {
        assert_eq!(entropy(b"aaaa"), 0.0);
        assert_eq!(entropy(b"abcd"), 2.0);
    }
}
