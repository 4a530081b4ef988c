//! The lab's network: its faults, its mirror (a small HTTP server on a socket in each host), and the way from host to host by SSH.

use super::sockets;
use super::spec::Spec;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Where a host's tools reach the mirror, whatever address is in a URL.
pub(super) const MIRROR: &str = "/run/lab/mirror.sock";

/// Where a host's `ssh` reaches the SSH servers of others.
pub(super) const SSH: &str = "/run/lab/ssh.sock";

/// Returns a stream that is cut after so many bytes were written to it, and what carries them while it is polled.
pub(super) fn cut_after(stream: UnixStream, bytes: u64) -> (DuplexStream, impl Future<Output = ()>) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let carry = async move {
        let (mut from, mut to) = stream.into_split();
        let (said, mut heard) = tokio::io::split(far);
        let mut said = said.take(bytes);
        tokio::select! {
            _ = tokio::io::copy(&mut from, &mut heard) => {}
            _ = tokio::io::copy(&mut said, &mut to) => {}
        }
    };
    (near, carry)
}

/// How long whoever accepts connections waits after an error: there are no descriptors for another one.
pub(super) const SHORTAGE: std::time::Duration = std::time::Duration::from_millis(100);
/// A request, and the reading of its answer, take no longer; who connects and says nothing is let go.
pub(super) const REQUEST_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// What the mirror serves, by path.
pub(super) type Files = Arc<BTreeMap<String, Vec<u8>>>;
/// Requests that are answered at once at one place.
const MOST_AT_ONCE: usize = 64;

/// Where the mirror listens.
pub(super) enum Place {
    /// On the machine's loopback, for the command line.
    Machine(TcpListener),
    /// On a socket in a host, for its tools.
    Host(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Place {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Machine(listener) => Box::new(listener.accept().await?.0),
            Self::Host(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves files by path until dropped.
pub(super) async fn serve_files(place: Place, files: Files) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(stream) = place.accept().await else {
            tokio::time::sleep(SHORTAGE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_AT_ONCE {
            connections.join_next().await;
        }
        let files = files.clone();
        connections.spawn(async move {
            let _ = tokio::time::timeout(REQUEST_DEADLINE, answer(stream, &files)).await;
        });
    }
}

/// Connects a host's `ssh` to the SSH servers of other hosts until dropped.
pub(super) async fn serve_peers(listener: UnixListener, spec: Arc<Spec>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(SHORTAGE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_AT_ONCE {
            connections.join_next().await;
        }
        let spec = spec.clone();
        connections.spawn(async move {
            let _ = relay(stream, &spec).await;
        });
    }
}

/// Reads `ADDRESS PORT` on a line, and carries the rest to and from there.
async fn relay(mut stream: UnixStream, spec: &Spec) -> io::Result<()> {
    /// An address and a port are shorter, in bytes.
    const MOST_LINE: usize = 64;
    let line = async {
        let mut line = Vec::new();
        while line.len() < MOST_LINE {
            match stream.read_u8().await? {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        Ok::<_, io::Error>(String::from_utf8_lossy(&line).into_owned())
    };
    let line = tokio::time::timeout(REQUEST_DEADLINE, line).await??;
    let is_meant = |host: &&super::spec::Host| line == format!("{} {}", host.address, host.port);
    let host = spec.hosts.iter().find(is_meant).ok_or(io::ErrorKind::ConnectionRefused)?;
    let there = sockets::connect(&sockets::sockets(&spec.dir), &host.name)?;
    there.set_nonblocking(true)?;
    let mut there = UnixStream::from_std(there)?;
    tokio::io::copy_bidirectional(&mut stream, &mut there).await.map(drop)
}

async fn answer(mut stream: Box<dyn Stream>, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    /// A request line and its headers are far below this, in bytes.
    const MOST_REQUEST: usize = 16 << 10;
    let mut request = Vec::new();
    let mut buffer = [0; 2048];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < MOST_REQUEST {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    let (status, body) = match files.get(path) {
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", b"the lab's mirror has no such file\n".as_slice()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    if !text.starts_with("HEAD ") {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}
