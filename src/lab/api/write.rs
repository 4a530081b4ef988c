//! Creating and changing objects: what the server fills in, what it checks, what it keeps apart.

use super::{
    defaults,
    errors::{ApiError, FieldError},
    fields::SERVER_METADATA,
    managed::{self, Writer},
    merging::Position,
    objects::{is_ending, now, place, suffix, text, uuid},
    patch::merged,
    reference::ObjectRef,
    store::{Inner, Store},
    validate,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// How a write is asked for.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// The field manager.
    pub manager: String,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldValidation=Strict`.
    pub strict: bool,
    /// `force=true` of an apply.
    pub force: bool,
    /// `status`, or empty.
    pub subresource: String,
}

impl Options {
    /// Returns the options of a plain write by a manager.
    pub fn by(manager: &str) -> Self {
        Self { manager: manager.to_owned(), ..Self::default() }
    }

    /// Returns the options of a status write by a manager.
    pub fn status_by(manager: &str) -> Self {
        Self { manager: manager.to_owned(), subresource: "status".into(), ..Self::default() }
    }
}

/// A patch and its format.
#[derive(Clone, Debug)]
pub enum Patch {
    /// Server-side apply.
    Apply(Value),
    /// RFC 7386.
    Merge(Value),
    /// kubectl's own.
    Strategic(Value),
}

impl Store {
    /// Creates an object.
    pub fn create(&self, at: &ObjectRef, body: Value, options: &Options) -> Result<Arc<Value>, ApiError> {
        self.write(at, options, |write| {
            if let Some(live) = write.live {
                return Err(ApiError::already_exists(&at.kind, &at.name, is_ending(live)));
            }
            let mut object = identified(at, body)?;
            let stem = text(&object, "/metadata/generateName");
            if at.name.is_empty() && !stem.is_empty() {
                object["metadata"]["name"] = json!(format!("{stem}{}", suffix(5)));
            }
            write.settle(object)
        })
    }

    /// Replaces an object.
    pub fn replace(&self, at: &ObjectRef, body: Value, options: &Options) -> Result<Arc<Value>, ApiError> {
        self.write(at, options, |write| {
            write.existing()?;
            write.settle(identified(at, body)?)
        })
    }

    /// Patches an object; an apply creates it where needed. The flag says whether it did.
    pub fn patch(
        &self,
        at: &ObjectRef,
        change: &Patch,
        options: &Options,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let existed = self.get(&at.kind.id, &at.namespace, &at.name).is_some();
        let object = self.write(at, options, |write| {
            let (body, strategic) = match change {
                Patch::Apply(config) => return write.applied(config),
                Patch::Strategic(body) => (body, true),
                Patch::Merge(body) => (body, false),
            };
            write.settle(identified(at, merged(write.existing()?, body, Position::patch(strategic)))?)
        })?;
        Ok((object, !existed))
    }

    /// Edits an object as controllers do; nothing happens when it is not there or comes out equal.
    pub fn edit(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        options: &Options,
        change: impl Fn(&mut Value),
    ) -> Result<Option<Arc<Value>>, ApiError> {
        let Some(at) = ObjectRef::named(self, kind, namespace, name) else { return Ok(None) };
        let written = self.write(&at, options, |write| {
            let mut object = write.existing()?.clone();
            change(&mut object);
            write.settle(object)
        });
        match written {
            Err(error) if error.code == 404 => Ok(None),
            other => other.map(Some),
        }
    }

    /// Creates an object unless its name is taken; for what controllers and bootstrapping make.
    pub fn ensure(&self, kind: &str, body: Value, manager: &str) -> Result<Option<Arc<Value>>, ApiError> {
        let (namespace, name) = place(&body);
        let Some(at) = ObjectRef::named(self, kind, &namespace, &name) else { return Ok(None) };
        match self.create(&at, body, &Options::by(manager)) {
            Err(error) if error.reason == "AlreadyExists" => Ok(None),
            other => other.map(Some),
        }
    }

    /// One write: computed from what is there and committed under one lock.
    fn write(
        &self,
        at: &ObjectRef,
        options: &Options,
        compute: impl FnOnce(&Write<'_>) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        self.change(|inner| {
            let live = inner.get(&at.kind.id, &at.namespace, &at.name);
            let writer = Writer {
                manager: &options.manager,
                api_version: at.api_version(),
                subresource: &options.subresource,
                now: now(),
                force: options.force,
                root: Position::root(&at.kind),
            };
            let object = compute(&Write { inner, at, live: live.as_deref(), options, writer })?;
            if let Some(live) = live.filter(|live| same(live, &object)) {
                return Ok(live);
            }
            if options.dry_run {
                return Ok(Arc::new(object));
            }
            let finished = is_ending(&object)
                && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
                && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
                && at.kind.id != "namespaces";
            if !finished && inner.is_full() {
                return Err(ApiError::internal("etcdserver: mvcc: database space exceeded"));
            }
            if !finished {
                return Ok(inner.put(&at.kind, object));
            }
            inner.take(&at.kind, &at.namespace, &text(&object, "/metadata/name"));
            Ok(Arc::new(object))
        })
    }
}

/// Equal but for the times of managed fields: a write that changes nothing must not move the resourceVersion.
fn same(live: &Value, object: &Value) -> bool {
    let timeless = |value: &Value| {
        let mut value = value.clone();
        let entries = value.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
            entry.shift_remove("time");
        }
        value
    };
    live == object || timeless(live) == timeless(object)
}

/// Checks that a body is of the kind, namespace and name of its path, and completes it with them.
fn identified(at: &ObjectRef, mut body: Value) -> Result<Value, ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request("the object provided is not a JSON object"));
    }
    let (kind, api_version) = (text(&body, "/kind"), text(&body, "/apiVersion"));
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    if (!kind.is_empty() && kind != at.kind.kind) || (!api_version.is_empty() && group != at.kind.group) {
        let why = format!("{kind} in version {api_version:?} cannot be handled as a {}", at.kind.kind);
        return Err(ApiError::bad_request(why));
    }
    body["kind"] = json!(at.kind.kind);
    body["apiVersion"] = json!(at.api_version());
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    let namespace = text(&body, "/metadata/namespace");
    if !namespace.is_empty() && namespace != at.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if at.kind.namespaced {
        body["metadata"]["namespace"] = json!(at.namespace);
    }
    let name = text(&body, "/metadata/name");
    if name.is_empty() && !at.name.is_empty() {
        body["metadata"]["name"] = json!(at.name);
    } else if !at.name.is_empty() && name != at.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            at.name
        )));
    }
    Ok(body)
}

/// Leaves of an object only what its subresource may say.
fn keep_part(object: &mut Value, subresource: &str) {
    let Value::Object(map) = object else { return };
    if subresource == "status" {
        map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            metadata
                .retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "resourceVersion" | "uid"));
        }
    } else {
        map.shift_remove("status");
    }
}

/// Kinds with a spec that do not count its changes.
const WITHOUT_GENERATION: [&str; 4] = ["leases.coordination.k8s.io", "namespaces", "nodes", "services"];

/// A write, while it is computed.
struct Write<'a> {
    inner: &'a Inner,
    at: &'a ObjectRef,
    live: Option<&'a Value>,
    options: &'a Options,
    writer: Writer<'a>,
}

impl Write<'_> {
    /// Returns what is there.
    fn existing(&self) -> Result<&Value, ApiError> {
        self.live.ok_or_else(|| ApiError::not_found(&self.at.kind, &self.at.name))
    }

    /// Merges an applied configuration into what is there.
    fn applied(&self, sent: &Value) -> Result<Value, ApiError> {
        let at = self.at;
        if sent["metadata"]["managedFields"].as_array().is_some_and(|entries| !entries.is_empty()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let mut config = identified(at, sent.clone())?;
        let why = match validate::take_unknown(&at.kind, &mut sent.clone()) {
            Err(why) => Some(format!(": {why}")),
            Ok(paths) => paths.first().map(|path| format!(".{path}: field not declared in schema")),
        };
        if let Some(why) = why {
            return Err(ApiError::unexplained(format!(
                "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
                text(sent, "/metadata/namespace"),
                at.name,
                at.api_version(),
                at.kind.kind,
            )));
        }
        if at.version.status {
            keep_part(&mut config, &self.options.subresource);
        }
        self.complete(managed::apply(self.live, config, &self.writer)?)
    }

    /// Completes and checks a write that is not an apply, and tracks who changed what.
    fn settle(&self, mut object: Value) -> Result<Value, ApiError> {
        self.check_fields(&mut object)?;
        let mut object = self.complete(object)?;
        managed::track(self.live, &mut object, &self.writer);
        Ok(object)
    }

    /// Refuses or drops fields that the kind does not know.
    fn check_fields(&self, object: &mut Value) -> Result<(), ApiError> {
        let (kind, version) = (&self.at.kind.kind, &self.at.version.name);
        let wrong = |why: String| {
            ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
            ))
        };
        let unknown = validate::take_unknown(&self.at.kind, object).map_err(wrong)?;
        if unknown.is_empty() || !self.options.strict {
            return Ok(());
        }
        let listed: Vec<_> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        let why = format!("strict decoding error: {}", listed.join(", "));
        // A patch is at fault as a whole.
        Err(if self.live.is_some() { ApiError::invalid_patch(&why) } else { wrong(why) })
    }

    /// What the server does to every object before it is stored.
    fn complete(&self, mut object: Value) -> Result<Value, ApiError> {
        let kind = &self.at.kind;
        let name = text(&object, "/metadata/name");
        let invalid = |errors: &[_]| Err(ApiError::invalid(&kind.kind, &kind.group, &name, errors));
        if name.is_empty() {
            return invalid(&[FieldError::required("metadata.name", "name or generateName is required")]);
        }
        match self.live {
            None => self.begin(&mut object)?,
            Some(live) => self.carry_over(live, &mut object)?,
        }
        // Quantities are a status' business too.
        if self.options.subresource.is_empty() || kind.id == "nodes" {
            defaults::fill(kind, &mut object);
        }
        let mut errors = validate::metadata(kind, &object);
        errors.extend(validate::selector(kind, &object, self.live));
        if !errors.is_empty() {
            return invalid(&errors);
        }
        if let Some(live) = self.live
            && self.options.subresource.is_empty()
            && meaning(&object) != meaning(live)
            && let Some(generation) = live["metadata"]["generation"].as_i64()
        {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(object)
    }

    /// Sets the server's own fields of a new object.
    fn begin(&self, object: &mut Value) -> Result<(), ApiError> {
        let at = self.at;
        if at.kind.namespaced {
            let namespace = self.inner.get("namespaces", "", &at.namespace);
            let namespace = namespace.ok_or_else(|| {
                let kind = self.inner.kinds.get("namespaces");
                kind.map_or_else(ApiError::not_served, |kind| ApiError::not_found(kind, &at.namespace))
            })?;
            if is_ending(&namespace) {
                return Err(ApiError::terminating(&at.kind, &at.name, &at.namespace));
            }
        }
        if at.version.status && at.kind.id != "nodes" {
            keep_part(object, "");
        }
        if let Value::Object(metadata) = &mut object["metadata"] {
            metadata.retain(|name, _| !name.starts_with("deletion") && name != "resourceVersion");
        }
        object["metadata"]["uid"] = json!(uuid());
        object["metadata"]["creationTimestamp"] = json!(self.writer.now);
        if object.get("spec").is_some() && !WITHOUT_GENERATION.contains(&at.kind.id.as_str()) {
            object["metadata"]["generation"] = json!(1);
        }
        Ok(())
    }

    /// Checks that a write is of the object that is there, and keeps what it may not change.
    fn carry_over(&self, live: &Value, object: &mut Value) -> Result<(), ApiError> {
        let at = self.at;
        let version = text(object, "/metadata/resourceVersion");
        if !version.is_empty() && version != text(live, "/metadata/resourceVersion") {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(ApiError::stale(&at.kind, &at.name, why));
        }
        let (uid, real) = (text(object, "/metadata/uid"), text(live, "/metadata/uid"));
        if !uid.is_empty() && uid != real {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {real}");
            return Err(ApiError::stale(&at.kind, &at.name, &why));
        }
        if at.version.status {
            let mut status = live["status"].clone();
            if self.options.subresource == "status" {
                status = object["status"].take();
                let managed = object["metadata"]["managedFields"].take();
                *object = live.clone();
                object["metadata"]["managedFields"] = managed;
            }
            object["status"] = status;
        }
        for key in SERVER_METADATA.split(' ').filter(|key| *key != "managedFields") {
            object["metadata"][key] = live["metadata"][key].clone();
        }
        // What was set to nothing above is not there.
        if let Value::Object(map) = object {
            map.retain(|_, value| !value.is_null());
        }
        if let Value::Object(metadata) = &mut object["metadata"] {
            metadata.retain(|_, value| !value.is_null());
        }
        Ok(())
    }
}

/// What counts for the generation: all but metadata and status.
fn meaning(object: &Value) -> Value {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.retain(|key, _| !matches!(key.as_str(), "metadata" | "status" | "apiVersion"));
    Value::Object(map)
}
