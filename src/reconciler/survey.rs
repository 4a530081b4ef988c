//! The state of the cluster for `status`: nodes, and the ready replicas of each model. Read-only.

use super::ClusterTarget;
use super::errors::failure;
use super::ready::pods_say;
use crate::state::{Failure, FailureKind};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ListParams};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// All answers arrive within this time, or the cluster counts as not answering.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the API reports.
#[derive(Clone, PartialEq, Serialize, Debug, Default)]
pub struct Survey {
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeSeen>,
    /// Deployments of the namespace that was asked for, by name.
    pub workloads: BTreeMap<String, WorkloadSeen>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
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

/// One Deployment.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct WorkloadSeen {
    /// Replicas wanted.
    pub wanted: u64,
    /// Replicas that answer.
    pub ready: u64,
    /// What holds the others up.
    pub why: Option<String>,
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

async fn all<K>(api: &Api<K>, what: &str) -> Result<Vec<K>, Failure>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
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

impl ClusterTarget {
    /// Returns what the cluster is known by: the uid of its namespace `kube-system`, which a restored cluster has too and a new one
    /// has not; `None` if there is no cluster yet.
    pub async fn identity(&self) -> Result<Option<String>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let namespaces: Api<Namespace> = Api::all(link.client.clone());
        let found = namespaces.get("kube-system").await.map_err(|e| failure("namespaces", &e))?;
        Ok(found.metadata.uid)
    }

    /// Returns the nodes, and the Deployments of a namespace, from the API; `None` if there is no cluster yet.
    pub async fn survey(&self, namespace: &str) -> Result<Option<Survey>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let ask = async {
            let nodes = all(&Api::<Node>::all(link.client.clone()), "nodes").await?;
            let deployments: Vec<Deployment> =
                all(&Api::namespaced(link.client.clone(), namespace), "deployments").await?;
            let mut workloads = BTreeMap::new();
            for deployment in deployments {
                let Some(name) = deployment.metadata.name.clone() else { continue };
                let wanted = deployment.spec.replicas.unwrap_or(1).max(0) as u64;
                let ready = deployment.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
                let mut seen = WorkloadSeen { wanted, ready: ready.max(0) as u64, why: None };
                if seen.ready < seen.wanted {
                    let labels = deployment.spec.selector.match_labels.unwrap_or_default();
                    let selector: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    let pods: Api<Pod> = Api::namespaced(link.client.clone(), namespace);
                    let pods = pods
                        .list(&ListParams::default().labels(&selector.join(",")))
                        .await
                        .map_err(|e| failure("pods", &e))?;
                    let values: Vec<_> = pods.iter().filter_map(|p| serde_json::to_value(p).ok()).collect();
                    seen.why = pods_say(&values);
                }
                workloads.insert(name, seen);
            }
            let nodes = nodes.iter().filter_map(|n| Some((n.metadata.name.clone()?, node_seen(n)))).collect();
            Ok(Survey { nodes, workloads })
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
