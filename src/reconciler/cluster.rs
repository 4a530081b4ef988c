//! The cluster that steps work on: how it is reached, and how something on it is awaited.

use super::applyset::ApplySet;
use super::connect::{self, Link};
use super::kinds::node_api;
use super::{Access, Holder};
use crate::event::{Event, Events};
use crate::state::*;
use backon::{BackoffBuilder, ExponentialBuilder};
use futures::future::BoxFuture;
use kube::api::ListParams;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests under way at once while observing.
pub(super) const AT_ONCE: usize = 16;
/// How long a plugin may be ready before what it reports is what there is: a kubelet writes its node's status every 10 s,
/// and a plugin registers seconds after its start.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks at something that is awaited, at first and at most: a lab is ready in no time, an engine loads for
/// an hour.
const POLL: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_factor(1.5)
    .with_max_delay(Duration::from_secs(3))
    .without_max_times();
/// Nodes in one page of a list.
const PAGE: u32 = 500;

/// A host that the cluster is to forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retired {
    /// The host, which is its node's name too.
    pub host: HostName,
    /// Its address as other controllers know it, if it was a controller.
    pub member: Option<String>,
    /// How long pods may take to leave its node.
    pub drain: Duration,
    /// Somebody confirmed that its machine is off for good: nothing of its pods runs.
    pub lost: bool,
}

/// What a cluster target needs.
pub struct ClusterSetup {
    /// What is wanted, in the order in which it is enacted.
    pub desired: Vec<Resource>,
    /// How it is reached.
    pub access: Arc<dyn Access>,
    /// A controller's address, as nodes reach it; used where none is known to be ready.
    pub address: String,
    /// The inventory's name; it names the ApplySet.
    pub name: String,
    /// Hosts that it is to forget.
    pub retired: Vec<Retired>,
    /// Where events go.
    pub events: Events,
}

/// The cluster behind the Kubernetes API.
pub struct ClusterTarget {
    pub(super) setup: ClusterSetup,
    pub(super) set: ApplySet,
    link: tokio::sync::Mutex<Option<Link>>,
    pub(super) tokens: Mutex<Vec<String>>,
    draining: Mutex<BTreeSet<String>>,
    /// The operator wants nothing more to begin.
    pub(super) stopped: tokio::sync::watch::Sender<bool>,
    pub(super) holder: Option<Holder>,
    /// When the lease was last renewed.
    pub(super) renewed: tokio::sync::Mutex<Option<Instant>>,
    /// Only some hosts are worked on: their nodes are all that is wanted, and nothing is left over.
    pub(super) partial: bool,
    /// How long a device plugin may be ready before what it reports is what there is; pods that no node has room for are
    /// given up after four times as long.
    pub(super) patience: Duration,
}

/// Time between looks, growing, until a deadline.
pub(super) struct Pause {
    began: Instant,
    deadline: Duration,
    pauses: <ExponentialBuilder as BackoffBuilder>::Backoff,
}

impl Pause {
    /// Begins to count.
    pub(super) fn new(deadline: Duration) -> Self {
        Self { began: Instant::now(), deadline, pauses: POLL.build() }
    }

    /// Waits a little; `false` when the time is over.
    pub(super) async fn more(&mut self) -> bool {
        match self.pauses.next() {
            Some(next) if self.began.elapsed() + next <= self.deadline => {
                tokio::time::sleep(next).await;
                true
            }
            _ => false,
        }
    }
}

pub(super) fn interrupted() -> Failure {
    Failure::new(FailureKind::Interrupted, "E-INTERRUPTED", "stopped while waiting for the cluster")
        .hint("Run the same command again; completed steps are skipped")
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClusterTarget {
    /// Returns the target; nothing is contacted yet.
    pub fn new(mut setup: ClusterSetup) -> Self {
        let set = ApplySet::new(&setup.name);
        let mut desired = set.parents(&setup.desired);
        desired.append(&mut setup.desired);
        setup.desired = desired;
        Self {
            setup,
            set,
            link: tokio::sync::Mutex::new(None),
            tokens: Mutex::default(),
            draining: Mutex::default(),
            stopped: tokio::sync::watch::Sender::new(false),
            holder: None,
            renewed: tokio::sync::Mutex::new(None),
            partial: false,
            patience: PATIENCE,
        }
    }

    /// Waits so long for a device plugin that is ready, instead of as long as a real kubelet may take, and for pods
    /// without room in proportion.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes the cluster's lease for a run before anything is changed, and gives it back at the end.
    pub fn held_by(mut self, holder: Holder) -> Self {
        self.holder = Some(holder);
        self
    }

    /// Marks the desired state as partial, so that everything else is left alone and never pruned.
    pub fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// Returns a link to the cluster; `None` where there is no cluster yet.
    pub(super) async fn link(&self) -> Result<Option<Link>, Failure> {
        let mut slot = self.link.lock().await;
        if let Some(link) = slot.as_ref() {
            return Ok(Some(link.clone()));
        }
        let Some(kubeconfig) = self.setup.access.kubeconfig().await? else { return Ok(None) };
        let link = connect::link(&kubeconfig, self.setup.access.clone()).await?;
        *slot = Some(link.clone());
        Ok(Some(link))
    }

    /// Forgets the link, so that the next one is made anew.
    pub(super) async fn unlink(&self) {
        *self.link.lock().await = None;
    }

    /// Nodes that are being drained.
    pub(super) fn draining(&self) -> MutexGuard<'_, BTreeSet<String>> {
        locked(&self.draining)
    }

    /// Emits how far a step is.
    pub(super) fn progress(&self, step: &Step, note: String) {
        self.setup.events.emit(Event::StepProgress {
            target: TargetId::Cluster.to_string(),
            step: step.resource.to_string(),
            note,
        });
    }

    /// Waits for something, unless the operator stops the run.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => Err(interrupted()),
            value = work => Ok(value),
        }
    }

    /// Waits a little; `false` when the time is over, an error when the operator stops the run.
    pub(super) async fn more(&self, pause: &mut Pause) -> Result<bool, Failure> {
        self.unless_stopped(pause.more()).await
    }

    /// Tries until it works or the time is over, saying what it waits for whenever that changes.
    pub(super) async fn until<'a, T>(
        &self,
        step: &Step,
        deadline: Duration,
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, String>> + Send,
    ) -> Result<T, Failure> {
        let mut pause = Pause::new(deadline);
        let mut said = String::new();
        loop {
            // What it asks may take as long as a model thinks, or a dead controller does not answer.
            let why = match self.unless_stopped(attempt()).await? {
                Ok(value) => return Ok(value),
                Err(why) => why,
            };
            if why != said {
                self.progress(step, why.clone());
                said.clone_from(&why);
            }
            if !self.more(&mut pause).await? {
                let message = format!("{}: timed out after {} s: {why}", step.what, deadline.as_secs());
                return Err(Failure::new(FailureKind::Step, "E-K8S-DEADLINE", message).hint(
                    "Run `k0s kubectl describe` for it on a controller, and check its pods and events",
                ));
            }
        }
    }

    /// Lists the nodes, page by page.
    pub(super) async fn all_nodes(
        &self,
        client: &kube::Client,
    ) -> Result<BTreeMap<String, Value>, kube::Error> {
        let mut found = BTreeMap::new();
        let api = node_api(client);
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            let next = page.metadata.continue_.clone().filter(|c| !c.is_empty());
            for node in page.items {
                let name = node.metadata.name.clone().unwrap_or_default();
                found.insert(name, serde_json::to_value(node).unwrap_or_default());
            }
            match next {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}
