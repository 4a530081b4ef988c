//! Connections to hosts, opened on demand and kept: one per host, and one per bastion for all hosts behind it. Owns
//! deadlines, limits on concurrent handshakes, and the routing through bastions.

use super::auth::authenticate;
use super::config::{UserConfig, user_config};
use super::connection::Connection;
use super::credentials::Credentials;
use super::handshake::{Checker, Destination, Learned, Purpose, handshake_error, hung_up, settings};
use super::keyring::Keyring;
use super::known_hosts::{HostKeys, KnownHosts, lookup_name};
use super::{Dial, Limits, SshError, SshErrorKind, Transport};
use crate::state::BoxStream;
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use russh::client::Handle;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// Pauses before a server that hung up at once is asked again. Not all that were dropped together come back together.
const AFTER_A_DROP: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(200))
    .with_factor(3.0)
    .with_max_delay(Duration::from_millis(1500))
    .with_max_times(3)
    .with_jitter();

/// Where and how a host is reached.
#[derive(Clone, Debug, Default)]
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
    /// Private keys that are tried before those of the pool.
    pub identities: Vec<PathBuf>,
    /// The name under which known_hosts has it, if not by its address and port.
    pub host_key_alias: Option<String>,
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
    /// Query `ssh -G` for settings of bastions that the inventory does not have.
    pub use_ssh_config: bool,
    /// A folder with a socket for each host, named after it, in place of TCP.
    pub sockets: Option<PathBuf>,
    /// How much at once.
    pub limits: Limits,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            known_hosts: Vec::new(),
            credentials: Credentials::default(),
            connect_deadline: Duration::from_secs(10),
            login_deadline: Duration::from_secs(30),
            use_ssh_config: true,
            sockets: None,
            limits: Limits::default(),
        }
    }
}

/// A live connection, and the lock that keeps two from being made at once.
#[derive(Default)]
struct Slot {
    current: AsyncMutex<Current>,
    /// Attempts begun.
    begun: AtomicU64,
    /// The last attempt that has ended.
    ended: AtomicU64,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    failed: Option<(u64, SshError)>,
}

/// All connections of one command.
pub struct Pool {
    options: PoolOptions,
    known: KnownHosts,
    keyring: Keyring,
    handshakes: Semaphore,
    bastions: Mutex<HashMap<String, Arc<Bastion>>>,
}

/// A host that others are behind.
pub(super) struct Bastion {
    pub endpoint: Endpoint,
    slot: Slot,
    handshakes: Semaphore,
}

/// One host of a pool.
pub struct SshHost {
    pool: Arc<Pool>,
    endpoint: Endpoint,
    slot: Slot,
}

/// The way to a host, up to its SSH port.
pub(super) enum Way {
    /// By TCP from here.
    Direct,
    /// Through a bastion.
    Through(Arc<Bastion>, Connection),
}

impl Pool {
    /// Reads the known_hosts files; nothing is connected yet.
    pub fn new(options: PoolOptions) -> Arc<Self> {
        Arc::new(Self {
            known: KnownHosts::read(&options.known_hosts),
            keyring: Keyring::new(options.credentials.clone()),
            handshakes: Semaphore::new(options.limits.handshakes),
            bastions: Mutex::default(),
            options,
        })
    }

    /// Returns the lines of known_hosts files that could not be read, each in words with its place.
    pub fn bad_known_hosts_lines(&self) -> &[String] {
        &self.known.bad_lines
    }

    /// Returns a host; it is connected at its first `dial`.
    pub fn host(self: &Arc<Self>, endpoint: Endpoint) -> Arc<SshHost> {
        Arc::new(SshHost { pool: self.clone(), endpoint, slot: Slot::default() })
    }

    /// Returns the bastion that `text` names; one and the same for all who name it.
    pub(super) async fn bastion(&self, text: &str, default_user: &str) -> Result<Arc<Bastion>, SshError> {
        let hop = Hop::parse(text)?;
        // OpenSSH is asked where it may know more: an alias, a user, a key.
        let may_know_more =
            hop.user.is_none() || !self.keyring.names_identities() || hop.host.parse::<IpAddr>().is_err();
        let config = if self.options.use_ssh_config && may_know_more {
            user_config(&hop.host).await
        } else {
            UserConfig::default()
        };
        let endpoint = Endpoint {
            name: format!("bastion {}", hop.host),
            address: config.hostname.unwrap_or_else(|| hop.host.clone()),
            port: hop.port.or(config.port).unwrap_or(22),
            user: hop.user.unwrap_or_else(|| default_user.to_owned()),
            bastions: Vec::new(),
            identities: config.identities,
            host_key_alias: config.host_key_alias,
        };
        let key = format!("{}@{}:{}", endpoint.user, endpoint.address, endpoint.port);
        let fresh = || {
            Arc::new(Bastion {
                endpoint,
                slot: Slot::default(),
                handshakes: Semaphore::new(self.options.limits.bastion_handshakes),
            })
        };
        Ok(match self.bastions.lock() {
            Ok(mut all) => all.entry(key).or_insert_with(fresh).clone(),
            Err(_) => fresh(),
        })
    }

    /// Returns the slot's live connection, or makes one. Callers that come while an attempt is under way share it, and
    /// its failure: a thousand hosts behind a dead bastion wait for one deadline, not for a thousand.
    async fn connection(
        &self,
        slot: &Slot,
        endpoint: &Endpoint,
        through: &[String],
    ) -> Result<Connection, SshError> {
        let begun = slot.begun.load(Ordering::Acquire);
        let under_way = (begun > slot.ended.load(Ordering::Acquire)).then_some(begun);
        let mut current = slot.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        if let (Some(mine), Some((failed, error))) = (under_way, &current.failed)
            && *failed >= mine
        {
            return Err(error.clone());
        }
        let attempt = slot.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let made = self.connect(endpoint, through).await;
        slot.ended.store(attempt, Ordering::Release);
        match made {
            Ok(connection) => {
                current.failed = None;
                current.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                current.connection = None;
                current.failed = Some((attempt, error.clone()));
                Err(error)
            }
        }
    }

    /// Returns what is known of an endpoint's host key.
    pub(super) fn known(&self, endpoint: &Endpoint) -> HostKeys {
        match &endpoint.host_key_alias {
            Some(alias) => self.known.lookup(alias, 22),
            None => self.known.lookup(&endpoint.address, endpoint.port),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.options.limits
    }

    pub(super) fn login_deadline(&self) -> Duration {
        self.options.login_deadline
    }

    /// Connects the bastions on the way, if there are any.
    pub(super) async fn way(&self, user: &str, through: &[String]) -> Result<Way, SshError> {
        let Some((last, before)) = through.split_last() else { return Ok(Way::Direct) };
        let bastion = self.bastion(last, user).await?;
        let hop = Box::pin(self.connection(&bastion.slot, &bastion.endpoint, before)).await?;
        Ok(Way::Through(bastion, hop))
    }

    /// Opens a stream to an endpoint's SSH port.
    pub(super) async fn stream(&self, at: &Destination<'_>, way: &Way) -> Result<BoxStream, SshError> {
        let deadline = self.options.connect_deadline;
        let connect = async {
            match way {
                Way::Direct if self.options.sockets.is_some() => {
                    let stream = self.socket(at.name).await.map_err(|e| unreachable(at, &e))?;
                    Ok(Box::new(stream) as BoxStream)
                }
                Way::Direct => {
                    let stream = tokio::net::TcpStream::connect((at.host, at.port))
                        .await
                        .map_err(|e| unreachable(at, &e))?;
                    // `connect_stream` leaves the socket as it is.
                    let _ = stream.set_nodelay(true);
                    Ok(Box::new(stream) as BoxStream)
                }
                Way::Through(_, hop) => {
                    let stream = hop.reach(at.host, at.port).await.map_err(|error| match error.kind {
                        SshErrorKind::Unreachable => SshError {
                            message: format!("cannot reach {}: {}", at.name, error.message),
                            ..error
                        },
                        _ => error,
                    })?;
                    Ok(Box::new(stream) as BoxStream)
                }
            }
        };
        tokio::time::timeout(deadline, connect)
            .await
            .unwrap_or_else(|_| Err(late(at, "TCP connection", deadline)))
    }

    /// Connects to the socket of a host.
    async fn socket(&self, host: &str) -> std::io::Result<tokio::net::UnixStream> {
        use std::os::fd::AsRawFd;
        let folder = std::fs::File::open(self.options.sockets.as_deref().unwrap_or("/".as_ref()))?;
        // A socket's address holds no more than 108 bytes; this path is short, whatever the folder's is.
        let short = format!("/proc/self/fd/{}/{host}", folder.as_raw_fd());
        tokio::net::UnixStream::connect(short).await
    }

    /// Acquires the permits for a handshake. Bastions are connected before, so that a task which holds a permit never
    /// waits for one that needs a permit.
    pub(super) async fn handshake_permit<'a>(&'a self, way: &'a Way) -> HandshakePermit<'a> {
        let behind = match way {
            Way::Direct => None,
            Way::Through(bastion, _) => bastion.handshakes.acquire().await.ok(),
        };
        HandshakePermit { _behind: behind, _all: self.handshakes.acquire().await.ok() }
    }

    /// Connects and logs in. A server that hangs up at once is asked again: beyond MaxStartups sshd does so at random,
    /// whatever the cause of its load.
    async fn connect(&self, endpoint: &Endpoint, through: &[String]) -> Result<Connection, SshError> {
        let mut pauses = AFTER_A_DROP.build();
        loop {
            let mut dropped = false;
            let error = match self.connect_once(endpoint, through, &mut dropped).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) if dropped => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
        }
    }

    async fn connect_once(
        &self,
        endpoint: &Endpoint,
        through: &[String],
        dropped: &mut bool,
    ) -> Result<Connection, SshError> {
        let Endpoint { name, address, port, user, identities, .. } = endpoint;
        let way = self.way(user, through).await?;
        let at = Destination { name, host: address, port: *port, by_hand: by_hand(endpoint, through) };
        let _permit = self.handshake_permit(&way).await;
        let stream = self.stream(&at, &way).await?;
        let keys = self.known(endpoint);
        let config = Arc::new(settings(&keys, self.limits()));
        let learned = Arc::new(Mutex::new(Learned::default()));
        let checker = Checker { keys, purpose: Purpose::Login, learned: learned.clone() };
        let login = async {
            let mut handle = shake(&at, config, stream, checker, &learned).await?;
            authenticate(&mut handle, &at, user, identities, &self.keyring, &learned).await?;
            Ok(handle)
        };
        let deadline = self.options.login_deadline;
        let handle = tokio::time::timeout(deadline, login)
            .await
            .unwrap_or_else(|_| Err(late(&at, "SSH login", deadline)));
        *dropped = learned.lock().is_ok_and(|learned| learned.dropped);
        let handle = handle?;
        let hop = match &way {
            Way::Direct => None,
            Way::Through(_, hop) => Some(hop),
        };
        Ok(Connection::new(name.clone(), handle, self.limits().clone(), hop))
    }
}

/// Permits for a handshake.
pub(super) struct HandshakePermit<'a> {
    _behind: Option<tokio::sync::SemaphorePermit<'a>>,
    _all: Option<tokio::sync::SemaphorePermit<'a>>,
}

/// Shakes hands over a stream.
pub(super) async fn shake(
    at: &Destination<'_>,
    config: Arc<russh::client::Config>,
    stream: BoxStream,
    checker: Checker,
    learned: &Mutex<Learned>,
) -> Result<Handle<Checker>, SshError> {
    russh::client::connect_stream(config, stream, checker).await.map_err(|error| match learned.lock() {
        Ok(mut learned) => {
            learned.dropped = learned.key.is_none() && hung_up(&error);
            handshake_error(at, &learned, &error)
        }
        Err(_) => handshake_error(at, &Learned::default(), &error),
    })
}

/// Returns the command that does the same by hand.
pub(super) fn by_hand(endpoint: &Endpoint, through: &[String]) -> String {
    let jump = if through.is_empty() { String::new() } else { format!(" -J {}", through.join(",")) };
    format!("ssh -v -p {}{jump} {}@{}", endpoint.port, endpoint.user, endpoint.address)
}

fn late(at: &Destination<'_>, what: &str, after: Duration) -> SshError {
    SshError {
        kind: SshErrorKind::Unreachable,
        message: format!(
            "{} ({}): no {what} within {} s",
            at.name,
            lookup_name(at.host, at.port),
            after.as_secs_f32()
        ),
        hint: at.by_hand.clone(),
    }
}

fn unreachable(at: &Destination<'_>, error: &std::io::Error) -> SshError {
    SshError {
        kind: SshErrorKind::Unreachable,
        message: format!("cannot reach {} ({}): {error}", at.name, lookup_name(at.host, at.port)),
        hint: format!("nc -vz {} {}", at.host, at.port),
    }
}

/// A bastion as written.
#[derive(Debug, PartialEq, Eq)]
struct Hop {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Hop {
    /// Reads `[user@]host[:port]`; an IPv6 address with a port is in brackets.
    fn parse(text: &str) -> Result<Self, SshError> {
        let wrong = || SshError {
            kind: SshErrorKind::Setup,
            message: format!("{text:?} is not a bastion address"),
            hint: "Use [user@]host[:port], with brackets around an IPv6 address: [::1]:22".to_owned(),
        };
        let text = text.strip_prefix("ssh://").unwrap_or(text).trim();
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            (host, after.strip_prefix(':').or((!after.is_empty()).then_some("?")))
        } else {
            match rest.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (rest, None),
            }
        };
        let port = port.map(|p| p.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)).transpose()?;
        if host.is_empty() || user.as_deref() == Some("") {
            return Err(wrong());
        }
        Ok(Self { user, host: host.to_owned(), port })
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
        Ok(Arc::new(connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bastions_are_read_as_openssh_reads_them() {
        let hop = |user: Option<&str>, host: &str, port| Hop {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        };
        assert_eq!(Hop::parse("jump"), Ok(hop(None, "jump", None)));
        assert_eq!(Hop::parse("a@b.c:2222"), Ok(hop(Some("a"), "b.c", Some(2222))));
        assert_eq!(Hop::parse("a@dom@b"), Ok(hop(Some("a@dom"), "b", None)));
        assert_eq!(Hop::parse("fd00::1"), Ok(hop(None, "fd00::1", None)));
        assert_eq!(Hop::parse("[fd00::1]:22"), Ok(hop(None, "fd00::1", Some(22))));
        for wrong in ["", "a@", "@b", "b:ssh", "b:0", "b:70000", "[::1", "[::1]22"] {
            let error = Hop::parse(wrong).expect_err(wrong);
            assert_eq!(error.kind, SshErrorKind::Setup, "{wrong}");
        }
    }
}
