//! Who asks, and what they may: client certificates of the cluster's authority, bootstrap tokens, and a coarse
//! authorization in place of RBAC rules.

use super::{
    kinds::Kind,
    refusal::Refusal,
    store::{Store, text},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
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
}

/// What a bootstrap token may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenUse {
    /// A worker's bootstrap.
    Worker,
    /// A controller's join.
    Controller,
}

/// Finds a bootstrap token's Secret and says whether it stands: right secret, right use, not expired.
pub fn token_stands(store: &Store, token: &str, wanted: TokenUse) -> bool {
    let Some((id, secret)) = token.split_once('.') else { return false };
    let Some(object) = store.get("secrets", "kube-system", &format!("bootstrap-token-{id}")) else {
        return false;
    };
    let field = |name: &str| {
        let encoded = text(&object, &format!("/data/{name}"));
        STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let usage = match wanted {
        TokenUse::Worker => "usage-bootstrap-authentication",
        TokenUse::Controller => "usage-controller-join",
    };
    object["type"] == "bootstrap.kubernetes.io/token"
        && field("token-id") == id
        && field("token-secret") == secret
        && field(usage) == "true"
        && !is_over(&object)
}

/// Says whether a bootstrap token's time is over.
pub fn is_over(secret: &Value) -> bool {
    let bytes = STANDARD.decode(text(secret, "/data/expiration")).unwrap_or_default();
    let expiry = String::from_utf8(bytes).unwrap_or_default();
    !expiry.is_empty() && expiry.parse::<jiff::Timestamp>().is_ok_and(|until| until <= jiff::Timestamp::now())
}

/// Returns the identity behind a bearer token.
pub fn by_token(store: &Store, token: &str) -> Option<Identity> {
    let (id, _) = token.split_once('.')?;
    token_stands(store, token, TokenUse::Worker).then(|| Identity {
        user: format!("system:bootstrap:{id}"),
        groups: vec!["system:bootstrappers".into(), "system:authenticated".into()],
    })
}

/// Refuses what an identity may not do. Administrators may everything; a node reads everything but secrets and writes
/// what is its own; a bootstrapping worker asks for its certificate.
pub fn authorize(
    who: &Identity,
    verb: &str,
    kind: &Kind,
    namespace: &str,
    name: &str,
    body: Option<&Value>,
) -> Result<(), Refusal> {
    if who.groups.iter().any(|g| g == "system:masters") {
        return Ok(());
    }
    let reads = matches!(verb, "get" | "list" | "watch");
    let node = who.user.strip_prefix("system:node:");
    let allowed = match node {
        Some(_) if reads => kind.id != "secrets" || verb == "get",
        Some(node) => match kind.id.as_str() {
            "nodes" => name == node || body.is_some_and(|b| text(b, "/metadata/name") == node),
            "pods" | "events" => true,
            "leases.coordination.k8s.io" => namespace == "kube-node-lease",
            _ => false,
        },
        None => {
            who.groups.iter().any(|g| g == "system:bootstrappers")
                && kind.id == "certificatesigningrequests.certificates.k8s.io"
                && (reads || verb == "create")
        }
    };
    if allowed {
        return Ok(());
    }
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let why = format!(
        "User {:?} cannot {verb} resource {:?} in API group {:?} {scope}",
        who.user, kind.plural, kind.group
    );
    Err(Refusal::forbidden(kind, name, why))
}
