//! Connections: plain ones with a given caller, TLS ones whose client certificate says who calls.

use super::{http::Service, identity::Identity, store::Store, tls::Authority};
use hyper::service::service_fn;
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
        let caller = certificates.and_then(|c| c.first()).and_then(|c| self.authority.whose(c));
        serve_connection(self.store.clone(), &self.version, stream, caller).await;
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

/// Serves one plain connection until it ends; `caller` is who a certificate said it is.
pub async fn serve_connection<S>(store: Arc<Store>, version: &str, stream: S, caller: Option<Identity>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = Service { store, version: version.to_owned(), caller };
    let answer = service_fn(move |request| service.clone().answer(request));
    // A client that disconnects early is not an error.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}
