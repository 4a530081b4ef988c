//! The interface between SSH and the layers above: run a program on a host with its streams, and connect to a port from
//! there. Tests run the same programs through a local shell.

use crate::state::{BoxStream, Failure, FailureKind};
use async_trait::async_trait;
use bytes::Bytes;

/// A host that programs can be run on.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Starts `command` (a line for the login shell) with open streams. One exec, one session channel.
    async fn open(&self, command: &str) -> Result<Box<dyn Session>, SshError>;

    /// Opens a TCP connection from the host to `host:port` (direct-tcpip).
    async fn tunnel(&self, host: &str, port: u16) -> Result<BoxStream, SshError>;
}

/// A running program. Dropping it closes the channel; it does not kill the program.
#[async_trait]
pub trait Session: Send {
    /// Writes to its standard input, waiting while the far side is slow.
    async fn send(&mut self, bytes: Bytes) -> Result<(), SshError>;

    /// Closes its standard input.
    async fn finish_input(&mut self) -> Result<(), SshError>;

    /// Returns the next piece of output, or `None` when the channel is closed. A close without an `Exit` before it means
    /// that the connection was lost.
    async fn next(&mut self) -> Option<Chunk>;
}

/// A piece of a program's output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// Its exit status; 128 + signal when a signal ended it.
    Exit(i32),
}

/// Why SSH did not work; each with its own code and hint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SshError {
    /// What sort.
    pub kind: SshErrorKind,
    /// What happened, naming host and port; no full stop.
    pub message: String,
    /// What to do, with the command to check it by hand.
    pub hint: String,
}

/// The sorts of SSH failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SshErrorKind {
    /// No TCP connection, or none in time.
    Unreachable,
    /// The host key is not known.
    HostKeyUnknown,
    /// The host key is another than the known one, or revoked.
    HostKeyChanged,
    /// No key, certificate or password was accepted.
    Authentication,
    /// The connection ended.
    Lost,
    /// The server refused a session or a forward.
    Refused,
    /// The local set-up is wrong: a key file, the agent, a configuration.
    Setup,
}

impl SshErrorKind {
    /// Returns the stable code.
    pub fn code(self) -> &'static str {
        match self {
            SshErrorKind::Unreachable => "E-SSH-UNREACHABLE",
            SshErrorKind::HostKeyUnknown => "E-SSH-HOSTKEY-UNKNOWN",
            SshErrorKind::HostKeyChanged => "E-SSH-HOSTKEY-CHANGED",
            SshErrorKind::Authentication => "E-SSH-AUTH",
            SshErrorKind::Lost => "E-SSH-LOST",
            SshErrorKind::Refused => "E-SSH-REFUSED",
            SshErrorKind::Setup => "E-SSH-SETUP",
        }
    }
}

impl From<SshError> for Failure {
    fn from(error: SshError) -> Self {
        Failure::new(FailureKind::Unobserved, error.kind.code(), error.message).hint(error.hint)
    }
}

/// A way to a host: hands out its live connection, or makes a new one (after a reboot, or a lost link).
#[async_trait]
pub trait Dial: Send + Sync {
    /// Returns a connection that is believed to be alive.
    async fn dial(&self) -> Result<std::sync::Arc<dyn Transport>, SshError>;

    /// Returns the key by which the host of that connection has proved to be the known one, as known_hosts files have it; `None` if
    /// there is none.
    async fn host_key(&self) -> Option<String> {
        None
    }
}
