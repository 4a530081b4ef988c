//! `kubeconfig`: print a kubeconfig, or merge it into the one that kubectl uses.

use super::args::{Global, Output, Where, duration};
use super::errors::usage;
use super::exit;
use super::session::Session;
use crate::fleet::{IssuedKubeconfig, MergedKubeconfig, Purpose, Via, usual_kubeconfig};
use crate::reconciler::ClientUser;
use crate::state::SecretText;
use crate::template::quote;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Print a kubeconfig, or merge it into a file
///
/// Without --user it holds the cluster admin's certificate, which k0s makes for a year. With --user a controller signs a
/// certificate for that name and group, valid for --ttl. A certificate cannot be revoked: choose a short life, and bind
/// the group to a role. Through the tunnel (the default), kubectl works while `provision tunnel --port 6443` runs.
#[derive(Args)]
#[command(after_help = "Examples:
  provision kubeconfig -i site.yaml > admin.kubeconfig
  provision kubeconfig -i site.yaml --merge                             into ~/.kube/config, under the inventory's name
  provision kubeconfig -i site.yaml --user alice --group dev --ttl 8h   for a colleague
  provision kubeconfig -i site.yaml --via endpoint --merge ./ams.yaml   through cluster.endpoint")]
pub(super) struct Kubeconfig {
    #[command(flatten)]
    place: Where,
    /// Merge into this kubeconfig under a separate context (default: the first of KUBECONFIG, or ~/.kube/config)
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    merge: Option<Option<PathBuf>>,
    /// Name of the context, cluster and user entries (default: the inventory's name; with --user: NAME@INVENTORY)
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Sign a certificate for this user instead of printing the admin's
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The user's group; `system:masters` is cluster admin
    #[arg(long, value_name = "NAME", requires = "user")]
    group: Option<String>,
    /// How long the user's certificate is valid: 10m to 3650d
    #[arg(long, value_name = "TIME", requires = "user", default_value = "24h", value_parser = duration)]
    ttl: Duration,
    /// How the API is reached
    #[arg(long, value_enum, default_value_t = Way::Tunnel)]
    via: Way,
    /// The local port of the tunnel
    #[arg(long, default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// How the API is reached.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Way {
    /// A local port, which `provision tunnel --port PORT` forwards
    Tunnel,
    /// The address of cluster.endpoint.external or .vip
    Endpoint,
}

impl Kubeconfig {
    /// Prints or merges it.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let user = match &self.user {
            Some(name) => Some(ClientUser::new(name, self.group.as_deref(), self.ttl)?),
            None => None,
        };
        if self.context.as_deref().is_some_and(|name| name.trim().is_empty()) {
            return Err(usage("the context has no name", "Name it: --context NAME"));
        }
        let via = match self.via {
            Way::Tunnel => Via::Tunnel(self.port),
            Way::Endpoint => Via::Endpoint,
        };
        let session = Session::open(&self.place, global, Purpose::Look, false).await?;
        let issued = session.fleet.kubeconfig(user.as_ref(), via, self.context.as_deref()).await?;
        session.end().await?;
        let merged = match &self.merge {
            Some(file) => {
                let path = match file {
                    Some(path) => path.clone(),
                    None => usual_kubeconfig()?,
                };
                Some(issued.merge(&path)?)
            }
            None => None,
        };
        self.print(global, &issued, merged.as_ref())?;
        Ok(exit::DONE)
    }

    fn print(
        &self,
        global: &Global,
        issued: &IssuedKubeconfig,
        merged: Option<&MergedKubeconfig>,
    ) -> anyhow::Result<()> {
        let expires = issued.expires_s.and_then(|s| jiff::Timestamp::from_second(s).ok());
        let expires = expires.map(|e| e.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let Some(merged) = merged else {
            let text = match global.output {
                Output::Json => SecretText::new(format!("{:#}\n", issued.json())),
                _ => issued.text()?,
            };
            print!("{}", text.expose());
            if let Some(expires) = expires.filter(|_| !global.quiet) {
                eprintln!("The certificate of {} is valid until {expires}", issued.user);
            }
            return Ok(());
        };
        if global.output == Output::Json {
            println!(
                "{:#}",
                serde_json::json!({"file": merged.path, "context": issued.context, "server": issued.server,
                    "user": issued.user, "expires": expires, "replaced": merged.replaced, "current": merged.is_current})
            );
            return Ok(());
        }
        let (file, name) = (quote(&merged.path.display().to_string()), quote(&issued.context));
        let did = if merged.replaced { "Replaced" } else { "Added" };
        println!("{did} context {} in {}", issued.context, merged.path.display());
        if global.quiet {
            return Ok(());
        }
        if let Some(expires) = expires {
            eprintln!("  user    {}, certificate valid until {expires}", issued.user);
        }
        eprintln!("  server  {}", issued.server);
        if self.via == Way::Tunnel {
            let (place, port) = (self.place.said(), self.port);
            eprintln!("  tunnel  provision tunnel {place} --port {port}");
        }
        let context = if merged.is_current { String::new() } else { format!(" --context {name}") };
        eprintln!("  use     kubectl --kubeconfig {file}{context} get nodes");
        let delete = |what: &str| format!("kubectl config --kubeconfig {file} delete-{what} {name}");
        eprintln!("  undo    {}; {}; {}", delete("context"), delete("cluster"), delete("user"));
        Ok(())
    }
}
