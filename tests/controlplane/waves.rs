//! A run on nodes of a real API whose hosts are not what the API says of them: the waves of a disruptive change.

use super::contract::rest::Rest;
use super::kit::{Bench, steps};
use super::nodes::Kubelet;
use super::servers::ControlPlane;
use super::{Test, tests};
use async_trait::async_trait;
use provision::catalog::Catalog;
use provision::event::Events;
use provision::inventory::{Inventory, load};
use provision::plan::{PlanInput, build};
use provision::run::{Cancel, Journal, RunInput, execute};
use provision::state::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

pub fn tests() -> Vec<Test> {
    tests!(waves: a_node_whose_k0s_flaps_stays_out_of_service_and_the_next_one_in_it).to_vec()
}

const NODES: [&str; 2] = ["flaps-1", "flaps-2"];

/// A host that did what was asked of it. Its k0s unit may start over and over, which its node does not show.
struct Flapping {
    id: TargetId,
    flaps: bool,
    done: AtomicBool,
}

#[async_trait]
impl Target for Flapping {
    fn id(&self) -> TargetId {
        self.id.clone()
    }

    async fn observe(&self) -> Result<Observed, Failure> {
        let spec = Reboot { name: "driver".into(), guard: "true".into(), when_changed: Vec::new() };
        let mut reboot = Resource::new("nvidia", Spec::Reboot(spec));
        reboot.hazards = vec![Hazard::Reboot];
        let joined = Managed {
            id: "command/k0s-ready".parse().expect("an id"),
            hash: String::new(),
            undo: None,
            adopted: true,
            hazards: Vec::new(),
        };
        let seen = match self.done.load(Ordering::Relaxed) {
            true => Observation::Present(Seen {
                fields: [("needed".into(), "no".into())].into(),
                ..Seen::default()
            }),
            false => Observation::Absent,
        };
        Ok(Observed {
            target: self.id.clone(),
            facts: Facts { managed: vec![joined], k0s_was_up: true, ..Facts::default() },
            seen: [(reboot.id.clone(), seen)].into(),
            desired: vec![reboot],
            orphans: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn enact(&self, _: &[Step], _: &StepOutputs) -> Result<StepOutputs, Failure> {
        self.done.store(true, Ordering::Relaxed);
        Ok(StepOutputs::new())
    }

    async fn serves(&self) -> Result<(), Failure> {
        match self.flaps {
            true => {
                Err(Failure::new(FailureKind::Step, "E-NOT-SERVING", "k0sworker.service does not stay up"))
            }
            false => Ok(()),
        }
    }

    async fn finish(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Renews the nodes' leases as kubelets do, until dropped.
async fn renew_leases(rest: &Rest) -> JoinSet<()> {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    for name in NODES {
        rest.post(leases, &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let rest = rest.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            for name in NODES {
                let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
                rest.merge(&format!("{leases}/{name}"), &json!({"spec": {"renewTime": now}})).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    tasks
}

fn inventory() -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let text = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: t}\ncluster: {k0s: {version: v1.35.7+k0s.0}}\n\
                pools:\n  c: {role: controller, hosts: {cp-1: {address: 10.0.0.1}}}\n  \
                w: {role: worker, hosts: {\"flaps-[1-2]\": {address: \"10.0.1.[1-2]\"}}}\n";
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    load(&dir.path().join("site.yaml"), &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
}

/// On a real k0s, the unit was caught active between two restarts while the API went on calling the node Ready, and the next one
/// was drained.
pub async fn a_node_whose_k0s_flaps_stays_out_of_service_and_the_next_one_in_it(plane: &ControlPlane) {
    let bench = Bench::new(plane, "flaps").await;
    let names = NODES.map(str::to_owned);
    let kubelet = Kubelet::start(&bench.rest, &names, json!([])).await;
    let leases = renew_leases(&bench.rest).await;
    let inventory = inventory();
    for flaps in [true, false] {
        let cluster = Arc::new(bench.target(Vec::new()));
        assert_eq!(steps(&cluster).await, []);
        let hosts = NODES.map(|name| Flapping {
            id: TargetId::Host(name.into()),
            flaps,
            done: AtomicBool::new(false),
        });
        let mut observed = Vec::new();
        for host in &hosts {
            observed.push((host.id(), host.observe().await));
        }
        let plan = build(PlanInput {
            out_of_service: Default::default(),
            bare_pods: Default::default(),
            past: Default::default(),
            inventory: &inventory,
            lock_digest: String::new(),
            lab: false,
            observed,
            nodes: Cluster::nodes(cluster.as_ref()).await.expect("nodes").map(|n| n.all),
        });
        let dir = tempfile::tempdir().expect("a folder");
        let (_stop, cancel) = Cancel::new();
        let report = execute(RunInput {
            plan: &plan,
            targets: hosts.into_iter().map(|h| (h.id(), Arc::new(h) as Arc<dyn Target>)).collect(),
            cluster: Some(cluster),
            inventory: &inventory,
            run: "RUN11".into(),
            journal: Arc::new(Journal::create(&dir.path().join("R.jsonl"), None).expect("a journal")),
            events: Events::none(),
            cancel,
            renew_locks: Duration::from_secs(5),
        })
        .await;
        let codes: Vec<&str> = report.failures().map(|(_, f)| f.code.as_str()).collect();
        let mut cordoned = Vec::new();
        for name in &names {
            let live = bench.rest.get(&format!("/api/v1/nodes/{name}")).await.expect(200);
            let ready = live["status"]["conditions"].as_array().into_iter().flatten();
            let ready = ready.filter(|c| c["type"] == "Ready").all(|c| c["status"] == "True");
            assert!(ready, "the API has nothing to say against {name}: {live}");
            cordoned.push(live["spec"]["unschedulable"] == Value::Bool(true));
        }
        match flaps {
            true => assert_eq!((codes, cordoned), (vec!["E-NOT-SERVING", "E-CANARY"], vec![true, false])),
            false => assert_eq!((codes, cordoned), (Vec::new(), vec![false, false])),
        }
    }
    drop(leases);
    kubelet.end(&bench.rest, &names).await;
}
