//! Authentication.

use super::server::{Files, Rules, Server, certificate, key, write_key};
use provision::ssh::{Credentials, Dial, SshError, SshErrorKind};
use provision::state::SecretText;
use russh::MethodKind;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::{Cipher, Kdf};
use russh::keys::{PrivateKey, PublicKey};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use tokio::task::JoinSet;

/// After all of these tests.
const FAR_FUTURE: u64 = 4_000_000_000;

fn rsa() -> PrivateKey {
    PrivateKey::from_openssh(include_str!("id_rsa")).expect("a key")
}

fn authorized(keys: &[PrivateKey]) -> Vec<PublicKey> {
    keys.iter().map(|k| k.public_key().clone()).collect()
}

/// Logs in with the given credentials; the test's folder is at hand to write keys into.
async fn login(server: &Server, credentials: impl FnOnce(&Path) -> Credentials) -> Result<(), SshError> {
    let mut files = Files::trusting(&[server]);
    files.options.credentials = credentials(files.dir.path());
    files.pool().host(server.endpoint("h1")).dial().await.map(drop)
}

fn how(server: &Server) -> Vec<String> {
    server.counts.how.lock().expect("not poisoned").clone()
}

fn encrypted(key: &PrivateKey, passphrase: &str) -> PrivateKey {
    let kdf = Kdf::Bcrypt { salt: vec![3; 16], rounds: 4 };
    key.encrypt_with(Cipher::Aes256Ctr, kdf, 77, passphrase).expect("encrypted")
}

fn secret(text: &str) -> Option<SecretText> {
    Some(SecretText::new(text))
}

#[tokio::test]
async fn a_wrong_key_is_named_with_what_the_server_accepts_and_the_command_by_hand() {
    let server = Server::start(Rules::default()).await;
    let error = login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "id_a", &key(8)), write_key(dir, "id_b", &key(9)), dir.join("id_c")],
        ..Credentials::default()
    })
    .await
    .expect_err("refused");
    assert_eq!(error.kind, SshErrorKind::Authentication);
    for part in ["h1 rejects the login of ubuntu", "id_a", "id_b", "accepts publickey", "id_c: No such file"]
    {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    assert_eq!(error.hint, format!("ssh -v -p {} ubuntu@127.0.0.1", server.port));
}

#[tokio::test]
async fn with_nothing_to_offer_the_server_is_asked_what_it_wants() {
    let server = Server::start(Rules::default()).await;
    let error = login(&server, |_| Credentials::default()).await.expect_err("refused");
    assert_eq!(error.kind, SshErrorKind::Authentication);
    assert!(error.message.contains("no key to try"), "{error}");
    assert!(error.message.contains("accepts publickey"), "{error}");
}

#[tokio::test]
async fn an_encrypted_key_opens_with_its_passphrase_only() {
    let server = Server::start(Rules::default()).await;
    let with = |passphrase: Option<SecretText>| {
        login(&server, move |dir| Credentials {
            identities: vec![write_key(dir, "id", &encrypted(&key(2), "sesame"))],
            passphrase,
            ..Credentials::default()
        })
    };
    with(secret("sesame")).await.expect("logged in");
    let error = with(None).await.expect_err("no passphrase");
    assert!(error.message.contains("is encrypted and has no passphrase"), "{error}");
    let error = with(secret("wrong-sesame")).await.expect_err("another passphrase");
    assert!(error.message.contains("wrong passphrase"), "{error}");
    assert!(!format!("{error:?}").contains("wrong-sesame"));
}

#[tokio::test]
async fn a_passphrase_is_no_harm_to_plain_keys() {
    let server = Server::start(Rules::default()).await;
    login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "id", &key(2))],
        passphrase: secret("sesame"),
        ..Credentials::default()
    })
    .await
    .expect("logged in");
}

#[tokio::test]
async fn rsa_keys_sign_with_sha2() {
    let server = Server::start(Rules { authorized: authorized(&[rsa()]), ..Rules::default() }).await;
    login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "id", &rsa())],
        ..Credentials::default()
    })
    .await
    .expect("logged in");
    assert!(how(&server)[0].starts_with("rsa-sha2-"), "{:?}", how(&server));
}

#[tokio::test]
async fn a_certificate_next_to_its_key_is_offered_first_and_an_expired_one_never() {
    let rules = Rules {
        authorized: Vec::new(),
        user_authority: Some(key(5).public_key().clone()),
        ..Rules::default()
    };
    for subject in [key(8), rsa()] {
        let server = Server::start(rules.clone()).await;
        let with = |before| {
            login(&server, {
                let subject = subject.clone();
                move |dir: &Path| {
                    let cert = certificate(&key(5), subject.public_key(), CertType::User, "ubuntu", before);
                    std::fs::write(dir.join("id-cert.pub"), cert.to_openssh().expect("text"))
                        .expect("written");
                    Credentials { identities: vec![write_key(dir, "id", &subject)], ..Credentials::default() }
                }
            })
        };
        with(FAR_FUTURE).await.expect("logged in");
        assert_eq!(how(&server), ["certificate"]);
        let error = with(1_000_000_000).await.expect_err("expired");
        assert!(error.message.contains("id-cert.pub: it expired 2001-09-09"), "{error}");
    }
}

#[tokio::test]
async fn the_agent_is_asked_after_the_files_and_not_for_what_was_refused_already() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("agent");
    let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let stream = listener.accept().await.map(|(stream, _)| stream);
        Some((stream, listener))
    });
    let mut agent = JoinSet::new();
    agent.spawn(russh::keys::agent::server::serve(Box::pin(incoming), ()));
    let mut client = AgentClient::connect_uds(&socket).await.expect("an agent");
    for held in [key(8), key(2), rsa()] {
        client.add_identity(&held, &[]).await.expect("added");
    }

    for wanted in [key(2), rsa()] {
        let server = Server::start(Rules { authorized: authorized(&[wanted]), ..Rules::default() }).await;
        let credentials = |dir: &Path| Credentials {
            identities: vec![write_key(dir, "id", &key(8))],
            agent: true,
            agent_socket: Some(socket.clone()),
            ..Credentials::default()
        };
        login(&server, credentials).await.expect("logged in by the agent");
    }
    let server = Server::start(Rules { authorized: Vec::new(), ..Rules::default() }).await;
    let error = login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "id", &key(8))],
        agent: true,
        agent_socket: Some(socket.clone()),
        ..Credentials::default()
    })
    .await
    .expect_err("refused");
    assert_eq!(
        error.message.matches("agent key").count(),
        2,
        "the key that is a file too is not tried twice: {error}"
    );
    drop(agent);

    let error = login(&server, |dir| Credentials {
        agent: true,
        agent_socket: Some(dir.join("nothing")),
        ..Credentials::default()
    })
    .await
    .expect_err("refused");
    assert!(error.message.contains("agent at"), "{error}");
}

#[tokio::test]
async fn at_most_six_keys_are_tried() {
    let server = Server::start(Rules { most_tries: 100, ..Rules::default() }).await;
    let error = login(&server, |dir| Credentials {
        identities: (10..30).map(|n| write_key(dir, &format!("id_{n}"), &key(n))).collect(),
        ..Credentials::default()
    })
    .await
    .expect_err("refused");
    assert!(error.message.contains("id_15") && !error.message.contains("id_16"), "{error}");
}

#[tokio::test]
async fn a_server_that_has_had_enough_is_not_a_lost_connection() {
    let server = Server::start(Rules { most_tries: 2, ..Rules::default() }).await;
    let error = login(&server, |dir| Credentials {
        identities: (10..14).map(|n| write_key(dir, &format!("id_{n}"), &key(n))).collect(),
        ..Credentials::default()
    })
    .await
    .expect_err("refused");
    assert_eq!(error.kind, SshErrorKind::Authentication, "{error}");
    assert!(error.message.contains("MaxAuthTries"), "{error}");
}

#[tokio::test]
async fn a_connection_that_dies_during_login_is_lost_not_a_wrong_key() {
    let server = Server::start(Rules { hang_up_at_login: true, ..Rules::default() }).await;
    let error = login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "id", &key(2))],
        ..Credentials::default()
    })
    .await
    .expect_err("cut off");
    assert_eq!(error.kind, SshErrorKind::Lost, "{error}");
}

#[tokio::test]
async fn chains_of_key_and_password_work_in_either_order() {
    use MethodKind::{KeyboardInteractive, Password, PublicKey};
    for chain in [
        vec![PublicKey, KeyboardInteractive],
        vec![KeyboardInteractive, PublicKey],
        vec![PublicKey, Password],
        vec![Password],
    ] {
        let server =
            Server::start(Rules { chain: chain.clone(), password: Some("geheim"), ..Rules::default() }).await;
        let with = |password| {
            login(&server, move |dir| Credentials {
                identities: vec![write_key(dir, "id", &key(2))],
                password,
                ..Credentials::default()
            })
        };
        with(secret("geheim")).await.unwrap_or_else(|e| panic!("{chain:?}: {e}"));
        assert_eq!(server.counts.logins.load(SeqCst), 1);
        let error = with(secret("falsch")).await.expect_err("a wrong password");
        assert_eq!(error.kind, SshErrorKind::Authentication, "{chain:?}: {error}");
        assert!(!format!("{error:?}").contains("falsch"));
        let error = with(None).await.expect_err("no password");
        assert_eq!(error.kind, SshErrorKind::Authentication, "{chain:?}: {error}");
    }
}

#[tokio::test]
async fn two_keys_are_given_where_two_are_wanted() {
    let rules = Rules {
        chain: vec![MethodKind::PublicKey, MethodKind::PublicKey],
        authorized: authorized(&[key(2), key(3)]),
        ..Rules::default()
    };
    let server = Server::start(rules).await;
    login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "a", &key(2)), write_key(dir, "b", &key(3))],
        ..Credentials::default()
    })
    .await
    .expect("logged in");
    let error = login(&server, |dir| Credentials {
        identities: vec![write_key(dir, "a", &key(2))],
        ..Credentials::default()
    })
    .await
    .expect_err("one is not enough");
    assert!(error.message.contains("requires another method"), "{error}");
}
