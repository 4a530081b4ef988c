//! The SSH server of a lab host, and what a login on it may do: run programs, open a shell on a terminal, reach ports of its own host.

use super::authorized_keys;
use super::host::LabHost;
use super::isolate::Stdin;
use super::limits::MOST_OUTPUT;
use super::net::SHORTAGE;
use super::program::Program;
use super::spec::FaultKind;
use super::walls::Wall;
use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, Pty};
use rustix::termios::Winsize;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// sshd's MaxSessions.
const MOST_SESSIONS: usize = 10;
/// The keys that a host lets in besides the lab's.
const AUTHORIZED_KEYS: &str = "root/.ssh/authorized_keys";
/// Bytes that are read of a program's output at once.
const CHUNK: usize = 32 << 10;

/// A terminal that a client asked for.
struct Terminal {
    /// Its kind, for `$TERM`.
    kind: String,
    /// The end that the server holds.
    master: Arc<OwnedFd>,
    /// The end that the program gets; the terminal ends when the last holder of this one does.
    slave: Option<OwnedFd>,
}

impl Terminal {
    /// The lab is on Linux only (`Isolation::new`).
    #[cfg(not(target_os = "linux"))]
    fn open(_: &str, _: Winsize) -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    #[cfg(target_os = "linux")]
    fn open(kind: &str, size: Winsize) -> std::io::Result<Self> {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        rustix::termios::tcsetwinsize(&master, size)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+');
        let kind = if kind.chars().all(plain) { kind.to_owned() } else { "dumb".to_owned() };
        Ok(Self { kind, master: Arc::new(master), slave: Some(slave) })
    }
}

fn size(columns: u32, rows: u32) -> Winsize {
    let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Winsize { ws_row: short(rows), ws_col: short(columns), ws_xpixel: 0, ws_ypixel: 0 }
}

/// One connection of a client.
pub(super) struct Login {
    host: Arc<LabHost>,
    /// Sessions on which nothing runs yet.
    channels: HashMap<ChannelId, (Channel<Msg>, OwnedSemaphorePermit)>,
    /// How many more sessions there may be at once.
    sessions: Arc<Semaphore>,
    terminals: HashMap<ChannelId, Terminal>,
    /// What the key may do, and nothing else, if the host's own authorized_keys let it in.
    forced: Option<String>,
}

impl Login {
    /// Returns a connection that has asked for nothing yet.
    pub(super) fn new(host: Arc<LabHost>) -> Self {
        Self {
            host,
            channels: HashMap::new(),
            sessions: Arc::new(Semaphore::new(MOST_SESSIONS)),
            terminals: HashMap::new(),
            forced: None,
        }
    }

    fn start(&mut self, id: ChannelId, command: String, session: &mut Session) -> Result<(), russh::Error> {
        let Some((channel, place)) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let command = match &self.forced {
            Some(forced) => {
                let asked = command.replace('\'', "'\\''");
                format!("SSH_ORIGINAL_COMMAND='{asked}'; export SSH_ORIGINAL_COMMAND; {forced}")
            }
            None => command,
        };
        let terminal = self.terminals.get_mut(&id);
        let terminal = terminal.and_then(|t| Some((t.kind.clone(), t.master.clone(), t.slave.take()?)));
        let host = self.host.clone();
        self.host.spawn(async move { exec(host, command, (channel, place), terminal).await });
        Ok(())
    }
}

/// Waits as a slow host does.
async fn slowness(host: &LabHost) {
    let slow = host.faults().iter().find_map(|f| match f {
        FaultKind::Slow(ms) => Some(Duration::from_millis(*ms)),
        _ => None,
    });
    if let Some(slow) = slow {
        tokio::time::sleep(slow).await;
    }
}

/// A program and its streams.
struct Started {
    program: Program,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    output: Box<dyn AsyncRead + Send + Unpin>,
    errors: Box<dyn AsyncRead + Send + Unpin>,
}

fn on_pipes(host: &LabHost, command: &str) -> std::io::Result<Started> {
    let mut process = host.isolation.command(&host.dir, command, Stdin::Pipe);
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program::spawn(&mut process, &host.programs, &host.disk)?;
    let streams = program.child().and_then(|c| Some((c.stdin.take()?, c.stdout.take()?, c.stderr.take()?)));
    let (input, output, errors) = streams.ok_or(std::io::ErrorKind::BrokenPipe)?;
    Ok(Started { program, input: Box::new(input), output: Box::new(output), errors: Box::new(errors) })
}

fn on_terminal(
    host: &LabHost,
    command: &str,
    (kind, master, slave): (String, Arc<OwnedFd>, OwnedFd),
) -> std::io::Result<Started> {
    let mut process = host.isolation.command(&host.dir, command, Stdin::Terminal(kind));
    process.stdout(slave.try_clone()?).stderr(slave.try_clone()?).stdin(slave);
    let end =
        |master: &OwnedFd| Ok::<_, std::io::Error>(tokio::fs::File::from_std(master.try_clone()?.into()));
    let (input, output) = (Box::new(end(&master)?), Box::new(end(&master)?));
    // The program's ends are then the only ones: the terminal ends with it.
    let program = Program::spawn(&mut process, &host.programs, &host.disk)?;
    Ok(Started { program, input, output, errors: Box::new(tokio::io::empty()) })
}

/// Runs one program for a channel, on a terminal if it has one.
async fn exec(
    host: Arc<LabHost>,
    command: String,
    (channel, place): (Channel<Msg>, OwnedSemaphorePermit),
    terminal: Option<(String, Arc<OwnedFd>, OwnedFd)>,
) {
    let (mut read, write) = channel.split();
    host.counts.execs.fetch_add(1, Relaxed);
    slowness(&host).await;
    let has_terminal = terminal.is_some();
    let permit = host.execs.acquire().await;
    let started = match terminal {
        Some(terminal) => on_terminal(&host, &command, terminal),
        None => on_pipes(&host, &command),
    };
    drop(permit);
    let Started { mut program, input, mut output, mut errors } = match started {
        Ok(started) => started,
        Err(error) => {
            let text = format!("lab: cannot start a program: {error}\n");
            let _ = write.extended_data_bytes(1, text.into_bytes()).await;
            let _ = write.exit_status(126).await;
            let _ = write.close().await;
            return;
        }
    };
    let mut input = Some(input);
    let feed = async {
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    host.counts.received.fetch_add(data.len() as u64, Relaxed);
                    if let Some(pipe) = &mut input
                        && (pipe.write_all(&data).await.is_err() || pipe.flush().await.is_err())
                    {
                        input = None;
                    }
                }
                ChannelMsg::Eof if !has_terminal => input = None,
                ChannelMsg::Close => break,
                _ => {}
            }
        }
    };
    let printed = std::sync::atomic::AtomicU64::new(0);
    let count = |n: usize| match printed.fetch_add(n as u64, Relaxed) > MOST_OUTPUT {
        true if host.spec.has(Wall::Limits) => Err(format!("it printed more than {} MiB", MOST_OUTPUT >> 20)),
        _ => Ok(()),
    };
    let out = async {
        let mut buffer = vec![0; CHUNK];
        let mut rest = Vec::new();
        // The last program on a terminal takes it along: reading fails then.
        while let Ok(n @ 1..) = output.read(&mut buffer).await {
            host.look_for_steps(&mut rest, &buffer[..n]);
            count(n)?;
            if write.data_bytes(buffer[..n].to_vec()).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let err = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = errors.read(&mut buffer).await {
            count(n)?;
            if write.extended_data_bytes(1, buffer[..n].to_vec()).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let ended = async {
        let ((), (), status) = tokio::try_join!(out, err, program.wait())?;
        Ok::<_, String>(status)
    };
    // A closed channel ends its program: nobody reads its output any more.
    let status = tokio::select! {
        status = ended => status,
        () = feed => Ok(None),
    };
    let status = match status {
        Ok(status) => status,
        Err(why) => {
            let text = format!("lab: the program was ended: {why}\n");
            let _ = write.extended_data_bytes(1, text.into_bytes()).await;
            Some(137)
        }
    };
    // Whoever hears of its end may begin another one.
    drop(place);
    let _ = write.exit_status(status.unwrap_or(255) as u32).await;
    let _ = write.eof().await;
    let _ = write.close().await;
}

/// Accepts SSH connections until dropped, or until the machine is lost.
pub(super) async fn serve_ssh(host: Arc<LabHost>, listener: UnixListener, key: PrivateKey) {
    let config = Arc::new(Config {
        keys: vec![key],
        nodelay: true,
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: None,
        ..Config::default()
    });
    let mut sessions = JoinSet::new();
    let mut lost = host.lost.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Lost from the start counts too; so does the end of the lab.
            _ = lost.wait_for(|lost| *lost) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(SHORTAGE).await;
            continue;
        };
        while sessions.try_join_next().is_some() {}
        if !host.up.load(Relaxed) {
            continue; // dropped: the machine is down
        }
        host.counts.connections.fetch_add(1, Relaxed);
        let (host, config) = (host.clone(), config.clone());
        sessions.spawn(async move { connection(host, stream, config).await });
    }
}

async fn connection(host: Arc<LabHost>, stream: UnixStream, config: Arc<Config>) {
    let mut boot = host.boot.subscribe();
    boot.mark_unchanged();
    let mut links = host.links.subscribe();
    links.mark_unchanged();
    let handler = Login::new(host.clone());
    let limit = host.faults().iter().find_map(|f| match f {
        FaultKind::LinkCut(bytes) => Some(*bytes),
        _ => None,
    });
    let session = async {
        match limit.filter(|_| !host.cut.swap(true, Relaxed)) {
            Some(bytes) => {
                let (stream, carry) = super::net::cut_after(stream, bytes);
                let serve = async {
                    if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                        let _ = session.await;
                    }
                };
                tokio::select! {
                    () = serve => {}
                    () = carry => {}
                }
            }
            None => {
                if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                    let _ = session.await;
                }
            }
        }
    };
    tokio::select! {
        () = session => {}
        _ = boot.changed() => {} // a reboot takes the connections with it
        _ = links.changed() => {}
    }
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        if key.public_key.key_data() == self.host.authorized.key_data() {
            return Ok(Auth::Accept);
        }
        let lines = self.host.folders("root").and_then(|root| root.read(AUTHORIZED_KEYS)).unwrap_or_default();
        self.forced = authorized_keys::forced_command(&lines, key.public_key, jiff::Timestamp::now());
        Ok(if self.forced.is_some() { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.host.counts.channels.fetch_add(1, Relaxed);
        let Ok(place) = self.sessions.clone().try_acquire_owned() else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        self.channels.insert(channel.id(), (channel, place));
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        to: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let local = matches!(to, "127.0.0.1" | "localhost" | "::1");
        let stream = match u16::try_from(port) {
            Ok(port) if local && self.forced.is_none() => self.host.cluster.dial(&self.host.name, port).await,
            _ => None,
        };
        let Some(mut stream) = stream else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        reply.accept().await;
        self.host.spawn(async move {
            let mut channel = channel.into_stream();
            let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
        });
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        kind: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match Terminal::open(kind, size(columns, rows)) {
            Ok(_) if self.forced.is_some() => session.channel_failure(id),
            Ok(terminal) => {
                self.terminals.insert(id, terminal);
                session.channel_success(id)
            }
            // The client goes on without one, and says so.
            Err(_) => session.channel_failure(id),
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(terminal) = self.terminals.get(&id) {
            // Only for show; a terminal that has ended has no size.
            let _ = rustix::termios::tcsetwinsize(&terminal.master, size(columns, rows));
        }
        Ok(())
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        let shell = if self.terminals.contains_key(&id) { "exec /bin/sh -i" } else { "exec /bin/sh" };
        self.start(id, shell.to_owned(), session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, String::from_utf8_lossy(data).into_owned(), session)
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.terminals.remove(&id);
        self.channels.remove(&id);
        Ok(())
    }
}
