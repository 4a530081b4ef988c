//! The state of the cluster for `status`: nodes, and what runs on them. Read-only.

use super::ClusterTarget;
use super::cluster::AT_ONCE;
use super::errors::{failure, is_missing};
use super::kinds::Kind;
use super::pods::{self, Cause};
use super::ready::selector;
use crate::state::{Failure, FailureKind, ObjectId};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ListParams};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// All answers arrive within this time, or the cluster counts as not answering.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the API reports.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Survey {
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeSeen>,
    /// The Deployments and DaemonSets that were asked for, as far as they exist.
    pub workloads: BTreeMap<ObjectId, WorkloadSeen>,
    /// Services, gateways and routes that are wanted and do not exist.
    pub missing: BTreeSet<ObjectId>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeSeen {
    /// Its kubelet reports it as ready.
    pub ready: bool,
    /// Why it is not.
    pub reason: Option<String>,
    /// It takes no new pods.
    pub cordoned: bool,
    /// The kubelet's version.
    pub version: String,
    /// Allocatable extended resources, such as `nvidia.com/gpu`: healthy devices.
    pub allocatable: BTreeMap<String, u64>,
}

/// One Deployment or DaemonSet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkloadSeen {
    /// Replicas wanted.
    pub wanted: u64,
    /// Replicas that answer.
    pub ready: u64,
    /// What holds the others up, most frequent first.
    pub causes: Vec<Cause>,
}

fn node_seen(node: &Node) -> NodeSeen {
    let status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let reason = match ready {
        None => Some("its kubelet has not reported yet".to_owned()),
        Some(c) if c.status == "True" => None,
        // The last report of a kubelet that stopped reporting is not the reason.
        Some(c) if c.status == "Unknown" => Some("its kubelet stopped reporting".to_owned()),
        Some(c) => Some(c.message.clone().or(c.reason.clone()).unwrap_or_else(|| "not ready".to_owned())),
    };
    let extended = |(name, quantity): (&String, &k8s_openapi::apimachinery::pkg::api::resource::Quantity)| {
        (name.contains('/') && !name.starts_with("hugepages"))
            .then(|| Some((name.clone(), quantity.0.parse().ok()?)))
            .flatten()
    };
    NodeSeen {
        ready: reason.is_none(),
        reason,
        cordoned: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
        version: status.node_info.map(|i| i.kubelet_version).unwrap_or_default(),
        allocatable: status.allocatable.iter().flatten().filter_map(extended).collect(),
    }
}

async fn all<K>(api: &Api<K>, params: ListParams, what: &str) -> Result<Vec<K>, Failure>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    let mut params = params.limit(PAGE);
    loop {
        let page = api.list(&params).await.map_err(|e| failure(what, &e))?;
        let next = page.metadata.continue_.clone().filter(|c| !c.is_empty());
        found.extend(page.items);
        match next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Returns the Deployments and DaemonSets of a namespace, as JSON with their kind.
async fn running(client: &kube::Client, namespace: &str) -> Result<Vec<Value>, Failure> {
    let (deployments, daemons) = (
        Api::<Deployment>::namespaced(client.clone(), namespace),
        Api::<DaemonSet>::namespaced(client.clone(), namespace),
    );
    let (deployments, daemons) = tokio::try_join!(
        all(&deployments, ListParams::default(), "deployments"),
        all(&daemons, ListParams::default(), "daemonsets")
    )?;
    let json = |kind: &str, value: serde_json::Result<Value>| {
        let mut value = value.ok()?;
        // A list's items have neither.
        (value["apiVersion"], value["kind"]) = ("apps/v1".into(), kind.into());
        Some(value)
    };
    let deployments = deployments.iter().filter_map(|d| json("Deployment", serde_json::to_value(d)));
    let daemons = daemons.iter().filter_map(|d| json("DaemonSet", serde_json::to_value(d)));
    Ok(deployments.chain(daemons).collect())
}

/// Counts a workload's replicas; where some are missing, its pods are asked why.
async fn workload_seen(
    client: &kube::Client,
    live: &Value,
    nodes: &BTreeMap<String, NodeSeen>,
) -> Result<WorkloadSeen, Failure> {
    let number = |pointer: &str| live.pointer(pointer).and_then(Value::as_u64);
    let (wanted, ready) = match live["kind"].as_str() {
        Some("DaemonSet") => (number("/status/desiredNumberScheduled"), number("/status/numberAvailable")),
        _ => (number("/spec/replicas").or(Some(1)), number("/status/availableReplicas")),
    };
    let mut seen =
        WorkloadSeen { wanted: wanted.unwrap_or(0), ready: ready.unwrap_or(0), causes: Vec::new() };
    if seen.ready >= seen.wanted {
        return Ok(seen);
    }
    seen.causes.extend(pods::refused(live));
    if let Some(selector) = selector(live) {
        let namespace = live["metadata"]["namespace"].as_str().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let params = ListParams::default().labels(&selector);
        let found = all(&api, params, "pods").await?;
        let values: Vec<Value> = found.iter().filter_map(|p| serde_json::to_value(p).ok()).collect();
        let lost = |node: &str| nodes.get(node).is_none_or(|n| !n.ready);
        seen.causes.extend(pods::explained(client, &values, lost).await);
    }
    Ok(seen)
}

/// Returns what requests are routed by and does not exist.
async fn missing(client: &kube::Client, objects: &BTreeSet<ObjectId>) -> Result<BTreeSet<ObjectId>, Failure> {
    let routing = objects.iter().filter_map(|id| Some((id, Kind::of(id).filter(|kind| kind.routes())?)));
    let looks = routing.map(|(id, kind)| async move {
        match kind.api(client, &id.namespace).get_metadata_opt(&id.name).await {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Ok(Some(id.clone())),
            // Not even its definition exists.
            Err(error) if is_missing(&error) => Ok(Some(id.clone())),
            Err(error) => Err(failure(kind.plural, &error)),
        }
    });
    let looks: Vec<_> = looks.collect();
    let found: Vec<Option<ObjectId>> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

impl ClusterTarget {
    /// Returns what the cluster is known by: the uid of its namespace `kube-system`, which a restored cluster has too and a new one
    /// has not; `None` if there is no cluster yet.
    pub async fn identity(&self) -> Result<Option<String>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let namespaces: Api<Namespace> = Api::all(link.client.clone());
        let found = namespaces.get("kube-system").await.map_err(|e| failure("namespaces", &e))?;
        Ok(found.metadata.uid)
    }

    /// Returns the nodes, and what exists of these objects, from the API; `None` if there is no cluster yet.
    pub async fn survey(&self, objects: &BTreeSet<ObjectId>) -> Result<Option<Survey>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let client = &link.client;
        let ask = async {
            let nodes = all(&Api::<Node>::all(client.clone()), ListParams::default(), "nodes").await?;
            let nodes: BTreeMap<String, NodeSeen> =
                nodes.iter().filter_map(|n| Some((n.metadata.name.clone()?, node_seen(n)))).collect();
            let workloads =
                objects.iter().filter(|id| matches!(id.kind.as_str(), "Deployment" | "DaemonSet"));
            let namespaces: BTreeSet<&str> = workloads.map(|w| w.namespace.as_str()).collect();
            let mut live = Vec::new();
            for namespace in namespaces {
                let all = running(client, namespace).await?.into_iter();
                live.extend(all.map(|w| (ObjectId::of(&w), w)).filter(|(id, _)| objects.contains(id)));
            }
            // At once: a kubelet that does not answer holds up its own pods only.
            let looks = live.into_iter().map(|(id, live)| {
                let nodes = &nodes;
                async move { Ok::<_, Failure>((id, workload_seen(client, &live, nodes).await?)) }
            });
            let seen = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
            let missing = missing(client, objects).await?;
            Ok(Survey { nodes, workloads: seen, missing })
        };
        match tokio::time::timeout(DEADLINE, ask).await {
            Ok(survey) => survey.map(Some),
            Err(_) => Err(Failure::new(
                FailureKind::Unobserved,
                "E-K8S-TIMEOUT",
                format!("the Kubernetes API timed out after {} s", DEADLINE.as_secs()),
            )
            .hint("On a controller, run `k0s status` and `k0s kubectl get --raw=/readyz?verbose`")),
        }
    }
}
