//! Creating and changing objects: what the server fills in, what it checks, what it keeps apart.

use super::{
    defaults,
    errors::{ApiError, FieldError},
    managed::{self, Writer},
    merging::Position,
    objects::{now, suffix, text, uuid},
    patch,
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
        self.write(at, options, |inner, live| {
            if let Some(live) = live {
                let being_deleted = live.pointer("/metadata/deletionTimestamp").is_some();
                return Err(ApiError::already_exists(&at.kind, &at.name, being_deleted));
            }
            let mut object = identified(at, body)?;
            if let Some(stem) = object.pointer("/metadata/generateName").and_then(Value::as_str)
                && at.name.is_empty()
            {
                object["metadata"]["name"] = json!(format!("{stem}{}", suffix(5)));
            }
            settle(inner, at, None, object, options)
        })
    }

    /// Replaces an object.
    pub fn replace(&self, at: &ObjectRef, body: Value, options: &Options) -> Result<Arc<Value>, ApiError> {
        self.write(at, options, |inner, live| {
            let live = live.ok_or_else(|| ApiError::not_found(&at.kind, &at.name))?;
            settle(inner, at, Some(live), identified(at, body)?, options)
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
        let object = self.write(at, options, |inner, live| {
            if let Patch::Apply(config) = change {
                return applied(inner, at, live, config, options);
            }
            let live = live.ok_or_else(|| ApiError::not_found(&at.kind, &at.name))?;
            let mut object = live.clone();
            match change {
                Patch::Strategic(body) => patch::strategic(&at.kind, &mut object, body),
                Patch::Merge(body) | Patch::Apply(body) => patch::merge(&mut object, body),
            }
            settle(inner, at, Some(live), identified(at, object)?, options)
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
        let written = self.write(&at, options, |inner, live| {
            let live = live.ok_or_else(|| ApiError::not_found(&at.kind, &at.name))?;
            let mut object = live.clone();
            change(&mut object);
            settle(inner, &at, Some(live), object, options)
        });
        match written {
            Err(error) if error.code == 404 => Ok(None),
            other => other.map(Some),
        }
    }

    /// Creates an object unless its name is taken; for what controllers and bootstrapping make.
    pub fn ensure(&self, kind: &str, body: Value, manager: &str) -> Result<Option<Arc<Value>>, ApiError> {
        let (namespace, name) = (text(&body, "/metadata/namespace"), text(&body, "/metadata/name"));
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
        compute: impl FnOnce(&mut Inner, Option<&Value>) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        self.change(|inner| {
            let live = inner.get(&at.kind.id, &at.namespace, &at.name);
            let object = compute(inner, live.as_deref())?;
            if let Some(live) = live.filter(|live| same(live, &object)) {
                return Ok(live);
            }
            if options.dry_run {
                return Ok(Arc::new(object));
            }
            let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
            let finished = object.pointer("/metadata/deletionTimestamp").is_some()
                && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
                && number("/metadata/deletionGracePeriodSeconds") == 0
                && at.kind.id != "namespaces";
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

/// Merges an applied configuration into what is there.
fn applied(
    inner: &mut Inner,
    at: &ObjectRef,
    live: Option<&Value>,
    sent: &Value,
    options: &Options,
) -> Result<Value, ApiError> {
    if sent["metadata"]["managedFields"].as_array().is_some_and(|entries| !entries.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut config = identified(at, sent.clone())?;
    let unknown = validate::take_unknown(&at.kind, &mut sent.clone());
    let why = match unknown {
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
        keep_part(&mut config, &options.subresource);
    }
    let (api_version, now) = (at.api_version(), now());
    let writer = writer(options, &api_version, &now);
    let merged = managed::apply(live, &config, options.force, writer, Position::root(&at.kind))?;
    complete(inner, at, live, merged, options)
}

fn writer<'a>(options: &'a Options, api_version: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager: &options.manager, api_version, subresource: &options.subresource, now }
}

/// Refuses or drops fields that the kind does not know.
fn check_fields(
    at: &ObjectRef,
    live: Option<&Value>,
    object: &mut Value,
    options: &Options,
) -> Result<(), ApiError> {
    let kind = &at.kind.kind;
    let wrong = |why: String| {
        let version = &at.version.name;
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    let unknown = validate::take_unknown(&at.kind, object).map_err(wrong)?;
    if unknown.is_empty() || !options.strict {
        return Ok(());
    }
    let listed: Vec<_> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    let why = format!("strict decoding error: {}", listed.join(", "));
    // A patch is at fault as a whole.
    Err(if live.is_some() { ApiError::invalid_patch(&why) } else { wrong(why) })
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

/// Completes and checks a write that is not an apply, and tracks who changed what.
fn settle(
    inner: &mut Inner,
    at: &ObjectRef,
    live: Option<&Value>,
    mut object: Value,
    options: &Options,
) -> Result<Value, ApiError> {
    check_fields(at, live, &mut object, options)?;
    let mut object = complete(inner, at, live, object, options)?;
    let (api_version, now) = (at.api_version(), now());
    managed::track(live, &mut object, writer(options, &api_version, &now), Position::root(&at.kind));
    Ok(object)
}

/// What the server does to every object before it is stored.
fn complete(
    inner: &mut Inner,
    at: &ObjectRef,
    live: Option<&Value>,
    mut object: Value,
    options: &Options,
) -> Result<Value, ApiError> {
    let kind = &at.kind;
    let name = text(&object, "/metadata/name");
    if name.is_empty() {
        let error = FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(kind, "", &[error]));
    }
    match live {
        None => begin(inner, at, &mut object)?,
        Some(live) => carry_over(at, live, &mut object, options)?,
    }
    // Quantities are a status' business too.
    if options.subresource.is_empty() || kind.id == "nodes" {
        defaults::fill(kind, &mut object);
    }
    let mut errors = validate::metadata(kind, &object);
    errors.extend(validate::selector(kind, &object, live));
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind, &name, &errors));
    }
    if let Some(live) = live
        && options.subresource.is_empty()
        && meaning(&object) != meaning(live)
        && let Some(generation) = live.pointer("/metadata/generation").and_then(Value::as_i64)
    {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(object)
}

/// Kinds with a spec that do not count its changes.
const WITHOUT_GENERATION: [&str; 4] = ["leases.coordination.k8s.io", "namespaces", "nodes", "services"];

/// Sets the server's own fields of a new object.
fn begin(inner: &Inner, at: &ObjectRef, object: &mut Value) -> Result<(), ApiError> {
    if at.kind.namespaced {
        let namespace = inner.get("namespaces", "", &at.namespace);
        let namespace = namespace.ok_or_else(|| {
            let kind = inner.kinds.by_id("namespaces");
            kind.map_or_else(ApiError::not_served, |kind| ApiError::not_found(&kind, &at.namespace))
        })?;
        if namespace.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(ApiError::terminating(&at.kind, &at.name, &at.namespace));
        }
    }
    if at.version.status && at.kind.id != "nodes" {
        keep_part(object, "");
    }
    if let Value::Object(metadata) = &mut object["metadata"] {
        metadata.retain(|name, _| {
            !matches!(name.as_str(), "deletionTimestamp" | "deletionGracePeriodSeconds" | "resourceVersion")
        });
    }
    object["metadata"]["uid"] = json!(uuid());
    object["metadata"]["creationTimestamp"] = json!(now());
    if object.get("spec").is_some() && !WITHOUT_GENERATION.contains(&at.kind.id.as_str()) {
        object["metadata"]["generation"] = json!(1);
    }
    Ok(())
}

/// Checks that a write is of the object that is there, and keeps what it may not change.
fn carry_over(at: &ObjectRef, live: &Value, object: &mut Value, options: &Options) -> Result<(), ApiError> {
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
        let (mut kept, other) =
            if options.subresource == "status" { (live.clone(), &*object) } else { (object.clone(), live) };
        if let Value::Object(map) = &mut kept {
            match other.get("status") {
                Some(status) => map.insert("status".into(), status.clone()),
                None => map.shift_remove("status"),
            };
        }
        kept["metadata"]["managedFields"] = object["metadata"]["managedFields"].clone();
        *object = kept;
    }
    if let Value::Object(metadata) = &mut object["metadata"] {
        metadata.retain(|key, value| key != "managedFields" || !value.is_null());
        for key in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
            "resourceVersion",
        ] {
            match live["metadata"].get(key) {
                Some(value) => metadata.insert(key.into(), value.clone()),
                None => metadata.shift_remove(key),
            };
        }
    }
    Ok(())
}

/// What counts for the generation: all but metadata and status.
fn meaning(object: &Value) -> Value {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.retain(|key, _| !matches!(key.as_str(), "metadata" | "status" | "apiVersion"));
    Value::Object(map)
}
