//! The Kubernetes API on a local port, for kubectl and similar tools.

use super::error::{Error, Result, coded, failed};
use super::open::Fleet;
use crate::event::Events;
use crate::k0s::API_PORT;
use crate::reconciler::{admin_kubeconfig, kubeconfig_for};
use crate::ssh::forward::{self, Forward};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
        let forward = forward::listen(local, self.controller.clone(), "127.0.0.1", API_PORT, events)
            .await
            .map_err(|error| {
                coded(
                    "E-PORT",
                    format!("cannot listen on {local}: {error}"),
                    "Choose another --port, or omit it to use any free port",
                )
            })?;
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
