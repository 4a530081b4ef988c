//! `ssh`: this machine's ssh client with the settings of the inventory.

use super::args::{At, Global, Where};
use super::errors::coded;
use super::exit;
use super::session::Session;
use clap::Args;
use std::os::unix::process::CommandExt;

/// Open a shell or run a command on a host with this machine's ssh client
///
/// User, port, keys, known_hosts and bastions are those of the inventory; host keys are checked. With --lab, and for a
/// lab inventory, it is the simulated host.
#[derive(Args)]
#[command(after_help = "Examples:
  provision ssh -i site.yaml h-031
  provision ssh -i site.yaml h-031 -- journalctl -b -p err
  provision ssh -i site.yaml h-031 --print          print the command line")]
pub(super) struct Ssh {
    #[command(flatten)]
    at: At,
    /// Use the simulated hosts that run on this machine
    #[arg(long)]
    lab: bool,
    /// Print the command line instead of running it
    #[arg(long)]
    print: bool,
    /// The host
    host: String,
    /// A command to run instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
}

impl Ssh {
    /// Becomes ssh.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let place = Where { at: self.at.clone(), limit: Some(self.host.clone()), lab: self.lab };
        let session = Session::look(&place, global).await?;
        let words = session.fleet.ssh_arguments(&self.host)?;
        let (lab, down) = (session.fleet.is_lab(), session.fleet.has_own_lab());
        session.end().await?;
        if down {
            let hint = format!("provision lab up {}", self.at.path().display());
            return Err(coded("E-LAB-DOWN", "the lab is not running", hint));
        }
        // Lab hosts give no terminal: their shell reads its input as it comes.
        let mut command = self.command;
        if lab && command.is_empty() {
            command = vec!["/bin/sh".to_owned(), "-i".to_owned()];
        }
        let terminal = lab.then(|| "-T".to_owned());
        if self.print {
            let all = ["ssh".to_owned()].into_iter().chain(terminal).chain(words).chain(command);
            println!("{}", all.map(|w| crate::template::quote(&w)).collect::<Vec<_>>().join(" "));
            return Ok(exit::DONE);
        }
        let error = std::process::Command::new("ssh").args(terminal).args(words).args(command).exec();
        Err(coded(
            "E-NO-SSH",
            format!("cannot run ssh: {error}"),
            "Install the OpenSSH client, or use `provision exec --limit HOST -- COMMAND`, which does not need it",
        ))
    }
}
