//! `tunnel`: the Kubernetes API, or a tenant's gateway, on a local port.

use super::args::{Global, Where};
use super::endpoint::{KEY, exports};
use super::exit;
use super::session::Session;
use crate::fleet::Purpose;
use crate::template::quote;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

/// Forward a local port to the Kubernetes API, or to a tenant's gateway, over SSH
///
/// The kubeconfig grants cluster admin: anyone who can read it controls the cluster while the tunnel is open and this
/// machine can be reached. It is readable by you alone, and removed at the end. With a command, the tunnel lasts as long
/// as the command, which finds KUBECONFIG set. With --tenant, the port leads to that tenant's models instead, and a command
/// finds OPENAI_BASE_URL and OPENAI_API_KEY set.
#[derive(Args)]
#[command(after_help = "Examples:
  provision tunnel -i site.yaml                          prints the export line for another terminal
  provision tunnel -i site.yaml -- kubectl get nodes     while one command runs
  provision tunnel -i site.yaml --port 6443 --kubeconfig ./ams.kubeconfig
  provision tunnel -i site.yaml --tenant search -- python chat.py    with a tenant's models as OPENAI_BASE_URL")]
pub(super) struct Tunnel {
    #[command(flatten)]
    place: Where,
    /// The local port (default: any free port)
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The kubeconfig to write (default: a file in a temporary folder)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Forward to this tenant's gateway instead of the Kubernetes API
    #[arg(long, value_name = "NAME", conflicts_with = "kubeconfig")]
    tenant: Option<String>,
    /// A command to run with KUBECONFIG (or OPENAI_BASE_URL) set, after `--`
    #[arg(last = true)]
    command: Vec<String>,
}

impl Tunnel {
    /// Opens the tunnel and serves it.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::open(&self.place, global, Purpose::Look, true).await?;
        let fleet = &session.fleet;
        let name = &fleet.inventory.name;
        let code = match &self.tenant {
            None => {
                let kubeconfig = self.kubeconfig.as_deref();
                let tunnel = fleet.tunnel(self.port, kubeconfig, session.events.clone()).await?;
                let path = tunnel.kubeconfig().display().to_string();
                let exports = format!("export KUBECONFIG={}\n", quote(&path));
                let what = format!(
                    "{} to the Kubernetes API of {name}; Ctrl-C stops it and removes the kubeconfig",
                    tunnel.local()
                );
                self.serve(&[("KUBECONFIG", path)], &exports, &what).await?
            }
            Some(tenant) => {
                let tunnel = fleet.gateway_tunnel(tenant, self.port, session.events.clone()).await?;
                let base_url = format!("http://{}/v1", tunnel.local());
                let what = format!(
                    "{} to the gateway of tenant {tenant} of {name}; Ctrl-C stops it",
                    tunnel.local()
                );
                let exports = exports(&base_url);
                let variables = [("OPENAI_BASE_URL", base_url), ("OPENAI_API_KEY", KEY.to_owned())];
                self.serve(&variables, &exports, &what).await?
            }
        };
        session.end().await?;
        Ok(code)
    }

    /// Runs the command while the tunnel is open, or waits for a signal.
    async fn serve(&self, variables: &[(&str, String)], exports: &str, what: &str) -> anyhow::Result<u8> {
        if let Some((program, arguments)) = self.command.split_first() {
            let mut child = tokio::process::Command::new(program)
                .args(arguments)
                .envs(variables.iter().map(|(name, value)| (name, value)))
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("cannot run {program}"))?;
            let status = child.wait().await?;
            return Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(exit::FAILED));
        }
        print!("{exports}");
        eprintln!("Forwarding {what}");
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            ended = tokio::signal::ctrl_c() => ended?,
            _ = term.recv() => {}
        }
        Ok(exit::DONE)
    }
}
