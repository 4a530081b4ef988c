//! Access to the cluster over the SSH connections of its hosts, so that this machine needs no route to it.

use super::api_keys::Signers;
use crate::executor::HostTarget;
use crate::k0s::{ADMIN_KUBECONFIG, ControllerOutput, NO_CONTROL_PLANE};
use crate::reconciler::Access;
use crate::report::names;
use crate::ssh::{Dial, SshError, SshErrorKind, Transport};
use crate::state::{BoxStream, Failure, FailureKind, HostName, SecretText};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which of several hosts is asked first: the one that answered last, so that a dead one costs one timeout and not one for
/// each connection.
#[derive(Default)]
struct Preferred(AtomicUsize);

/// A host that is being asked. If this is dropped before it answered, for it failed or nobody waited any longer, the next host
/// is preferred.
struct Asking<'a> {
    preferred: &'a Preferred,
    at: usize,
    next: usize,
    answered: bool,
}

impl Preferred {
    /// Returns the hosts, by their positions, in the order in which to ask them.
    fn all(&self, hosts: usize) -> impl Iterator<Item = Asking<'_>> {
        let from = self.0.load(Ordering::Relaxed);
        let asking =
            move |n| Asking { preferred: self, at: n % hosts, next: (n + 1) % hosts, answered: false };
        (from..from + hosts).map(asking)
    }
}

impl Asking<'_> {
    fn answered(mut self) {
        self.preferred.0.store(self.at, Ordering::Relaxed);
        self.answered = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // Another question may have found one that answers meanwhile; that one stays.
            let (at, next) = (self.at, self.next);
            let _ = self.preferred.0.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

const CHECK: &str = "Check the hosts with `provision status`";

fn nobody() -> SshError {
    SshError {
        kind: SshErrorKind::Unreachable,
        message: "no active host has that role".to_owned(),
        hint: CHECK.to_owned(),
    }
}

/// Returns why none of several hosts did what any of them could do; those with the same cause are named together.
fn none_of(role: &str, failures: &[(&str, &str)]) -> String {
    let mut causes: Vec<(String, Vec<&str>)> = Vec::new();
    for &(host, message) in failures {
        // Host and address are told by the name.
        let cause = message.strip_prefix(host).unwrap_or_else(|| {
            message
                .split_once("): ")
                .filter(|(before, _)| before.contains(host))
                .map_or(message, |(_, cause)| cause)
        });
        let cause = cause.trim_start_matches([':', ' ']).to_owned();
        match causes.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, hosts)) => hosts.push(host),
            None => causes.push((cause, vec![host])),
        }
    }
    let each = causes.iter_mut().map(|(cause, hosts)| {
        hosts.sort_unstable();
        format!("{}: {cause}", names(hosts))
    });
    format!("no {role} responds: {}", each.collect::<Vec<_>>().join("; "))
}

/// Returns the failures of all hosts that were asked as one; `None` if none was asked. The failure of a single one stays as it is.
fn all_failed(mut failures: Vec<(HostName, Failure)>) -> Option<Failure> {
    if failures.len() < 2 {
        return failures.pop().map(|(_, failure)| failure);
    }
    let all: Vec<(&str, &str)> =
        failures.iter().map(|(host, f)| (host.as_str(), f.message.as_str())).collect();
    let message = none_of("controller", &all);
    let (_, first) = failures.first()?;
    let same = failures.iter().all(|(_, failure)| failure.hint == first.hint);
    let code = match failures.iter().all(|(_, failure)| failure.code == first.code) {
        true => first.code.as_str(),
        false => "E-SSH-UNREACHABLE",
    };
    let hint = first.hint.clone().filter(|_| same).unwrap_or_else(|| CHECK.to_owned());
    Some(Failure::new(first.kind, code, message).hint(hint))
}

/// Hosts of which any will do.
pub(super) struct FirstAlive {
    role: &'static str,
    dials: Vec<(HostName, Arc<dyn Dial>)>,
    preferred: Preferred,
}

impl FirstAlive {
    /// Returns hosts of a role; the first is asked first.
    pub(super) fn new(role: &'static str, dials: Vec<(HostName, Arc<dyn Dial>)>) -> Self {
        Self { role, dials, preferred: Preferred::default() }
    }

    /// Returns why none of them did what was asked, from the error of each.
    fn none(&self, mut errors: Vec<(&HostName, SshError)>) -> SshError {
        if errors.len() < 2 {
            return errors.pop().map_or_else(nobody, |(_, error)| error);
        }
        let all: Vec<(&str, &str)> =
            errors.iter().map(|(host, error)| (host.as_str(), error.message.as_str())).collect();
        let message = none_of(self.role, &all);
        let same = |of: fn(&SshError) -> &str| errors.windows(2).all(|w| of(&w[0].1) == of(&w[1].1));
        let (same_kind, same_hint) = (same(|error| error.kind.code()), same(|error| &error.hint));
        let Some((_, last)) = errors.pop() else { return nobody() };
        SshError {
            kind: if same_kind { last.kind } else { SshErrorKind::Unreachable },
            message,
            hint: if same_hint { last.hint } else { CHECK.to_owned() },
        }
    }

    /// Opens a stream to a port on the first host that lets us.
    async fn stream(&self, port: u16) -> Result<BoxStream, Failure> {
        let mut errors = Vec::new();
        for asking in self.preferred.all(self.dials.len()) {
            let (host, dial) = &self.dials[asking.at];
            let stream = async { dial.dial().await?.tunnel("127.0.0.1", port).await };
            match stream.await {
                Ok(stream) => {
                    asking.answered();
                    return Ok(stream);
                }
                Err(error) => errors.push((host, error)),
            }
        }
        Err(self.none(errors).into())
    }
}

#[async_trait]
impl Dial for FirstAlive {
    async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
        let mut errors = Vec::new();
        for asking in self.preferred.all(self.dials.len()) {
            let (host, dial) = &self.dials[asking.at];
            match dial.dial().await {
                Ok(transport) => {
                    asking.answered();
                    return Ok(transport);
                }
                Err(error) => errors.push((host, error)),
            }
        }
        Err(self.none(errors))
    }
}

/// A controller, and its address for other controllers.
pub(super) type Controller = (Arc<HostTarget>, String);

/// Access through SSH, over any host that answers.
pub(super) struct OverSsh {
    controllers: Vec<Controller>,
    /// Controllers that leave: they are asked about etcd, and nothing goes over them.
    leaving: Vec<Controller>,
    /// The ways to the controllers, in the same order.
    ways: Arc<FirstAlive>,
    /// Hosts that carry pods.
    workers: FirstAlive,
    /// Makes keys for gateways that ask for one.
    signers: Signers,
    /// What gateways present that speak HTTPS, by tenant.
    certificates: BTreeMap<String, String>,
}

impl OverSsh {
    /// Returns the access over controllers and workers.
    pub(super) fn new(
        controllers: Vec<(Controller, Arc<dyn Dial>)>,
        workers: Vec<(HostName, Arc<dyn Dial>)>,
    ) -> Self {
        let named = |(controller, dial): (Controller, Arc<dyn Dial>)| {
            let host = controller.0.host().clone();
            (controller, (host, dial))
        };
        let (controllers, ways) = controllers.into_iter().map(named).unzip();
        let ways = Arc::new(FirstAlive::new("controller", ways));
        let workers = FirstAlive::new("worker with a gateway", workers);
        Self {
            controllers,
            leaving: Vec::new(),
            ways,
            workers,
            signers: Signers::default(),
            certificates: BTreeMap::new(),
        }
    }

    /// Adds controllers that leave the cluster.
    pub(super) fn also_asks(self, leaving: Vec<Controller>) -> Self {
        Self { leaving, ..self }
    }

    /// Adds what gateways ask for, and what they present.
    pub(super) fn with_gateways(self, signers: Signers, certificates: BTreeMap<String, String>) -> Self {
        Self { signers, certificates, ..self }
    }

    /// Returns the way to any controller.
    pub(super) fn any_controller(&self) -> Arc<dyn Dial> {
        self.ways.clone()
    }
}

#[async_trait]
impl Access for OverSsh {
    async fn controller(&self, port: u16) -> Result<BoxStream, Failure> {
        self.ways.stream(port).await
    }

    async fn worker(&self, port: u16) -> Result<BoxStream, Failure> {
        self.workers.stream(port).await
    }

    fn gateway_key(&self, tenant: &str) -> Option<SecretText> {
        self.signers.own_key(tenant)
    }

    fn gateway_certificate(&self, tenant: &str) -> Option<String> {
        self.certificates.get(tenant).cloned()
    }

    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure> {
        let mut failures = Vec::new();
        for asking in self.ways.preferred.all(self.controllers.len()) {
            let (host, _) = &self.controllers[asking.at];
            match host.read_file(ADMIN_KUBECONFIG).await {
                Ok(Some(text)) => {
                    asking.answered();
                    return Ok(Some(text));
                }
                Ok(None) => {}
                Err(error) => failures.push((host.host().clone(), error)),
            }
        }
        // An unreachable controller may well have a cluster, so this does not mean "no cluster".
        all_failed(failures).map_or(Ok(None), Err)
    }

    async fn run_on_controllers(&self, program: &str) -> Vec<ControllerOutput> {
        let ask = |(host, address): &Controller| {
            let (host, address) = (host.clone(), address.clone());
            async move {
                ControllerOutput { host: host.host().clone(), address, output: host.output(program).await }
            }
        };
        futures::future::join_all(self.controllers.iter().chain(&self.leaving).map(ask)).await
    }

    async fn on_controller(&self, program: &str) -> Result<String, Failure> {
        let mut failures = Vec::new();
        let mut none = None;
        for asking in self.ways.preferred.all(self.controllers.len()) {
            let (host, _) = &self.controllers[asking.at];
            match host.output(program).await {
                // Another one may have what this one has not.
                Ok(said) if said.trim() == NO_CONTROL_PLANE => none = Some(said),
                Ok(said) => {
                    asking.answered();
                    return Ok(said);
                }
                Err(error) => failures.push((host.host().clone(), error)),
            }
        }
        let nobody = || Failure::new(FailureKind::Unobserved, "E-NO-CLUSTER", "no active controller");
        none.ok_or_else(|| all_failed(failures).unwrap_or_else(nobody))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use crate::executor::{HostSetup, STATE_DIR, Sudo};
    use crate::ssh::Session;
    use crate::state::RunId;
    use std::sync::Mutex;
    use std::time::Duration;

    /// How a controller of a test answers.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Answers {
        Always,
        WithAnError,
        Never,
    }

    struct Host {
        number: usize,
        answers: Arc<Mutex<Vec<Answers>>>,
        asked: Arc<Mutex<Vec<usize>>>,
    }

    struct Open;

    #[async_trait]
    impl Dial for Host {
        async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
            self.asked.lock().expect("no panic").push(self.number);
            let answers = self.answers.lock().expect("no panic")[self.number];
            match answers {
                Answers::Always => Ok(Arc::new(Open)),
                Answers::WithAnError => Err(SshError {
                    message: format!(
                        "cannot reach cp-{n} (10.0.0.{n}:22): Connection refused",
                        n = self.number
                    ),
                    ..nobody()
                }),
                Answers::Never => std::future::pending().await,
            }
        }
    }

    #[async_trait]
    impl Transport for Open {
        async fn open(&self, _: &str) -> Result<Box<dyn Session>, SshError> {
            Err(nobody())
        }

        async fn tunnel(&self, _: &str, _: u16) -> Result<BoxStream, SshError> {
            Ok(Box::new(tokio::io::duplex(1).0))
        }
    }

    struct Bench {
        answers: Arc<Mutex<Vec<Answers>>>,
        asked: Arc<Mutex<Vec<usize>>>,
        reach: OverSsh,
    }

    impl Bench {
        fn new(answers: &[Answers]) -> Self {
            let answers = Arc::new(Mutex::new(answers.to_vec()));
            let asked = Arc::new(Mutex::new(Vec::new()));
            let count = answers.lock().expect("no panic").len();
            let dial = |number| -> Arc<dyn Dial> {
                Arc::new(Host { number, answers: answers.clone(), asked: asked.clone() })
            };
            let target = |number| {
                HostTarget::new(HostSetup {
                    host: HostName::new(format!("cp-{number}")),
                    dial: dial(number),
                    sudo: Sudo::None,
                    desired: Arc::new(|_| Ok(Vec::new())),
                    run: RunId::new("AAAAA".to_owned()),
                    owner: String::new(),
                    state_dir: STATE_DIR.to_owned(),
                    steady_s: 1,
                    reboot_deadline: Duration::ZERO,
                    bmc: None,
                    redact: Vec::new(),
                    events: Events::none(),
                })
            };
            let controllers = (0..count).map(|n| ((Arc::new(target(n)), String::new()), dial(n))).collect();
            let workers = (0..count).map(|n| (HostName::new(format!("w-{n}")), dial(n))).collect();
            let reach = OverSsh::new(controllers, workers);
            Self { answers, asked, reach }
        }

        /// Returns who was asked since the last time.
        fn asked(&self) -> Vec<usize> {
            std::mem::take(&mut *self.asked.lock().expect("no panic"))
        }
    }

    #[tokio::test]
    async fn a_dead_controller_is_asked_once_and_not_for_each_connection() {
        let bench = Bench::new(&[Answers::WithAnError, Answers::Always, Answers::Always]);
        for _ in 0..5 {
            bench.reach.controller(6443).await.expect("one is alive");
            bench.reach.any_controller().dial().await.expect("one is alive");
            bench.reach.worker(30080).await.expect("one is alive");
        }
        // Controllers and workers know nothing of each other.
        assert_eq!(bench.asked().iter().filter(|n| **n == 0).count(), 2);
        // Questions to hosts begin with the one that answered, too; none of these is answered.
        assert!(bench.reach.kubeconfig().await.is_err());
        assert_eq!(bench.asked(), [1, 2, 0]);

        bench.reach.controller(6443).await.expect("one is alive");
        bench.asked();
        *bench.answers.lock().expect("no panic") =
            vec![Answers::Always, Answers::WithAnError, Answers::WithAnError];
        for _ in 0..3 {
            bench.reach.controller(6443).await.expect("the first is back");
        }
        assert_eq!(bench.asked(), [1, 2, 0, 0, 0]);
        *bench.answers.lock().expect("no panic") = vec![Answers::WithAnError; 3];
        assert!(bench.reach.on_controller("true").await.is_err());
        assert_eq!(bench.asked(), [0, 1, 2], "all are asked before it fails");
    }

    #[tokio::test]
    async fn all_controllers_that_were_asked_are_named_with_the_cause_of_each() {
        let bench = Bench::new(&[Answers::WithAnError; 3]);
        let failure = bench.reach.controller(6443).await.err().expect("none is alive");
        assert_eq!(failure.message, "no controller responds: cp-[0-2]: Connection refused");
        assert_eq!(failure.code, "E-SSH-UNREACHABLE");
        let failure = bench.reach.kubeconfig().await.expect_err("none is alive");
        assert_eq!(failure.message, "no controller responds: cp-[0-2]: Connection refused");
        let one = Bench::new(&[Answers::WithAnError]).reach.controller(6443).await.err().expect("not alive");
        assert_eq!(one.message, "cannot reach cp-0 (10.0.0.0:22): Connection refused");
        let different = [
            ("cp-1", "cannot reach cp-1 (10.0.0.1:22): timed out"),
            ("cp-2", "cp-2 cannot connect to 127.0.0.1:6443"),
            ("cp-3", "cannot reach cp-3 (10.0.0.3:22): timed out"),
        ];
        assert_eq!(
            none_of("controller", &different),
            "no controller responds: cp-1, cp-3: timed out; cp-2: cannot connect to 127.0.0.1:6443"
        );
    }

    #[tokio::test]
    async fn a_controller_that_never_answers_costs_one_timeout() {
        let bench = Bench::new(&[Answers::Never, Answers::Always, Answers::Always]);
        let within = |time| tokio::time::timeout(time, bench.reach.controller(6443));
        assert!(within(Duration::from_millis(20)).await.is_err(), "whoever asked has waited long enough");
        for _ in 0..5 {
            within(Duration::from_secs(20)).await.expect("in time").expect("the next one is alive");
        }
        assert_eq!(bench.asked(), [0, 1, 1, 1, 1, 1]);
    }
}
