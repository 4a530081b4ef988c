//! What a login on a lab host may do: run programs, open a shell on a terminal, reach ports of its own host.

use super::host::LabHost;
use super::isolate::{self, Stdin};
use super::spec::FaultKind;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, Pty};
use rustix::termios::Winsize;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// sshd's MaxSessions.
const MOST_SESSIONS: usize = 10;
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
    /// The lab is on Linux only (`isolate::check`).
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
    channels: HashMap<ChannelId, Channel<Msg>>,
    terminals: HashMap<ChannelId, Terminal>,
}

impl Login {
    /// Returns a connection that has asked for nothing yet.
    pub fn new(host: Arc<LabHost>) -> Self {
        Self { host, channels: HashMap::new(), terminals: HashMap::new() }
    }

    fn start(&mut self, id: ChannelId, command: String, session: &mut Session) -> Result<(), russh::Error> {
        let Some(channel) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let host = self.host.clone();
        let terminal = self.terminals.get_mut(&id);
        match terminal.and_then(|t| Some((t.kind.clone(), t.master.clone(), t.slave.take()?))) {
            None => self.host.spawn(async move { exec(host, command, channel).await }),
            Some((kind, master, slave)) => {
                self.host
                    .spawn(async move { on_terminal(host, command, channel, (kind, master, slave)).await });
            }
        }
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

/// Runs one program for a channel.
async fn exec(host: Arc<LabHost>, command: String, channel: Channel<Msg>) {
    let (mut read, write) = channel.split();
    host.counts.execs.fetch_add(1, Relaxed);
    slowness(&host).await;
    let permit = host.execs.acquire().await;
    let mut process = isolate::command(&host.spec.exe, &host.dir, &command, Stdin::Pipe);
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) => {
            let text = format!("lab: cannot start a program: {error}\n");
            let _ = write.extended_data_bytes(1, text.into_bytes()).await;
            let _ = write.exit_status(126).await;
            let _ = write.close().await;
            return;
        }
    };
    drop(permit);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = async {
        let mut stdin = stdin;
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    if let Some(pipe) = &mut stdin
                        && pipe.write_all(&data).await.is_err()
                    {
                        stdin = None;
                    }
                }
                ChannelMsg::Eof => stdin = None,
                ChannelMsg::Close => break,
                _ => {}
            }
        }
    };
    let out = async {
        let Some(mut pipe) = stdout else { return };
        let mut buffer = vec![0; CHUNK];
        let mut rest = Vec::new();
        while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
            host.heed(&mut rest, &buffer[..n]);
            if write.data_bytes(buffer[..n].to_vec()).await.is_err() {
                break;
            }
        }
    };
    let err = async {
        let Some(mut pipe) = stderr else { return };
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
            if write.extended_data_bytes(1, buffer[..n].to_vec()).await.is_err() {
                break;
            }
        }
    };
    let ended = async {
        let ((), (), status) = tokio::join!(out, err, child.wait());
        status
    };
    // A channel that goes away ends its program: the simulated host has no one left to read it.
    let status = tokio::select! {
        status = ended => status.ok(),
        () = input => None,
    };
    if let Some(status) = status {
        let _ = write.exit_status(status.code().unwrap_or(255) as u32).await;
    }
    let _ = write.eof().await;
    let _ = write.close().await;
}

/// Runs one program for a channel, on a terminal of its own.
async fn on_terminal(
    host: Arc<LabHost>,
    command: String,
    channel: Channel<Msg>,
    (kind, master, slave): (String, Arc<OwnedFd>, OwnedFd),
) {
    let (mut read, write) = channel.split();
    host.counts.execs.fetch_add(1, Relaxed);
    slowness(&host).await;
    let mut process = isolate::command(&host.spec.exe, &host.dir, &command, Stdin::Terminal(kind));
    let copies = (slave.try_clone(), slave.try_clone(), master.try_clone(), master.try_clone());
    let (Ok(stdout), Ok(stderr), Ok(from), Ok(to)) = copies else {
        let _ = write.close().await;
        return;
    };
    process.stdin(slave).stdout(stdout).stderr(stderr).kill_on_drop(true);
    let spawned = process.spawn();
    // The program's ends are then the only ones: the terminal ends with it.
    drop(process);
    let Ok(mut child) = spawned else {
        let _ = write.exit_status(126).await;
        let _ = write.close().await;
        return;
    };
    let mut from = tokio::fs::File::from_std(File::from(from));
    let mut to = tokio::fs::File::from_std(File::from(to));
    let input = async {
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    let written = async { to.write_all(&data).await.is_ok() && to.flush().await.is_ok() };
                    if !written.await {
                        break;
                    }
                }
                ChannelMsg::Close => break,
                _ => {}
            }
        }
    };
    let output = async {
        let mut buffer = vec![0; CHUNK];
        // The last program on a terminal takes it along: reading fails then.
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if write.data_bytes(buffer[..n].to_vec()).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = output => {}
        () = input => { let _ = child.start_kill(); }
    }
    let status = child.wait().await.ok().and_then(|s| s.code());
    let _ = write.exit_status(status.unwrap_or(255) as u32).await;
    let _ = write.eof().await;
    let _ = write.close().await;
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let accepted = key.public_key.key_data() == self.host.authorized.key_data();
        Ok(if accepted { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.host.counts.channels.fetch_add(1, Relaxed);
        if self.channels.len() >= MOST_SESSIONS {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        }
        self.channels.insert(channel.id(), channel);
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
            Ok(port) if local => self.host.cluster.dial(&self.host.name, port).await,
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
        Ok(())
    }
}
