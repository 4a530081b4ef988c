//! The cluster as a run needs it: nodes out of service and back, etcd, the lease.

use super::errors::failure;
use super::etcd;
use super::target::{ClusterTarget, Pause};
use crate::event::Event;
use crate::state::{Cluster, Failure, FailureKind, HostName, Spec};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a node may take to be ready with all its devices after its host is: the device plugin's pod starts anew.
const RETURN_DEADLINE: Duration = Duration::from_secs(900);
/// A lease renewed so short a time ago is not renewed again: nodes are brought in side by side, and each asks.
const FRESH: Duration = Duration::from_secs(10);

#[async_trait]
impl Cluster for ClusterTarget {
    async fn nodes(&self) -> Result<Option<BTreeSet<HostName>>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let what = "listing the nodes";
        match self.all_nodes(&link.client).await {
            Ok(nodes) => Ok(Some(nodes.into_keys().map(HostName::new).collect())),
            Err(error) => {
                let mut failure = failure(what, &error);
                failure.kind = FailureKind::Unobserved;
                Err(failure)
            }
        }
    }

    async fn drain(&self, node: &HostName, deadline: Duration) -> Result<(), Failure> {
        ClusterTarget::drain(self, node.as_str(), deadline).await
    }

    async fn give_back(&self, node: &HostName) -> Result<(), Failure> {
        ClusterTarget::uncordon(self, node.as_str()).await
    }

    async fn uncordon(&self, node: &HostName) -> Result<(), Failure> {
        self.await_service(node.as_str(), RETURN_DEADLINE).await?;
        ClusterTarget::uncordon(self, node.as_str()).await
    }

    async fn spare(&self, controller: &HostName) -> Result<(), Failure> {
        let mut pause = Pause::new(etcd::ETCD_DEADLINE);
        let mut said = String::new();
        loop {
            let answers = self.setup.access.ask_controllers(etcd::QUESTION).await;
            let Some(why) = etcd::hindrance(&answers, controller) else { return Ok(()) };
            if why != said {
                let target = controller.to_string();
                self.setup.events.emit(Event::Waiting { target, reason: why.clone() });
                said.clone_from(&why);
            }
            if !pause.more().await {
                return Err(etcd::refused(controller, &why));
            }
        }
    }

    async fn hold(&self) -> Result<(), Failure> {
        let Some(me) = &self.holder else { return Ok(()) };
        let mut renewed = self.renewed.lock().await;
        if renewed.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        match self.take_lease(me).await {
            Err(failure) if failure.kind == FailureKind::Locked => Err(failure),
            // An API that is down is what this run may be there to mend; each host has a lock of its own.
            Err(_) => Ok(()),
            Ok(taken) => {
                *renewed = taken.then(Instant::now);
                Ok(())
            }
        }
    }
}

impl ClusterTarget {
    /// Waits until a node is ready with all the devices that are wanted of it. One that the cluster does not have, or
    /// that nothing wants, need not be.
    pub async fn await_service(&self, node: &str, deadline: Duration) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let wanted = self.setup.desired.iter().find_map(|r| match &r.spec {
            Spec::Node(want) if want.name == node => Some(want),
            _ => None,
        });
        let say = |reason| self.setup.events.emit(Event::Waiting { target: node.to_owned(), reason });
        self.await_devices(&link.client, node, wanted, deadline, false, say).await
    }
}
