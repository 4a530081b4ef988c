//! The API's answers that are not an object: `Status` with the codes, reasons and phrases of a kube-apiserver
//! (apimachinery/pkg/api/errors/errors.go).

use super::kinds::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why the API refused a request.
#[derive(Clone, PartialEq, Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// `Status.reason`; empty for none.
    pub reason: &'static str,
    /// `Status.message`.
    pub message: String,
    /// `Status.details`.
    pub details: Option<Value>,
}

/// One wrong field of an object.
#[derive(Clone, PartialEq, Debug)]
pub struct FieldError {
    /// Its dotted path.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub message: String,
}

impl FieldError {
    /// A required field is missing.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let colon = if why.is_empty() { "" } else { ": " };
        let message = format!("Required value{colon}{why}");
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    /// A field's value is not allowed.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    fn cause(&self) -> Value {
        json!({"reason": self.reason, "message": self.message, "field": self.field})
    }
}

/// Returns the details of a `Status`, without what is empty.
pub(super) fn details(name: &str, group: &str, kind: &str) -> Value {
    let all = [("name", name), ("group", group), ("kind", kind)];
    all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    fn about(self, kind: &Kind, name: &str) -> Self {
        self.with(details(name, &kind.group, &kind.plural))
    }

    /// No such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.id)).about(kind, name)
    }

    /// No such resource: the kind is not served.
    pub fn not_served() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with(json!({}))
    }

    /// A real API would know this, the lab does not.
    pub fn not_simulated(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("the lab's API stand-in does not simulate {what}"))
    }

    /// The name is taken, maybe by an object that is being deleted.
    pub fn already_exists(kind: &Kind, name: &str, being_deleted: bool) -> Self {
        let prefix = if being_deleted { "object is being deleted: " } else { "" };
        let message = format!("{prefix}{} {name:?} already exists", kind.id);
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// A stale resourceVersion or a failed precondition.
    pub fn stale(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.id);
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// Server-side apply met fields of others: `(manager as shown, dotted field)`, one cause each.
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let mut managers: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for (manager, field) in conflicts {
            managers.entry(manager).or_default().push(field);
        }
        let lists =
            managers.iter().map(|(m, fields)| format!("conflicts with {m}:\n- {}", fields.join("\n- ")));
        let message = match conflicts {
            [(manager, field)] => format!("Apply failed with 1 conflict: conflict with {manager}: {field}"),
            many => format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lists.collect::<Vec<_>>().join("\n")
            ),
        };
        let causes: Vec<_> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": field})
            })
            .collect();
        Self::new(409, "Conflict", message).with(json!({"causes": causes}))
    }

    /// Fields of an object are wrong.
    pub fn invalid(kind: &str, group: &str, name: &str, errors: &[FieldError]) -> Self {
        let lines: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        let list = if let [one] = lines.as_slice() { one.clone() } else { format!("[{}]", lines.join(", ")) };
        let dotted = format!("{kind}.{group}");
        let message = format!("{} {name:?} is invalid: {list}", dotted.trim_end_matches('.'));
        let mut details = details(name, group, kind);
        details["causes"] = errors.iter().map(FieldError::cause).collect();
        Self::new(422, "Invalid", message).with(details)
    }

    /// An apply names no field manager.
    pub fn no_field_manager() -> Self {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        Self::invalid("PatchOptions", "meta.k8s.io", "", &[error])
    }

    /// A patch does not fit its kind.
    pub fn invalid_patch(why: &str) -> Self {
        Self::new(422, "Invalid", format!(" \"\" is invalid: patch: Invalid value: {why}"))
    }

    /// The server's own fault, as far as it can tell: a status without a reason.
    pub fn unexplained(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// Nothing is created in a namespace that is being deleted.
    pub fn terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = Self::forbidden(kind, name, why);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
                "message": format!("namespace {namespace} is being terminated")}]);
        }
        error
    }

    /// The request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// No valid credentials.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// These credentials may not do this.
    pub fn forbidden(kind: &Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let what = if name.is_empty() { kind.id.clone() } else { format!("{} {name:?}", kind.id) };
        Self::new(403, "Forbidden", format!("{what} is forbidden: {why}")).about(kind, name)
    }

    /// The resourceVersion is older than what is remembered.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// An eviction that a disruption budget forbids.
    pub fn disruption_budget(budget: &str, wanted: i64, healthy: i64) -> Self {
        let why =
            format!("The disruption budget {budget} needs {wanted} healthy pods and has {healthy} currently");
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Self::new(429, "TooManyRequests", message)
            .with(json!({"causes": [{"reason": "DisruptionBudget", "message": why}]}))
    }

    /// The server failed; `cause` is repeated in the details, as the real one does.
    pub fn internal(cause: &str) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {cause}"))
            .with(json!({"causes": [{"message": cause}]}))
    }

    /// The verb does not exist for this resource.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// The patch's content type is not known.
    pub fn unsupported_patch() -> Self {
        Self::new(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    }

    /// Returns the `Status` object.
    pub fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}
