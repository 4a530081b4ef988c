//! A Kubernetes client over streams that it is given: HTTP/1.1 and TLS through an SSH channel to a controller's own loopback.

use super::Access;
use crate::k0s::API_PORT;
use crate::state::{BoxStream, Failure, FailureKind};
use http_body_util::Limited;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{ClientBuilder, ConfigExt};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::ServiceBuilder;

/// To a stream, TLS not counted: SSH has deadlines of its own, this one is for a forward that never opens.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// To the head of an answer. An API server gives up on a request after 60 s, on a webhook after at most 30 s.
const ANSWER_DEADLINE: Duration = Duration::from_secs(65);

/// An answer of the API: the pods of 2,000 nodes have a tenth of this, in bytes.
const MOST_ANSWER: usize = 512 << 20;

/// The name for checking the API's certificate, wherever the channel ends.
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
            let stream = stream.map_err(|_| "timed out connecting to the API port of every controller")?;
            Ok(Io(TokioIo::new(stream.map_err(|failure| failure.message)?)))
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

/// Returns of a host's admin kubeconfig what a client needs and nothing else: certificates and key, as data. A kubeconfig
/// can name programs to run and files to read on the client machine, which a host must not decide.
pub(super) fn certificates_of(text: &str) -> Result<(kube::config::Kubeconfig, String), String> {
    use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
    let parsed = Kubeconfig::from_yaml(text).map_err(|e| e.to_string())?;
    let cluster = parsed.clusters.iter().find_map(|c| c.cluster.as_ref()).ok_or("it has no cluster")?;
    let authority = cluster.certificate_authority_data.clone().ok_or("it has no certificate authority")?;
    let user = parsed.auth_infos.iter().find_map(|a| a.auth_info.as_ref()).ok_or("it has no user")?;
    let missing = "it has no client certificate";
    let (certificate, key) = (user.client_certificate_data.clone(), user.client_key_data.clone());
    let name = || SERVER_NAME.to_owned();
    let kept = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name(),
            other: BTreeMap::new(),
            cluster: Some(Cluster {
                server: Some(format!("https://127.0.0.1:{API_PORT}")),
                certificate_authority_data: Some(authority.clone()),
                ..Cluster::default()
            }),
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name(),
            other: BTreeMap::new(),
            auth_info: Some(AuthInfo {
                client_certificate_data: Some(certificate.ok_or(missing)?),
                client_key_data: Some(key.ok_or(missing)?),
                ..AuthInfo::default()
            }),
        }],
        contexts: vec![NamedContext {
            name: name(),
            other: BTreeMap::new(),
            context: Some(Context { cluster: name(), user: Some(name()), ..Context::default() }),
        }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    };
    Ok((kept, authority))
}

/// Returns a link to the cluster that an admin kubeconfig belongs to. Nothing is contacted yet.
pub(super) async fn link(kubeconfig: &[u8], access: Arc<dyn Access>) -> Result<Link, Failure> {
    let failed = |why: String| {
        Failure::new(FailureKind::Unobserved, "E-K8S-CONFIG", format!("invalid admin kubeconfig: {why}"))
    };
    let text = String::from_utf8_lossy(kubeconfig);
    let (parsed, authority) = certificates_of(&text).map_err(failed)?;
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
                Ok(answered) => answered
                    .map(|answer| answer.map(|body| Limited::new(body, MOST_ANSWER)))
                    .map_err(BoxError::from),
                Err(_) => Err(BoxError::from("the API server timed out")),
            }
        })
        .service(
            hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .build::<_, kube::client::Body>(https),
        );
    let client = ClientBuilder::new(service, config.default_namespace.clone()).build();
    Ok(Link { client, authority })
}

#[cfg(test)]
mod tests {
    use super::certificates_of;

    /// A controller that was taken over must not run programs here, nor be sent files of this machine.
    #[test]
    fn a_kubeconfig_of_a_host_names_no_program_and_no_file() {
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
            clusters: [{name: c, cluster: {server: 'https://evil.example', insecure-skip-tls-verify: true, \
            proxy-url: 'http://evil.example', certificate-authority: /etc/shadow, certificate-authority-data: QQ==}}]\n\
            users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/x]}, \
            token-file: /etc/shadow, client-certificate-data: QQ==, client-key-data: Qg==, client-key: /etc/shadow}}]\n\
            contexts: [{name: c, context: {cluster: c, user: u}}]\n";
        let (kept, authority) = certificates_of(text).expect("certificates");
        let shown = serde_json::to_string(&kept).expect("JSON");
        for gone in ["touch", "/etc/shadow", "evil.example", "insecure"] {
            assert!(!shown.contains(gone), "{shown}");
        }
        assert_eq!(authority, "QQ==");
        assert!(certificates_of("users: []\nclusters: []\n").is_err());
    }
}
