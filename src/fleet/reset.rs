//! Hosts that are reset: which they are, and why they must not be.

use super::error::Result;
use super::open::{Fleet, cluster_address};
use crate::event::Events;
use crate::inventory::select;
use crate::k0s::etcd;
use crate::plan::Plan;
use crate::state::{Failure, FailureKind, HostName, TargetId};
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

impl Fleet {
    /// Returns the hosts that leave the cluster by this fleet's plans.
    pub(super) fn leaving(&self) -> BTreeSet<HostName> {
        match self.selection.reset {
            Some(_) => select(&self.inventory, self.selection.limit.as_deref()).unwrap_or_default(),
            None => self.retired.keys().cloned().collect(),
        }
    }

    /// Returns the hosts that are reset, lost ones included.
    pub fn resets(&self) -> BTreeSet<HostName> {
        self.selection.reset.map(|_| self.leaving()).unwrap_or_default()
    }

    /// Plans a reset: follows what an earlier run left running first, then observes. Returns the plan, how long observing took,
    /// and every reason why it must not be carried out.
    pub async fn plan_to_reset(&self, events: &Events) -> Result<(Plan, Duration, Vec<Failure>)> {
        let (plan, took) = self.plan_to_apply(events).await;
        let mut refused: Vec<Failure> =
            plan.unobserved().map(|(target, why)| unreached(target, why)).collect();
        if refused.is_empty() {
            refused.extend(self.uncertain().or(self.loses_quorum().await));
        }
        Ok((plan, took, refused))
    }

    /// Returns why it is unknown what the cluster has of the hosts.
    fn uncertain(&self) -> Option<Failure> {
        self.cluster.as_ref()?;
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.is_none().then(|| {
            let message = "the Kubernetes API does not respond: the hosts can be neither drained nor taken out of the cluster";
            Failure::new(FailureKind::Refused, "E-NO-CLUSTER", message)
                .hint("Check the controllers with `provision status`; to give up the whole cluster, run `provision destroy`")
        })
    }

    /// Returns why etcd would lose its quorum.
    async fn loses_quorum(&self) -> Option<Failure> {
        // Without a selection the whole cluster is given up.
        self.selection.limit.as_ref()?;
        let leaving = self.leaving();
        let controls = |host: &HostName| {
            let host = self.inventory.hosts.get(host);
            host.is_some_and(|h| self.inventory.pool_of(h).role.is_controller())
        };
        let failed = |why: &str, hint: &str, of: &dyn Fn(&HostName) -> bool| {
            let names: Vec<&str> = leaving.iter().filter(|host| of(host)).map(|host| host.as_str()).collect();
            let message =
                format!("resetting {} would cost the cluster its etcd quorum: {why}", names.join(", "));
            Some(Failure::new(FailureKind::Refused, "E-QUORUM", message).hint(hint))
        };
        if self.cluster.is_none() {
            let hint = "Add another controller and apply first; to give up the whole cluster, run `provision destroy`";
            return failed("no controller would remain", hint, &controls);
        }
        // A host may be a member still that the inventory has among the workers by now.
        let answers = self.access.run_on_controllers(&etcd::question()).await;
        let at = |host: &HostName| self.inventory.hosts.get(host).map(cluster_address).unwrap_or_default();
        let known: Vec<(HostName, String)> = leaving.iter().map(|host| (host.clone(), at(host))).collect();
        let why = etcd::without_all(&answers, &known)?;
        let members = etcd::members(&answers).unwrap_or_default();
        failed(
            &why,
            "Repair the unhealthy members or add controllers, apply, then reset one controller at a time",
            &|host| etcd::find(&members, host, &at(host)).is_some(),
        )
    }
}

/// Returns why a target that could not be observed stops a reset.
fn unreached(target: &TargetId, why: &Failure) -> Failure {
    let mut failure = why.clone();
    failure.kind = FailureKind::Refused;
    failure.message = format!("{target}: {}", why.message);
    if let Some(host) = target.host() {
        failure.hint = Some(format!(
            "Repair the connection; if the machine is off for good, add `--lost {host}`: it is only taken out of the cluster"
        ));
    }
    failure
}
