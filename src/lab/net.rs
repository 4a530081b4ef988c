//! The lab's network faults, and its mirror: a small HTTP server on loopback.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A stream that is cut after so many bytes were written to it.
pub struct CutAfter {
    stream: TcpStream,
    left: u64,
}

impl CutAfter {
    /// Wraps a stream.
    pub fn new(stream: TcpStream, bytes: u64) -> Self {
        Self { stream, left: bytes }
    }
}

impl AsyncRead for CutAfter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for CutAfter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = data.len().min(self.left as usize);
        let result = Pin::new(&mut self.stream).poll_write(cx, &data[..most]);
        if let Poll::Ready(Ok(n)) = result {
            self.left -= n as u64;
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves files by path until dropped.
pub async fn serve_files(listener: TcpListener, files: Arc<BTreeMap<String, Vec<u8>>>) {
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
