//! Programs and tunnels over one connection.

use super::server::{Files, Port, Rules, Server, closed_port};
use bytes::Bytes;
use provision::event::Events;
use provision::ssh::{Chunk, Dial, Session, SshErrorKind, Transport, forward};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Long enough for any machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an answer in time")
}

async fn connected(rules: Rules) -> (Server, Files, Arc<dyn Transport>) {
    let server = Server::start(rules).await;
    let files = Files::trusting(&[&server]);
    let transport = files.pool().host(server.endpoint("h1")).dial().await.expect("a connection");
    (server, files, transport)
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Said {
    out: String,
    err: String,
    exit: Option<i32>,
}

async fn listen(session: &mut dyn Session) -> Said {
    let mut said = Said::default();
    while let Some(chunk) = within(session.next()).await {
        match chunk {
            Chunk::Stdout(b) => said.out.push_str(&String::from_utf8_lossy(&b)),
            Chunk::Stderr(b) => said.err.push_str(&String::from_utf8_lossy(&b)),
            Chunk::Exit(rc) => said.exit = Some(rc),
        }
    }
    said
}

async fn run(transport: &dyn Transport, command: &str) -> Said {
    let mut session = within(transport.open(command)).await.expect("a session");
    listen(session.as_mut()).await
}

#[tokio::test]
async fn output_status_signal_and_silence_are_distinguished() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let said = run(t.as_ref(), "say hello").await;
    assert_eq!(said, Said { out: "hello".into(), err: "and aside".into(), exit: Some(0) });
    assert_eq!(run(t.as_ref(), "exit 3").await.exit, Some(3));
    assert_eq!(run(t.as_ref(), "signal KILL").await.exit, Some(137));
    assert_eq!(run(t.as_ref(), "signal SEGV").await.exit, Some(139));
    assert_eq!(run(t.as_ref(), "signal BUS").await.exit, Some(135));
    assert_eq!(run(t.as_ref(), "vanish").await, Said::default());
}

#[tokio::test]
async fn a_login_that_may_run_nothing_is_refused_not_lost() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let error = t.open("refuse").await.err().expect("refused");
    assert_eq!(error.kind, SshErrorKind::Refused);
    assert!(error.message.contains("h1 does not run commands"), "{error}");
    assert_eq!(run(t.as_ref(), "exit 0").await.exit, Some(0));
}

#[tokio::test]
async fn input_of_many_windows_comes_back_whole() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut session = t.open("cat").await.expect("a session");
    within(session.send(Bytes::from(sent.clone()))).await.expect("sent");
    session.finish_input().await.expect("ended");
    let (mut back, mut exit) = (Vec::new(), None);
    while let Some(chunk) = within(session.next()).await {
        match chunk {
            Chunk::Stdout(b) => back.extend_from_slice(&b),
            Chunk::Exit(rc) => exit = Some(rc),
            Chunk::Stderr(_) => {}
        }
    }
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    assert_eq!(exit, Some(0));
}

#[tokio::test]
async fn a_program_that_ends_without_reading_its_input_still_tells_its_status() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let mut session = t.open("deaf 9").await.expect("a session");
    // More than its window: the write has to wait, and must not wait for ever.
    within(session.send(Bytes::from(vec![0; 16 << 20]))).await.expect("not an error");
    assert_eq!(listen(session.as_mut()).await.exit, Some(9));
}

#[tokio::test]
async fn twenty_sessions_at_once_fit_into_ten() {
    let (server, _files, t) = connected(Rules::default()).await;
    let all = (0..20).map(|n| {
        let t = t.clone();
        async move { run(t.as_ref(), &format!("deaf {n}")).await.exit }
    });
    let exits = futures::future::join_all(all).await;
    assert_eq!(exits, (0..20).map(Some).collect::<Vec<_>>());
    assert_eq!(server.counts.refused_sessions.load(SeqCst), 0);
    assert_eq!(server.counts.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_allows_fewer_sessions_is_waited_for() {
    let (server, _files, t) = connected(Rules { most_sessions: 2, ..Rules::default() }).await;
    let all = (0..7).map(|n| {
        let t = t.clone();
        async move { run(t.as_ref(), &format!("deaf {n}")).await.exit }
    });
    assert_eq!(futures::future::join_all(all).await, (0..7).map(Some).collect::<Vec<_>>());
    assert!(server.counts.refused_sessions.load(SeqCst) > 0, "the limit was met");
}

#[tokio::test]
async fn a_server_that_allows_no_session_is_named_with_the_option() {
    let (_server, _files, t) = connected(Rules { most_sessions: 0, ..Rules::default() }).await;
    let error = within(t.open("exit 0")).await.err().expect("refused");
    assert_eq!(error.kind, SshErrorKind::Refused);
    assert!(error.hint.contains("MaxSessions"), "{}", error.hint);
}

#[tokio::test]
async fn an_undrained_program_blocks_nobody() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let mut noisy = t.open("flood 8000000").await.expect("a session");
    // Nobody reads `noisy`, and the others go on.
    for _ in 0..5 {
        assert_eq!(run(t.as_ref(), "say hello").await.out, "hello");
    }
    let said = listen(noisy.as_mut()).await;
    assert_eq!((said.out.len(), said.exit), (8_000_000, Some(0)));
}

#[tokio::test]
async fn an_undrained_tunnel_blocks_nobody() {
    let (server, _files, t) = connected(Rules::default()).await;
    let echo = Port::open(b"+").await;
    let mut tunnel = t.tunnel("127.0.0.1", echo.number).await.expect("a tunnel");
    let sent = vec![b'y'; 6 << 20];
    // What comes back is not read while it is sent, and is more than any window.
    within(tunnel.write_all(&sent)).await.expect("written");
    assert_eq!(run(t.as_ref(), "say hello").await.out, "hello");
    let mut back = vec![0; sent.len() + 1];
    within(tunnel.read_exact(&mut back)).await.expect("read");
    assert!(back[0] == b'+' && back[1..] == sent[..]);
    assert_eq!(server.counts.tunnels.load(SeqCst), 1);
}

#[tokio::test]
async fn unread_output_is_dropped_at_the_limit_and_nothing_else() {
    let server = Server::start(Rules::default()).await;
    let mut files = Files::trusting(&[&server]);
    files.options.limits.unread_bytes = 1 << 20;
    let t = files.pool().host(server.endpoint("h1")).dial().await.expect("a connection");
    let mut noisy = t.open("flood 50000000").await.expect("a session");
    // The server's session ends because its channel is closed, not because all was taken.
    within(async {
        while server.counts.live.load(SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let said = listen(noisy.as_mut()).await;
    assert_eq!(said.exit, None);
    assert!(
        said.out.len() <= 1 << 20 && said.err.contains("the rest is dropped"),
        "{} {}",
        said.out.len(),
        said.err
    );
    assert_eq!(run(t.as_ref(), "exit 0").await.exit, Some(0));
}

#[tokio::test]
async fn a_dropped_session_gives_its_place_back() {
    let (server, _files, t) = connected(Rules::default()).await;
    for _ in 0..30 {
        drop(within(t.open("hang")).await.expect("a session"));
    }
    within(async {
        while server.counts.live.load(SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(run(t.as_ref(), "exit 0").await.exit, Some(0));
}

#[tokio::test]
async fn a_cut_connection_is_lost_and_the_next_dial_makes_a_new_one() {
    let server = Server::start(Rules::default()).await;
    let files = Files::trusting(&[&server]);
    let host = files.pool().host(server.endpoint("h1"));
    let t = host.dial().await.expect("a connection");
    let mut hanging = t.open("hang").await.expect("a session");
    let silent = Port::open(b"").await;
    let mut tunnel = t.tunnel("127.0.0.1", silent.number).await.expect("a tunnel");
    server.cut();
    assert_eq!(listen(hanging.as_mut()).await, Said::default());
    let error = within(hanging.send(Bytes::from(vec![0; 8 << 20]))).await.expect_err("nobody is there");
    assert_eq!(error.kind, SshErrorKind::Lost, "{error}");
    assert_eq!(within(tunnel.read(&mut [0; 8])).await.expect("an end"), 0);
    assert!(within(tunnel.write_all(&[0; 8])).await.is_err());
    assert_eq!(t.open("exit 0").await.err().map(|e| e.kind), Some(SshErrorKind::Lost));

    let again = host.dial().await.expect("a new connection");
    assert_eq!(run(again.as_ref(), "exit 0").await.exit, Some(0));
    assert_eq!(server.counts.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn a_pulled_cable_is_noticed_while_idle_and_in_mid_upload() {
    for upload in [false, true] {
        let server = Server::start(Rules::default()).await;
        let mut files = Files::trusting(&[&server]);
        files.options.limits.keepalive = Duration::from_millis(100);
        let t = files.pool().host(server.endpoint("h1")).dial().await.expect("a connection");
        let mut session = t.open("cat").await.expect("a session");
        server.freeze();
        if upload {
            let error =
                within(session.send(Bytes::from(vec![0; 64 << 20]))).await.expect_err("nobody takes it");
            assert_eq!(error.kind, SshErrorKind::Lost, "{error}");
        }
        assert_eq!(listen(session.as_mut()).await.exit, None);
        assert_eq!(t.open("exit 0").await.err().map(|e| e.kind), Some(SshErrorKind::Lost));
    }
}

/// sshd drops at random who comes beyond MaxStartups.
#[tokio::test]
async fn a_server_that_hangs_up_at_once_is_asked_again_but_not_for_ever() {
    let (server, _files, t) = connected(Rules { drops: 2, ..Rules::default() }).await;
    assert_eq!(run(t.as_ref(), "exit 0").await.exit, Some(0));
    assert_eq!(server.counts.connections.load(SeqCst), 3);
    let closed = Server::start(Rules { drops: usize::MAX, ..Rules::default() }).await;
    let files = Files::trusting(&[&closed]);
    let error = within(files.pool().host(closed.endpoint("h1")).dial()).await.err().expect("refused");
    assert_eq!(error.kind, SshErrorKind::Unreachable);
    assert!(error.message.starts_with("SSH handshake with h1"), "{}", error.message);
    assert_eq!(closed.counts.connections.load(SeqCst), 4);
}

#[tokio::test]
async fn sessions_outlive_the_handle_they_were_opened_with() {
    let server = Server::start(Rules::default()).await;
    let files = Files::trusting(&[&server]);
    let mut session = {
        let t = files.pool().host(server.endpoint("h1")).dial().await.expect("a connection");
        t.open("cat").await.expect("a session")
    };
    session.send(Bytes::from("still here")).await.expect("sent");
    session.finish_input().await.expect("ended");
    assert_eq!(listen(session.as_mut()).await.out, "still here");
}

#[tokio::test]
async fn new_keys_are_agreed_on_while_data_flows() {
    const REKEY_BYTES: usize = 256 << 10;
    let server = Server::start(Rules { rekey_bytes: REKEY_BYTES, ..Rules::default() }).await;
    let mut files = Files::trusting(&[&server]);
    files.options.limits.rekey_bytes = REKEY_BYTES;
    let t = files.pool().host(server.endpoint("h1")).dial().await.expect("a connection");
    let through = (0..3).map(|n: u8| {
        let t = t.clone();
        async move {
            let sent = vec![n; 3 << 20];
            let mut session = t.open("cat").await.expect("a session");
            let mut back = Vec::new();
            for piece in sent.chunks(100_000) {
                within(session.send(Bytes::copy_from_slice(piece))).await.expect("sent");
            }
            session.finish_input().await.expect("ended");
            while let Some(chunk) = within(session.next()).await {
                if let Chunk::Stdout(b) = chunk {
                    back.extend_from_slice(&b);
                }
            }
            assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
        }
    });
    futures::future::join_all(through).await;
    assert_eq!(server.counts.connections.load(SeqCst), 1, "one connection carried all of it");
}

#[tokio::test]
async fn a_tunnel_tells_both_ends_of_its_end() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let echo = Port::open(b"hi ").await;
    let mut tunnel = t.tunnel("127.0.0.1", echo.number).await.expect("a tunnel");
    tunnel.write_all(b"there").await.expect("written");
    tunnel.shutdown().await.expect("ended");
    let mut all = Vec::new();
    within(tunnel.read_to_end(&mut all)).await.expect("read");
    assert_eq!(all, b"hi there");

    let silent = Port::open(b"").await;
    drop(t.tunnel("127.0.0.1", silent.number).await.expect("a tunnel"));
    within(async {
        while !silent.closed.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_tunnel_says_whether_the_port_or_the_server_is_the_reason() {
    let (_server, _files, t) = connected(Rules::default()).await;
    let closed = closed_port();
    let error = t.tunnel("127.0.0.1", closed).await.err().expect("nobody listens");
    assert_eq!(error.kind, SshErrorKind::Unreachable);
    assert!(error.hint.contains("nc -vz"), "{}", error.hint);

    let (_server, _files, t) = connected(Rules { forwards: false, ..Rules::default() }).await;
    let error = t.tunnel("127.0.0.1", 6443).await.err().expect("prohibited");
    assert_eq!(error.kind, SshErrorKind::Refused);
    assert!(error.hint.contains("AllowTcpForwarding"), "{}", error.hint);
}

#[tokio::test]
async fn a_local_port_leads_to_the_far_one_and_ends_with_its_owner() {
    let server = Server::start(Rules::default()).await;
    let files = Files::trusting(&[&server]);
    let echo = Port::open(b"hi ").await;
    let host = files.pool().host(server.endpoint("h1"));
    let local = "127.0.0.1:0".parse().expect("an address");
    let far = forward::through(host, "127.0.0.1", echo.number);
    let open = forward::listen(local, "echo".to_owned(), far, Events::none()).await.expect("a port");
    for _ in 0..2 {
        let mut near = tokio::net::TcpStream::connect(open.local()).await.expect("connected");
        near.write_all(b"there").await.expect("written");
        near.shutdown().await.expect("ended");
        let mut all = Vec::new();
        within(near.read_to_end(&mut all)).await.expect("read");
        assert_eq!(all, b"hi there");
        // The second goes over a new connection.
        server.cut();
    }
    let at = open.local();
    drop(open);
    within(async {
        while tokio::net::TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
