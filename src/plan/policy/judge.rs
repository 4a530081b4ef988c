//! Judges a change by policies: a pure function of rules and facts. A rule that cannot be evaluated refuses the change.

use super::expression::{Answer, Scope, on_large_stack};
use super::facts::{Facts, Moment};
use super::file::{Effect, Policies, Rule};
use crate::inventory::{Diagnostic, Diagnostics};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a rule names is shown up to this number.
const MOST_NAMED: usize = 10;

/// What came of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum RuleOutcome {
    /// It does not apply.
    Passed,
    /// It applies.
    Applies,
    /// It could not be evaluated, which refuses the change.
    Failed,
}

/// A rule and what came of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "camelCase")]
pub struct RuleResult {
    /// The rule: `production/pool-share`.
    pub rule: String,
    /// What it does where it applies.
    pub effect: Effect,
    /// What came of it.
    pub outcome: RuleOutcome,
    /// What it says; of a rule that failed, why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What it names: hosts, pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// How many approvals it asks for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub approvals: usize,
    /// Where it stands: `policies/production.yaml:12`.
    pub place: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What came of all rules.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// Where the policies were read from.
    pub source: String,
    /// sha256 over their files, hex.
    pub digest: String,
    /// Every rule.
    pub results: Vec<RuleResult>,
}

impl PolicyReport {
    fn applying(&self, effect: Effect) -> impl Iterator<Item = &RuleResult> {
        self.results.iter().filter(move |r| r.effect == effect && r.outcome == RuleOutcome::Applies)
    }

    /// Returns the rules that refuse the change, whoever approves it.
    pub fn denied(&self) -> impl Iterator<Item = &RuleResult> {
        let failed = self.results.iter().filter(|r| r.outcome == RuleOutcome::Failed);
        failed.chain(self.applying(Effect::Deny))
    }

    /// Returns whether a rule refuses the change, whoever approves it.
    pub fn is_denied(&self) -> bool {
        self.denied().next().is_some()
    }

    /// Returns the rules that ask for approvals.
    pub fn asking(&self) -> impl Iterator<Item = &RuleResult> {
        self.applying(Effect::RequireApproval)
    }

    /// Returns how many approvals the change needs.
    pub fn approvals(&self) -> usize {
        self.asking().map(|r| r.approvals).max().unwrap_or_default()
    }

    /// Returns the rules that warn.
    pub fn warning(&self) -> impl Iterator<Item = &RuleResult> {
        self.applying(Effect::Warn)
    }
}

impl RuleResult {
    /// Returns what it says and names, in one line.
    pub fn line(&self) -> String {
        let shown: Vec<&str> = self.names.iter().take(MOST_NAMED).map(String::as_str).collect();
        let more = self.names.len().saturating_sub(MOST_NAMED);
        let names = match (shown.is_empty(), more) {
            (true, _) => String::new(),
            (false, 0) => format!(": {}", shown.join(", ")),
            (false, more) => format!(": {} and {more} more", shown.join(", ")),
        };
        format!("{}{names}", self.message)
    }
}

impl Rule {
    fn place(&self) -> String {
        format!("{}:{}", self.span.source.name, self.span.line)
    }

    fn result(&self, answer: Result<Answer, String>) -> RuleResult {
        let (outcome, message, names) = match answer {
            Ok(Answer::Is(true)) => (RuleOutcome::Applies, self.message.clone(), Vec::new()),
            Ok(Answer::Names(names)) if !names.is_empty() => {
                (RuleOutcome::Applies, self.message.clone(), names)
            }
            Ok(_) => (RuleOutcome::Passed, String::new(), Vec::new()),
            Err(why) => (RuleOutcome::Failed, format!("cannot be evaluated: {why}"), Vec::new()),
        };
        let approvals = if outcome == RuleOutcome::Applies { self.approvals } else { 0 };
        let (rule, effect, place) = (self.name.clone(), self.effect, self.place());
        RuleResult { rule, effect, outcome, message, names, approvals, place }
    }
}

/// Evaluates all rules on a thread with room for deep expressions.
fn answers(policies: &Policies, facts: &Value, now: Now) -> Result<Vec<RuleResult>, String> {
    let empty = serde_json::Map::new();
    let facts = facts.as_object().unwrap_or(&empty);
    let said = facts.get("now").cloned().unwrap_or_default();
    let mut scope = Scope::new(facts.iter().map(|(name, value)| (name.as_str(), value)))?;
    let mut results = Vec::new();
    for rule in &policies.rules {
        scope.set("parameters", &rule.file.parameters);
        let local = match (now, &rule.file.zone) {
            (Now::Instant(seconds), Some(zone)) => {
                let local = Moment::in_zone(seconds, zone.clone());
                Some(serde_json::to_value(local).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        scope.set("now", local.as_ref().unwrap_or(&said));
        results.push(rule.result(rule.when.evaluate(&scope)));
    }
    Ok(results)
}

/// What `now` is for rules of a file with a time zone.
#[derive(Clone, Copy)]
pub(super) enum Now {
    /// Seconds since 1970, which are a date and a time in each zone.
    Instant(i64),
    /// The date and time of the facts, whatever the zone: a case says them.
    AsSaid,
}

impl Policies {
    /// Judges a change.
    pub fn judge(&self, facts: &Facts) -> PolicyReport {
        self.judge_at(facts, Now::Instant(facts.now.seconds))
    }

    /// Judges a change at a time.
    pub(super) fn judge_at(&self, facts: &Facts, now: Now) -> PolicyReport {
        let report =
            |results| PolicyReport { source: self.source.clone(), digest: self.digest.clone(), results };
        if self.is_empty() {
            return report(Vec::new());
        }
        let judged = match serde_json::to_value(facts) {
            Ok(facts) => on_large_stack(|| answers(self, &facts, now)),
            Err(error) => Some(Err(error.to_string())),
        };
        let failed = |why: &str| self.rules.iter().map(|rule| rule.result(Err(why.to_owned()))).collect();
        report(match judged {
            Some(Ok(results)) => results,
            Some(Err(why)) => failed(&why),
            None => failed("internal error of the interpreter"),
        })
    }

    /// Returns the rules that applied or failed as findings, each at its place. `approved` are the people who have approved the
    /// change; `None` where they are not counted yet.
    pub fn findings(&self, report: &PolicyReport, approved: Option<usize>) -> Diagnostics {
        let finding = |result: &RuleResult| {
            let rule = self.rules.iter().find(|rule| rule.name == result.rule)?;
            let (code, warns, say) = match (result.outcome, result.effect) {
                (RuleOutcome::Passed, _) => return None,
                (RuleOutcome::Failed, _) => ("E-POLICY-EVALUATION", false, result.line()),
                (_, Effect::Deny) => ("E-POLICY", false, result.line()),
                (_, Effect::Warn) => ("W-POLICY", true, result.line()),
                (_, Effect::RequireApproval) => {
                    let met = approved.is_some_and(|people| people >= result.approvals);
                    let s = if result.approvals == 1 { "" } else { "s" };
                    let say = format!("needs {} approval{s}: {}", result.approvals, result.line());
                    match (met, approved) {
                        (true, _) => return None,
                        (false, Some(_)) => ("E-POLICY-APPROVAL", false, say),
                        (false, None) => ("W-POLICY-APPROVAL", true, say),
                    }
                }
            };
            let message = format!("{}: {say}", result.rule);
            let found =
                if warns { Diagnostic::warning(code, message) } else { Diagnostic::error(code, message) };
            let found = found.at(&rule.span);
            Some(match (&rule.hint, result.outcome) {
                (_, RuleOutcome::Failed) => {
                    found.hint("Correct the rule; `provision policy test` tries it on cases")
                }
                (Some(hint), _) => found.hint(hint),
                (None, _) => found,
            })
        };
        let none = Diagnostics { inventory: self.source.clone(), ..Diagnostics::default() };
        none.with(report.results.iter().filter_map(finding))
    }
}
