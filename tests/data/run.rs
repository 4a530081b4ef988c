//! Data tests of `run`: a plan carried out on recording targets, to check order, waves and outcomes.

use async_trait::async_trait;
use provision::catalog::Catalog;
use provision::event::{Event, Events};
use provision::inventory::{Inventory, load};
use provision::plan::{Plan, PlanInput, TargetPlan, build};
use provision::run::{Cancel, Journal, Outcome, RunInput, RunReport, Transition, execute, replay};
use provision::state::{
    BarePods, Cluster, Command, Facts, Failure, FailureKind, Hazard, HostKind, HostName, JoinRole, JoinToken,
    Managed, Node, Nodes, Object, Observation, Observed, Ready, Reboot, Resource, ResourceId, SecretText,
    Seen, Spec, Step, StepOutput, StepOutputs, Target, TargetId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An inventory with controllers and workers; `pool` is the workers' `disruption`.
fn site(controllers: usize, workers: usize, pool: &str) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: t}}\ncluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  \
         network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\npools:\n  control:\n    role: controller\n    \
         hosts: {{\"cp-[1-{controllers}]\": {{address: \"10.0.0.[1-{controllers}]\"}}}}\n  w:\n    role: worker\n    \
         disruption: {pool}\n    hosts: {{\"w-[1-{workers}]\": {{address: \"10.0.1.[1-{workers}]\"}}}}\n"
    );
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    load(&dir.path().join("site.yaml"), &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
}

/// What happened, in order, over all targets.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, what: String) {
        self.0.lock().expect("no panic").push(what);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    fn of(&self, host: &str) -> Vec<String> {
        let ours = |l: &String| l.split(' ').nth(1) == Some(host);
        self.all().into_iter().filter(ours).collect()
    }

    fn at(&self, what: &str) -> usize {
        self.all().iter().position(|l| l == what).unwrap_or_else(|| panic!("no `{what}` in {:?}", self.all()))
    }
}

/// A resource that is observed as one boolean: done or not.
fn reboot() -> Resource {
    let spec = Reboot { name: "driver".into(), guard: "true".into(), when_changed: Vec::new() };
    let mut resource = Resource::new("nvidia", Spec::Reboot(spec));
    resource.hazards = vec![Hazard::Reboot];
    resource
}

fn command(role: &str, name: &str) -> Resource {
    let spec = Command {
        name: name.into(),
        guard: "true".into(),
        apply: "true".into(),
        undo: None,
        wanted: "done".into(),
        when_changed: Vec::new(),
    };
    Resource::new(role, Spec::Command(spec))
}

/// A target that remembers.
struct Fake {
    id: TargetId,
    desired: Mutex<Vec<Resource>>,
    done: Mutex<BTreeSet<ResourceId>>,
    log: Log,
    /// What enacting a resource comes to, if not to success.
    fails: BTreeMap<ResourceId, FailureKind>,
    /// What only turns out once something was enacted.
    later: Mutex<Vec<Resource>>,
    /// It is never as wanted.
    stubborn: bool,
    takes: Duration,
    /// Goes on only when this is in the log; if it never comes, after 30 seconds.
    until: Option<&'static str>,
    joined: bool,
    /// Its pods cannot be stopped.
    hangs: bool,
}

impl Fake {
    fn new(id: TargetId, desired: Vec<Resource>, log: &Log) -> Self {
        Self {
            id,
            desired: Mutex::new(desired),
            done: Mutex::default(),
            log: log.clone(),
            fails: BTreeMap::new(),
            later: Mutex::default(),
            stubborn: false,
            takes: Duration::from_millis(20),
            until: None,
            joined: true,
            hangs: false,
        }
    }

    fn host(name: &str, desired: Vec<Resource>, log: &Log) -> Self {
        Self::new(TargetId::Host(name.into()), desired, log)
    }

    fn failing(mut self, resource: &str, kind: FailureKind) -> Self {
        self.fails.insert(resource.parse().expect("an id"), kind);
        self
    }
}

#[async_trait]
impl Target for Fake {
    fn id(&self) -> TargetId {
        self.id.clone()
    }

    async fn observe(&self) -> Result<Observed, Failure> {
        let desired = self.desired.lock().expect("no panic").clone();
        let done = self.done.lock().expect("no panic").clone();
        let seen = |r: &Resource| match (&r.spec, done.contains(&r.id) && !self.stubborn) {
            (Spec::Reboot(_), true) => Observation::Present(Seen {
                fields: [("needed".into(), "no".into())].into(),
                ..Seen::default()
            }),
            (Spec::Node(_), true) => Observation::Present(Seen::default()),
            (_, true) => Observation::Present(Seen {
                fields: [("state".into(), "done".into())].into(),
                ..Seen::default()
            }),
            (_, false) => Observation::Absent,
        };
        let managed = |id: &str| Managed {
            id: id.parse().expect("an id"),
            hash: String::new(),
            undo: None,
            adopted: true,
            hazards: Vec::new(),
        };
        Ok(Observed {
            target: self.id.clone(),
            facts: Facts {
                managed: self.joined.then(|| managed("command/k0s-ready")).into_iter().collect(),
                k0s_was_up: self.joined,
                ..Facts::default()
            },
            seen: desired.iter().map(|r| (r.id.clone(), seen(r))).collect(),
            desired,
            orphans: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn enact(&self, steps: &[Step], _: &StepOutputs) -> Result<StepOutputs, Failure> {
        let mut outputs = StepOutputs::new();
        for step in steps {
            self.log.add(format!("begin {} {}", self.id, step.resource.text()));
            tokio::time::sleep(self.takes).await;
            for _ in 0..3000 {
                if self.until.is_none_or(|line| self.log.all().iter().any(|l| l == line)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if let Some(kind) = self.fails.get(&step.resource) {
                return Err(Failure::new(*kind, "E-TEST", "as told"));
            }
            self.done.lock().expect("no panic").insert(step.resource.clone());
            if let ResourceId::JoinToken(role) = step.resource {
                outputs.insert(StepOutput::JoinToken(role), SecretText::new("a token"));
            }
            self.log.add(format!("end {} {}", self.id, step.resource.text()));
        }
        self.desired.lock().expect("no panic").append(&mut self.later.lock().expect("no panic"));
        Ok(outputs)
    }

    async fn renew_lock(&self) -> Result<(), Failure> {
        self.log.add(format!("renew {}", self.id));
        Ok(())
    }

    async fn stop_pods(&self) -> Result<(), Failure> {
        self.log.add(format!("stop-pods {}", self.id));
        if self.hangs {
            Err(Failure::new(FailureKind::Step, "E-NODE-DEAD", "process 7 stays"))
        } else {
            Ok(())
        }
    }

    async fn finish(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A cluster that remembers.
struct FakeCluster {
    log: Log,
    /// Pods of this node do not go.
    stuck: Option<HostName>,
    /// Nodes without a kubelet.
    dead: BTreeSet<HostName>,
    taken: Option<Failure>,
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn nodes(&self) -> Result<Option<Nodes>, Failure> {
        Ok(None)
    }

    async fn bare_pods(&self, _: &BTreeSet<HostName>) -> Result<BarePods, Failure> {
        Ok(BarePods::new())
    }

    async fn drain(&self, node: &HostName, _: Duration, _: &BTreeSet<String>) -> Result<(), Failure> {
        self.log.add(format!("drain {node}"));
        match &self.stuck {
            _ if self.dead.contains(node) => {
                Err(Failure::new(FailureKind::Step, "E-NODE-DEAD", "its kubelet does not answer"))
            }
            Some(stuck) if stuck == node => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Err(Failure::new(FailureKind::Step, "E-DRAIN", "pod models/a will not go"))
            }
            _ => Ok(()),
        }
    }

    async fn delete_pods(&self, node: &HostName) -> Result<(), Failure> {
        self.log.add(format!("delete-pods {node}"));
        Ok(())
    }

    async fn give_back(&self, node: &HostName) -> Result<(), Failure> {
        self.log.add(format!("give-back {node}"));
        Ok(())
    }

    async fn uncordon(&self, node: &HostName) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.log.add(format!("uncordon {node}"));
        Ok(())
    }

    async fn spare(&self, controller: &HostName) -> Result<(), Failure> {
        self.log.add(format!("spare {controller}"));
        Ok(())
    }

    async fn hold(&self) -> Result<(), Failure> {
        self.taken.clone().map_or(Ok(()), Err)
    }
}

/// A run of fakes, its log and journal.
struct Play {
    inventory: Inventory,
    log: Log,
    fakes: Vec<Fake>,
    stuck: Option<HostName>,
    dead: BTreeSet<HostName>,
    taken: Option<Failure>,
    nodes: Option<BTreeSet<HostName>>,
    events: Events,
    dir: tempfile::TempDir,
}

impl Play {
    fn new(inventory: Inventory, log: Log, fakes: Vec<Fake>) -> Self {
        let (stuck, taken) = (None, None);
        let dir = tempfile::tempdir().expect("a folder");
        let dead = BTreeSet::new();
        Self { inventory, log, fakes, stuck, dead, taken, nodes: None, events: Events::none(), dir }
    }

    async fn plan(&self) -> Plan {
        let mut observed = Vec::new();
        for fake in &self.fakes {
            observed.push((fake.id.clone(), fake.observe().await));
        }
        build(PlanInput {
            out_of_service: Default::default(),
            bare_pods: Default::default(),
            past: Default::default(),
            inventory: &self.inventory,
            lock_digest: String::new(),
            lab: false,
            observed,
            nodes: self.nodes.clone(),
        })
    }

    async fn run(self) -> (RunReport, Vec<Transition>) {
        self.run_until(|_| std::future::pending()).await
    }

    /// Runs, and stops with the strength that the future returns, when it does.
    async fn run_until<F: Future<Output = u8> + Send>(
        self,
        stop: impl FnOnce(Log) -> F,
    ) -> (RunReport, Vec<Transition>) {
        let plan = self.plan().await;
        let path = self.dir.path().join("R.jsonl");
        let journal = Arc::new(Journal::create(&path, None).expect("a journal"));
        let (sender, cancel) = Cancel::new();
        let cluster = FakeCluster {
            log: self.log.clone(),
            stuck: self.stuck.clone(),
            dead: self.dead.clone(),
            taken: self.taken.clone(),
        };
        let targets =
            self.fakes.into_iter().map(|f| (f.id.clone(), Arc::new(f) as Arc<dyn Target>)).collect();
        let run = execute(RunInput {
            plan: &plan,
            targets,
            cluster: Some(Arc::new(cluster)),
            inventory: &self.inventory,
            run: "RUN11".into(),
            journal,
            events: self.events.clone(),
            cancel,
            renew_locks: Duration::from_millis(100),
        });
        let stopped = async {
            let level = stop(self.log.clone()).await;
            let _ = sender.send(level);
            std::future::pending::<()>().await;
        };
        let report = tokio::select! {
            report = run => report,
            () = stopped => unreachable!("it never ends"),
        };
        let records = replay(&path).expect("a legal journal");
        (report, records.iter().map(|r| r.transition).collect())
    }
}

fn workers(count: usize, log: &Log) -> Vec<Fake> {
    (1..=count).map(|n| Fake::host(&format!("w-{n}"), vec![reboot()], log)).collect()
}

#[tokio::test]
async fn nodes_leave_service_in_waves_and_are_back_before_others_go() {
    let log = Log::default();
    let mut play = Play::new(site(1, 7, "{maxUnavailable: 30%}"), log.clone(), workers(7, &log));
    let (events, mut seen) = Events::channel();
    play.events = events;
    let (report, journal) = play.run().await;
    assert_eq!((report.exit_code(), report.counts()), (0, (7, 0, 0)));
    let mut waves: Vec<String> = Vec::new();
    while let Ok(event) = seen.try_recv() {
        if let Event::Waiting { reason, .. } = event
            && let Some((wave, why)) = reason.split_once(": ")
        {
            assert_eq!(why, "at most 2 of w out of service at once");
            waves.push(wave.to_owned());
        }
    }
    waves.sort();
    assert_eq!(
        waves,
        ["wave 2 of 4", "wave 2 of 4", "wave 3 of 4", "wave 3 of 4", "wave 4 of 4", "wave 4 of 4"]
            .map(|w| format!("waiting for {w}"))
    );
    assert!(log.at("uncordon w-1") < log.at("drain w-2"), "the canary goes alone: {:?}", log.all());
    assert!(log.at("uncordon w-2") < log.at("drain w-4") && log.at("uncordon w-3") < log.at("drain w-4"));
    let mut out: BTreeSet<String> = BTreeSet::new();
    let mut most = 0;
    for line in log.all() {
        match line.split_once(' ').expect("two words") {
            ("drain", node) => drop(out.insert(node.to_owned())),
            ("uncordon", node) => assert!(out.remove(node), "{line}"),
            ("begin", what) => {
                let host = what.split(' ').next().expect("a host");
                assert!(out.contains(host), "nothing is done to {host} before its drain");
            }
            _ => {}
        }
        most = most.max(out.len());
    }
    assert_eq!(most, 2, "30 % of 7, rounded down");
    assert!(out.is_empty(), "all are back");
    let count = |t| journal.iter().filter(|j| **j == t).count();
    assert_eq!((count(Transition::Drained), count(Transition::Uncordoned)), (7, 7));
}

#[tokio::test]
async fn a_host_that_is_not_a_node_yet_is_not_drained_and_does_not_wait() {
    let log = Log::default();
    let mut fakes = workers(4, &log);
    for fake in &mut fakes {
        fake.joined = false;
    }
    let play = Play::new(site(1, 4, "{maxUnavailable: 1}"), log.clone(), fakes);
    let plan = play.plan().await;
    assert!(!plan.targets.iter().any(TargetPlan::drains), "a first install drains nothing");
    let (report, _) = play.run().await;
    assert_eq!(report.exit_code(), 0);
    assert!(!log.all().iter().any(|l| l.starts_with("drain")), "{:?}", log.all());
    let begun = log.all().iter().take(4).filter(|l| l.starts_with("begin")).count();
    assert_eq!(begun, 4, "side by side: {:?}", log.all());
}

#[tokio::test]
async fn the_plan_shows_a_drain_only_where_there_is_a_node_to_drain() {
    let log = Log::default();
    let mut upgrade = command("nvidia", "driver");
    upgrade.hazards = vec![Hazard::Drain];
    let fakes = ["w-1", "w-2"].map(|h| Fake::host(h, vec![upgrade.clone(), command("base", "x")], &log));
    let mut play = Play::new(site(1, 2, "{}"), log.clone(), fakes.into());
    play.nodes = Some(BTreeSet::from(["w-2".into()]));
    let plan = play.plan().await;
    let hazards: Vec<&[Hazard]> =
        plan.targets.iter().flat_map(|t| &t.steps).map(|s| &s.hazards[..]).collect();
    assert_eq!(hazards, [&[], &[], &[Hazard::Drain][..], &[]]);
    let (report, _) = play.run().await;
    assert_eq!(report.exit_code(), 0);
    assert_eq!(log.of("w-2").len() - log.of("w-1").len(), 2, "{:?}", log.all());
}

#[tokio::test]
async fn a_pod_that_will_not_go_fails_its_host_alone_and_the_node_is_given_back() {
    let log = Log::default();
    let pool = "{maxUnavailable: 1, maxFailed: 1, canary: 0}";
    let mut play = Play::new(site(1, 2, pool), log.clone(), workers(2, &log));
    play.stuck = Some("w-1".into());
    let (report, journal) = play.run().await;
    assert_eq!((report.exit_code(), report.counts()), (1, (1, 1, 0)));
    let (_, failure) = report.failures().next().expect("a failure");
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("E-DRAIN", "pod models/a will not go"));
    assert_eq!(log.of("w-1"), ["drain w-1", "give-back w-1"], "nothing was done to it");
    assert!(log.all().contains(&"uncordon w-2".to_owned()), "its place was free for the next");
    assert!(journal.contains(&Transition::Failed));
}

#[tokio::test]
async fn a_host_that_fails_out_of_service_keeps_its_place() {
    let log = Log::default();
    let mut fakes = workers(3, &log);
    let first = fakes.remove(0).failing("reboot/driver", FailureKind::Step);
    fakes.insert(0, first);
    let play = Play::new(site(1, 3, "{maxUnavailable: 1, maxFailed: 3, canary: 0}"), log.clone(), fakes);
    let (report, _) = play.run().await;
    let drained: Vec<String> = log.all().into_iter().filter(|l| l.starts_with("drain")).collect();
    let before: Vec<String> = log.all().into_iter().filter(|l| l.starts_with("uncordon")).collect();
    assert_eq!(drained.len(), before.len() + 1, "one is down and nobody else went after it: {:?}", log.all());
    for (_, failure) in report.failures().filter(|(_, f)| f.code != "E-TEST") {
        assert!(failure.message.contains("failed while out of service"), "{failure}");
    }
    assert_eq!(report.exit_code(), 1);
}

/// A lock lasts an hour; a wave may take longer.
#[tokio::test]
async fn the_lock_of_a_host_that_waits_for_its_wave_is_renewed() {
    let log = Log::default();
    let mut fakes = workers(2, &log);
    fakes[0].takes = Duration::from_millis(550);
    let (report, _) = Play::new(site(1, 2, "{maxUnavailable: 1}"), log.clone(), fakes).run().await;
    assert_eq!(report.exit_code(), 0);
    let renewed = log.of("w-2").iter().filter(|l| l.starts_with("renew")).count();
    assert!((2..=6).contains(&renewed), "every 100 ms of 550: {:?}", log.all());
    assert!(!log.of("w-1").iter().any(|l| l.starts_with("renew")), "it waits for nothing");
}

/// On a real k0s the pods of a dead node stayed ending, so that the good binary was never installed.
#[tokio::test]
async fn a_dead_node_is_repaired_once_its_pods_are_stopped_on_its_host() {
    let log = Log::default();
    let mut fakes = workers(2, &log);
    fakes[1].hangs = true;
    let mut play = Play::new(site(1, 2, "{maxFailed: 2, canary: 0, maxUnavailable: 1}"), log.clone(), fakes);
    play.dead = ["w-1", "w-2"].map(HostName::from).into();
    let (report, _) = play.run().await;
    assert_eq!(
        log.of("w-1"),
        [
            "drain w-1",
            "stop-pods w-1",
            "delete-pods w-1",
            "begin w-1 reboot/driver",
            "end w-1 reboot/driver",
            "uncordon w-1"
        ]
    );
    // On a busy machine its lock may have been due.
    let of: Vec<_> = log.of("w-2").into_iter().filter(|line| !line.starts_with("renew")).collect();
    assert_eq!(of, ["drain w-2", "stop-pods w-2", "give-back w-2"], "not while something runs there");
    let (_, failure) = report.failures().next().expect("w-2");
    assert_eq!((failure.code.as_str(), report.counts()), ("E-NODE-DEAD", (1, 1, 0)));
}

#[tokio::test]
async fn a_canary_that_fails_stops_its_pool_and_no_other() {
    let log = Log::default();
    let mut fakes = workers(4, &log);
    let first = fakes.remove(0).failing("reboot/driver", FailureKind::Step);
    fakes.insert(0, first);
    // Nothing of it leaves service.
    fakes.push(Fake::host("cp-1", vec![command("base", "x")], &log));
    let play = Play::new(site(1, 4, "{maxUnavailable: 2, maxFailed: 4}"), log.clone(), fakes);
    let (report, _) = play.run().await;
    let drained: Vec<String> = log.all().into_iter().filter(|l| l.starts_with("drain")).collect();
    assert_eq!(drained, ["drain w-1"]);
    let codes: Vec<&str> = report.failures().map(|(_, f)| f.code.as_str()).collect();
    assert_eq!(codes, ["E-TEST", "E-CANARY", "E-CANARY", "E-CANARY"]);
    let told = report.failures().find(|(_, f)| f.code == "E-CANARY").expect("told").1;
    assert!(told.message.starts_with("the canary host "), "{}", told.message);
    assert_eq!(report.outcomes[&TargetId::Host("cp-1".into())], Outcome::Converged(1));
}

#[tokio::test]
async fn a_pool_of_which_none_may_be_unavailable_is_not_touched() {
    for none in ["0", "0%"] {
        let log = Log::default();
        let fakes = [vec![command("base", "first"), reboot()], vec![command("base", "only")]];
        let fakes =
            fakes.into_iter().zip(["w-1", "w-2"]).map(|(of, host)| Fake::host(host, of, &log)).collect();
        let play = Play::new(site(1, 2, &format!("{{maxUnavailable: {none}}}")), log.clone(), fakes);
        let (report, _) = play.run().await;
        let (target, failure) = report.failures().next().expect("a failure");
        assert_eq!((target.to_string().as_str(), failure.code.as_str()), ("w-1", "E-BUDGET"));
        assert!(failure.message.contains("disruption.maxUnavailable is 0"), "{failure}");
        assert_eq!(log.of("w-1"), Vec::<String>::new(), "nothing was begun on it");
        assert_eq!(report.outcomes[&TargetId::Host("w-2".into())], Outcome::Converged(1));
    }
}

#[tokio::test]
async fn a_pool_stops_when_more_failed_than_it_allows_and_others_go_on() {
    let log = Log::default();
    let mut fakes: Vec<Fake> = (1..=4)
        .map(|n| {
            let steps = vec![command("base", "a"), reboot(), command("base", "b")];
            let mut fake = Fake::host(&format!("w-{n}"), steps, &log);
            fake.joined = false;
            fake
        })
        .collect();
    for fake in &mut fakes[..2] {
        fake.fails.insert(ResourceId::host(HostKind::Command, "a"), FailureKind::Step);
    }
    let mut controller = Fake::host("cp-1", vec![command("base", "a"), reboot(), command("base", "b")], &log);
    controller.joined = false;
    controller.takes = Duration::from_millis(60);
    fakes.push(controller);
    let play = Play::new(site(1, 4, "{maxFailed: 1}"), log.clone(), fakes);
    let (report, _) = play.run().await;
    let codes: Vec<&str> = report.failures().map(|(_, f)| f.code.as_str()).collect();
    assert_eq!(codes, ["E-TEST", "E-TEST", "E-BUDGET", "E-BUDGET"]);
    assert_eq!(report.outcomes[&TargetId::Host("cp-1".into())], Outcome::Converged(3), "another pool");
}

#[tokio::test]
async fn controllers_go_one_at_a_time_each_after_etcd_was_asked() {
    let log = Log::default();
    let steps = || {
        let mut restart = command("k0s", "k0s-started");
        restart.hazards = vec![Hazard::Restart("k0scontroller.service".into())];
        vec![command("base", "x"), reboot(), restart, command("k0s", "k0s-ready")]
    };
    let fakes = ["cp-1", "cp-2", "cp-3"].map(|h| Fake::host(h, steps(), &log));
    let play = Play::new(site(3, 1, "{}"), log.clone(), fakes.into());
    let plan = play.plan().await;
    assert!(plan.targets.iter().all(|t| t.steps[1].hazards.contains(&Hazard::Quorum)), "{plan:?}");
    let (report, _) = play.run().await;
    assert_eq!(report.exit_code(), 0);
    let mut busy: Option<String> = None;
    for line in log.all().iter().filter(|l| l.contains("reboot/") || l.contains("k0s-")) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "begin" => {
                assert_eq!(busy, None, "{line}: {:?}", log.all());
                busy = Some(words[1].to_owned());
                assert!(log.at(&format!("spare {}", words[1])) < log.at(line));
            }
            _ => busy = None,
        }
    }
}

/// One node resource and some objects, after their hosts.
fn cluster(log: &Log, objects: &[&str], nodes: &[&str]) -> Fake {
    let object = |name: &&str| {
        let manifest =
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let object = Object { stage: provision::state::Stage::Engine, manifest, ready: Ready::Accepted };
        Resource::new("model", Spec::Object(Box::new(object)))
    };
    let node = |name: &&str| {
        Resource::new(
            "node",
            Spec::Node(Node {
                name: (*name).to_owned(),
                labels: BTreeMap::new(),
                taints: Vec::new(),
                cordoned: false,
                allocatable: BTreeMap::new(),
                kubelet: None,
            }),
        )
    };
    let desired = nodes.iter().map(node).chain(objects.iter().map(object)).collect();
    let mut fake = Fake::new(TargetId::Cluster, desired, log);
    fake.joined = false;
    fake
}

#[tokio::test]
async fn a_node_comes_after_its_host_and_a_failed_host_leaves_out_its_own_alone() {
    let log = Log::default();
    let mut slow = Fake::host("w-1", vec![command("base", "x")], &log);
    slow.until = Some("end cluster node/w-2");
    let quick = Fake::host("w-2", vec![command("base", "x")], &log);
    let bad = Fake::host("w-3", vec![command("base", "x")], &log).failing("command/x", FailureKind::Step);
    let all = cluster(&log, &["a", "b"], &["w-1", "w-2", "w-3"]);
    let play = Play::new(site(1, 3, "{maxFailed: 1}"), log.clone(), vec![slow, quick, bad, all]);
    let plan = play.plan().await;
    let cluster = plan.targets.iter().find(|t| t.target == TargetId::Cluster).expect("there");
    let sizes: Vec<usize> = cluster.batches.iter().map(|b| b.steps.len()).collect();
    assert_eq!(sizes, [1, 1, 1, 2], "nodes alone, objects together");
    let (report, _) = play.run().await;
    assert_eq!((report.exit_code(), report.counts()), (1, (3, 1, 0)), "{report:?}");
    assert!(log.at("end cluster node/w-2") < log.at("end w-1 command/x"), "it waits for no other host");
    assert!(log.at("end w-1 command/x") < log.at("begin cluster node/w-1"));
    assert!(!log.all().contains(&"begin cluster node/w-3".to_owned()), "left out: {:?}", log.all());
    assert!(log.at("end cluster node/w-1") < log.at("begin cluster ConfigMap/a"));
}

#[tokio::test]
async fn the_cluster_is_looked_at_again_when_nodes_left_service() {
    let log = Log::default();
    let node = Fake::host("w-1", vec![reboot()], &log);
    let mut all = cluster(&log, &["a"], &[]);
    let in_sync = Resource::new("applyset", Spec::JoinToken(JoinToken { role: JoinRole::Worker }));
    all.desired = Mutex::new(vec![in_sync]);
    all.done = Mutex::new(BTreeSet::from([ResourceId::JoinToken(JoinRole::Worker)]));
    let play = Play::new(site(1, 1, "{}"), log.clone(), vec![node, all]);
    let (report, _) = play.run().await;
    assert_eq!(report.counts().0, 2, "the cluster was verified too: {:?}", report.outcomes);
}

#[tokio::test]
async fn what_turns_out_later_is_planned_again_and_a_new_hazard_stops_it() {
    let log = Log::default();
    let mut harmless = Fake::host("w-1", vec![command("base", "a")], &log);
    harmless.later = Mutex::new(vec![command("base", "b")]);
    let mut harmful = Fake::host("w-2", vec![command("base", "a")], &log);
    let mut restart = command("base", "b");
    restart.hazards = vec![Hazard::Restart("chrony.service".into())];
    harmful.later = Mutex::new(vec![restart]);
    let mut never = Fake::host("w-3", vec![command("base", "a")], &log);
    never.stubborn = true;
    let play = Play::new(site(1, 3, "{maxFailed: 3}"), log.clone(), vec![harmless, harmful, never]);
    let (report, _) = play.run().await;
    assert_eq!(report.outcomes[&TargetId::Host("w-1".into())], Outcome::Converged(2));
    let failures: BTreeMap<String, &Failure> = report.failures().map(|(t, f)| (t.to_string(), f)).collect();
    assert_eq!(failures["w-2"].code, "E-HAZARD");
    assert!(failures["w-2"].message.contains("restart:chrony.service"), "{}", failures["w-2"]);
    assert!(!log.all().contains(&"begin w-2 command/b".to_owned()), "it was not done");
    assert_eq!(failures["w-3"].code, "E-NOT-CONVERGED");
    assert!(failures["w-3"].message.contains("command a"), "{}", failures["w-3"]);
    assert_eq!(report.exit_codes(), [3, 1], "refused before failed");
}

async fn begun(log: &Log, what: &str) {
    while !log.all().contains(&what.to_owned()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn stopped_once_what_runs_finishes_and_is_not_counted_as_failed() {
    let log = Log::default();
    let steps = || vec![command("base", "a"), reboot(), command("base", "b")];
    let one = Fake::host("w-1", steps(), &log);
    let two = Fake::host("w-2", steps(), &log);
    let play = Play::new(site(1, 2, "{maxUnavailable: 1}"), log.clone(), vec![one, two]);
    let (report, journal) = play
        .run_until(async |log| {
            begun(&log, "begin w-1 command/a").await;
            1
        })
        .await;
    assert_eq!((report.exit_codes(), report.counts()), (vec![130], (0, 0, 2)), "{report:?}");
    assert!(log.all().contains(&"end w-1 reboot/driver".to_owned()), "what ran finished: {:?}", log.all());
    assert!(!log.all().contains(&"begin w-1 command/b".to_owned()), "and nothing new began");
    assert_eq!(log.of("w-2"), Vec::<String>::new());
    assert_eq!(journal.last(), Some(&Transition::Finished));
}

#[tokio::test]
async fn stopped_in_a_drain_the_node_is_given_back() {
    let log = Log::default();
    let mut play = Play::new(site(1, 1, "{}"), log.clone(), workers(1, &log));
    play.stuck = Some("w-1".into());
    let (report, _) = play
        .run_until(async |log| {
            begun(&log, "drain w-1").await;
            1
        })
        .await;
    assert_eq!((report.exit_code(), report.counts()), (130, (0, 0, 1)));
    assert_eq!(log.all(), ["drain w-1", "give-back w-1"]);
}

#[tokio::test]
async fn stopping_twice_ends_all_waits() {
    let log = Log::default();
    let mut slow = Fake::host("w-1", vec![command("base", "a")], &log);
    slow.takes = Duration::from_secs(600);
    let quick = Fake::host("w-2", vec![command("base", "a")], &log).failing("command/a", FailureKind::Step);
    let play = Play::new(site(1, 2, "{}"), log.clone(), vec![slow, quick]);
    let (report, _) = play
        .run_until(async |log| {
            begun(&log, "begin w-1 command/a").await;
            begun(&log, "begin w-2 command/a").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            2
        })
        .await;
    assert_eq!(report.outcomes[&TargetId::Host("w-1".into())], Outcome::Detached);
    assert_eq!(report.exit_codes(), [130, 1], "interrupted before failed");
}

#[tokio::test]
async fn a_cluster_that_another_run_has_is_left_alone() {
    let log = Log::default();
    let mut play = Play::new(site(1, 2, "{}"), log.clone(), workers(2, &log));
    play.taken = Some(Failure::new(FailureKind::Locked, "E-LEASE", "eva@desk works on it"));
    let (report, _) = play.run().await;
    assert_eq!(log.all(), Vec::<String>::new(), "nothing began");
    assert_eq!((report.exit_codes(), report.counts()), (vec![4, 1], (0, 1, 2)));
    assert_eq!(report.failures().next().expect("one").1.code, "E-LEASE");
}

#[tokio::test]
async fn hosts_that_others_hold_are_exit_4_only_if_none_could_be_had() {
    for (second, codes) in [(FailureKind::Locked, vec![4, 1]), (FailureKind::Step, vec![1])] {
        let log = Log::default();
        let host = |n: &str, kind| Fake::host(n, vec![command("base", "a")], &log).failing("command/a", kind);
        let fakes = vec![host("w-1", FailureKind::Locked), host("w-2", second)];
        let (report, _) = Play::new(site(1, 2, "{maxFailed: 2}"), log.clone(), fakes).run().await;
        assert_eq!(report.exit_codes(), codes);
    }
    let log = Log::default();
    let locked =
        Fake::host("w-1", vec![command("base", "a")], &log).failing("command/a", FailureKind::Locked);
    let free = Fake::host("w-2", vec![command("base", "a")], &log);
    let (report, _) = Play::new(site(1, 2, "{maxFailed: 2}"), log.clone(), vec![locked, free]).run().await;
    assert_eq!(report.exit_codes(), [1], "one of two could be");
}

#[tokio::test]
async fn a_step_that_depends_on_a_missing_step_is_blocked_and_does_not_hang() {
    let log = Log::default();
    let mut joins = command("k0s", "k0s-token");
    joins.inputs = vec![StepOutput::JoinToken(JoinRole::Worker)];
    let host = Fake::host("w-1", vec![joins], &log);
    let (report, _) = Play::new(site(1, 1, "{}"), log.clone(), vec![host]).run().await;
    let (_, failure) = report.failures().next().expect("a failure");
    assert_eq!(failure.code, "E-BLOCKED");
    assert!(failure.message.contains("cluster:token/worker, which is not part of this run"), "{failure}");
}

#[tokio::test]
async fn an_engine_without_a_host_is_left_out_and_not_waited_for() {
    let log = Log::default();
    let mut inventory = site(1, 2, "{maxFailed: 2}");
    let model = |name: &str, pool: &str| provision::inventory::Model {
        name: name.into(),
        source: provision::inventory::ModelSource::Path { path: "/m".into() },
        engine: provision::inventory::Engine {
            kind: provision::inventory::EngineKind::Vllm,
            image: "i:1".into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            resources: provision::inventory::EngineResources::default(),
        },
        pool: pool.into(),
        accelerators_per_replica: 0,
        replicas: 1,
    };
    inventory.models = [("a", "w"), ("b", "control")].map(|(n, p)| (n.to_owned(), model(n, p))).into();
    let engine = |name: &str| {
        let metadata = serde_json::json!({"name": name, "namespace": "models"});
        let manifest =
            serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata});
        let stage = provision::state::Stage::Engine;
        Resource::new("model", Spec::Object(Box::new(Object { stage, manifest, ready: Ready::Available })))
    };
    let all = cluster(&log, &[], &["w-1", "w-2"]);
    all.desired.lock().expect("no panic").extend([engine("a"), engine("b")]);
    let bad =
        |host| Fake::host(host, vec![command("base", "x")], &log).failing("command/x", FailureKind::Step);
    let play = Play::new(inventory, log.clone(), vec![bad("w-1"), bad("w-2"), all]);
    let (report, _) = play.run().await;
    assert_eq!((report.exit_code(), report.counts()), (1, (1, 2, 0)), "{report:?}");
    let enacted: Vec<String> = log.of("cluster").into_iter().filter(|l| l.starts_with("begin")).collect();
    assert_eq!(enacted, ["begin cluster Deployment.apps/models/b"]);
}
