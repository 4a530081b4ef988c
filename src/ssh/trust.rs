//! `provision trust`: looks at host keys without logging in, and says which are new, known or changed.

use super::connection::{Checker, HostKey};
use super::known_hosts::{KnownHosts, Verdict, lookup_name};
use super::pool::Endpoint;
use futures::StreamExt;
use russh::keys::{HashAlg, PublicKey};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a scan found at one host.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The host's name.
    pub name: String,
    /// The name it has in known_hosts: `host`, or `[host]:port`.
    pub known_as: String,
    /// The key it presents, or why none was seen.
    pub key: Result<PublicKey, String>,
    /// What known_hosts says of it; `Unknown` for a host that did not answer.
    pub verdict: Verdict,
}

impl Scanned {
    /// Returns the key's SHA256 fingerprint as OpenSSH prints it.
    pub fn fingerprint(&self) -> String {
        self.key.as_ref().map(|k| k.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default()
    }
}

/// Scans at most this many hosts at once.
const MOST_AT_ONCE: usize = 32;

/// Returns the host keys of `endpoints`, in order. Hosts behind bastions are not scanned from here: their keys are
/// taken at the bastion, by hand.
pub async fn scan(endpoints: Vec<Endpoint>, known_hosts: &[PathBuf], deadline: Duration) -> Vec<Scanned> {
    let known = Arc::new(KnownHosts::read(known_hosts));
    futures::stream::iter(endpoints)
        .map(|endpoint| {
            let known = known.clone();
            async move { scan_one(endpoint, known, deadline).await }
        })
        .buffered(MOST_AT_ONCE)
        .collect()
        .await
}

async fn scan_one(endpoint: Endpoint, known: Arc<KnownHosts>, deadline: Duration) -> Scanned {
    let Endpoint { name, address, port, .. } = endpoint;
    let seen = Arc::new(Mutex::new(None));
    let checker = Checker {
        host: address.clone(),
        port,
        known: known.clone(),
        outcome: Arc::new(Mutex::new(HostKey::NotSeen)),
        record: Some(seen.clone()),
    };
    let config = Arc::new(super::connection::settings(&known, &address, port));
    let attempt = russh::client::connect(config, (address.as_str(), port), checker);
    let failure = match tokio::time::timeout(deadline, attempt).await {
        Ok(Ok(_)) => "the server presented no plain key".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", deadline.as_secs()),
    };
    let key = seen.lock().ok().and_then(|mut slot| slot.take()).ok_or(failure);
    let verdict = match &key {
        Ok(key) => known.judge(&address, port, key),
        Err(_) => Verdict::Unknown,
    };
    Scanned { name, known_as: lookup_name(&address, port), key, verdict }
}
