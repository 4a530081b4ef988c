//! Cases that policies are tested with: facts, and which rules apply to them. Owns their form; files are read elsewhere.

use super::facts::{Facts, Moment};
use super::file::Policies;
use super::judge::{Now, RuleOutcome};
use crate::inventory::{Diagnostic, Diagnostics, Node, Value, document};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Cases in a file.
const MOST_CASES: usize = 1000;

/// A file of cases.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// The policies that are tested: a file or a folder, relative to this file.
    pub policies: String,
    /// The cases.
    pub cases: Vec<Case>,
}

/// A case.
#[derive(Clone, Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// An inventory, relative to this file.
    #[serde(default)]
    pub inventory: Option<String>,
    /// A saved plan, relative to this file; its inventory is taken unless another is named.
    #[serde(default)]
    pub plan: Option<String>,
    /// When: `now` follows from it, in the time zone of each file of policies.
    #[serde(default)]
    at: Option<jiff::Timestamp>,
    /// Facts that differ from those, merged into them.
    #[serde(default)]
    facts: serde_json::Value,
    /// The rules that apply, with what they name; all others must not.
    #[serde(default)]
    applies: Expected,
    /// Where it stands: `production.yaml:12`.
    #[serde(skip)]
    pub place: String,
}

/// Rules that must apply.
#[derive(Clone, Deserialize, Debug)]
#[serde(untagged)]
enum Expected {
    /// Whatever they name.
    Rules(Vec<String>),
    /// With what they name.
    Named(BTreeMap<String, Option<Vec<String>>>),
}

impl Default for Expected {
    fn default() -> Self {
        Self::Rules(Vec::new())
    }
}

impl Expected {
    fn rules(&self) -> BTreeMap<&str, Option<&Vec<String>>> {
        match self {
            Self::Rules(rules) => rules.iter().map(|rule| (rule.as_str(), None)).collect(),
            Self::Named(rules) => rules.iter().map(|(rule, names)| (rule.as_str(), names.as_ref())).collect(),
        }
    }
}

/// What came of a case.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct CaseResult {
    /// The case.
    pub name: String,
    /// Where it stands.
    pub place: String,
    /// What is not as expected, a phrase each; none if it passed.
    pub wrong: Vec<String>,
}

/// Lays JSON on JSON: maps deep, anything else replaces.
fn merge(base: &mut serde_json::Value, over: &serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

impl Cases {
    /// Reads a file of cases.
    pub fn read(name: &str, text: &str) -> Result<Self, Diagnostics> {
        let node = document(name, text.to_owned())?;
        let mut found = Vec::new();
        let mut error = |at: &Node, code, message: String, hint: &str| {
            found.push(Diagnostic::error(code, message).at(&at.span).hint(hint));
        };
        for entry in node.entries() {
            if !["apiVersion", "kind", "policies", "cases"].contains(&entry.key.as_str()) {
                let message = format!("unknown key `{}`", entry.key);
                error(&entry.node, "E-UNKNOWN-KEY", message, "Use apiVersion, kind, policies and cases");
            }
        }
        for (key, wanted) in [("apiVersion", "provision/v1"), ("kind", "PolicyTest")] {
            if node.get(key).and_then(Node::text).as_deref() != Some(wanted) {
                let message = format!("`{key}` is not {wanted}");
                error(node.get(key).unwrap_or(&node), "E-VALUE", message, "Correct it");
            }
        }
        let policies = node.get("policies").and_then(Node::text);
        if policies.is_none() {
            let hint = "Name the file or folder of the policies, relative to this file";
            error(&node, "E-MISSING", "there are no `policies`".to_owned(), hint);
        }
        let items = match node.get("cases").map(|cases| &cases.value) {
            Some(Value::List(items)) if !items.is_empty() && items.len() <= MOST_CASES => items.as_slice(),
            _ => {
                let message = format!("`cases` must be a list of 1 to {MOST_CASES} cases");
                error(node.get("cases").unwrap_or(&node), "E-TYPE", message, "Add a case");
                &[]
            }
        };
        let mut cases = Vec::new();
        for item in items {
            match serde_json::from_value::<Case>(item.json()) {
                Ok(case) => {
                    let place = format!("{name}:{}", item.span.line);
                    cases.push(Case { place, ..case });
                }
                Err(why) => {
                    let hint = "Use name, inventory, plan, at, facts and applies";
                    error(item, "E-VALUE", format!("cannot read the case: {why}"), hint);
                }
            }
        }
        if !found.is_empty() {
            return Err(Diagnostics { inventory: name.to_owned(), ..Diagnostics::default() }.with(found));
        }
        Ok(Self { policies: policies.unwrap_or_default(), cases })
    }
}

impl Case {
    /// Judges the case, with its facts laid on those of its plan and inventory.
    pub fn judge(&self, policies: &Policies, base: &Facts) -> CaseResult {
        let result = |wrong| CaseResult { name: self.name.clone(), place: self.place.clone(), wrong };
        let base = match self.at {
            Some(at) => &Facts { now: Moment::of(at.as_second()), ..base.clone() },
            None => base,
        };
        let facts = serde_json::to_value(base).and_then(|mut facts| {
            if !self.facts.is_null() {
                merge(&mut facts, &self.facts);
            }
            serde_json::from_value::<Facts>(facts)
        });
        let facts = match facts {
            Ok(facts) => facts,
            Err(why) => return result(vec![format!("invalid facts: {why}")]),
        };
        let now = match self.facts.get("now") {
            Some(_) => Now::AsSaid,
            None => Now::Instant(facts.now.seconds),
        };
        let report = policies.judge_at(&facts, now);
        let expected = self.applies.rules();
        let known: BTreeSet<&str> = policies.rules.iter().map(|rule| rule.name.as_str()).collect();
        let mut wrong: Vec<String> = expected
            .keys()
            .filter(|rule| !known.contains(*rule))
            .map(|rule| format!("there is no rule {rule}"))
            .collect();
        for came in &report.results {
            let rule = came.rule.as_str();
            match (came.outcome, expected.get(rule)) {
                (RuleOutcome::Failed, _) => wrong.push(format!("{rule} {}", came.message)),
                (RuleOutcome::Applies, None) => wrong.push(format!("{rule} applies: {}", came.line())),
                (RuleOutcome::Passed, Some(_)) => wrong.push(format!("{rule} does not apply")),
                (RuleOutcome::Applies, Some(Some(names))) if **names != came.names => {
                    let (said, wanted) = (came.names.join(", "), names.join(", "));
                    wrong.push(format!("{rule} names {said}, expected {wanted}"));
                }
                _ => {}
            }
        }
        result(wrong)
    }
}
