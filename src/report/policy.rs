//! What policies say of a change, as lines of a plan or a comparison, and as rows for Markdown.

use super::words::count;
use crate::plan::{PolicyReport, RuleOutcome, RuleResult};
use crate::state::plain_line;

/// Returns what a rule that did not pass does, as a word.
fn word(result: &RuleResult, report: &PolicyReport) -> Option<String> {
    let is = |mut rules: Box<dyn Iterator<Item = &RuleResult> + '_>| rules.any(|r| r.rule == result.rule);
    match () {
        () if is(Box::new(report.denied())) => Some("refused".to_owned()),
        () if is(Box::new(report.asking())) => Some(format!("needs {}", count(result.approvals, "approval"))),
        () if is(Box::new(report.warning())) => Some("warning".to_owned()),
        () => None,
    }
}

/// Returns the rules that did not pass: what each does, its name, what it says, and where it stands.
pub(super) fn policy_rows(report: &PolicyReport) -> Vec<[String; 4]> {
    let row = |result: &RuleResult| {
        let said = [word(result, report)?, result.rule.clone(), result.line(), result.place.clone()];
        Some(said.map(|text| plain_line(&text).into_owned()))
    };
    report.results.iter().filter_map(row).collect()
}

/// Returns the lines of a plan or a comparison about its policies; nothing where there are none.
pub(super) fn policy_lines(report: Option<&PolicyReport>) -> String {
    let Some(report) = report.filter(|report| !report.results.is_empty()) else { return String::new() };
    let mut text = String::new();
    for [what, rule, said, place] in policy_rows(report) {
        text += &format!("  policy {what}: {rule}: {said}   {place}\n");
    }
    let passed = report.results.iter().filter(|r| r.outcome == RuleOutcome::Passed).count();
    let all = report.results.len();
    text + &format!("  policy: {passed} of {} passed ({})\n", count(all, "rule"), plain_line(&report.source))
}
