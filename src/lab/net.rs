//! The lab's network faults, and its mirror: a small HTTP server on loopback.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Returns a stream that is cut after so many bytes were written to it, and what carries them while it is polled.
pub(super) fn cut_after(stream: TcpStream, bytes: u64) -> (DuplexStream, impl Future<Output = ()>) {
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

/// Serves files by path until dropped.
pub(super) async fn serve_files(listener: TcpListener, files: Arc<BTreeMap<String, Vec<u8>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let files = files.clone();
        connections.spawn(async move {
            let _ = answer(stream, &files).await;
        });
    }
}

async fn answer(mut stream: TcpStream, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
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
