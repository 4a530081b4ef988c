//! One run at a time on a cluster, from whatever machine: a Lease in kube-system, named for the inventory, renewed while
//! the run goes on. A lease that was not renewed in time, or whose process on this machine is gone, is taken over.

use super::applyset::MANAGER;
use super::errors::{failure, is_missing, phrase};
use super::target::ClusterTarget;
use crate::state::{Failure, FailureKind};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::{Value, json};

/// Where it is: a namespace that every cluster has from its first minute.
const NAMESPACE: &str = "kube-system";
/// A run that was not heard of for so long is over: four renewals (`run/`) missed.
const SECONDS: i64 = 120;
const RUN: &str = "provision.dev/run";
const PROCESS: &str = "provision.dev/process";

/// Who works on the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// `user@machine`.
    pub owner: String,
    /// The run.
    pub run: String,
    /// The process on the owner's machine.
    pub process: u32,
}

/// Returns whether a process of this machine is alive; only asked of the owner's own machine.
fn is_alive(process: u32) -> bool {
    i32::try_from(process)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// What a lease that is there means for us.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    /// It is this run's.
    Ours,
    /// It is over.
    Over,
    /// Another run has it.
    Taken(String),
}

fn standing(lease: &Value, me: &Holder, now: Timestamp, alive: impl Fn(u32) -> bool) -> Standing {
    let note = |key: &str| lease["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned();
    let owner = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let (run, process) = (note(RUN), note(PROCESS).parse::<u32>().ok());
    if owner.is_empty() {
        return Standing::Over;
    }
    if owner == me.owner && run == me.run {
        return Standing::Ours;
    }
    // A run of this machine that was killed leaves its lease; its process tells.
    if owner == me.owner && process.is_some_and(|p| !alive(p)) {
        return Standing::Over;
    }
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let age = renewed.map_or(i64::MAX, |t| now.as_second() - t.as_second());
    let lasts = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(SECONDS);
    if age > lasts {
        return Standing::Over;
    }
    Standing::Taken(format!("{owner} (run {run}, renewed {} s ago)", age.max(0)))
}

impl ClusterTarget {
    fn lease_name(&self) -> String {
        format!("{MANAGER}-{}", self.setup.name)
    }

    /// Takes the lease, or renews it; `false` where there is no cluster.
    pub(super) async fn take_lease(&self, me: &Holder) -> Result<bool, Failure> {
        let Some(link) = self.link().await? else { return Ok(false) };
        let api: Api<Lease> = Api::namespaced(link.client.clone(), NAMESPACE);
        let name = self.lease_name();
        let what = format!("taking the lease {NAMESPACE}/{name}");
        let said = |error: &kube::Error| failure(&what, error);
        // A second try meets what somebody else wrote in between.
        for _ in 0..3 {
            let now = Timestamp::now();
            let live = api.get_opt(&name).await.map_err(|e| said(&e))?;
            let live = live.map(|l| serde_json::to_value(l).unwrap_or_default());
            let stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            let mut wanted = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE,
                    "annotations": {RUN: me.run, PROCESS: me.process.to_string()}},
                "spec": {"holderIdentity": me.owner, "leaseDurationSeconds": SECONDS, "acquireTime": stamp, "renewTime": stamp}});
            if let Some(live) = &live {
                match standing(live, me, now, is_alive) {
                    Standing::Taken(by) => return Err(self.taken(&by)),
                    Standing::Ours => wanted["spec"]["acquireTime"] = live["spec"]["acquireTime"].clone(),
                    Standing::Over => {}
                }
                wanted["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            }
            let lease: Lease = serde_json::from_value(wanted)
                .map_err(|e| Failure::new(FailureKind::Step, "E-K8S-API", format!("{what}: {e}")))?;
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            let written = match live {
                None => api.create(&params, &lease).await,
                Some(_) => api.replace(&name, &params, &lease).await,
            };
            match written {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
                Err(error) => return Err(said(&error)),
            }
        }
        Err(self.taken("somebody who takes it at this very moment"))
    }

    fn taken(&self, by: &str) -> Failure {
        let name = self.lease_name();
        Failure::new(FailureKind::Locked, "E-LEASE", format!("{} is being worked on by {by}", self.setup.name))
            .hint(format!(
                "wait for that run, or follow it: provision attach. A run that died gives way {SECONDS} s after its last \
                 renewal; at once with, on a controller: k0s kubectl -n {NAMESPACE} delete lease {name}"
            ))
    }

    /// Gives the lease back, if it is this run's.
    pub(super) async fn drop_lease(&self, me: &Holder) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let api: Api<Lease> = Api::namespaced(link.client.clone(), NAMESPACE);
        let name = self.lease_name();
        let failed = |e: &kube::Error| {
            Failure::new(
                FailureKind::Step,
                "E-K8S-API",
                format!("giving back the lease {name}: {}", phrase(e)),
            )
        };
        let Some(live) = api.get_opt(&name).await.map_err(|e| failed(&e))? else { return Ok(()) };
        let version = live.metadata.resource_version.clone();
        let live = serde_json::to_value(live).unwrap_or_default();
        if standing(&live, me, Timestamp::now(), is_alive) != Standing::Ours {
            return Ok(());
        }
        let only = Preconditions { resource_version: version, uid: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        match api.delete(&name, &params).await {
            Err(error) if !is_missing(&error) => Err(failed(&error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Holder {
        Holder { owner: "me@here".into(), run: "AAAAA".into(), process: 7 }
    }

    fn lease(owner: &str, run: &str, renewed: &str) -> Value {
        json!({"metadata": {"annotations": {RUN: run, PROCESS: "42"}},
            "spec": {"holderIdentity": owner, "leaseDurationSeconds": 120, "renewTime": renewed}})
    }

    #[test]
    fn a_live_lease_of_another_is_respected_and_a_dead_one_is_taken_over() {
        let now: Timestamp = "2026-11-24T10:02:00Z".parse().expect("a time");
        let of = |owner, run, renewed, alive| standing(&lease(owner, run, renewed), &me(), now, |_| alive);
        let fresh = "2026-11-24T10:01:48.000000Z";
        let taken = Standing::Taken("eva@desk (run BBBBB, renewed 12 s ago)".into());
        assert_eq!(of("eva@desk", "BBBBB", fresh, false), taken, "its process is on another machine");
        assert_eq!(of("eva@desk", "BBBBB", "2026-11-24T09:59:00.000000Z", true), Standing::Over);
        assert_eq!(of("me@here", "AAAAA", fresh, true), Standing::Ours);
        assert_eq!(of("me@here", "BBBBB", fresh, false), Standing::Over, "killed on this machine");
        assert!(
            matches!(of("me@here", "BBBBB", fresh, true), Standing::Taken(_)),
            "a second one on this machine"
        );
        assert_eq!(of("", "", fresh, true), Standing::Over);
    }
}
