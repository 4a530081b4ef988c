//! What an upgrade of Kubernetes takes away that is in use: APIs that clients ask for, and feature gates. The API server counts
//! both itself, in its metrics; nothing is searched for.

use super::ClusterTarget;
use super::errors::failure;
use crate::state::Failure;
use std::collections::{BTreeMap, BTreeSet};

/// The most that is kept of APIs, and of gates.
const MOST: usize = 1000;
/// Lines of metrics that are read are shorter than this, in bytes.
const MOST_LINE: usize = 1 << 10;

/// An API that a client has asked for since the API server started, and that a later Kubernetes will not have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DeprecatedApi {
    /// Its group and version: `flowcontrol.apiserver.k8s.io/v1beta3`.
    pub version: String,
    /// The resource: `flowschemas`.
    pub resource: String,
    /// The first minor without it, where that is decided.
    pub removed: Option<(u32, u32)>,
}

/// What the metrics of one API server tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ahead {
    /// Deprecated APIs in use.
    pub apis: BTreeSet<DeprecatedApi>,
    /// Feature gates that are stable or given up: a later Kubernetes does not know them, and a component that is started with a
    /// gate that it does not know ends.
    pub settled_gates: BTreeSet<String>,
}

/// Returns the labels of a line of the metric `name` and its value. Neither metric that is read has a quote or a comma in a
/// label's value (Prometheus' text format).
fn sample<'a>(line: &'a str, name: &str) -> Option<(BTreeMap<&'a str, &'a str>, &'a str)> {
    let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
    let label = |label: &'a str| label.split_once('=').map(|(key, value)| (key, value.trim_matches('"')));
    Some((labels.split(',').filter_map(label).collect(), value.trim()))
}

fn minor(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Ahead {
    /// Reads the metrics of an API server: `apiserver_requested_deprecated_apis` has a line for each API, whose
    /// `removed_release` is empty where that is not decided; `kubernetes_feature_enabled` has one for each gate, on or off, whose
    /// `stage` is empty where it is stable (k8s.io/apiserver pkg/endpoints/metrics, k8s.io/component-base
    /// metrics/prometheus/feature).
    pub fn of(metrics: &str) -> Self {
        let mut ahead = Self::default();
        for line in metrics.lines().filter(|line| line.len() < MOST_LINE) {
            if let Some((labels, value)) = sample(line, "apiserver_requested_deprecated_apis") {
                let label = |key: &str| labels.get(key).copied().unwrap_or_default();
                let version = match label("group") {
                    "" => label("version").to_owned(),
                    group => format!("{group}/{}", label("version")),
                };
                let (resource, removed) = (label("resource").to_owned(), minor(label("removed_release")));
                if value != "0" && ahead.apis.len() < MOST {
                    ahead.apis.insert(DeprecatedApi { version, resource, removed });
                }
            }
            if let Some((labels, _)) = sample(line, "kubernetes_feature_enabled")
                && let (Some(name), Some(&("" | "DEPRECATED"))) = (labels.get("name"), labels.get("stage"))
                && ahead.settled_gates.len() < MOST
            {
                ahead.settled_gates.insert((*name).to_owned());
            }
        }
        ahead
    }
}

impl ClusterTarget {
    /// Asks one API server what a later Kubernetes takes away; `None` where there is no cluster yet.
    pub async fn ahead(&self) -> Result<Option<Ahead>, Failure> {
        let Some(link) = self.link().await? else { return Ok(None) };
        let request = http::Request::get("/metrics").body(Vec::new());
        let request = request.map_err(|e| failure("cannot ask for metrics", &kube::Error::HttpError(e)))?;
        let metrics = link.client.request_text(request).await;
        metrics
            .map(|text| Some(Ahead::of(&text)))
            .map_err(|e| failure("cannot read the metrics of the API", &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_tell_what_an_upgrade_takes_away() {
        let ahead = Ahead::of(
            "# HELP apiserver_requested_deprecated_apis [STABLE] Gauge of deprecated APIs that have been requested\n\
             apiserver_requested_deprecated_apis{group=\"flowcontrol.apiserver.k8s.io\",removed_release=\"1.32\",\
             resource=\"flowschemas\",subresource=\"\",version=\"v1beta3\"} 1\n\
             apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1\n\
             apiserver_requested_deprecated_apis{group=\"a\",removed_release=\"1.99\",resource=\"b\",version=\"v1\"} 0\n\
             apiserver_requested_deprecated_apis{\n\
             apiserver_request_total{group=\"apps\",version=\"v1\"} 12\n\
             kubernetes_feature_enabled{name=\"SidecarContainers\",stage=\"\"} 1\n\
             kubernetes_feature_enabled{name=\"KMSv1\",stage=\"DEPRECATED\"} 0\n\
             kubernetes_feature_enabled{name=\"APIServerIdentity\",stage=\"BETA\"} 1\n\
             kubernetes_feature_enabled{name=\"NoStage\"} 1\n",
        );
        let api = |version: &str, resource: &str, removed| DeprecatedApi {
            version: version.to_owned(),
            resource: resource.to_owned(),
            removed,
        };
        let flowschemas = api("flowcontrol.apiserver.k8s.io/v1beta3", "flowschemas", Some((1, 32)));
        assert_eq!(ahead.apis, BTreeSet::from([flowschemas, api("v1", "endpoints", None)]));
        assert_eq!(ahead.settled_gates, BTreeSet::from(["KMSv1", "SidecarContainers"].map(str::to_owned)));
    }
}
