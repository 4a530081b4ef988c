//! Creating and changing objects: what the server fills in, what it checks, what it keeps apart.

use super::{
    defaults, fields, invalid,
    kinds::{Kind, Version},
    managed::{self, Writer},
    patch,
    refusal::Refusal,
    schema,
    shape::Shape,
    store::{Inner, Store, now, suffix, text, uuid},
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

/// Where a write goes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The kind.
    pub kind: Arc<Kind>,
    /// The version asked for.
    pub version: Version,
    /// The namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// The name; empty to create one from `generateName`.
    pub name: String,
}

/// A patch and its format.
#[derive(Clone, Debug)]
pub enum Patch {
    /// Server-side apply.
    Apply(Value),
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
    /// kubectl's own.
    Strategic(Value),
}

impl Place {
    /// Returns a place in the preferred version of a kind.
    pub fn of(kind: Arc<Kind>, namespace: &str, name: &str) -> Option<Self> {
        let version = kind.versions.first()?.clone();
        Some(Self { kind, version, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn shape(&self) -> Shape<'_> {
        match (&self.version.schema, self.kind.custom) {
            (Some(schema), _) => Shape::Schema(schema),
            (None, true) => Shape::Unknown,
            (None, false) => Shape::native(),
        }
    }

    fn api_version(&self) -> String {
        self.kind.api_version(&self.version.name)
    }
}

impl Store {
    /// Creates an object.
    pub fn create(&self, place: &Place, body: Value, options: &Options) -> Result<Arc<Value>, Refusal> {
        self.write(place, options, &|inner, live| {
            if let Some(live) = live {
                let ending = live.pointer("/metadata/deletionTimestamp").is_some();
                return Err(Refusal::already_exists(&place.kind, &place.name, ending));
            }
            let mut object = identified(place, body.clone())?;
            if let Some(stem) = body.pointer("/metadata/generateName").and_then(Value::as_str)
                && place.name.is_empty()
            {
                object["metadata"]["name"] = json!(format!("{stem}{}", suffix(5)));
            }
            settle(inner, place, None, object, options)
        })
    }

    /// Replaces an object.
    pub fn replace(&self, place: &Place, body: Value, options: &Options) -> Result<Arc<Value>, Refusal> {
        self.write(place, options, &|inner, live| {
            let live = live.ok_or_else(|| Refusal::not_found(&place.kind, &place.name))?;
            let mut object = identified(place, body.clone())?;
            check_fields(place, None, &mut object, options)?;
            settle(inner, place, Some(live), object, options)
        })
    }

    /// Patches an object; an apply creates it where needed. The flag says whether it did.
    pub fn patch(
        &self,
        place: &Place,
        change: &Patch,
        options: &Options,
    ) -> Result<(Arc<Value>, bool), Refusal> {
        let existed = self.get(&place.kind.id, &place.namespace, &place.name).is_some();
        let object = self.write(place, options, &|inner, live| match change {
            Patch::Apply(config) => self.applied(inner, place, live, config, options),
            other => {
                let live = live.ok_or_else(|| Refusal::not_found(&place.kind, &place.name))?;
                let mut object = live.clone();
                match other {
                    Patch::Json(steps) => patch::json(&mut object, steps)?,
                    Patch::Strategic(_) if place.kind.custom => {
                        return Err(Refusal::unsupported_patch("application/strategic-merge-patch+json"));
                    }
                    Patch::Strategic(body) => patch::strategic(&mut object, body),
                    Patch::Merge(body) | Patch::Apply(body) => patch::merge(&mut object, body),
                }
                settle(inner, place, Some(live), identified(place, object)?, options)
            }
        })?;
        Ok((object, !existed))
    }

    fn applied(
        &self,
        inner: &mut Inner,
        place: &Place,
        live: Option<&Value>,
        config: &Value,
        options: &Options,
    ) -> Result<Value, Refusal> {
        if config
            .pointer("/metadata/managedFields")
            .is_some_and(|m| m.as_array().is_none_or(|a| !a.is_empty()))
        {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        let sent = config;
        let mut config = identified(place, sent.clone())?;
        // As it was sent: the message says no more than that.
        check_applied(place, sent)?;
        if place.version.status {
            keep_part(&mut config, &options.subresource);
        }
        let (api_version, now) = (place.api_version(), now());
        let writer = Writer {
            manager: &options.manager,
            api_version: &api_version,
            subresource: &options.subresource,
            now: &now,
        };
        let merged = managed::apply(live, &config, options.force, writer, place.shape())?;
        settle_applied(inner, place, live, merged, options)
    }

    /// Changes an object in place, as controllers do; nothing happens when it is not there or comes out equal.
    pub fn edit(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        options: &Options,
        change: impl Fn(&mut Value),
    ) -> Result<Option<Arc<Value>>, Refusal> {
        let Some(place) = self.place(kind, namespace, name) else { return Ok(None) };
        if self.get(kind, namespace, name).is_none() {
            return Ok(None);
        }
        let written = self.write(&place, options, &|inner, live| {
            let live = live.ok_or_else(|| Refusal::not_found(&place.kind, &place.name))?;
            let mut object = live.clone();
            change(&mut object);
            settle(inner, &place, Some(live), object, options)
        });
        match written {
            Err(refusal) if refusal.code == 404 => Ok(None),
            other => other.map(Some),
        }
    }

    /// Returns the place of an object of a served kind.
    pub fn place(&self, kind: &str, namespace: &str, name: &str) -> Option<Place> {
        let kind = self.lock().kinds.by_id(kind)?;
        Place::of(kind, namespace, name)
    }

    /// Creates an object unless its name is taken; for what controllers and bootstrapping make.
    pub fn ensure(&self, kind: &str, body: Value, manager: &str) -> Result<Option<Arc<Value>>, Refusal> {
        let (namespace, name) = (text(&body, "/metadata/namespace"), text(&body, "/metadata/name"));
        let Some(place) = self.place(kind, &namespace, &name) else { return Ok(None) };
        match self.create(&place, body, &Options::by(manager)) {
            Err(refusal) if refusal.reason == "AlreadyExists" => Ok(None),
            other => other.map(Some),
        }
    }

    /// One write: computed from what is there, checked by the gates, computed again and committed under one lock.
    fn write(
        &self,
        place: &Place,
        options: &Options,
        compute: &dyn Fn(&mut Inner, Option<&Value>) -> Result<Value, Refusal>,
    ) -> Result<Arc<Value>, Refusal> {
        if place.kind.custom && options.subresource.is_empty() && self.has_gates() {
            let draft = {
                let mut inner = self.lock();
                let live = inner.get(&place.kind.id, &place.namespace, &place.name);
                compute(&mut inner, live.as_deref())?
            };
            self.check_gates(&place.kind, &draft)?;
        }
        let mut inner = self.lock();
        let live = inner.get(&place.kind.id, &place.namespace, &place.name);
        let object = compute(&mut inner, live.as_deref())?;
        if let Some(live) = &live
            && same(live, &object)
        {
            return Ok(live.clone());
        }
        if options.dry_run {
            return Ok(Arc::new(object));
        }
        let finished = object.pointer("/metadata/deletionTimestamp").is_some()
            && object.pointer("/metadata/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
            && object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0)
                == 0
            && place.kind.id != "namespaces";
        let object = if finished {
            let name = text(&object, "/metadata/name");
            let object = Arc::new(object);
            inner.take(&place.kind, &place.namespace, &name);
            object
        } else {
            inner.put(&place.kind, object)
        };
        let revision = inner.revision;
        drop(inner);
        self.announce(revision);
        Ok(object)
    }
}

/// Equal but for the times of managed fields: a write that changes nothing must not move the resourceVersion.
fn same(live: &Value, object: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        if let Some(Value::Array(entries)) = value.pointer_mut("/metadata/managedFields") {
            for entry in entries {
                if let Value::Object(entry) = entry {
                    entry.shift_remove("time");
                }
            }
        }
        value
    };
    live == object || strip(live) == strip(object)
}

/// Checks that a body is of the kind, namespace and name of its path, and completes it with them.
fn identified(place: &Place, mut body: Value) -> Result<Value, Refusal> {
    if !body.is_object() {
        return Err(Refusal::bad_request("the object provided is not a JSON object"));
    }
    let (kind, api_version) = (text(&body, "/kind"), text(&body, "/apiVersion"));
    if !kind.is_empty() && kind != place.kind.kind {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        return Err(Refusal::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is expected here",
            place.kind.kind
        )));
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    if !api_version.is_empty() && group != place.kind.group {
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            place.api_version()
        )));
    }
    body["kind"] = json!(place.kind.kind);
    body["apiVersion"] = json!(place.api_version());
    if !body.get("metadata").is_some_and(Value::is_object) {
        body["metadata"] = json!({});
    }
    let namespace = text(&body, "/metadata/namespace");
    if !namespace.is_empty() && namespace != place.namespace {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if place.kind.namespaced {
        body["metadata"]["namespace"] = json!(place.namespace);
    }
    let name = text(&body, "/metadata/name");
    if !name.is_empty() && !place.name.is_empty() && name != place.name {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            place.name
        )));
    }
    if name.is_empty() && !place.name.is_empty() {
        body["metadata"]["name"] = json!(place.name);
    }
    Ok(body)
}

/// Refuses an applied configuration that does not fit its kind.
fn check_applied(place: &Place, config: &Value) -> Result<(), Refusal> {
    let untyped = |path: &str, why: &str| {
        Refusal::unexplained(format!(
            "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {}: {why}",
            text(config, "/metadata/namespace"),
            place.name,
            place.kind.group,
            place.version.name,
            place.kind.kind,
            fields::dotted_place(path, config, place.shape()),
        ))
    };
    let mut known = config.clone();
    let unknown = match (&place.version.schema, place.kind.custom) {
        (Some(schema), _) => schema::take_unknown(&mut known, schema),
        (None, true) => Vec::new(),
        (None, false) => invalid::take_unknown(&place.kind, &mut known).map_err(|why| {
            let (path, why) = invalid::misfit(&place.kind, config).unwrap_or((String::new(), why));
            untyped(&path, &why)
        })?,
    };
    if let Some(path) = unknown.first() {
        return Err(untyped(path, "field not declared in schema"));
    }
    match fields::duplicate(config, place.shape()) {
        Some((path, key)) => Err(untyped(&path, &format!("duplicate entries for key {key}"))),
        None => Ok(()),
    }
}

/// Refuses or drops fields that the kind does not know.
fn check_fields(
    place: &Place,
    live: Option<&Value>,
    object: &mut Value,
    options: &Options,
) -> Result<(), Refusal> {
    let unknown = match (&place.version.schema, place.kind.custom) {
        (Some(schema), _) => schema::take_unknown(object, schema),
        (None, true) => Vec::new(),
        (None, false) => invalid::take_unknown(&place.kind, object).map_err(|why| {
            Refusal::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: {why}",
                place.kind.kind, place.version.name, place.kind.kind
            ))
        })?,
    };
    if unknown.is_empty() || !options.strict {
        return Ok(());
    }
    let listed: Vec<_> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    let why = format!("strict decoding error: {}", listed.join(", "));
    // A patch is at fault as a whole.
    if live.is_some() {
        let message = format!(" \"\" is invalid: patch: Invalid value: {why}");
        return Err(Refusal { code: 422, reason: "Invalid", message, details: None });
    }
    let kind = &place.kind.kind;
    let version = &place.version.name;
    Err(Refusal::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}")))
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
    place: &Place,
    live: Option<&Value>,
    mut object: Value,
    options: &Options,
) -> Result<Value, Refusal> {
    check_fields(place, live, &mut object, options)?;
    let mut object = complete(inner, place, live, object, options)?;
    let (api_version, now) = (place.api_version(), now());
    let writer = Writer {
        manager: &options.manager,
        api_version: &api_version,
        subresource: &options.subresource,
        now: &now,
    };
    managed::track(live, &mut object, writer, place.shape());
    Ok(object)
}

fn settle_applied(
    inner: &mut Inner,
    place: &Place,
    live: Option<&Value>,
    object: Value,
    options: &Options,
) -> Result<Value, Refusal> {
    complete(inner, place, live, object, options)
}

/// What the server does to every object before it is stored.
fn complete(
    inner: &mut Inner,
    place: &Place,
    live: Option<&Value>,
    mut object: Value,
    options: &Options,
) -> Result<Value, Refusal> {
    let kind = &place.kind;
    let name = text(&object, "/metadata/name");
    if name.is_empty() {
        let why = [super::refusal::FieldError::required("metadata.name", "name or generateName is required")];
        return Err(Refusal::invalid(kind, "", &why));
    }
    match live {
        None => {
            check_namespace(inner, place)?;
            if place.version.status && !matches!(kind.id.as_str(), "nodes" | "namespaces") {
                keep_part(&mut object, "");
            }
            let metadata = &mut object["metadata"];
            for server in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
                if let Value::Object(map) = metadata {
                    map.shift_remove(server);
                }
            }
            metadata["uid"] = json!(uuid());
            metadata["creationTimestamp"] = json!(now());
            if object.get("spec").is_some() && !GENERATIONLESS.contains(&kind.id.as_str()) {
                object["metadata"]["generation"] = json!(1);
            }
        }
        Some(live) => {
            let stale = text(&object, "/metadata/resourceVersion");
            if !stale.is_empty() && stale != text(live, "/metadata/resourceVersion") {
                return Err(Refusal::stale(
                    kind,
                    &name,
                    "the object has been modified; please apply your changes to the latest version and try again",
                ));
            }
            let uid = text(&object, "/metadata/uid");
            if !uid.is_empty() && uid != text(live, "/metadata/uid") {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    text(live, "/metadata/uid")
                );
                return Err(Refusal::stale(kind, &name, &why));
            }
            if place.version.status && options.subresource == "status" {
                let status = object.get("status").cloned();
                let managed = object.pointer("/metadata/managedFields").cloned();
                object = live.clone();
                if let Value::Object(map) = &mut object {
                    match status {
                        Some(status) => map.insert("status".into(), status),
                        None => map.shift_remove("status"),
                    };
                }
                if let Some(managed) = managed {
                    object["metadata"]["managedFields"] = managed;
                }
            } else if place.version.status
                && let Value::Object(map) = &mut object
            {
                match live.get("status") {
                    Some(status) => map.insert("status".into(), status.clone()),
                    None => map.shift_remove("status"),
                };
            }
            keep_server_metadata(&mut object, live);
        }
    }
    if options.subresource.is_empty() {
        match &place.version.schema {
            Some(schema) => schema::fill_defaults(&mut object, schema),
            None => defaults::fill(kind, &mut object),
        }
        if kind.id == "daemonsets.apps" {
            note_template(live, &mut object);
        }
        if kind.id == "services" {
            super::services::allocate(inner, kind, live, &mut object)?;
        }
    }
    // Quantities are a status' business too.
    if kind.id == "nodes" {
        defaults::fill(kind, &mut object);
    }
    let mut errors = invalid::metadata(kind, &object);
    if let Some(live) = live
        && live.pointer("/metadata/deletionTimestamp").is_some()
    {
        errors.extend(invalid::new_finalizers(live, &object));
    }
    match &place.version.schema {
        Some(schema) => errors.extend(schema::check(&object, live, schema)),
        None => errors.extend(invalid::object(kind, &object, live)),
    }
    if !errors.is_empty() {
        return Err(Refusal::invalid(kind, &name, &errors));
    }
    if let Some(live) = live
        && options.subresource.is_empty()
        && meaning(&object) != meaning(live)
        && live.pointer("/metadata/generation").is_some()
    {
        let generation = live.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        object["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(object)
}

/// Kinds with a spec that do not count its changes.
const GENERATIONLESS: [&str; 6] = [
    "leases.coordination.k8s.io",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "services",
];

/// A DaemonSet tells which template it is at, in an annotation from before there were revisions.
fn note_template(live: Option<&Value>, object: &mut Value) {
    const NOTE: &str = "deprecated.daemonset.template.generation";
    let template = |o: &Value| o.pointer("/spec/template").cloned();
    let before = live.and_then(|l| l["metadata"]["annotations"][NOTE].as_str()?.parse::<u64>().ok());
    let number = match (before, live) {
        (Some(n), Some(live)) if template(live) != template(object) => n + 1,
        (n, _) => n.unwrap_or(1),
    };
    object["metadata"]["annotations"][NOTE] = json!(number.to_string());
}

/// What counts for the generation: all but metadata and status.
fn meaning(object: &Value) -> Value {
    let mut map = object.as_object().cloned().unwrap_or_default();
    for key in ["metadata", "status", "apiVersion"] {
        map.shift_remove(key);
    }
    Value::Object(map)
}

fn keep_server_metadata(object: &mut Value, live: &Value) {
    let Some(Value::Object(old)) = live.get("metadata").cloned() else { return };
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match old.get(key) {
            Some(value) => metadata.insert(key.into(), value.clone()),
            None => metadata.shift_remove(key),
        };
    }
}

fn check_namespace(inner: &Inner, place: &Place) -> Result<(), Refusal> {
    if !place.kind.namespaced {
        return Ok(());
    }
    let missing = || {
        inner
            .kinds
            .by_id("namespaces")
            .map_or_else(Refusal::unserved, |k| Refusal::not_found(&k, &place.namespace))
    };
    let namespace = inner.get("namespaces", "", &place.namespace).ok_or_else(missing)?;
    if namespace.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(Refusal::terminating(&place.kind, &place.name, &place.namespace));
    }
    Ok(())
}
