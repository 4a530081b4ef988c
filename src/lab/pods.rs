//! The network of pods whose programs really run. A process of the lab's own has it, runs programs there, and carries connections
//! in and out: each connection to its socket is one wish, and what it brings about lasts as long as the connection.

use super::sockets::listen_unix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

/// Addresses of pods: the first one, and the length of the network's prefix.
pub(super) const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 240, 0, 1), 16);
/// Its socket, in the lab's folder.
const SOCKET: &str = "pods.sock";
/// A wish is shorter, in bytes.
const MOST_WISH: u64 = 256 << 10;

/// What the lab may ask for.
#[derive(Serialize, Deserialize)]
pub(super) enum Wish {
    /// That the connection goes on to an address.
    Dial(SocketAddr),
    /// That whoever connects to an address reaches a socket in the lab's folder.
    Listen {
        /// The address.
        at: SocketAddr,
        /// The socket.
        to: PathBuf,
    },
    /// That a program runs.
    Run {
        /// The program and its arguments.
        words: Vec<String>,
        /// All of its environment.
        env: BTreeMap<String, String>,
        /// The file for what it prints.
        log: PathBuf,
    },
}

/// Asks for something; the result is the connection.
pub(super) async fn ask(lab: &Path, wish: &Wish) -> io::Result<UnixStream> {
    let stream = super::sockets::connect(lab, SOCKET)?;
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    let mut line = serde_json::to_vec(wish)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    match stream.read_u8().await? {
        b'+' => Ok(stream),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

/// Fulfils wishes in the present folder, which is the lab's, and calls `ready` when it listens for them. Returns only if it cannot.
pub(super) fn serve(ready: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = listen_unix(&Path::new(".").join(SOCKET))?;
        std::fs::create_dir_all("pods")?;
        let mut log = std::fs::File::create("pods/network.log")?;
        let mut wishes: JoinSet<io::Result<()>> = JoinSet::new();
        ready()?;
        loop {
            let (stream, _) = listener.accept().await?;
            while let Some(ended) = wishes.try_join_next() {
                // Who dials a port that does not listen yet has been told so.
                if let Ok(Err(error)) = ended
                    && error.kind() == io::ErrorKind::Other
                {
                    writeln!(log, "{error}")?;
                }
            }
            wishes.spawn(fulfil(stream));
        }
    })
}

async fn fulfil(stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream).take(MOST_WISH).read_until(b'\n', &mut line).await?;
    match serde_json::from_slice(&line)? {
        Wish::Dial(address) => {
            let mut there = TcpStream::connect(address).await?;
            stream.write_all(b"+").await?;
            tokio::io::copy_bidirectional(&mut stream, &mut there).await.map(drop)
        }
        Wish::Listen { at, to } => {
            let listener = TcpListener::bind(at).await?;
            stream.write_all(b"+").await?;
            let mut end = [0];
            tokio::select! {
                ended = carry(listener, &to) => ended,
                _ = stream.read(&mut end) => Ok(()),
            }
        }
        Wish::Run { words, env, log } => {
            let log = std::fs::File::create(log)?;
            let mut command = tokio::process::Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).args(words).env_clear().envs(env);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
            let mut program = command.spawn()?;
            stream.write_all(b"+").await?;
            let mut end = [0];
            tokio::select! {
                status = program.wait() => Err(io::Error::other(format!("a program ended: {}", status?))),
                _ = stream.read(&mut end) => program.kill().await,
            }
        }
    }
}

async fn carry(listener: TcpListener, to: &Path) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut from, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        let to = to.to_owned();
        connections.spawn(async move {
            let mut there = UnixStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut from, &mut there).await.map(drop)
        });
    }
}
