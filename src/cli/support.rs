//! `support`: an archive of a host's diagnostics, with secrets redacted.

use super::args::{At, Global, Output, Where};
use super::exit;
use super::session::Session;
use crate::fleet::{Fleet, support_file};
use crate::report::count;
use clap::Args;
use std::path::PathBuf;

/// Collect logs and diagnostics of a host in an archive, with secrets redacted
///
/// Journal, kernel messages, package logs, containerd, k0s, accelerator tools, network and disks, each with a budget, so
/// that a tool that hangs costs only its own part. Changes nothing on the host. Secrets of the inventory, keys, tokens and
/// passwords are replaced; look through the archive before you send it all the same.
#[derive(Args)]
#[command(after_help = "Examples:
  provision support -i site.yaml h-031                       support-h-031.tar.gz
  provision support -i site.yaml h-031 -o /tmp/h-031.tar.gz
  tar -xzOf support-h-031.tar.gz support-h-031/MANIFEST.txt  its contents, and what could not be read")]
pub(super) struct Support {
    #[command(flatten)]
    at: At,
    /// Use simulated hosts on this machine instead of the inventory's hosts
    #[arg(long)]
    lab: bool,
    /// The archive to write (default support-HOST.tar.gz in this folder)
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The host
    host: String,
}

impl Support {
    /// Collects, redacts, writes.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let place = Where { at: self.at.clone(), limit: Some(self.host.clone()), lab: self.lab };
        let session = Session::look(&place, global).await?;
        let name = &self.host;
        session.fleet.host(name)?;
        if !global.quiet {
            let (parts, longest) = Fleet::support_parts();
            eprintln!("Collecting {} from {name}, at most {longest} s", count(parts, "part"));
        }
        let path = self.out.clone().unwrap_or_else(|| support_file(name));
        let support = session.fleet.support(name, &path).await?;
        session.end().await?;
        if global.output == Output::Json {
            println!(
                "{}",
                serde_json::json!({"host": name, "file": path, "parts": support.parts, "unread": support.unread})
            );
        } else {
            println!("{}", path.display());
            if !support.unread.is_empty() {
                eprintln!("Timed out: {}; see MANIFEST.txt", support.unread.join(", "));
            }
        }
        Ok(exit::DONE)
    }
}
