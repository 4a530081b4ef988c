//! Errors at the edge: each with its code, what it is, and what to do. Rooms say what failed; here it is said once.

use crate::artifact::LockError;
use crate::catalog::CatalogError;
use crate::inventory::{LimitError, SecretError};
use crate::plan::SavedError;
use crate::run::JournalError;
use crate::state::{Failure, FailureKind};

/// An error that has been printed already.
#[derive(Debug, thiserror::Error)]
#[error("see above")]
pub struct Silent;

/// Returns an error of usage, with what to do.
pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    coded("E-USAGE", message, hint)
}

/// Returns an error with a code and what to do.
pub fn coded(code: &str, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Failure::new(FailureKind::Preflight, code, message).hint(hint).into()
}

/// Returns the code of a room's own error, and what to do about it.
fn known(error: &(dyn std::error::Error + 'static)) -> Option<(&'static str, &'static str)> {
    match () {
        () if error.is::<LimitError>() => Some((
            "E-LIMIT",
            "names, pools, patterns (`h-*`), ranges (`h-[001-010]`), `!` leaves out; provision facts lists the hosts",
        )),
        () if error.is::<SavedError>() => Some(("E-PLAN-FILE", "provision plan -o FILE makes one")),
        () if error.is::<LockError>() => {
            Some(("E-LOCK-FILE", "provision lock makes it anew; commit what it writes"))
        }
        () if error.is::<CatalogError>() => {
            Some(("E-CATALOG", "provision catalog check names rows that contradict one another"))
        }
        () if error.is::<SecretError>() => {
            Some(("E-SECRET", "give this machine what the reference under `secrets` names"))
        }
        () if error.is::<JournalError>() => {
            Some(("E-JOURNAL", "it is only a cache: move the file away; hosts are observed afresh anyway"))
        }
        () if error.is::<std::io::Error>() => {
            Some(("E-FILE", "check that the path exists and that you may read and write it"))
        }
        () => None,
    }
}

/// Prints an error with its chain, once, its code, and what to do.
pub fn print_error(error: &anyhow::Error) {
    if error.is::<Silent>() {
        return;
    }
    eprint!("{}", error_text(error));
}

/// Returns an error as it is printed.
fn error_text(error: &anyhow::Error) -> String {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        let mut text = format!("error[{}]: {}\n", failure.code, failure.message);
        for line in &failure.tail {
            text += &format!("  | {line}\n");
        }
        if let Some(cause) = &failure.cause {
            text += &format!("  = cause: {cause}\n");
        }
        if let Some(hint) = &failure.hint {
            text += &format!("  = next: {hint}\n");
        }
        return text;
    }
    let known = error.chain().find_map(known);
    let code = known.map(|(code, _)| format!("[{code}]")).unwrap_or_default();
    let mut text = format!("error{code}: {error}\n");
    for cause in error.chain().skip(1) {
        text += &format!("  = cause: {cause}\n");
    }
    if let Some((_, hint)) = known {
        text += &format!("  = next: {hint}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn every_error_says_its_code_its_cause_and_what_to_do() {
        let limit: anyhow::Error = LimitError::Empty.into();
        assert!(
            error_text(&limit).starts_with("error[E-LIMIT]: --limit selects no active host\n  = next: names")
        );
        let file = std::fs::read("/nowhere/at/all").context("cannot read the key").expect_err("not there");
        let text = error_text(&file);
        assert!(text.starts_with("error[E-FILE]: cannot read the key\n  = cause: No such file"), "{text}");
        assert!(text.contains("  = next: check that the path exists"), "{text}");
        let usage = error_text(&usage("say on which hosts", "--limit HOSTS"));
        assert_eq!(usage, "error[E-USAGE]: say on which hosts\n  = next: --limit HOSTS\n");
    }
}
