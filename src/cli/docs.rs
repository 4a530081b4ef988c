//! `completions` and `man`: what a package of `provision` installs beside the binary.

use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

/// Print shell completions
#[derive(Args)]
#[command(after_help = "Example:
  provision completions bash > /etc/bash_completion.d/provision")]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    /// Prints the completions of `command`.
    pub fn run(self, command: &mut clap::Command) -> anyhow::Result<u8> {
        clap_complete::generate(self.shell, command, "provision", &mut std::io::stdout());
        Ok(super::exit::DONE)
    }
}

/// Write man pages into a folder
#[derive(Args)]
#[command(after_help = "Example:
  provision man /usr/local/share/man/man1")]
pub struct Man {
    /// The folder; it must exist
    folder: PathBuf,
}

impl Man {
    /// Writes a page per command.
    pub fn run(self, command: clap::Command) -> anyhow::Result<u8> {
        clap_mangen::generate_to(command, &self.folder)
            .with_context(|| format!("cannot write man pages into {}", self.folder.display()))?;
        Ok(super::exit::DONE)
    }
}
