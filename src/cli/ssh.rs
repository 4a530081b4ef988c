//! `ssh`: the machine's own ssh, with everything that the inventory knows of a host.

use super::site::{Need, Site};
use super::{Global, Where, exit, watch};
use crate::ssh::Endpoint;
use crate::state::{Failure, FailureKind};
use clap::Args;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// Open a shell on a host, or run a command there, through this machine's ssh
///
/// User, port, keys, known_hosts and bastions are those of the inventory; host keys are checked. With --lab, and for a
/// lab inventory, it is the simulated host.
#[derive(Args)]
#[command(after_help = "Examples:
  provision ssh -i site.yaml h-031
  provision ssh -i site.yaml h-031 -- journalctl -b -p err
  provision ssh -i site.yaml h-031 --print          the command line, to use as it is or to copy from")]
pub struct Ssh {
    /// The inventory: a file, or a folder whose files merge
    #[arg(long, short, env = "PROVISION_INVENTORY", hide_env_values = true, default_value = ".")]
    inventory: PathBuf,
    /// Use a simulated twin of the inventory that is up on this machine
    #[arg(long)]
    lab: bool,
    /// Print the command line instead of running it
    #[arg(long)]
    print: bool,
    /// The host
    host: String,
    /// A command; else a shell
    #[arg(last = true)]
    command: Vec<String>,
}

/// Returns the arguments of ssh that lead to a host as the inventory says.
fn arguments(site: &Site, at: &Endpoint) -> Vec<String> {
    let known: Vec<String> = site
        .ssh
        .known_hosts
        .iter()
        .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string())
        .map(|path| if path.contains(' ') { format!("\"{path}\"") } else { path })
        .collect();
    let mut words = vec![
        "-o".to_owned(),
        format!("UserKnownHostsFile={}", known.join(" ")),
        "-o".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "-p".to_owned(),
        at.port.to_string(),
    ];
    let given = &site.ssh.credentials.identities;
    for key in given.iter().chain(&at.identities) {
        words.extend(["-i".to_owned(), key.display().to_string()]);
    }
    if !given.is_empty() && !site.ssh.credentials.agent {
        words.extend(["-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
    }
    if !at.bastions.is_empty() {
        words.extend(["-J".to_owned(), at.bastions.join(",")]);
    }
    if let Some(alias) = &at.host_key_alias {
        words.extend(["-o".to_owned(), format!("HostKeyAlias={alias}")]);
    }
    words.push(format!("{}@{}", at.user, at.address));
    words
}

impl Ssh {
    /// Becomes ssh.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (events, _shown) = watch(global, false);
        let place =
            Where { inventory: self.inventory.clone(), limit: Some(self.host.clone()), lab: self.lab };
        let site = Site::open_for(&place, Need::Look, &events).await?;
        let Some(at) = site.endpoints.iter().find(|e| e.name == self.host) else {
            return Err(Failure::new(FailureKind::Preflight, "E-USAGE", format!("{} is no host", self.host))
                .hint("name one host; provision facts lists them")
                .into());
        };
        if site.lab.as_ref().is_some_and(super::lab::Running::is_own) {
            super::lab::release(site.lab).await;
            return Err(Failure::new(FailureKind::Preflight, "E-LAB-DOWN", "the lab is not up")
                .hint(format!("provision lab up {}", self.inventory.display()))
                .into());
        }
        let words = arguments(&site, at);
        // Lab hosts give no terminal: their shell reads its input as it comes.
        let mut command = self.command.clone();
        let lab: Vec<String> = match &site.lab {
            Some(_) if command.is_empty() => {
                command = vec!["/bin/sh".to_owned(), "-i".to_owned()];
                vec!["-T".to_owned()]
            }
            Some(_) => vec!["-T".to_owned()],
            None => Vec::new(),
        };
        if self.print {
            let all = ["ssh".to_owned()].into_iter().chain(lab).chain(words).chain(command);
            println!("{}", all.map(|w| crate::template::quote(&w)).collect::<Vec<_>>().join(" "));
            return Ok(exit::DONE);
        }
        // A key with a secret passphrase is asked for by ssh itself: secrets never reach a command line.
        let error = std::process::Command::new("ssh").args(lab).args(words).args(command).exec();
        Err(Failure::new(FailureKind::Preflight, "E-NO-SSH", format!("cannot run ssh: {error}"))
            .hint(
                "install the OpenSSH client, or use provision exec --limit HOST -- COMMAND, which needs none",
            )
            .into())
    }
}
