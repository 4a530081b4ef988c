//! The one unstructured store: objects by kind, a revision, and a bounded log of changes that watches read.
//!
//! What a write means is in `write` and `remove`; this file only holds, finds and records.

use super::{
    kinds::{Kind, Kinds, from_definition},
    refusal::Refusal,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// How many changes a watch may lag behind before it is told that its version is too old.
const REMEMBERED_CHANGES: usize = 4096;
/// How many lines of a container's log are kept.
const LOG_LINES: usize = 200;

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
    /// The object's kind, as [`Kind::id`].
    pub kind: String,
    /// What happened.
    pub action: Action,
    /// The object after it (of a deletion: its last state).
    pub object: Arc<Value>,
    /// The object before it.
    pub before: Option<Arc<Value>>,
}

/// A check of custom objects before they are written, as a webhook makes them.
pub type Gate = Box<dyn Fn(&Store, &Kind, &Value) -> Result<(), Refusal> + Send + Sync>;

/// The store.
pub struct Store {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
    gates: RwLock<Vec<Gate>>,
    quorum: AtomicBool,
    logs: Mutex<HashMap<(String, String), VecDeque<String>>>,
}

pub(super) struct Inner {
    pub(super) kinds: Kinds,
    objects: HashMap<String, BTreeMap<(String, String), Arc<Value>>>,
    pub(super) revision: u64,
    log: VecDeque<Change>,
    /// Host part of the next cluster IP.
    pub(super) next_ip: u32,
    /// First three octets of the service network.
    pub(super) service_net: [u8; 4],
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// Returns an empty store that serves the built-in kinds.
    pub fn new() -> Self {
        let inner = Inner {
            kinds: Kinds::built_in(),
            objects: HashMap::new(),
            revision: 1,
            log: VecDeque::new(),
            next_ip: 10,
            service_net: [10, 96, 0, 0],
        };
        Self {
            inner: Mutex::new(inner),
            revision: watch::channel(1).0,
            gates: RwLock::new(Vec::new()),
            quorum: AtomicBool::new(true),
            logs: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait that the revision moved. Called after each write, without the lock.
    pub(super) fn announce(&self, revision: u64) {
        self.revision.send_if_modified(|known| {
            let newer = revision > *known;
            *known = revision.max(*known);
            newer
        });
    }

    /// Returns what wakes when something changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Returns the current revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Sets the network that cluster IPs come from.
    pub fn set_service_network(&self, net: [u8; 4]) {
        self.lock().service_net = net;
    }

    /// Adds a check of custom objects.
    pub fn add_gate(&self, gate: Gate) {
        self.gates.write().unwrap_or_else(PoisonError::into_inner).push(gate);
    }

    pub(super) fn check_gates(&self, kind: &Kind, object: &Value) -> Result<(), Refusal> {
        let gates = self.gates.read().unwrap_or_else(PoisonError::into_inner);
        gates.iter().try_for_each(|gate| gate(self, kind, object))
    }

    pub(super) fn has_gates(&self) -> bool {
        !self.gates.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Says whether etcd has a quorum; without one every request fails.
    pub fn set_quorum(&self, quorum: bool) {
        self.quorum.store(quorum, Ordering::Relaxed);
    }

    /// Returns whether etcd has a quorum.
    pub fn quorum(&self) -> bool {
        self.quorum.load(Ordering::Relaxed)
    }

    /// Returns a served kind by group and plural.
    pub fn kind(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.lock().kinds.find(group, plural)
    }

    /// Says whether anything of a group is served, or is known to be left out of the lab.
    pub(super) fn serves(&self, group: &str) -> bool {
        self.lock().kinds.serves(group)
    }

    /// Returns all served kinds.
    pub fn kinds(&self) -> Vec<Arc<Kind>> {
        self.lock().kinds.sorted()
    }

    /// Returns an object; `kind` is [`Kind::id`].
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

    /// Returns a consistent list and the revision it was taken at.
    pub(super) fn snapshot(&self, kind: &str, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let inner = self.lock();
        (inner.list(kind, namespace), inner.revision)
    }

    /// Returns a list as it was at a revision; `Err` is the oldest one that can be told.
    pub(super) fn snapshot_at(
        &self,
        kind: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Arc<Value>>, u64> {
        let inner = self.lock();
        let oldest = inner.oldest();
        if revision < oldest {
            return Err(oldest);
        }
        let place = |o: &Value| (text(o, "/metadata/namespace"), text(o, "/metadata/name"));
        let mut found: BTreeMap<_, _> =
            inner.list(kind, namespace).into_iter().map(|o| (place(&o), o)).collect();
        let later = inner.log.iter().rev().take_while(|c| c.revision > revision);
        for change in later.filter(|c| c.kind == kind) {
            let at = place(&change.object);
            match &change.before {
                Some(before) if namespace.is_none_or(|n| n == at.0) => found.insert(at, before.clone()),
                _ => found.remove(&at),
            };
        }
        Ok(found.into_values().collect())
    }

    /// Forgets the past, as an API server does that starts anew: its cache begins with what is there then.
    pub fn forget_past(&self) {
        self.lock().log.clear();
    }

    /// Returns a kind's changes after a revision, and the revision they reach; `Err` is the oldest remembered one.
    pub(super) fn since(&self, kind: &str, revision: u64) -> Result<(Vec<Change>, u64), u64> {
        let inner = self.lock();
        let oldest = inner.oldest();
        if revision < oldest {
            return Err(oldest);
        }
        let start = inner.log.partition_point(|c| c.revision <= revision);
        let found = inner.log.range(start..).filter(|c| c.kind == kind).cloned().collect();
        Ok((found, inner.revision))
    }

    /// Adds a line to a pod's log.
    pub fn log(&self, namespace: &str, pod: &str, line: impl Into<String>) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = logs.entry((namespace.to_owned(), pod.to_owned())).or_default();
        if lines.len() >= LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line.into());
    }

    /// Returns a pod's log.
    pub fn logs(&self, namespace: &str, pod: &str) -> Vec<String> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.get(&(namespace.to_owned(), pod.to_owned()))
            .map(|l| l.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn forget_logs(&self, namespace: &str, pod: &str) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.remove(&(namespace.to_owned(), pod.to_owned()));
    }
}

impl Inner {
    /// Returns the oldest revision whose changes are remembered.
    fn oldest(&self) -> u64 {
        self.log.front().map_or(self.revision, |c| c.revision - 1)
    }

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
        let key = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        let object = Arc::new(object);
        let before = self.objects.entry(kind.id.clone()).or_default().insert(key, object.clone());
        let action = if before.is_some() { Action::Modified } else { Action::Added };
        self.record(kind, action, object.clone(), before);
        if kind.id == "customresourcedefinitions.apiextensions.k8s.io"
            && condition(&object, "Established")
            && let Some(kind) = from_definition(&object)
        {
            self.kinds.add(kind);
        }
        object
    }

    /// Takes an object away and records it.
    pub(super) fn take(&mut self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let before = self.objects.get_mut(&kind.id)?.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let last = Arc::new(last);
        self.record(kind, Action::Deleted, last.clone(), Some(before));
        if kind.id == "customresourcedefinitions.apiextensions.k8s.io" {
            self.drop_kind(name);
        }
        Some(last)
    }

    fn drop_kind(&mut self, id: &str) {
        if let Some(kind) = self.kinds.by_id(id) {
            for object in self.list(id, None) {
                self.take(&kind, &text(&object, "/metadata/namespace"), &text(&object, "/metadata/name"));
            }
            self.kinds.remove(id);
            self.objects.remove(id);
        }
    }

    fn record(&mut self, kind: &Kind, action: Action, object: Arc<Value>, before: Option<Arc<Value>>) {
        if self.log.len() >= REMEMBERED_CHANGES {
            self.log.pop_front();
        }
        self.log.push_back(Change { revision: self.revision, kind: kind.id.clone(), action, object, before });
    }
}

/// Returns the text at a JSON pointer, or nothing.
pub fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Says whether a condition of an object is True.
pub fn condition(object: &Value, name: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == name && c["status"] == "True"))
}

/// Returns now as Kubernetes writes it, to the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns a random version-4 UUID.
pub fn uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Returns random letters and digits as Kubernetes appends them to names.
pub fn suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}
