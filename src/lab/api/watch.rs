//! Watches: what happened since a version, then what happens, one JSON line an event.

use super::{
    errors::ApiError,
    reference::ObjectRef,
    request::ResourceRequest,
    selector::Selection,
    store::{Action, Change, Store},
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How long a watch lasts that does not say (kube-apiserver: 30 to 60 minutes).
const DEFAULT_LIFE: Duration = Duration::from_secs(30 * 60);

/// A watch on a kind.
pub(super) struct Watch {
    store: Arc<Store>,
    at: ObjectRef,
    selection: Selection,
    revision: u64,
    until: Instant,
    changes: watch::Receiver<u64>,
    /// Events that are to be sent next.
    pending: Vec<Value>,
}

impl Watch {
    /// Starts a watch: with no version, or version 0, from what is there now.
    pub(super) fn new(store: Arc<Store>, request: &ResourceRequest) -> Result<Self, ApiError> {
        if request.query("sendInitialEvents") == "true" {
            return Err(ApiError::not_simulated("watches with sendInitialEvents"));
        }
        let life = request.query("timeoutSeconds").parse().map_or(DEFAULT_LIFE, Duration::from_secs);
        let mut watch = Self {
            changes: store.changes(),
            at: request.at.clone(),
            selection: request.selection()?,
            revision: 0,
            until: Instant::now() + life,
            pending: Vec::new(),
            store,
        };
        match request.query("resourceVersion") {
            "" | "0" => {
                let (found, revision) = watch.store.snapshot(&watch.at.kind.id, &watch.selection);
                watch.pending = found.iter().map(|object| watch.told("ADDED", object)).collect();
                watch.revision = revision;
            }
            version => {
                watch.revision = version.parse().map_err(|_| {
                    // As the real API answers.
                    let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                    ApiError::unexplained(format!("resourceVersion: Invalid value: {version:?}: {why}"))
                })?;
            }
        }
        Ok(watch)
    }

    fn told(&self, kind: &str, object: &Value) -> Value {
        json!({"type": kind, "object": self.at.present(object)})
    }

    /// A change as this watch sees it: what leaves its selection is deleted, what enters is added.
    fn event(&self, change: &Change) -> Option<Value> {
        let after = change.action != Action::Deleted && self.selection.matches(&change.object);
        let before = change.before.as_deref().is_some_and(|before| self.selection.matches(before));
        let kind = match (before, after) {
            (true, true) => "MODIFIED",
            (false, true) => "ADDED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(self.told(kind, &change.object))
    }

    /// Returns the next events, at least one, and whether others may follow; `None` ends the watch.
    async fn next(&mut self) -> Option<(Vec<Value>, bool)> {
        while self.pending.is_empty() {
            self.changes.borrow_and_update();
            let (changes, revision) = self.store.changes_after(self.revision);
            let oldest = self.store.oldest();
            if self.revision < oldest {
                let error = ApiError::expired(self.revision, oldest).body();
                return Some((vec![json!({"type": "ERROR", "object": error})], false));
            }
            self.revision = revision.max(self.revision);
            let ours = changes.iter().filter(|change| change.kind == self.at.kind.id);
            self.pending = ours.filter_map(|change| self.event(change)).collect();
            if self.pending.is_empty() {
                let changed = tokio::time::timeout_at(self.until, self.changes.changed());
                changed.await.ok()?.ok()?;
            }
        }
        Some((std::mem::take(&mut self.pending), true))
    }
}

/// What a watch sends.
pub(super) type Events = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// Returns the body of a watch's answer.
pub(super) fn events(watch: Watch) -> Events {
    let stream = futures::stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let (events, goes_on) = watch.next().await?;
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        Some((Ok(Frame::data(Bytes::from(lines))), goes_on.then_some(watch)))
    });
    StreamBody::new(Box::pin(stream))
}
