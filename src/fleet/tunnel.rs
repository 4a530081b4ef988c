//! The Kubernetes API, or a tenant's gateway, on a local port.

use super::error::{Error, Result, coded, failed};
use super::open::Fleet;
use crate::event::Events;
use crate::k0s::API_PORT;
use crate::reconciler::{admin_kubeconfig, kubeconfig_for};
use crate::ssh::forward::{self, Forward, Open};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open tunnel and the kubeconfig that leads through it, both gone when dropped.
pub struct Tunnel {
    forward: Forward,
    kubeconfig: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Tunnel {
    /// Returns where it listens.
    pub fn local(&self) -> SocketAddr {
        self.forward.local()
    }

    /// Returns the kubeconfig, readable by this user alone.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

impl Fleet {
    /// Opens a local port (0 takes any) that leads to the API over any controller that answers, and writes an admin
    /// kubeconfig for it: into `kubeconfig`, which must not exist, or into a temporary folder of its own.
    pub async fn tunnel(&self, port: u16, kubeconfig: Option<&Path>, events: Events) -> Result<Tunnel> {
        let admin = admin_kubeconfig(self.access.as_ref()).await?;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let open = forward::through(self.controller.clone(), "127.0.0.1", API_PORT);
        let forward = forward::listen(local, format!("127.0.0.1:{API_PORT}"), open, events)
            .await
            .map_err(|error| in_use(local, &error))?;
        let server = format!("https://{}", forward.local());
        let config = kubeconfig_for(&admin, &self.inventory.name, &server, true)?;
        // JSON is YAML, and is what kubectl reads too.
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::Malformed {
            what: "the kubeconfig is malformed".to_owned(),
            source: Box::new(e),
        })?;
        let (kubeconfig, folder) = write(kubeconfig, &text)?;
        Ok(Tunnel { forward, kubeconfig, _folder: folder })
    }
}

impl Fleet {
    /// Opens a local port (0 takes any) that leads to a tenant's gateway over any worker that answers. Failures of single
    /// connections go to `events`.
    pub async fn gateway_tunnel(&self, tenant: &str, port: u16, events: Events) -> Result<Forward> {
        let endpoint = super::endpoints(&self.inventory, Some(tenant))?;
        let node_port = endpoint.first().map_or(0, |endpoint| endpoint.node_port);
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let access = self.access.clone();
        let open: Open = Arc::new(move || {
            let access = access.clone();
            Box::pin(async move { access.worker(node_port).await.map_err(|failure| failure.to_string()) })
        });
        let what = format!("node port {node_port} of the workers");
        forward::listen(local, what, open, events).await.map_err(|error| in_use(local, &error))
    }
}

fn in_use(local: SocketAddr, error: &std::io::Error) -> Error {
    coded(
        "E-PORT",
        format!("cannot listen on {local}: {error}"),
        "Choose another --port, or omit it to use any free port",
    )
}

fn write(asked: Option<&Path>, text: &str) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    let (path, folder) = match asked {
        Some(path) => (path.to_owned(), None),
        None => {
            let folder = tempfile::Builder::new().prefix("provision-").tempdir();
            let folder = folder.map_err(failed("cannot create a folder"))?;
            (folder.path().join("kubeconfig"), Some(folder))
        }
    };
    // Never overwrite an existing file, which would be removed at the end.
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(|error| -> Error {
        let message = format!("cannot write {}: {error}", path.display());
        coded("E-KUBECONFIG", message, "Name a file that does not exist yet with --kubeconfig FILE")
    })?;
    file.write_all(text.as_bytes()).map_err(super::error::cannot("write", &path))?;
    Ok((path, folder))
}
