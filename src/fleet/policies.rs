//! Where policies are read from: next to an inventory, a folder or file that a person names, or a git revision.

use super::error::{Error, Result, cannot, coded};
use super::revision::{Revision, revision};
use crate::inventory::{Disk, Files};
use crate::plan::Policies;
use std::path::{Path, PathBuf};

/// The folder next to an inventory that its policies are in.
pub(super) const FOLDER: &str = "policies";

/// Reads the policies of a folder, or one file of them; none if there is no such folder and none are required.
pub(super) fn policies_in(files: &dyn Files, path: &Path, source: &str, required: bool) -> Result<Policies> {
    let is_yaml = |path: &Path| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let paths = match files.is_folder(path) {
        true => {
            let all = files.list(path).map_err(cannot("read", path))?;
            let direct = |p: &PathBuf| p.parent() == Some(path) && is_yaml(p);
            all.into_iter().filter(direct).collect()
        }
        false if required => vec![path.to_owned()],
        false => Vec::new(),
    };
    if paths.is_empty() && required {
        let hint = "Name a folder with *.yaml files, a file, or REV:PATH in this git repository";
        return Err(coded("E-POLICY-FILE", format!("there are no policies in {source}"), hint));
    }
    let mut texts = Vec::new();
    for path in paths {
        let text = files.read(&path).map_err(cannot("read", &path))?;
        texts.push((path.display().to_string(), text));
    }
    Policies::read(source, &texts).map_err(Error::Inventory)
}

/// Reads policies from where a person says: a folder, a file, or `REV:PATH` of the git repository here.
pub fn policies_at(said: &str) -> Result<Policies> {
    match revision(said) {
        Some((rev, path)) => {
            let path = Path::new(if path.is_empty() { "." } else { path });
            policies_in(&Revision::open(rev)?, path, said, true)
        }
        None => {
            let path = Path::new(said);
            let disk = Disk::of(path, &[]).map_err(cannot("read", path))?;
            policies_in(&disk, path, said, true)
        }
    }
}
