//! Why a bundle cannot be written or used.

use std::path::PathBuf;

/// Why a bundle cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A folder that has something else.
    #[error("{path} is not empty and is not a bundle: it has {found}")]
    Foreign {
        /// The folder.
        path: String,
        /// What is in it.
        found: String,
    },
    /// Another process writes it.
    #[error("another process is writing the bundle in {0}")]
    Busy(String),
    /// The disk is too small.
    #[error("{path} has {free} free, {needed} are needed")]
    Space {
        /// The folder.
        path: String,
        /// What is needed, for people.
        needed: String,
        /// What there is, for people.
        free: String,
    },
    /// Files that could not be fetched.
    #[error("cannot fetch {}; what was fetched is kept", names(.0))]
    Fetch(Vec<Defect>),
    /// Files that a bundle should have.
    #[error("the bundle in {place} is incomplete or damaged: {}", names(.defects))]
    Incomplete {
        /// The bundle.
        place: String,
        /// What is wrong.
        defects: Vec<Defect>,
    },
    /// Not a bundle.
    #[error("cannot read the bundle in {place}: {why}")]
    Index {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What is wrong with a file of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defect {
    /// What sort.
    pub kind: DefectKind,
    /// The artifact and its version.
    pub artifact: String,
    /// The file that should have it, or the source that was asked.
    pub file: String,
    /// What is wrong.
    pub why: String,
}

/// What sort of thing is wrong with a file of a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefectKind {
    /// It is not there.
    Missing,
    /// It is something else than it should be.
    Content,
    /// It could not be read or fetched.
    Unreadable,
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {}", self.artifact, self.file, self.why)
    }
}

/// Artifacts that a message names before it counts the others.
const MOST_NAMED: usize = 3;

fn names(defects: &[Defect]) -> String {
    let mut named: Vec<&str> = defects.iter().map(|defect| defect.artifact.as_str()).collect();
    named.dedup();
    let others = named.len().saturating_sub(MOST_NAMED);
    let text = named[..named.len() - others].join(", ");
    if others == 0 { text } else { format!("{text} and {others} more") }
}
