//! Connections: over TLS, where a client certificate says who calls.

use super::{http::Service, identity::Identity, store::Store, tls::Authority};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// An API server: the objects, the authority and the TLS identity in front of them.
#[derive(Clone)]
pub struct Api {
    /// The objects.
    pub store: Arc<Store>,
    /// Who vouches for callers.
    pub authority: Arc<Authority>,
    /// What `/version` says.
    pub version: String,
    /// TLS for the server's names.
    pub tls: Arc<rustls::ServerConfig>,
}

impl Api {
    /// Serves one TLS connection until it ends.
    pub async fn serve_tls<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(stream) = TlsAcceptor::from(self.tls.clone()).accept(stream).await else { return };
        let certificates = stream.get_ref().1.peer_certificates();
        let caller = certificates.and_then(|c| c.first()).and_then(|c| Identity::of(c));
        let service = Service { store: self.store.clone(), version: self.version.clone(), caller };
        let answer = service_fn(move |request| service.clone().answer(request));
        // A client that disconnects early is not an error.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    /// Serves every connection of a listener, over TLS, until the listener fails or the future is dropped.
    pub async fn serve(&self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            while connections.try_join_next().is_some() {}
            let api = self.clone();
            connections.spawn(async move { api.serve_tls(stream).await });
        }
    }
}
