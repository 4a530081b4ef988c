//! Connections to hosts, opened on demand and kept: one per host, and one per bastion for all hosts behind it. Owns
//! deadlines, limits on concurrent handshakes, and the routing through bastions.

use super::auth::authenticate;
use super::config::{LocalEnd, user_config, without_config};
use super::connection::Connection;
use super::credentials::Credentials;
use super::endpoint::{Endpoint, Hop};
use super::handshake::{Checker, Destination, Learned, Purpose, handshake_error, hung_up, settings};
use super::keyring::Keyring;
use super::known_hosts::{HostKeys, KnownHosts, lookup_name};
use super::proxy;
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
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// Options that are not supported and change where a connection goes, or whom it trusts: ignoring them would be wrong.
const MUST_NOT_BE_IGNORED: [&str; 2] = ["bindinterface ", "revokedhostkeys "];

/// Bastions on the way to a host, those of bastions' own configuration included.
const MOST_HOPS: usize = 8;

/// Pauses before a server that hung up at once is asked again. Not all that were dropped together come back together.
const AFTER_A_DROP: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(200))
    .with_factor(3.0)
    .with_max_delay(Duration::from_millis(1500))
    .with_max_times(3)
    .with_jitter();

/// Settings of a pool.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// known_hosts files of all hosts; those of an endpoint's own come after them.
    pub known_hosts: Vec<PathBuf>,
    /// Only `known_hosts` counts, not the files of endpoints.
    pub only_these_known_hosts: bool,
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
            only_these_known_hosts: false,
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
    /// The files of endpoints, by their names: hosts of one configuration share them.
    known_of: Mutex<HashMap<Vec<PathBuf>, Arc<KnownHosts>>>,
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
    Direct(LocalEnd),
    /// Through a command's input and output.
    Command(String),
    /// Through a bastion.
    Through(Arc<Bastion>, Connection),
}

/// The hops of a way, from here outwards, and whose they are.
#[derive(Clone, Copy)]
pub(super) struct Through<'a> {
    /// `[user@]host[:port]` of each.
    pub hops: &'a [String],
    /// They are a ProxyJump.
    pub by_proxy_jump: bool,
    /// The login behind them.
    pub user: &'a str,
    /// Hops behind them already.
    pub depth: usize,
}

impl<'a> Through<'a> {
    /// Returns the way that an endpoint names.
    pub(super) fn of(endpoint: &'a Endpoint) -> Self {
        Self {
            hops: &endpoint.bastions,
            by_proxy_jump: endpoint.by_proxy_jump,
            user: &endpoint.user,
            depth: 0,
        }
    }
}

impl Pool {
    /// Reads the known_hosts files; nothing is connected yet.
    pub fn new(options: PoolOptions) -> Arc<Self> {
        Arc::new(Self {
            known: KnownHosts::read(&options.known_hosts),
            known_of: Mutex::default(),
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

    /// Returns the bastion that `text` names; one and the same for all who name it in the same way. Without a user in `text`
    /// or in its configuration it is `default_user`, if there is one: the local user for a ProxyJump.
    pub(super) async fn bastion(
        &self,
        text: &str,
        default_user: Option<&str>,
    ) -> Result<Arc<Bastion>, SshError> {
        let hop = Hop::parse(text).ok_or_else(|| SshError {
            kind: SshErrorKind::Setup,
            message: format!("{text:?} is not a bastion address"),
            hint: "Use [user@]host[:port], with brackets around an IPv6 address: [::1]:22".to_owned(),
        })?;
        let asked = hop.asked();
        let config =
            if self.options.use_ssh_config { user_config(&asked).await } else { without_config(&asked) };
        let local = std::env::var("USER").ok();
        let configured =
            config.user.clone().filter(|user| default_user.is_none() || Some(user) != local.as_ref());
        let user = hop.user.or(configured).or_else(|| default_user.map(str::to_owned)).or(local);
        let mut endpoint = Endpoint {
            name: format!("bastion {}", hop.host),
            address: config.hostname.clone().unwrap_or(hop.host),
            port: hop.port.or(config.port).unwrap_or(22),
            user: user.unwrap_or_else(|| "root".to_owned()),
            is_bastion: true,
            ..Endpoint::default()
        };
        let identities = self.keyring.names_identities() && !self.options.use_ssh_config;
        endpoint.complete(config);
        if identities {
            endpoint.identities.clear();
        }
        let Endpoint { user, address, port, bastions, proxy_command, .. } = &endpoint;
        let key = format!("{user}@{address}:{port} {text} {bastions:?} {proxy_command:?}");
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
        through: &Through<'_>,
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
        let (name, port) = match &endpoint.host_key_alias {
            Some(alias) => (alias, 22),
            None => (&endpoint.address, endpoint.port),
        };
        let keys = self.known.lookup(name, port);
        if self.options.only_these_known_hosts || endpoint.known_hosts.is_empty() {
            return keys;
        }
        let more = match self.known_of.lock() {
            Ok(mut all) => all
                .entry(endpoint.known_hosts.clone())
                .or_insert_with(|| Arc::new(KnownHosts::read(&endpoint.known_hosts)))
                .clone(),
            Err(_) => Arc::new(KnownHosts::read(&endpoint.known_hosts)),
        };
        keys.and(more.lookup(name, port))
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.options.limits
    }

    pub(super) fn login_deadline(&self) -> Duration {
        self.options.login_deadline
    }

    /// Connects the bastions on the way, if there are any.
    pub(super) async fn way(&self, endpoint: &Endpoint, through: &Through<'_>) -> Result<Way, SshError> {
        let Some((last, before)) = through.hops.split_last() else {
            let command = endpoint.proxy_command.clone().map(Way::Command);
            return Ok(command.unwrap_or_else(|| Way::Direct(endpoint.local.clone())));
        };
        // OpenSSH starts itself once more for each hop, without end where a hop leads to itself.
        if through.depth >= MOST_HOPS {
            return Err(SshError {
                kind: SshErrorKind::Setup,
                message: format!(
                    "more than {MOST_HOPS} bastions on the way to {}: does {last} lead to itself?",
                    endpoint.name
                ),
                hint: format!("Set ProxyJump none for it in ssh_config (check with: ssh -G {last})"),
            });
        }
        let default_user = (!through.by_proxy_jump).then_some(through.user);
        let bastion = self.bastion(last, default_user).await?;
        // The first hop is reached as its own configuration says.
        let before = match before.is_empty() {
            true => Through {
                hops: &bastion.endpoint.bastions,
                by_proxy_jump: bastion.endpoint.by_proxy_jump,
                user: through.user,
                depth: through.depth + 1,
            },
            false => Through { hops: before, depth: through.depth + 1, ..*through },
        };
        let hop = Box::pin(self.connection(&bastion.slot, &bastion.endpoint, &before)).await?;
        Ok(Way::Through(bastion, hop))
    }

    /// Opens a stream to an endpoint's SSH port.
    pub(super) async fn stream(&self, at: &Destination<'_>, way: &Way) -> Result<BoxStream, SshError> {
        let deadline = self.options.connect_deadline;
        let connect = async {
            match way {
                Way::Direct(_) if self.options.sockets.is_some() => {
                    let stream = self.socket(at.name).await.map_err(|e| unreachable(at, &e))?;
                    Ok(Box::new(stream) as BoxStream)
                }
                Way::Direct(local) => {
                    let stream = tcp(at, local).await.map_err(|e| unreachable(at, &e))?;
                    // `connect_stream` leaves the socket as it is.
                    let _ = stream.set_nodelay(true);
                    Ok(Box::new(stream) as BoxStream)
                }
                Way::Command(command) => proxy::stream(at, command),
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
            Way::Direct(_) | Way::Command(_) => None,
            Way::Through(bastion, _) => bastion.handshakes.acquire().await.ok(),
        };
        HandshakePermit { _behind: behind, _all: self.handshakes.acquire().await.ok() }
    }

    /// Connects and logs in. A server that hangs up at once is asked again: beyond MaxStartups sshd does so at random,
    /// whatever the cause of its load.
    async fn connect(&self, endpoint: &Endpoint, through: &Through<'_>) -> Result<Connection, SshError> {
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
        through: &Through<'_>,
        dropped: &mut bool,
    ) -> Result<Connection, SshError> {
        let Endpoint { name, address, port, .. } = endpoint;
        let way = self.way(endpoint, through).await?;
        let at = Destination { name, host: address, port: *port, by_hand: by_hand(endpoint, through.hops) };
        let _permit = self.handshake_permit(&way).await;
        let stream = self.stream(&at, &way).await?;
        let keys = self.known(endpoint);
        let config = Arc::new(settings(&keys, self.limits()));
        let learned = Arc::new(Mutex::new(Learned::default()));
        let checker = Checker { keys, purpose: Purpose::Login, learned: learned.clone() };
        let login = async {
            let mut handle = shake(&at, config, stream, checker, &learned).await?;
            authenticate(&mut handle, &at, endpoint, &self.keyring, &learned).await?;
            Ok(handle)
        };
        let deadline = self.options.login_deadline;
        let handle = tokio::time::timeout(deadline, login)
            .await
            .unwrap_or_else(|_| Err(late(&at, "SSH login", deadline)));
        *dropped = learned.lock().is_ok_and(|learned| learned.dropped);
        let handle = handle?;
        let hop = match &way {
            Way::Direct(_) | Way::Command(_) => None,
            Way::Through(_, hop) => Some(hop),
        };
        let key = learned.lock().ok().and_then(|learned| learned.key.as_ref()?.to_openssh().ok());
        // Without a comment.
        let key = key.map(|key| key.split(' ').take(2).collect::<Vec<_>>().join(" "));
        Ok(Connection::new(name.clone(), key, handle, self.limits().clone(), hop))
    }
}

/// Connects to the first address of a host that answers, as AddressFamily and BindAddress say.
async fn tcp(at: &Destination<'_>, local: &LocalEnd) -> std::io::Result<TcpStream> {
    if *local == LocalEnd::default() {
        return TcpStream::connect((at.host, at.port)).await;
    }
    let from: Option<IpAddr> = match &local.address {
        Some(address) => Some(address.parse().map_err(|_| {
            std::io::Error::other(format!("BindAddress {address} of ssh_config is not an IP address"))
        })?),
        None => None,
    };
    let mut failure = std::io::Error::other("it has no address of the family that ssh_config asks for");
    for to in tokio::net::lookup_host((at.host, at.port)).await? {
        let wrong_family = local.ipv6.is_some_and(|ipv6| ipv6 != to.is_ipv6());
        if wrong_family || from.is_some_and(|from| from.is_ipv6() != to.is_ipv6()) {
            continue;
        }
        let socket = if to.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        if let Some(from) = from {
            socket.bind((from, 0).into())?;
        }
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
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

/// Adds to an error what of the user's ssh configuration was not followed.
fn noted(mut error: SshError, endpoint: &Endpoint) -> SshError {
    let strict = |option: &&String| {
        !option.starts_with("stricthostkeychecking") || error.kind == SshErrorKind::HostKeyUnknown
    };
    let named: Vec<&str> = endpoint.unsupported.iter().filter(strict).map(String::as_str).collect();
    if let Some(problem) = &endpoint.problem {
        error.message += &format!("; {problem}");
    }
    if !named.is_empty() {
        error.message +=
            &format!("; not supported by provision, but set in ssh_config: {}", named.join(", "));
    }
    error
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

impl SshHost {
    /// Returns where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[async_trait]
impl Dial for SshHost {
    async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
        if let Some(option) =
            self.endpoint.unsupported.iter().find(|o| MUST_NOT_BE_IGNORED.iter().any(|m| o.starts_with(m)))
        {
            return Err(SshError {
                kind: SshErrorKind::Setup,
                message: format!(
                    "ssh_config sets `{option}` for {}, which provision does not support",
                    self.endpoint.name
                ),
                hint: format!(
                    "Take {} out of that option in ssh_config (check with: ssh -G {})",
                    self.endpoint.name, self.endpoint.address
                ),
            });
        }
        let through = Through::of(&self.endpoint);
        let connection = self.pool.connection(&self.slot, &self.endpoint, &through).await;
        Ok(Arc::new(connection.map_err(|error| noted(error, &self.endpoint))?))
    }

    async fn host_key(&self) -> Option<String> {
        let through = Through::of(&self.endpoint);
        self.pool.connection(&self.slot, &self.endpoint, &through).await.ok()?.host_key()
    }
}
