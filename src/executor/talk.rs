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
        loop {
            if let Some(end) = find_end(&self.out) {
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

/// Returns where the end frame's line ends, if it is whole.
fn find_end(out: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\x1eend ";
    let mut from = 0;
    while let Some(at) = out[from..].windows(END.len()).position(|w| w == END) {
        let at = from + at;
        if at == 0 || out[at - 1] == b'\n' {
            return out[at..].iter().position(|b| *b == b'\n').map(|n| at + n + 1);
        }
        from = at + 1;
    }
    None
}
