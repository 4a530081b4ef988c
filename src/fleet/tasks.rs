//! Work on many hosts at once, one task each. A task that panics is the failure of its host: no host goes missing from a result.

use crate::state::{Failure, FailureKind};
use std::collections::{BTreeMap, HashMap};
use tokio::task::{Id, JoinSet};

/// Tasks that run at once, each for a host or another target; those that still run are ended when this is dropped.
pub(super) struct Tasks<K, T> {
    running: JoinSet<T>,
    keys: HashMap<Id, K>,
}

impl<K, T: Send + 'static> Tasks<K, T> {
    /// Returns none yet.
    pub(super) fn new() -> Self {
        Self { running: JoinSet::new(), keys: HashMap::new() }
    }

    /// Starts one.
    pub(super) fn spawn(&mut self, key: K, work: impl Future<Output = T> + Send + 'static) {
        let task = self.running.spawn(work);
        self.keys.insert(task.id(), key);
    }

    /// Waits for the next one to end, and returns what came of it; `None` when all have ended.
    pub(super) async fn next(&mut self) -> Option<(K, Result<T, Failure>)> {
        loop {
            let (id, ended) = match self.running.join_next_with_id().await? {
                Ok((id, value)) => (id, Ok(value)),
                Err(error) => {
                    let message = format!("internal error: {error}");
                    let failure = Failure::new(FailureKind::Unobserved, "E-PANIC", message);
                    (error.id(), Err(failure.hint("Report it; results of other hosts are not affected")))
                }
            };
            // Each task has a key.
            if let Some(key) = self.keys.remove(&id) {
                return Some((key, ended));
            }
        }
    }
}

/// Does something for each host at once, and returns what came of it on each.
pub(super) async fn on_each<K: Ord, T: Send + 'static, W>(
    work: impl IntoIterator<Item = (K, W)>,
) -> BTreeMap<K, Result<T, Failure>>
where
    W: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let mut tasks = Tasks::new();
    for (key, work) in work {
        tasks.spawn(key, work);
    }
    let mut results = BTreeMap::new();
    while let Some((key, ended)) = tasks.next().await {
        results.insert(key, ended.and_then(|result| result));
    }
    results
}

#[cfg(test)]
mod tests {
    use super::super::load::Source;
    use super::super::open::{Fleet, Purpose, Selection};
    use super::super::{Exec, StateDir};
    use super::*;
    use crate::event::{Event, Events};
    use crate::executor::{HostSetup, HostTarget, STATE_DIR, Sudo};
    use crate::role::health::Level;
    use crate::ssh::{Dial, SshError, SshErrorKind, Transport};
    use crate::state::{HostName, RunId};
    use async_trait::async_trait;
    use futures::StreamExt;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn a_panic_is_the_failure_of_its_host_and_no_other_goes_missing() {
        let work = |n: u32| async move {
            assert_ne!(n, 2, "canary");
            Ok(n)
        };
        let results = on_each((1..=3).map(|n| (n, work(n)))).await;
        assert_eq!(results.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((&results[&1], &results[&3]), (&Ok(1), &Ok(3)));
        let failure = results[&2].as_ref().expect_err("it panicked");
        assert_eq!((failure.code.as_str(), failure.kind), ("E-PANIC", FailureKind::Unobserved));
        assert!(failure.message.contains("canary"), "{failure}");
    }

    /// A host that cannot be reached, or whose task panics.
    struct Broken {
        panics: bool,
    }

    #[async_trait]
    impl Dial for Broken {
        async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
            assert!(!self.panics, "a bug");
            let message = "closed".to_owned();
            Err(SshError { kind: SshErrorKind::Unreachable, message, hint: String::new() })
        }
    }

    /// Opens two hosts with accelerators, of which `h-2` panics.
    async fn fleet(dir: &std::path::Path) -> Fleet {
        let text = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: x}\nssh: {user: root, port: 1}\n\
            cluster: {k0s: {version: v1.35.7+k0s.0}}\npools:\n  c: {role: controller, hosts: {cp-1: {address: 127.0.0.1}}}\n\
            \x20 n:\n    role: worker\n    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: 580.178.04}}\n\
            \x20   hosts: {'h-[1-2]': {address: '127.0.0.[2-3]'}}\n";
        std::fs::write(dir.join("site.yaml"), text).expect("written");
        let source = Source { state: StateDir::below(dir.join("state")), ..Source::at(dir) };
        let loaded = source.load().unwrap_or_else(|error| panic!("{}", error.failure()));
        let selection = Selection { limit: Some("h-*".to_owned()), ..Selection::default() };
        let mut fleet =
            Fleet::open(loaded, &selection, Purpose::Look, &Events::none()).await.expect("opened");
        for (name, host) in &mut fleet.hosts {
            *host = Arc::new(HostTarget::new(HostSetup {
                host: name.clone(),
                dial: Arc::new(Broken { panics: name.as_str() == "h-2" }),
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
            }));
        }
        fleet
    }

    /// Whatever asks hosts tells of each of them.
    #[tokio::test]
    async fn a_host_whose_task_panics_is_in_every_result() {
        let dir = tempfile::tempdir().expect("a folder");
        let fleet = fleet(dir.path()).await;
        let wanted =
            [("h-1", "E-SSH-UNREACHABLE"), ("h-2", "E-PANIC")].map(|(h, c)| (h.to_owned(), c.to_owned()));
        let same = |what: &str, mut found: Vec<(String, String)>| {
            found.sort();
            assert_eq!(found, wanted, "{what}");
        };
        let code = |failure: &Failure| failure.code.clone();

        let (events, mut seen) = Events::channel();
        let observation = fleet.observe(&events).await;
        let hosts = observation.targets.iter().filter_map(|(id, r)| Some((id.host()?.to_string(), r)));
        same("observe", hosts.map(|(h, r)| (h, code(r.as_ref().expect_err("failed")))).collect());
        let told = std::iter::from_fn(|| seen.try_recv().ok()).filter_map(|event| match event {
            Event::Unobserved { target, code, .. } if target != "cluster" => Some((target, code)),
            _ => None,
        });
        same("events", told.collect());

        let each = |all: BTreeMap<HostName, Failure>| {
            all.into_iter().map(|(host, failure)| (host.to_string(), failure.code)).collect()
        };
        let facts = fleet.facts().await;
        same("facts", each(facts.into_iter().map(|(h, r)| (h, r.expect_err("failed"))).collect()));
        let attached = fleet.attach().await;
        same("attach", each(attached.into_iter().map(|(h, r)| (h, r.expect_err("failed"))).collect()));
        let found = fleet.preflight().await.expect("an answer");
        same("preflight", found.iter().map(|(h, p)| (h.to_string(), code(&p.failures[0]))).collect());
        let exec = Exec {
            command: vec!["true".into()],
            root: false,
            at_once: None,
            deadline: Duration::from_secs(9),
        };
        let ran: Vec<_> = fleet.exec(&exec).collect().await;
        same(
            "exec",
            ran.iter().map(|r| (r.host.to_string(), code(r.ran.as_ref().expect_err("failed")))).collect(),
        );
        let health = fleet.verify(Level::Quick).await.expect("a report");
        let findings = health.hosts.iter().map(|(h, health)| (h.clone(), health.findings[0].code.clone()));
        same("verify", findings.collect());
        let status = fleet.status(false).await.expect("a status");
        same("status", status.unreachable.iter().map(|(h, p)| (h.clone(), p.code.clone())).collect());
    }
}
