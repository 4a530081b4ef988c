//! `history`: earlier runs from this machine, and what each did.

use super::site::{journals, load};
use super::{Global, Output, exit};
use crate::event::Event;
use crate::inventory::Inventory;
use crate::report::{count, elapsed, names};
use crate::run::{Recorded, history, recorded, recorded_targets, replay, summary};
use crate::state::{Failure, FailureKind};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// List earlier runs, or show one
///
/// Runs are recorded on the machine that they were started from: a journal, and per host the output of every step,
/// without secrets. The newest 50 of an inventory are kept. Nothing depends on them but estimates of how long a plan
/// takes.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  provision history -i site.yaml                      runs, newest first
  provision history show 8XKQ2 -i site.yaml           one run: what it did where
  provision history show 8XKQ2 h-031 -i site.yaml     everything that its steps printed on one host")]
pub struct History {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Place {
    /// The inventory: a file, or a folder whose files merge
    #[arg(long, short, env = "PROVISION_INVENTORY", hide_env_values = true, default_value = ".")]
    inventory: PathBuf,
}

#[derive(Subcommand)]
enum HistoryCommand {
    /// Show one run, or all that its steps printed on one host
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
        place: Place,
    },
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
        .unwrap_or_default()
}

/// Returns a recorded event as a line; `None` for what says nothing by itself.
fn line(recorded: &Recorded) -> Option<String> {
    let time = &recorded.time;
    Some(match &recorded.event {
        Event::StepStarted { step, .. } => format!("{time} {step} begins"),
        Event::StepProgress { note, .. } => format!("  … {note}"),
        Event::Output { line, .. } => format!("  | {line}"),
        Event::StepSkipped { step, reason, .. } => format!("{time} {step} skipped: {reason}"),
        Event::Waiting { reason, .. } => format!("{time} waits: {reason}"),
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

/// Returns an error that names the runs there are.
fn no_run(folder: &Path, run: &str, inventory: &Inventory) -> anyhow::Error {
    let known: Vec<String> = history(folder).into_iter().take(5).map(|h| h.run).collect();
    let hint = if known.is_empty() {
        format!("no run of {} was started from this machine", inventory.name)
    } else {
        format!("the newest are {}", known.join(", "))
    };
    Failure::new(FailureKind::Preflight, "E-NO-RUN", format!("run {run} is not recorded here"))
        .hint(hint)
        .into()
}

fn show(folder: &Path, run: &str, inventory: &Inventory, global: &Global) -> anyhow::Result<()> {
    let journal = folder.join(format!("{run}.jsonl"));
    if !journal.exists() {
        return Err(no_run(folder, run, inventory));
    }
    let records = replay(&journal)?;
    let summary = summary(folder, run);
    let targets = recorded_targets(folder, run).unwrap_or_default();
    if global.output == Output::Json {
        let value =
            serde_json::json!({"run": run, "summary": summary, "records": records, "targets": targets});
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    if let Some(summary) = &summary {
        let lab = if summary.lab { "LAB · " } else { "" };
        println!(
            "{lab}{} of {} · {} · {} converged, {} failed in {}\n",
            summary.run,
            summary.inventory,
            time(summary.began_s),
            summary.converged,
            summary.failed,
            elapsed(Duration::from_millis(summary.took_ms))
        );
    }
    for record in &records {
        let batch = if record.batch > 0 { format!(" batch {}", record.batch) } else { String::new() };
        let what = format!("{:?}", record.transition).to_lowercase();
        println!("{} {:<12} {what:<9}{batch} {}", time(record.at_s), record.target, record.note);
    }
    if !targets.is_empty() {
        let list: Vec<&str> = targets.iter().map(String::as_str).collect();
        println!("\nwhole output: provision history show {run} TARGET, one of {}", names(&list));
    }
    Ok(())
}

impl History {
    /// Prints the runs, newest first, or one of them.
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        if let Some(HistoryCommand::Show { run, host, place }) = self.command {
            let (inventory, _) = load(&place.inventory)?;
            let folder = journals(&inventory);
            let Some(host) = host else {
                show(&folder, &run, &inventory, global)?;
                return Ok(exit::DONE);
            };
            if recorded_targets(&folder, &run).is_err() {
                return Err(no_run(&folder, &run, &inventory));
            }
            let events = recorded(&folder, &run, &host).map_err(|error| {
                Failure::new(FailureKind::Preflight, "E-NO-RECORD", error.to_string())
                    .hint(format!("provision history show {run} lists where it did something"))
            })?;
            if global.output == Output::Json {
                for event in &events {
                    println!("{}", serde_json::to_string(event)?);
                }
            } else {
                for text in events.iter().filter_map(line) {
                    println!("{text}");
                }
            }
            return Ok(exit::DONE);
        }
        let (inventory, _) = load(&self.place.inventory)?;
        let runs = history(&journals(&inventory));
        if global.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&runs)?);
            return Ok(exit::DONE);
        }
        for run in &runs {
            let took =
                run.took_s.map_or_else(|| "-".to_owned(), |s| elapsed(Duration::from_secs(s.max(0) as u64)));
            println!(
                "{}  {}  {took:>7}  {}, {} failed  {}",
                run.run,
                time(run.began_s),
                count(run.done, "batch"),
                run.failed,
                run.note
            );
        }
        if runs.is_empty() {
            eprintln!("no run of {} is recorded on this machine", inventory.name);
        }
        Ok(exit::DONE)
    }
}
