//! The router: how it schedules, where it may run, how long it may take to stop.

use crate::inventory::{Inventory, Pool, Router};
use serde_json::{Value, json};

/// How long an answer in progress may go on after its router was asked to stop, in seconds: as long as an engine has.
const DRAIN_S: u32 = 300;

/// Returns what the template of the scheduler is filled with.
pub(super) fn scheduler(router: &Router) -> Value {
    let weights = router.scheduling;
    let plugins = [
        ("least-request", weights.least_request),
        ("gpu-usage", weights.gpu_usage),
        ("least-latency", weights.least_latency),
        ("prefix-cache", weights.prefix_cache),
    ];
    let enabled = plugins.into_iter().filter(|(_, weight)| *weight > 0);
    let plugins: Vec<Value> = enabled.map(|(name, weight)| json!({"name": name, "weight": weight})).collect();
    json!({"max_waiting_requests": router.max_waiting_requests, "plugins": plugins})
}

/// Returns the pools on whose hosts the router may run: it tolerates no taint of theirs.
fn homes(inventory: &Inventory) -> impl Iterator<Item = &Pool> {
    let keeps_out = |taint: &String| !taint.ends_with(":PreferNoSchedule");
    inventory.pools.values().filter(move |p| p.role.is_worker() && !p.taints.iter().any(keeps_out))
}

/// Returns on how many hosts it may run. On one alone, a disruption budget would keep that host from ever being drained: no pod
/// can get ready elsewhere before the last one goes.
pub(super) fn hosts(inventory: &Inventory) -> usize {
    homes(inventory).map(|pool| inventory.hosts_of(&pool.name).count()).sum()
}

/// Returns how long a pod goes on after it was asked to stop, in seconds: at most half of the time that its node has for a drain.
pub(super) fn drain_s(inventory: &Inventory) -> u32 {
    homes(inventory).map(|pool| pool.disruption.drain_s / 2).min().unwrap_or(DRAIN_S).clamp(5, DRAIN_S)
}
