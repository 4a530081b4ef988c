//! Why pods do not serve: what their status says, and where that is not enough their events and the last lines of a
//! container that ended.

use super::ready::condition;
use crate::redact::redacted;
use crate::state::{Failure, FailureKind, plain_line};
use futures::AsyncReadExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, LogParams};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Different causes that are kept of one workload, most frequent first.
const MOST_CAUSES: usize = 3;
/// Lines kept of a container that ended.
const LAST_LINES: i64 = 8;
/// Bytes read of its log, at most, whatever the answer is.
const MOST_LOG: i64 = 64 << 10;
/// Characters kept of a line or a message.
const MOST_CHARS: usize = 400;
/// Characters of a line that are looked at: a secret is known by what is around it.
const MOST_READ: usize = 4000;
/// Events read of a pod, at most.
const MOST_EVENTS: u32 = 50;
/// How long events and logs of a pod may take: a kubelet that does not answer holds up its logs only.
const DEADLINE: Duration = Duration::from_secs(5);

/// What kind of cause keeps a pod from serving.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum CauseKind {
    /// No node takes it.
    Unscheduled,
    /// Its image cannot be pulled.
    Image,
    /// Its container cannot be made: a volume, a Secret, a network, a runtime class.
    Container,
    /// Its container ended.
    Crash,
    /// It runs, and a probe fails.
    Probe,
    /// Its node evicted it, or it failed as a whole.
    Evicted,
    /// Its node does not answer.
    Node,
    /// It is refused before it exists: a quota, a webhook.
    Refused,
    /// The workload asks for other pods than the inventory does: somebody scaled it, or changed its node selector.
    Scaled,
    /// Nothing is wrong yet.
    Starting,
}

/// Why pods of a workload do not serve.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Cause {
    /// The kind.
    pub kind: CauseKind,
    /// In a sentence.
    pub detail: String,
    /// The pods, by name.
    pub pods: Vec<String>,
    /// The node of the first of them, if it has one.
    pub node: Option<String>,
    /// The last lines of its container, if that ended.
    pub lines: Vec<String>,
}

impl Cause {
    /// Returns a cause that is the workload's own, not that of one of its pods.
    pub fn of_workload(kind: CauseKind, detail: String) -> Self {
        Self { kind, detail, pods: Vec::new(), node: None, lines: Vec::new() }
    }
}

/// What the status of one pod says.
struct Said {
    kind: CauseKind,
    detail: String,
    /// The container that it is about.
    container: Option<String>,
}

impl Said {
    fn new(kind: CauseKind, detail: impl Into<String>) -> Option<Self> {
        Some(Self { kind, detail: detail.into(), container: None })
    }
}

/// Returns a line that others wrote: short, without what steers a terminal, and without what looks like a secret.
fn bounded(text: &str) -> String {
    let text: String = text.chars().take(MOST_READ).collect();
    shown(&redacted(&text, &[]))
}

/// Returns a line that has no secrets as it is shown.
fn shown(text: &str) -> String {
    plain_line(text).chars().take(MOST_CHARS).collect()
}

/// Returns how a container ended: `exit code 1`, `out of memory`.
fn ending(terminated: &Value) -> Option<String> {
    if terminated["reason"] == "OOMKilled" {
        return Some("out of memory (OOMKilled)".to_owned());
    }
    match (terminated["exitCode"].as_i64(), terminated["signal"].as_i64()) {
        (_, Some(signal)) if signal > 0 => Some(format!("signal {signal}")),
        (Some(code), _) => Some(format!("exit code {code}")),
        _ => None,
    }
}

/// Returns the statuses of a pod's containers, those that start it first.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

/// Returns what a container that does not run says.
fn container_says(status: &Value) -> Option<Said> {
    let waiting = &status["state"]["waiting"];
    let ended = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
    let ended = ended.into_iter().find(|t| t["exitCode"].as_i64().is_some_and(|code| code != 0));
    let message = waiting["message"].as_str().and_then(|m| m.lines().next());
    let with = |reason: &str| message.map_or_else(|| reason.to_owned(), |m| format!("{reason}: {m}"));
    let reason = waiting["reason"].as_str();
    let (kind, detail) = match (reason, ended) {
        (
            Some(
                reason @ ("ErrImagePull"
                | "ImagePullBackOff"
                | "InvalidImageName"
                | "ErrImageNeverPull"
                | "ImageInspectError"
                | "RegistryUnavailable"),
            ),
            _,
        ) => (CauseKind::Image, with(reason)),
        // A crash is what there is to tell, however the next start goes.
        (_, Some(ended)) => {
            let restarts = match status["restartCount"].as_u64() {
                Some(n) if n > 1 => format!(", {n} restarts"),
                _ => String::new(),
            };
            (CauseKind::Crash, format!("container ended: {}{restarts}", ending(ended).unwrap_or_default()))
        }
        (Some("ContainerCreating" | "PodInitializing"), None) => {
            (CauseKind::Starting, "pulling image or starting".to_owned())
        }
        (Some(reason), None) => (CauseKind::Container, with(reason)),
        (None, None) => return None,
    };
    Some(Said { kind, detail, container: status["name"].as_str().map(str::to_owned) })
}

/// Returns why one pod does not serve; `None` if it does, or is on its way out.
fn pod_says(pod: &Value) -> Option<Said> {
    let failed = pod["status"]["phase"] == "Failed";
    if failed {
        let why = pod["status"]["message"].as_str().filter(|m| !m.is_empty());
        let reason = pod["status"]["reason"].as_str().unwrap_or("Failed");
        return Said::new(
            CauseKind::Evicted,
            why.map_or_else(|| reason.to_owned(), |w| format!("{reason}: {w}")),
        );
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let ready = condition(pod, "Ready");
    if ready.is_some_and(|c| c["status"] == "True") {
        return None;
    }
    if let Some(refused) = condition(pod, "PodScheduled").filter(|c| c["status"] == "False") {
        let why = refused["message"].as_str().unwrap_or_default();
        return Said::new(CauseKind::Unscheduled, format!("not scheduled: {why}"));
    }
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Said::new(CauseKind::Unscheduled, "not scheduled yet");
    }
    if let Some(said) = containers(pod).filter(|c| c["ready"] != true).find_map(container_says) {
        return Some(said);
    }
    match pod["status"]["phase"].as_str() {
        Some("Running") => Said::new(CauseKind::Starting, "running, not ready yet"),
        _ => Said::new(CauseKind::Starting, "starting"),
    }
}

/// A cause, the first pod that has it, and the container that it is about.
type Found<'a> = (Cause, &'a Value, Option<String>);

/// Returns why pods do not serve, most frequent cause first; pods with the same cause are grouped.
pub(super) fn causes(pods: &[Value]) -> Vec<Cause> {
    grouped(pods, |_| false).into_iter().map(|(cause, ..)| cause).collect()
}

fn grouped(pods: &[Value], node_is_lost: impl Fn(&str) -> bool) -> Vec<Found<'_>> {
    let mut all: BTreeMap<(CauseKind, String), Found<'_>> = BTreeMap::new();
    for pod in pods {
        let Some(mut said) = pod_says(pod) else { continue };
        let node = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
        if said.kind != CauseKind::Evicted && node.as_deref().is_some_and(&node_is_lost) {
            let detail = "its node is not ready".to_owned();
            said = Said { kind: CauseKind::Node, detail, container: None };
        }
        let (kind, detail) = (said.kind, said.detail);
        let (cause, ..) = all.entry((kind, detail)).or_insert_with_key(|(kind, detail)| {
            let mut cause = Cause::of_workload(*kind, detail.clone());
            cause.node = node;
            (cause, pod, said.container)
        });
        cause.pods.push(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    }
    let mut all: Vec<Found<'_>> = all.into_values().collect();
    // An evicted pod that was replaced says less than its replacement.
    all.sort_by_key(|(cause, ..)| {
        (cause.kind == CauseKind::Evicted, std::cmp::Reverse(cause.pods.len()), cause.kind)
    });
    // The search for secrets is slow: only in what is shown.
    all.truncate(MOST_CAUSES);
    for (cause, ..) in &mut all {
        cause.detail = bounded(&cause.detail);
    }
    all
}

/// Returns causes in one line.
pub(super) fn sentence(causes: &[Cause]) -> Option<String> {
    let said: Vec<String> =
        causes
            .iter()
            .map(|c| {
                if c.pods.len() > 1 {
                    format!("{} pods {}", c.pods.len(), c.detail)
                } else {
                    c.detail.clone()
                }
            })
            .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Returns the newest warning of a pod that has a node, as kind and sentence; of one kind only, if that is known already.
fn warning(events: &[Event], known: Option<CauseKind>) -> Option<(CauseKind, String)> {
    let seen = |e: &Event| {
        let series = e.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
        let last = e.last_timestamp.as_ref().map(|t| t.0);
        series.max(last).max(e.event_time.as_ref().map(|t| t.0))
    };
    let read = |event: &Event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        let message = event.message.as_deref().unwrap_or_default().trim();
        let kind = match reason {
            // From before it had one; and what another event gives the reason of.
            "FailedScheduling" | "BackOff" => return None,
            "Unhealthy" | "ProbeWarning" => CauseKind::Probe,
            "Failed" if message.contains("image") => CauseKind::Image,
            _ => CauseKind::Container,
        };
        let detail =
            if kind == CauseKind::Probe { message.to_owned() } else { format!("{reason}: {message}") };
        known.is_none_or(|known| known == kind).then(|| (seen(event), kind, bounded(&detail)))
    };
    let warnings = events.iter().filter(|e| e.type_.as_deref() == Some("Warning")).filter_map(read);
    warnings.max_by_key(|(seen, ..)| *seen).map(|(_, kind, detail)| (kind, detail))
}

/// Asks for the events of a pod that says nothing more than that it starts, and for the last lines of one that ended.
async fn explain(client: &kube::Client, cause: &mut Cause, pod: &Value, container: Option<String>) {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name, uid) = (text("/metadata/namespace"), text("/metadata/name"), text("/metadata/uid"));
    if matches!(cause.kind, CauseKind::Starting | CauseKind::Image) {
        let events: Api<Event> = Api::namespaced(client.clone(), namespace);
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(MOST_EVENTS);
        let known = (cause.kind == CauseKind::Image).then_some(CauseKind::Image);
        // Without its events a pod is described by its status.
        if let Ok(events) = events.list(&params).await
            && let Some((kind, detail)) = warning(&events.items, known)
        {
            (cause.kind, cause.detail) = (kind, detail);
        }
    }
    if cause.kind == CauseKind::Crash {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let status = containers(pod).find(|s| s["name"].as_str() == container.as_deref());
        let previous = status.is_some_and(|s| s["state"]["terminated"].is_null());
        let params = LogParams {
            container,
            previous,
            tail_lines: Some(LAST_LINES),
            limit_bytes: Some(MOST_LOG),
            ..LogParams::default()
        };
        if let Ok(log) = pods.log_stream(name, &params).await {
            let mut bytes = Vec::new();
            // What came before the connection was lost is better than nothing.
            let _ = log.take(MOST_LOG as u64).read_to_end(&mut bytes).await;
            // As a whole: a key has several lines.
            let text = redacted(&String::from_utf8_lossy(&bytes), &[]);
            let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
            let begin = lines.len().saturating_sub(LAST_LINES as usize);
            cause.lines = lines[begin..].iter().map(|l| shown(l)).collect();
        }
    }
}

/// Returns why pods do not serve, with what their events and the logs of what ended add.
pub(super) async fn explained(
    client: &kube::Client,
    pods: &[Value],
    node_is_lost: impl Fn(&str) -> bool,
) -> Vec<Cause> {
    join_all(grouped(pods, node_is_lost).into_iter().map(|(mut cause, pod, container)| async move {
        let _ = tokio::time::timeout(DEADLINE, explain(client, &mut cause, pod, container)).await;
        cause
    }))
    .await
}

/// Why waiting for pods is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hopeless {
    /// Some have no node to go to, and none makes room.
    Unscheduled,
    /// One has crashed [`MOST_CRASHES`] times, the last time while this waited, and waits for its next start.
    Crashes,
    /// The registry says that there is no such image, or that it is not for us.
    Image,
}

/// A container that has crashed this often, and again while somebody waited, will again: the pauses between its starts have
/// added up to five minutes.
const MOST_CRASHES: u64 = 5;

/// What has been seen of pods while they were awaited.
#[derive(Default)]
pub(super) struct Watched {
    /// Restarts of containers when they were first seen, by pod and container.
    first: BTreeMap<(String, String), u64>,
}

impl Watched {
    /// Returns the pods that make waiting useless, each with why; whether they are of the newest template remains to be seen.
    pub(super) fn hopeless<'a>(&mut self, pods: &'a [Value]) -> Vec<(Hopeless, &'a Value)> {
        let mut found = Vec::new();
        for pod in pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            for container in containers(pod) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let waiting = &container["state"]["waiting"];
                let (reason, message) = (text(&waiting["reason"]), text(&waiting["message"]));
                let restarts = container["restartCount"].as_u64().unwrap_or(0);
                let id = (text(&pod["metadata"]["uid"]), text(&container["name"]));
                let first = *self.first.entry(id).or_insert(restarts);
                match reason.as_str() {
                    "CrashLoopBackOff" if restarts >= MOST_CRASHES && restarts > first => {
                        found.push((Hopeless::Crashes, pod));
                    }
                    "InvalidImageName" => found.push((Hopeless::Image, pod)),
                    "ErrImagePull" | "ImagePullBackOff" if is_final(&message.to_ascii_lowercase()) => {
                        found.push((Hopeless::Image, pod));
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

/// Returns whether a registry has answered for good, in the words that come through containerd; one that does not answer
/// may come back.
fn is_final(message: &str) -> bool {
    ["not found", "manifest unknown", "unauthorized", "denied", "authorization failed"]
        .iter()
        .any(|words| message.contains(words))
}

/// Returns whether a pod is of its Deployment's newest template, given the ReplicaSets; those of an older one are about to
/// be replaced. `false` if that is not known yet.
pub(super) fn is_newest(pod: &Value, deployment: &Value, replica_sets: &[Value]) -> bool {
    const REVISION: &str = "deployment.kubernetes.io/revision";
    let observed = deployment["status"]["observedGeneration"].as_u64();
    let revision = &deployment["metadata"]["annotations"][REVISION];
    let newest = replica_sets.iter().find(|set| {
        let owners = set["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        set["metadata"]["annotations"][REVISION] == *revision
            && owners.map(|o| &o["uid"]).any(|uid| *uid == deployment["metadata"]["uid"])
    });
    let hash = |object: &Value| object["metadata"]["labels"]["pod-template-hash"].as_str().map(str::to_owned);
    revision.is_string()
        && observed >= deployment["metadata"]["generation"].as_u64()
        && newest.and_then(hash).is_some_and(|newest| hash(pod) == Some(newest))
}

impl Hopeless {
    /// Returns the failure of a step that waited this long, and for this reason.
    pub(super) fn failure(self, what: &str, patience: Duration, why: &str) -> Failure {
        let seconds = patience.as_secs();
        let (code, message, hint) = match self {
            Self::Unscheduled => (
                "E-UNSCHEDULABLE",
                format!("{what}: unschedulable for {seconds} s: {why}"),
                "Check the nodes with `provision status`; add the missing hosts or reduce the replicas",
            ),
            Self::Crashes => (
                "E-CRASHES",
                format!("{what}: its container keeps crashing: {why}"),
                "Fix what its last lines report, then apply again; `provision status` shows them too",
            ),
            Self::Image => (
                "E-IMAGE",
                format!("{what}: its image cannot be pulled: {why}"),
                "Check the image, the registry's mirror and its credentials; `provision status` shows what the registry says",
            ),
        };
        Failure::new(FailureKind::Step, code, message).hint(hint)
    }
}

/// Returns why a workload has fewer pods than it should: a quota, a webhook, the policy of its namespace.
pub(super) fn refused(workload: &Value) -> Option<Cause> {
    let failure = condition(workload, "ReplicaFailure").filter(|c| c["status"] == "True")?;
    let why = failure["message"].as_str().or(failure["reason"].as_str()).unwrap_or_default();
    let detail = bounded(&format!("pods are refused: {why}"));
    Some(Cause::of_workload(CauseKind::Refused, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending",
            "containerStatuses": [{"name": "engine", "state": {"waiting": {"reason": reason, "message": message}}}]}})
    }

    fn crashed(restarts: u64, now: Value) -> Value {
        json!({"metadata": {"name": "c", "namespace": "models", "uid": "u-1"}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "containerStatuses": [{"name": "engine", "restartCount": restarts, "state": now,
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}})
    }

    fn back_off() -> Value {
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}})
    }

    fn unscheduled() -> Value {
        json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}]}})
    }

    #[test]
    fn pods_say_what_holds_them_up() {
        let ready = json!({"spec": {"nodeName": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(sentence(&causes(std::slice::from_ref(&ready))), None);
        let pull = waiting("ImagePullBackOff", "Back-off pulling image \"x\"\nmore");
        // As a kubelet writes it: the pod stays behind, and another takes its place.
        let evicted = json!({"metadata": {"name": "e", "deletionTimestamp": null}, "status": {"phase": "Failed", "reason": "Evicted",
            "message": "The node was low on resource: memory."}});
        let alone = causes(std::slice::from_ref(&evicted));
        assert_eq!(
            (alone[0].kind, alone[0].detail.as_str()),
            (CauseKind::Evicted, "Evicted: The node was low on resource: memory.")
        );
        let all = causes(&[evicted, ready, pull.clone(), unscheduled(), pull, crashed(3, back_off())]);
        let said: Vec<_> = all.iter().map(|c| (c.kind, c.pods.len(), c.detail.as_str())).collect();
        assert_eq!(
            said,
            [
                (CauseKind::Image, 2, "ImagePullBackOff: Back-off pulling image \"x\""),
                (
                    CauseKind::Unscheduled,
                    1,
                    "not scheduled: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
                ),
                (CauseKind::Crash, 1, "container ended: out of memory (OOMKilled), 3 restarts"),
            ]
        );
        assert_eq!(
            sentence(&all).as_deref(),
            Some(
                "2 pods ImagePullBackOff: Back-off pulling image \"x\"; not scheduled: 0/4 nodes are available: 4 Insufficient \
                  nvidia.com/gpu.; container ended: out of memory (OOMKilled), 3 restarts"
            )
        );
        // Dead nodes, however many, are one cause.
        let on = |node: String| {
            let mut pod = crashed(1, back_off());
            pod["spec"]["nodeName"] = node.into();
            pod
        };
        let pods: Vec<Value> = (0..10).map(|n| on(format!("h-{n}"))).collect();
        let lost = grouped(&pods, |node| node != "h-0");
        let said: Vec<_> = lost.iter().map(|(c, ..)| (c.kind, c.pods.len(), c.detail.as_str())).collect();
        assert_eq!(said[0], (CauseKind::Node, 9, "its node is not ready"));
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn waiting_is_given_up_only_where_it_is_of_no_use() {
        let running = || json!({"running": {"startedAt": "2026-11-30T10:00:00Z"}});
        let looks = |pods: &[Value]| {
            let mut watched = Watched::default();
            let looks = pods
                .iter()
                .map(|pod| watched.hopeless(std::slice::from_ref(pod)).first().map(|(what, _)| *what));
            looks.last().flatten()
        };
        let back = |restarts| crashed(restarts, back_off());
        assert_eq!(looks(&[back(1), back(MOST_CRASHES)]), Some(Hopeless::Crashes));
        assert_eq!(looks(&[back(1), back(MOST_CRASHES - 1)]), None, "it may come up yet");
        assert_eq!(looks(&[back(12), back(12)]), None, "the cause of the crash may have been fixed since");
        assert_eq!(looks(&[back(12), back(13)]), Some(Hopeless::Crashes));
        assert_eq!(looks(&[back(8), crashed(9, running())]), None, "it is loading its model");
        // containerd's words for a tag that is not there, and for a registry that is down.
        let gone = "Back-off pulling image \"docker.io/vllm/vllm-openai:v9\": ErrImagePull: rpc error: code = NotFound desc = failed to \
            pull and unpack image: failed to resolve reference: docker.io/vllm/vllm-openai:v9: not found";
        let down = "Back-off pulling image \"r/x\": ErrImagePull: rpc error: code = Unavailable desc = dial tcp: i/o timeout";
        assert_eq!(looks(&[waiting("ImagePullBackOff", gone)]), Some(Hopeless::Image));
        assert_eq!(looks(&[waiting("ImagePullBackOff", down)]), None);
        assert_eq!(looks(&[waiting("InvalidImageName", "")]), Some(Hopeless::Image));
        assert_eq!(looks(&[waiting("ContainerCreating", "not found")]), None);
    }

    #[test]
    fn only_pods_of_the_newest_template_count() {
        let revision = |n: &str| json!({"deployment.kubernetes.io/revision": n});
        let mut deployment = json!({"metadata": {"uid": "d", "generation": 2, "annotations": revision("2")},
            "status": {"observedGeneration": 2}});
        let set = |hash: &str, n: &str, owner: &str| json!({"metadata": {"annotations": revision(n), "labels": {"pod-template-hash": hash}, "ownerReferences": [{"uid": owner}]}});
        let sets = [set("old", "1", "d"), set("theirs", "2", "e"), set("new", "2", "d")];
        let pods =
            ["old", "new", "theirs"].map(|hash| json!({"metadata": {"labels": {"pod-template-hash": hash}}}));
        let newest =
            |deployment: &Value, sets: &[Value]| pods.each_ref().map(|pod| is_newest(pod, deployment, sets));
        assert_eq!(newest(&deployment, &sets), [false, true, false]);
        assert_eq!(newest(&deployment, &sets[..2]), [false; 3], "the new one is not there yet");
        deployment["status"]["observedGeneration"] = json!(1);
        assert_eq!(newest(&deployment, &sets), [false; 3]);
        assert_eq!(newest(&json!({}), &[]), [false; 3]);
    }

    /// An API that answers one path with a text, and everything else with 404; it records what it was asked.
    fn api(
        answers: &'static [(&str, &str)],
    ) -> (kube::Client, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let record = asked.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let at = request.uri().to_string();
            let answer = answers.iter().find(|(path, _)| at.starts_with(path));
            record.lock().expect("the record").push(at);
            let (code, text) = answer.map_or((404, "{}"), |(_, text)| (200, *text));
            let body = kube::client::Body::from(text.as_bytes().to_vec());
            async move {
                Ok::<_, std::convert::Infallible>(
                    http::Response::builder().status(code).body(body).expect("an answer"),
                )
            }
        });
        (kube::Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn what_crashed_is_shown_with_its_last_lines() {
        const LOG: &str = "one\ntwo\nthree\n\nfour\nfive\nsix\nseven\nAuthorization: Bearer hf_abcdefghijklmnopqrstuvwxyzABCDEFGH\ntorch.OutOfMemoryError: CUDA out of memory\u{1b}[2J\n";
        let (client, asked) = api(&[("/api/v1/namespaces/models/pods/c/log", LOG)]);
        let found = explained(&client, &[crashed(3, back_off()), crashed(3, back_off())], |_| false).await;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pods.len(), found[0].lines.len()), (2, 8), "{found:?}");
        assert_eq!(found[0].lines[0], "two");
        assert!(!found[0].lines.concat().contains("hf_"), "{found:?}");
        assert!(
            found[0].lines[7].starts_with("torch.OutOfMemoryError") && !found[0].lines[7].contains('\u{1b}')
        );
        let asked = asked.lock().expect("the record").clone();
        assert_eq!(asked.len(), 1, "{asked:?}");
        for part in ["previous=true", "container=engine", "tailLines=8", "limitBytes=65536"] {
            assert!(asked[0].contains(part), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_only_starts_is_explained_by_its_newest_warning() {
        const EVENTS: &str = r#"{"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": [
            {"metadata": {"name": "a"}, "involvedObject": {}, "type": "Normal", "reason": "Pulled", "message": "Container image",
             "lastTimestamp": "2026-11-30T10:09:00Z"},
            {"metadata": {"name": "b"}, "involvedObject": {}, "type": "Warning", "reason": "FailedMount",
             "message": "MountVolume.SetUp failed for volume \"weights\": hostPath type check failed: /models is not a directory",
             "lastTimestamp": "2026-11-30T10:01:00Z"},
            {"metadata": {"name": "c"}, "involvedObject": {}, "type": "Warning", "reason": "Unhealthy",
             "message": "Startup probe failed: Get \"http://10.240.0.9:8000/health\": connection refused",
             "lastTimestamp": "2026-11-30T10:05:00Z"}]}"#;
        let (client, asked) = api(&[("/api/v1/namespaces/models/events", EVENTS)]);
        let pod = json!({"metadata": {"name": "p", "namespace": "models", "uid": "u-7"}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "containerStatuses": [{"name": "engine", "state": {"running": {}}}]}});
        let found = explained(&client, std::slice::from_ref(&pod), |_| false).await;
        let probe = "Startup probe failed: Get \"http://10.240.0.9:8000/health\": connection refused";
        assert_eq!((found[0].kind, found[0].detail.as_str()), (CauseKind::Probe, probe));
        let asked = asked.lock().expect("the record").clone();
        assert!(asked[0].contains("fieldSelector=involvedObject.uid%3Du-7"), "{asked:?}");
        // Without an answer the status is what there is.
        let (client, _) = api(&[]);
        let found = explained(&client, &[pod], |_| false).await;
        assert_eq!(
            (found[0].kind, found[0].detail.as_str()),
            (CauseKind::Starting, "running, not ready yet")
        );
    }

    #[test]
    fn pods_that_are_refused_are_explained_by_their_workload() {
        let quota = json!({"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": "pods \"x\" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8"}]}});
        let cause = refused(&quota).expect("a cause");
        assert!(cause.kind == CauseKind::Refused && cause.detail.contains("exceeded quota"), "{cause:?}");
        assert_eq!(refused(&json!({"status": {}})), None);
    }
}
