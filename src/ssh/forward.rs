//! Local port forwarding over SSH, for `provision tunnel`.

use super::{Dial, SshError};
use crate::event::{Event, Events};
use crate::state::BoxStream;
use futures::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// An open local port; closed, with everything that runs through it, when dropped.
pub struct Forward {
    local: SocketAddr,
    /// Ends with it.
    _accepting: JoinSet<()>,
}

impl Forward {
    /// Returns where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

/// What leads a connection to the far end; the error says why it cannot.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<BoxStream, String>> + Send + Sync>;

/// Returns what leads connections to `host:port` as seen from the far end of `dial`. A lost SSH connection is reopened for the next
/// one.
pub fn through(dial: Arc<dyn Dial>, host: impl Into<String>, port: u16) -> Open {
    let host = host.into();
    Arc::new(move || {
        let (dial, host) = (dial.clone(), host.clone());
        Box::pin(async move {
            let open = async { dial.dial().await?.tunnel(&host, port).await };
            open.await.map_err(|error: SshError| format!("{error} ({})", error.hint))
        })
    })
}

/// Listens on `local` (port 0 takes any) and leads each connection to what `open` returns, which is called `what`. Failures go to
/// `events`.
pub async fn listen(local: SocketAddr, what: String, open: Open, events: Events) -> std::io::Result<Forward> {
    let listener = TcpListener::bind(local).await?;
    let local = listener.local_addr()?;
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let warn = move |events: &Events, error: &dyn std::fmt::Display| {
            let message = format!("tunnel to {what}: {error}");
            events.emit(Event::Warning { target: None, message });
        };
        // Ends with this task, and so with the `Forward`.
        let mut running = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = running.join_next() => continue,
            };
            match accepted {
                Ok((mut near, _)) => {
                    let (open, events, warn) = (open.clone(), events.clone(), warn.clone());
                    running.spawn(async move {
                        let _ = near.set_nodelay(true);
                        match open().await {
                            // Either end may hang up at any time; that is how it ends.
                            Ok(mut far) => drop(tokio::io::copy_bidirectional(&mut near, &mut far).await),
                            Err(error) => warn(&events, &error),
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next may be luckier.
                    warn(&events, &error);
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(Forward { local, _accepting: accepting })
}
