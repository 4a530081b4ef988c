//! An SSH server in the test's own process, on loopback: counts requests, follows configured rules, and handles a few
//! built-in commands. It never starts a program.

use bytes::Bytes;
use provision::ssh::{Credentials, Endpoint, Pool, PoolOptions};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, Certificate, PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session, VerifiedPublicKey, run_stream,
};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, MethodKind, MethodSet, Sig};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Returns the ed25519 key of a number.
pub fn key(number: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[number; 32]))
}

/// Returns a key's line in known_hosts, without the names.
pub fn line(key: &PublicKey) -> String {
    key.to_openssh().expect("a key").split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Writes a private key into a folder.
pub fn write_key(dir: &Path, name: &str, key: &PrivateKey) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, key.to_openssh(LineEnding::LF).expect("a key").as_bytes()).expect("written");
    path
}

/// Returns a certificate of `authority` for a key.
pub fn certificate(
    authority: &PrivateKey,
    subject: &PublicKey,
    sort: CertType,
    principal: &str,
    valid_before: u64,
) -> Certificate {
    let mut builder = Builder::new([7; 32], subject.key_data().clone(), 1, valid_before).expect("a validity");
    builder.cert_type(sort).expect("a type");
    builder.key_id("the test's").expect("an id");
    builder.valid_principal(principal).expect("a principal");
    builder.sign(authority).expect("signed")
}

/// What a server allows.
#[derive(Clone)]
pub struct Rules {
    pub host_keys: Vec<PrivateKey>,
    pub certificates: Vec<Certificate>,
    pub authorized: Vec<PublicKey>,
    pub user_authority: Option<PublicKey>,
    pub password: Option<&'static str>,
    /// Everything in this list is wanted, in this order.
    pub chain: Vec<MethodKind>,
    pub most_tries: usize,
    pub most_sessions: usize,
    pub forwards: bool,
    pub hang_up_at_login: bool,
    /// So many connections are hung up on before a word is said.
    pub drops: usize,
    pub rekey_bytes: usize,
    /// What every program does instead of what it was asked for: a host that was taken over.
    pub instead: Option<&'static str>,
    /// Where logins are noted, in the order of all servers that share it: this server's name, the user, the key.
    pub log: Option<(&'static str, Log)>,
}

/// Logins of several servers.
pub type Log = Arc<Mutex<Vec<String>>>;

impl Default for Rules {
    fn default() -> Self {
        Self {
            host_keys: vec![key(1)],
            certificates: Vec::new(),
            authorized: vec![key(2).public_key().clone()],
            user_authority: None,
            password: None,
            chain: vec![MethodKind::PublicKey],
            most_tries: 6,
            most_sessions: 10,
            forwards: true,
            hang_up_at_login: false,
            drops: 0,
            rekey_bytes: 1 << 30,
            instead: None,
            log: None,
        }
    }
}

/// What a server saw.
#[derive(Default)]
pub struct Counts {
    pub connections: AtomicUsize,
    pub logins: AtomicUsize,
    pub sessions: AtomicUsize,
    pub live: AtomicUsize,
    pub refused_sessions: AtomicUsize,
    pub tunnels: AtomicUsize,
    /// How it was logged in, such as `ssh-ed25519`, `rsa-sha2-512`, `certificate`, `password`.
    pub how: Mutex<Vec<String>>,
}

/// A running server; gone when dropped.
pub struct Server {
    pub port: u16,
    pub counts: Arc<Counts>,
    tasks: Tasks,
    frozen: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

/// What runs for a server's connections.
type Tasks = Arc<Mutex<JoinSet<()>>>;

impl Drop for Server {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Server {
    pub async fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let counts = Arc::new(Counts::default());
        let tasks = Tasks::default();
        let config = Arc::new(Config {
            keys: rules.host_keys.clone(),
            certificates: rules.certificates.clone(),
            methods: MethodSet::from(&rules.chain[..1]),
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            max_auth_attempts: rules.most_tries,
            limits: russh::Limits::new(rules.rekey_bytes, rules.rekey_bytes, Duration::from_secs(3600)),
            nodelay: true,
            ..Config::default()
        });
        let (seen, running) = (counts.clone(), tasks.clone());
        let (frozen, freeze) = watch::channel(false);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                if seen.connections.fetch_add(1, SeqCst) < rules.drops {
                    continue;
                }
                let _ = tcp.set_nodelay(true);
                let login = Login {
                    rules: rules.clone(),
                    counts: seen.clone(),
                    passed: 0,
                    channels: HashMap::new(),
                    live: Arc::default(),
                    tasks: running.clone(),
                };
                let config = config.clone();
                let mut freeze = freeze.clone();
                // Aborting this task drops the socket: that is how a link is cut.
                running.lock().expect("not poisoned").spawn(async move {
                    let (mut outer, inner) = tokio::io::duplex(1 << 16);
                    let serve = async {
                        if let Ok(session) = run_stream(config, inner, login).await {
                            let _ = session.await;
                        }
                    };
                    let carry = async {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut tcp, &mut outer) => {}
                            _ = freeze.changed() => std::future::pending().await,
                        }
                    };
                    let _ = tokio::join!(serve, carry);
                });
            }
        });
        Self { port, counts, tasks, frozen, _accepting: accepting }
    }

    /// Cuts every connection, as a power failure does.
    pub fn cut(&self) {
        self.tasks.lock().expect("not poisoned").abort_all();
    }

    /// Stops every connection without closing it, as a pulled cable does.
    pub fn freeze(&self) {
        let _ = self.frozen.send(true);
    }

    pub fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            address: "127.0.0.1".to_owned(),
            port: self.port,
            user: "ubuntu".to_owned(),
            ..Endpoint::default()
        }
    }

    /// Returns the line of known_hosts that trusts it.
    pub fn known(&self, key: &PublicKey) -> String {
        format!("[127.0.0.1]:{} {}\n", self.port, line(key))
    }
}

/// The files of one test: known_hosts and keys.
pub struct Files {
    pub dir: tempfile::TempDir,
    pub options: PoolOptions,
}

impl Files {
    /// Returns options that trust `known` and log in with key 2.
    pub fn new(known: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let identity = write_key(dir.path(), "id", &key(2));
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, known).expect("written");
        let options = PoolOptions {
            known_hosts: vec![file],
            credentials: Credentials { identities: vec![identity], ..Credentials::default() },
            use_ssh_config: false,
            ..PoolOptions::default()
        };
        Self { dir, options }
    }

    pub fn trusting(servers: &[&Server]) -> Self {
        Self::new(&servers.iter().map(|s| s.known(key(1).public_key())).collect::<String>())
    }

    pub fn pool(&self) -> Arc<Pool> {
        Pool::new(self.options.clone())
    }
}

struct Login {
    rules: Rules,
    counts: Arc<Counts>,
    passed: usize,
    channels: HashMap<ChannelId, Channel<Msg>>,
    live: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Login {
    fn note(&self, auth: &Auth, user: &str, key: &PublicKey) {
        if let (Auth::Accept, Some((name, log))) = (auth, &self.rules.log) {
            let key = key.fingerprint(russh::keys::HashAlg::Sha256).to_string();
            log.lock().expect("not poisoned").push(format!("{name} {user} {key}"));
        }
    }

    /// Takes one link of the chain.
    fn pass(&mut self, method: MethodKind, right: bool, how: &str) -> Auth {
        let due = self.rules.chain.get(self.passed).copied();
        if !right || due != Some(method) {
            let proceed = due.map(|due| MethodSet::from(&[due][..]));
            return Auth::Reject { proceed_with_methods: proceed, partial_success: false };
        }
        self.passed += 1;
        self.counts.how.lock().expect("not poisoned").push(how.to_owned());
        match self.rules.chain.get(self.passed) {
            None => Auth::Accept,
            Some(next) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[*next][..])),
                partial_success: true,
            },
        }
    }
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        Ok(self.pass(MethodKind::None, true, "none"))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        if self.rules.hang_up_at_login {
            return Err(russh::Error::Disconnect);
        }
        // As current sshds do, and russh's server by itself does not.
        let sha1 = matches!(key.algorithm, Algorithm::Rsa { hash: None });
        let right = !sha1 && self.rules.authorized.iter().any(|k| k.key_data() == key.public_key.key_data());
        let how = key.algorithm.to_string();
        let auth = self.pass(MethodKind::PublicKey, right, &how);
        self.note(&auth, user, key.public_key);
        Ok(auth)
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        cert: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let right = self.rules.user_authority.as_ref().is_some_and(|a| a.key_data() == cert.signature_key())
            && cert.valid_principals().iter().any(|p| p == user);
        let auth = self.pass(MethodKind::PublicKey, right, "certificate");
        self.note(&auth, &format!("{user} certificate"), &PublicKey::from(cert.public_key().clone()));
        Ok(auth)
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        let right = self.rules.password == Some(password);
        Ok(self.pass(MethodKind::Password, right, "password"))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(mut response) = response else {
            return Ok(Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            });
        };
        let right = response.next().is_some_and(|r| self.rules.password.map(str::as_bytes) == Some(&r[..]));
        Ok(self.pass(MethodKind::KeyboardInteractive, right, "keyboard-interactive"))
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Self::Error> {
        self.counts.logins.fetch_add(1, SeqCst);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.live.load(SeqCst) >= self.rules.most_sessions {
            self.counts.refused_sessions.fetch_add(1, SeqCst);
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        }
        self.live.fetch_add(1, SeqCst);
        self.counts.live.fetch_add(1, SeqCst);
        self.counts.sessions.fetch_add(1, SeqCst);
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&id);
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if !self.rules.forwards {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        }
        let port = u16::try_from(port).unwrap_or(0);
        let Ok(mut stream) = TcpStream::connect((host, port)).await else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        self.counts.tunnels.fetch_add(1, SeqCst);
        reply.accept().await;
        self.tasks.lock().expect("not poisoned").spawn(async move {
            let mut channel = channel.into_stream();
            let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
        });
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(channel) = self.channels.remove(&id) else { return session.channel_failure(id) };
        let command = self.rules.instead.map_or(String::from_utf8_lossy(command), Into::into).into_owned();
        let counted = Counted(self.live.clone(), self.counts.clone());
        if command == "refuse" {
            return session.channel_failure(id);
        }
        session.channel_success(id)?;
        let handle = session.handle();
        self.tasks.lock().expect("not poisoned").spawn(async move {
            let _counted = counted;
            let _ = answer(&command, channel, handle).await;
        });
        Ok(())
    }
}

/// A session as the server counts it.
struct Counted(Arc<AtomicUsize>, Arc<Counts>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
        self.1.live.fetch_sub(1, SeqCst);
    }
}

/// The commands: `say TEXT`, `exit N`, `cat`, `flood BYTES`, `flood-aside BYTES`, `frames N`, `hang`, `deaf N`, `vanish`, `signal NAME`.
async fn answer(
    command: &str,
    mut channel: Channel<Msg>,
    handle: russh::server::Handle,
) -> Result<(), russh::Error> {
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let mut status = Some(0);
    match word {
        "say" => {
            channel.data_bytes(Bytes::from(rest.to_owned())).await?;
            channel.extended_data_bytes(1, Bytes::from("and aside")).await?;
        }
        "exit" => status = rest.parse().ok(),
        "cat" => loop {
            match channel.wait().await {
                Some(ChannelMsg::Data { data }) => channel.data_bytes(data).await?,
                Some(ChannelMsg::Eof) => break,
                None => return Ok(()),
                Some(_) => {}
            }
        },
        "frames" => {
            let frames: String =
                (0..rest.parse().unwrap_or(0)).map(|n: u32| format!("\u{1e}s{n}\n")).collect();
            channel.data_bytes(Bytes::from(frames + "\u{1e}end 0\n")).await?;
        }
        "flood-aside" => {
            // What nobody reads ends with the channel.
            for _ in 0..rest.parse().unwrap_or(0usize) / 30_000 {
                let sent = channel.extended_data_bytes(1, Bytes::from(vec![b'x'; 30_000]));
                match tokio::time::timeout(Duration::from_secs(5), sent).await {
                    Ok(Ok(())) => {}
                    _ => return Ok(()),
                }
            }
        }
        "flood" => {
            let (mut read, write) = channel.split();
            let pour = async {
                let mut left: usize = rest.parse().unwrap_or(0);
                while left > 0 {
                    // Small pieces: many messages fill a channel's buffer long before bytes fill its window.
                    let piece = left.min(1_000);
                    write.data_bytes(Bytes::from(vec![b'x'; piece])).await?;
                    left -= piece;
                }
                write.exit_status(0).await?;
                write.eof().await?;
                write.close().await
            };
            // A write that waits for window does not notice that its channel was closed.
            let closed = async { while !matches!(read.wait().await, None | Some(ChannelMsg::Close)) {} };
            tokio::select! {
                poured = pour => poured?,
                () = closed => {}
            }
            return Ok(());
        }
        "hang" => {
            while !matches!(channel.wait().await, None | Some(ChannelMsg::Close)) {}
            return Ok(());
        }
        // Ends without having read its input.
        "deaf" => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            status = rest.parse().ok();
        }
        "vanish" => status = None,
        "signal" => {
            let signal = match rest {
                "KILL" => Sig::KILL,
                "SEGV" => Sig::SEGV,
                other => Sig::Custom(other.to_owned()),
            };
            let _ =
                handle.exit_signal_request(channel.id(), signal, false, String::new(), String::new()).await;
            status = None;
        }
        _ => status = Some(127),
    }
    if let Some(status) = status {
        channel.exit_status(status).await?;
    }
    channel.eof().await?;
    channel.close().await
}

/// Returns a port on which nobody listens.
pub fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// A port that accepts and then does as told; counts how often it was called.
pub struct Port {
    pub number: u16,
    pub calls: Arc<AtomicUsize>,
    pub closed: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Port {
    /// Says `greeting` to whoever calls, then echoes.
    pub async fn open(greeting: &'static [u8]) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let number = listener.local_addr().expect("bound").port();
        let calls = Arc::new(AtomicUsize::new(0));
        let closed = Arc::new(AtomicBool::new(false));
        let (count, flag) = (calls.clone(), closed.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let flag = flag.clone();
                running.spawn(async move {
                    let _ = stream.write_all(greeting).await;
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        if greeting.is_empty() || stream.write_all(&buffer[..n]).await.is_err() {
                            continue;
                        }
                    }
                    flag.store(true, SeqCst);
                });
            }
        });
        Self { number, calls, closed, _task: task }
    }
}
