//! One SSH connection: handshake with the host key checked, sessions, tunnels. Owns russh's traps: every channel is
//! drained by a task of its own from the moment it opens (one undrained channel blocks them all), and reading goes on
//! until the channel is closed, since the order of messages is not fixed.

use super::known_hosts::{KnownHosts, Verdict, lookup_name};
use super::{BoxStream, Chunk, Session, SshError, SshErrorKind, Transport};
use async_trait::async_trait;
use bytes::Bytes;
use russh::client::{self, Handle};
use russh::keys::{Algorithm, HashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Preferred};
use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

/// sshd's default MaxSessions is 10; the rest is left to a person who looks in at the same time.
const MOST_SESSIONS: usize = 8;
/// A silent connection is asked for a sign of life after this long.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Output of one program that is kept while nobody reads it; beyond that its channel is closed.
const MOST_UNREAD_BYTES: usize = 64 << 20;

/// What the handshake learned, for the errors.
#[derive(Clone, Debug)]
pub(super) enum HostKey {
    NotSeen,
    Accepted,
    Rejected(Verdict, String),
}

/// Checks the server's key against known_hosts.
pub(super) struct Checker {
    pub host: String,
    pub port: u16,
    pub known: Arc<KnownHosts>,
    pub outcome: Arc<Mutex<HostKey>>,
    /// `provision trust`: accept whatever is presented, and only for looking.
    pub record: Option<Arc<Mutex<Option<russh::keys::PublicKey>>>>,
}

impl client::Handler for Checker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or(0);
        let (verdict, fingerprint) = match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                if let Some(record) = &self.record {
                    if let Ok(mut slot) = record.lock() {
                        *slot = Some(key.clone());
                    }
                    return Ok(false);
                }
                (self.known.judge(&self.host, self.port, key), key.fingerprint(HashAlg::Sha256).to_string())
            }
            PublicKeyOrCertificate::Certificate(certificate) => (
                self.known.judge_certificate(&self.host, self.port, certificate, now_s),
                certificate.public_key().fingerprint(HashAlg::Sha256).to_string(),
            ),
        };
        let accepted = verdict == Verdict::Trusted;
        if let Ok(mut outcome) = self.outcome.lock() {
            *outcome = if accepted { HostKey::Accepted } else { HostKey::Rejected(verdict, fingerprint) };
        }
        Ok(accepted)
    }
}

/// Returns the client's settings for a host: its known key types first, certificates only where an authority is known.
pub(super) fn settings(known: &KnownHosts, host: &str, port: u16) -> client::Config {
    let mut keys = known.algorithms(host, port);
    if keys.iter().any(|k| matches!(k, Algorithm::Rsa { .. })) {
        keys.retain(|k| !matches!(k, Algorithm::Rsa { .. }));
        keys.push(Algorithm::Rsa { hash: Some(HashAlg::Sha512) });
        keys.push(Algorithm::Rsa { hash: Some(HashAlg::Sha256) });
    }
    let default = Preferred::default();
    for key in default.key.iter() {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    let certificates = if known.has_authority(host, port) { keys.clone() } else { Vec::new() };
    client::Config {
        nodelay: true, // measured: 44 ms an exec without it, 2 ms with it
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        preferred: Preferred {
            key: Cow::Owned(keys),
            host_key_certificates: Cow::Owned(certificates),
            ..default
        },
        ..client::Config::default()
    }
}

/// Turns a failed handshake into what a person needs.
pub(super) fn handshake_error(
    name: &str,
    host: &str,
    port: u16,
    outcome: &HostKey,
    error: &russh::Error,
) -> SshError {
    let place = lookup_name(host, port);
    match outcome {
        HostKey::Rejected(Verdict::Unknown, fingerprint) => SshError {
            kind: SshErrorKind::HostKeyUnknown,
            message: format!("host key of {name} ({place}) is not known; it presents {fingerprint}"),
            hint: "compare the fingerprint at the host's console, then: provision trust".to_owned(),
        },
        HostKey::Rejected(Verdict::Changed { place: known_at, fingerprint: known }, fingerprint) => {
            SshError {
                kind: SshErrorKind::HostKeyChanged,
                message: format!(
                    "host key of {name} ({place}) is {fingerprint}, but {known} is known ({known_at})"
                ),
                hint:
                    "if the host was installed anew: provision trust --replace; if not, someone is in between"
                        .to_owned(),
            }
        }
        HostKey::Rejected(Verdict::Revoked(known_at), _) => SshError {
            kind: SshErrorKind::HostKeyChanged,
            message: format!("host key of {name} ({place}) is revoked ({known_at})"),
            hint: "give the host a new key".to_owned(),
        },
        HostKey::Rejected(Verdict::BadCertificate(why), _) => SshError {
            kind: SshErrorKind::HostKeyChanged,
            message: format!("host certificate of {name} ({place}) does not hold: {why}"),
            hint: format!("ssh-keyscan -c -p {port} {host} shows it"),
        },
        HostKey::NotSeen | HostKey::Accepted | HostKey::Rejected(Verdict::Trusted, _) => SshError {
            kind: SshErrorKind::Unreachable,
            message: format!("no SSH handshake with {name} ({place}): {error}"),
            hint: format!("ssh -v -p {port} {host}"),
        },
    }
}

/// A live, authenticated connection.
pub struct Connection {
    name: String,
    handle: Handle<Checker>,
    sessions: Arc<Semaphore>,
    readers: Mutex<JoinSet<()>>,
    /// Connections that this one runs through.
    _through: Option<Arc<Connection>>,
}

impl Connection {
    pub(super) fn new(name: String, handle: Handle<Checker>, through: Option<Arc<Connection>>) -> Self {
        Self {
            name,
            handle,
            sessions: Arc::new(Semaphore::new(MOST_SESSIONS)),
            readers: Mutex::new(JoinSet::new()),
            _through: through,
        }
    }

    /// Returns whether the connection is known to have ended.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    fn lost(&self, error: impl std::fmt::Display) -> SshError {
        SshError {
            kind: SshErrorKind::Lost,
            message: format!("connection to {} ended: {error}", self.name),
            hint: "run the same command again: what was running on the host goes on by itself".to_owned(),
        }
    }

    fn refused(&self, what: &str, error: russh::Error, hint: &str) -> SshError {
        if self.is_closed() {
            return self.lost(error);
        }
        SshError {
            kind: SshErrorKind::Refused,
            message: format!("{} refuses {what}: {error}", self.name),
            hint: hint.to_owned(),
        }
    }
}

#[async_trait]
impl Transport for Connection {
    async fn open(&self, command: &str) -> Result<Box<dyn Session>, SshError> {
        let permit = self.sessions.clone().acquire_owned().await.map_err(|e| self.lost(e))?;
        let channel = self
            .handle
            .channel_open_session()
            .await
            .map_err(|e| self.refused("a session", e, "sshd_config: MaxSessions"))?;
        let (mut read, write) = channel.split();
        let (sender, chunks) = mpsc::unbounded_channel();
        let unread = Arc::new(Semaphore::new(MOST_UNREAD_BYTES));
        let budget = unread.clone();
        let reader = async move {
            let _permit: OwnedSemaphorePermit = permit;
            while let Some(message) = read.wait().await {
                let chunk = match message {
                    ChannelMsg::Data { data } => Chunk::Stdout(data),
                    ChannelMsg::ExtendedData { data, ext: 1 } => Chunk::Stderr(data),
                    ChannelMsg::ExitStatus { exit_status } => Chunk::Exit(exit_status as i32),
                    ChannelMsg::ExitSignal { .. } => Chunk::Exit(128 + 15),
                    _ => continue,
                };
                if let Chunk::Stdout(data) | Chunk::Stderr(data) = &chunk {
                    match budget.try_acquire_many(data.len() as u32) {
                        Ok(taken) => taken.forget(),
                        Err(_) => break, // nobody reads: give this program up rather than the connection
                    }
                }
                // A dropped receiver is no reason to stop draining.
                let _ = sender.send(chunk);
            }
        };
        if let Ok(mut readers) = self.readers.lock() {
            while readers.try_join_next().is_some() {}
            readers.spawn(reader);
        }
        write.exec(true, command).await.map_err(|e| self.lost(e))?;
        Ok(Box::new(ChannelSession { name: self.name.clone(), write, chunks, unread }))
    }

    async fn tunnel(&self, host: &str, port: u16) -> Result<BoxStream, SshError> {
        let channel = self
            .handle
            .channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0)
            .await
            .map_err(|e| {
                let hint =
                    "sshd_config: AllowTcpForwarding must be yes or local, and something must listen there";
                self.refused(&format!("a connection to {host}:{port}"), e, hint)
            })?;
        Ok(Box::new(channel.into_stream()))
    }
}

/// A program on a channel.
struct ChannelSession {
    name: String,
    write: russh::ChannelWriteHalf<client::Msg>,
    chunks: mpsc::UnboundedReceiver<Chunk>,
    unread: Arc<Semaphore>,
}

impl ChannelSession {
    fn lost(&self, error: russh::Error) -> SshError {
        SshError {
            kind: SshErrorKind::Lost,
            message: format!("connection to {} ended: {error}", self.name),
            hint: "run the same command again".to_owned(),
        }
    }
}

#[async_trait]
impl Session for ChannelSession {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SshError> {
        self.write.data_bytes(bytes).await.map_err(|e| self.lost(e))
    }

    async fn finish_input(&mut self) -> Result<(), SshError> {
        self.write.eof().await.map_err(|e| self.lost(e))
    }

    async fn next(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.recv().await?;
        if let Chunk::Stdout(data) | Chunk::Stderr(data) = &chunk {
            self.unread.add_permits(data.len());
        }
        Some(chunk)
    }
}
