//! Before an upgrade to another minor of Kubernetes: what it would break is told by its plan, which are APIs in use that are gone
//! then, and feature gates that it may not know; and nobody gets too far ahead of the others.

use super::observe::Observation;
use super::open::Fleet;
use crate::catalog::K0sStep;
use crate::k0s;
use crate::reconciler::Ahead;
use crate::report::names;
use crate::state::{Failure, FailureKind, HostName, TargetId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

impl Fleet {
    /// Adds warnings to the cluster where a controller runs an earlier minor than the wanted one.
    pub(super) async fn look_ahead(&self, observation: &mut Observation) {
        let Some(wanted) = K0sStep::minor(&self.inventory.cluster.k0s_version) else { return };
        let runs = |id: &TargetId| {
            let host = self.inventory.hosts.get(id.host()?)?;
            let controls = self.inventory.pool_of(host).role.is_controller();
            let (_, seen) = observation.targets.iter().find(|(seen, _)| seen == id)?;
            K0sStep::minor(seen.as_ref().ok().filter(|_| controls)?.facts.k0s_version.as_ref()?)
        };
        let Some(oldest) = observation.targets.iter().filter_map(|(id, _)| runs(id)).min() else { return };
        let Some(cluster) = self.cluster.as_ref().filter(|_| oldest < wanted) else { return };
        let told = match cluster.ahead().await {
            Ok(None) => return,
            Ok(Some(ahead)) => warnings(&ahead, &gates(&self.inventory.cluster.k0s_config), wanted),
            Err(failure) => {
                vec![format!("[W-API-REMOVED] APIs in use could not be looked for: {}", failure.message)]
            }
        };
        let cluster = observation.targets.iter_mut().find(|(id, _)| *id == TargetId::Cluster);
        if let Some((_, Ok(cluster))) = cluster {
            cluster.warnings.extend(told);
        }
    }
}

/// What a member of the cluster runs.
struct Runs {
    host: HostName,
    /// As k0s or the kubelet says it; `None` where it does not answer.
    version: Option<String>,
}

impl Runs {
    fn minor(&self) -> Option<(u32, u32)> {
        let mut numbers = self.version.as_ref()?.trim_start_matches('v').split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// Returns hosts by what they run: `h-[001-064] (v1.34.10+k0s), w-1 (no answer)`.
fn list(all: &[&Runs]) -> String {
    let mut by_version: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for runs in all {
        by_version
            .entry(runs.version.as_deref().unwrap_or("no answer"))
            .or_default()
            .insert(runs.host.as_str());
    }
    let said = by_version.into_iter().map(|(version, hosts)| {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        format!("{} ({version})", names(&hosts))
    });
    said.collect::<Vec<_>>().join(", ")
}

impl Fleet {
    /// Refuses upgrades that would put members of the cluster too far apart (Kubernetes' version skew policy): no kubelet is of a newer
    /// minor than any API server, and nobody goes on to a minor while somebody is two behind it. The planner sees to the order of those
    /// that take part; the others are asked what they run.
    pub(super) async fn keep_minors_together(&self, observation: &mut Observation) {
        let Some(wanted) = K0sStep::minor(&self.inventory.cluster.k0s_version) else { return };
        let controls = |host: &HostName| {
            let host = self.inventory.hosts.get(host);
            host.is_some_and(|host| self.inventory.pool_of(host).role.is_controller())
        };
        let taking_part: Vec<Runs> = observation
            .targets
            .iter()
            .filter_map(|(id, seen)| {
                // Of one that is refused already it is not known here what it runs: it is asked, as those that take no part.
                let version = seen.as_ref().ok()?.facts.k0s_version.clone();
                Some(Runs { host: id.host()?.clone(), version })
            })
            .collect();
        let rises = |runs: &Runs| runs.minor().is_some_and(|has| has < wanted);
        let joins = |runs: &Runs| !controls(&runs.host) && runs.minor() != Some(wanted);
        if !taking_part.iter().any(|runs| rises(runs) || joins(runs)) {
            return;
        }
        let known: BTreeSet<&HostName> = taking_part.iter().map(|runs| &runs.host).collect();
        let others: BTreeSet<HostName> =
            self.inventory.controllers().map(|h| h.name.clone()).filter(|h| !known.contains(h)).collect();
        let answers =
            if others.is_empty() { Vec::new() } else { self.access.run_on_controllers(k0s::STATUS).await };
        let mut controllers: Vec<Runs> = Vec::new();
        for answer in answers.into_iter().filter(|answer| others.contains(&answer.host)) {
            let version = answer.output.as_ref().ok().and_then(|status| k0s::running_version(status));
            // Where no k0s runs, no API server does.
            if version.is_some() || answer.output.is_err() {
                controllers.push(Runs { host: answer.host, version });
            }
        }
        let survey = match (&self.cluster, taking_part.iter().any(rises)) {
            (Some(cluster), true) => cluster.survey(&BTreeSet::new()).await.ok().flatten(),
            _ => None,
        };
        // A node that is away for long is reset when it returns, and holds up nobody.
        let there = survey.into_iter().flat_map(|survey| survey.nodes).filter(|(_, node)| node.ready);
        let nodes = there.map(|(name, node)| Runs {
            host: HostName::new(name),
            version: Some(node.version).filter(|version| !version.is_empty()),
        });
        let nodes: Vec<Runs> = nodes.filter(|runs| !known.contains(&runs.host)).collect();

        let behind = |runs: &&Runs| runs.minor().is_some_and(|(major, minor)| (major, minor + 1) < wanted);
        let late: Vec<&Runs> = controllers.iter().chain(&nodes).chain(&taking_part).filter(behind).collect();
        let is_running = taking_part.iter().any(|runs| joins(runs) && runs.version.is_some());
        // One that is new joins only with a token, which is made where a controller answers.
        let first = |runs: &&Runs| runs.minor().map_or(is_running, |has| has < wanted);
        let first: Vec<&Runs> = controllers.iter().filter(first).collect();
        let refused = |message: String, hint: &str| {
            Failure::new(FailureKind::Preflight, "E-K0S-SKEW", message).hint(hint)
        };
        let (held, failure): (Vec<&HostName>, Failure) = if !late.is_empty() {
            let message =
                format!("members must not be two minor versions apart; upgrade these first: {}", list(&late));
            let hint = format!(
                "Set cluster.k0s.version to a {}.{} release and apply it, then continue",
                wanted.0,
                wanted.1.saturating_sub(1)
            );
            (taking_part.iter().filter(|r| rises(r)).map(|r| &r.host).collect(), refused(message, &hint))
        } else if !first.is_empty() {
            let message = format!(
                "a worker must not run a newer minor version of k0s than a controller; upgrade these first: {}",
                list(&first)
            );
            let hint = "Include the controllers in --limit, or repair and upgrade them first";
            (taking_part.iter().filter(|r| joins(r)).map(|r| &r.host).collect(), refused(message, hint))
        } else {
            return;
        };
        for (id, result) in &mut observation.targets {
            if result.is_ok() && id.host().is_some_and(|host| held.contains(&host)) {
                *result = Err(failure.clone());
            }
        }
    }
}

/// Returns what to warn of before an upgrade to a minor.
fn warnings(ahead: &Ahead, gates: &BTreeSet<String>, wanted: (u32, u32)) -> Vec<String> {
    let kubernetes = format!("Kubernetes {}.{}", wanted.0, wanted.1);
    let gone = ahead.apis.iter().filter(|api| api.removed.is_some_and(|removed| removed <= wanted));
    let gone = gone.map(|api| {
        let (version, resource) = (&api.version, &api.resource);
        format!("[W-API-REMOVED] clients use {resource} of {version}, which {kubernetes} does not have")
    });
    let settled = ahead.settled_gates.intersection(gates).map(|gate| {
        format!(
            "[W-FEATURE-GATE] feature gate {gate} in cluster.k0s.config can no longer be switched: {kubernetes} may not know it, \
             and a component does not start with a gate that it does not know"
        )
    });
    gone.chain(settled).collect()
}

/// Returns the feature gates of a k0s configuration, wherever k0s and Kubernetes take them: `featureGates` as a list with names or
/// as a map, `feature-gates` as the text of a flag.
fn gates(config: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![config];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(map) => open.extend(map.values()),
            _ => {}
        }
        match value.get("featureGates") {
            Some(Value::Array(list)) => {
                found.extend(list.iter().filter_map(|gate| gate["name"].as_str().map(str::to_owned)));
            }
            Some(Value::Object(map)) => found.extend(map.keys().cloned()),
            _ => {}
        }
        let flag = value.get("feature-gates").and_then(Value::as_str).unwrap_or_default();
        let names = flag.split(',').filter_map(|gate| gate.split_once('=')).map(|(name, _)| name.trim());
        found.extend(names.map(str::to_owned));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconciler::DeprecatedApi;

    #[test]
    fn only_what_the_wanted_minor_takes_away_is_told() {
        let config = serde_json::json!({"spec": {
            "featureGates": [{"name": "ListGate", "enabled": true}],
            "api": {"extraArgs": {"feature-gates": "FlagGate=true, OtherGate=false"}},
            "workerProfiles": [{"name": "a", "values": {"featureGates": {"MapGate": true, "BetaGate": true}}}],
        }});
        let all = ["BetaGate", "FlagGate", "ListGate", "MapGate", "OtherGate"];
        assert_eq!(gates(&config), BTreeSet::from(all.map(str::to_owned)));
        let api = |resource: &str, removed| DeprecatedApi {
            version: "example.com/v1beta1".to_owned(),
            resource: resource.to_owned(),
            removed,
        };
        let ahead = Ahead {
            apis: [api("gone", Some((1, 36))), api("later", Some((1, 37))), api("undecided", None)].into(),
            settled_gates: ["ListGate", "FlagGate", "Unused"].map(str::to_owned).into(),
        };
        let told = warnings(&ahead, &gates(&config), (1, 36));
        let expected = [
            "[W-API-REMOVED] clients use gone of example.com/v1beta1, which Kubernetes 1.36",
            "[W-FEATURE-GATE] feature gate FlagGate",
            "[W-FEATURE-GATE] feature gate ListGate",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}");
        }
    }
}
