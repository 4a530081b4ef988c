//! Hosts that leave the cluster: what is done on them comes after the cluster has let go of them.

use super::impact::{Past, impact};
use super::model::Plan;
use crate::inventory::Inventory;
use crate::state::{Hazard, HostName, ResourceId, StepId, TargetId, Verb};
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
                let Some(host) = of_host(&step.resource).filter(|host| hosts.contains(host)) else { continue };
                step.needs.retain(|need| need.target().host() != Some(&host));
                let why = if step.resource.node().is_some() { "drain, then delete" } else { "leaves etcd" };
                step.why = Some(why.to_owned());
                gone.push((host, step.id.clone()));
            }
        }
        for target in &mut self.targets {
            let Some(host) = target.target.host().filter(|host| hosts.contains(*host)).cloned() else { continue };
            (target.is_node, target.is_member) = (false, false);
            for step in &mut target.steps {
                step.hazards.retain(|h| !matches!(h, Hazard::Drain | Hazard::Quorum) && h.pod().is_none());
                step.needs.clear();
                if step.change.verb == Verb::Remove {
                    step.why = None;
                }
            }
            target.warnings.retain(|warning| !warning.starts_with("draining loses"));
            if let Some(first) = target.steps.first_mut() {
                first.needs = gone.iter().filter(|(of, _)| *of == host).map(|(_, id)| id.clone()).collect();
            }
            self.skipped.remove(&host);
        }
        self.reschedule(inventory);
        self.impact = impact(self, inventory, past);
    }
}
