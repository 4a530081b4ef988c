//! One live SSH connection: sessions within the server's limits, tunnels, and the meaning of refusals.

use super::channel::{self, Tunnel};
use super::handshake::Checker;
use super::link::{Link, SessionPermit};
use super::{Limits, Session, SshError, SshErrorKind, Transport};
use crate::state::BoxStream;
use async_trait::async_trait;
use russh::ChannelOpenFailure;
use russh::client::Handle;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A server counts a session a moment longer than we do: it is asked again after so long,
const SERVER_LAG: Duration = Duration::from_millis(200);
/// and for so long, as a busy one is slow to see that its child has ended.
const SERVER_LAG_MOST: Duration = Duration::from_secs(5);

/// A live, authenticated connection.
#[derive(Clone)]
pub struct Connection {
    link: Arc<Link>,
}

impl Connection {
    pub(super) fn new(
        name: String,
        host_key: Option<String>,
        handle: Handle<Checker>,
        limits: Limits,
        through: Option<&Connection>,
    ) -> Self {
        let sessions = Arc::new(Semaphore::new(limits.sessions));
        Self {
            link: Arc::new(Link {
                name,
                host_key,
                limits,
                handle,
                sessions,
                live: Arc::default(),
                readers: Mutex::default(),
                _through: through.map(|c| c.link.clone()),
            }),
        }
    }

    /// Returns the server's public key, as known_hosts files have it.
    pub(super) fn host_key(&self) -> Option<String> {
        self.link.host_key.clone()
    }

    /// Returns whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.link.handle.is_closed()
    }

    /// Opens a tunnel; the caller sets the deadline.
    pub(super) async fn reach(&self, host: &str, port: u16) -> Result<Tunnel, SshError> {
        let link = &self.link;
        let opened = link.handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0).await;
        match opened {
            Ok(channel) => {
                let (read, write) = channel.split();
                Ok(channel::tunnel(link, read, write))
            }
            Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed)) => Err(SshError {
                kind: SshErrorKind::Unreachable,
                message: format!("{} cannot connect to {host}:{port}", link.name),
                hint: format!("On {}, check with: nc -vz {host} {port}", link.name),
            }),
            Err(russh::Error::ChannelOpenFailure(_)) => Err(link.refused(
                format!("{} does not forward connections (to {host}:{port})", link.name),
                format!(
                    "In sshd_config on {}, set AllowTcpForwarding yes or local, PermitOpen any or {host}:{port}, \
                     DisableForwarding no",
                    link.name
                ),
            )),
            Err(error) => Err(link.lost(error)),
        }
    }

    /// Opens a session channel; waits for an open one to end if the server allows fewer than expected.
    async fn session(&self) -> Result<(russh::Channel<russh::client::Msg>, SessionPermit), SshError> {
        let link = &self.link;
        let permit = link.sessions.clone().acquire_owned().await.map_err(|e| link.lost(e))?;
        let give_up = Instant::now() + link.limits.answer;
        let mut alone_since = None;
        loop {
            let failure = match link.handle.channel_open_session().await {
                Ok(channel) => return Ok((channel, SessionPermit::take(permit, &link.live))),
                Err(russh::Error::ChannelOpenFailure(failure)) => failure,
                Err(error) => return Err(link.lost(error)),
            };
            let ours = link.live.load(Ordering::Acquire);
            let now = Instant::now();
            alone_since = (ours == 0).then(|| alone_since.unwrap_or(now));
            let alone = alone_since.is_some_and(|since| now - since >= SERVER_LAG_MOST);
            if alone || now >= give_up {
                return Err(link.refused(
                    format!("{} refuses another session ({failure:?}); {ours} open already", link.name),
                    format!("In sshd_config on {}, set MaxSessions 10", link.name),
                ));
            }
            tokio::time::sleep(SERVER_LAG).await;
        }
    }
}

#[async_trait]
impl Transport for Connection {
    async fn open(&self, command: &str) -> Result<Box<dyn Session>, SshError> {
        let link = &self.link;
        let (channel, permit) = self.session().await?;
        let (read, write) = channel.split();
        let write = Arc::new(write);
        // The reader runs before anything is asked for.
        let (session, started) = channel::program(link, read, write.clone(), permit);
        let answer = async {
            write.exec(true, command).await.map_err(|e| link.lost(e))?;
            started.await.map_err(|_| link.lost("the channel closed"))
        };
        match tokio::time::timeout(link.limits.answer, answer).await {
            Ok(Ok(true)) => Ok(Box::new(session)),
            Ok(Ok(false)) => Err(link.refused(
                format!("{} does not run commands for this login", link.name),
                format!(
                    "On {}, check the login shell, and ForceCommand or ChrootDirectory in sshd_config",
                    link.name
                ),
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(link.no_answer("the start of a program")),
        }
    }

    async fn tunnel(&self, host: &str, port: u16) -> Result<BoxStream, SshError> {
        let reached = tokio::time::timeout(self.link.limits.answer, self.reach(host, port)).await;
        let tunnel = reached.unwrap_or_else(|_| {
            Err(SshError {
                kind: SshErrorKind::Unreachable,
                message: format!(
                    "{} cannot connect to {host}:{port} within {} s",
                    self.link.name,
                    self.link.limits.answer.as_secs()
                ),
                hint: format!("On {}, check with: nc -vz {host} {port}", self.link.name),
            })
        })?;
        Ok(Box::new(tunnel))
    }
}
