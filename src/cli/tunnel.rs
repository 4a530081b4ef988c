//! `tunnel`: the Kubernetes API, or a tenant's gateway, on a local port.

use super::args::{Global, Where};
use super::endpoint::{KEY, exports};
use super::exit;
use super::session::Session;
use crate::fleet::Purpose;
use crate::template::quote;
use anyhow::Context;
use clap::Args;
use rustix::process::Signal;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Forward a local port to the Kubernetes API or a tenant's gateway over SSH
///
/// The kubeconfig grants cluster admin: anyone who can read it controls the cluster while the tunnel is open and this
/// machine can be reached. It is readable by you alone, and removed at the end. With a command, the tunnel lasts as long
/// as the command, which finds KUBECONFIG set. With --tenant, the port leads to that tenant's models instead, and a command
/// finds OPENAI_BASE_URL and OPENAI_API_KEY set. Unless the tenant has keys, every user of this machine can use the port while it is open.
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
                let of = fleet.inventory.tenants.get(tenant.as_str());
                let needs_key = of.is_some_and(|tenant| tenant.keys.is_some());
                // A lab's gateways speak plain HTTP.
                let https = of.is_some_and(|tenant| tenant.tls.is_some()) && !fleet.is_lab();
                let base_url = format!("http{}://{}/v1", if https { "s" } else { "" }, tunnel.local());
                let what = format!(
                    "{} to the gateway of tenant {tenant} of {name}; Ctrl-C stops it",
                    tunnel.local()
                );
                let exports = exports(&base_url, needs_key);
                let mut variables = vec![("OPENAI_BASE_URL", base_url)];
                if needs_key && !global.quiet {
                    eprintln!("Set OPENAI_API_KEY to a key of tenant {tenant}");
                }
                if !needs_key {
                    variables.push(("OPENAI_API_KEY", KEY.to_owned()));
                }
                self.serve(&variables, &exports, &what).await?
            }
        };
        session.end().await?;
        Ok(code)
    }

    /// Runs the command while the tunnel is open, or waits for a signal.
    async fn serve(&self, variables: &[(&str, String)], exports: &str, what: &str) -> anyhow::Result<u8> {
        // From here on, so that none ends this process while something depends on it.
        let mut int = signal(SignalKind::interrupt())?;
        let (mut term, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let Some((program, arguments)) = self.command.split_first() else {
            print!("{exports}");
            eprintln!("Forwarding {what}");
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
            return Ok(exit::DONE);
        };
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        // The tunnel is the command's until that has ended, whatever signal comes. One from the terminal, it has had too; others are
        // passed on.
        let on_terminal = std::io::stdin().is_terminal();
        let status = loop {
            let sent = tokio::select! {
                status = child.wait() => break status?,
                _ = int.recv() => (!on_terminal).then_some(Signal::INT),
                _ = term.recv() => Some(Signal::TERM),
                _ = hup.recv() => Some(Signal::HUP),
            };
            let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
            if let (Some(signal), Some(pid)) = (sent, pid) {
                // It is not waited for yet, so its number is still its own.
                let _ = rustix::process::kill_process(pid, signal);
            }
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED))
    }
}
