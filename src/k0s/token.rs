//! Join tokens, as `k0s token create` makes them: a bootstrap-token Secret, and base64 of gzip of a kubeconfig.

use super::ports::{API_PORT, JOIN_PORT};
use crate::state::{JoinRole, SecretText};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write;

/// How long a token can be used, in minutes. It is deleted when the run ends; this is for runs that are killed, and
/// long enough for hosts that reboot between.
const MINUTES: i64 = 60;

/// A token: its Secret's name, the Secret, and what a host joins with.
pub struct Token {
    /// The Secret's name.
    pub name: String,
    /// The Secret, for the API.
    pub secret: Value,
    /// What a host joins with.
    pub join: SecretText,
}

fn letters(n: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..n).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char).collect()
}

/// Returns an address as in a URL.
fn host(address: &str) -> String {
    if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// Makes a token of a role. `authority` is the cluster's, base64 as in a kubeconfig; `address` is where nodes reach a
/// controller. The Secret's keys are those of k0s (pkg/token/manager.go).
pub fn make(role: JoinRole, authority: &str, address: &str) -> std::io::Result<Token> {
    let (id, secret) = (letters(6), letters(16));
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(MINUTES);
    let mut data = json!({
        "token-id": id,
        "token-secret": secret,
        "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "description": "made by provision for one run",
        "usage-bootstrap-api-auth": "true",
    });
    let (user, port) = match role {
        JoinRole::Worker => {
            data["usage-bootstrap-authentication"] = json!("true");
            data["usage-bootstrap-api-worker-calls"] = json!("true");
            ("kubelet-bootstrap", API_PORT)
        }
        JoinRole::Controller => {
            data["usage-bootstrap-authentication"] = json!("false");
            data["usage-bootstrap-signing"] = json!("false");
            data["usage-controller-join"] = json!("true");
            ("controller-bootstrap", JOIN_PORT)
        }
    };
    let name = format!("bootstrap-token-{id}");
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token", "stringData": data});
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: https://{}:{port}\n  \
         name: k0s\ncontexts:\n- context:\n    cluster: k0s\n    user: {user}\n  name: k0s\ncurrent-context: k0s\nkind: Config\n\
         users:\n- name: {user}\n  user:\n    token: {id}.{secret}\n",
        host(address)
    );
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(kubeconfig.as_bytes())?;
    let join = base64::engine::general_purpose::STANDARD.encode(gzip.finish()?);
    Ok(Token { name, secret: object, join: SecretText::new(join) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn opened(token: &Token) -> kube::config::Kubeconfig {
        let packed = base64::engine::general_purpose::STANDARD.decode(token.join.expose()).expect("base64");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("gzip");
        kube::config::Kubeconfig::from_yaml(&text).expect("a kubeconfig")
    }

    #[test]
    fn a_token_opens_to_the_kubeconfig_that_k0s_expects() {
        for (role, user, server) in [
            (JoinRole::Worker, "kubelet-bootstrap", "https://10.0.0.1:6443"),
            (JoinRole::Controller, "controller-bootstrap", "https://10.0.0.1:9443"),
        ] {
            let token = make(role, "Q0E=", "10.0.0.1").expect("made");
            let config = opened(&token);
            let cluster = config.clusters[0].cluster.as_ref().expect("a cluster");
            assert_eq!(cluster.server.as_deref(), Some(server));
            assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Q0E="));
            assert_eq!((config.clusters[0].name.as_str(), config.auth_infos[0].name.as_str()), ("k0s", user));
            let data = &token.secret["stringData"];
            let id = data["token-id"].as_str().expect("an id");
            assert_eq!((id.len(), token.name), (6, format!("bootstrap-token-{id}")));
            assert!(data["expiration"].as_str().is_some_and(|e| e.ends_with('Z')), "never without an end");
            assert_eq!(data["usage-controller-join"].is_null(), role == JoinRole::Worker);
        }
    }

    #[test]
    fn an_ipv6_address_is_bracketed() {
        let config = opened(&make(JoinRole::Worker, "Q0E=", "fd00::1").expect("made"));
        let server = config.clusters[0].cluster.as_ref().and_then(|c| c.server.clone());
        assert_eq!(server.as_deref(), Some("https://[fd00::1]:6443"));
    }
}
