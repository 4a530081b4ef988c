//! Whether an object is ready, and why not.

use crate::state::Ready;
use serde_json::Value;

pub(super) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
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
    fn pods_without_room_are_stuck_only_if_nothing_moves() {
        let unscheduled = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}]}});
        let ready = json!({"spec": {"nodeName": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let crash = json!({"spec": {"nodeName": "n"}, "status": {"containerStatuses": [{"state": {"waiting":
            {"reason": "CrashLoopBackOff"}}}]}});
        let mut ending = ready.clone();
        ending["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:00Z");
        assert!(stuck(&[ready.clone(), unscheduled.clone()]));
        assert!(!stuck(std::slice::from_ref(&ready)) && !stuck(&[]));
        assert!(!stuck(&[unscheduled.clone(), ending]), "it makes room");
        assert!(!stuck(&[unscheduled, crash]), "it may come up");
    }
}
