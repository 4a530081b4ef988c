//! Credentials: private keys and certificates from files, and the keys of the agent. Each file is read and decrypted once
//! per command: decrypting a key takes a tenth of a second, and 2,000 hosts use the same one.

use super::config::AgentChoice;
use super::credentials::Credentials;
use super::known_hosts::day;
use crate::state::SecretText;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg, PrivateKey, load_secret_key, signature};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::OnceCell;

/// An agent that waits for a card or a click is asked what it holds for this long.
const AGENT_DEADLINE: Duration = Duration::from_secs(10);

/// A key as it is offered to a server.
#[derive(Clone)]
pub(super) enum Offer {
    /// A private key from a file.
    Key(Arc<PrivateKey>),
    /// A certificate next to a private key.
    Certificate(Arc<PrivateKey>, Box<Certificate>),
    /// A key of the agent.
    AgentKey(Box<russh::keys::PublicKey>),
    /// A certificate of the agent.
    AgentCertificate(Box<Certificate>),
}

impl Offer {
    /// Returns what identifies it: its public key, and whether it has a certificate.
    pub(super) fn identity(&self) -> (KeyData, bool) {
        match self {
            Offer::Key(key) => (key.public_key().key_data().clone(), false),
            Offer::Certificate(key, _) => (key.public_key().key_data().clone(), true),
            Offer::AgentKey(key) => (key.key_data().clone(), false),
            Offer::AgentCertificate(certificate) => (certificate.public_key().clone(), true),
        }
    }

    /// Returns whether its signatures need a hash to be chosen.
    pub(super) fn is_rsa(&self) -> bool {
        match self {
            Offer::Key(key) | Offer::Certificate(key, _) => key.algorithm().is_rsa(),
            Offer::AgentKey(key) => key.algorithm().is_rsa(),
            Offer::AgentCertificate(certificate) => certificate.public_key().algorithm().is_rsa(),
        }
    }
}

/// An offer with the name that a person knows it by.
#[derive(Clone)]
pub(super) struct Named {
    pub name: String,
    pub offer: Offer,
}

/// What one file gave: a key with or without certificate, or the reason why not; and its public half, which an agent may hold
/// the private one of.
#[derive(Clone)]
pub(super) struct FromFile {
    pub path: PathBuf,
    pub key: Result<Arc<PrivateKey>, String>,
    pub public: Option<KeyData>,
    certificate: Option<Result<Box<Certificate>, String>>,
}

impl FromFile {
    /// Returns the key's offers, its certificates first; what cannot be used is added to `unusable`.
    pub(super) fn offers(
        &self,
        certificates: &[(PathBuf, Certificate)],
        unusable: &mut Vec<String>,
    ) -> Vec<Named> {
        let key = match &self.key {
            Ok(key) => key,
            Err(problem) => {
                unusable.push(problem.clone());
                return Vec::new();
            }
        };
        let mut offers: Vec<Named> = self
            .certificates(certificates, unusable)
            .into_iter()
            .map(|(name, certificate)| Named { name, offer: Offer::Certificate(key.clone(), certificate) })
            .collect();
        offers.push(Named { name: self.path.display().to_string(), offer: Offer::Key(key.clone()) });
        offers
    }

    /// Returns the certificates of the key: the one next to it, and those of `certificates`.
    pub(super) fn certificates(
        &self,
        certificates: &[(PathBuf, Certificate)],
        unusable: &mut Vec<String>,
    ) -> Vec<(String, Box<Certificate>)> {
        let mut all: Vec<(String, Box<Certificate>)> = certificates
            .iter()
            .filter(|(_, certificate)| Some(certificate.public_key()) == self.public.as_ref())
            .map(|(path, certificate)| (path.display().to_string(), Box::new(certificate.clone())))
            .collect();
        match &self.certificate {
            Some(Ok(certificate)) => {
                all.push((certificate_path(&self.path).display().to_string(), certificate.clone()));
            }
            Some(Err(problem)) => unusable.push(problem.clone()),
            None => {}
        }
        all
    }
}

/// Files read so far.
pub(super) struct Keyring {
    credentials: Credentials,
    files: Mutex<HashMap<PathBuf, Arc<OnceCell<FromFile>>>>,
}

pub(super) type Agent = AgentClient<Box<dyn AgentStream + Send + Unpin>>;

impl Keyring {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, files: Mutex::default() }
    }

    pub(super) fn password(&self) -> Option<&SecretText> {
        self.credentials.password.as_ref()
    }

    /// Returns whether key files of its own were named.
    pub(super) fn names_identities(&self) -> bool {
        !self.credentials.identities.is_empty()
    }

    /// Returns the key files that the inventory names.
    pub(super) fn named(&self) -> &[PathBuf] {
        &self.credentials.identities
    }

    /// Returns what key files give, in order.
    pub(super) async fn files(&self, paths: &[PathBuf]) -> Vec<FromFile> {
        let mut found = Vec::new();
        for path in paths {
            found.push(self.file(path).await);
        }
        found
    }

    /// Reads certificate files; what cannot be used is added to `unusable`.
    pub(super) fn certificates(
        &self,
        paths: &[PathBuf],
        unusable: &mut Vec<String>,
    ) -> Vec<(PathBuf, Certificate)> {
        let mut found = Vec::new();
        for path in paths {
            // As for ssh, one that is not there is not missed.
            let Ok(text) = std::fs::read_to_string(path) else { continue };
            match usable_certificate(&text) {
                Ok(certificate) => found.push((path.clone(), certificate)),
                Err(why) => unusable.push(format!("{}: {why}", path.display())),
            }
        }
        found
    }

    async fn file(&self, path: &Path) -> FromFile {
        let cell = match self.files.lock() {
            Ok(mut files) => files.entry(path.to_owned()).or_default().clone(),
            Err(_) => Arc::default(),
        };
        let read = || async {
            let (at, passphrase) = (path.to_owned(), self.credentials.passphrase.clone());
            tokio::task::spawn_blocking(move || read_file(&at, passphrase.as_ref())).await.unwrap_or_else(
                |e| FromFile {
                    path: path.to_owned(),
                    key: Err(format!("{}: {e}", path.display())),
                    public: None,
                    certificate: None,
                },
            )
        };
        cell.get_or_init(read).await.clone()
    }

    /// Returns the agent and its keys, if it is enabled; reasons for failure are added to `unusable`.
    pub(super) async fn in_agent(
        &self,
        choice: &AgentChoice,
        unusable: &mut Vec<String>,
    ) -> Option<(Agent, Vec<Named>)> {
        if !self.credentials.agent || *choice == AgentChoice::Off {
            return None;
        }
        let socket =
            match choice {
                AgentChoice::Socket(socket) => Some(socket.clone()),
                _ => self.credentials.agent_socket.clone().or_else(|| {
                    std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty()).map(PathBuf::from)
                }),
            };
        let Some(socket) = socket else {
            unusable.push("no agent: SSH_AUTH_SOCK is not set".to_owned());
            return None;
        };
        let ask = async {
            let mut agent = AgentClient::connect_uds(&socket).await?.dynamic();
            let held = agent.request_identities().await?;
            Ok::<_, russh::keys::Error>((agent, held))
        };
        let (agent, held) = match tokio::time::timeout(AGENT_DEADLINE, ask).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                unusable.push(format!("agent at {}: {error}", socket.display()));
                return None;
            }
            Err(_) => {
                unusable.push(format!(
                    "agent at {}: no response within {} s",
                    socket.display(),
                    AGENT_DEADLINE.as_secs()
                ));
                return None;
            }
        };
        let offers = held.into_iter().map(|identity| match identity {
            AgentIdentity::PublicKey { key, comment } => Named {
                name: called("agent key", &comment, &key.fingerprint(HashAlg::Sha256).to_string()),
                offer: Offer::AgentKey(Box::new(key)),
            },
            AgentIdentity::Certificate { certificate, comment } => Named {
                name: called("agent certificate", &comment, certificate.key_id()),
                offer: Offer::AgentCertificate(Box::new(certificate)),
            },
        });
        Some((agent, offers.collect()))
    }
}

fn called(sort: &str, comment: &str, otherwise: &str) -> String {
    format!("{sort} {}", if comment.is_empty() { otherwise } else { comment })
}

fn certificate_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push("-cert.pub");
    PathBuf::from(name)
}

fn read_file(path: &Path, passphrase: Option<&SecretText>) -> FromFile {
    let mut public = public_key(path);
    let key = match russh::keys::load_public_key(path) {
        // IdentityFile may name the public half, for a key that only an agent has.
        Ok(key) => {
            public = Some(key.key_data().clone());
            Err(format!("{} is a public key, and no agent offers its private key", path.display()))
        }
        Err(_) => read_key(path, passphrase).map(Arc::new),
    };
    if let Ok(key) = &key {
        public = Some(key.public_key().key_data().clone());
    }
    let certificate_file = certificate_path(path);
    let certificate = match std::fs::read_to_string(&certificate_file) {
        Err(_) => None,
        Ok(text) => {
            Some(usable_certificate(&text).map_err(|why| format!("{}: {why}", certificate_file.display())))
        }
    };
    FromFile { path: path.to_owned(), key, public, certificate: certificate.map(|c| c.map(Box::new)) }
}

/// Returns the public half of a private key that may be encrypted, or not be there at all: from the file beside it, or from the
/// part of the key that is never encrypted.
fn public_key(path: &Path) -> Option<KeyData> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    let beside = russh::keys::load_public_key(Path::new(&beside)).ok().map(|key| key.key_data().clone());
    beside.or_else(|| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(PrivateKey::from_openssh(text).ok()?.public_key().key_data().clone())
    })
}

/// Reads a user certificate; one that is known not to be accepted would only cost a try.
fn usable_certificate(text: &str) -> Result<Certificate, String> {
    let certificate = Certificate::from_openssh(text.trim()).map_err(|e| e.to_string())?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if !certificate.cert_type().is_user() {
        return Err("it is a host certificate, not a user certificate".to_owned());
    }
    if now_s >= certificate.valid_before() {
        return Err(format!("it expired {}", day(certificate.valid_before())));
    }
    if now_s < certificate.valid_after() {
        return Err(format!("it is valid only from {}", day(certificate.valid_after())));
    }
    Ok(certificate)
}

/// Reads a private key; the error includes what to do.
fn read_key(path: &Path, passphrase: Option<&SecretText>) -> Result<PrivateKey, String> {
    use russh::keys::Error;
    load_secret_key(path, passphrase.map(SecretText::expose)).map_err(|error| {
        let at = path.display();
        match error {
            Error::KeyIsEncrypted => format!(
                "{at} is encrypted and has no passphrase (set ssh.passphrase: {{secret: NAME}}, or run ssh-add {at})"
            ),
            Error::SshKey(_) if passphrase.is_some() => format!("{at}: wrong passphrase"),
            Error::CouldNotReadKey => format!("{at} is not a private key"),
            Error::IO(error) => format!("{at}: {error}"),
            other => format!("{at}: {other}"),
        }
    })
}

/// Signs with a key that is here, for the one case that russh leaves open: it signs RSA certificates with SHA-1 only,
/// which every current sshd refuses.
pub(super) struct LocalSigner(pub Arc<PrivateKey>);

impl russh::Signer for LocalSigner {
    type Error = russh::AgentAuthError;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        use russh::keys::Error;
        let signed = match self.0.key_data() {
            KeypairData::Rsa(pair) => signature::Signer::try_sign(&(pair, hash), &to_sign),
            _ => signature::Signer::try_sign(self.0.as_ref(), &to_sign),
        };
        let signed = signed.map_err(|e| Error::from(russh::keys::ssh_key::Error::from(e)))?;
        let mut blob = Vec::new();
        let encoded = signed.encode(&mut blob).and_then(|()| blob.as_slice().encode(&mut to_sign));
        encoded.map_err(|e| Error::from(russh::keys::ssh_key::Error::from(e)))?;
        Ok(to_sign)
    }
}

/// Signs for a certificate with an agent, which may have the certificate, or its key alone (CertificateFile).
pub(super) struct AgentSigner<'a> {
    pub agent: &'a mut Agent,
    pub key: russh::keys::PublicKey,
}

impl russh::Signer for AgentSigner<'_> {
    type Error = russh::AgentAuthError;

    async fn auth_sign(
        &mut self,
        certificate: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let identity = AgentIdentity::PublicKey { key: self.key.clone(), comment: String::new() };
        match self.agent.auth_sign(&identity, hash, to_sign.clone()).await {
            Ok(signed) => Ok(signed),
            Err(_) => self.agent.auth_sign(certificate, hash, to_sign).await,
        }
    }
}
