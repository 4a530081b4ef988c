//! Who calls, by client certificates of the cluster's authority, and which join tokens are valid. There is no
//! authorization but for administrators, since nobody else calls the lab's API.

use super::{objects::text, store::Store};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::Value;

/// Someone with valid credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// Returns the identity of `admin.conf`.
    pub fn admin() -> Self {
        Self { user: "kubernetes-admin".into(), groups: vec!["system:masters".into()] }
    }

    /// Returns a kubelet's identity.
    pub fn node(name: &str) -> Self {
        Self { user: format!("system:node:{name}"), groups: vec!["system:nodes".into()] }
    }

    /// Reads the subject of a certificate that the cluster's authority signed.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| Some(group.as_str().ok()?.to_owned()));
        Some(Self { user, groups: groups.collect() })
    }

    /// Says whether it is an administrator's.
    pub fn is_admin(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }
}

/// What a bootstrap token may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenUse {
    /// A worker's bootstrap.
    Worker,
    /// A controller's join.
    Controller,
}

fn field(secret: &Value, name: &str) -> String {
    let bytes = STANDARD.decode(text(secret, &format!("/data/{name}"))).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Finds a bootstrap token's Secret and says whether it is valid: right secret, right use, not expired.
pub fn is_valid_token(store: &Store, token: &str, wanted: TokenUse) -> bool {
    let Some((id, secret)) = token.split_once('.') else { return false };
    let Some(object) = store.get("secrets", "kube-system", &format!("bootstrap-token-{id}")) else {
        return false;
    };
    let usage = match wanted {
        TokenUse::Worker => "usage-bootstrap-authentication",
        TokenUse::Controller => "usage-controller-join",
    };
    object["type"] == "bootstrap.kubernetes.io/token"
        && field(&object, "token-id") == id
        && field(&object, "token-secret") == secret
        && field(&object, usage) == "true"
        && !field(&object, "expiration").parse().is_ok_and(|until: Timestamp| until <= Timestamp::now())
}
