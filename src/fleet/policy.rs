//! A change is judged by policies: the facts of who asks and when, and the cases that policies are tested with. What policies mean is
//! `plan/`'s, where they are read from `policies.rs`'s.

use super::actor::{Actor, actor};
use super::error::{Error, Result, cannot, coded};
use super::load::Source;
use super::open::Fleet;
use super::policies::policies_at;
use super::revision::text_at;
use crate::inventory::{Diagnostics, Inventory};
use crate::plan::{
    CaseResult, Cases, CommitFacts, Facts, InventoryDiff, InventoryFacts, Moment, Plan, PlanFacts, Policies,
    PolicyReport, load,
};
use std::path::Path;

/// The folder inside that with cases to test them.
const TESTS: &str = "tests";

/// What a change is judged as.
#[derive(Clone, Debug, Default)]
pub struct Asked<'a> {
    /// The command: `plan`, `apply`, `reset`, `destroy`, `restore`.
    pub command: &'a str,
    /// Who has approved it.
    pub approvals: Vec<String>,
    /// Who may sign commits: a file of allowed signers, or `REV:PATH`.
    pub signers: Option<&'a str>,
}

/// Returns the time, who acts, and nothing else.
fn acting(command: &str) -> Facts {
    let Actor { user, ci } = actor();
    let now = Moment::of(jiff::Timestamp::now().as_second());
    Facts { command: command.to_owned(), now, user, ci, ..Facts::default() }
}

/// Judges a comparison of two inventories.
pub(super) fn judge_diff(
    policies: &Policies,
    diff: &InventoryDiff,
    before: &Inventory,
    after: &Inventory,
) -> PolicyReport {
    policies.judge(&Facts {
        plan: PlanFacts::of_diff(diff),
        inventory: InventoryFacts::of(after),
        before: Some(InventoryFacts::of(before)),
        ..acting("diff")
    })
}

impl Fleet {
    /// Judges a plan.
    pub fn judge(&self, policies: &Policies, plan: &Plan, asked: &Asked<'_>) -> Result<PolicyReport> {
        if policies.is_empty() {
            return Ok(policies.judge(&Facts::default()));
        }
        let commit = self.commit(plan, asked.signers)?;
        Ok(policies.judge(&Facts {
            commit,
            approvals: asked.approvals.clone(),
            plan: PlanFacts::of(plan, &self.inventory),
            inventory: InventoryFacts::of(&self.inventory),
            ..acting(asked.command)
        }))
    }

    /// Returns the commit that a plan was made from, or would be.
    pub(super) fn commit(&self, plan: &Plan, signers: Option<&str>) -> Result<Option<CommitFacts>> {
        let saved = plan.sources.as_ref().or(self.made_from.as_ref());
        super::commit::facts(&self.source.path, saved.map(|sources| sources.commit.as_ref()), signers)
    }
}

/// Tests policies with the cases of a file, or of all files in a folder.
pub fn test_policies(path: &Path) -> Result<Vec<CaseResult>> {
    let mut files = Vec::new();
    if path.is_dir() {
        let tests = path.join(TESTS);
        let folder = if tests.is_dir() { tests.as_path() } else { path };
        let entries = std::fs::read_dir(folder).map_err(cannot("read", folder))?;
        files.extend(entries.flatten().map(|entry| entry.path()));
        files.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    if files.is_empty() {
        let message = format!("there are no cases in {}", path.display());
        return Err(coded(
            "E-POLICY-FILE",
            message,
            "Name a file of cases, or a folder with a folder `tests`",
        ));
    }
    let mut results = Vec::new();
    for file in files {
        results.extend(test_file(&file)?);
    }
    Ok(results)
}

fn test_file(file: &Path) -> Result<Vec<CaseResult>> {
    let text = text_at(&local(file))?;
    let Cases { policies, cases } =
        Cases::read(&file.display().to_string(), &text).map_err(Error::Inventory)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let policies = policies_at(&local(&crate::inventory::tidy(&folder.join(policies))))?;
    cases.iter().map(|case| Ok(case.judge(&policies, &base(folder, case)?))).collect()
}

/// Returns a path as one that is not taken for a revision.
fn local(path: &Path) -> String {
    let text = path.display().to_string();
    if text.starts_with(['.', '/']) { text } else { format!("./{text}") }
}

/// Returns what a case's inventory and plan tell.
fn base(folder: &Path, case: &crate::plan::Case) -> Result<Facts> {
    let mut facts = Facts { command: "plan".to_owned(), ..Facts::default() };
    let plan = match &case.plan {
        Some(path) => Some((load(&folder.join(path))?.0, folder.join(path))),
        None => None,
    };
    let source = match (&case.inventory, &plan) {
        (Some(path), _) => Some(Source::at(crate::inventory::tidy(&folder.join(path)))),
        (None, Some((plan, path))) => Some(Source::of_saved(plan, path)?.0),
        (None, None) => None,
    };
    let Some(source) = source else { return Ok(facts) };
    let loaded = source.load()?;
    facts.inventory = InventoryFacts::of(&loaded.inventory);
    if let Some((plan, _)) = &plan {
        facts.plan = PlanFacts::of(plan, &loaded.inventory);
    }
    Ok(facts)
}

/// Returns findings of a report, for a person. `approved` are the people who have approved; `None` where they are not counted yet.
pub fn policy_findings(policies: &Policies, report: &PolicyReport, approved: Option<usize>) -> Diagnostics {
    policies.findings(report, approved)
}
