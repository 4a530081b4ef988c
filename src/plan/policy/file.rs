//! Files of policies: their form, and every mistake in them at its place. Evaluates nothing.

use super::expression::{Expression, on_large_stack};
use crate::inventory::{Diagnostic, Diagnostics, Entry, Node, SourceSpan, Value, document};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The largest file of policies, in bytes.
pub const MOST_POLICY: usize = 256 << 10;
/// Files that are read together.
pub const MOST_POLICIES: usize = 100;
/// Rules of all files together.
const MOST_RULES: usize = 200;
/// The most approvals that a rule may ask for.
const MOST_APPROVALS: i64 = 100;
/// Variables of expressions: the properties of [`super::Facts`], and the file's own parameters.
const VARIABLES: [&str; 10] =
    ["command", "now", "user", "ci", "commit", "approvals", "plan", "inventory", "before", "parameters"];

/// What a rule does where it applies.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Refuses the change.
    Deny,
    /// Says so.
    Warn,
    /// Refuses the change until enough people have approved the saved plan.
    RequireApproval,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its file's name and its own: `production/pool-share`.
    pub name: String,
    /// What it does where it applies.
    pub effect: Effect,
    /// How many approvals it asks for.
    pub approvals: usize,
    /// What is said where it applies.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where it stands.
    pub span: SourceSpan,
    /// When it applies.
    pub(super) when: Expression,
    /// What its file says for all its rules.
    pub(super) file: Arc<FileWide>,
}

/// What holds for all rules of a file.
#[derive(Debug)]
pub(super) struct FileWide {
    /// Values for the rules.
    pub parameters: serde_json::Value,
    /// The time zone of `now`, if it is not UTC.
    pub zone: Option<TimeZone>,
}

/// Rules that a change is judged by.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// Where they were read from: a folder, a file, or `REV:PATH`.
    pub source: String,
    /// sha256 over their files, hex.
    pub digest: String,
    /// The rules, in the order of files and in theirs.
    pub rules: Vec<Rule>,
}

impl Policies {
    /// Reads the texts of files, each with its name.
    pub fn read(source: &str, files: &[(String, String)]) -> Result<Self, Diagnostics> {
        let mut reader = Reader { found: Vec::new(), rules: Vec::new(), names: Vec::new() };
        let mut digest = Sha256::new();
        let of_all =
            |problem| Diagnostics { inventory: source.to_owned(), ..Diagnostics::default() }.with([problem]);
        if files.len() > MOST_POLICIES {
            let message = format!("{} files of policies, more than {MOST_POLICIES}", files.len());
            return Err(of_all(Diagnostic::error("E-POLICY-LIMIT", message).hint("Merge some of them")));
        }
        for (name, text) in files {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name.as_bytes());
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
            if text.len() > MOST_POLICY {
                let message = format!("{name} is larger than {} KiB", MOST_POLICY >> 10);
                return Err(of_all(Diagnostic::error("E-POLICY-LIMIT", message).hint("Split it")));
            }
            match document(name, text.clone()) {
                Ok(node) => {
                    // Parsing expressions is recursive.
                    if on_large_stack(|| reader.policy(&node)).is_none() {
                        let message = format!("internal error in the expressions of {name}");
                        reader.found.push(Diagnostic::error("E-POLICY-EXPRESSION", message).at(&node.span));
                    }
                }
                Err(more) => reader.found.extend(more.all),
            }
        }
        if reader.rules.len() > MOST_RULES {
            let message = format!("{} rules, more than {MOST_RULES}", reader.rules.len());
            reader.found.push(Diagnostic::error("E-POLICY-LIMIT", message).hint("Merge some of them"));
        }
        if !reader.found.is_empty() {
            let none = Diagnostics { inventory: source.to_owned(), ..Diagnostics::default() };
            return Err(none.with(reader.found));
        }
        let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { source: source.to_owned(), digest, rules: reader.rules })
    }

    /// Returns whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// Reads files one after the other.
struct Reader {
    found: Vec<Diagnostic>,
    rules: Vec<Rule>,
    /// Names of policies so far.
    names: Vec<String>,
}

/// Returns whether a text is a name as rules have: small letters, digits and `-`.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 63 && text.chars().all(plain) && !text.starts_with('-')
}

impl Reader {
    fn error(
        &mut self,
        code: &'static str,
        at: &SourceSpan,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.found.push(Diagnostic::error(code, message).at(at).hint(hint));
    }

    /// Refuses what is no mapping, and keys that are none.
    fn keys(&mut self, node: &Node, known: &[&str], required: &[&str], what: &str) {
        let Value::Map(entries) = &node.value else {
            let hint = format!("Use a mapping with {}", known.join(", "));
            return self.error("E-TYPE", &node.span, format!("{what} must be a mapping"), hint);
        };
        for Entry { key, span, .. } in entries {
            if known.contains(&key.as_str()) {
                continue;
            }
            let near = known.iter().min_by_key(|name| strsim::osa_distance(name, key));
            let hint = match near.filter(|name| strsim::osa_distance(name, key) <= 3) {
                Some(name) => format!("Did you mean `{name}`?"),
                None => format!("Use one of {}", known.join(", ")),
            };
            self.error("E-UNKNOWN-KEY", span, format!("unknown key `{key}`"), hint);
        }
        for name in required.iter().filter(|name| node.get(name).is_none()) {
            self.error("E-MISSING", &node.span, format!("{what} has no `{name}`"), format!("Add `{name}`"));
        }
    }

    fn text(&mut self, node: &Node, key: &str) -> Option<String> {
        let value = node.get(key)?;
        let text = match &value.value {
            Value::Text(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Bool { written, .. } if key == "when" => Some(written.clone()),
            _ => None,
        };
        if text.is_none() {
            self.error(
                "E-TYPE",
                &value.span,
                format!("`{key}` must be text"),
                "Put it in quotes, or after `|`",
            );
        }
        text
    }

    fn policy(&mut self, node: &Node) {
        let known = ["apiVersion", "kind", "metadata", "zone", "parameters", "rules"];
        self.keys(node, &known, &["apiVersion", "kind", "metadata", "rules"], "a policy");
        for (key, wanted) in [("apiVersion", "provision/v1"), ("kind", "Policy")] {
            if let Some(value) = node.get(key).filter(|value| value.text().as_deref() != Some(wanted)) {
                let hint = format!("Use {key}: {wanted}");
                self.error("E-VALUE", &value.span, format!("`{key}` is not {wanted}"), hint);
            }
        }
        let mut policy = String::new();
        if let Some(metadata) = node.get("metadata") {
            self.keys(metadata, &["name", "description"], &["name"], "`metadata`");
            if let Some(name) = metadata.get("name") {
                policy = name.text().unwrap_or_default();
                if !is_name(&policy) {
                    let hint = "Use small letters, digits and `-`";
                    self.error("E-VALUE", &name.span, format!("`{policy}` is not a name"), hint);
                } else if self.names.contains(&policy) {
                    let message = format!("another file is called `{policy}` too");
                    self.error("E-VALUE", &name.span, message, "Give each file a name of its own");
                }
                self.names.push(policy.clone());
            }
        }
        let parameters = match node.get("parameters") {
            Some(parameters) if matches!(parameters.value, Value::Map(_)) => parameters.json(),
            Some(other) => {
                self.error(
                    "E-TYPE",
                    &other.span,
                    "`parameters` must be a mapping",
                    "Write it as {name: value}",
                );
                serde_json::Value::Null
            }
            None => serde_json::Value::Object(serde_json::Map::new()),
        };
        let zone = node.get("zone").and_then(|zone| self.zone(zone));
        let file = Arc::new(FileWide { parameters, zone });
        let Some(rules) = node.get("rules") else { return };
        if rules.entries().is_empty() {
            let hint = "Use a mapping from names of rules to `when`, `effect` and `message`";
            return self.error("E-TYPE", &rules.span, "`rules` must have at least one rule", hint);
        }
        for entry in rules.entries() {
            self.rule(&policy, entry, &file);
        }
    }

    /// Reads a time zone of the database in this program: what a rule says depends on no machine.
    fn zone(&mut self, node: &Node) -> Option<TimeZone> {
        let said = node.text().unwrap_or_default();
        let zones = TimeZoneDatabase::bundled();
        let zone = zones.get(&said).ok();
        if zone.is_none() {
            let far = |name: &str| strsim::osa_distance(&name.to_lowercase(), &said.to_lowercase());
            let near = zones.available().map(|name| name.to_string()).min_by_key(|name| far(name));
            let hint = match near.filter(|name| far(name) <= 3) {
                Some(name) => format!("Did you mean `{name}`?"),
                None => "Use a name of the IANA time zone database, such as Europe/Berlin".to_owned(),
            };
            let said: String = said.chars().take(64).collect();
            self.error("E-VALUE", &node.span, format!("`{said}` is not a time zone"), hint);
        }
        zone
    }

    fn rule(&mut self, policy: &str, entry: &Entry, file: &Arc<FileWide>) {
        let Entry { key, span, node } = entry;
        if !is_name(key) {
            self.error(
                "E-VALUE",
                span,
                format!("`{key}` is not a name"),
                "Use small letters, digits and `-`",
            );
        }
        let known = ["when", "effect", "approvals", "message", "hint"];
        self.keys(node, &known, &["when", "effect", "message"], &format!("rule `{key}`"));
        let (when, message, hint) =
            (self.text(node, "when"), self.text(node, "message"), self.text(node, "hint"));
        let effect = node.get("effect").and_then(|value| {
            let word = value.text().unwrap_or_default();
            let found = serde_json::from_value(word.clone().into()).ok();
            if found.is_none() {
                let hint = "Use deny, warn or requireApproval";
                self.error("E-VALUE", &value.span, format!("`{word}` is not an effect"), hint);
            }
            found
        });
        let mut approvals = usize::from(effect == Some(Effect::RequireApproval));
        if let Some(value) = node.get("approvals") {
            match value.whole().filter(|n| (1..=MOST_APPROVALS).contains(n)) {
                Some(_) if effect.is_some_and(|effect| effect != Effect::RequireApproval) => {
                    let hint = "Remove it, or use effect: requireApproval";
                    self.error("E-VALUE", &value.span, "`approvals` without requireApproval", hint);
                }
                Some(n) => approvals = usize::try_from(n).unwrap_or(1),
                None => {
                    let hint = format!("Use a whole number from 1 to {MOST_APPROVALS}");
                    self.error("E-VALUE", &value.span, "`approvals` is not a number of people", hint);
                }
            }
        }
        let when = when.and_then(|text| match Expression::parse(&text, &VARIABLES) {
            Ok(expression) => Some(expression),
            Err(why) => {
                let at = node.get("when").map_or(span, |value| &value.span);
                let hint = "See docs/reference/policies.md for variables and functions";
                self.error(
                    "E-POLICY-EXPRESSION",
                    at,
                    format!("cannot read `when` of rule `{key}`: {why}"),
                    hint,
                );
                None
            }
        });
        if let (Some(when), Some(effect), Some(message)) = (when, effect, message) {
            let (name, span, file) = (format!("{policy}/{key}"), span.clone(), file.clone());
            self.rules.push(Rule { name, effect, approvals, message, hint, span, when, file });
        }
    }
}
