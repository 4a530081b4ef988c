//! Connections to hosts, made when needed and kept: one a host, one a bastion whatever the number of hosts behind it.
//! Owns deadlines, limits on handshakes under way, and who is reached through whom.

use super::auth::{Credentials, authenticate};
use super::connection::{Checker, Connection, HostKey, handshake_error, settings};
use super::known_hosts::{KnownHosts, lookup_name};
use super::{Dial, SshError, SshErrorKind, Transport};
use async_trait::async_trait;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// Handshakes under way at once; more gain nothing (measured: 127 to 135 connections a second with 32).
const MOST_HANDSHAKES: usize = 32;
/// Handshakes through one bastion at once: sshd drops unauthenticated ones at random beyond MaxStartups 10.
const MOST_BASTION_HANDSHAKES: usize = 8;

/// Where and how a host is reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The name used in messages.
    pub name: String,
    /// Address or DNS name.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// `[user@]host[:port]`, from here outwards.
    pub bastions: Vec<String>,
}

/// Settings of a pool.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// known_hosts files, the inventory's first.
    pub known_hosts: Vec<PathBuf>,
    /// How to log in.
    pub credentials: Credentials,
    /// TCP connection within this time.
    pub connect_deadline: Duration,
    /// Handshake and login within this time.
    pub login_deadline: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            known_hosts: Vec::new(),
            credentials: Credentials::default(),
            connect_deadline: Duration::from_secs(10),
            login_deadline: Duration::from_secs(30),
        }
    }
}

/// A live connection, and the lock that keeps two from being made at once.
#[derive(Default)]
struct Slot {
    connection: AsyncMutex<Option<Arc<Connection>>>,
}

/// All connections of one command.
pub struct Pool {
    options: PoolOptions,
    known: Arc<KnownHosts>,
    handshakes: Semaphore,
    bastions: Mutex<HashMap<String, Arc<Bastion>>>,
}

struct Bastion {
    endpoint: Endpoint,
    slot: Slot,
    handshakes: Semaphore,
}

/// One host of a pool.
pub struct SshHost {
    pool: Arc<Pool>,
    endpoint: Endpoint,
    slot: Slot,
}

impl Pool {
    /// Reads the known_hosts files; nothing is connected yet.
    pub fn new(options: PoolOptions) -> Arc<Self> {
        let known = Arc::new(KnownHosts::read(&options.known_hosts));
        Arc::new(Self {
            options,
            known,
            handshakes: Semaphore::new(MOST_HANDSHAKES),
            bastions: Mutex::new(HashMap::new()),
        })
    }

    /// Returns the lines of known_hosts files that could not be read, as `file:line`.
    pub fn bad_known_hosts_lines(&self) -> &[String] {
        &self.known.bad_lines
    }

    /// Returns a host; it is connected at its first `dial`.
    pub fn host(self: &Arc<Self>, endpoint: Endpoint) -> Arc<SshHost> {
        Arc::new(SshHost { pool: self.clone(), endpoint, slot: Slot::default() })
    }

    fn bastion(&self, text: &str, default_user: &str) -> Arc<Bastion> {
        let (user, rest) = text.split_once('@').unwrap_or((default_user, text));
        let (address, port) = match rest.rsplit_once(':') {
            Some((address, port)) if !address.contains(':') => (address, port.parse().unwrap_or(22)),
            _ => (rest, 22),
        };
        let endpoint = Endpoint {
            name: format!("bastion {address}"),
            address: address.to_owned(),
            port,
            user: user.to_owned(),
            bastions: Vec::new(),
        };
        let fresh = || {
            Arc::new(Bastion {
                endpoint: endpoint.clone(),
                slot: Slot::default(),
                handshakes: Semaphore::new(MOST_BASTION_HANDSHAKES),
            })
        };
        match self.bastions.lock() {
            Ok(mut all) => all.entry(format!("{user}@{address}:{port}")).or_insert_with(fresh).clone(),
            Err(_) => fresh(),
        }
    }

    /// Returns the slot's live connection, or makes one. Callers that come together share one attempt.
    async fn connection(
        &self,
        slot: &Slot,
        endpoint: &Endpoint,
        through: &[String],
    ) -> Result<Arc<Connection>, SshError> {
        let mut current = slot.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(self.connect(endpoint, through).await?);
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self, endpoint: &Endpoint, through: &[String]) -> Result<Connection, SshError> {
        let Endpoint { name, address, port, user, .. } = endpoint;
        let outcome = Arc::new(Mutex::new(HostKey::NotSeen));
        let checker = Checker {
            host: address.clone(),
            port: *port,
            known: self.known.clone(),
            outcome: outcome.clone(),
            record: None,
        };
        let config = Arc::new(settings(&self.known, address, *port));
        let place = lookup_name(address, *port);
        let timed_out = |what: &str, after: Duration| SshError {
            kind: SshErrorKind::Unreachable,
            message: format!("{name} ({place}): no {what} within {} s", after.as_secs()),
            hint: format!("ssh -v -p {port} {user}@{address}"),
        };

        let (stream, bastion): (super::BoxStream, Option<(Arc<Bastion>, Arc<Connection>)>) =
            match through.split_last() {
                None => {
                    let connect = tokio::net::TcpStream::connect((address.as_str(), *port));
                    let stream = tokio::time::timeout(self.options.connect_deadline, connect)
                        .await
                        .map_err(|_| timed_out("TCP connection", self.options.connect_deadline))?
                        .map_err(|error| SshError {
                            kind: SshErrorKind::Unreachable,
                            message: format!("cannot reach {name} ({place}): {error}"),
                            hint: format!("nc -vz {address} {port}"),
                        })?;
                    // `connect_stream` leaves the socket as it is.
                    let _ = stream.set_nodelay(true);
                    (Box::new(stream), None)
                }
                Some((last, before)) => {
                    let bastion = self.bastion(last, user);
                    let hop = Box::pin(self.connection(&bastion.slot, &bastion.endpoint, before)).await?;
                    (hop.tunnel(address, *port).await?, Some((bastion, hop)))
                }
            };
        let _all = self.handshakes.acquire().await;
        let (bastion, hop) = bastion.unzip();
        let _behind = match &bastion {
            Some(bastion) => bastion.handshakes.acquire().await.ok(),
            None => None,
        };
        let login = async {
            let mut handle =
                russh::client::connect_stream(config, stream, checker).await.map_err(|error| {
                    let outcome = outcome.lock().map(|o| o.clone()).unwrap_or(HostKey::NotSeen);
                    handshake_error(name, address, *port, &outcome, &error)
                })?;
            authenticate(&mut handle, name, user, (address, *port), &self.options.credentials).await?;
            Ok(handle)
        };
        let handle = tokio::time::timeout(self.options.login_deadline, login)
            .await
            .map_err(|_| timed_out("SSH login", self.options.login_deadline))??;
        Ok(Connection::new(name.clone(), handle, hop))
    }
}

impl SshHost {
    /// Returns where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[async_trait]
impl Dial for SshHost {
    async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
        let connection = self.pool.connection(&self.slot, &self.endpoint, &self.endpoint.bastions).await?;
        Ok(connection)
    }
}
