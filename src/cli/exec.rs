//! `exec`: one command on many hosts, one line of output per host.

use super::args::{Global, Output, Where};
use super::errors::usage;
use super::exit;
use super::session::Session;
use crate::fleet::{self, ExecResult};
use crate::report::elapsed;
use crate::state::Failure;
use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use std::time::Duration;

/// Run a command on hosts, one line of output per host
///
/// Runs as the login user, or as root with --root. At most as many hosts of a pool at once as its `disruption.maxUnavailable` allows,
/// since a command can take a host down; --at-once allows more. Exit code 1 if it failed anywhere.
#[derive(Args)]
#[command(after_help = "Examples:
  provision exec -i site.yaml --pool h100 -- uptime
  provision exec -i site.yaml --pool h100 --root --at-once 64 -- 'nvidia-smi -L | wc -l'
  provision exec -i site.yaml --limit 'h-[001-008]' -v -- cat /etc/os-release      -v prints all output
  provision exec -i site.yaml --pool h100 --output json -- uname -r                one JSON object per line")]
pub(super) struct Exec {
    #[command(flatten)]
    place: Where,
    /// The pool; alternatively use --limit
    #[arg(long, value_name = "POOL", conflicts_with = "limit")]
    pool: Option<String>,
    /// Run as root
    #[arg(long)]
    root: bool,
    /// Hosts of a pool at once, instead of the pool's `disruption.maxUnavailable`
    #[arg(long, value_name = "HOSTS")]
    at_once: Option<usize>,
    /// Timeout for the command on each host, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u64,
    /// The command to run with /bin/sh, after `--`
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    host: &'a str,
    exit: Option<i32>,
    ms: u128,
    stdout: &'a str,
    stderr: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
}

/// Returns the one line that stands for an output: its first, and how many more there are.
fn short(stdout: &str, stderr: &str) -> String {
    let text = if stdout.trim().is_empty() { stderr } else { stdout };
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.count() {
        0 => first.to_owned(),
        more => format!("{first}  (+{more})"),
    }
}

impl Exec {
    /// Runs it everywhere and prints what came, as it comes.
    pub(super) async fn run(mut self, global: &Global) -> anyhow::Result<u8> {
        if let Some(pool) = self.pool.take() {
            self.place.limit = Some(pool);
        }
        if self.place.limit.is_none() {
            return Err(usage(
                "Specify hosts with --pool or --limit",
                "Add --pool POOL or --limit HOSTS; --limit '*' selects all hosts",
            ));
        }
        let session = Session::look(&self.place, global).await?;
        let width = session.fleet.hosts().map(|n| n.as_str().len()).max().unwrap_or(0);
        let deadline = Duration::from_secs(self.deadline.max(1));
        let exec = fleet::Exec { command: self.command, root: self.root, at_once: self.at_once, deadline };
        let mut results = std::pin::pin!(session.fleet.exec(&exec));
        let (mut failed, mut all) = (0, 0);
        while let Some(ExecResult { host: name, ran, took }) = results.next().await {
            all += 1;
            failed += usize::from(ran.as_ref().map_or(true, |r| r.exit != Some(0)));
            let (code, stdout, stderr) = match &ran {
                Ok(ran) => (ran.exit, ran.stdout.as_str(), ran.stderr.as_str()),
                Err(_) => (None, "", ""),
            };
            let failure = ran.as_ref().err();
            if global.output == Output::Json {
                let ms = took.as_millis();
                let line = Line { host: name.as_str(), exit: code, ms, stdout, stderr, failure };
                println!("{}", serde_json::to_string(&line)?);
                continue;
            }
            match (failure, code) {
                (Some(failure), _) => println!("{name:<width$}  {failure}"),
                (None, Some(code)) => {
                    println!("{name:<width$}  exit {code}  {:>6}  {}", elapsed(took), short(stdout, stderr));
                }
                (None, None) => {}
            }
            if let Some(hint) = failure.and_then(|f| f.hint.as_ref()) {
                println!("{:<width$}  = next: {hint}", "");
            }
            if global.verbose > 0 {
                for line in stdout.lines().chain(stderr.lines()) {
                    println!("{name:<width$}  | {line}");
                }
            }
        }
        if !global.quiet {
            eprintln!("{}/{all} hosts: exit 0", all - failed);
        }
        session.end().await?;
        Ok(if failed == 0 { exit::DONE } else { exit::FAILED })
    }
}
