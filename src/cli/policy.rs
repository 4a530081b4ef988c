//! Policies: the flags of commands that evaluate them, `policy check` and `policy test`.

use super::args::{Global, Output};
use super::context::usual_policies;
use super::exit;
use super::junit::Junit;
use super::session::{print_findings, print_findings_only};
use crate::fleet::{Asked, Error, Fleet, RunAbout, policies_at, policy_findings, test_policies};
use crate::plan::{CaseResult, Effect, Plan, Policies};
use crate::report::{Check, count};
use crate::state::plain_line;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Which policies a change is evaluated against.
#[derive(Args, Clone, Debug)]
pub(super) struct PolicyArgs {
    /// Policies instead of those in policies/ next to the inventory: a folder, a file, or REV:PATH in this git repository
    #[arg(long, value_name = "PATH", env = "PROVISION_POLICIES", hide_env_values = true)]
    policies: Option<String>,
    /// Who may sign commits, for `commit.signed`: a file of allowed signers, as in ssh-keygen(1), or REV:PATH
    #[arg(long, value_name = "FILE")]
    commit_signers: Option<String>,
}

impl PolicyArgs {
    /// Reads the policies that were named, before any host is contacted.
    pub(super) fn read(self) -> anyhow::Result<Judge> {
        let named = self.policies.filter(|said| !said.is_empty()).or_else(usual_policies);
        Ok(Judge { named: named.as_deref().map(policies_at).transpose()?, signers: self.commit_signers })
    }
}

/// Policies that were named, and who may sign commits.
pub(super) struct Judge {
    named: Option<Policies>,
    signers: Option<String>,
}

impl Judge {
    fn policies<'a>(&'a self, fleet: &'a Fleet) -> &'a Policies {
        self.named.as_ref().unwrap_or(&fleet.policies)
    }

    /// Evaluates the policies and writes the result into the plan.
    pub(super) fn evaluate(
        &self,
        fleet: &Fleet,
        plan: &mut Plan,
        command: &str,
        approvals: Vec<String>,
    ) -> anyhow::Result<()> {
        let policies = self.policies(fleet);
        plan.policy = None;
        if !policies.is_empty() {
            let asked = Asked { command, approvals, signers: self.signers.as_deref() };
            plan.policy = Some(fleet.judge(policies, plan, &asked)?);
        }
        Ok(())
    }

    /// Returns what a run is about, for its record.
    pub(super) fn about(&self, command: &str) -> RunAbout {
        RunAbout { command: command.to_owned(), signers: self.signers.clone(), ..RunAbout::default() }
    }

    /// Prints what the policies say of a plan. Returns whether it must not be carried out; `approved` people have approved it, `None`
    /// where that is not counted yet.
    pub(super) fn refuses(&self, fleet: &Fleet, plan: &Plan, approved: Option<usize>) -> bool {
        let Some(report) = &plan.policy else { return false };
        let found = policy_findings(self.policies(fleet), report, approved);
        print_findings_only(&found);
        report.is_denied() || approved.is_some_and(|people| people < report.approvals())
    }

    /// The same of a command that changes something, and has no approvals.
    pub(super) fn stops(
        &self,
        fleet: &Fleet,
        plan: &mut Plan,
        command: &str,
        global: &Global,
    ) -> anyhow::Result<bool> {
        self.evaluate(fleet, plan, command, Vec::new())?;
        let refused = self.refuses(fleet, plan, Some(0));
        if refused {
            print_refused(plan, global);
        }
        Ok(refused)
    }
}

/// Says that nothing was changed, and what to do.
pub(super) fn print_refused(plan: &Plan, global: &Global) {
    let Some(report) = &plan.policy else { return };
    if global.output == Output::Json {
        println!("{}", serde_json::json!({"exit": exit::REFUSED, "policy": report}));
    }
    eprintln!("error[E-POLICY]: refused by policy; nothing was changed");
    if !report.is_denied() {
        eprintln!(
            "  = next: Save the plan with `provision plan -o plan.json`, have it approved with `provision approve plan.json`, and apply it with --approvers"
        );
    }
}

/// Check and test policies
///
/// Policies are files in policies/ next to the inventory. Their rules refuse a change, warn of it, or require approvals. `plan`, `apply`,
/// `diff`, `reset`, `destroy` and `restore` evaluate them; a refused change ends with exit code 3.
#[derive(Args)]
#[command(after_help = "Examples:
  provision policy check policies                       read the rules, list them
  provision policy check origin/main:policies           the same at a git revision
  provision policy test policies                        run the cases in policies/tests
  provision plan -i site --policies origin/main:policies     evaluate the rules of the protected branch")]
pub(super) struct PolicyCommand {
    #[command(subcommand)]
    command: PolicySub,
}

#[derive(Subcommand)]
enum PolicySub {
    /// Check policy files and list their rules
    #[command(after_help = "Examples:
  provision policy check policies
  provision policy check policies/production.yaml --output json

Exit codes: 0 no errors, 1 a file has errors.")]
    Check {
        /// A folder, a file, or REV:PATH in this git repository
        #[arg(default_value = "policies")]
        policies: String,
    },
    /// Run the test cases of policies
    ///
    /// A case has facts (an inventory, a saved plan, single values) and lists the rules that apply; all others must not.
    #[command(after_help = "Examples:
  provision policy test policies                        all files in policies/tests
  provision policy test policies/tests/windows.yaml

Exit codes: 0 all cases passed, 1 a case failed or a file has errors.")]
    Test {
        /// A file of cases, or a folder with them in it or in its folder `tests`
        #[arg(default_value = "policies")]
        cases: PathBuf,
        #[command(flatten)]
        junit: Junit,
    },
}

fn effect(effect: Effect, approvals: usize) -> String {
    match effect {
        Effect::Deny => "deny".to_owned(),
        Effect::Warn => "warn".to_owned(),
        Effect::RequireApproval => format!("require {}", count(approvals, "approval")),
    }
}

fn check(said: &str, global: &Global) -> anyhow::Result<u8> {
    let policies = policies_at(said)?;
    if global.output == Output::Json {
        let rule = |r: &crate::plan::Rule| {
            let place = format!("{}:{}", r.span.source.name, r.span.line);
            serde_json::json!({"rule": r.name, "effect": r.effect, "approvals": r.approvals, "message": r.message, "place": place})
        };
        let rules: Vec<_> = policies.rules.iter().map(rule).collect();
        println!(
            "{}",
            serde_json::json!({"source": policies.source, "digest": policies.digest, "rules": rules})
        );
        return Ok(exit::DONE);
    }
    let widest = policies.rules.iter().map(|r| r.name.len()).max().unwrap_or_default();
    for rule in &policies.rules {
        let does = effect(rule.effect, rule.approvals);
        screen!("{:<widest$}  {does:<19}  {}\n", rule.name, rule.message);
    }
    screen!("{} in {said}, no errors\n", count(policies.rules.len(), "rule"));
    Ok(exit::DONE)
}

fn test(cases: &std::path::Path, junit: &Junit, global: &Global) -> anyhow::Result<u8> {
    let results = test_policies(cases)?;
    let failed = results.iter().filter(|case| !case.wrong.is_empty()).count();
    let code = if failed == 0 { exit::DONE } else { exit::FAILED };
    if global.output == Output::Json {
        println!("{}", serde_json::json!({"exit": code, "failed": failed, "cases": results}));
    } else {
        print_cases(&results, failed, global);
    }
    let check = |case: &CaseResult| {
        let wrong = case.wrong.iter().map(|what| ("case".to_owned(), format!("{}: {what}", case.place)));
        Check::of(case.name.as_str(), wrong.collect())
    };
    junit.write("policy test", || results.iter().map(check).collect())?;
    Ok(code)
}

fn print_cases(results: &[CaseResult], failed: usize, global: &Global) {
    for case in results {
        match case.wrong.as_slice() {
            [] if global.quiet => {}
            [] => screen!("ok      {}\n", plain_line(&case.name)),
            wrong => {
                screen!("FAILED  {}   {}\n", plain_line(&case.name), case.place);
                for what in wrong {
                    screen!("        {what}\n");
                }
            }
        }
    }
    screen!("{}: {} passed, {failed} failed\n", count(results.len(), "case"), results.len() - failed);
}

impl PolicyCommand {
    /// Checks or tests; mistakes in files are shown at their places.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<u8> {
        let ran = match &self.command {
            PolicySub::Check { policies } => check(policies, global),
            PolicySub::Test { cases, junit } => junit.or_error("policy test", test(cases, junit, global)),
        };
        match ran {
            Err(error) => match error.downcast_ref() {
                Some(Error::Inventory(found)) => {
                    print_findings(found);
                    Ok(exit::FAILED)
                }
                _ => Err(error),
            },
            done => done,
        }
    }
}
