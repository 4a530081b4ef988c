//! One conversation with a root shell on a host: program in, framed answer out.

use crate::ssh::{Chunk, Session, SshError, Transport};
use bytes::Bytes;
use std::time::Duration;

/// Answers larger than this are no answers, in bytes.
const MOST_ANSWER: usize = 64 << 20;

/// A root shell that reads its program from standard input.
pub(super) struct Talk {
    session: Box<dyn Session>,
    out: Vec<u8>,
    pub stderr: String,
}

/// Why no whole answer came.
#[derive(Debug)]
pub(super) enum TalkError {
    /// SSH itself.
    Ssh(SshError),
    /// The shell ended first, with this status.
    Ended(i32),
    /// The connection ended first.
    Lost,
    /// Nothing in time.
    TimedOut,
}

impl Talk {
    pub async fn start(transport: &dyn Transport, command: &str) -> Result<Self, SshError> {
        Ok(Self { session: transport.open(command).await?, out: Vec::new(), stderr: String::new() })
    }

    /// Sends a program and returns the text of its answer up to and with its end frame.
    pub async fn ask(&mut self, program: &str, deadline: Duration) -> Result<String, TalkError> {
        tokio::time::timeout(deadline, self.ask_now(program)).await.unwrap_or(Err(TalkError::TimedOut))
    }

    async fn ask_now(&mut self, program: &str) -> Result<String, TalkError> {
        // A shell that has ended already refuses input; what it said is still there to be read.
        let sent = self.session.send(Bytes::from(program.to_owned())).await;
        let mut exit = None;
        let mut scanned = 0;
        loop {
            if let Some(end) = find_end(&self.out, &mut scanned) {
                let rest = self.out.split_off(end);
                let answer = std::mem::replace(&mut self.out, rest);
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            match self.session.next().await {
                Some(Chunk::Stdout(bytes)) if self.out.len() + bytes.len() <= MOST_ANSWER => {
                    self.out.extend_from_slice(&bytes);
                }
                Some(Chunk::Stdout(_)) => return Err(TalkError::TimedOut),
                Some(Chunk::Stderr(bytes)) => self.stderr.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Chunk::Exit(rc)) => exit = Some(rc),
                None => {
                    return Err(match (exit, sent) {
                        (Some(rc), _) => TalkError::Ended(rc),
                        (None, Err(error)) => TalkError::Ssh(error),
                        (None, Ok(())) => TalkError::Lost,
                    });
                }
            }
        }
    }

    /// Ends the conversation.
    pub async fn end(mut self) {
        let _ = self.session.finish_input().await;
        // The exit is awaited so that the channel is closed before the next is opened.
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while self.session.next().await.is_some() {}
        })
        .await;
    }
}

/// Returns where the end frame's line ends, if it is whole. `scanned` remembers what was looked at before, so that a long
/// answer is read once and not once per packet.
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
    fn the_end_is_found_however_the_answer_is_cut_into_packets() {
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
