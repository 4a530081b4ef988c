//! Classifies API errors: transient ones, those that need a person, and their messages.

use crate::state::{Failure, FailureKind};
use kube::core::Status;

/// What one field manager holds against us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    /// The manager.
    pub manager: String,
    /// The field, dotted, with a leading dot.
    pub field: String,
}

/// Returns whether the object, or its kind, is not there.
pub(super) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Returns whether a retry may help: the connection was lost (another controller takes
/// over), the server is starting or busy, a kind is about to be served, a webhook about to answer.
pub(super) fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            matches!(status.code, 404 | 429 | 502..=504)
                || (status.code == 500 && {
                    let phrases =
                        ["failed calling webhook", "connection refused", "x509", "etcdserver", "timed out"];
                    phrases.iter().any(|p| status.message.contains(p))
                })
                // A write met another; the next try reads again.
                || (status.code == 409 && status.message.contains("Operation cannot be fulfilled on"))
                // A namespace that somebody deleted is made again once it is gone.
                || is_ending(status)
        }
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        _ => false,
    }
}

/// Returns whether an object was refused because its namespace is being deleted (its cause is `NamespaceTerminating`,
/// k8s.io/apiserver, namespace lifecycle).
fn is_ending(status: &Status) -> bool {
    status.code == 403 && status.message.contains("because it is being terminated")
}

/// Returns whether the API was too busy to answer a read.
pub(super) fn is_busy(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 429 | 503))
}

/// Returns whether the object itself is refused: its fields, by the schema, the validation or a webhook.
fn is_refused(status: &Status) -> bool {
    matches!(status.code, 400 | 422)
        // An apply that does not fit the schema is a 500 without a reason.
        || (status.code == 500 && status.message.starts_with("failed to create typed patch object"))
        || (status.code == 403 && status.message.contains("denied the request"))
}

/// Returns whether the API could not be talked to at all.
pub(super) fn is_unreachable(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_))
}

/// Formats an error on one line, from its innermost cause if the outer ones are empty.
pub(super) fn phrase(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => match status.message.lines().next() {
            Some(line) if !line.is_empty() => line.to_owned(),
            _ => format!("HTTP {} {}", status.code, status.reason),
        },
        other => {
            let mut cause: &dyn std::error::Error = other;
            while let Some(source) = cause.source() {
                cause = source;
            }
            cause.to_string()
        }
    }
}

/// Returns who owns the fields that a server-side apply wanted; empty if the error is no such conflict.
pub(super) fn claims(error: &kube::Error) -> Vec<Claim> {
    let kube::Error::Api(status) = error else { return Vec::new() };
    claims_of(status)
}

fn claims_of(status: &Status) -> Vec<Claim> {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes
        .filter(|c| c.reason == "FieldManagerConflict")
        .map(|c| Claim {
            // conflict with "kubectl-edit" using apps/v1
            manager: c.message.split('"').nth(1).unwrap_or("another manager").to_owned(),
            field: c.field.clone(),
        })
        .collect()
}

/// Returns the failure of a step.
pub(super) fn failure(what: &str, error: &kube::Error) -> Failure {
    let claims = claims(error);
    if !claims.is_empty() {
        let said: Vec<String> =
            claims.iter().map(|c| format!("{} is owned by {}", c.field, c.manager)).collect();
        return Failure::new(FailureKind::Step, "E-K8S-CONFLICT", format!("{what}: {}", said.join(", ")))
            .hint(
                "Stop the other field manager, or remove the field from the inventory; after a change that was made once, \
             set the field back with kubectl edit and apply: what kubectl has set is taken back \
             (kubectl get --show-managed-fields shows the owners)",
            );
    }
    let code = match error {
        kube::Error::Api(status) if is_refused(status) => "E-K8S-INVALID",
        kube::Error::Api(status) if matches!(status.code, 401 | 403) && !is_ending(status) => "E-K8S-AUTH",
        error if is_unreachable(error) => "E-K8S-UNREACHABLE",
        _ => "E-K8S-API",
    };
    let failure = Failure::new(FailureKind::Step, code, format!("{what}: {}", phrase(error)));
    match code {
        "E-K8S-AUTH" => {
            failure.hint("the admin kubeconfig on the controller is no longer valid for the cluster")
        }
        "E-K8S-UNREACHABLE" => failure.hint(
            "On a controller, run `systemctl status k0scontroller` and `k0s kubectl get --raw /readyz`",
        ),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn api(status: serde_json::Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(status).expect("a status")))
    }

    #[test]
    fn a_conflict_names_every_manager_and_field() {
        let error = api(
            json!({"code": 409, "reason": "Conflict", "message": "Apply failed with 2 conflicts",
            "details": {"causes": [
                {"reason": "FieldManagerConflict", "field": ".spec.replicas", "message": "conflict with \"hpa\" using apps/v1"},
                {"reason": "FieldManagerConflict", "field": ".spec.paused", "message": "conflict with \"kubectl-edit\" using apps/v1"}]}}),
        );
        let failure = failure("Deployment x", &error);
        assert_eq!(failure.code, "E-K8S-CONFLICT");
        assert_eq!(
            failure.message,
            "Deployment x: .spec.replicas is owned by hpa, .spec.paused is owned by kubectl-edit"
        );
        assert!(!may_pass(&error), "trying again does not help");
    }

    #[test]
    fn a_webhook_that_does_not_answer_passes_and_a_bad_object_does_not() {
        let webhook = "Internal error occurred: failed calling webhook \"validate-modelroute.volcano.sh\": connection refused";
        assert!(may_pass(&api(json!({"code": 500, "message": webhook}))));
        assert!(may_pass(&api(
            json!({"code": 409, "message": "Operation cannot be fulfilled on nodes \"a\": changed"})
        )));
        assert!(may_pass(&api(
            json!({"code": 404, "message": "the server could not find the requested resource"})
        )));
        let untyped = json!({"code": 500, "message": "failed to create typed patch object (a/b; /v1, Kind=Service): .spec.x: field not \
            declared in schema"});
        assert!(!may_pass(&api(untyped.clone())));
        assert_eq!(failure("a", &api(untyped)).code, "E-K8S-INVALID");
        let denied = json!({"code": 403, "reason": "Forbidden", "message": "admission webhook \"x\" denied the request: no"});
        assert_eq!(failure("a", &api(denied)).code, "E-K8S-INVALID");
        let ending = api(
            json!({"code": 403, "reason": "Forbidden", "message": "configmaps \"a\" is forbidden: unable to create new \
            content in namespace b because it is being terminated"}),
        );
        assert!(may_pass(&ending), "it is made again once it is gone");
        assert_eq!(failure("a", &ending).code, "E-K8S-API");
        let strict = api(json!({"code": 400, "message": "strict decoding error: unknown field \"spec.x\""}));
        assert!(!may_pass(&strict));
        assert_eq!(failure("a", &strict).code, "E-K8S-INVALID");
        let message = failure("a", &strict).message;
        assert_eq!(message, "a: strict decoding error: unknown field \"spec.x\"");
    }
}
