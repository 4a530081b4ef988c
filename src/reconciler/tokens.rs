//! Join tokens, as `k0s token create` makes them: a bootstrap-token Secret, and base64 of gzip of a kubeconfig.

use crate::state::{JoinRole, SecretText};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write;

/// How long a token can be used, in minutes: long enough for a driver build on a slow host before it.
const MINUTES: i64 = 60;

/// A token: its Secret's name, the Secret, and what a host joins with.
pub(super) struct Token {
    pub name: String,
    pub secret: Value,
    pub join: SecretText,
}

fn letters(n: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..n).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char).collect()
}

/// Makes a token of a role. `ca` is the cluster's, base64 as in a kubeconfig; `address` a controller's.
pub(super) fn make(role: JoinRole, ca: &str, address: &str) -> Option<Token> {
    let (id, secret) = (letters(6), letters(16));
    let expires = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_mins(MINUTES)).ok()?;
    let mut data = json!({"token-id": id, "token-secret": secret, "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "description": "made by provision for one run"});
    let (user, port) = match role {
        JoinRole::Worker => {
            data["usage-bootstrap-authentication"] = json!("true");
            data["usage-bootstrap-api-worker-calls"] = json!("true");
            ("kubelet-bootstrap", 6443)
        }
        JoinRole::Controller => {
            data["usage-controller-join"] = json!("true");
            data["usage-bootstrap-authentication"] = json!("false");
            ("controller-bootstrap", 9443)
        }
    };
    let name = format!("bootstrap-token-{id}");
    let secret_object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token", "stringData": data});
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: https://{address}:{port}\n  \
         name: k0s\ncontexts:\n- context:\n    cluster: k0s\n    user: {user}\n  name: k0s\ncurrent-context: k0s\nkind: Config\n\
         users:\n- name: {user}\n  user:\n    token: {id}.{secret}\n"
    );
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(kubeconfig.as_bytes()).ok()?;
    let join = base64::engine::general_purpose::STANDARD.encode(gzip.finish().ok()?);
    Some(Token { name, secret: secret_object, join: SecretText::new(join) })
}
