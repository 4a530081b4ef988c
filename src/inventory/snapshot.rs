//! The files that an inventory was loaded from, as they were read: a saved plan carries them, so that it can be carried out
//! where the inventory is not, or is another one by then.

use super::files::{Files, tidy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Texts of files by absolute path, in place of a disk.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Debug, Default)]
#[serde(transparent)]
pub struct Snapshot(BTreeMap<PathBuf, String>);

/// Returns a path by which a file is known whatever the working folder.
fn key(path: &Path) -> PathBuf {
    tidy(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

impl Snapshot {
    /// Adds a file.
    pub fn insert(&mut self, path: &Path, text: String) {
        self.0.insert(key(path), text);
    }
}

impl<P: AsRef<Path>> FromIterator<(P, String)> for Snapshot {
    fn from_iter<I: IntoIterator<Item = (P, String)>>(files: I) -> Self {
        Self(files.into_iter().map(|(path, text)| (key(path.as_ref()), text)).collect())
    }
}

impl Files for Snapshot {
    fn read(&self, path: &Path) -> io::Result<String> {
        let missing = || Error::new(ErrorKind::NotFound, "the saved plan does not contain it");
        self.0.get(&key(path)).cloned().ok_or_else(missing)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let below = key(folder);
        let within = |file: &PathBuf| file.strip_prefix(&below).ok().map(|rest| folder.join(rest));
        Ok(self.0.keys().filter_map(within).collect())
    }

    fn is_folder(&self, path: &Path) -> bool {
        let path = key(path);
        self.0.keys().any(|file| *file != path && file.starts_with(&path))
    }
}

/// Records all files that are read.
pub struct Recording<'a> {
    files: &'a dyn Files,
    read: Mutex<Snapshot>,
}

impl<'a> Recording<'a> {
    /// Returns what reads these files.
    pub fn of(files: &'a dyn Files) -> Self {
        Self { files, read: Mutex::default() }
    }

    /// Returns what was read. Files that were only listed are empty.
    pub fn end(self) -> Snapshot {
        self.read.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_so_far(&self) -> std::sync::MutexGuard<'_, Snapshot> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Recording<'_> {
    fn read(&self, path: &Path) -> io::Result<String> {
        let text = self.files.read(path)?;
        self.read_so_far().insert(path, text.clone());
        Ok(text)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let paths = self.files.list(folder)?;
        let mut read = self.read_so_far();
        for path in &paths {
            read.0.entry(key(path)).or_default();
        }
        Ok(paths)
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.files.is_folder(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_found_again_by_any_name_of_its_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = dir.path().join("site");
        std::fs::create_dir_all(site.join("roles/own")).expect("made");
        std::fs::write(site.join("site.yaml"), "a: 1").expect("written");
        std::fs::write(site.join("roles/own/role.yaml"), "b: 2").expect("written");
        std::fs::write(site.join("roles/own/listed"), "never asked for").expect("written");
        let disk = super::super::Disk::of(&site, &[]).expect("there");
        let recording = Recording::of(&disk);
        assert_eq!(recording.read(&site.join("./roles/../site.yaml")).expect("there"), "a: 1");
        let listed = recording.list(&site.join("roles")).expect("there");
        assert!(listed.len() == 2 && recording.is_folder(&site.join("roles")));
        recording.read(&site.join("roles/own/role.yaml")).expect("there");
        let again: Snapshot = serde_json::from_str(&serde_json::to_string(&recording.end()).expect("JSON"))
            .expect("a snapshot");
        std::fs::remove_dir_all(&site).expect("gone");
        assert_eq!(again.read(&site.join("site.yaml")).expect("kept"), "a: 1");
        assert_eq!(again.list(&site.join("roles")).expect("kept"), listed);
        assert_eq!(again.read(&site.join("roles/own/listed")).expect("kept"), "", "only listed");
        assert!(again.is_folder(&site) && !again.is_folder(&site.join("site.yaml")));
        assert!(again.read(&site.join("other")).is_err() && !again.is_folder(&site.join("catalog")));
    }
}
