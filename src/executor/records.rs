//! A host keeps the records of the runs that touched it, so that those of another machine can be compared with them. Only ever
//! appended to; what they say is decided elsewhere.

use super::target::{HostTarget, STATE_DIR};
use crate::state::{Failure, FailureKind};
use crate::template::quote;
use base64::Engine;
use std::time::Duration;

/// Writing some kilobytes takes no longer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Lines of a chain that are read, in bytes: the newest.
const MOST_READ: usize = 4 << 20;

impl HostTarget {
    /// Keeps a run's records on the host: lines of the chain, and files by name. Nothing is kept on a host that nothing of ours is on.
    pub async fn keep_records(&self, lines: &[String], files: &[(String, String)]) -> Result<(), Failure> {
        let mut shell =
            format!("(\ncd {} || exit 0; umask 077; mkdir -p records || exit 1\n", quote(STATE_DIR));
        for (name, text) in files {
            let (name, text) = (quote(name), base64::engine::general_purpose::STANDARD.encode(text));
            shell += &format!(
                "base64 -d >records/{name}.new <<'RECORD_END' && mv records/{name}.new records/{name} || exit 1\n{text}\nRECORD_END\n"
            );
        }
        // A line that a full disk cut off does not swallow the next one.
        shell += "exec 9>>records/chain || exit 1\n[ ! -s records/chain ] || [ -z \"$(tail -c 1 records/chain)\" ] || echo >&9\n";
        for line in lines {
            shell += &format!("printf '%s\\n' {} >&9 || exit 1\n", quote(line));
        }
        shell += "echo kept\n) || echo failed\n";
        let said = self.output_within(&shell, DEADLINE).await?;
        let gone = said.trim().is_empty();
        match said.trim().ends_with("kept") || gone {
            true => Ok(()),
            false => Err(Failure::new(
                FailureKind::Step,
                "E-RECORD",
                "the run's record could not be written on the host",
            )),
        }
    }

    /// Returns the lines of the chain that the host has, the newest last.
    pub async fn records(&self) -> Result<Vec<String>, Failure> {
        let file = quote(&format!("{STATE_DIR}/records/chain"));
        let shell = format!("[ ! -e {file} ] || tail -c {MOST_READ} {file}");
        let said = self.output(&shell).await?;
        let mut lines: Vec<String> =
            said.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect();
        // The first may have been cut off.
        if said.len() >= MOST_READ && !lines.is_empty() {
            lines.remove(0);
        }
        Ok(lines)
    }
}
