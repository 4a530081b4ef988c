//! `tunnel`: the Kubernetes API on a local port, for kubectl and its like.

use super::site::{Need, Site};
use super::{Global, Where, exit, watch};
use crate::reconciler::{admin_kubeconfig, lent_kubeconfig};
use crate::ssh::{Dial, SshError, SshErrorKind, Transport, forward};
use crate::state::{Failure, FailureKind, TargetId};
use anyhow::Context;
use async_trait::async_trait;
use clap::Args;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Port of the Kubernetes API on a controller.
const API_PORT: u16 = 6443;

/// Lend kubectl a local port to the Kubernetes API, through SSH, until Ctrl-C
///
/// The kubeconfig is the cluster's admin one: whoever reads it is the cluster's master while the tunnel is open and this
/// machine can be reached. It is readable by you alone, and removed at the end. With a command, the tunnel lasts as long
/// as the command, which finds KUBECONFIG set.
#[derive(Args)]
#[command(after_help = "Examples:
  provision tunnel -i site.yaml                          prints the export line for another terminal
  provision tunnel -i site.yaml -- kubectl get nodes     as long as one command runs
  provision tunnel -i site.yaml --port 6443 --kubeconfig ./ams.kubeconfig")]
pub struct Tunnel {
    #[command(flatten)]
    place: Where,
    /// The local port; any free one unless given
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where the kubeconfig is written; a file of its own in a temporary folder unless given
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A command that is run with KUBECONFIG set; after `--`
    #[arg(last = true)]
    command: Vec<String>,
}

/// Dials the first controller that answers.
struct AnyOf(Vec<Arc<dyn Dial>>);

#[async_trait]
impl Dial for AnyOf {
    async fn dial(&self) -> Result<Arc<dyn Transport>, SshError> {
        let mut last = SshError {
            kind: SshErrorKind::Unreachable,
            message: "no controller takes part".to_owned(),
            hint: "provision status".to_owned(),
        };
        for dial in &self.0 {
            match dial.dial().await {
                Ok(transport) => return Ok(transport),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The kubeconfig on disk, gone when dropped.
struct Lent {
    path: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lend(asked: Option<&PathBuf>, text: &str) -> anyhow::Result<Lent> {
    use std::os::unix::fs::OpenOptionsExt;
    let (path, folder) = match asked {
        Some(path) => (path.clone(), None),
        None => {
            let folder =
                tempfile::Builder::new().prefix("provision-").tempdir().context("cannot make a folder")?;
            (folder.path().join("kubeconfig"), Some(folder))
        }
    };
    // Never over somebody's own file, which would be removed at the end.
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(|error| {
        Failure::new(
            FailureKind::Preflight,
            "E-KUBECONFIG",
            format!("cannot write {}: {error}", path.display()),
        )
        .hint("name a file that does not exist yet: --kubeconfig FILE")
    })?;
    file.write_all(text.as_bytes())?;
    Ok(Lent { path, _folder: folder })
}

impl Tunnel {
    /// Opens the tunnel and keeps it open.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, true);
        let site = Site::open_for(&self.place, Need::Look, &events).await?;
        let admin = admin_kubeconfig(site.access.as_ref()).await?;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let dial = Arc::new(AnyOf(site.controllers.clone()));
        let tunnel =
            forward::listen(local, dial, "127.0.0.1", API_PORT, events.clone()).await.map_err(|error| {
                Failure::new(FailureKind::Preflight, "E-PORT", format!("cannot listen on {local}: {error}"))
                    .hint("another --port, or none for any free one")
            })?;
        let lent = lend(self.kubeconfig.as_ref(), &lent_kubeconfig(&admin, tunnel.local().port())?)?;
        let code = match self.command.split_first() {
            Some((program, arguments)) => {
                let mut child = tokio::process::Command::new(program)
                    .args(arguments)
                    .env("KUBECONFIG", &lent.path)
                    .kill_on_drop(true)
                    .spawn()
                    .with_context(|| format!("cannot run {program}"))?;
                let status = child.wait().await?;
                status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(exit::FAILED)
            }
            None => {
                println!("export KUBECONFIG={}", crate::template::quote(&lent.path.display().to_string()));
                std::io::stdout().flush()?;
                eprintln!(
                    "the API of {} ({}) is on {}; Ctrl-C closes it and removes the kubeconfig",
                    site.inventory.name,
                    TargetId::Cluster,
                    tunnel.local()
                );
                let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
                tokio::select! {
                    ended = tokio::signal::ctrl_c() => ended?,
                    _ = term.recv() => {}
                }
                exit::DONE
            }
        };
        drop((lent, tunnel, events));
        shown.end().await;
        super::lab::release(site.lab).await;
        Ok(code)
    }
}
