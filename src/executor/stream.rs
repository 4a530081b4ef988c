//! Archives from and to a host, piece by piece: neither end holds a whole one in memory.

use super::HostTarget;
use super::frame::Sections;
use super::target::prelude;
use crate::state::{Failure, FailureKind};
use crate::template::quote;
use base64::Engine as _;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::Duration;

/// A host may be silent for so long: a snapshot of a large store takes minutes before its first byte.
const SILENCE: Duration = Duration::from_secs(600);
/// A piece of an upload arrives within this time.
const PIECE_DEADLINE: Duration = Duration::from_secs(120);
/// Lines of a program's log that a failure shows.
const LINES: usize = 20;
/// Bytes of one piece.
const PIECE: usize = 1 << 20;

/// A program that does nothing: a shell that answers it is root's.
const NOTHING: &str = "printf '\\036end 0\\n'\n";

impl HostTarget {
    /// Runs a shell program as root and hands each piece of what it prints to `take`, until it ends. An error of `take` ends it
    /// early. A program that fails, or a connection that ends first, is an error: what was taken so far is incomplete.
    pub async fn pour(
        &self,
        program: &str,
        take: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Failure> {
        let (mut shell, _) = self.first(&(prelude() + NOTHING), PIECE_DEADLINE, "answer").await?;
        let mut refused = None;
        let ended = {
            let mut take = |bytes: &[u8]| {
                refused = take(bytes).err();
                refused.is_none()
            };
            shell
                .pour(&format!("main() {{\n{program}}}\nmain </dev/null; exit $?\n"), SILENCE, &mut take)
                .await
        };
        let host = self.host();
        match (refused, ended) {
            (Some(error), _) => Err(Failure::new(
                FailureKind::Step,
                "E-FILE",
                format!("cannot keep what {host} sends: {error}"),
            )),
            (None, Ok(Some(0))) => Ok(()),
            (None, Ok(rc)) => {
                let said = shell.stderr();
                // Of a log, the end says why.
                let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
                let end = self.shown(&lines[lines.len().saturating_sub(LINES)..].join("\n"));
                let last = end.back().map_or("no message", |line| line.trim());
                let mut failure = Failure::new(FailureKind::Step, "E-STREAM", format!("{host}: {last}"));
                failure.exit = rc;
                failure.tail = end.into();
                Err(failure)
            }
            (None, Err(error)) => Err(self.shell_failure(error, &shell, "archive")),
        }
    }

    /// Writes a file that is root's alone, piece by piece, and puts it in place when it has arrived whole. Calls `sent` with the
    /// number of bytes after each piece. Returns its sha256, which the host has computed too.
    pub async fn put_large(
        &self,
        path: &str,
        from: &mut (dyn Read + Send),
        sent: &mut (dyn FnMut(u64) + Send),
    ) -> Result<String, Failure> {
        let path = quote(path);
        let begin = format!(
            "{}p={path}; n=$p.new; umask 077; mkdir -p -- \"${{p%/*}}/\"; : >\"$n\"; printf '\\036rc\\n%s\\n\\036end 0\\n' $?\n",
            prelude()
        );
        let (mut shell, answer) = self.first(&begin, PIECE_DEADLINE, "answer").await?;
        let failed =
            |why: String| Failure::new(FailureKind::Step, "E-UPLOAD", format!("{}: {why}", self.host()));
        let ok = |answer: &str| {
            let sections = Sections::parse(answer).unwrap_or_default();
            let rc = sections.first("rc").to_owned();
            if rc == "0" {
                Ok(sections)
            } else {
                Err(failed("the file cannot be written; is the disk full?".to_owned()))
            }
        };
        ok(&answer)?;
        let mut digest = Sha256::new();
        let (mut piece, mut total) = (vec![0; PIECE], 0u64);
        loop {
            let mut filled = 0;
            while filled < PIECE {
                match from.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) => return Err(failed(format!("the file cannot be read: {error}"))),
                }
            }
            if filled == 0 {
                break;
            }
            digest.update(&piece[..filled]);
            let text = base64::engine::general_purpose::STANDARD.encode(&piece[..filled]);
            let program = format!(
                "base64 -d >>\"$n\" <<'PIECE_END'\n{text}\nPIECE_END\nprintf '\\036rc\\n%s\\n\\036end 0\\n' $?\n"
            );
            match shell.run(&program, PIECE_DEADLINE).await {
                Ok(answer) => ok(&answer)?,
                Err(error) => return Err(self.shell_failure(error, &shell, "receipt")),
            };
            total += filled as u64;
            sent(total);
        }
        let end = "s=$(sha256sum <\"$n\") && { sync \"$n\" 2>/dev/null || sync; } && mv -f -- \"$n\" \"$p\"; \
                   printf '\\036rc\\n%s\\n\\036sum\\n%s\\n\\036end 0\\n' $? \"${s%% *}\"\n";
        let answer = match shell.run(end, SILENCE).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.shell_failure(error, &shell, "receipt")),
        };
        shell.end().await;
        let sum: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if ok(&answer)?.first("sum") != sum {
            return Err(failed("the file arrived with another sha256".to_owned()));
        }
        Ok(sum)
    }
}
