//! `history`: past runs on this machine, and whether their records are complete.

use super::args::{At, Global, Output, Where};
use super::exit;
use super::session::{Session, load};
use crate::event::Event;
use crate::fleet::{Run, RunRecord};
use crate::report::{count, elapsed, names};
use crate::run::{ChainReport, Recorded};
use crate::state::plain_line;
use clap::{Args, Subcommand};
use std::time::Duration;

/// List past runs, show one, or verify their records
///
/// Runs are recorded on the machine that they were started from: a journal, and per host the output of every step,
/// without secrets. The newest 50 of an inventory are kept; who did what, with every step and its result, is kept for good, and on the
/// hosts as well. Nothing depends on them but estimates of how long a plan takes.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  provision history -i site.yaml                      runs, newest first
  provision history show 8XKQ2 -i site.yaml           one run: what it did on each target
  provision history show 8XKQ2 h-031 -i site.yaml     full output of its steps on one host
  provision history verify -i site.yaml               that no record was changed or removed")]
pub(super) struct History {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
    #[command(flatten)]
    at: At,
}

#[derive(Subcommand)]
enum HistoryCommand {
    /// Show a run, or the full output of its steps on a host
    #[command(after_help = "Examples:
  provision history show 8XKQ2 -i site.yaml
  provision history show 8XKQ2 h-031 -i site.yaml
  provision history show 8XKQ2 cluster -i site.yaml --output json")]
    Show {
        /// The run, as `history` lists it
        run: String,
        /// A host, or `cluster`
        host: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Verify that no record of a run was changed or removed
    ///
    /// Each record names the hash of the one before it. The records on this machine are compared with those on the hosts and with the
    /// head that the cluster has: an edited, removed, moved or cut off record is found. Changes nothing.
    #[command(after_help = "Examples:
  provision history verify -i site.yaml
  provision history verify -i site.yaml --offline     this machine's records alone; what was cut off at the end is not found

Exit codes: 0 the records are complete, 1 something is wrong.")]
    Verify {
        #[command(flatten)]
        place: Where,
        /// Contact no host
        #[arg(long)]
        offline: bool,
    },
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
        .unwrap_or_default()
}

/// Returns a recorded event as a line; `None` for events that are not shown.
fn line(recorded: &Recorded) -> Option<String> {
    let time = &recorded.time;
    Some(match &recorded.event {
        Event::StepStarted { step, .. } => format!("{time} {step} started"),
        Event::StepProgress { note, .. } => format!("  … {note}"),
        Event::Output { line, .. } => format!("  | {line}"),
        Event::StepSkipped { step, reason, .. } => format!("{time} {step} skipped: {reason}"),
        Event::Waiting { reason, .. } => format!("{time} {reason}"),
        Event::Drained { elapsed: took, .. } => format!("{time} drained in {}", elapsed(*took)),
        Event::InService { elapsed: took, .. } => format!("{time} in service after {}", elapsed(*took)),
        Event::Warning { message, .. } => format!("{time} warning: {message}"),
        Event::StepDone { step, change, elapsed: took, .. } => {
            format!("{time} {step} {change} in {}", elapsed(*took))
        }
        Event::StepFailed { step, code, message, exit, elapsed: took, .. } => {
            let exit = exit.map(|e| format!(" (exit {e} after {})", elapsed(*took))).unwrap_or_default();
            format!("{time} {step} FAILED{exit} [{code}] {message}")
        }
        Event::TargetDone { changed, elapsed: took, .. } => {
            format!("{time} converged: {} in {}", count(*changed, "step"), elapsed(*took))
        }
        Event::TargetFailed { code, message, .. } => format!("{time} stopped: [{code}] {message}"),
        _ => return None,
    })
}

/// Returns who did a run and what it was, in lines.
fn record_text(record: &RunRecord) -> String {
    let Some(begun) = &record.begun else { return String::new() };
    let mut lines =
        vec![format!("{} by {}@{} at {}", begun.command, begun.user.name, begun.user.host, begun.at)];
    if let Some(ci) = &begun.ci {
        lines.push(format!("CI job {} {} {}", ci.service, ci.job, ci.url));
    }
    if let Some(commit) = &begun.commit {
        let signer = commit.signer.as_ref().map(|signer| format!(" by {signer}")).unwrap_or_default();
        let modified = if commit.modified { ", with changes that are not committed" } else { "" };
        lines.push(format!(
            "commit {} of {}{modified}; signature: {}{signer}",
            commit.id, commit.author, commit.signature
        ));
    }
    let saved = if begun.saved { "saved plan" } else { "plan" };
    lines.push(format!("{saved} {} with {}", begun.plan, count(begun.steps, "step")));
    if !begun.approvals.is_empty() {
        lines.push(format!("approved by {}", begun.approvals.join(", ")));
    }
    if let Some(policy) = &begun.policy {
        let applied = policy.asking().chain(policy.warning()).map(|r| format!("{} ({})", r.rule, r.line()));
        let applied: Vec<String> = applied.collect();
        let what = if applied.is_empty() { "nothing applied".to_owned() } else { applied.join("; ") };
        lines.push(format!("{} of {}: {what}", count(policy.results.len(), "rule"), policy.source));
    }
    match &record.ended {
        Some(ended) => lines.push(format!("ended at {} with exit code {}", ended.at, ended.exit)),
        None => lines.push("its end is not recorded".to_owned()),
    }
    lines.iter().map(|line| format!("{}\n", plain_line(line))).collect::<String>() + "\n"
}

/// Prints what came of verifying records.
fn verified(report: &ChainReport, global: &Global) -> anyhow::Result<u8> {
    let code = if report.wrong.is_empty() { exit::DONE } else { exit::FAILED };
    if global.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(code);
    }
    for wrong in &report.wrong {
        eprintln!("error[E-RECORD]: {}", plain_line(wrong));
    }
    for note in &report.notes {
        eprintln!("note: {}", plain_line(note));
    }
    let head = report.head.as_ref().map(|head| format!("; head {} {}", head.sequence, head.hash));
    let records = count(report.records, "record");
    let copies = count(report.copies, "copy").replace("copys", "copies");
    let verdict = if report.wrong.is_empty() { "complete" } else { "NOT complete" };
    screen!("{records}, {copies} on hosts: {verdict}{}\n", head.unwrap_or_default());
    Ok(code)
}

fn show(run: &Run, global: &Global) -> anyhow::Result<()> {
    if global.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(run)?);
        return Ok(());
    }
    screen!("{}", record_text(&run.record));
    if let Some(summary) = &run.summary {
        let lab = if summary.lab { "LAB · " } else { "" };
        screen!(
            "{lab}{} of {} · {} · {} converged, {} failed in {}\n\n",
            summary.run,
            summary.inventory,
            time(summary.began_s),
            summary.converged,
            summary.failed,
            elapsed(Duration::from_millis(summary.took_ms))
        );
    }
    for record in &run.records {
        let batch = if record.batch > 0 { format!(" batch {}", record.batch) } else { String::new() };
        let what = format!("{:?}", record.transition).to_lowercase();
        screen!("{} {:<12} {what:<9}{batch} {}\n", time(record.at_s), record.target, record.note);
    }
    if !run.targets.is_empty() {
        let list: Vec<&str> = run.targets.iter().map(String::as_str).collect();
        screen!(
            "\nfull output: `provision history show {} TARGET`, where TARGET is one of {}\n",
            run.run,
            names(&list)
        );
    }
    Ok(())
}

impl History {
    /// Prints the runs, newest first, or one of them.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        if let Some(HistoryCommand::Verify { place, offline }) = &self.command {
            if *offline {
                let loaded = load(&place.inventory(), global)?;
                return verified(&loaded.verify_records(place.lab || loaded.is_lab())?, global);
            }
            let session = Session::look(place, global).await?;
            let report = session.fleet.verify_records().await;
            session.end().await?;
            return verified(&report?, global);
        }
        if let Some(HistoryCommand::Show { run, host, at }) = self.command {
            let runs = load(&at.path(), global)?.runs()?;
            let Some(host) = host else {
                show(&runs.one(&run)?, global)?;
                return Ok(exit::DONE);
            };
            let events = runs.on_target(&run, &host)?;
            if global.output == Output::Json {
                for event in &events {
                    println!("{}", serde_json::to_string(event)?);
                }
            } else {
                for text in events.iter().filter_map(line) {
                    screen!("{text}\n");
                }
            }
            return Ok(exit::DONE);
        }
        let loaded = load(&self.at.path(), global)?;
        let runs = loaded.runs()?.all();
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&runs)?);
            return Ok(exit::DONE);
        }
        for run in &runs {
            let took =
                run.took_s.map_or_else(|| "-".to_owned(), |s| elapsed(Duration::from_secs(s.max(0) as u64)));
            screen!(
                "{}  {}  {took:>7}  {}, {} failed  {}\n",
                run.run,
                time(run.began_s),
                count(run.done, "batch"),
                run.failed,
                run.note
            );
        }
        if runs.is_empty() {
            eprintln!("no run of {} is recorded on this machine", loaded.inventory.name);
        }
        Ok(exit::DONE)
    }
}
