//! `diff`: two inventories compared, no host touched.

use super::{Global, Output, exit};
use crate::catalog::Catalog;
use crate::inventory::{Diagnostics, Files, Inventory, load, load_from};
use crate::plan::compare;
use crate::report::{comparison_markdown, comparison_text};
use anyhow::{Context, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compare two inventories, with no host touched; exit 2 if they differ
#[derive(Args)]
#[command(after_help = "Examples:
  provision diff old.yaml new.yaml
  provision diff main:site site --output markdown     a git revision against the working tree")]
pub struct Diff {
    /// Before: a file, a folder, or REV:PATH of the git repository here
    before: String,
    /// After
    after: String,
}

/// The files of a git revision.
struct Revision(String);

impl Revision {
    fn git(&self, arguments: &[&str]) -> std::io::Result<String> {
        let output = Command::new("git").args(arguments).output()?;
        if !output.status.success() {
            return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        String::from_utf8(output.stdout).map_err(std::io::Error::other)
    }
}

impl Files for Revision {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        self.git(&["show", &format!("{}:./{}", self.0, path.display())])
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let list = self.git(&["ls-tree", "-r", "--name-only", &self.0, &format!("{}/", folder.display())])?;
        let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        Ok(list.lines().map(PathBuf::from).filter(|p| !hidden(p)).collect())
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.git(&["cat-file", "-t", &format!("{}:./{}", self.0, path.display())])
            .is_ok_and(|t| t.trim() == "tree")
    }
}

fn read(text: &str, catalog: &Catalog) -> Result<Inventory, Diagnostics> {
    let loaded = match text.split_once(':').filter(|_| !Path::new(text).exists()) {
        Some((revision, path)) => load_from(&Revision(revision.to_owned()), Path::new(path), catalog),
        None => load(Path::new(text), catalog),
    };
    loaded.map(|loaded| loaded.inventory)
}

impl Diff {
    /// Compares and prints.
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        let catalog = Catalog::builtin().context("cannot load the catalog")?;
        // Side by side: reading is most of the work.
        let (before, after) = std::thread::scope(|threads| {
            let before = threads.spawn(|| read(&self.before, &catalog));
            let after = read(&self.after, &catalog);
            (before.join(), after)
        });
        let Ok(before) = before else { bail!("reading {} was cut short", self.before) };
        let mut usable = Vec::new();
        for (text, read) in [(&self.before, before), (&self.after, after)] {
            match read {
                Ok(inventory) => usable.push(inventory),
                Err(found) => eprint!("{found}error: {text} cannot be used\n"),
            }
        }
        let [before, after] = &usable[..] else { return Err(super::Silent.into()) };
        let diff = compare(before, after);
        match global.output {
            Output::Text => print!("{}", comparison_text(&diff)),
            Output::Markdown => print!("{}", comparison_markdown(&diff)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&diff)?),
        }
        Ok(if diff.is_empty() { exit::DONE } else { exit::PENDING })
    }
}
