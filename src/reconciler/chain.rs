//! The head of the chain of records, kept in the cluster: a ConfigMap in kube-system, named after the inventory. Who has cut off or
//! replaced the records of a machine is found by it.

use super::applyset::MANAGER;
use super::cluster::ClusterTarget;
use super::errors::failure;
use crate::state::Failure;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;

/// Where it is: a namespace that every cluster has from its first minute.
const NAMESPACE: &str = "kube-system";

impl ClusterTarget {
    fn chain_name(&self) -> String {
        format!("{MANAGER}-{}-history", self.setup.name)
    }

    /// Returns what the cluster knows of the chain's head; `None` if there is no cluster, or nothing yet.
    pub async fn chain_head(&self) -> Result<Option<BTreeMap<String, String>>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let api: Api<ConfigMap> = Api::namespaced(link.client.clone(), NAMESPACE);
        let name = self.chain_name();
        let found = api.get_opt(&name).await;
        let found = found.map_err(|e| failure(&format!("reading {NAMESPACE}/{name}"), &e))?;
        Ok(found.and_then(|map| map.data))
    }

    /// Writes the chain's head. Does nothing where there is no cluster.
    pub async fn set_chain_head(&self, head: &BTreeMap<String, String>) -> Result<(), Failure> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let api: Api<ConfigMap> = Api::namespaced(link.client.clone(), NAMESPACE);
        let name = self.chain_name();
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": NAMESPACE}, "data": head});
        let params = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&name, &params, &Patch::Apply(&wanted)).await;
        applied.map(drop).map_err(|e| failure(&format!("writing {NAMESPACE}/{name}"), &e))
    }
}
