//! The handshake: requested algorithms, verification of the server, and the meaning of its errors. Owns no sockets.

use super::known_hosts::{HostKeys, Verdict, lookup_name};
use super::{Limits, SshError, SshErrorKind};
use russh::client::{self, DisconnectReason};
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Limits as RekeyLimits, Preferred};
use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Keepalives without an answer before a connection counts as lost.
const MOST_MISSED: usize = 3;
/// russh panics above it.
const MOST_REKEY_BYTES: usize = 1 << 30;
/// Keys are renewed at least this often, as OpenSSH does.
const REKEY_EVERY: Duration = Duration::from_secs(3600);

/// What the handshake learned, for errors and for `provision trust`.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// The key that was presented (a certificate's subject key).
    pub key: Option<PublicKey>,
    /// The known_hosts entries for it.
    pub verdict: Option<Verdict>,
    /// Why the server hung up, in its own words.
    pub farewell: Option<String>,
    /// The server closed the connection before it identified itself, as sshd does at random beyond MaxStartups.
    pub dropped: bool,
}

/// What is done with the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Go on if it is trusted.
    Login,
    /// Only look: hang up in any case.
    Look,
}

/// Checks the server's key against known_hosts.
pub(super) struct Checker {
    pub keys: HostKeys,
    pub purpose: Purpose,
    pub learned: Arc<Mutex<Learned>>,
}

impl Checker {
    fn learn(&self, change: impl FnOnce(&mut Learned)) {
        if let Ok(mut learned) = self.learned.lock() {
            change(&mut learned);
        }
    }
}

impl client::Handler for Checker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let verdict = match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.keys.judge(key),
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.keys.judge_certificate(certificate, now_s)
            }
        };
        let trusted = verdict == Verdict::Trusted;
        self.learn(|learned| {
            learned.key = Some(presented.public_key());
            learned.verdict = Some(verdict);
        });
        Ok(trusted && self.purpose == Purpose::Login)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        self.learn(|learned| {
            learned.farewell = Some(match &reason {
                DisconnectReason::ReceivedDisconnect(info) => info.message.clone(),
                DisconnectReason::Error(error) => error.to_string(),
            });
        });
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// Returns the client's settings for a host: its known key types first (a host known by RSA only would else present
/// ed25519 and look unknown), certificates only where an authority is known.
pub(super) fn settings(keys: &HostKeys, limits: &Limits) -> client::Config {
    let default = Preferred::default();
    let known = keys.algorithms();
    // An RSA key in known_hosts does not determine the hash; both modern ones are requested.
    let is_known = |offered: &Algorithm| {
        known.iter().any(|k| match (k, offered) {
            (Algorithm::Rsa { .. }, Algorithm::Rsa { hash }) => hash.is_some(),
            (known, offered) => known == offered,
        })
    };
    let (mut order, others): (Vec<_>, Vec<_>) = default.key.iter().cloned().partition(is_known);
    order.extend(others);
    let certificates = if keys.has_authority() { order.clone() } else { Vec::new() };
    let rekey_bytes = limits.rekey_bytes.min(MOST_REKEY_BYTES);
    let rekey = RekeyLimits::new(rekey_bytes, rekey_bytes, REKEY_EVERY);
    client::Config {
        nodelay: true, // measured: 44 ms an exec without it, 2 ms with it
        keepalive_interval: Some(limits.keepalive),
        keepalive_max: MOST_MISSED,
        // Keepalives stop while a write is stuck, as to a host behind a bastion that lost power in mid-upload; this does
        // not. Answers to keepalives keep an idle connection below it.
        inactivity_timeout: Some(limits.keepalive * (MOST_MISSED as u32 + 2)),
        limits: rekey,
        preferred: Preferred {
            key: Cow::Owned(order),
            host_key_certificates: Cow::Owned(certificates),
            ..default
        },
        ..client::Config::default()
    }
}

/// Turns a failed handshake into what a person needs.
pub(super) fn handshake_error(at: &Destination<'_>, learned: &Learned, error: &russh::Error) -> SshError {
    let Destination { name, host, port, by_hand } = at;
    let place = lookup_name(host, *port);
    let fingerprint =
        learned.key.as_ref().map(|k| k.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default();
    match &learned.verdict {
        Some(Verdict::Unknown) => SshError {
            kind: SshErrorKind::HostKeyUnknown,
            message: format!("unknown host key of {name} ({place}): {fingerprint}"),
            hint: "Compare the fingerprint at the host's console, then run `provision trust`".to_owned(),
        },
        Some(Verdict::Changed { place: known_at, fingerprint: known }) => SshError {
            kind: SshErrorKind::HostKeyChanged,
            message: format!(
                "host key of {name} ({place}) has changed: {fingerprint}, recorded is {known} ({known_at})"
            ),
            hint: "If the host was reinstalled, run `provision trust --replace`; otherwise suspect a man-in-the-middle attack"
                .to_owned(),
        },
        Some(Verdict::Revoked(known_at)) => SshError {
            kind: SshErrorKind::HostKeyChanged,
            message: format!("host key {fingerprint} of {name} ({place}) is revoked ({known_at})"),
            hint: "Generate a new host key on the host".to_owned(),
        },
        Some(Verdict::BadCertificate(why)) => SshError {
            kind: SshErrorKind::HostKeyChanged,
            message: format!("invalid host certificate of {name} ({place}): {why}"),
            hint: format!("Inspect the certificate: ssh-keyscan -c -p {port} {host} | ssh-keygen -L -f -"),
        },
        Some(Verdict::Trusted) | None => SshError {
            kind: SshErrorKind::Unreachable,
            message: format!("SSH handshake with {name} ({place}) failed: {}", plainly(error, learned)),
            hint: by_hand.clone(),
        },
    }
}

/// Returns whether a handshake broke because the other side hung up.
pub(super) fn hung_up(error: &russh::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        russh::Error::Disconnect | russh::Error::HUP => true,
        russh::Error::IO(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        _ => false,
    }
}

/// Describes why a handshake failed.
fn plainly(error: &russh::Error, learned: &Learned) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => match &learned.farewell {
            Some(farewell) if !farewell.is_empty() => format!("the server closed the connection: {farewell}"),
            _ => "the server closed the connection (MaxStartups exceeded, or not an SSH server?)".to_owned(),
        },
        russh::Error::Version => "the server does not speak SSH".to_owned(),
        other => other.to_string(),
    }
}

/// Where a connection goes, for errors.
pub(super) struct Destination<'a> {
    /// The host's name.
    pub name: &'a str,
    /// Its address.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The command that does the same by hand.
    pub by_hand: String,
}
