//! `preflight`: all failed checks of hosts at once, read-only.

use super::args::{Global, Output, Where};
use super::exit;
use super::junit::Junit;
use super::session::Session;
use super::terminal::{Annotation, annotate};
use crate::fleet;
use crate::report::{Check, preflight_lines};
use crate::state::{Failure, HostName};
use clap::Args;
use std::collections::BTreeMap;

/// Run read-only preflight checks
#[derive(Args)]
#[command(after_help = "Examples:
  provision preflight -i site.yaml
  provision preflight -i site.yaml --limit h100 --output json

Codes are explained in docs/reference/errors.md. `apply` runs the same checks on hosts that have not joined yet.")]
pub(super) struct Preflight {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    junit: Junit,
}

fn checks(all: &BTreeMap<HostName, fleet::Preflight>) -> Vec<Check> {
    let failure = |f: &Failure| {
        let hint = f.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        (f.code.clone(), format!("{}{hint}", f.message))
    };
    let check = |(name, found): (&HostName, &fleet::Preflight)| {
        Check::of(name.as_str(), found.failures.iter().map(failure).collect())
    };
    all.iter().map(check).collect()
}

fn json(found: &fleet::Preflight) -> serde_json::Value {
    let of = |code: &str, message: &str, hint: &str| serde_json::json!({"code": code, "message": message, "next": hint});
    let failures = found.failures.iter().map(|f| {
        let mut failure = of(&f.code, &f.message, f.hint.as_deref().unwrap_or_default());
        if !f.tail.is_empty() {
            failure["more"] = serde_json::json!(f.tail);
        }
        failure
    });
    let warnings = found.warnings.iter().map(|f| of(f.code, &f.message, &f.hint));
    serde_json::json!({
        "failures": failures.collect::<Vec<_>>(),
        "warnings": warnings.collect::<Vec<_>>(),
    })
}

impl Preflight {
    /// Checks every host and prints the findings.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.junit.or_error("preflight", self.check(global).await)
    }

    async fn check(&self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::look(&self.place, global).await?;
        let all = session.fleet.preflight().await?;
        session.end().await?;
        let bad = all.values().filter(|f| !f.failures.is_empty()).count();
        if global.output == Output::Json {
            let whole: BTreeMap<_, _> = all.iter().map(|(name, found)| (name, json(found))).collect();
            println!("{}", serde_json::to_string_pretty(&whole)?);
        } else {
            for (name, found) in &all {
                let lines = preflight_lines(name.as_str(), &found.failures, &found.warnings, global.quiet);
                screen!("{lines}");
                for failure in &found.failures {
                    let title = format!("{name} {}", failure.code);
                    annotate(Annotation::Error, &title, None, &failure.message);
                }
            }
            screen!("{}/{} hosts passed preflight\n", all.len() - bad, all.len());
        }
        self.junit.write("preflight", || checks(&all))?;
        Ok(if bad == 0 { exit::DONE } else { exit::FAILED })
    }
}
