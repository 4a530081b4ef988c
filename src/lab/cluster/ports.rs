//! Node ports of the simulated nodes: what is behind them, and connections to it.

use super::edge;
use super::router::{self, Gateway};
use crate::lab::api::{Store, text};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::DuplexStream;

/// What a node port leads to.
#[derive(Clone)]
pub(super) enum Behind {
    /// The router itself.
    Router(Gateway),
    /// The proxy in front of it.
    Edge(Box<edge::Tenant>),
}

/// Returns what is behind a node port.
pub(super) fn behind(store: &Store, port: u16) -> Option<Behind> {
    let services = store.list("services");
    let (service, entry) = services.iter().find_map(|service| {
        Some((service, router::items(service, "/spec/ports").find(|p| p["nodePort"] == port)?))
    })?;
    if text(service, "/spec/selector/app.kubernetes.io~1component") == "edge" {
        return edge::behind(store, entry["targetPort"].as_u64()?)
            .map(|tenant| Behind::Edge(Box::new(tenant)));
    }
    router::gateway_behind(store, service, entry).map(Behind::Router)
}

/// Returns the port of pods that a node port leads to.
pub(super) fn target(store: &Store, port: u16) -> Option<u16> {
    let services = store.list("services");
    let mut entries = services.iter().flat_map(|service| router::items(service, "/spec/ports"));
    let entry = entries.find(|p| p["nodePort"] == port)?;
    entry["targetPort"].as_u64()?.try_into().ok()
}

/// Serves one connection to a node port.
pub(super) async fn serve_gateway(store: Arc<Store>, behind: Behind, stream: DuplexStream) {
    let service = service_fn(move |request| {
        let (store, behind) = (store.clone(), behind.clone());
        async move {
            Ok::<_, std::convert::Infallible>(match &behind {
                Behind::Router(gateway) => router::answer(&store, gateway, request).await,
                Behind::Edge(tenant) => edge::answer(&store, tenant, request).await,
            })
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
