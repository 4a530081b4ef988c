//! How a running lab is asked for its state, for a fault, and to go down: lines of JSON over a Unix socket in its folder,
//! which is its user's alone. The socket proves which process is the lab: no process is ever signalled because a file
//! names its number.

use super::sockets::{CONTROL, listen_unix, through_handle};
use super::spec::Fault;
use super::start::Lab;
use super::status::Status;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// What tells a lab to stay up when its standard input ends.
pub const STAY: &str = "stay";
/// A lab that does not answer within this hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How long nothing is accepted after that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A lab that was asked to go down and still runs after this is killed.
const DOWN_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Request {
    Status,
    Fault { fault: String },
    Down,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    Status(Status),
    Done,
    Refused(String),
}

/// A running lab, as another process sees it.
pub struct Control {
    stream: UnixStream,
    process: process::Handle,
}

impl Control {
    /// Returns the lab that runs in a folder; `None` if none does.
    pub fn open(dir: &Path) -> io::Result<Option<Self>> {
        let connect = || through_handle(dir, CONTROL, |path| UnixStream::connect(path));
        let gone =
            |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        let first = match connect() {
            Ok(stream) => stream,
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let process = process::Handle::behind(&first)?;
        // Whoever listens still has the number that the kernel gave for the first connection: the handle is the lab's.
        let stream = match connect() {
            Ok(stream) => stream,
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !process.is_behind(&stream)? {
            return Ok(None);
        }
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        Ok(Some(Self { stream, process }))
    }

    fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        self.stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Returns the process id of the lab.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Asks for the lab's hosts.
    pub fn status(&mut self) -> io::Result<Status> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            Reply::Done | Reply::Refused(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Makes something go wrong from now on; the inner error says why it cannot.
    pub fn inject(&mut self, fault: &str) -> io::Result<Result<(), String>> {
        Ok(match self.ask(&Request::Fault { fault: fault.to_owned() })? {
            Reply::Refused(why) => Err(why),
            Reply::Done | Reply::Status(_) => Ok(()),
        })
    }

    /// Ends the lab and waits until its process is gone; one that does not go by itself is killed.
    pub fn down(mut self) -> io::Result<()> {
        // One that hangs does not answer; what counts is that it ends.
        let _ = self.ask(&Request::Down);
        if !self.process.ended_within(DOWN_DEADLINE)? {
            self.process.kill()?;
            self.process.ended_within(DOWN_DEADLINE)?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod process {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
    use std::io;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// A process, whatever becomes of its number.
    pub(super) struct Handle {
        pub pid: u32,
        handle: OwnedFd,
    }

    fn peer(stream: &UnixStream) -> io::Result<Pid> {
        let peer = rustix::net::sockopt::socket_peercred(stream)?;
        if peer.uid != geteuid() {
            return Err(io::Error::other("another user's process listens on the lab's socket"));
        }
        Ok(peer.pid)
    }

    impl Handle {
        /// Returns the process that listens at the other end.
        pub(super) fn behind(stream: &UnixStream) -> io::Result<Self> {
            let pid = peer(stream)?;
            let handle = pidfd_open(pid, PidfdFlags::empty())?;
            Ok(Self { pid: pid.as_raw_nonzero().get().unsigned_abs(), handle })
        }

        /// Returns whether the process that listens at the other end has this one's number.
        pub(super) fn is_behind(&self, stream: &UnixStream) -> io::Result<bool> {
            Ok(peer(stream)?.as_raw_nonzero().get().unsigned_abs() == self.pid)
        }

        /// Returns whether it has ended, waiting for that at most so long.
        pub(super) fn ended_within(&self, time: Duration) -> io::Result<bool> {
            let mut wanted = [PollFd::new(&self.handle, PollFlags::IN)];
            let time = time.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
            Ok(poll(&mut wanted, Some(&time))? > 0)
        }

        /// Kills it.
        pub(super) fn kill(&self) -> io::Result<()> {
            match pidfd_send_signal(&self.handle, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// No lab runs on other systems.
#[cfg(not(target_os = "linux"))]
mod process {
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    pub(super) struct Handle {
        pub(super) pid: u32,
    }

    impl Handle {
        pub(super) fn behind(_: &UnixStream) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn is_behind(&self, _: &UnixStream) -> io::Result<bool> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn ended_within(&self, _: Duration) -> io::Result<bool> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn kill(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

impl Lab {
    /// Answers on the lab's socket until it is asked to go down, by a request, by SIGTERM, or by the end of `held`. Then ends
    /// everything, and answers no more requests. Fails where files of hosts are left.
    pub async fn serve(self, held: impl Future<Output = ()>) -> io::Result<()> {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let (ask, mut asked) = mpsc::channel(1);
        let listener = listen_unix(&self.dir().join(CONTROL))?;
        tokio::select! {
            () = answer_all(&self, listener, ask) => {}
            _ = asked.recv() => {}
            _ = term.recv() => {}
            () = held => {}
        }
        let _ = std::fs::remove_file(self.dir().join(CONTROL));
        let hosts = self.dir().join("hosts");
        self.down().await;
        match hosts.exists() {
            true => Err(io::Error::other(format!("{} could not be removed", hosts.display()))),
            false => Ok(()),
        }
    }
}

async fn answer_all(lab: &Lab, listener: UnixListener, down: mpsc::Sender<()>) {
    let mut connections = futures::stream::FuturesUnordered::new();
    loop {
        use futures::StreamExt;
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.push(answer(lab, stream, down.clone())),
                // Out of descriptors, say: what is open has to end first.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.next(), if !connections.is_empty() => {}
        }
    }
}

async fn answer(lab: &Lab, stream: tokio::net::UnixStream, down: mpsc::Sender<()>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let mut ends = false;
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Status) => Reply::Status(lab.status()),
            Ok(Request::Fault { fault }) => match Fault::parse(&fault).and_then(|fault| lab.inject(&fault)) {
                Ok(()) => Reply::Done,
                Err(why) => Reply::Refused(why),
            },
            Ok(Request::Down) => {
                ends = true;
                Reply::Done
            }
            Err(error) => Reply::Refused(error.to_string()),
        };
        write.write_all(format!("{}\n", serde_json::to_string(&reply)?).as_bytes()).await?;
        if ends {
            // Full means that it ends already.
            let _ = down.try_send(());
        }
    }
    Ok(())
}
