//! Errors of use cases. Modules below report what failed; this module adds the code and the hint.

use crate::artifact::{ArtifactError, BundleError, Defect, LockError};
use crate::catalog::CatalogError;
use crate::inventory::{Diagnostics, LimitError, SecretError};
use crate::plan::SavedError;
use crate::run::JournalError;
use crate::serving::ServingError;
use crate::state::{Failure, FailureKind};
use std::error::Error as _;
use std::path::Path;

/// Why a use case could not be carried out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is named for what it wraps")]
pub enum Error {
    /// The inventory has mistakes; each with its place and a hint.
    #[error("{0}")]
    Inventory(Diagnostics),
    /// Anything that has a code and a hint of its own already.
    #[error("{}", .0.message)]
    Failure(Box<Failure>),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    SavedPlan(#[from] SavedError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// A file or a process of this machine.
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
    /// An answer or a file that is not what it should be.
    #[error("{what}")]
    Malformed { what: String, source: Box<dyn std::error::Error + Send + Sync> },
}

/// What a use case returns.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

/// Returns an error with a code and what to do.
pub(crate) fn coded(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Failure::new(FailureKind::Preflight, code, message).hint(hint).into()
}

/// Returns the hint that names what may be specified.
pub(crate) fn one_of(names: &[String]) -> String {
    match names {
        [one] => format!("Specify {one}"),
        names => format!("Specify one of: {}", names.join(", ")),
    }
}

/// Returns a function that creates the error of an operation on a path.
pub(super) fn cannot<'a>(verb: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io { what: format!("cannot {verb} {}", path.display()), source }
}

/// Returns a function that creates the error of an operation.
pub(super) fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { what: what.to_owned(), source }
}

impl Error {
    /// Returns the code, and what to do about it, of an error that has none of its own.
    fn code_and_hint(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Bundle(error) => bundle_code(error),
            Self::Limit(_) => (
                "E-LIMIT",
                "Use names, pools, patterns (`h-*`), ranges (`h-[001-010]`), or `!` to exclude; list hosts with `provision facts`",
            ),
            Self::SavedPlan(_) => ("E-PLAN-FILE", "Save a plan with `provision plan -o FILE`"),
            Self::Lock(_) => ("E-LOCK-FILE", "Run `provision lock` and commit the file it writes"),
            Self::Catalog(_) => ("E-CATALOG", "Run `provision catalog check` to find contradictory rows"),
            Self::Secret(_) => (
                "E-SECRET",
                "Provide it on this machine as defined under `secrets` (paths are relative to the inventory), or change its source there",
            ),
            Self::Journal(_) => {
                ("E-JOURNAL", "Move the file away: it is only a cache, and hosts are observed again anyway")
            }
            Self::Io { .. } => ("E-FILE", "Check that the path exists and that you can read and write it"),
            _ => return None,
        })
    }

    /// Returns the error as a failure: code (empty where there is none), message, causes (a line each) and hint, for a
    /// person or JSON.
    /// Errors of an inventory are one text; callers that can show each with its location match on them.
    pub fn failure(&self) -> Failure {
        if let Self::Failure(failure) = self {
            return (**failure).clone();
        }
        let (code, hint) = self.code_and_hint().unzip();
        let mut failure = Failure::new(FailureKind::Preflight, code.unwrap_or_default(), self.to_string());
        if matches!(self, Self::Inventory(_)) {
            failure.code = "E-INVENTORY".to_owned();
        }
        failure.hint = hint.map(str::to_owned);
        if let Self::Bundle(BundleError::Incomplete { defects, .. } | BundleError::Fetch(defects)) = self {
            failure.tail = lines(defects);
        }
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        failure.cause = (!causes.is_empty()).then(|| causes.join("\n"));
        failure
    }
}

/// Lines of files that an error of a bundle shows before it counts the others.
const MOST_DEFECTS: usize = 20;

fn lines(defects: &[Defect]) -> Vec<String> {
    let others = defects.len().saturating_sub(MOST_DEFECTS);
    let shown = defects.iter().take(MOST_DEFECTS).map(ToString::to_string);
    shown.chain((others > 0).then(|| format!("and {others} more"))).collect()
}

/// Returns the code, and what to do about it, of an error of a bundle.
fn bundle_code(error: &BundleError) -> (&'static str, &'static str) {
    const AGAIN: &str =
        "Run `provision bundle --to DIR` again where its sources can be reached, then copy the whole folder";
    match error {
        BundleError::Foreign { .. } => {
            ("E-BUNDLE-FOLDER", "Name a new or empty folder with --to, or one with a bundle")
        }
        BundleError::Busy(_) => ("E-BUNDLE-BUSY", "Wait for it to end"),
        BundleError::Space { .. } => {
            ("E-BUNDLE-SPACE", "Free space, or name a folder on a larger disk with --to")
        }
        BundleError::Fetch(_) => (
            "E-BUNDLE-FETCH",
            "Set HTTPS_PROXY, or add mirrors under `urls` in provision.lock, then run the same command again",
        ),
        BundleError::Incomplete { .. } => ("E-MIRROR", AGAIN),
        BundleError::Index { .. } => (
            "E-MIRROR-INDEX",
            "Name the folder that `provision bundle --to DIR` has written, or a URL at which it is served",
        ),
        BundleError::File { .. } => {
            ("E-FILE", "Check that the path exists and that you can read and write it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_code_its_cause_and_what_to_do() {
        let limit = Error::from(LimitError::Empty).failure();
        assert_eq!((limit.code.as_str(), limit.cause), ("E-LIMIT", None));
        assert_eq!(limit.message, "--limit selects no active host");
        assert!(limit.hint.is_some_and(|hint| hint.contains("h-[001-010]")));

        let nowhere = Path::new("/nowhere/at/all");
        let file = std::fs::read(nowhere).map_err(cannot("read", nowhere)).expect_err("not there").failure();
        assert_eq!((file.code.as_str(), file.message.as_str()), ("E-FILE", "cannot read /nowhere/at/all"));
        assert!(file.cause.is_some_and(|cause| cause.starts_with("No such file")));

        let own = coded("E-USAGE", "no host given", "--limit HOSTS").failure();
        assert_eq!((own.code.as_str(), own.hint.as_deref()), ("E-USAGE", Some("--limit HOSTS")));
    }
}
