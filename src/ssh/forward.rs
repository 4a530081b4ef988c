//! Local port forwarding over SSH, for `provision tunnel`.

use super::{Dial, SshError};
use crate::event::{Event, Events};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
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

/// Listens on `local` (port 0 takes any) and leads each connection to `host:port` as seen from the far end of `dial`. A
/// lost SSH connection is reopened for the next one; failures go to `events`.
pub async fn listen(
    local: SocketAddr,
    dial: Arc<dyn Dial>,
    host: impl Into<String>,
    port: u16,
    events: Events,
) -> std::io::Result<Forward> {
    let listener = TcpListener::bind(local).await?;
    let local = listener.local_addr()?;
    let host = host.into();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        // Ends with this task, and so with the `Forward`.
        let mut running = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = running.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (dial, host, events) = (dial.clone(), host.clone(), events.clone());
                    running.spawn(async move {
                        if let Err(error) = carry(stream, dial.as_ref(), &host, port).await {
                            let message = format!("tunnel to {host}:{port}: {error} ({})", error.hint);
                            events.emit(Event::Warning { target: None, message });
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next may be luckier.
                    let message = format!("tunnel to {host}:{port}: {error}");
                    events.emit(Event::Warning { target: None, message });
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(Forward { local, _accepting: accepting })
}

async fn carry(mut near: TcpStream, dial: &dyn Dial, host: &str, port: u16) -> Result<(), SshError> {
    let _ = near.set_nodelay(true);
    let mut far = dial.dial().await?.tunnel(host, port).await?;
    // Either end may hang up at any time; that is how it ends.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    Ok(())
}
