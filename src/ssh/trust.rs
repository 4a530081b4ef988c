//! `provision trust`: reads host keys without logging in to the hosts, and reports which are new, known or changed.

use super::endpoint::Endpoint;
use super::handshake::{Checker, Destination, Learned, Purpose, settings};
use super::known_hosts::{Verdict, lookup_name};
use super::pool::{Pool, Through, by_hand, shake};
use super::{SshError, SshErrorKind};
use futures::StreamExt;
use russh::keys::{HashAlg, PublicKey};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What a scan found at one host.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The host's name.
    pub name: String,
    /// Where it was looked for.
    pub address: String,
    /// On which port.
    pub port: u16,
    /// The name it has in known_hosts: `host`, or `[host]:port`.
    pub known_as: String,
    /// The key it presents, or why none was seen.
    pub key: Result<PublicKey, String>,
    /// The verdict of known_hosts; `Unknown` for a host that did not respond.
    pub verdict: Verdict,
}

impl Scanned {
    /// Returns the key's SHA256 fingerprint as OpenSSH prints it.
    pub fn fingerprint(&self) -> String {
        self.key.as_ref().map(|k| k.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default()
    }
}

/// Returns the host keys of the bastions of `endpoints`, then of `endpoints`, in order. Hosts behind a bastion are looked
/// at through it, which takes a login to it: once its own key is trusted.
pub async fn scan(pool: &Arc<Pool>, endpoints: Vec<Endpoint>) -> Vec<Scanned> {
    let mut seen = BTreeSet::new();
    let mut bastions = Vec::new();
    for endpoint in &endpoints {
        for (depth, text) in endpoint.bastions.iter().enumerate() {
            // A bastion with an invalid address is reported with the hosts behind it.
            let default_user = (!endpoint.by_proxy_jump).then_some(endpoint.user.as_str());
            let Ok(bastion) = pool.bastion(text, default_user).await else { continue };
            let mut at = bastion.endpoint.clone();
            if depth > 0 {
                at.bastions = endpoint.bastions[..depth].to_vec();
                at.by_proxy_jump = endpoint.by_proxy_jump;
            }
            if seen.insert((at.address.clone(), at.port)) {
                bastions.push(at);
            }
        }
    }
    futures::stream::iter(bastions.into_iter().chain(endpoints))
        .map(|endpoint| async move { look(pool, endpoint).await })
        .buffered(pool.limits().handshakes)
        .collect()
        .await
}

async fn look(pool: &Pool, endpoint: Endpoint) -> Scanned {
    let learned = Arc::new(Mutex::new(Learned::default()));
    let failure = handshake(pool, &endpoint, &learned).await.err();
    let (key, verdict) = learned.lock().map(|mut l| (l.key.take(), l.verdict.take())).unwrap_or((None, None));
    let Endpoint { name, address, port, host_key_alias, .. } = endpoint;
    let known_as = host_key_alias.unwrap_or_else(|| lookup_name(&address, port));
    let why = || failure.map_or_else(|| "the server presented no key".to_owned(), |e| e.message);
    Scanned {
        name,
        address,
        port,
        known_as,
        key: key.ok_or_else(why),
        verdict: verdict.unwrap_or(Verdict::Unknown),
    }
}

/// Shakes hands up to the host key; whatever it is, the server is left alone then.
async fn handshake(pool: &Pool, endpoint: &Endpoint, learned: &Arc<Mutex<Learned>>) -> Result<(), SshError> {
    let Endpoint { name, address, port, bastions, .. } = endpoint;
    let at = Destination { name, host: address, port: *port, by_hand: by_hand(endpoint, bastions) };
    let way = pool.way(endpoint, &Through::of(endpoint)).await?;
    let _permit = pool.handshake_permit(&way).await;
    let stream = pool.stream(&at, &way).await?;
    let keys = pool.known(endpoint);
    let config = Arc::new(settings(&keys, pool.limits()));
    let checker = Checker { keys, purpose: Purpose::Look, learned: learned.clone() };
    let deadline = pool.login_deadline();
    match tokio::time::timeout(deadline, shake(&at, config, stream, checker, learned)).await {
        Ok(done) => done.map(drop),
        Err(_) => Err(SshError {
            kind: SshErrorKind::Unreachable,
            message: format!("no response within {} s", deadline.as_secs_f32()),
            hint: at.by_hand.clone(),
        }),
    }
}
