//! A host as a `Target`: observed by one exec, changed by detached batches.

use super::batch::{self, Payloads, Place};
use super::frame::Sections;
use super::progress::Progress;
use super::sudo::{self, Sudo};
use super::talk::{Talk, TalkError};
use super::{causes, facts};
use crate::event::{Event, Events};
use crate::ssh::{Chunk, Dial, Session, SshError, SshErrorKind, Transport};
use crate::state::{
    Content, Facts, Failure, FailureKind, HostName, Lates, Observed, Resource, RunId, SecretText, Spec, Step,
    Target, TargetId,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Facts arrive within this time or the host counts as unobserved.
const FACTS_DEADLINE: Duration = Duration::from_secs(60);
/// State arrives within this time; every tool on the host has a shorter one of its own.
const STATE_DEADLINE: Duration = Duration::from_secs(180);
/// A lost connection is sought again for this long while a batch runs.
const RECONNECT_FOR: Duration = Duration::from_secs(300);
/// Run folders that stay on the host, for a look at what happened.
const KEPT_RUNS: usize = 5;
/// The first and the longest pause before a lost connection is sought again.
const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Computes what a host should have from what it says of itself; the errors are preflight failures.
pub type DesiredFn = Arc<dyn Fn(&Facts) -> Result<Vec<Resource>, Vec<Failure>> + Send + Sync>;

/// Everything a host target needs.
#[derive(Clone)]
pub struct HostSetup {
    /// The host.
    pub host: HostName,
    /// The way to it.
    pub dial: Arc<dyn Dial>,
    /// How the login becomes root.
    pub sudo: Sudo,
    /// What it should have.
    pub desired: DesiredFn,
    /// The run that batches and locks are named for.
    pub run: RunId,
    /// Who runs it, `user@machine`.
    pub owner: String,
    /// Our folder on the host.
    pub state_dir: String,
    /// How long a reboot may take.
    pub reboot_deadline: Duration,
    /// Its BMC, for messages.
    pub bmc: Option<String>,
    /// Secrets that must not appear in output, beyond those in resources.
    pub redact: Vec<SecretText>,
    /// Where events go.
    pub events: Events,
}

/// Our folder on hosts.
pub const STATE_DIR: &str = "/var/lib/provision";

/// A host over SSH.
pub struct HostTarget {
    setup: HostSetup,
    deep: bool,
    last: Mutex<Last>,
    word: tokio::sync::Mutex<Word>,
}

/// What is known of the password that sudo asks for.
#[derive(Default)]
enum Word {
    /// It was not given yet.
    #[default]
    Untried,
    /// It opened a root shell.
    Taken,
    /// It was refused, and is not given again: a few wrong ones lock an account.
    Refused(Failure),
}

#[derive(Default)]
struct Last {
    facts: Facts,
    desired: Vec<Resource>,
    batches: u32,
    touched: bool,
    /// The command line of the last root shell that worked.
    with_password: bool,
}

/// Returns whether the link went while a host was asked something. Asking changes nothing, so it is asked once more over a
/// new connection; a link that goes again is told.
fn is_lost(failure: &Failure) -> bool {
    failure.code == SshErrorKind::Lost.code()
}

pub(super) fn ssh_failure(error: SshError) -> Failure {
    Failure::new(FailureKind::Unobserved, error.kind.code(), error.message).hint(error.hint)
}

impl HostTarget {
    /// Returns the target; nothing is contacted yet.
    pub fn new(setup: HostSetup) -> Self {
        Self { setup, deep: false, last: Mutex::default(), word: tokio::sync::Mutex::default() }
    }

    /// Hashes large files at each observation, although their size and time say that nobody touched them.
    pub fn deep(mut self, deep: bool) -> Self {
        self.deep = deep;
        self
    }

    /// Returns the host's name.
    pub fn host(&self) -> &HostName {
        &self.setup.host
    }

    /// Opens or reuses the connection.
    pub(super) async fn dial(&self) -> Result<Arc<dyn Transport>, Failure> {
        self.setup.dial.dial().await.map_err(ssh_failure)
    }

    /// Returns how the login becomes root.
    pub(super) fn sudo(&self) -> &Sudo {
        &self.setup.sudo
    }

    /// Returns whether the last root shell needed the password.
    pub(super) fn needs_password(&self) -> bool {
        self.with_last(|l| l.with_password)
    }

    fn with_last<T>(&self, f: impl FnOnce(&mut Last) -> T) -> T {
        // A poisoned lock only means that another thread died in the middle of a simple assignment.
        f(&mut self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Starts a root shell that reads its program from standard input.
    async fn root_shell(&self, transport: &dyn Transport, with_password: bool) -> Result<Talk, SshError> {
        let password = match &self.setup.sudo {
            Sudo::Ask(Some(password)) if with_password => Some(password),
            _ => None,
        };
        match password {
            Some(password) => {
                let command = sudo::shell_with_password(transport, password).await?;
                Talk::start(transport, &command).await
            }
            None => Talk::start(transport, sudo::shell(&self.setup.sudo)).await,
        }
    }

    fn talk_failure(&self, error: TalkError, stderr: &str, what: &str) -> Failure {
        let host = &self.setup.host;
        if let Some(refusal) = sudo::refusal(stderr) {
            return refusal;
        }
        match error {
            TalkError::Ssh(error) => ssh_failure(error),
            TalkError::Ended(rc) => {
                let mut failure = Failure::new(
                    FailureKind::Unobserved,
                    "E-SHELL",
                    format!("/bin/sh on {host} ended with {rc} before it gave its {what}"),
                )
                .hint("log in by hand and run: sudo -n /bin/sh -c true");
                failure.tail = stderr.lines().map(str::to_owned).collect();
                failure
            }
            TalkError::Lost => Failure::new(
                FailureKind::Unobserved,
                "E-SSH-LOST",
                format!("connection to {host} was lost before it gave its {what}"),
            )
            .hint("run the same command again"),
            TalkError::TimedOut => Failure::new(
                FailureKind::Unobserved,
                "E-TIMEOUT",
                format!("{host} did not give its {what} in time"),
            )
            .hint("log in by hand: something on the host hangs"),
        }
    }

    /// Opens a root shell and asks the first program; falls back to the sudo password once.
    pub(super) async fn first(
        &self,
        program: &str,
        deadline: Duration,
        what: &str,
    ) -> Result<(Talk, String), Failure> {
        let transport = self.setup.dial.dial().await.map_err(ssh_failure)?;
        // Another one at the same time may have learnt already that sudo asks.
        if self.needs_password() {
            return self.with_word(transport.as_ref(), program, deadline, what).await;
        }
        let mut talk = self.root_shell(transport.as_ref(), false).await.map_err(ssh_failure)?;
        match talk.ask(program, deadline).await {
            Ok(answer) => Ok((talk, answer)),
            Err(_) if matches!(self.setup.sudo, Sudo::Ask(Some(_))) && sudo::wants_password(&talk.stderr) => {
                self.with_last(|l| l.with_password = true);
                self.with_word(transport.as_ref(), program, deadline, what).await
            }
            Err(error) => Err(self.talk_failure(error, &talk.stderr, what)),
        }
    }

    /// Asks through a root shell that the password opens. The first try is alone: what it shows holds for all that ask at
    /// the same time, so that a wrong password counts once.
    async fn with_word(
        &self,
        transport: &dyn Transport,
        program: &str,
        deadline: Duration,
        what: &str,
    ) -> Result<(Talk, String), Failure> {
        let word = self.word.lock().await;
        if let Word::Refused(failure) = &*word {
            return Err(failure.clone());
        }
        let mut first = matches!(*word, Word::Untried).then_some(word);
        let mut talk = self.root_shell(transport, true).await.map_err(ssh_failure)?;
        let asked = talk.ask(program, deadline).await;
        let asked = asked.map_err(|error| self.talk_failure(error, &talk.stderr, what));
        match (&mut first, &asked) {
            (Some(word), Ok(_)) => **word = Word::Taken,
            (Some(word), Err(failure)) if failure.code == sudo::WRONG_PASSWORD => {
                **word = Word::Refused(failure.clone());
            }
            _ => {}
        }
        Ok((talk, asked?))
    }

    /// Observes once.
    async fn observe_once(&self) -> Result<Observed, Failure> {
        let (mut talk, facts, waiting) = self.gather().await?;
        let lacks = lacking(&facts);
        if !lacks.is_empty() {
            return Err(combine(lacks));
        }
        let desired = (self.setup.desired)(&facts).map_err(combine)?;
        let program = super::ask(&desired).program(&self.setup.state_dir, self.deep);
        let answer = match talk.ask(&program, STATE_DEADLINE).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.talk_failure(error, &talk.stderr, "state")),
        };
        talk.end().await;
        let seen = super::observations(&desired, &answer)
            .ok_or_else(|| Failure::new(FailureKind::Unobserved, "E-FACTS", "the answer was cut"))?;
        let refused = super::refusals(&desired, &answer);
        if !refused.is_empty() {
            return Err(combine(refused));
        }
        let wanted: BTreeSet<&str> = desired.iter().map(|r| r.id.as_str()).collect();
        let orphans =
            facts.managed.iter().filter(|m| !m.adopted && !wanted.contains(m.id.as_str())).cloned().collect();
        let mut warnings = Vec::new();
        if facts.cloud_init.as_deref() == Some("running") {
            warnings.push("cloud-init is still running; packages wait for its lock".to_owned());
        }
        for open in facts.open_batches.iter().filter(|b| b.alive) {
            warnings.push(format!("batch {} of an earlier run still runs there", open.id));
        }
        if !waiting.is_empty() {
            warnings.push(format!(
                "an earlier run failed before it restarted {}; the next change here does it",
                waiting.join(" ")
            ));
        }
        self.with_last(|l| {
            l.facts = facts.clone();
            l.desired = desired.clone();
        });
        Ok(Observed { target: self.id(), facts, desired, seen, orphans, warnings })
    }

    async fn gather(&self) -> Result<(Talk, Facts, Vec<String>), Failure> {
        let program = prelude() + &facts::program(&self.setup.state_dir);
        let asked_s = now_s();
        let (talk, answer) = self.first(&program, FACTS_DEADLINE, "facts").await?;
        let answered_s = now_s();
        let unread = |why: String| Failure::new(FailureKind::Unobserved, "E-FACTS", why);
        let sections = Sections::parse(&answer).ok_or_else(|| unread("the answer was cut".to_owned()))?;
        let mut facts = facts::parse(&sections).map_err(unread)?;
        // It said its time at some moment in between.
        facts.skew_s = (facts.now_s - answered_s).max(0) + (facts.now_s - asked_s).min(0);
        // What a killed run left is taken away by the end of this one, also where this one changes nothing.
        if !sections.lines("left").iter().all(|l| l.trim().is_empty()) {
            self.with_last(|l| l.touched = true);
        }
        let waiting = sections.first("restarts").split_whitespace().map(str::to_owned).collect();
        Ok((talk, facts, waiting))
    }

    /// Returns the host's facts, by one exec.
    pub async fn facts(&self) -> Result<Facts, Failure> {
        let (talk, facts, _) = self.gather().await?;
        talk.end().await;
        Ok(facts)
    }

    /// Reads a file as root; `None` if it does not exist.
    pub async fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        use base64::Engine;
        let path = crate::template::quote(path);
        let program = format!(
            "{}main() {{ if [ -e {path} ]; then printf '\\036file\\n'; base64 -w0 {path}; echo; fi; printf '\\036end 0\\n'; }}; main </dev/null\n",
            prelude()
        );
        let (talk, answer) = self.first(&program, FACTS_DEADLINE, "file").await?;
        talk.end().await;
        let sections = Sections::parse(&answer).unwrap_or_default();
        if !sections.has("file") {
            return Ok(None);
        }
        base64::engine::general_purpose::STANDARD.decode(sections.first("file")).map(Some).map_err(|error| {
            Failure::new(FailureKind::Unobserved, "E-FACTS", format!("{path} did not arrive whole: {error}"))
        })
    }

    /// Runs a shell program as root that changes nothing, and returns what it prints.
    pub async fn output(&self, shell: &str) -> Result<String, Failure> {
        match self.output_within(shell, FACTS_DEADLINE).await {
            Err(failure) if is_lost(&failure) => self.output_within(shell, FACTS_DEADLINE).await,
            ended => ended,
        }
    }

    /// Does the same for what may take longer.
    pub async fn output_within(&self, shell: &str, deadline: Duration) -> Result<String, Failure> {
        let program = format!(
            "{}main() {{ printf '\\036text\\n'; {{\n{shell}\n}}; printf '\\n\\036end 0\\n'; }}; main </dev/null\n",
            prelude()
        );
        let (talk, answer) = self.first(&program, deadline, "answer").await?;
        talk.end().await;
        let cut = || Failure::new(FailureKind::Unobserved, "E-FACTS", "the answer was cut");
        Ok(Sections::parse(&answer).ok_or_else(cut)?.lines("text").join("\n"))
    }

    /// Follows batches that an earlier run left alive on the host until they end, and the reboot that one ends with.
    pub async fn attach(&self) -> Result<usize, Failure> {
        let facts = self.facts().await?;
        self.with_last(|l| l.facts.boot_id.clone_from(&facts.boot_id));
        let alive: Vec<_> = facts.open_batches.iter().filter(|b| b.alive).collect();
        for open in &alive {
            self.waiting(format!("an earlier run's batch {} still runs", open.id));
            if self.follow(&open.id, None, &[], &Payloads::new()).await? {
                self.rebooted(None).await?;
            }
        }
        Ok(alive.len())
    }

    fn waiting(&self, reason: String) {
        self.setup.events.emit(Event::Waiting { target: self.setup.host.to_string(), reason });
    }

    /// Returns what a command on the host could print: what it is given, and what its files hold.
    fn secrets_there(&self, payloads: &Payloads) -> Vec<SecretText> {
        let in_resources = self.with_last(|l| {
            l.desired
                .iter()
                .filter_map(|r| match &r.spec {
                    Spec::File(file) => match &file.content {
                        Content::Secret(secret) => Some(secret.clone()),
                        Content::Text(_) => None,
                    },
                    _ => None,
                })
                .collect::<Vec<_>>()
        });
        payloads.values().cloned().chain(in_resources).collect()
    }

    fn secrets(&self, payloads: &Payloads) -> Vec<SecretText> {
        let mut secrets = self.secrets_there(payloads);
        secrets.extend(self.setup.redact.iter().cloned());
        if let Sudo::Ask(Some(password)) = &self.setup.sudo {
            secrets.push(password.clone());
        }
        secrets.retain(|s| s.expose().trim().len() > 3);
        secrets
    }

    /// Starts a batch, or attaches to one, and follows it to its end.
    async fn follow(
        &self,
        batch: &str,
        program: Option<&str>,
        steps: &[Step],
        payloads: &Payloads,
    ) -> Result<bool, Failure> {
        let setup = &self.setup;
        let secrets = self.secrets(payloads);
        let mut progress =
            Progress::new(setup.host.to_string(), &setup.state_dir, &setup.events, steps, &secrets);
        let in_memory = !self.secrets_there(payloads).is_empty();
        let mut offset = 0u64;
        let mut lost_since: Option<(Instant, u64)> = None;
        let mut pause = RECONNECT_PAUSE.0;
        loop {
            let place = Place {
                state: &self.setup.state_dir,
                batch,
                run: self.setup.run.as_str(),
                owner: &self.setup.owner,
            };
            let text = batch::launcher(&place, program, payloads, in_memory, offset);
            match self.follow_once(&text, &mut offset, &mut progress).await {
                Ok(reboot) => return Ok(reboot),
                Err(Ended::Failed(failure)) => return Err(*failure),
                Err(Ended::Lost(error)) => {
                    // The time counts anew when something was heard in between.
                    let since = match lost_since {
                        Some((since, at)) if at == offset => since,
                        _ => {
                            pause = RECONNECT_PAUSE.0;
                            Instant::now()
                        }
                    };
                    lost_since = Some((since, offset));
                    // No waiting mends a key or a login.
                    let hopeless = !matches!(
                        error.kind,
                        SshErrorKind::Lost | SshErrorKind::Unreachable | SshErrorKind::Refused
                    );
                    if hopeless || since.elapsed() > RECONNECT_FOR {
                        return Err(ssh_failure(error));
                    }
                    self.waiting("the connection was lost; the batch goes on, connecting again".to_owned());
                    progress.cut();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_PAUSE.1);
                }
            }
        }
    }

    async fn follow_once(
        &self,
        launcher: &str,
        offset: &mut u64,
        progress: &mut Progress<'_>,
    ) -> Result<bool, Ended> {
        let transport = self.setup.dial.dial().await.map_err(Ended::Lost)?;
        let password = match &self.setup.sudo {
            Sudo::Ask(Some(password)) if self.with_last(|l| l.with_password) => Some(password.clone()),
            _ => None,
        };
        let command = match password {
            Some(p) => sudo::shell_with_password(transport.as_ref(), &p).await.map_err(Ended::Lost)?,
            None => sudo::shell(&self.setup.sudo).to_owned(),
        };
        let mut session = transport.open(&command).await.map_err(Ended::Lost)?;
        session.send(Bytes::from(launcher.to_owned())).await.map_err(Ended::Lost)?;
        let mut stderr = String::new();
        let mut exit = None;
        loop {
            let bytes = match tokio::time::timeout(progress.left(), session.next()).await {
                Err(_) => return Err(Ended::Failed(Box::new(progress.too_late()))),
                Ok(Some(Chunk::Stdout(bytes))) => bytes,
                Ok(Some(Chunk::Stderr(bytes))) => {
                    stderr.push_str(&String::from_utf8_lossy(&bytes));
                    continue;
                }
                Ok(Some(Chunk::Exit(rc))) => {
                    exit = Some(rc);
                    continue;
                }
                Ok(None) => {
                    return Err(match exit {
                        Some(rc) => Ended::Failed(Box::new(self.launch_failure(rc, &stderr))),
                        None => Ended::Lost(SshError {
                            kind: SshErrorKind::Lost,
                            message: format!("connection to {} was lost", self.setup.host),
                            hint: "apply again: what runs on the host goes on, and is found".to_owned(),
                        }),
                    });
                }
            };
            if let Some(result) = progress.feed(&bytes, offset) {
                // Closing its input ends the launcher and the `tail` behind it.
                close(session).await;
                return result.map_err(|f| Ended::Failed(Box::new(f)));
            }
        }
    }

    fn launch_failure(&self, rc: i32, stderr: &str) -> Failure {
        if let Some(refusal) = sudo::refusal(stderr) {
            return refusal;
        }
        let mut failure = Failure::new(
            FailureKind::Step,
            "E-LAUNCH",
            format!("{} could not start the batch (exit {rc})", self.setup.host),
        );
        failure.exit = Some(rc);
        failure.tail = stderr.lines().map(str::to_owned).collect();
        causes::explain(failure)
    }

    /// Waits until the host has another boot id.
    async fn rebooted(&self, step: Option<&Step>) -> Result<(), Failure> {
        let before = self.with_last(|l| l.facts.boot_id.clone());
        let began = Instant::now();
        let deadline = self.setup.reboot_deadline;
        let name = self.setup.host.to_string();
        while began.elapsed() < deadline {
            let note = format!("rebooting, allows {} min", deadline.as_secs().div_ceil(60));
            if let Some(step) = step {
                self.setup.events.emit(Event::StepProgress {
                    target: name.clone(),
                    step: step.resource.to_string(),
                    note,
                });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let ask = async { self.facts().await };
            if let Ok(Ok(facts)) = tokio::time::timeout(Duration::from_secs(30), ask).await
                && facts.boot_id != before
            {
                self.with_last(|l| l.facts.boot_id = facts.boot_id);
                return Ok(());
            }
        }
        let bmc = self.setup.bmc.as_deref().map(|b| format!(" (BMC {b})")).unwrap_or_default();
        let mut failure = Failure::new(
            FailureKind::Step,
            "E-REBOOT",
            format!("{name} did not come back from its reboot within {} s", deadline.as_secs()),
        )
        .hint(format!("look at its console{bmc}, then: provision apply --limit {name}"));
        failure.step = step.map(|s| s.id.clone());
        Err(failure)
    }
}

/// How following a batch ended, if not well.
enum Ended {
    Failed(Box<Failure>),
    Lost(SshError),
}

async fn close(mut session: Box<dyn Session>) {
    let _ = session.finish_input().await;
    let _ =
        tokio::time::timeout(Duration::from_secs(2), async { while session.next().await.is_some() {} }).await;
}

/// This machine's clock, seconds since 1970.
fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The first lines of every program.
pub(super) fn prelude() -> String {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C; export PATH LC_ALL\n"
        .to_owned()
}

#[async_trait]
impl Target for HostTarget {
    fn id(&self) -> TargetId {
        TargetId::Host(self.setup.host.clone())
    }

    async fn observe(&self) -> Result<Observed, Failure> {
        match self.observe_once().await {
            Err(failure) if is_lost(&failure) => self.observe_once().await,
            ended => ended,
        }
    }

    async fn enact(&self, steps: &[Step], lates: &Lates) -> Result<Lates, Failure> {
        let (facts, desired, number) = self.with_last(|l| {
            l.batches += 1;
            l.touched = true;
            (l.facts.clone(), l.desired.clone(), l.batches)
        });
        let batch = format!("{}-{number}-{:08x}", self.setup.run, rand::random::<u32>());
        let place = Place {
            state: &self.setup.state_dir,
            batch: &batch,
            run: self.setup.run.as_str(),
            owner: &self.setup.owner,
        };
        let program = batch::program(&place, steps, &desired, &facts);
        let payloads = batch::payloads(steps, &desired, lates);
        let reboot = self.follow(&batch, Some(&program), steps, &payloads).await?;
        if reboot {
            let step = steps.iter().rev().find(|s| s.resource.as_str().starts_with("reboot/"));
            self.rebooted(step).await?;
        }
        Ok(Lates::new())
    }

    async fn finish(&self) -> Result<(), Failure> {
        if !self.with_last(|l| std::mem::take(&mut l.touched)) {
            return Ok(());
        }
        // Our own record only, and no batch that still runs; an interrupted one is closed; the newest five stay.
        let run = &self.setup.run;
        let program = format!(
            "{prelude}main() {{ S={state}; grep -q '\"run\":\"{run}\"' \"$S/lock\" 2>/dev/null && flock -n \"$S/lock\" true && : >\"$S/lock\"\n\
             for b in \"$S\"/runs/*; do [ -d \"$b\" ] && [ ! -e \"$b/rc\" ] && flock -n \"$b/alive\" true && {{ rm -f -- \"$b/program.new\"; echo interrupted >\"$b/rc\"; }}; done\n\
             n=0; for b in $(ls -1t \"$S/runs\" 2>/dev/null); do [ -e \"$S/runs/$b/rc\" ] || continue; n=$((n+1)); [ $n -le {KEPT_RUNS} ] || rm -rf -- \"$S/runs/$b\"; done\n\
             {sweep}printf '\\036end 0\\n'; }}; main </dev/null\n",
            prelude = prelude(),
            state = crate::template::quote(&self.setup.state_dir),
            sweep = batch::sweep("*-*-????????"),
        );
        let (talk, _) = self.first(&program, FACTS_DEADLINE, "answer").await?;
        talk.end().await;
        Ok(())
    }
}

/// Makes one failure of several: the first, with the others in its tail.
pub fn combine(mut failures: Vec<Failure>) -> Failure {
    if failures.is_empty() {
        return Failure::new(FailureKind::Preflight, "E-PREFLIGHT", "preflight failed without saying why");
    }
    let mut first = failures.remove(0);
    let also = |f: &Failure| {
        let next = f.hint.as_ref().map(|h| format!("; next: {h}")).unwrap_or_default();
        format!("also: [{}] {}{next}", f.code, f.message)
    };
    first.tail.extend(failures.iter().map(also));
    first
}

/// What no host may lack: every lack at once.
pub fn lacking(facts: &Facts) -> Vec<Failure> {
    /// Less free space than this on / stops a host, in KiB: packages alone need more.
    const LEAST_FREE_KIB: u64 = 512 << 10;
    let mut lacking = Vec::new();
    let mut stop = |code: &str, message: String, hint: &str| {
        lacking.push(Failure::new(FailureKind::Preflight, code, message).hint(hint));
    };
    if facts.kernel_name != "Linux" {
        stop("E-NOT-LINUX", format!("it runs {}, not Linux", facts.kernel_name), "by hand: uname -s");
        return lacking; // nothing else that it says means what it means on Linux
    }
    if facts.uid != 0 {
        stop("E-NOT-ROOT", format!("the program runs as uid {}", facts.uid), "by hand: sudo -n id -u");
    }
    if !facts.systemd {
        let hint = "by hand: ls -d /run/systemd/system";
        stop("E-NO-SYSTEMD", "it was not booted with systemd".to_owned(), hint);
    }
    let full = ["/", "/var/lib"].into_iter().find_map(|path| {
        let free = facts.free_kib.get(path).filter(|free| **free < LEAST_FREE_KIB)?;
        Some(format!("only {} MiB are free on {path}", free / 1024))
    });
    if let Some(message) = full {
        stop("E-NO-SPACE", message, "by hand: df -h / /var/lib");
    }
    lacking
}
