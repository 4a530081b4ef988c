//! Delivers downloads to hosts that fetch nothing themselves, before the first step of a run.

use super::distribute::{Distribution, Parcel, Peer, distribute};
use super::error::Result;
use super::open::{Fleet, cluster_address};
use crate::artifact::BundleMirror;
use crate::event::{Event, Events};
use crate::plan::{Delivery, Plan};
use crate::report::count;
use crate::run::Cancel;
use crate::state::HostName;
use indicatif::HumanBytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Fleet {
    /// Delivers to each host with steps what these would fetch. A host to which something cannot be delivered is warned of: its own
    /// step fails, and others go on.
    pub(super) async fn deliver(
        &self,
        mirror: &BundleMirror,
        plan: &Plan,
        events: &Events,
        cancel: Cancel,
    ) -> Result<()> {
        let (peers, mut wanted) = self.receivers(plan);
        let (mut parcels, cache) = (Vec::new(), self.source.state.artifacts()?);
        for (name, locked) in &self.lock.artifacts {
            // Two artifacts can have the same content.
            let Some(to) = wanted.remove(&locked.sha256) else { continue };
            let file = Arc::new(mirror.file(name, locked, &cache, events).await?);
            let (title, sha256) = (format!("{name} {}", locked.version), locked.sha256.clone());
            parcels.push(Parcel { title, sha256, size: locked.size, file, to });
        }
        let hosts = peers.len();
        let done = distribute(peers, parcels, self.run.as_str(), events, cancel).await;
        for (host, failure) in &done.failures {
            let message = failure.to_string();
            events.emit(Event::Warning { target: Some(host.to_string()), message });
        }
        if done.bytes > 0 {
            events.note(summary(&done, hosts));
        }
        Ok(())
    }

    /// Returns what would be delivered for a plan, if anything.
    pub(super) fn delivery(&self, plan: &Plan) -> Option<Delivery> {
        let (peers, wanted) = self.receivers(plan);
        let sizes: BTreeMap<&str, u64> =
            self.lock.artifacts.values().map(|locked| (locked.sha256.as_str(), locked.size)).collect();
        let sizes: Vec<u64> = wanted.keys().filter_map(|sum| sizes.get(sum.as_str()).copied()).collect();
        let (files, bytes) = (sizes.len(), sizes.iter().sum());
        (files > 0).then_some(Delivery { files, bytes, hosts: peers.len() })
    }

    /// Returns the hosts with steps that lack anything, and for each sum the hosts that want it.
    fn receivers(&self, plan: &Plan) -> (BTreeMap<HostName, Peer>, BTreeMap<String, BTreeSet<HostName>>) {
        let changed = plan.targets.iter().filter(|t| !t.steps.is_empty()).filter_map(|t| t.target.host());
        let changed: BTreeSet<&HostName> = changed.collect();
        let (mut peers, mut wanted) = (BTreeMap::new(), BTreeMap::<String, BTreeSet<HostName>>::new());
        for (name, host) in self.hosts.iter().filter(|(name, _)| changed.contains(name)) {
            let sums = host.to_fetch();
            let endpoint = self.endpoints.iter().find(|endpoint| endpoint.name == name.as_str());
            let known = self.inventory.hosts.get(name);
            let (Some(at), Some(known), false) = (endpoint, known, sums.is_empty()) else { continue };
            let (port, user, address) = (at.port, at.user.clone(), cluster_address(known));
            peers.insert(name.clone(), Peer { host: host.clone(), address, port, user });
            for sum in sums {
                wanted.entry(sum).or_default().insert(name.clone());
            }
        }
        (peers, wanted)
    }
}

/// Says what left this machine, as a multiple of what had to.
fn summary(done: &Distribution, hosts: usize) -> String {
    let times = done.sent as f64 / done.bytes as f64;
    let (bytes, sent) = (HumanBytes(done.bytes), HumanBytes(done.sent));
    format!(
        "delivered {bytes} to {}: {sent} left this machine ({times:.1}x), {} passed from host to host",
        count(hosts, "host"),
        count(done.passed, "file")
    )
}
