//! Channels of a connection: a program with its streams, or a tunnel. Works around russh's pitfalls: each channel has its
//! own task that drains it from the moment it opens (one undrained channel blocks them all), reads until the channel is
//! closed since the order of messages is not fixed, and ends a write that waits for window when the channel closes.

use super::link::{Link, SessionPermit};
use super::{Chunk, Session, SshError, SshErrorKind};
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

type Write = ChannelWriteHalf<client::Msg>;

/// What reader and owner of a channel share.
#[derive(Default)]
struct Shared {
    /// A program reported its exit status.
    exited: AtomicBool,
    /// Output was dropped because it was not read.
    overflowed: AtomicBool,
}

/// Where output goes.
struct Outlet {
    chunks: mpsc::UnboundedSender<Chunk>,
    unread: Arc<Semaphore>,
    /// Ends when the owner is gone.
    owned: oneshot::Receiver<()>,
    /// Dropped when the channel is closed, or the connection gone.
    open: watch::Sender<()>,
    shared: Arc<Shared>,
    /// A tunnel's end of file is its reader's; a program's end is its exit.
    eof_ends: bool,
}

/// The owner's end of an open channel.
struct Inlet {
    chunks: mpsc::UnboundedReceiver<Chunk>,
    unread: Arc<Semaphore>,
    shared: Arc<Shared>,
    open: watch::Receiver<()>,
    /// Its end tells the reader to close the channel.
    _owner: oneshot::Sender<()>,
}

fn pair(unread_bytes: usize, eof_ends: bool) -> (Outlet, Inlet) {
    let (sender, chunks) = mpsc::unbounded_channel();
    let unread = Arc::new(Semaphore::new(unread_bytes.min(Semaphore::MAX_PERMITS)));
    let (owner, owned) = oneshot::channel();
    let (alive, open) = watch::channel(());
    let shared = Arc::new(Shared::default());
    let outlet = Outlet {
        chunks: sender,
        unread: unread.clone(),
        owned,
        open: alive,
        shared: shared.clone(),
        eof_ends,
    };
    (outlet, Inlet { chunks, unread, shared, open, _owner: owner })
}

/// Waits until a channel is closed.
async fn ended(mut open: watch::Receiver<()>) {
    while open.changed().await.is_ok() {}
}

impl Inlet {
    fn has_ended(&self) -> bool {
        self.open.has_changed().is_err()
    }

    fn took(&self, chunk: &Chunk) {
        if let Chunk::Stdout(data) | Chunk::Stderr(data) = chunk {
            self.unread.add_permits(data.len());
        }
    }
}

/// Whether the server started a program.
pub(super) type Started = oneshot::Receiver<bool>;

/// Starts the reader of a program's channel.
pub(super) fn program(
    link: &Arc<Link>,
    read: ChannelReadHalf,
    write: Arc<Write>,
    permit: SessionPermit,
) -> (ChannelSession, Started) {
    let (outlet, inlet) = pair(link.limits.unread_bytes, false);
    let (started, wait) = oneshot::channel();
    link.spawn(drain(read, write.clone(), outlet, Some(permit), Some(started)));
    (ChannelSession { link: link.clone(), write, inlet }, wait)
}

/// Starts the reader of a tunnel.
pub(super) fn tunnel(link: &Arc<Link>, read: ChannelReadHalf, write: Write) -> Tunnel {
    let (outlet, inlet) = pair(link.limits.unread_bytes, true);
    let writer = Box::pin(write.make_writer());
    let ended = Box::pin(ended(inlet.open.clone()));
    link.spawn(drain(read, Arc::new(write), outlet, None, None));
    Tunnel { _link: link.clone(), writer, inlet, rest: Bytes::new(), ended }
}

/// Reads a channel until it is closed, whatever becomes of its owner.
async fn drain(
    mut read: ChannelReadHalf,
    write: Arc<Write>,
    outlet: Outlet,
    permit: Option<SessionPermit>,
    mut started: Option<oneshot::Sender<bool>>,
) {
    let Outlet { chunks, unread, mut owned, open, shared, eof_ends } = outlet;
    let mut chunks = Some(chunks);
    let finished = loop {
        let message = tokio::select! {
            message = read.wait() => message,
            _ = &mut owned => break false,
        };
        let chunk = match message {
            None => break true,
            Some(ChannelMsg::Success) => {
                if let Some(started) = started.take() {
                    let _ = started.send(true);
                }
                continue;
            }
            Some(ChannelMsg::Failure) => {
                if let Some(started) = started.take() {
                    let _ = started.send(false);
                }
                break false;
            }
            Some(ChannelMsg::Data { data }) => Chunk::Stdout(data),
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => Chunk::Stderr(data),
            Some(ChannelMsg::ExitStatus { exit_status }) => Chunk::Exit(exit_status as i32),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => Chunk::Exit(status_of(&signal_name)),
            Some(ChannelMsg::Eof) if eof_ends => {
                chunks = None;
                continue;
            }
            Some(_) => continue,
        };
        if let Some(started) = started.take() {
            let _ = started.send(true);
        }
        match &chunk {
            Chunk::Exit(_) => shared.exited.store(true, Ordering::Release),
            Chunk::Stdout(data) | Chunk::Stderr(data) => {
                let taken = u32::try_from(data.len()).ok().and_then(|n| unread.try_acquire_many(n).ok());
                let Some(taken) = taken else {
                    shared.overflowed.store(true, Ordering::Release);
                    break false;
                };
                taken.forget();
            }
        }
        if let Some(chunks) = &chunks {
            let _ = chunks.send(chunk);
        }
    };
    if !finished {
        if shared.overflowed.load(Ordering::Acquire)
            && !eof_ends
            && let Some(chunks) = &chunks
        {
            let note = "provision: too much unread output; the rest is dropped\n";
            let _ = chunks.send(Chunk::Stderr(Bytes::from_static(note.as_bytes())));
        }
        chunks = None;
        // The close waits in the connection's queue, which moves only while this channel is drained. Once it is sent,
        // russh forgets the channel and never says that the other side closed it too.
        let drained = async { while read.wait().await.is_some() {} };
        tokio::select! {
            _ = write.close() => {}
            () = drained => {}
        }
    }
    drop(chunks);
    drop(open);
    drop(permit);
}

/// Returns the status that a shell would report for a program ended by a signal: 128 and its number on Linux.
fn status_of(signal: &Sig) -> i32 {
    128 + match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) => match name.split('@').next().unwrap_or_default() {
            "TRAP" => 5,
            "BUS" => 7,
            "USR2" => 12,
            "XCPU" => 24,
            "XFSZ" => 25,
            "SYS" => 31,
            _ => 127,
        },
    }
}

/// A program on a channel.
pub(super) struct ChannelSession {
    link: Arc<Link>,
    write: Arc<Write>,
    inlet: Inlet,
}

impl ChannelSession {
    /// What writing to a channel that has ended means: nothing for a program that said how it ended (its output and
    /// status are still there to be read), a lost connection otherwise.
    fn after_end(&self) -> Result<(), SshError> {
        if self.inlet.shared.exited.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.inlet.shared.overflowed.load(Ordering::Acquire) {
            return Err(SshError {
                kind: SshErrorKind::Lost,
                message: format!(
                    "a program on {} printed more than {} unread bytes",
                    self.link.name, self.link.limits.unread_bytes
                ),
                hint: "Reduce its output".to_owned(),
            });
        }
        Err(self.link.lost("the channel closed"))
    }
}

#[async_trait]
impl Session for ChannelSession {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SshError> {
        // Waiting for window does not end by itself when the channel does.
        let sent = tokio::select! {
            sent = self.write.data_bytes(bytes) => sent,
            () = ended(self.inlet.open.clone()) => return self.after_end(),
        };
        sent.or_else(|_| self.after_end())
    }

    async fn finish_input(&mut self) -> Result<(), SshError> {
        if self.inlet.has_ended() {
            return self.after_end();
        }
        self.write.eof().await.or_else(|_| self.after_end())
    }

    async fn next(&mut self) -> Option<Chunk> {
        let chunk = self.inlet.chunks.recv().await?;
        self.inlet.took(&chunk);
        Some(chunk)
    }
}

/// A byte stream to a port, as seen from the host.
pub(super) struct Tunnel {
    _link: Arc<Link>,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    inlet: Inlet,
    rest: Bytes,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Tunnel {
    /// Asks whether the channel has ended, and to be woken when it does.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        self.inlet.has_ended() || self.ended.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.inlet.chunks.poll_recv(cx)) {
                Some(Chunk::Stdout(data)) => self.rest = data,
                Some(_) => {}
                None if self.inlet.shared.overflowed.load(Ordering::Acquire) => {
                    return Poll::Ready(Err(std::io::Error::other(
                        "the tunnel received data faster than it was read",
                    )));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        self.inlet.unread.add_permits(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0)); // russh takes it for an error
        }
        if self.poll_ended(cx) {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        self.writer.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.poll_ended(cx) {
            return Poll::Ready(Ok(()));
        }
        self.writer.as_mut().poll_shutdown(cx)
    }
}
