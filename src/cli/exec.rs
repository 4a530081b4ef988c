//! `exec`: one command on many hosts, a line each.

use super::site::{Need, Site};
use super::{Global, Output, Where, exit, watch};
use crate::report::elapsed;
use crate::state::{Failure, FailureKind};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Run a command on the hosts of a pool, a line a host
///
/// As the login; with --root as root. At most as many hosts of a pool at once as its `disruption.maxUnavailable` allows,
/// since a command can take a host down; --at-once allows more. Exit code 1 if it failed anywhere.
#[derive(Args)]
#[command(after_help = "Examples:
  provision exec -i site.yaml --pool h100 -- uptime
  provision exec -i site.yaml --pool h100 --root --at-once 64 -- 'nvidia-smi -L | wc -l'
  provision exec -i site.yaml --limit 'h-[001-008]' -v -- cat /etc/os-release      -v prints all, not one line
  provision exec -i site.yaml --pool h100 --output json -- uname -r                a JSON object a line")]
pub struct Exec {
    #[command(flatten)]
    place: Where,
    /// The pool; or say --limit
    #[arg(long, value_name = "POOL", conflicts_with = "limit")]
    pool: Option<String>,
    /// As root
    #[arg(long)]
    root: bool,
    /// Hosts of a pool at once, instead of what its disruption allows
    #[arg(long, value_name = "HOSTS")]
    at_once: Option<usize>,
    /// When a host's command is given up, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u64,
    /// The command, for /bin/sh; after `--`
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
    pub async fn run(mut self, global: &Global) -> anyhow::Result<u8> {
        if let Some(pool) = self.pool.take() {
            self.place.limit = Some(pool);
        }
        if self.place.limit.is_none() {
            return Err(Failure::new(FailureKind::Preflight, "E-USAGE", "say on which hosts")
                .hint("--pool POOL, or --limit HOSTS; --limit '*' is all of them")
                .into());
        }
        let (events, shown) = watch(global, false);
        let site = Site::open_for(&self.place, Need::Look, &events).await?;
        drop(events);
        let inventory = &site.inventory;
        let seats: BTreeMap<&str, Arc<Semaphore>> = inventory
            .pools
            .values()
            .map(|pool| {
                let size = inventory.hosts_of(&pool.name).count();
                let most = self.at_once.unwrap_or_else(|| pool.disruption.max_unavailable.of(size)).max(1);
                (pool.name.as_str(), Arc::new(Semaphore::new(most)))
            })
            .collect();
        // One word is shell text; several are a command and its arguments.
        let command = match self.command.as_slice() {
            [one] => one.clone(),
            words => words.iter().map(|w| crate::template::quote(w)).collect::<Vec<_>>().join(" "),
        };
        let deadline = Duration::from_secs(self.deadline.max(1));
        let mut tasks = tokio::task::JoinSet::new();
        for (name, host) in &site.hosts {
            let seat = inventory.hosts.get(name).and_then(|h| seats.get(h.pool.as_str())).cloned();
            let (name, host, command, root) = (name.clone(), host.clone(), command.clone(), self.root);
            tasks.spawn(async move {
                let _seat = match &seat {
                    Some(seat) => seat.acquire().await.ok(),
                    None => None,
                };
                let began = Instant::now();
                let ran = host.run(&command, root, deadline).await;
                (name, ran, began.elapsed())
            });
        }
        let width = site.hosts.keys().map(|n| n.as_str().len()).max().unwrap_or(0);
        let (mut failed, mut all) = (0, 0);
        while let Some(joined) = tasks.join_next().await {
            let Ok((name, ran, took)) = joined else { continue };
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
            if global.verbose {
                for line in stdout.lines().chain(stderr.lines()) {
                    println!("{name:<width$}  | {line}");
                }
            }
        }
        if !global.quiet {
            eprintln!("{} of {all} hosts: exit 0", all - failed);
        }
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        Ok(if failed == 0 { exit::DONE } else { exit::FAILED })
    }
}
