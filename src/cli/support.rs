//! `support`: one archive of what a host says, without secrets.

use super::site::{Need, Site};
use super::{Global, Output, Where, exit, watch};
use crate::executor::{support_archive, support_looks};
use crate::inventory::Secrets;
use crate::report::count;
use crate::state::{Failure, FailureKind, HostName};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

/// Collect what a host says into one archive, without secrets
///
/// Journal, kernel messages, package logs, containerd, k0s, accelerator tools, network and disks, each with a budget, so
/// that a tool that hangs costs only its own part. Changes nothing on the host. Secrets of the inventory, keys, tokens and
/// passwords are replaced; look through the archive before you send it all the same.
#[derive(Args)]
#[command(after_help = "Examples:
  provision support -i site.yaml h-031                       support-h-031.tar.gz
  provision support -i site.yaml h-031 -o /tmp/h-031.tar.gz
  tar -xzOf support-h-031.tar.gz support-h-031/MANIFEST.txt  what is in it, and what could not be read")]
pub struct Support {
    /// The inventory: a file, or a folder whose files merge
    #[arg(long, short, env = "PROVISION_INVENTORY", hide_env_values = true, default_value = ".")]
    inventory: PathBuf,
    /// Use a simulated twin of the inventory on this machine
    #[arg(long)]
    lab: bool,
    /// Where the archive goes; support-HOST.tar.gz here unless given
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The host
    host: String,
}

impl Support {
    /// Asks, redacts, writes.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, shown) = watch(global, false);
        let place =
            Where { inventory: self.inventory.clone(), limit: Some(self.host.clone()), lab: self.lab };
        let site = Site::open_for(&place, Need::Look, &events).await?;
        drop(events);
        let name = HostName::new(self.host.clone());
        let host = site.hosts.get(&name).ok_or_else(|| {
            Failure::new(FailureKind::Preflight, "E-USAGE", format!("{name} is no host that takes part"))
                .hint("name one host; provision facts lists them")
        })?;
        let looks = support_looks();
        if !global.quiet {
            let longest = looks.iter().map(|l| l.seconds).max().unwrap_or(0);
            eprintln!("asking {name} for {}, at most {longest} s", count(looks.len(), "part"));
        }
        let facts = host.facts().await?;
        let looked = host.look(&looks).await?;
        // What can be resolved here is taken out wherever it stands; what cannot was never sent to the host either.
        let resolver = Secrets::new(&site.inventory);
        let mut secrets = Vec::new();
        for secret in site.inventory.secrets.keys() {
            if let Ok(secret) = resolver.resolve(secret).await {
                secrets.push(secret);
            }
        }
        let path = self.out.clone().unwrap_or_else(|| PathBuf::from(format!("support-{name}.tar.gz")));
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder)
            .with_context(|| format!("cannot write into {}", folder.display()))?;
        let facts = serde_json::to_string_pretty(&facts)?;
        let unread = support_archive(name.as_str(), &facts, &looked, &secrets, file.as_file())
            .with_context(|| format!("cannot write {}", path.display()))?;
        file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if global.output == Output::Json {
            println!(
                "{}",
                serde_json::json!({"host": name, "file": path, "parts": looked.len(), "unread": unread})
            );
        } else {
            println!("{}", path.display());
            if !unread.is_empty() {
                eprintln!("not read in time: {}; MANIFEST.txt says more", unread.join(", "));
            }
        }
        drop(site.hosts);
        shown.end().await;
        super::lab::release(site.lab).await;
        Ok(exit::DONE)
    }
}
