//! A Kubernetes client over streams of ours: HTTP/1.1 and TLS through an SSH channel to a controller's own loopback.

use super::target::Access;
use crate::ssh::BoxStream;
use crate::state::{Failure, FailureKind};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{ClientBuilder, ConfigExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::ServiceBuilder;

/// The port of the Kubernetes API on a controller.
const API_PORT: u16 = 6443;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens a stream to the API for every connection that the client wants.
#[derive(Clone)]
struct Connector(Arc<dyn Access>);

impl tower::Service<http::Uri> for Connector {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let access = self.0.clone();
        Box::pin(async move { Ok(Io(TokioIo::new(access.controller(API_PORT).await?))) })
    }
}

struct Io(TokioIo<BoxStream>);

impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Returns a client of the cluster that an admin kubeconfig belongs to.
pub(super) async fn client(kubeconfig: &[u8], access: Arc<dyn Access>) -> Result<kube::Client, Failure> {
    let failed = |why: String| {
        Failure::new(
            FailureKind::Unobserved,
            "E-K8S-CONFIG",
            format!("the admin kubeconfig cannot be used: {why}"),
        )
    };
    let text = String::from_utf8_lossy(kubeconfig);
    let parsed = kube::config::Kubeconfig::from_yaml(&text).map_err(|e| failed(e.to_string()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(parsed, &kube::config::KubeConfigOptions::default())
            .await
            .map_err(|e| failed(e.to_string()))?;
    // The channel ends at the controller's loopback; `kubernetes` is in every API certificate.
    config.tls_server_name = Some("kubernetes".to_owned());
    let https =
        config.rustls_https_connector_with_connector(Connector(access)).map_err(|e| failed(e.to_string()))?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|e| failed(e.to_string()))?)
        .map_err(BoxError::from)
        .service(
            hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .build::<_, kube::client::Body>(https),
        );
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
