//! Server verification and routing: host keys, certificates, bastions, deadlines, scanning.

use super::server::{Files, Port, Rules, Server, certificate, closed_port, key, line};
use provision::ssh::known_hosts::{Verdict, write};
use provision::ssh::trust::scan;
use provision::ssh::{Dial, Endpoint, SshError, SshErrorKind};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::certificate::CertType;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// After all of these tests.
const FAR_FUTURE: u64 = 4_000_000_000;
/// Long enough for a loopback handshake in a slow build, short enough to wait for.
const SHORT: Duration = Duration::from_millis(400);

async fn refusal(files: &Files, endpoint: Endpoint) -> SshError {
    files.pool().host(endpoint).dial().await.err().expect("a refusal")
}

fn rsa() -> PrivateKey {
    PrivateKey::from_openssh(include_str!("id_rsa")).expect("a key")
}

#[tokio::test]
async fn an_unknown_host_is_refused_with_its_fingerprint_before_any_login() {
    let server = Server::start(Rules::default()).await;
    let error = refusal(&Files::new(""), server.endpoint("h1")).await;
    assert_eq!(error.kind, SshErrorKind::HostKeyUnknown);
    assert!(error.message.contains("SHA256:") && error.message.contains("h1"), "{error}");
    assert!(error.hint.contains("provision trust"), "{}", error.hint);
    assert_eq!(server.counts.logins.load(SeqCst), 0);
}

#[tokio::test]
async fn a_changed_key_shows_both_fingerprints_and_the_place() {
    let server = Server::start(Rules::default()).await;
    let files = Files::new(&format!("# old\n{}", server.known(key(9).public_key())));
    let error = refusal(&files, server.endpoint("h1")).await;
    assert_eq!(error.kind, SshErrorKind::HostKeyChanged);
    for k in [key(1), key(9)] {
        let fingerprint = k.public_key().fingerprint(russh::keys::HashAlg::Sha256).to_string();
        assert!(error.message.contains(&fingerprint), "{error}");
    }
    assert!(error.message.contains("known_hosts:2"), "{error}");
}

#[tokio::test]
async fn a_revoked_key_is_refused() {
    let server = Server::start(Rules::default()).await;
    let revoked = format!("{}@revoked * {}\n", server.known(key(1).public_key()), line(key(1).public_key()));
    let error = refusal(&Files::new(&revoked), server.endpoint("h1")).await;
    assert_eq!(error.kind, SshErrorKind::HostKeyChanged);
    assert!(error.message.contains("revoked"), "{error}");
}

#[tokio::test]
async fn a_host_known_by_rsa_is_asked_for_rsa() {
    let server = Server::start(Rules { host_keys: vec![key(1), rsa()], ..Rules::default() }).await;
    let files = Files::new(&server.known(rsa().public_key()));
    files.pool().host(server.endpoint("h1")).dial().await.expect("trusted by its RSA key");
}

#[tokio::test]
async fn an_alias_stands_for_address_and_port() {
    let server = Server::start(Rules::default()).await;
    let files = Files::new(&format!("site-a {}\n", line(key(1).public_key())));
    let endpoint = Endpoint { host_key_alias: Some("site-a".to_owned()), ..server.endpoint("h1") };
    files.pool().host(endpoint).dial().await.expect("trusted under its alias");
}

/// Starts a server with a certificate, dials it knowing only the authority (key 5), and returns what came of it.
async fn with_certificate(
    signed_by: &PrivateKey,
    sort: CertType,
    principal: &str,
    valid_before: u64,
) -> Result<(), SshError> {
    let cert = certificate(signed_by, key(1).public_key(), sort, principal, valid_before);
    let server = Server::start(Rules { certificates: vec![cert], ..Rules::default() }).await;
    let known = format!("@cert-authority [127.0.0.?]:* {}\n", line(key(5).public_key()));
    Files::new(&known).pool().host(server.endpoint("h1")).dial().await.map(drop)
}

#[tokio::test]
async fn host_certificates_are_checked_for_authority_name_time_and_sort() {
    with_certificate(&key(5), CertType::Host, "127.0.0.1", FAR_FUTURE).await.expect("a good one");
    with_certificate(&key(5), CertType::Host, "127.0.*", FAR_FUTURE).await.expect("a pattern");
    for (sort, principal, before, why) in [
        (CertType::Host, "127.0.0.1", 1_000_000_000, "expired 2001-09-09"),
        (CertType::Host, "elsewhere", FAR_FUTURE, "for elsewhere, not for 127.0.0.1"),
        (CertType::User, "127.0.0.1", FAR_FUTURE, "user certificate"),
    ] {
        let error = with_certificate(&key(5), sort, principal, before).await.expect_err(why);
        assert_eq!(error.kind, SshErrorKind::HostKeyChanged, "{why}: {error}");
        assert!(error.message.contains(why), "{error}");
    }
    let error = with_certificate(&key(6), CertType::Host, "127.0.0.1", FAR_FUTURE)
        .await
        .expect_err("not its authority");
    assert_eq!(error.kind, SshErrorKind::HostKeyUnknown, "{error}");
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_worth_its_plain_key() {
    let cert = certificate(&key(6), key(1).public_key(), CertType::Host, "127.0.0.1", FAR_FUTURE);
    let server = Server::start(Rules { certificates: vec![cert], ..Rules::default() }).await;
    let known =
        format!("@cert-authority * {}\n{}", line(key(5).public_key()), server.known(key(1).public_key()));
    Files::new(&known).pool().host(server.endpoint("h1")).dial().await.expect("known by its key");
}

#[tokio::test]
async fn all_hosts_behind_a_bastion_share_one_connection_to_it() {
    let bastion = Server::start(Rules::default()).await;
    let hosts = [Server::start(Rules::default()).await, Server::start(Rules::default()).await];
    let files = Files::trusting(&[&bastion, &hosts[0], &hosts[1]]);
    let pool = files.pool();
    let jump = format!("127.0.0.1:{}", bastion.port);
    let dials = (0..20).map(|n| {
        let endpoint = Endpoint { bastions: vec![jump.clone()], ..hosts[n % 2].endpoint(&format!("h{n}")) };
        let host = pool.host(endpoint);
        async move { host.dial().await }
    });
    let connected = futures::future::join_all(dials).await;
    for t in &connected {
        let t = t.as_ref().expect("a connection");
        let mut session = t.open("exit 0").await.expect("a session");
        while session.next().await.is_some() {}
    }
    assert_eq!(bastion.counts.connections.load(SeqCst), 1);
    assert_eq!(bastion.counts.tunnels.load(SeqCst), 20);
    assert_eq!(hosts[0].counts.logins.load(SeqCst) + hosts[1].counts.logins.load(SeqCst), 20);
}

#[tokio::test]
async fn bastions_chain() {
    let (outer, inner) = (Server::start(Rules::default()).await, Server::start(Rules::default()).await);
    let host = Server::start(Rules::default()).await;
    let files = Files::trusting(&[&outer, &inner, &host]);
    let bastions = vec![format!("a@127.0.0.1:{}", outer.port), format!("b@127.0.0.1:{}", inner.port)];
    let endpoint = Endpoint { bastions, ..host.endpoint("h1") };
    files.pool().host(endpoint).dial().await.expect("a connection");
    assert_eq!(outer.counts.tunnels.load(SeqCst), 1);
    assert_eq!(inner.counts.tunnels.load(SeqCst), 1);
}

#[tokio::test]
async fn a_bastions_own_key_is_checked_and_its_faults_carry_its_name() {
    let bastion = Server::start(Rules::default()).await;
    let host = Server::start(Rules::default()).await;
    let jump = vec![format!("127.0.0.1:{}", bastion.port)];
    let behind = |h: &Server| Endpoint { bastions: jump.clone(), ..h.endpoint("h1") };

    let error = refusal(&Files::trusting(&[&host]), behind(&host)).await;
    assert_eq!(error.kind, SshErrorKind::HostKeyUnknown);
    assert!(error.message.contains("bastion 127.0.0.1"), "{error}");

    let closed = Endpoint { port: closed_port(), ..behind(&host) };
    let error = refusal(&Files::trusting(&[&bastion]), closed).await;
    assert_eq!(error.kind, SshErrorKind::Unreachable);
    assert!(error.message.contains("h1") && error.message.contains("bastion 127.0.0.1"), "{error}");

    let strict = Server::start(Rules { forwards: false, ..Rules::default() }).await;
    let endpoint = Endpoint { bastions: vec![format!("127.0.0.1:{}", strict.port)], ..host.endpoint("h1") };
    let error = refusal(&Files::trusting(&[&strict, &host]), endpoint).await;
    assert_eq!(error.kind, SshErrorKind::Refused);
    assert!(error.message.contains("bastion 127.0.0.1"), "{error}");
    assert!(error.hint.contains("AllowTcpForwarding"), "{}", error.hint);
}

#[tokio::test]
async fn many_dials_at_once_make_one_connection() {
    let server = Server::start(Rules::default()).await;
    let files = Files::trusting(&[&server]);
    let host = files.pool().host(server.endpoint("h1"));
    let dials = (0..50).map(|_| host.dial());
    assert!(futures::future::join_all(dials).await.iter().all(Result::is_ok));
    assert_eq!(server.counts.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_silent_server_times_out_once_for_all_waiters() {
    let mute = Port::open(b"").await;
    let mut files = Files::new("");
    files.options.login_deadline = SHORT;
    let endpoint = Endpoint {
        name: "h1".to_owned(),
        address: "127.0.0.1".to_owned(),
        port: mute.number,
        user: "ubuntu".to_owned(),
        ..Endpoint::default()
    };
    let host = files.pool().host(endpoint);
    for error in futures::future::join_all((0..10).map(|_| host.dial())).await {
        let error = error.err().expect("a refusal");
        assert_eq!(error.kind, SshErrorKind::Unreachable);
        assert!(error.message.contains("within 0.4 s"), "{error}");
        assert_eq!(error.hint, format!("ssh -v -p {} ubuntu@127.0.0.1", mute.number));
    }
    assert_eq!(mute.calls.load(SeqCst), 1, "ten dials, one attempt");
    assert!(host.dial().await.is_err());
    assert_eq!(mute.calls.load(SeqCst), 2, "a later dial tries again");
}

#[tokio::test]
async fn a_server_without_ssh_and_a_silent_server_are_distinguished() {
    let web = Port::open(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    let at = |port| Endpoint {
        name: "h1".to_owned(),
        address: "127.0.0.1".to_owned(),
        port,
        user: "ubuntu".to_owned(),
        ..Endpoint::default()
    };
    let mut files = Files::new("");
    files.options.login_deadline = SHORT;
    let error = refusal(&files, at(web.number)).await;
    assert_eq!(error.kind, SshErrorKind::Unreachable, "{error}");
    let closed = closed_port();
    let error = refusal(&files, at(closed)).await;
    assert_eq!(error.kind, SshErrorKind::Unreachable);
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_scan_tells_new_known_changed_and_absent_without_logging_in() {
    let servers = [
        Server::start(Rules::default()).await,
        Server::start(Rules::default()).await,
        Server::start(Rules::default()).await,
    ];
    let files = Files::new(&format!(
        "{}{}",
        servers[1].known(key(1).public_key()),
        servers[2].known(key(9).public_key())
    ));
    let mut endpoints: Vec<Endpoint> = servers.iter().map(|s| s.endpoint("h")).collect();
    endpoints.push(Endpoint { port: closed_port(), ..endpoints[0].clone() });
    let file = files.options.known_hosts[0].clone();
    let found = scan(&files.pool(), endpoints.clone()).await;
    assert_eq!(found[0].verdict, Verdict::Unknown);
    assert_eq!(found[0].key.as_ref().expect("a key").key_data(), key(1).public_key().key_data());
    assert_eq!(found[0].known_as, format!("[127.0.0.1]:{}", servers[0].port));
    assert_eq!(found[1].verdict, Verdict::Trusted);
    assert!(matches!(found[2].verdict, Verdict::Changed { .. }));
    assert!(found[3].key.as_ref().expect_err("nobody there").contains("cannot reach"));
    assert!(servers.iter().all(|s| s.counts.logins.load(SeqCst) == 0));

    // Written, it is known; a changed one stays changed until replaced.
    let keys: Vec<_> =
        found[..3].iter().map(|f| (f.known_as.clone(), f.key.clone().expect("a key"))).collect();
    write(&file, &keys, true).expect("written");
    let again = scan(&files.pool(), endpoints[..3].to_vec()).await;
    assert!(again.iter().all(|f| f.verdict == Verdict::Trusted), "{again:?}");
}

#[tokio::test]
async fn a_scan_looks_at_bastions_first_and_through_them_once_they_are_trusted() {
    let bastion = Server::start(Rules::default()).await;
    let host = Server::start(Rules::default()).await;
    let jump = vec![format!("127.0.0.1:{}", bastion.port)];
    let endpoints = vec![
        Endpoint { bastions: jump.clone(), ..host.endpoint("h1") },
        Endpoint { bastions: jump, ..host.endpoint("h2") },
    ];

    let found = scan(&Files::new("").pool(), endpoints.clone()).await;
    assert_eq!(found.len(), 3, "the bastion once, and two hosts");
    assert_eq!((found[0].port, &found[0].verdict), (bastion.port, &Verdict::Unknown));
    assert!(found[0].key.is_ok());
    assert!(found[1].key.as_ref().expect_err("not reached").contains("bastion 127.0.0.1"), "{found:?}");

    let found = scan(&Files::trusting(&[&bastion]).pool(), endpoints).await;
    assert_eq!(found[0].verdict, Verdict::Trusted);
    assert!(found[1].key.is_ok() && found[2].key.is_ok(), "{found:?}");
    assert_eq!(host.counts.logins.load(SeqCst), 0);
}
