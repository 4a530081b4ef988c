//! The one unstructured store: objects by kind, a revision, and a bounded log of changes that watches read.
//!
//! What a write means is in `write` and `remove`; this file only holds, finds and records.

use super::{
    kinds::{Kind, Kinds, built_in, from_definition, id, is_built_in},
    objects::{condition, place},
    selector::Selection,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// How many changes a watch may lag behind before it is told that its version is too old.
const REMEMBERED_CHANGES: usize = 4096;
/// How much of objects the log of changes holds, in bytes.
const REMEMBERED_BYTES: usize = 64 << 20;
/// How much of objects the store holds, in bytes; etcd has a quota too.
const MOST_BYTES: usize = 256 << 20;

/// What happened to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's revision after it.
    pub revision: u64,
    /// The object's kind, as `Kind::id`.
    pub kind: String,
    /// What happened.
    pub action: Action,
    /// The object after it (of a deletion: its last state).
    pub object: Arc<Value>,
    /// The object before it.
    pub before: Option<Arc<Value>>,
    /// Bytes of the object, as JSON.
    size: usize,
}

/// The store.
pub struct Store {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
}

pub(super) struct Inner {
    pub(super) kinds: Kinds,
    objects: HashMap<String, BTreeMap<(String, String), Arc<Value>>>,
    pub(super) revision: u64,
    log: VecDeque<Change>,
    /// Bytes of the objects, and of those in the log; as JSON, each time that one is written.
    bytes: usize,
    log_bytes: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// Returns an empty store that serves the built-in kinds.
    pub fn new() -> Self {
        let (objects, log) = (HashMap::new(), VecDeque::new());
        let inner = Inner { kinds: built_in(), objects, revision: 1, log, bytes: 0, log_bytes: 0 };
        Self { inner: Mutex::new(inner), revision: watch::channel(1).0 }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something under the lock, and then tells those who wait that the revision moved.
    pub(super) fn change<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = work(&mut inner);
        let revision = inner.revision;
        drop(inner);
        self.revision.send_if_modified(|known| {
            let newer = revision > *known;
            *known = revision.max(*known);
            newer
        });
        result
    }

    /// Returns what wakes when something changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Returns the current revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Returns a served kind by group and plural.
    pub fn kind(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.lock().kinds.get(&id(group, plural)).cloned()
    }

    /// Says whether anything of a group is served, or is known to be left out of the lab.
    pub(super) fn serves(&self, group: &str) -> bool {
        is_built_in(group) || self.lock().kinds.values().any(|kind| kind.group == group)
    }

    /// Returns all served kinds.
    pub fn kinds(&self) -> Vec<Arc<Kind>> {
        self.lock().kinds.values().cloned().collect()
    }

    /// Returns an object; `kind` is `Kind::id`.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.lock().get(kind, namespace, name)
    }

    /// Returns all objects of a kind.
    pub fn list(&self, kind: &str) -> Vec<Arc<Value>> {
        self.lock().list(kind, None)
    }

    /// Returns all objects of a kind in a namespace.
    pub fn list_in(&self, kind: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.lock().list(kind, Some(namespace))
    }

    /// Returns what a selection holds of a kind, and the revision it was taken at.
    pub(super) fn snapshot(&self, kind: &str, selection: &Selection) -> (Vec<Arc<Value>>, u64) {
        let inner = self.lock();
        let mut found = inner.list(kind, None);
        found.retain(|object| selection.matches(object));
        (found, inner.revision)
    }

    /// Returns all changes after a revision, and the revision they reach.
    pub fn changes_after(&self, revision: u64) -> (Vec<Change>, u64) {
        let inner = self.lock();
        let start = inner.log.partition_point(|c| c.revision <= revision);
        (inner.log.range(start..).cloned().collect(), inner.revision)
    }

    /// Puts what another API has in the place of what is here, by kind, unless something has changed since a revision.
    pub fn load(&self, lists: Vec<(&str, Vec<Value>)>, revision: u64) -> bool {
        let mut inner = self.lock();
        if inner.revision != revision {
            return false;
        }
        for (id, items) in lists {
            let Some(kind) = inner.kinds.get(id).cloned() else { continue };
            let mut objects = BTreeMap::new();
            for mut object in items {
                object["kind"] = Value::String(kind.kind.clone());
                inner.serve_definition(&kind, &object);
                objects.insert(place(&object), Arc::new(object));
            }
            inner.objects.insert(id.to_owned(), objects);
        }
        true
    }

    /// Returns the path of an object, or without a name of its collection; `None` while its kind is not served.
    pub fn path(&self, id: &str, namespace: &str, name: &str) -> Option<String> {
        let kind = self.lock().kinds.get(id)?.clone();
        let version = kind.api_version(&kind.versions.first()?.name);
        let root = if kind.group.is_empty() { "api" } else { "apis" };
        let inside = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let path = format!("/{root}/{version}{inside}/{}/{name}", kind.plural);
        Some(path.trim_end_matches('/').to_owned())
    }

    /// Forgets the past, as an API server does that starts anew: its cache begins with what is there then.
    pub fn forget_past(&self) {
        self.lock().log.clear();
    }

    /// Returns the oldest revision whose changes are remembered.
    pub(super) fn oldest(&self) -> u64 {
        let inner = self.lock();
        inner.log.front().map_or(inner.revision, |c| c.revision - 1)
    }
}

impl Inner {
    pub(super) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(kind)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(super) fn list(&self, kind: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(objects) = self.objects.get(kind) else { return Vec::new() };
        match namespace {
            None => objects.values().cloned().collect(),
            Some(namespace) => objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((ns, _), _)| ns == namespace)
                .map(|(_, object)| object.clone())
                .collect(),
        }
    }

    /// Writes an object and its change; gives it the next resourceVersion.
    pub(super) fn put(&mut self, kind: &Kind, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let size = object.to_string().len();
        let object = Arc::new(object);
        let before = self.objects.entry(kind.id.clone()).or_default().insert(place(&object), object.clone());
        let action = if before.is_some() { Action::Modified } else { Action::Added };
        let gone = before.as_ref().map_or(0, |before| before.to_string().len());
        self.bytes = (self.bytes + size).saturating_sub(gone);
        self.record(kind, action, object.clone(), before, size);
        self.serve_definition(kind, &object);
        object
    }

    /// Serves the kind of a definition that is established.
    fn serve_definition(&mut self, kind: &Kind, object: &Value) {
        if kind.id == "customresourcedefinitions.apiextensions.k8s.io"
            && condition(object, "Established")
            && let Some(kind) = from_definition(object)
        {
            self.kinds.insert(kind.id.clone(), Arc::new(kind));
        }
    }

    /// Takes an object away and records it.
    pub(super) fn take(&mut self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let before = self.objects.get_mut(&kind.id)?.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let last = Arc::new(last);
        let size = last.to_string().len();
        self.bytes = self.bytes.saturating_sub(size);
        self.record(kind, Action::Deleted, last.clone(), Some(before), size);
        if kind.id == "customresourcedefinitions.apiextensions.k8s.io" {
            // A definition is called like its kind, which goes with all objects of it.
            if let Some(kind) = self.kinds.get(name).cloned() {
                for (namespace, name) in self.list(name, None).iter().map(|object| place(object)) {
                    self.take(&kind, &namespace, &name);
                }
                self.kinds.remove(name);
            }
        }
        Some(last)
    }

    /// Returns whether nothing more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > MOST_BYTES
    }

    fn record(
        &mut self,
        kind: &Kind,
        action: Action,
        object: Arc<Value>,
        before: Option<Arc<Value>>,
        size: usize,
    ) {
        while self.log.len() >= REMEMBERED_CHANGES || self.log_bytes > REMEMBERED_BYTES {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_bytes = self.log_bytes.saturating_sub(oldest.size);
        }
        self.log_bytes += size;
        let (revision, kind) = (self.revision, kind.id.clone());
        self.log.push_back(Change { revision, kind, action, object, before, size });
    }
}
