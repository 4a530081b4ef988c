//! Before an upgrade to another minor of Kubernetes: what it would break is told by its plan, which are APIs in use that are gone
//! then, and feature gates that it may not know; and workers wait for controllers that do not take part.

use super::observe::Observation;
use super::open::Fleet;
use crate::catalog::K0sStep;
use crate::k0s;
use crate::reconciler::Ahead;
use crate::state::{Failure, FailureKind, HostName, TargetId};
use serde_json::Value;
use std::collections::BTreeSet;

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

impl Fleet {
    /// A kubelet must not be of a newer minor than any API server. The planner sees to the controllers that take part; the others are
    /// asked what they run, and while one runs an earlier minor or does not tell, no worker changes its own.
    pub(super) async fn hold_back_workers(&self, observation: &mut Observation) {
        let Some(wanted) = K0sStep::minor(&self.inventory.cluster.k0s_version) else { return };
        let takes_part = |host: &HostName| observation.targets.iter().any(|(id, _)| id.host() == Some(host));
        let others = self.inventory.controllers().map(|host| &host.name).filter(|host| !takes_part(host));
        let others: BTreeSet<HostName> = others.cloned().collect();
        let changes = |id: &TargetId, observed: &crate::state::Observed| {
            let host = id.host().and_then(|host| self.inventory.hosts.get(host));
            let works = host.is_some_and(|host| !self.inventory.pool_of(host).role.is_controller());
            let has = observed.facts.k0s_version.as_deref().and_then(K0sStep::minor);
            works && has != Some(wanted)
        };
        let mut held: Vec<_> = observation
            .targets
            .iter_mut()
            .filter(|(id, result)| result.as_ref().is_ok_and(|observed| changes(id, observed)))
            .collect();
        if held.is_empty() || others.is_empty() {
            return;
        }
        let is_running =
            held.iter().any(|(_, r)| r.as_ref().is_ok_and(|seen| seen.facts.k0s_version.is_some()));
        let answers = self.access.run_on_controllers(k0s::STATUS).await;
        let mut first: Vec<String> = Vec::new();
        for answer in answers.iter().filter(|answer| others.contains(&answer.host)) {
            let runs = answer.output.as_ref().map(|status| k0s::running_version(status));
            match runs {
                Ok(Some(version)) if K0sStep::minor(&version).is_some_and(|has| has >= wanted) => {}
                Ok(Some(version)) => first.push(format!("{} ({version})", answer.host)),
                // Where no k0s runs, no API server does.
                Ok(None) => {}
                // One that is new joins only with a token, which is made where a controller answers.
                Err(_) if !is_running => {}
                Err(_) => first.push(format!("{} (no answer)", answer.host)),
            }
        }
        if first.is_empty() {
            return;
        }
        let message = format!(
            "a worker's k0s must not be of a newer minor than a controller's, and controllers outside of --limit come first: {}",
            first.join(", ")
        );
        let hint = "Include the controllers in --limit, or upgrade them first";
        let failure = Failure::new(FailureKind::Preflight, "E-K0S-SKEW", message).hint(hint);
        for (_, result) in &mut held {
            *result = Err(failure.clone());
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
