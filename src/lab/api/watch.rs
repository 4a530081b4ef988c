//! Watches: what happened since a version, then what happens, one JSON line an event.

use super::{
    http::{Ask, Body},
    kinds::Kind,
    refusal::Refusal,
    selector::{FieldSelector, LabelSelector},
    store::{Action, Change, Store, text},
};
use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How long a watch lasts that does not say (kube-apiserver: 30 to 60 minutes).
const DEFAULT_LIFE: Duration = Duration::from_secs(30 * 60);

/// A watch on a kind.
pub struct Watch {
    store: Arc<Store>,
    kind: Arc<Kind>,
    version: String,
    partial: bool,
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
    revision: u64,
    until: Instant,
    changes: watch::Receiver<u64>,
    pending: VecDeque<Value>,
    ended: bool,
}

impl Watch {
    /// Starts a watch: with no version, or version 0, from what is there now.
    pub fn new(store: Arc<Store>, ask: &Ask) -> Result<Self, Refusal> {
        let labels = LabelSelector::parse(ask.query("labelSelector"))?;
        let mut fields = ask.query("fieldSelector").to_owned();
        if !ask.name.is_empty() {
            fields = format!("metadata.name={}", ask.name);
        }
        let life = ask.query("timeoutSeconds").parse().map_or(DEFAULT_LIFE, Duration::from_secs);
        let mut watch = Self {
            changes: store.changes(),
            kind: ask.kind.clone(),
            version: ask.version.name.clone(),
            partial: ask.accept.contains("as=PartialObjectMetadata"),
            namespace: ask.namespace.clone(),
            labels,
            fields: FieldSelector::of(&ask.kind, &fields)?,
            revision: 0,
            until: Instant::now() + life,
            pending: VecDeque::new(),
            ended: false,
            store,
        };
        let asked = ask.query("resourceVersion");
        let initial = ask.query("sendInitialEvents") == "true";
        watch.revision = match asked {
            "" | "0" => watch.begin(initial),
            _ if initial => watch.begin(true),
            version => version.parse().map_err(|_| {
                // As the real one has it: nobody's fault but the server's.
                let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                Refusal::unexplained(format!("resourceVersion: Invalid value: {version:?}: {why}"))
            })?,
        };
        Ok(watch)
    }

    /// Queues what is there now, and the bookmark that ends it when asked for.
    fn begin(&mut self, bookmark: bool) -> u64 {
        let namespace = (!self.namespace.is_empty()).then_some(self.namespace.as_str());
        let (found, revision) = self.store.snapshot(&self.kind.id, namespace);
        let selected = found.iter().filter(|o| self.selects(o));
        let events: Vec<_> = selected.map(|o| json!({"type": "ADDED", "object": self.present(o)})).collect();
        self.pending.extend(events);
        if bookmark {
            self.pending.push_back(json!({"type": "BOOKMARK", "object": {
                "kind": self.kind.kind, "apiVersion": self.kind.api_version(&self.version),
                "metadata": {"resourceVersion": revision.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"}},
            }}));
        }
        revision
    }

    fn present(&self, object: &Value) -> Value {
        if self.partial {
            let metadata = &object["metadata"];
            return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
        }
        let mut object = object.clone();
        object["apiVersion"] = json!(self.kind.api_version(&self.version));
        object
    }

    fn selects(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || text(object, "/metadata/namespace") == self.namespace)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }

    /// A change as this watch sees it: what leaves its selection is deleted, what enters is added.
    fn event(&self, change: &Change) -> Option<Value> {
        let now = self.selects(&change.object);
        let before = change.before.as_deref().is_some_and(|b| self.selects(b));
        let kind = match change.action {
            Action::Deleted => before.then_some("DELETED"),
            Action::Added => now.then_some("ADDED"),
            Action::Modified => match (before, now) {
                (true, true) => Some("MODIFIED"),
                (false, true) => Some("ADDED"),
                (true, false) => Some("DELETED"),
                (false, false) => None,
            },
        }?;
        Some(json!({"type": kind, "object": self.present(&change.object)}))
    }

    /// Returns the next event; `None` ends the watch.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            self.changes.borrow_and_update();
            match self.store.since(&self.kind.id, self.revision) {
                Err(oldest) => {
                    self.ended = true;
                    let refusal = Refusal::expired(self.revision, oldest);
                    return Some(json!({"type": "ERROR", "object": refusal.body()}));
                }
                Ok((changes, revision)) => {
                    self.revision = revision.max(self.revision);
                    let events: Vec<_> = changes.iter().filter_map(|c| self.event(c)).collect();
                    self.pending.extend(events);
                }
            }
            if self.pending.is_empty() {
                tokio::select! {
                    changed = self.changes.changed() => {
                        if changed.is_err() {
                            return None;
                        }
                    }
                    () = tokio::time::sleep_until(self.until) => return None,
                }
            }
        }
    }
}

/// Returns the streaming answer of a watch.
pub fn answer(watch: Watch) -> Result<Response<Body>, Refusal> {
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        let line = Bytes::from(format!("{event}\n"));
        Some((Ok::<_, Infallible>(Frame::data(line)), watch))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
