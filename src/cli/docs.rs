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

/// Write man pages into a folder, or the reference of all commands to stdout
#[derive(Args)]
#[command(after_help = "Examples:
  provision man /usr/local/share/man/man1
  provision man --markdown > docs/reference/cli.md")]
pub struct Man {
    /// The folder; it must exist
    #[arg(required_unless_present = "markdown")]
    folder: Option<PathBuf>,
    /// Print the reference of all commands as Markdown
    #[arg(long, conflicts_with = "folder")]
    markdown: bool,
}

/// Columns of the reference; those of no terminal, so that it is the same everywhere.
const WIDTH: usize = 100;

/// Returns what `--help` says of a command and of those below it, as Markdown.
pub fn reference(command: clap::Command) -> String {
    let mut command = command.term_width(WIDTH).disable_help_subcommand(true);
    command.build();
    let mut text = "# Commands\n\nWhat `--help` says of each. Made by `provision man --markdown`; a test keeps it true.\n".to_owned();
    section(&mut command, "provision", &mut text);
    text
}

fn section(command: &mut clap::Command, name: &str, text: &mut String) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for below in command.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        let name = format!("{name} {}", below.get_name());
        section(below, &name, text);
    }
}

impl Man {
    /// Writes a page per command, or prints the reference.
    pub fn run(self, command: clap::Command) -> anyhow::Result<u8> {
        match &self.folder {
            Some(folder) => clap_mangen::generate_to(command, folder)
                .with_context(|| format!("cannot write man pages into {}", folder.display()))?,
            None => print!("{}", reference(command)),
        }
        Ok(super::exit::DONE)
    }
}
