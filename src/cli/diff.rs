//! `diff`: two inventories compared, no host touched.

use super::{Global, Output, exit};
use crate::catalog::Catalog;
use crate::inventory::{Disk, Files, Inventory, load_from};
use crate::plan::{changed_roles, compare};
use crate::report::{comparison_markdown, comparison_text};
use crate::state::{Failure, FailureKind};
use anyhow::Context;
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// Compare two inventories, with no host touched; exit 2 if they differ
///
/// Each side is a file, a folder whose files merge, or REV:PATH of the git repository here: a branch, a tag or a commit,
/// and a path as seen from here. Bases (`extends`), host lists (`hostsFrom`) and a catalog beside the inventory are read
/// from the same side. Shown are hosts that come, go and change, and how far it reaches: drains, reboots, restarts, the
/// capacity that stays while it is carried out, and models that lose replicas for a time.
#[derive(Args)]
#[command(after_help = "Examples:
  provision diff old.yaml new.yaml
  provision diff main:site site                       a git revision against the working tree
  provision diff v1.4:site v1.5:site
  provision diff origin/main:site site --output markdown > comment.md     for a pull request

Exit codes: 0 they say the same, 2 they differ, 1 one of them cannot be used.")]
pub struct Diff {
    /// Before: a file, a folder, or REV:PATH of the git repository here
    before: String,
    /// After: the same
    after: String,
}

fn git(at: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let output = Command::new("git").current_dir(at).args(arguments).output()?;
    if !output.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    String::from_utf8(output.stdout).map_err(std::io::Error::other)
}

/// The files of a git revision. Paths are as seen from the folder that the command was given in.
struct Revision {
    top: PathBuf,
    prefix: PathBuf,
    commit: String,
}

impl Revision {
    fn open(revision: &str) -> Result<Self, Failure> {
        let here = Path::new(".");
        let failed = |why: std::io::Error, hint: &str| {
            let message = format!("cannot read revision `{revision}`: {why}");
            Failure::new(FailureKind::Preflight, "E-GIT", message).hint(hint)
        };
        let places = git(here, &["rev-parse", "--show-toplevel", "--show-prefix"])
            .map_err(|e| failed(e, "run it inside the git repository that holds the inventory"))?;
        let mut lines = places.lines();
        let top = PathBuf::from(lines.next().unwrap_or_default());
        let prefix = PathBuf::from(lines.next().unwrap_or_default());
        let commit = git(here, &["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")])
            .map_err(|_| {
                failed(
                    std::io::Error::other("there is no such commit here"),
                    "git fetch it; checkouts of CI are often shallow (fetch-depth: 0)",
                )
            })?;
        Ok(Self { top, prefix, commit: commit.trim().to_owned() })
    }

    /// Returns a path as the revision has it, without `.` and `..`.
    fn inside(&self, path: &Path) -> String {
        let from_top = path.strip_prefix(&self.top).map_or_else(|_| self.prefix.join(path), Path::to_owned);
        let mut clean = PathBuf::new();
        for part in from_top.components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::Normal(name) => clean.push(name),
                _ => {}
            }
        }
        clean.display().to_string()
    }
}

impl Files for Revision {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        git(&self.top, &["show", &format!("{}:{}", self.commit, self.inside(path))])
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let inside = self.inside(folder);
        let tree = format!("{}:{inside}", self.commit);
        let list = git(&self.top, &["ls-tree", "-r", "--name-only", "-z", &tree])?;
        let hidden = |p: &Path| p.components().any(|c| c.as_os_str().to_string_lossy().starts_with('.'));
        let mut found: Vec<PathBuf> =
            list.split('\0').filter(|n| !n.is_empty()).map(PathBuf::from).filter(|p| !hidden(p)).collect();
        found.sort();
        Ok(found.into_iter().map(|p| folder.join(p)).collect())
    }

    fn is_folder(&self, path: &Path) -> bool {
        git(&self.top, &["cat-file", "-t", &format!("{}:{}", self.commit, self.inside(path))])
            .is_ok_and(|t| t.trim() == "tree")
    }
}

/// One side: the inventory, and the files of the roles beside it by their path below `roles/`.
struct Side {
    inventory: Inventory,
    catalog: Catalog,
    roles: BTreeMap<String, String>,
}

/// Returns the texts below a folder, by path; empty if there is none.
fn texts(files: &dyn Files, folder: &Path) -> BTreeMap<String, String> {
    if !files.is_folder(folder) {
        return BTreeMap::new();
    }
    let list = files.list(folder).unwrap_or_default();
    let text = |path: PathBuf| {
        let name = path.strip_prefix(folder).ok()?.display().to_string();
        Some((name, files.read(&path).unwrap_or_default()))
    };
    list.into_iter().filter_map(text).collect()
}

fn read(said: &str) -> anyhow::Result<Side> {
    let (files, path): (Box<dyn Files>, PathBuf) =
        match said.split_once(':').filter(|_| !Path::new(said).exists()) {
            Some((revision, path)) => {
                let path = if path.is_empty() { "." } else { path };
                (Box::new(Revision::open(revision)?), PathBuf::from(path))
            }
            None => (Box::new(Disk), PathBuf::from(said)),
        };
    let root = match path.parent().filter(|_| !files.is_folder(&path)) {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.clone(),
    };
    // The catalog is read from disk: that of a revision is put there for the moment.
    let rows = texts(files.as_ref(), &root.join("catalog"));
    let folder = tempfile::tempdir().context("cannot make a folder for the catalog")?;
    for (name, text) in rows.iter().filter(|(name, _)| !name.contains('/')) {
        std::fs::write(folder.path().join(name), text).context("cannot write the catalog for a moment")?;
    }
    let extra = (!rows.is_empty()).then(|| folder.path());
    let catalog = Catalog::load(extra).with_context(|| format!("cannot load the catalog beside {said}"))?;
    match load_from(files.as_ref(), &path, &catalog) {
        Ok(loaded) => {
            let roles = texts(files.as_ref(), &root.join("roles"));
            Ok(Side { inventory: loaded.inventory, catalog, roles })
        }
        Err(found) => {
            eprint!("{found}");
            let message = format!("{said} cannot be used");
            Err(Failure::new(FailureKind::Preflight, "E-INVENTORY", message)
                .hint("mend what is shown above; provision validate checks one inventory alone")
                .into())
        }
    }
}

impl Diff {
    /// Compares and prints.
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        // Side by side: reading is most of the work.
        let (before, after) = std::thread::scope(|threads| {
            let before = threads.spawn(|| read(&self.before));
            let after = read(&self.after);
            (before.join(), after)
        });
        let cut = |_| anyhow::anyhow!("reading {} was cut short", self.before);
        let (before, after) = (before.map_err(cut)??, after?);
        let mut diff = compare(&before.inventory, &after.inventory, &after.catalog);
        diff.roles = changed_roles(&before.roles, &after.roles);
        match global.output {
            Output::Text => print!("{}", comparison_text(&diff)),
            Output::Markdown => print!("{}", comparison_markdown(&diff)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&diff)?),
        }
        Ok(if diff.is_empty() { exit::DONE } else { exit::PENDING })
    }
}
