//! A root shell on a host: programs in, framed output out.

use super::bounded::{Bounded, MOST_STDERR};
use crate::ssh::{Chunk, Session, SshError, Transport};
use bytes::Bytes;
use std::time::Duration;

/// Output beyond this is an error, in bytes.
const MOST_OUTPUT: usize = 64 << 20;

/// What a login says instead of running a program is a few lines, in bytes.
const MOST_INSTEAD: usize = 4 << 10;

/// A root shell that reads its program from standard input.
pub(super) struct RootShell {
    session: Box<dyn Session>,
    out: Vec<u8>,
    stderr: Bounded,
}

/// Why there is no complete output.
#[derive(Debug)]
pub(super) enum RootShellError {
    /// SSH itself.
    Ssh(SshError),
    /// The shell ended first, with this status.
    Ended(i32),
    /// The connection ended first.
    Lost,
    /// The deadline passed.
    TimedOut,
    /// More output than any program prints.
    Flood,
}

impl RootShell {
    pub(super) async fn start(transport: &dyn Transport, command: &str) -> Result<Self, SshError> {
        let stderr = Bounded::new(MOST_STDERR);
        Ok(Self { session: transport.open(command).await?, out: Vec::new(), stderr })
    }

    /// Returns the beginning of standard error.
    pub(super) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Returns whether a program of ours ever printed: a frame begins with a byte that nothing else prints.
    pub(super) fn has_begun(&self) -> bool {
        self.out.contains(&0x1e)
    }

    /// Returns the beginning of what was printed in place of any program of ours.
    pub(super) fn printed_instead(&self) -> String {
        if self.has_begun() {
            return String::new();
        }
        String::from_utf8_lossy(&self.out[..self.out.len().min(MOST_INSTEAD)]).into_owned()
    }

    /// Sends a program and returns its output up to and including the end frame.
    pub(super) async fn run(&mut self, program: &str, deadline: Duration) -> Result<String, RootShellError> {
        tokio::time::timeout(deadline, self.run_to_end_frame(program))
            .await
            .unwrap_or(Err(RootShellError::TimedOut))
    }

    /// Sends bytes to the program that runs. Returns whether they were taken.
    pub(super) async fn feed(&mut self, bytes: &[u8], deadline: Duration) -> bool {
        let sent = self.session.send(Bytes::copy_from_slice(bytes));
        tokio::time::timeout(deadline, sent).await.is_ok_and(|sent| sent.is_ok())
    }

    /// Returns what the program that runs prints up to its next end frame.
    pub(super) async fn answer(&mut self, deadline: Duration) -> Result<String, RootShellError> {
        let answer = tokio::time::timeout(deadline, self.read_to_end(Ok(()))).await;
        answer.unwrap_or(Err(RootShellError::TimedOut))
    }

    async fn run_to_end_frame(&mut self, program: &str) -> Result<String, RootShellError> {
        // A shell that has already ended refuses input; its output can still be read.
        let sent = self.session.send(Bytes::from(program.to_owned())).await;
        self.read_to_end(sent).await
    }

    async fn read_to_end(&mut self, sent: Result<(), SshError>) -> Result<String, RootShellError> {
        let mut exit = None;
        let mut scanned = 0;
        loop {
            if let Some(end) = find_end(&self.out, &mut scanned) {
                let rest = self.out.split_off(end);
                let output = std::mem::replace(&mut self.out, rest);
                return Ok(String::from_utf8_lossy(&output).into_owned());
            }
            match self.session.next().await {
                Some(Chunk::Stdout(bytes)) if self.out.len() + bytes.len() <= MOST_OUTPUT => {
                    self.out.extend_from_slice(&bytes);
                }
                Some(Chunk::Stdout(_)) => return Err(RootShellError::Flood),
                Some(Chunk::Stderr(bytes)) => {
                    self.stderr.push(&bytes);
                    if self.stderr.is_flood() {
                        return Err(RootShellError::Flood);
                    }
                }
                Some(Chunk::Exit(rc)) => exit = Some(rc),
                None => {
                    return Err(match (exit, sent) {
                        (Some(rc), _) => RootShellError::Ended(rc),
                        (None, Err(error)) => RootShellError::Ssh(error),
                        (None, Ok(())) => RootShellError::Lost,
                    });
                }
            }
        }
    }

    /// Sends a last program and hands on each piece of what it prints until the shell ends, or `take` wants no more. Returns the
    /// shell's status; `None` if it was not waited for. A pause longer than `silence` ends it.
    pub(super) async fn pour(
        &mut self,
        program: &str,
        silence: Duration,
        take: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<Option<i32>, RootShellError> {
        let sent = self.session.send(Bytes::from(program.to_owned())).await;
        let mut exit = None;
        loop {
            let next = tokio::time::timeout(silence, self.session.next()).await;
            match next.map_err(|_| RootShellError::TimedOut)? {
                Some(Chunk::Stdout(bytes)) if !take(&bytes) => return Ok(None),
                Some(Chunk::Stdout(_)) => {}
                Some(Chunk::Stderr(bytes)) => {
                    self.stderr.push(&bytes);
                    if self.stderr.is_flood() {
                        return Err(RootShellError::Flood);
                    }
                }
                Some(Chunk::Exit(rc)) => exit = Some(rc),
                None => {
                    return match (exit, sent) {
                        (Some(rc), _) => Ok(Some(rc)),
                        (None, Err(error)) => Err(RootShellError::Ssh(error)),
                        (None, Ok(())) => Err(RootShellError::Lost),
                    };
                }
            }
        }
    }

    /// Ends the shell.
    pub(super) async fn end(mut self) {
        let _ = self.session.finish_input().await;
        // The exit is awaited so that the channel is closed before the next is opened.
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while self.session.next().await.is_some() {}
        })
        .await;
    }
}

/// Returns where the end frame's line ends, if it is whole. `scanned` remembers how far earlier calls looked, so that long
/// output is scanned once and not once per packet.
fn find_end(out: &[u8], scanned: &mut usize) -> Option<usize> {
    const END: &[u8] = b"\x1eend ";
    match out[*scanned..].windows(END.len()).position(|w| w == END) {
        Some(at) => {
            *scanned += at;
            out[*scanned..].iter().position(|b| *b == b'\n').map(|n| *scanned + n + 1)
        }
        None => {
            *scanned = out.len().saturating_sub(END.len() - 1);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::find_end;

    #[test]
    fn the_end_frame_is_found_however_the_output_is_split() {
        let whole = b"\x1ea\nx\x1eend 0\nnext";
        for step in 1..whole.len() {
            let (mut scanned, mut found) = (0, None);
            for upto in (0..=whole.len()).step_by(step).chain([whole.len()]) {
                found = found.or_else(|| find_end(&whole[..upto], &mut scanned));
            }
            assert_eq!(found, Some(whole.len() - 4), "packets of {step}");
        }
    }
}
