//! A host as a `Target`: observed by one exec, changed by detached batches.

use super::batch::{self, BatchContext, Payloads};
use super::bounded::{Bounded, MOST_STDERR};
use super::causes;
use super::frame::Sections;
use super::leaving::{self, Leaving};
use super::progress::Progress;
use super::root_shell::{RootShell, RootShellError};
use super::sudo::{self, Sudo};
use crate::event::{Event, Events};
use crate::k0s;
use crate::ssh::{Chunk, Dial, Session, SshError, SshErrorKind, Transport};
use crate::state::{
    Content, Facts, Failure, FailureKind, HostKind, HostName, NODE_DEAD, Observed, REDACTED, Resource, RunId,
    SecretText, Spec, Step, StepOutputs, Target, TargetId,
};
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The code of a host that did not answer in time.
pub(super) const TIMED_OUT: &str = "E-TIMEOUT";
/// Facts arrive within this time or the host counts as unobserved.
pub(super) const FACTS_DEADLINE: Duration = Duration::from_secs(60);
/// Waiting until k0s stays up takes less.
const STEADY_DEADLINE: Duration = Duration::from_secs(180);
/// Stopping what pods run takes less.
const STOP_PODS_DEADLINE: Duration = Duration::from_secs(120);
/// How long to reconnect after a lost connection while a batch runs.
const RECONNECT_FOR: Duration = Duration::from_secs(300);
/// Run folders that stay on the host, for troubleshooting.
const KEPT_RUNS: usize = 5;
/// Pauses before a lost connection is sought again.
const RECONNECT_PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times();

/// Computes the desired resources of a host from its facts; errors are preflight failures.
pub type DesiredFn = Arc<dyn Fn(&Facts) -> Result<Vec<Resource>, Vec<Failure>> + Send + Sync>;

/// Everything a host target needs.
#[derive(Clone)]
pub struct HostSetup {
    /// The host.
    pub host: HostName,
    /// The connection to it.
    pub dial: Arc<dyn Dial>,
    /// How the login becomes root.
    pub sudo: Sudo,
    /// Its desired resources.
    pub desired: DesiredFn,
    /// The run that batches and locks are named for.
    pub run: RunId,
    /// Who runs it, `user@machine`.
    pub owner: String,
    /// Our folder on the host.
    pub state_dir: String,
    /// How long a reboot may take.
    pub reboot_deadline: Duration,
    /// So many seconds k0s has to stay up before its node is back in service.
    pub steady_s: u32,
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
    pub(super) setup: HostSetup,
    pub(super) deep: bool,
    offline: bool,
    pub(super) leaving: Option<Leaving>,
    last: Mutex<Last>,
    sudo_state: tokio::sync::Mutex<SudoState>,
}

/// Whether the sudo password works.
#[derive(Default)]
enum SudoState {
    /// It was not tried yet.
    #[default]
    Untried,
    /// It was accepted.
    Accepted,
    /// It was refused and is not tried again: a few wrong ones lock an account.
    Refused(Box<Failure>),
}

#[derive(Default)]
pub(super) struct Last {
    pub(super) facts: Facts,
    pub(super) desired: Vec<Resource>,
    pub(super) to_fetch: BTreeSet<String>,
    batches: u32,
    pub(super) touched: bool,
    /// Nothing of ours was left on it when it was last looked at, and nothing was done since.
    pub(super) clean: bool,
    /// The command line of the last root shell that worked.
    with_password: bool,
    /// A tool hung in an observation.
    pub(super) tool_hung: bool,
}

/// Returns whether the connection was lost during a query. Queries change nothing, so they are retried once over a
/// new connection; a second loss is an error.
fn is_lost(failure: &Failure) -> bool {
    failure.code == SshErrorKind::Lost.code()
}

impl HostTarget {
    /// Returns the target; nothing is contacted yet.
    pub fn new(setup: HostSetup) -> Self {
        Self {
            setup,
            deep: false,
            offline: false,
            leaving: None,
            last: Mutex::default(),
            sudo_state: tokio::sync::Mutex::default(),
        }
    }

    /// Hashes large files at each observation, even if their size and time are unchanged.
    pub fn deep(mut self, deep: bool) -> Self {
        self.deep = deep;
        self
    }

    /// Marks the host as one that fetches nothing itself: its downloads are delivered over SSH.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Marks the host as one that leaves.
    pub fn leaving(mut self, leaving: Leaving) -> Self {
        self.leaving = Some(leaving);
        self
    }

    /// Returns the host's name.
    pub fn host(&self) -> &HostName {
        &self.setup.host
    }

    /// Opens or reuses the connection.
    pub(super) async fn dial(&self) -> Result<Arc<dyn Transport>, Failure> {
        self.setup.dial.dial().await.map_err(Failure::from)
    }

    /// Returns the host key of the connection.
    pub(super) async fn dialled_key(&self) -> Option<String> {
        self.setup.dial.host_key().await
    }

    /// Returns the sums of files that the host would fetch, as of its last observation.
    pub(super) fn undelivered(&self) -> BTreeSet<String> {
        self.with_last(|l| l.to_fetch.clone())
    }

    /// Returns how the login becomes root.
    pub(super) fn sudo(&self) -> &Sudo {
        &self.setup.sudo
    }

    /// Returns whether the last root shell needed the password.
    pub(super) fn needs_password(&self) -> bool {
        self.with_last(|l| l.with_password)
    }

    pub(super) fn with_last<T>(&self, f: impl FnOnce(&mut Last) -> T) -> T {
        // A poisoned lock only means that another thread died in the middle of a simple assignment.
        f(&mut self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Starts a root shell that reads its program from standard input.
    async fn root_shell(
        &self,
        transport: &dyn Transport,
        with_password: bool,
    ) -> Result<RootShell, SshError> {
        let password = match &self.setup.sudo {
            Sudo::Required(Some(password)) if with_password => Some(password),
            _ => None,
        };
        match password {
            Some(password) => {
                let command = sudo::shell_with_password(transport, password).await?;
                RootShell::start(transport, &command).await
            }
            None => RootShell::start(transport, sudo::shell(&self.setup.sudo)).await,
        }
    }

    /// Returns how sudo ended, if it is sudo that ended a root shell before its first output. One exec, only then.
    async fn sudo_end(&self, transport: &dyn Transport, stderr: &str) -> Option<sudo::Ended> {
        if matches!(self.setup.sudo, Sudo::None) {
            return None;
        }
        let ended = match sudo::Ended::parse(stderr) {
            Some(ended) => Some(ended),
            None => sudo::probe(transport).await.ok().flatten(),
        };
        ended.filter(|ended| !ended.succeeded())
    }

    pub(super) fn shell_failure(&self, error: RootShellError, shell: &RootShell, what: &str) -> Failure {
        let host = &self.setup.host;
        match error {
            RootShellError::Ssh(error) => error.into(),
            RootShellError::Ended(rc) => {
                let mut failure = Failure::new(
                    FailureKind::Unobserved,
                    "E-SHELL",
                    format!("/bin/sh on {host} exited with {rc} before it printed its {what}"),
                );
                // A login with a forced command, or a shell such as nologin, says so instead of running anything.
                let instead = shell.printed_instead();
                let said = instead.lines().map(str::trim).find(|line| !line.is_empty());
                failure = match (said, &self.setup.sudo) {
                    (Some(said), _) => failure.cause(format!("the login printed: {said}")).hint(
                        "Check ssh.user, its login shell, and `command=` before its key in authorized_keys on the host",
                    ),
                    (None, Sudo::None) => failure.hint("Log in and run: /bin/sh -c true"),
                    (None, Sudo::Required(_)) => failure.hint("Log in and run: sudo -n /bin/sh -c true"),
                };
                let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
                failure.tail = [lines(&instead), lines(&shell.stderr())].concat();
                failure
            }
            RootShellError::Lost => Failure::new(
                FailureKind::Unobserved,
                "E-SSH-LOST",
                format!("connection to {host} lost before it sent its {what}"),
            )
            .hint("Run the same command again"),
            RootShellError::Flood => Failure::new(
                FailureKind::Unobserved,
                "E-FLOOD",
                format!("stopped reading from {host}: too much output instead of its {what}"),
            )
            .hint("Log in and check the login shell's startup files: they may print endlessly"),
            RootShellError::TimedOut => Failure::new(
                FailureKind::Unobserved,
                TIMED_OUT,
                format!("{host} timed out sending its {what}"),
            )
            .hint("Log in and look for hung processes on the host"),
        }
    }

    /// Opens a root shell and runs the first program; falls back to the sudo password once.
    pub(super) async fn first(
        &self,
        program: &str,
        deadline: Duration,
        what: &str,
    ) -> Result<(RootShell, String), Failure> {
        let transport = self.setup.dial.dial().await.map_err(Failure::from)?;
        // Another task may already have learned that sudo needs the password.
        if self.needs_password() {
            return self.with_password(transport.as_ref(), program, deadline, what).await;
        }
        let mut shell = self.root_shell(transport.as_ref(), false).await.map_err(Failure::from)?;
        let error = match shell.run(program, deadline).await {
            Ok(answer) => return Ok((shell, answer)),
            Err(error) => error,
        };
        if matches!(error, RootShellError::Ended(_)) && !shell.has_begun() {
            let ended = self.sudo_end(transport.as_ref(), &shell.stderr()).await;
            let password = matches!(self.setup.sudo, Sudo::Required(Some(_)));
            match ended {
                Some(ended) if password && ended.may_want_password() => {
                    self.with_last(|l| l.with_password = true);
                    return self.with_password(transport.as_ref(), program, deadline, what).await;
                }
                Some(ended) => return Err(ended.refusal()),
                None => {}
            }
        }
        Err(self.shell_failure(error, &shell, what))
    }

    /// Runs a program in a root shell opened with the password. The first try runs alone and settles it for all tasks that
    /// wait meanwhile, so that a wrong password counts once.
    async fn with_password(
        &self,
        transport: &dyn Transport,
        program: &str,
        deadline: Duration,
        what: &str,
    ) -> Result<(RootShell, String), Failure> {
        let sudo_state = self.sudo_state.lock().await;
        if let SudoState::Refused(failure) = &*sudo_state {
            return Err(failure.as_ref().clone());
        }
        let mut first = matches!(*sudo_state, SudoState::Untried).then_some(sudo_state);
        let mut shell = self.root_shell(transport, true).await.map_err(Failure::from)?;
        let error = match shell.run(program, deadline).await {
            Ok(answer) => {
                if let Some(sudo_state) = &mut first {
                    **sudo_state = SudoState::Accepted;
                }
                return Ok((shell, answer));
            }
            Err(error) => error,
        };
        let refused = sudo::Ended::parse(&shell.stderr()).filter(|_| !shell.has_begun());
        let Some(refused) = refused else { return Err(self.shell_failure(error, &shell, what)) };
        let failure = refused.refusal();
        if refused.read_password()
            && let Some(sudo_state) = &mut first
        {
            **sudo_state = SudoState::Refused(Box::new(failure.clone()));
        }
        Err(failure)
    }

    /// Reads a file as root; `None` if it does not exist.
    pub async fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        use base64::Engine;
        let path = crate::template::quote(path);
        let program = format!(
            "{}main() {{ if [ -e {path} ]; then printf '\\036file\\n'; base64 -w0 {path}; echo; fi; printf '\\036end 0\\n'; }}; main </dev/null\n",
            prelude()
        );
        let (shell, answer) = self.first(&program, FACTS_DEADLINE, "file").await?;
        shell.end().await;
        let sections = Sections::parse(&answer).unwrap_or_default();
        if !sections.has("file") {
            return Ok(None);
        }
        base64::engine::general_purpose::STANDARD.decode(sections.first("file")).map(Some).map_err(|error| {
            Failure::new(FailureKind::Unobserved, "E-FACTS", format!("{path} arrived incomplete: {error}"))
        })
    }

    /// Runs a shell program as root that changes nothing, and returns what it prints. After a lost connection it runs
    /// once more.
    pub async fn output(&self, shell: &str) -> Result<String, Failure> {
        self.output_retried(shell, FACTS_DEADLINE).await
    }

    /// Does the same with a longer deadline for each of the two attempts.
    pub async fn output_retried(&self, shell: &str, deadline: Duration) -> Result<String, Failure> {
        match self.output_within(shell, deadline).await {
            Err(failure) if is_lost(&failure) => self.output_within(shell, deadline).await,
            ended => ended,
        }
    }

    /// Runs such a program once: for tests of hours, which nobody wants to run twice.
    pub async fn output_within(&self, shell: &str, deadline: Duration) -> Result<String, Failure> {
        let program = format!(
            "{}main() {{ printf '\\036text\\n'; {{\n{shell}\n}}; printf '\\n\\036end 0\\n'; }}; main </dev/null\n",
            prelude()
        );
        let (shell, answer) = self.first(&program, deadline, "answer").await?;
        shell.end().await;
        let cut = || Failure::new(FailureKind::Unobserved, "E-FACTS", "the output is truncated");
        Ok(Sections::parse(&answer).ok_or_else(cut)?.lines("text").join("\n"))
    }

    /// Follows batches that an earlier run left alive on the host until they end, and the reboot that one ends with.
    pub async fn attach(&self) -> Result<usize, Failure> {
        let facts = self.facts().await?;
        self.with_last(|l| l.facts.boot_id.clone_from(&facts.boot_id));
        let alive: Vec<_> = facts.open_batches.iter().filter(|b| b.alive).collect();
        for open in &alive {
            self.waiting(format!("waiting for batch {} of an earlier run", open.id));
            if self.follow(&open.id, None, &[], &Payloads::new()).await? {
                self.rebooted(None).await?;
            }
        }
        Ok(alive.len())
    }

    fn waiting(&self, reason: String) {
        self.setup.events.emit(Event::Waiting { target: self.setup.host.to_string(), reason });
    }

    /// Returns the secrets that a command on the host could print: its inputs, and those in files.
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
        if let Sudo::Required(Some(password)) = &self.setup.sudo {
            secrets.push(password.clone());
        }
        secrets.retain(|s| s.expose().trim().len() > 3);
        secrets
    }

    /// Returns the first lines of what a program printed, as a failure shows them: bounded, and without secrets, as a unit's
    /// journal may hold one.
    pub(super) fn shown(&self, said: &str) -> VecDeque<String> {
        const LINES: usize = 20;
        const LINE: usize = 500;
        let forms: Vec<_> = self.secrets(&Payloads::new()).iter().flat_map(SecretText::forms).collect();
        let lines = said.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let hidden = lines.map(|line| {
            let line = forms.iter().fold(line.to_owned(), |line, form| line.replace(form.as_str(), REDACTED));
            line.chars().take(LINE).collect()
        });
        hidden.take(LINES).collect()
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
        let mut pauses = RECONNECT_PAUSES.build();
        loop {
            let context = BatchContext {
                state: &self.setup.state_dir,
                batch,
                run: self.setup.run.as_str(),
                owner: &self.setup.owner,
                leaves: self.leaving.is_some(),
                offline: self.offline,
            };
            let text = batch::launcher(&context, program, payloads, in_memory, offset);
            match self.follow_once(&text, &mut offset, &mut progress).await {
                Ok(reboot) => return Ok(reboot),
                Err(Ended::Failed(failure)) => return Err(*failure),
                Err(Ended::Lost(error)) => {
                    // Any output in between restarts the timeout.
                    let since = match lost_since {
                        Some((since, at)) if at == offset => since,
                        _ => {
                            pauses = RECONNECT_PAUSES.build();
                            Instant::now()
                        }
                    };
                    lost_since = Some((since, offset));
                    // Waiting does not fix a key or a login.
                    let hopeless = !matches!(
                        error.kind,
                        SshErrorKind::Lost | SshErrorKind::Unreachable | SshErrorKind::Refused
                    );
                    if hopeless || since.elapsed() > RECONNECT_FOR {
                        return Err(error.into());
                    }
                    self.waiting("connection lost; the batch continues, reconnecting".to_owned());
                    progress.cut();
                    tokio::time::sleep(pauses.next().unwrap_or_default()).await;
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
            Sudo::Required(Some(password)) if self.with_last(|l| l.with_password) => Some(password.clone()),
            _ => None,
        };
        let command = match password {
            Some(p) => sudo::shell_with_password(transport.as_ref(), &p).await.map_err(Ended::Lost)?,
            None => sudo::shell(&self.setup.sudo).to_owned(),
        };
        let mut session = transport.open(&command).await.map_err(Ended::Lost)?;
        session.send(Bytes::from(launcher.to_owned())).await.map_err(Ended::Lost)?;
        let mut stderr = Bounded::new(MOST_STDERR);
        let mut exit = None;
        loop {
            let bytes = match tokio::time::timeout(progress.left(), session.next()).await {
                Err(_) => return Err(Ended::Failed(Box::new(progress.too_late()))),
                Ok(Some(Chunk::Stdout(bytes))) => bytes,
                Ok(Some(Chunk::Stderr(bytes))) => {
                    stderr.push(&bytes);
                    // Without steps no deadline ends it, as each piece of output restarts the timeout.
                    if stderr.is_flood() {
                        let message = format!("stopped reading from {}: too much output", self.setup.host);
                        let flood = Failure::new(FailureKind::Step, "E-FLOOD", message).hint(
                            "Log in and check the login shell's startup files: they may print endlessly",
                        );
                        return Err(Ended::Failed(Box::new(flood)));
                    }
                    continue;
                }
                Ok(Some(Chunk::Exit(rc))) => {
                    exit = Some(rc);
                    continue;
                }
                Ok(None) => {
                    return Err(match exit {
                        Some(rc) => {
                            let failure = self.launch_failure(transport.as_ref(), rc, &stderr.text()).await;
                            Ended::Failed(Box::new(failure))
                        }
                        None => Ended::Lost(SshError {
                            kind: SshErrorKind::Lost,
                            message: format!("connection to {} lost", self.setup.host),
                            hint: "Apply again; the running batch continues on the host and is picked up"
                                .to_owned(),
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

    async fn launch_failure(&self, transport: &dyn Transport, rc: i32, stderr: &str) -> Failure {
        if let Some(ended) = self.sudo_end(transport, stderr).await {
            return ended.refusal();
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
            let note = format!("rebooting (timeout {} min)", deadline.as_secs().div_ceil(60));
            if let Some(step) = step {
                self.setup.events.emit(Event::StepProgress {
                    target: name.clone(),
                    step: step.resource.text(),
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
            format!("{name} did not come back within {} s of its reboot", deadline.as_secs()),
        )
        .hint(format!("Check its console{bmc}, then run `provision apply --limit {name}`"));
        failure.step = step.map(|s| s.id.clone());
        Err(failure)
    }
}

/// Why following a batch failed.
enum Ended {
    Failed(Box<Failure>),
    Lost(SshError),
}

async fn close(mut session: Box<dyn Session>) {
    let _ = session.finish_input().await;
    let _ =
        tokio::time::timeout(Duration::from_secs(2), async { while session.next().await.is_some() {} }).await;
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

    async fn enact(&self, steps: &[Step], outputs: &StepOutputs) -> Result<StepOutputs, Failure> {
        let (facts, number) = self.with_last(|l| {
            l.batches += 1;
            l.touched = true;
            l.clean = false;
            (l.facts.clone(), l.batches)
        });
        let batch = format!("{}-{number}-{:08x}", self.setup.run, rand::random::<u32>());
        let context = BatchContext {
            state: &self.setup.state_dir,
            batch: &batch,
            run: self.setup.run.as_str(),
            owner: &self.setup.owner,
            leaves: self.leaving.is_some(),
            offline: self.offline,
        };
        let program = batch::program(&context, steps, &facts);
        let payloads = batch::payloads(steps, outputs);
        let reboot = self.follow(&batch, Some(&program), steps, &payloads).await?;
        if reboot {
            let step = steps.iter().rev().find(|s| s.resource.host_kind() == Some(HostKind::Reboot));
            self.rebooted(step).await?;
        }
        Ok(StepOutputs::new())
    }

    async fn renew_lock(&self) -> Result<(), Failure> {
        if !self.with_last(|l| l.touched) {
            return Ok(());
        }
        let program = batch::renew_lock(&self.setup.state_dir, self.setup.run.as_str());
        self.output(&program).await.map(drop)
    }

    async fn serves(&self) -> Result<(), Failure> {
        let said = self.output_retried(&k0s::steady(self.setup.steady_s), STEADY_DEADLINE).await?;
        if said.lines().any(|line| line.trim() == k0s::STEADY) {
            return Ok(());
        }
        let mut lines = self.shown(&said);
        let why = lines.pop_front().unwrap_or_else(|| "k0s does not stay up".to_owned());
        let mut failure = Failure::new(FailureKind::Step, "E-NOT-SERVING", why).hint(
            "Look at the host with `journalctl -u k0sworker`, then apply again; a reboot ends old processes",
        );
        failure.tail = lines.into();
        Err(failure)
    }

    async fn stop_pods(&self) -> Result<(), Failure> {
        let said = self.output_retried(&k0s::stop_pods(), STOP_PODS_DEADLINE).await?;
        if said.lines().any(|line| line.trim() == k0s::NO_PODS) {
            return Ok(());
        }
        let message = format!("cannot stop the pods of {}", self.setup.host);
        let mut failure = Failure::new(FailureKind::Step, NODE_DEAD, message)
            .hint("Reboot the host, or power it off and retire it, then apply again");
        failure.tail = self.shown(&said).into();
        Err(failure)
    }

    async fn finish(&self) -> Result<(), Failure> {
        let clean = self.with_last(|l| l.clean) && matches!(self.leaving, Some(Leaving::Reset { .. }));
        if !self.with_last(|l| std::mem::take(&mut l.touched)) && !clean {
            return Ok(());
        }
        // Our own record only, and no batch that still runs; an interrupted one is closed; the newest five stay.
        let run = &self.setup.run;
        let program = format!(
            "{prelude}main() {{ S={state}; grep -q '\"run\":\"{run}\"' \"$S/lock\" 2>/dev/null && flock -n \"$S/lock\" true && : >\"$S/lock\"\n\
             for b in \"$S\"/runs/*; do [ -d \"$b\" ] && [ ! -e \"$b/rc\" ] && flock -n \"$b/alive\" true && {{ rm -f -- \"$b/program.new\"; echo interrupted >\"$b/rc\"; }}; done\n\
             n=0; for b in $(ls -1t \"$S/runs\" 2>/dev/null); do [ -e \"$S/runs/$b/rc\" ] || continue; n=$((n+1)); [ $n -le {KEPT_RUNS} ] || rm -rf -- \"$S/runs/$b\"; done\n\
             {sweep}{remove}printf '\\036end 0\\n'; }}; main </dev/null\n",
            remove = if clean { leaving::remove_records(&self.setup.owner) } else { String::new() },
            prelude = prelude(),
            state = crate::template::quote(&self.setup.state_dir),
            sweep = batch::sweep("*-*-????????"),
        );
        let (shell, _) = self.first(&program, FACTS_DEADLINE, "answer").await?;
        shell.end().await;
        Ok(())
    }
}
