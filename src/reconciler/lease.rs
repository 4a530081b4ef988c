//! One run at a time on a cluster, across machines: a Lease in kube-system, named after the inventory, renewed during the
//! run. A run holds it under a random identity, so that no two runs are taken for one. Whether another run is alive is judged by
//! the renewals that are seen here: no clock of another machine is read, and no process id.

use super::applyset::MANAGER;
use super::cluster::ClusterTarget;
use super::errors::{failure, is_missing, phrase};
use super::holder::{DIGITS, Holder};
use crate::event::Event;
use crate::state::{Failure, FailureKind, TargetId};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Where it is: a namespace that every cluster has from its first minute.
const NAMESPACE: &str = "kube-system";
/// A run that was not heard of for so long is over: four renewals (`run/`) missed.
const SECONDS: i64 = 120;
/// The maximum wait for another run's lease, in seconds, whatever duration the lease itself states.
const MOST_SECONDS: i64 = 600;
/// Between two looks at another run's lease.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that another client may spoil by writing in between.
const CONFLICTS: usize = 3;
const RUN: &str = "provision.dev/run";

/// What a lease that is there means for us.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    /// It is this run's.
    Ours,
    /// It is nobody's: given back, or left by a run that is known to be over.
    Free,
    /// Another run has it, alive or dead.
    Taken(String),
}

fn standing(lease: &Value, me: &Holder) -> Standing {
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    if holder.is_empty() || me.is_over(holder) {
        return Standing::Free;
    }
    if holder == me.identity {
        return Standing::Ours;
    }
    // Earlier versions held it as `user@machine`.
    let random = |text: &str| text.len() == DIGITS && text.chars().all(|c| c.is_ascii_hexdigit());
    let owner = holder.rsplit_once('_').filter(|(_, end)| random(end)).map_or(holder, |(owner, _)| owner);
    let run = lease["metadata"]["annotations"][RUN].as_str().unwrap_or("unknown");
    Standing::Taken(format!("{owner} (run {run})"))
}

/// The lease of another run as it was first seen, and when by this machine's steady clock.
struct Watch {
    spec: Value,
    since: Instant,
    lasts: Duration,
}

/// What is known of another run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// It renewed its lease.
    Alive,
    /// It did not for as long as its lease lasts.
    Dead,
    /// Too early to tell.
    Unknown,
}

impl Watch {
    fn new(lease: &Value) -> Self {
        let lasts = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(SECONDS);
        let lasts = Duration::from_secs(lasts.clamp(1, MOST_SECONDS).unsigned_abs());
        Self { spec: lease["spec"].clone(), since: Instant::now(), lasts }
    }

    fn judge(&self, lease: &Value) -> Life {
        match self.spec == lease["spec"] {
            false => Life::Alive,
            true if self.since.elapsed() >= self.lasts => Life::Dead,
            true => Life::Unknown,
        }
    }
}

impl ClusterTarget {
    fn lease_name(&self) -> String {
        format!("{MANAGER}-{}", self.setup.name)
    }

    /// Takes the lease, or renews it; `false` where there is no cluster. `held` is whether this run had it already. Another
    /// run's is watched until that run is seen to be alive, which fails, or its lease is seen to have run out.
    pub(super) async fn take_lease(&self, me: &Holder, held: bool) -> Result<bool, Failure> {
        let Some(link) = self.link().await? else { return Ok(false) };
        let api: Api<Lease> = Api::namespaced(link.client.clone(), NAMESPACE);
        let name = self.lease_name();
        let what = format!("acquiring the lease {NAMESPACE}/{name}");
        let said = |error: &kube::Error| failure(&what, error);
        let mut watch: Option<Watch> = None;
        let mut conflicts = 0;
        while conflicts < CONFLICTS {
            let live = api.get_opt(&name).await.map_err(|e| said(&e))?;
            let live = live.map(|l| serde_json::to_value(l).unwrap_or_default());
            let stamp = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            let mut wanted = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {RUN: me.run}},
                "spec": {"holderIdentity": me.identity, "leaseDurationSeconds": SECONDS,
                    "acquireTime": stamp, "renewTime": stamp}});
            if let Some(live) = &live {
                match (standing(live, me), &watch) {
                    (Standing::Ours, _) => {
                        wanted["spec"]["acquireTime"] = live["spec"]["acquireTime"].clone();
                    }
                    (Standing::Free, _) => {}
                    (Standing::Taken(by), _) if held => return Err(self.taken(&by)),
                    (Standing::Taken(by), None) => {
                        let first = Watch::new(live);
                        self.setup.events.emit(Event::Waiting {
                            target: TargetId::Cluster.to_string(),
                            reason: format!(
                                "waiting for the lease of {by}: it is taken over if it is not renewed within {} s",
                                first.lasts.as_secs()
                            ),
                        });
                        watch = Some(first);
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                    (Standing::Taken(by), Some(seen)) => match seen.judge(live) {
                        Life::Alive => return Err(self.taken(&by)),
                        Life::Dead => {}
                        Life::Unknown => {
                            tokio::time::sleep(LOOK).await;
                            continue;
                        }
                    },
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
                // Another client wrote in between: look again.
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => conflicts += 1,
                Err(error) => return Err(said(&error)),
            }
        }
        Err(self.taken("another run that is starting now"))
    }

    fn taken(&self, by: &str) -> Failure {
        let name = self.lease_name();
        Failure::new(FailureKind::Locked, "E-LEASE", format!("{} is locked by {by}", self.setup.name))
            .hint(format!(
                "Wait for that run, or follow it with `provision attach`. The lease of a dead run is taken over when it was not \
                 renewed for {SECONDS} s; to remove it now, run on a controller: k0s kubectl -n {NAMESPACE} delete lease {name}"
            ))
    }

    /// Gives the lease back, if it is this run's.
    pub(super) async fn drop_lease(&self, me: &Holder) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let api: Api<Lease> = Api::namespaced(link.client.clone(), NAMESPACE);
        let name = self.lease_name();
        let failed = |e: &kube::Error| {
            Failure::new(FailureKind::Step, "E-K8S-API", format!("releasing the lease {name}: {}", phrase(e)))
        };
        let Some(live) = api.get_opt(&name).await.map_err(|e| failed(&e))? else { return Ok(()) };
        let version = live.metadata.resource_version.clone();
        let live = serde_json::to_value(live).unwrap_or_default();
        if standing(&live, me) != Standing::Ours {
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

    fn lease(holder: &str, renewed: &str) -> Value {
        json!({"metadata": {"annotations": {RUN: "BBBBB"}},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 1, "renewTime": renewed}})
    }

    #[test]
    fn a_run_is_itself_alone_whatever_its_owner_run_and_process_are_called() {
        let me = Holder::new("me@here".into(), "AAAAA");
        let same = Holder::new("me@here".into(), "AAAAA");
        assert_ne!(me.identity, same.identity);
        let time = "2026-11-24T10:01:48.000000Z";
        assert_eq!(standing(&lease(&me.identity, time), &me), Standing::Ours);
        let taken = |by: &str| Standing::Taken(by.to_owned());
        assert_eq!(standing(&lease(&same.identity, time), &me), taken("me@here (run BBBBB)"));
        assert_eq!(
            standing(&lease("me@here", time), &me),
            taken("me@here (run BBBBB)"),
            "of an earlier version"
        );
        assert_eq!(standing(&lease("an_odd@name", time), &me), taken("an_odd@name (run BBBBB)"));
        assert_eq!(standing(&lease("", time), &me), Standing::Free);
        me.have_ended([&same.identity]);
        assert_eq!(standing(&lease(&same.identity, time), &me), Standing::Free, "known to be over");
    }

    #[test]
    fn a_lease_is_judged_by_its_renewals_and_never_by_the_time_in_it() {
        for time in ["1970-01-01T00:00:00.000000Z", "2106-01-01T00:00:00.000000Z", "no time"] {
            let seen = lease("eva@desk", time);
            let mut watch = Watch::new(&seen);
            assert_eq!(watch.judge(&seen), Life::Unknown, "{time}");
            assert_eq!(watch.judge(&lease("eva@desk", "2026-11-24T10:01:48.000000Z")), Life::Alive, "{time}");
            watch.lasts = Duration::ZERO;
            assert_eq!(watch.judge(&seen), Life::Dead, "{time}");
        }
        let lasts =
            |seconds: Value| Watch::new(&json!({"spec": {"leaseDurationSeconds": seconds}})).lasts.as_secs();
        assert_eq!(
            [lasts(json!(15)), lasts(json!(-1)), lasts(json!(1u64 << 40)), lasts(Value::Null)],
            [15, 1, 600, 120]
        );
    }
}
