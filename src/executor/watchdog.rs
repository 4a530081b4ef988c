//! What keeps a tool that hangs from holding up the program that observes a host. Owns the choice, and the shell for it.

use std::time::Duration;

/// How the tools of an observing program are bounded in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watchdog {
    /// The whole program is abandoned after [`FACTS_WITHIN`] or [`STATE_WITHIN`], and runs again with one per tool. Each tool
    /// costs one process, which is most of what observing a host costs.
    Whole,
    /// Each tool is given up on its own, so only its own answer is missing. It costs two processes more.
    PerTool,
}

/// Facts take milliseconds where no tool hangs.
pub(super) const FACTS_WITHIN: Duration = Duration::from_secs(10);
/// State as well, unless much has to be hashed.
pub(super) const STATE_WITHIN: Duration = Duration::from_secs(30);

impl Watchdog {
    /// Returns the shell function `t SECONDS TOOL ARGUMENTS…`, which runs a tool without its standard error. What hangs in the
    /// kernel cannot be killed, but the shell around it can.
    pub(crate) fn function(self) -> &'static str {
        match self {
            Self::Whole => "t() { shift; \"$@\" 2>/dev/null; }\n",
            Self::PerTool => {
                "t() { s=$1; shift; timeout -k 1 \"$s\" /bin/sh -c '\"$@\"; exit $?' t \"$@\" 2>/dev/null; }\n"
            }
        }
    }
}
