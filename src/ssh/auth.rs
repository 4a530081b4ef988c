//! Proving who we are: identities (plain, encrypted, with certificates), then the agent. Owns the order of tries and the
//! error that lists them.

use super::connection::Checker;
use super::{SshError, SshErrorKind};
use crate::state::SecretText;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Certificate, PrivateKey, PrivateKeyWithHashAlg, load_secret_key};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// sshd's MaxAuthTries is 6 by default, and a refused offer counts.
const MOST_TRIES: usize = 6;

/// What may be tried.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Private key files, tried first, in order.
    pub identities: Vec<PathBuf>,
    /// Opens encrypted ones.
    pub passphrase: Option<SecretText>,
    /// Ask the agent at `SSH_AUTH_SOCK`.
    pub agent: bool,
}

enum Offer {
    Key(Arc<PrivateKey>),
    Certificate(Arc<PrivateKey>, Box<Certificate>),
}

/// Reads a private key; the error says what a person can do.
fn read_key(path: &Path, passphrase: Option<&SecretText>) -> Result<PrivateKey, String> {
    load_secret_key(path, passphrase.map(SecretText::expose)).map_err(|error| match error {
        russh::keys::Error::KeyIsEncrypted => {
            format!(
                "{} is encrypted and no passphrase is given (ssh.passphrase: {{secret: NAME}})",
                path.display()
            )
        }
        other => format!("{}: {other}", path.display()),
    })
}

/// Authenticates `user`, or says what was tried and how to check it by hand.
pub(super) async fn authenticate(
    handle: &mut Handle<Checker>,
    name: &str,
    user: &str,
    address: (&str, u16),
    credentials: &Credentials,
) -> Result<(), SshError> {
    let (host, port) = address;
    let by_hand = format!("ssh -v -p {port} {user}@{host}");
    let lost = |error: russh::Error| SshError {
        kind: SshErrorKind::Lost,
        message: format!("connection to {name} ended while logging in as {user}: {error}"),
        hint: by_hand.clone(),
    };
    let mut tried: Vec<String> = Vec::new();
    let mut unusable: Vec<String> = Vec::new();
    let rsa_hash = handle.best_supported_rsa_hash().await.ok().flatten().flatten();
    let mut accepts = String::new();
    let mut note = |result: &AuthResult| {
        if let AuthResult::Failure { remaining_methods, .. } = result {
            accepts = remaining_methods.iter().map(<&str>::from).collect::<Vec<_>>().join(", ");
        }
    };

    for path in &credentials.identities {
        let key = match read_key(path, credentials.passphrase.as_ref()) {
            Ok(key) => Arc::new(key),
            Err(problem) => {
                unusable.push(problem);
                continue;
            }
        };
        let mut offers = Vec::new();
        let certificate = PathBuf::from(format!("{}-cert.pub", path.display()));
        if let Ok(certificate) = Certificate::read_file(&certificate) {
            offers.push(Offer::Certificate(key.clone(), Box::new(certificate)));
        }
        offers.push(Offer::Key(key));
        for offer in offers {
            if tried.len() >= MOST_TRIES {
                break;
            }
            let result = match offer {
                Offer::Key(key) => {
                    tried.push(path.display().to_string());
                    handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, rsa_hash)).await
                }
                Offer::Certificate(key, certificate) => {
                    tried.push(format!("{}-cert.pub", path.display()));
                    handle.authenticate_openssh_cert(user, key, *certificate).await
                }
            }
            .map_err(lost)?;
            if result.success() {
                return Ok(());
            }
            note(&result);
        }
    }

    if credentials.agent
        && let Ok(mut agent) = AgentClient::connect_env().await
        && let Ok(identities) = agent.request_identities().await
    {
        for identity in identities {
            if tried.len() >= MOST_TRIES {
                break;
            }
            let AgentIdentity::PublicKey { key, comment } = identity else { continue };
            tried.push(format!("agent key {comment}"));
            let hash = if key.algorithm().is_rsa() { rsa_hash } else { None };
            match handle.authenticate_publickey_with(user, key, hash, &mut agent).await {
                Ok(result) if result.success() => return Ok(()),
                Ok(result) => note(&result),
                Err(error) => unusable.push(format!("agent: {error}")),
            }
        }
    }

    // A dead socket answers like a refusal with no methods left.
    if handle.is_closed() && accepts.is_empty() {
        return Err(lost(russh::Error::Disconnect));
    }
    let mut message = format!("{name} refuses to let {user} log in");
    if tried.is_empty() {
        message.push_str("; there was no key to try");
    } else {
        message.push_str(&format!("; tried {}", tried.join(", ")));
    }
    if !accepts.is_empty() {
        message.push_str(&format!("; the server accepts {accepts}"));
    }
    for problem in unusable {
        message.push_str(&format!("; {problem}"));
    }
    Err(SshError { kind: SshErrorKind::Authentication, message, hint: by_hand })
}
