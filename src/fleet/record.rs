//! The record of a run: who, what, every step; in the chain on this machine, on the hosts that it touched, and its head in the cluster.
//! A record that cannot be kept elsewhere is told of, and stops no run.

use super::actor::{Actor, RunAbout, actor, machine};
use super::error::{Result, cannot};
use super::load::Loaded;
use super::open::Fleet;
use super::tasks::on_each;
use crate::event::{Event, Events};
use crate::executor::HostTarget;
use crate::inventory::Inventory;
use crate::plan::Plan;
use crate::report::count;
use crate::run::{
    Chain, ChainReport, Evidence, Head, Line, Outcome, RecordKind, RunBegun, RunEnded, RunReport,
    TargetEnded, sha256,
};
use crate::state::{Failure, FailureKind, HostName, TargetId, plain_line};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The folders of records below those of journals: simulated runs have a chain of their own.
const RECORDS: [&str; 2] = ["records", "records-lab"];
/// The largest record of a run's end that hosts keep as well, in bytes.
const MOST_ON_HOST: usize = 64 << 10;
/// The cluster answers within this time, or the run goes on without it.
const IN_TIME: Duration = Duration::from_secs(15);

/// The record of a run that is in progress.
pub(super) struct Recording {
    chain: Chain,
    begun: Option<Line>,
    text: String,
}

/// Returns the folder of an inventory's records below that of its journals.
pub(super) fn records_in(journals: &Path, lab: bool) -> Chain {
    Chain::at(journals.join(RECORDS[usize::from(lab)]))
}

/// Waits no longer than [`IN_TIME`]: a run that repairs the cluster does not wait for it.
async fn in_time<T>(
    answer: impl Future<Output = std::result::Result<T, Failure>>,
) -> std::result::Result<T, Failure> {
    tokio::time::timeout(IN_TIME, answer).await.unwrap_or_else(|_| {
        let message = format!("the Kubernetes API did not respond within {} s", IN_TIME.as_secs());
        Err(Failure::new(FailureKind::Unobserved, "E-K8S-TIMEOUT", message))
    })
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn head_of(data: &BTreeMap<String, String>) -> Option<Head> {
    Some(Head { sequence: data.get("sequence")?.parse().ok()?, hash: data.get("hash")?.clone() })
}

impl Fleet {
    /// Says what the run that follows is about.
    pub fn describe_run(&mut self, about: RunAbout) {
        self.about = about;
    }

    fn warn(events: &Events, what: &str, why: &str) {
        events.emit(Event::Warning { target: None, message: format!("{what}: {}", plain_line(why)) });
    }

    /// Records that the run begins. The chain goes on from where the cluster says that it is.
    pub(super) async fn record_begin(&self, plan: &Plan, events: &Events) -> Result<Recording> {
        let chain = records_in(&self.source.state.journals(&self.inventory)?, self.is_lab());
        let Actor { user, ci } = actor();
        let about = &self.about;
        let commit = self.commit(plan, about.signers.as_deref()).unwrap_or_else(|error| {
            Self::warn(events, "the inventory's commit could not be recorded", &error.failure().message);
            None
        });
        let digest = || sha256(&serde_json::to_string(plan).unwrap_or_default());
        let begun = RunBegun {
            run: self.run.to_string(),
            command: if about.command.is_empty() { "apply".to_owned() } else { about.command.clone() },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now(),
            user,
            ci,
            inventory: self.inventory.name.clone(),
            inventory_digest: plan.inventory_digest.clone(),
            lock_digest: plan.lock_digest.clone(),
            lab: self.is_lab(),
            limit: self.selection.limit.clone(),
            commit,
            plan: about.saved.clone().unwrap_or_else(digest),
            saved: about.saved.is_some(),
            steps: plan.steps(),
            approvals: about.approvals.clone(),
            policy: plan.policy.clone(),
        };
        let known = match &self.cluster {
            Some(cluster) => in_time(cluster.chain_head()).await.unwrap_or_else(|failure| {
                Self::warn(
                    events,
                    "the head of the run records could not be read from the cluster",
                    &failure.message,
                );
                None
            }),
            None => None,
        };
        let text = serde_json::to_string_pretty(&begun).unwrap_or_default();
        let known = known.as_ref().and_then(head_of);
        let begun = chain.append(self.run.as_str(), RecordKind::Begun, &machine(), &text, known.as_ref());
        let begun = begun
            .map_err(|error| Self::warn(events, "the run could not be recorded", &error.to_string()))
            .ok();
        self.steps.end();
        Ok(Recording { chain, begun, text })
    }

    /// Records how the run ended: here, on the hosts that it touched, and its head in the cluster.
    pub(super) async fn record_end(&self, recording: Recording, report: &RunReport, events: &Events) {
        let Recording { chain, begun: Some(begun), text: begun_text } = recording else { return };
        let run = self.run.as_str();
        let mut steps = self.steps.end();
        let mut targets = BTreeMap::new();
        let mut own = BTreeMap::new();
        for (target, outcome) in &report.outcomes {
            let done = steps.remove(&target.to_string()).unwrap_or_default();
            let text = serde_json::to_string_pretty(&done).unwrap_or_default();
            if let Err(error) = chain.write(&chain.steps(run, &target.to_string()), &text) {
                Self::warn(events, "the steps of the run could not be recorded", &error.to_string());
            }
            let (outcome, code) = match outcome {
                Outcome::Converged(_) => ("converged", None),
                Outcome::Failed(failure) => ("failed", Some(failure.code.clone())),
                Outcome::Stopped => ("stopped", None),
                Outcome::Detached => ("detached", None),
            };
            let digest = sha256(&text);
            targets.insert(
                target.to_string(),
                TargetEnded { outcome: outcome.to_owned(), code, steps: done.len(), digest },
            );
            if let (TargetId::Host(name), false) = (target, done.is_empty()) {
                own.insert(name.clone(), text);
            }
        }
        let ended = RunEnded {
            run: run.to_owned(),
            at: now(),
            exit: report.exit_code(),
            interrupted: report.interrupted,
            targets,
        };
        let text = serde_json::to_string_pretty(&ended).unwrap_or_default();
        let line = match chain.append(run, RecordKind::Ended, &machine(), &text, None) {
            Ok(line) => line,
            Err(error) => {
                return Self::warn(events, "the end of the run could not be recorded", &error.to_string());
            }
        };
        // What was told to detach does not wait for hosts.
        if report.outcomes.values().any(|outcome| *outcome == Outcome::Detached) {
            return;
        }
        let lines = [begun.text.clone(), line.text.clone()];
        let whole = text.len() <= MOST_ON_HOST;
        let keep = |(name, steps): (HostName, String)| {
            let host = self.hosts.get(&name).or_else(|| self.retired.get(&name)).cloned();
            let mut files =
                vec![(format!("{run}.begun.json"), begun_text.clone()), (format!("{run}.steps.json"), steps)];
            files.extend(whole.then(|| (format!("{run}.ended.json"), text.clone())));
            let lines = lines.clone();
            (name, async move {
                match host {
                    Some(host) => host.keep_records(&lines, &files).await,
                    None => Ok(()),
                }
            })
        };
        // A host that was reset has nothing of ours any more.
        let own = if self.selection.reset.is_some() { BTreeMap::new() } else { own };
        let kept = on_each(own.into_iter().map(keep)).await;
        let failed: Vec<&HostName> =
            kept.iter().filter(|(_, kept)| kept.is_err()).map(|(name, _)| name).collect();
        if let Some(first) = failed.first() {
            let more = match failed.len() - 1 {
                0 => String::new(),
                more => format!(" and {}", count(more, "more host")),
            };
            Self::warn(events, "the run's record could not be written on hosts", &format!("{first}{more}"));
        }
        if let Some(cluster) = &self.cluster {
            let head = BTreeMap::from([
                ("sequence".to_owned(), line.link.sequence.to_string()),
                ("hash".to_owned(), line.hash.clone()),
                ("run".to_owned(), run.to_owned()),
                ("at".to_owned(), line.link.at.clone()),
            ]);
            if let Err(failure) = in_time(cluster.set_chain_head(&head)).await {
                Self::warn(
                    events,
                    "the head of the run records could not be written to the cluster",
                    &failure.message,
                );
            }
        }
    }

    /// Verifies the records of the inventory's runs: those on this machine, against those on the hosts and the head in the cluster.
    pub async fn verify_records(&self) -> Result<ChainReport> {
        let chain = records_in(&self.source.state.journals(&self.inventory)?, self.is_lab());
        let ask = |(name, host): (&HostName, &Arc<HostTarget>)| {
            let host = host.clone();
            (name.clone(), async move { host.records().await })
        };
        let asked = on_each(self.hosts.iter().map(ask)).await;
        let mut copies = Vec::new();
        let mut wrong = Vec::new();
        let mut silent: Vec<String> = Vec::new();
        for (name, lines) in asked {
            match lines {
                Ok(lines) => {
                    for text in lines {
                        match Line::read(&text) {
                            Ok(line) => copies.push((name.to_string(), line)),
                            Err(why) => wrong.push(format!("a record on {name} cannot be read: {why}")),
                        }
                    }
                }
                Err(_) => silent.push(name.to_string()),
            }
        }
        let head = match &self.cluster {
            Some(cluster) => cluster.chain_head().await.map(|data| data.as_ref().and_then(head_of)),
            None => Ok(None),
        };
        let mut report = verify(&chain, &copies, head.as_ref().ok().and_then(Option::as_ref))?;
        report.wrong.extend(wrong);
        if let Err(Failure { message, .. }) = &head {
            report.notes.push(format!("the head in the cluster could not be read: {message}"));
        }
        if !silent.is_empty() {
            let names: Vec<&str> = silent.iter().map(String::as_str).collect();
            report
                .notes
                .push(format!("not asked, because they do not respond: {}", crate::report::names(&names)));
        }
        Ok(report)
    }
}

/// Verifies a chain, and the records that it names.
fn verify(chain: &Chain, copies: &[(String, Line)], head: Option<&Head>) -> Result<ChainReport> {
    let local = chain.lines().map_err(cannot("read", Path::new("the chain of records")))?;
    let mut report = Evidence { local: &local, copies, head, machine: &machine() }.verify();
    let mut ended: BTreeSet<&str> = BTreeSet::new();
    for line in local.iter().flatten() {
        let (run, kind) = (line.link.run.as_str(), line.link.kind);
        let Some(text) = chain.read(run, kind) else {
            report.wrong.push(format!("the record of run {run} ({}) is missing", kind.as_str()));
            continue;
        };
        if sha256(&text) != line.link.content {
            report.wrong.push(format!("the record of run {run} ({}) was changed", kind.as_str()));
            continue;
        }
        if kind == RecordKind::Begun {
            continue;
        }
        ended.insert(run);
        let Ok(told) = serde_json::from_str::<RunEnded>(&text) else { continue };
        for (target, end) in &told.targets {
            match std::fs::read_to_string(chain.steps(run, target)) {
                Ok(steps) if sha256(&steps) == end.digest => {}
                Ok(_) => report.wrong.push(format!("the steps of run {run} on {target} were changed")),
                Err(_) => report.wrong.push(format!("the steps of run {run} on {target} are missing")),
            }
        }
    }
    let cut: Vec<&str> = local
        .iter()
        .flatten()
        .filter(|line| line.link.kind == RecordKind::Begun && !ended.contains(line.link.run.as_str()))
        .map(|line| line.link.run.as_str())
        .collect();
    if !cut.is_empty() {
        report.notes.push(format!("runs without an end, in progress or cut off: {}", cut.join(", ")));
    }
    Ok(report)
}

/// The record of a run, of this machine.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RunRecord {
    /// Who began it, and what it was.
    pub begun: Option<RunBegun>,
    /// How it ended.
    pub ended: Option<RunEnded>,
}

/// Returns what is recorded of a run; of runs before there were records, nothing.
pub(super) fn record_of(journals: &Path, run: &str) -> RunRecord {
    let chains = [false, true].map(|lab| records_in(journals, lab));
    let read = |kind| chains.iter().find_map(|chain| chain.read(run, kind));
    RunRecord {
        begun: read(RecordKind::Begun).and_then(|text| serde_json::from_str(&text).ok()),
        ended: read(RecordKind::Ended).and_then(|text| serde_json::from_str(&text).ok()),
    }
}

impl Loaded {
    /// Verifies the records on this machine alone, of simulated hosts or of real ones.
    pub fn verify_records(&self, lab: bool) -> Result<ChainReport> {
        let inventory: &Inventory = &self.inventory;
        verify(&records_in(&self.source.state.journals(inventory)?, lab), &[], None)
    }
}
