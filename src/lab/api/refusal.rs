//! The API's answers that are not an object: `Status` with the codes, reasons and phrases of a kube-apiserver
//! (apimachinery/pkg/api/errors/errors.go).

use super::kinds::Kind;
use serde_json::{Value, json};

/// Why the API refused.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
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
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub message: String,
}

impl FieldError {
    /// A field that must be there is not.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueRequired",
            message: format!("Required value{}", tail(why)),
        }
    }

    /// A field's value is not allowed.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}{}", tail(why)),
        }
    }

    /// A field's value is not among the allowed ones.
    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[String]) -> Self {
        let allowed: Vec<_> = allowed.iter().map(|a| format!("{a:?}")).collect();
        Self {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value}: supported values: {}", allowed.join(", ")),
        }
    }

    /// A field may not be set, or not be set so.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden{}", tail(why)),
        }
    }

    /// Two of a list are the same.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
        }
    }

    /// A text is too long.
    pub fn too_long(field: impl Into<String>, most: &Value) -> Self {
        let message = format!("Too long: may not be more than {most} bytes");
        Self { field: field.into(), reason: "FieldValueTooLong", message }
    }

    /// A list is too long.
    pub fn too_many(field: impl Into<String>, count: usize, most: &Value) -> Self {
        let message = format!("Too many: {count}: must have at most {most} items");
        Self { field: field.into(), reason: "FieldValueTooMany", message }
    }

    /// A field has the wrong type.
    pub fn wrong_type(field: impl Into<String>, value: &Value, want: &str) -> Self {
        let field = field.into();
        let name = type_name(value);
        let message = format!("Invalid value: {name:?}: {field} in body must be of type {want}: {name:?}");
        Self { field, reason: "FieldValueTypeInvalid", message }
    }
}

fn tail(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        let mut details = json!({"kind": kind.plural});
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !kind.group.is_empty() {
            details["group"] = json!(kind.group);
        }
        self.details = Some(details);
        self
    }

    /// Adds one cause to what it is about.
    fn because(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut details = self.details.take().unwrap_or_else(|| json!({}));
        details["causes"] = json!([{"reason": reason, "message": message, "field": field}]);
        self.details = Some(details);
        self
    }

    /// No such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.id)).about(kind, name)
    }

    /// No such resource: the kind is not served.
    pub fn unserved() -> Self {
        let mut refusal = Self::new(404, "NotFound", "the server could not find the requested resource");
        refusal.details = Some(json!({}));
        refusal
    }

    /// A real API would know this, the lab does not.
    pub fn not_simulated(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("the lab's API stand-in does not simulate {what}"))
    }

    /// The name is taken, maybe by something that is on its way out.
    pub fn already_exists(kind: &Kind, name: &str, ending: bool) -> Self {
        let what = if ending { "object is being deleted: " } else { "" };
        Self::new(409, "AlreadyExists", format!("{what}{} {name:?} already exists", kind.id))
            .about(kind, name)
    }

    /// A stale resourceVersion or a failed precondition.
    pub fn stale(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.id);
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// Server-side apply met fields of others: `(manager as shown, dotted field)`, one cause each.
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let message = match conflicts {
            [(manager, field)] => format!("Apply failed with 1 conflict: conflict with {manager}: {field}"),
            many => {
                let mut managers: Vec<_> = many.iter().map(|(m, _)| m).collect();
                managers.sort();
                managers.dedup();
                let mut lines = Vec::new();
                for manager in managers {
                    lines.push(format!("conflicts with {manager}:"));
                    let fields = many.iter().filter(|(m, _)| m == manager);
                    lines.extend(fields.map(|(_, field)| format!("- {field}")));
                }
                format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
            }
        };
        let causes: Vec<_> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": field})
            })
            .collect();
        let mut refusal = Self::new(409, "Conflict", message);
        refusal.details = Some(json!({"causes": causes}));
        refusal
    }

    /// Fields of the object are wrong.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let lines: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        let list = if let [one] = lines.as_slice() { one.clone() } else { format!("[{}]", lines.join(", ")) };
        let dotted =
            if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let causes: Vec<_> = errors
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect();
        let mut refusal = Self::new(422, "Invalid", format!("{dotted} {name:?} is invalid: {list}"));
        let mut details = json!({"name": name, "kind": kind.kind, "causes": causes});
        if !kind.group.is_empty() {
            details["group"] = json!(kind.group);
        }
        refusal.details = Some(details);
        refusal
    }

    /// An option of the request is wrong: `field` of `PatchOptions`.
    pub fn patch_option(field: &str, reason: &'static str, message: &str) -> Self {
        let text = format!("PatchOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
        let mut refusal = Self::new(422, "Invalid", text);
        refusal.details = Some(json!({"group": "meta.k8s.io", "kind": "PatchOptions"}));
        refusal.because(reason, message, field)
    }

    /// The server's own fault, as far as it can tell: a status without a reason.
    pub fn unexplained(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// Nothing new comes into a namespace that ends.
    pub fn terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        Self::forbidden(kind, name, why).because(
            "NamespaceTerminating",
            &format!("namespace {namespace} is being terminated"),
            "metadata.namespace",
        )
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
        let mut refusal = Self::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        let message =
            format!("The disruption budget {budget} needs {wanted} healthy pods and has {healthy} currently");
        refusal.details = Some(json!({"causes": [{"reason": "DisruptionBudget", "message": message}]}));
        refusal
    }

    /// The server failed; `cause` is repeated in the details, as the real one does.
    pub fn internal(cause: impl Into<String>) -> Self {
        let cause = cause.into();
        let mut refusal = Self::new(500, "InternalError", format!("Internal error occurred: {cause}"));
        refusal.details = Some(json!({"causes": [{"message": cause}]}));
        refusal
    }

    /// The verb does not exist for this resource.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// The patch's content type is not known.
    pub fn unsupported_patch(content_type: &str) -> Self {
        let message = if content_type == "application/strategic-merge-patch+json" {
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        } else {
            "415: Unsupported Media Type"
        };
        Self::new(415, "UnsupportedMediaType", message)
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
