//! Access to the cluster over the SSH connections of its hosts, so that this machine needs no route to it.

use super::api_keys::Signers;
use crate::executor::HostTarget;
use crate::k0s::{ADMIN_KUBECONFIG, ControllerOutput, NO_CONTROL_PLANE};
use crate::reconciler::Access;
use crate::ssh::{Dial, SshError, SshErrorKind, Transport};
use crate::state::{BoxStream, Failure, FailureKind, SecretText};
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

fn nobody() -> SshError {
    SshError {
        kind: SshErrorKind::Unreachable,
        message: "no active host has that role".to_owned(),
        hint: "Check the hosts with `provision status`".to_owned(),
    }
}

/// Hosts of which any will do.
#[derive(Default)]
pub(super) struct FirstAlive {
    dials: Vec<Arc<dyn Dial>>,
    preferred: Preferred,
}

impl FirstAlive {
    /// Returns them; the first is asked first.
    pub(super) fn new(dials: Vec<Arc<dyn Dial>>) -> Self {
        Self { dials, preferred: Preferred::default() }
    }

    /// Opens a stream to a port on the first host that lets us.
    async fn stream(&self, port: u16) -> Result<BoxStream, Failure> {
        let mut last = nobody();
        for asking in self.preferred.all(self.dials.len()) {
            let dial = &self.dials[asking.at];
            let stream = async { dial.dial().await?.tunnel("127.0.0.1", port).await };
            match stream.await {
                Ok(stream) => {
                    asking.answered();
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }
}

#[async_trait]
impl Dial for FirstAlive {
    async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
        let mut last = nobody();
        for asking in self.preferred.all(self.dials.len()) {
            match self.dials[asking.at].dial().await {
                Ok(transport) => {
                    asking.answered();
                    return Ok(transport);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
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
    pub(super) fn new(controllers: Vec<(Controller, Arc<dyn Dial>)>, workers: Vec<Arc<dyn Dial>>) -> Self {
        let (controllers, ways) = controllers.into_iter().unzip();
        let (ways, workers) = (Arc::new(FirstAlive::new(ways)), FirstAlive::new(workers));
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
        let mut failure = None;
        for asking in self.ways.preferred.all(self.controllers.len()) {
            let (host, _) = &self.controllers[asking.at];
            match host.read_file(ADMIN_KUBECONFIG).await {
                Ok(Some(text)) => {
                    asking.answered();
                    return Ok(Some(text));
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        // An unreachable controller may well have a cluster, so this does not mean "no cluster".
        failure.map_or(Ok(None), Err)
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
        let mut failure = Failure::new(FailureKind::Unobserved, "E-NO-CLUSTER", "no active controller");
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
                Err(error) => failure = error,
            }
        }
        none.ok_or(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use crate::executor::{HostSetup, STATE_DIR, Sudo};
    use crate::ssh::Session;
    use crate::state::{HostName, RunId};
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
                Answers::WithAnError => Err(nobody()),
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
            let workers = (0..count).map(dial).collect();
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
