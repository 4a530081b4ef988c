//! The contract suite against the API stand-in; `tests/controlplane` runs the same cases against a real kube-apiserver.

use async_trait::async_trait;
use provision::lab::api::{Api, Authority, Identity, Store, housekeeping, kubeconfig};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[path = "../controlplane/contract/mod.rs"]
mod suite;

/// The stand-in on a port of loopback.
struct StandIn {
    api: Api,
    address: SocketAddr,
    admin: String,
    serving: Mutex<JoinSet<()>>,
    _housekeeping: JoinSet<()>,
}

impl StandIn {
    async fn up() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = Arc::new(Authority::new().expect("an authority"));
        let names = ["kubernetes", "127.0.0.1"].map(str::to_owned);
        let tls = authority.server(&names).expect("a server");
        let store = Arc::new(Store::new());
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            store.ensure("namespaces", body, "kube-apiserver").expect("made");
        }
        let mut housekeeping = JoinSet::new();
        housekeeping.spawn(housekeeping::run(store.clone()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let pair = authority.client(&Identity::admin()).expect("a certificate");
        let admin = kubeconfig(
            authority.certificate(),
            &format!("https://{address}"),
            "local",
            "Default",
            "user",
            &pair,
        );
        let api = Api { store, authority, version: "v1.35.7+k0s".into(), tls };
        let this = Self { api, address, admin, serving: Mutex::default(), _housekeeping: housekeeping };
        this.serve(listener);
        this
    }

    fn serve(&self, listener: TcpListener) {
        let api = self.api.clone();
        self.serving.lock().expect("no panic").spawn(async move { api.serve(listener).await });
    }
}

#[async_trait]
impl suite::Site for StandIn {
    fn kubeconfig(&self) -> String {
        self.admin.clone()
    }

    async fn restart(&self) {
        let mut old = std::mem::take(&mut *self.serving.lock().expect("no panic"));
        old.shutdown().await;
        self.api.store.forget_past();
        self.serve(TcpListener::bind(self.address).await.expect("the same port"));
        assert_eq!(suite::rest::Rest::new(&self.admin, "").try_get("/readyz").await, Some(200));
    }
}

macro_rules! against_the_stand_in {
    ($($module:ident: [$($case:ident),* $(,)?],)*) => {
        $($(
            #[tokio::test]
            async fn $case() {
                suite::run(&StandIn::up().await, stringify!($case)).await;
            }
        )*)*
    };
}
suite::cases!(against_the_stand_in);
