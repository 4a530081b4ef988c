//! Whether an object is ready, and why not.

use crate::state::Ready;
use serde_json::Value;
use std::collections::BTreeMap;

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == name)
}

/// Returns why an object is not ready yet; `None` if it is.
pub(super) fn unready(object: &Value, ready: Ready) -> Option<String> {
    let number = |key: &str| object["status"][key].as_u64().unwrap_or(0);
    // A status from before the last change does not count.
    let seen = || number("observedGeneration") >= object["metadata"]["generation"].as_u64().unwrap_or(0);
    match (ready, object["kind"].as_str()) {
        (Ready::Accepted, _) => None,
        (Ready::Established, _) => {
            let refused = condition(object, "NamesAccepted").filter(|c| c["status"] == "False");
            match (condition(object, "Established").is_some_and(|c| c["status"] == "True"), refused) {
                (true, _) => None,
                (false, Some(why)) => {
                    Some(format!("names not accepted: {}", why["message"].as_str().unwrap_or_default()))
                }
                (false, None) => Some("not established yet".to_owned()),
            }
        }
        (Ready::Available, Some("DaemonSet")) => {
            let (wanted, have) = (number("desiredNumberScheduled"), number("numberAvailable"));
            let rolled = number("updatedNumberScheduled") >= wanted;
            (!seen() || !rolled || have < wanted).then(|| format!("{have}/{wanted} ready"))
        }
        (Ready::Available, _) => {
            let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
            let have = number("availableReplicas");
            let rolled = number("updatedReplicas") >= wanted;
            (!seen() || !rolled || have < wanted).then(|| format!("{have}/{wanted} ready"))
        }
    }
}

/// Returns the label selector of an object that makes pods, as the API takes it.
pub(super) fn selector(object: &Value) -> Option<String> {
    let labels = object["spec"]["selector"]["matchLabels"].as_object()?;
    let pairs: Vec<String> =
        labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

/// Returns why one pod is not ready; `None` if it is, or is on its way out.
fn pod_reason(pod: &Value) -> Option<String> {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    if condition(pod, "Ready").is_some_and(|c| c["status"] == "True") {
        return None;
    }
    if let Some(refused) = condition(pod, "PodScheduled").filter(|c| c["status"] == "False") {
        let why = refused["message"].as_str().unwrap_or_default();
        return Some(format!("not scheduled: {why}"));
    }
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Some("not scheduled yet".to_owned());
    }
    let lists = ["initContainerStatuses", "containerStatuses"];
    let containers = lists.iter().flat_map(|l| pod["status"][l].as_array().into_iter().flatten());
    for container in containers {
        let waiting = &container["state"]["waiting"];
        if let Some(reason) = waiting["reason"].as_str() {
            let reason = match reason {
                "ContainerCreating" | "PodInitializing" => "pulling image or starting",
                other => other,
            };
            let exit = container["lastState"]["terminated"]["exitCode"].as_i64();
            let detail = waiting["message"].as_str().and_then(|m| m.lines().next());
            return Some(match (exit, detail) {
                (Some(code), _) => format!("{reason}, last exit {code}"),
                (None, Some(detail)) => format!("{reason}: {detail}"),
                (None, None) => reason.to_owned(),
            });
        }
    }
    Some(match pod["status"]["phase"].as_str() {
        Some("Running") => "running, not ready yet".to_owned(),
        Some("Failed") => {
            format!("failed: {}", pod["status"]["reason"].as_str().unwrap_or("no reason given"))
        }
        _ => "starting".to_owned(),
    })
}

/// Returns why pods are not ready, most frequent reason first.
pub(super) fn pods_say(pods: &[Value]) -> Option<String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for reason in pods.iter().filter_map(pod_reason) {
        *reasons.entry(reason).or_default() += 1;
    }
    let mut reasons: Vec<(String, usize)> = reasons.into_iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let said: Vec<String> = reasons
        .into_iter()
        .take(3)
        .map(|(reason, count)| if count > 1 { format!("{count} pods {reason}") } else { reason })
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Returns whether no pod moves any more: some have no node to go to, the others are ready, and none is ending, which
/// would make room.
pub(super) fn stuck(pods: &[Value]) -> bool {
    let homeless = |pod: &Value| {
        condition(pod, "PodScheduled")
            .is_some_and(|c| c["status"] == "False" && c["reason"] == "Unschedulable")
    };
    let ready = |pod: &Value| condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
    let ending = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    pods.iter().any(homeless) && pods.iter().all(|pod| !ending(pod) && (homeless(pod) || ready(pod)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_of_an_older_generation_is_not_ready() {
        let mut deployment = json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 1},
            "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}});
        assert!(unready(&deployment, Ready::Available).is_some());
        deployment["status"]["observedGeneration"] = json!(2);
        assert_eq!(unready(&deployment, Ready::Available), None);
        deployment["status"]["updatedReplicas"] = json!(0);
        let half_rolled = unready(&deployment, Ready::Available);
        assert!(half_rolled.is_some(), "an old pod that still serves is not the new one");
    }

    #[test]
    fn pods_say_what_holds_them_up() {
        let waiting = |reason: &str, message: &str| {
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Pending",
            "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}})
        };
        let unscheduled = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}]}});
        let ready = json!({"spec": {"nodeName": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let crash = json!({"spec": {"nodeName": "n"}, "status": {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff",
            "message": "back-off 10s"}}, "lastState": {"terminated": {"exitCode": 137}}}]}});
        assert_eq!(pods_say(std::slice::from_ref(&ready)), None);
        let mut ending = ready.clone();
        ending["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:00Z");
        assert!(stuck(&[ready.clone(), unscheduled.clone()]));
        assert!(!stuck(std::slice::from_ref(&ready)) && !stuck(&[]));
        assert!(!stuck(&[unscheduled.clone(), ending]), "it makes room");
        assert!(!stuck(&[unscheduled.clone(), crash.clone()]), "it may come up");
        let pull = waiting("ImagePullBackOff", "Back-off pulling image \"x\"\nmore");
        assert_eq!(
            pods_say(&[ready, pull.clone(), pull, unscheduled, crash]).as_deref(),
            Some(
                "2 pods ImagePullBackOff: Back-off pulling image \"x\"; CrashLoopBackOff, last exit 137; \
                 not scheduled: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
            )
        );
    }
}
