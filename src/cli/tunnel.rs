//! `tunnel`: the Kubernetes API on a local port, for kubectl and similar tools.

use super::args::{Global, Where};
use super::exit;
use super::session::Session;
use crate::fleet::Purpose;
use crate::template::quote;
use anyhow::Context;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Forward a local port to the Kubernetes API over SSH
///
/// The kubeconfig grants cluster admin: anyone who can read it controls the cluster while the tunnel is open and this
/// machine can be reached. It is readable by you alone, and removed at the end. With a command, the tunnel lasts as long
/// as the command, which finds KUBECONFIG set.
#[derive(Args)]
#[command(after_help = "Examples:
  provision tunnel -i site.yaml                          prints the export line for another terminal
  provision tunnel -i site.yaml -- kubectl get nodes     while one command runs
  provision tunnel -i site.yaml --port 6443 --kubeconfig ./ams.kubeconfig")]
pub(super) struct Tunnel {
    #[command(flatten)]
    place: Where,
    /// The local port (default: any free port)
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The kubeconfig to write (default: a file in a temporary folder)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A command to run with KUBECONFIG set, after `--`
    #[arg(last = true)]
    command: Vec<String>,
}

impl Tunnel {
    /// Opens the tunnel and serves it.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::open(&self.place, global, Purpose::Look, true).await?;
        let fleet = &session.fleet;
        let tunnel = fleet.tunnel(self.port, self.kubeconfig.as_deref(), session.events.clone()).await?;
        let code = match self.command.split_first() {
            Some((program, arguments)) => {
                let mut child = tokio::process::Command::new(program)
                    .args(arguments)
                    .env("KUBECONFIG", tunnel.kubeconfig())
                    .kill_on_drop(true)
                    .spawn()
                    .with_context(|| format!("cannot run {program}"))?;
                let status = child.wait().await?;
                status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(exit::FAILED)
            }
            None => {
                println!("export KUBECONFIG={}", quote(&tunnel.kubeconfig().display().to_string()));
                std::io::stdout().flush()?;
                eprintln!(
                    "Forwarding {} to the Kubernetes API of {}; Ctrl-C stops it and removes the kubeconfig",
                    tunnel.local(),
                    fleet.inventory.name
                );
                let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
                tokio::select! {
                    ended = tokio::signal::ctrl_c() => ended?,
                    _ = term.recv() => {}
                }
                exit::DONE
            }
        };
        drop(tunnel);
        session.end().await?;
        Ok(code)
    }
}
