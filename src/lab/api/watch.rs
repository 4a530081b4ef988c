//! Watches: what happened since a version, then what happens, one JSON line an event.

use super::{
    errors::ApiError,
    kinds::Kind,
    objects::text,
    request::ResourceRequest,
    selector::{FieldSelector, LabelSelector},
    store::{Action, Change, Store},
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How long a watch lasts that does not say (kube-apiserver: 30 to 60 minutes).
const DEFAULT_LIFE: Duration = Duration::from_secs(30 * 60);

/// A watch on a kind.
pub(super) struct Watch {
    store: Arc<Store>,
    kind: Arc<Kind>,
    version: String,
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
    pub(super) fn new(store: Arc<Store>, request: &ResourceRequest) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(request.query("labelSelector"))?;
        let fields = match request.at.name.as_str() {
            "" => request.query("fieldSelector").to_owned(),
            name => format!("metadata.name={name}"),
        };
        let life = request.query("timeoutSeconds").parse().map_or(DEFAULT_LIFE, Duration::from_secs);
        let mut watch = Self {
            changes: store.changes(),
            kind: request.at.kind.clone(),
            version: request.at.version.name.clone(),
            namespace: request.at.namespace.clone(),
            labels,
            fields: FieldSelector::parse(&fields)?,
            revision: 0,
            until: Instant::now() + life,
            pending: VecDeque::new(),
            ended: false,
            store,
        };
        if request.query("sendInitialEvents") == "true" {
            return Err(ApiError::not_simulated("watches with sendInitialEvents"));
        }
        watch.revision = match request.query("resourceVersion") {
            "" | "0" => watch.begin(),
            version => version.parse().map_err(|_| {
                // As the real API answers.
                let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                ApiError::unexplained(format!("resourceVersion: Invalid value: {version:?}: {why}"))
            })?,
        };
        Ok(watch)
    }

    /// Queues what is there now.
    fn begin(&mut self) -> u64 {
        let namespace = (!self.namespace.is_empty()).then_some(self.namespace.as_str());
        let (found, revision) = self.store.snapshot(&self.kind.id, namespace);
        let selected = found.iter().filter(|o| self.selects(o));
        let events: Vec<_> = selected.map(|o| json!({"type": "ADDED", "object": self.present(o)})).collect();
        self.pending.extend(events);
        revision
    }

    fn present(&self, object: &Value) -> Value {
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
                    let error = ApiError::expired(self.revision, oldest);
                    return Some(json!({"type": "ERROR", "object": error.body()}));
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

/// What a watch sends.
pub(super) type Events = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// Returns the body of a watch's answer.
pub(super) fn events(watch: Watch) -> Events {
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        let line = Bytes::from(format!("{event}\n"));
        Some((Ok(Frame::data(line)), watch))
    });
    StreamBody::new(Box::pin(stream))
}
