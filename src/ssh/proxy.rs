//! ProxyCommand: a command of the user's own configuration whose input and output are the connection to a host's SSH port.

use super::handshake::Destination;
use super::{SshError, SshErrorKind};
use crate::state::BoxStream;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// The streams of a running command, which ends with them.
struct Proxy {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl AsyncRead for Proxy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, to)
    }
}

impl AsyncWrite for Proxy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}

/// Starts a command; as ssh does, by the user's shell, which it replaces.
pub(super) fn stream(at: &Destination<'_>, command: &str) -> Result<BoxStream, SshError> {
    let shell =
        std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let failed = |why: &dyn std::fmt::Display| SshError {
        kind: SshErrorKind::Unreachable,
        message: format!("cannot reach {}: the ProxyCommand of ssh_config does not start: {why}", at.name),
        hint: at.by_hand.clone(),
    };
    let spawned = tokio::process::Command::new(shell)
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|e| failed(&e))?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(input), Some(output)) => Ok(Box::new(Proxy { _child: child, input, output })),
        _ => Err(failed(&"it has no streams")),
    }
}
