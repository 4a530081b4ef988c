//! Errors at the edge: each with its code, what it is, and what to do. Modules report what failed; it is printed here, once.

use super::exit;
use super::session::print_findings;
use super::terminal::{Annotation, annotate};
use crate::fleet;
use crate::report::within;
use crate::state::{Failure, FailureKind, plain_line};

/// An error that has been printed already.
#[derive(Debug, thiserror::Error)]
#[error("see above")]
pub(super) struct Silent;

/// Returns an error of usage, with what to do.
pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    coded("E-USAGE", message, hint)
}

/// Returns an error with a code and what to do.
pub(super) fn coded(code: &str, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Failure::new(FailureKind::Preflight, code, message).hint(hint).into()
}

/// Prints an error with its chain, once, its code, and what to do.
pub(super) fn print_error(error: &anyhow::Error) {
    if error.is::<Silent>() {
        return;
    }
    if let Some(fleet::Error::Inventory(found)) = error.downcast_ref() {
        return print_findings(found);
    }
    let failure = failure_of(error);
    eprint!("{}", failure_text(&failure));
    let title = if failure.code.is_empty() { "provision" } else { &failure.code };
    annotate(Annotation::Error, title, None, &failure.message);
}

/// Returns the exit code that an error ends the command with.
pub(super) fn exit_code(error: &anyhow::Error) -> u8 {
    let failure = error.downcast_ref::<fleet::Error>().map(fleet::Error::failure);
    match failure.as_ref().or(error.downcast_ref()).map(|failure| failure.kind) {
        Some(FailureKind::Locked) => exit::LOCKED,
        _ => exit::FAILED,
    }
}

/// Returns an error as it is reported.
pub(super) fn failure_of(error: &anyhow::Error) -> Failure {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    if let Some(error) = error.downcast_ref::<fleet::Error>() {
        return error.failure();
    }
    let is_file = error.chain().any(|cause| cause.is::<std::io::Error>());
    let (code, hint) = match is_file {
        true => ("E-FILE", Some("Check that the path exists and that you can read and write it".to_owned())),
        false => ("", None),
    };
    let mut failure = Failure::new(FailureKind::Preflight, code, error.to_string());
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    failure.cause = (!causes.is_empty()).then(|| causes.join("\n"));
    failure.hint = hint;
    failure
}

fn failure_text(failure: &Failure) -> String {
    let code = if failure.code.is_empty() { String::new() } else { format!("[{}]", failure.code) };
    let mut text = format!("error{code}: {}\n", within(&failure.message));
    for line in &failure.tail {
        text += &format!("  | {}\n", plain_line(line));
    }
    for cause in failure.cause.iter().flat_map(|cause| cause.lines()) {
        text += &format!("  = cause: {}\n", within(cause));
    }
    if let Some(hint) = &failure.hint {
        text += &format!("  = next: {hint}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::LimitError;
    use anyhow::Context;

    #[test]
    fn every_error_says_its_code_its_cause_and_what_to_do() {
        let limit: anyhow::Error = fleet::Error::from(LimitError::Empty).into();
        let text = failure_text(&failure_of(&limit));
        assert!(text.starts_with("error[E-LIMIT]: --limit selects no active host\n  = next: "), "{text}");
        let file = std::fs::read("/nowhere/at/all").context("cannot read the key").expect_err("not there");
        let text = failure_text(&failure_of(&file));
        assert!(text.starts_with("error[E-FILE]: cannot read the key\n  = cause: No such file"), "{text}");
        assert!(text.contains("  = next: Check that the path exists"), "{text}");
        let usage =
            failure_text(&failure_of(&usage("Specify hosts with --pool or --limit", "--limit HOSTS")));
        assert_eq!(usage, "error[E-USAGE]: Specify hosts with --pool or --limit\n  = next: --limit HOSTS\n");
    }
}
