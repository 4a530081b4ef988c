//! Why a file cannot be imported at all; what of it is left out are notes.

use crate::inventory::{Diagnostics, MOST_HOSTS};

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Its format is none of those known.
    #[error("{0}")]
    Format(&'static str),
    /// It is a program.
    #[error("it is a program, and imported files are not run")]
    Program,
    /// It is not the YAML that its format is.
    #[error("{0}")]
    Yaml(Diagnostics),
    /// Its columns, or those named on the command line, do not fit.
    #[error("{0}")]
    Columns(String),
    /// It has no host that can be used; what was left out, a line each.
    #[error("it has no host to import")]
    Empty(Vec<String>),
    /// It has too many hosts.
    #[error("it has more than {MOST_HOSTS} hosts")]
    TooMany,
    /// Its groups or patterns are too many, or contain each other too deeply.
    #[error("its groups, patterns or variables are too many, or nested too deeply")]
    TooComplex,
}
