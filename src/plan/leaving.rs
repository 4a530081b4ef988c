//! Hosts that leave the cluster: what is done on them comes after the cluster has let go of them.

use super::impact::{Past, impact};
use super::model::Plan;
use crate::inventory::Inventory;
use crate::k0s::{CONTROLLER_UNIT, WORKER_UNIT};
use crate::state::{Hazard, HostName, ResourceId, StepId, TargetId};
use std::collections::BTreeSet;

impl Plan {
    /// Orders the steps of hosts that leave. Their nodes are drained and deleted, and their members leave etcd, by steps of the
    /// cluster; so their own steps drain nothing and endanger no quorum, and wait for those. The cluster waits for none of them.
    pub fn leave(&mut self, hosts: &BTreeSet<HostName>, inventory: &Inventory, past: &Past) {
        let of_host = |resource: &ResourceId| match resource {
            ResourceId::Node(host) | ResourceId::EtcdMember(host) => Some(host.clone()),
            _ => None,
        };
        let mut gone: Vec<(HostName, StepId)> = Vec::new();
        if let Some(cluster) = self.targets.iter_mut().find(|t| t.target == TargetId::Cluster) {
            for step in &mut cluster.steps {
                let Some(host) = of_host(&step.resource).filter(|host| hosts.contains(host)) else {
                    continue;
                };
                step.needs.retain(|need| need.target().host() != Some(&host));
                gone.push((host, step.id.clone()));
            }
        }
        for target in &mut self.targets {
            let Some(host) = target.target.host().filter(|host| hosts.contains(*host)).cloned() else {
                continue;
            };
            (target.is_node, target.is_member, target.leaves) = (false, false, true);
            for step in &mut target.steps {
                // k0s is stopped for good: nothing restarts it.
                let restarts_k0s =
                    |h: &Hazard| matches!(h, Hazard::Restart(u) if u == CONTROLLER_UNIT || u == WORKER_UNIT);
                let none = |h: &Hazard| matches!(h, Hazard::Drain | Hazard::Quorum) || h.pod().is_some();
                step.hazards.retain(|h| !none(h) && !restarts_k0s(h));
                step.needs.clear();
            }
            target.warnings.retain(|warning| !warning.starts_with("draining loses"));
            if let Some(first) = target.steps.first_mut() {
                first.needs = gone.iter().filter(|(of, _)| *of == host).map(|(_, id)| id.clone()).collect();
            }
        }
        self.reschedule(inventory);
        self.impact = impact(self, inventory, past);
    }
}
