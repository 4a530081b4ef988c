//! A Kubernetes client over streams of ours: HTTP/1.1 and TLS through an SSH channel to a controller's own loopback.

use super::Access;
use crate::ssh::BoxStream;
use crate::state::{Failure, FailureKind};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{ClientBuilder, ConfigExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::ServiceBuilder;

/// The port of the Kubernetes API on a controller.
const API_PORT: u16 = 6443;
/// To a stream, TLS not counted: SSH has deadlines of its own, this one is for a forward that never opens.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// To the head of an answer. An API server gives up on a request after 60 s, on a webhook after at most 30 s.
const ANSWER_DEADLINE: Duration = Duration::from_secs(65);

/// The name under which the API's certificate is checked, wherever the channel ends.
pub(super) const SERVER_NAME: &str = "kubernetes";

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
        Box::pin(async move {
            let stream = tokio::time::timeout(CONNECT_DEADLINE, access.controller(API_PORT)).await;
            Ok(Io(TokioIo::new(stream.map_err(|_| "no controller's API port was opened in time")??)))
        })
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

/// A way to the cluster.
#[derive(Clone)]
pub(super) struct Link {
    /// The client.
    pub client: kube::Client,
    /// The cluster's authority, base64 as in the kubeconfig; join tokens carry it.
    pub authority: String,
}

/// Returns a link to the cluster that an admin kubeconfig belongs to. Nothing is contacted yet.
pub(super) async fn link(kubeconfig: &[u8], access: Arc<dyn Access>) -> Result<Link, Failure> {
    let failed = |why: String| {
        Failure::new(
            FailureKind::Unobserved,
            "E-K8S-CONFIG",
            format!("the admin kubeconfig cannot be used: {why}"),
        )
    };
    let text = String::from_utf8_lossy(kubeconfig);
    let parsed = kube::config::Kubeconfig::from_yaml(&text).map_err(|e| failed(e.to_string()))?;
    let authority = parsed
        .clusters
        .iter()
        .find_map(|c| c.cluster.as_ref()?.certificate_authority_data.clone())
        .ok_or_else(|| failed("it names no cluster authority".to_owned()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(parsed, &kube::config::KubeConfigOptions::default())
            .await
            .map_err(|e| failed(e.to_string()))?;
    // The channel ends at the controller's loopback; `kubernetes` is in every API certificate.
    config.tls_server_name = Some(SERVER_NAME.to_owned());
    let https =
        config.rustls_https_connector_with_connector(Connector(access)).map_err(|e| failed(e.to_string()))?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|e| failed(e.to_string()))?)
        .map_err(BoxError::from)
        .map_future(|answer: hyper_util::client::legacy::ResponseFuture| async {
            match tokio::time::timeout(ANSWER_DEADLINE, answer).await {
                Ok(answered) => answered.map_err(BoxError::from),
                Err(_) => Err(BoxError::from("the API did not answer in time")),
            }
        })
        .service(
            hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .build::<_, kube::client::Body>(https),
        );
    let client = ClientBuilder::new(service, config.default_namespace.clone()).build();
    Ok(Link { client, authority })
}
