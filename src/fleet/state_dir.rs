//! The folder of this user's runs, reports, downloads and labs: created with mode 0700, and used only if it belongs to this
//! user and involves no symbolic link. What belongs to an inventory is kept by its identity, its name and its folder, so that
//! inventories of one name do not mix (docs/decisions/021-state-belongs-to-a-name-and-a-folder.md).

use super::error::{Error, Result, cannot, coded};
use crate::inventory::Inventory;
use crate::run::recorded_hosts;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bits of a folder's mode by which users other than its owner could put files into it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The bit of a folder's mode by which users change only what is their own in it.
const STICKY: u32 = 0o1000;

fn refused(message: String) -> Error {
    coded("E-STATE", message, "Set XDG_STATE_HOME to a folder that only you can write to")
}

/// Digits of an identity's hash.
const HASH_DIGITS: usize = 16;

/// Returns what an inventory is known by on this machine: its name, and a hash of its folder. Several files of one folder that
/// have one name are one inventory, as they share their lock file.
pub(super) fn identity(inventory: &Inventory) -> String {
    let root = std::fs::canonicalize(&inventory.root).unwrap_or_else(|_| inventory.root.clone());
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let hash: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}", inventory.name, &hash[..HASH_DIGITS])
}

/// What a lab is kept by that one command starts for itself, beside the inventory's identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnLabName(String);

impl OwnLabName {
    /// Returns a name that no other lab has.
    pub(super) fn new() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()))
    }
}

/// What stands between an inventory's identity and the name of a command's own lab; no name of an inventory has it.
const OF_COMMAND: char = '@';

/// Returns the name of the folder of a lab.
pub(super) fn lab_folder(inventory: &Inventory, own: Option<&OwnLabName>) -> String {
    let identity = identity(inventory);
    own.map_or(identity.clone(), |own| format!("{identity}{OF_COMMAND}{}", own.0))
}

/// Returns whether a folder is of a lab that some command started for itself.
pub(super) fn is_own_lab(folder: &OsStr) -> bool {
    folder.to_str().is_some_and(|folder| folder.contains(OF_COMMAND))
}

/// Returns whether a folder is of a lab that some command started for itself on this inventory.
pub(super) fn is_own_lab_of(folder: &OsStr, inventory: &Inventory) -> bool {
    let rest = folder.to_str().and_then(|f| f.strip_prefix(&identity(inventory)));
    rest.is_some_and(|rest| rest.starts_with(OF_COMMAND))
}

/// Returns whether a folder is the identity of an inventory of this name.
fn is_of(folder: &OsStr, name: &str) -> bool {
    let hash = folder.to_str().and_then(|f| f.strip_prefix(name)?.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == HASH_DIGITS && hash.chars().all(|c| c.is_ascii_hexdigit()))
}

/// Returns where state is kept by convention: `$XDG_STATE_HOME`, or `~/.local/state`. A relative path counts as unset
/// (XDG base directory specification).
fn base() -> Result<PathBuf> {
    let absolute = |path: PathBuf| Some(path).filter(|p| p.is_absolute());
    std::env::var_os("XDG_STATE_HOME")
        .and_then(|path| absolute(path.into()))
        .or_else(|| Some(std::env::home_dir().and_then(absolute)?.join(".local/state")))
        .ok_or_else(|| {
            let message = "no folder for state: neither XDG_STATE_HOME nor a home folder is set";
            coded("E-STATE", message, "Set XDG_STATE_HOME")
        })
}

/// Opens the folder `name` in `parent`, making it if it is not there. `path` is its name in messages.
fn enter(parent: &File, name: &str, path: &Path) -> Result<File> {
    let failed = |error: Errno| -> Error { refused(format!("cannot use {}: {error}", path.display())) };
    let private = Mode::from_raw_mode(0o700);
    let fresh = match rustix::fs::mkdirat(parent, name, private) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(failed(error)),
    };
    if fresh {
        // A umask may have removed bits of the owner too.
        rustix::fs::chmodat(parent, name, private, rustix::fs::AtFlags::empty()).map_err(failed)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(folder) => File::from(folder),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(refused(format!("{} is a symbolic link or not a folder", path.display())));
        }
        Err(error) => return Err(failed(error)),
    };
    let found = folder.metadata().map_err(cannot("read", path))?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(format!("{} belongs to user {}", path.display(), found.uid())));
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        let message = format!("{} is writable by other users", path.display());
        let hint = format!("Check its content, then run: chmod 700 {}", path.display());
        return Err(coded("E-STATE", message, hint));
    }
    if found.mode() & 0o777 != 0o700 {
        folder.set_permissions(PermissionsExt::from_mode(0o700)).map_err(cannot("close", path))?;
    }
    Ok(folder)
}

/// Makes and checks every folder from `base/provision` down to the last name.
fn folder_in(base: &Path, below: &[&str]) -> Result<PathBuf> {
    let failed = |error: std::io::Error| refused(format!("cannot create {}: {error}", base.display()));
    // Above it is the user's own business; what is missing is made for this user alone.
    DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(failed)?;
    let mut folder = File::open(base).map_err(failed)?;
    let found = folder.metadata().map_err(failed)?;
    let (owner, sticky) = (found.uid(), found.mode() & STICKY != 0);
    let ours = owner == rustix::process::geteuid().as_raw() || owner == 0;
    if !ours || found.mode() & WRITABLE_BY_OTHERS != 0 && !sticky {
        return Err(refused(format!("other users can change the content of {}", base.display())));
    }
    let mut path = base.to_owned();
    for name in ["provision"].iter().chain(below) {
        path.push(name);
        folder = enter(&folder, name, &path)?;
    }
    Ok(path)
}

/// Where runs, reports, downloads and labs are kept: below `$XDG_STATE_HOME` or `~/.local/state`, unless elsewhere is named.
#[derive(Clone, Debug, Default)]
pub struct StateDir(Option<PathBuf>);

impl StateDir {
    /// Keeps everything below `base/provision`.
    pub fn below(base: impl Into<PathBuf>) -> Self {
        Self(Some(base.into()))
    }

    /// Returns a folder, made if it is not there.
    pub fn folder(&self, below: &[&str]) -> Result<PathBuf> {
        match &self.0 {
            Some(base) => folder_in(base, below),
            None => folder_in(&base()?, below),
        }
    }

    /// Returns the folder of downloads.
    pub fn artifacts(&self) -> Result<PathBuf> {
        self.folder(&["artifacts"])
    }

    /// Returns the folder of an inventory's journals.
    pub fn journals(&self, inventory: &Inventory) -> Result<PathBuf> {
        self.of_inventory("runs", inventory, recorded_hosts)
    }

    /// Returns an inventory's folder of one kind. One of an earlier version, which had the name alone, becomes it if it can be
    /// no other inventory's: it tells of a host of this one (`hosts`), and no other inventory of that name has been here.
    pub(super) fn of_inventory(
        &self,
        kind: &str,
        inventory: &Inventory,
        hosts: impl FnOnce(&Path) -> BTreeSet<String>,
    ) -> Result<PathBuf> {
        let (identity, name) = (identity(inventory), inventory.name.as_str());
        let all = self.folder(&[kind])?;
        let (own, named) = (all.join(&identity), all.join(name));
        if !own.exists() && named.exists() {
            let named = self.folder(&[kind, name])?;
            let others = std::fs::read_dir(&all).map_err(cannot("read", &all))?.flatten();
            let alone = !others.into_iter().any(|entry| is_of(&entry.file_name(), name));
            if alone && hosts(&named).iter().any(|host| inventory.hosts.contains_key(host.as_str())) {
                // Another run may have been faster; then it is there. Earlier versions had their lock in it.
                let _ = std::fs::rename(&named, &own);
                let _ = std::fs::remove_file(own.join("running"));
            }
        }
        self.folder(&[kind, &identity])
    }

    /// Writes a file of a state folder as a whole, 0600, in the place of whatever is there. Returns where it is.
    pub fn write(&self, below: &[&str], name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder(below)?.join(name);
        write(&path, text).map_err(cannot("write", &path))?;
        Ok(path)
    }
}

/// Opens a file of a state folder for reading and writing, made 0600 if it is not there; a symbolic link is refused, and nothing that
/// is in it is lost.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

/// Writes a file of a state folder as a whole, 0600, in the place of whatever is there.
pub(super) fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").mode() & 0o777
    }

    fn said(result: Result<PathBuf>) -> String {
        let error = result.expect_err("refused");
        let failure = error.failure();
        assert_eq!(failure.code, "E-STATE");
        format!("{} | {}", failure.message, failure.hint.as_deref().unwrap_or_default())
    }

    #[test]
    fn every_folder_is_made_for_its_user_alone_and_an_older_one_is_closed() {
        let dir = tempfile::tempdir().expect("a folder");
        let base = dir.path().join("not/yet");
        let made = folder_in(&base, &["runs", "ams"]).expect("made");
        assert_eq!(made, base.join("provision/runs/ams"));
        for path in [&base, &base.join("provision"), &base.join("provision/runs"), &made] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        std::fs::set_permissions(&made, PermissionsExt::from_mode(0o755)).expect("opened");
        folder_in(&base, &["runs", "ams"]).expect("still ours");
        assert_eq!(mode(&made), 0o700);
    }

    #[test]
    fn a_link_a_file_and_a_folder_that_others_write_to_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).expect("made");
        let base = dir.path().join("state");
        std::fs::create_dir(&base).expect("made");
        std::os::unix::fs::symlink(&elsewhere, base.join("provision")).expect("linked");
        assert!(said(folder_in(&base, &["lab"])).contains("symbolic link"));
        assert_eq!(std::fs::read_dir(&elsewhere).expect("read").count(), 0, "nothing is made behind it");
        std::fs::remove_file(base.join("provision")).expect("removed");

        let provision = folder_in(&base, &[]).expect("made");
        std::os::unix::fs::symlink(&elsewhere, provision.join("lab")).expect("linked");
        assert!(said(folder_in(&base, &["lab", "x"])).contains("symbolic link"));
        assert_eq!(std::fs::read_dir(&elsewhere).expect("read").count(), 0, "nor behind a deeper one");
        std::fs::write(provision.join("runs"), "").expect("written");
        assert!(said(folder_in(&base, &["runs"])).contains("not a folder"));
        std::fs::set_permissions(&provision, PermissionsExt::from_mode(0o777)).expect("opened");
        assert!(said(folder_in(&base, &["lab"])).contains("chmod 700"));
    }

    #[test]
    fn files_are_private_and_never_behind_a_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let (victim, link) = (dir.path().join("victim"), dir.path().join("running"));
        std::fs::write(&victim, "keep").expect("written");
        std::os::unix::fs::symlink(&victim, &link).expect("linked");
        assert!(open(&link).is_err(), "a link is not opened");
        write(&link, "new").expect("replaced");
        assert_eq!(std::fs::read_to_string(&victim).expect("read"), "keep");
        assert_eq!((std::fs::read_to_string(&link).expect("read").as_str(), mode(&link)), ("new", 0o600));
        drop(open(&link).expect("opened"));
        assert_eq!(std::fs::read_to_string(&link).expect("read"), "new", "nothing is lost");
    }

    /// Returns an inventory of this name, with a host of that name, in a folder of its own.
    fn inventory(folder: &Path, name: &str, host: &str) -> Inventory {
        std::fs::create_dir_all(folder).expect("made");
        let text = format!(
            "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: {name}}}\n\
             cluster: {{k0s: {{version: v1.35.7+k0s.0}}}}\n\
             pools:\n  c: {{role: single, hosts: {{{host}: {{address: 10.1.0.1}}}}}}\n"
        );
        std::fs::write(folder.join("site.yaml"), text).expect("written");
        let catalog = crate::catalog::Catalog::builtin().expect("the catalog");
        crate::inventory::load(folder, &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
    }

    #[test]
    fn inventories_of_one_name_do_not_mix_and_one_folder_is_one_inventory() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::below(dir.path().join("state"));
        let site = inventory(&dir.path().join("site"), "ams", "cp-1");
        let copy = inventory(&dir.path().join("copy"), "ams", "cp-1");
        let folders = |inventory: &Inventory| {
            [
                state.journals(inventory).expect("made"),
                super::super::health::folder(&state, inventory).expect("made"),
            ]
        };
        assert!(folders(&site).iter().zip(&folders(&copy)).all(|(one, other)| one != other));
        assert_ne!(identity(&site), identity(&copy));
        let catalog = crate::catalog::Catalog::builtin().expect("the catalog");
        let file = dir.path().join("site/../site/site.yaml");
        let file = crate::inventory::load(&file, &catalog).unwrap_or_else(|d| panic!("{d}")).inventory;
        assert_eq!(folders(&site), folders(&file), "the folder and its file");
    }

    #[test]
    fn what_an_earlier_version_kept_by_name_goes_to_the_inventory_that_it_tells_of() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::below(dir.path().join("state"));
        let keep = |name: &str| {
            let runs = state.folder(&["runs", name]).expect("made");
            let journal = crate::run::Journal::create(&runs.join("AAAAA.jsonl"), None).expect("made");
            journal.write(crate::run::Transition::Begun, "", 0, "").expect("written");
            journal.write(crate::run::Transition::Started, "cp-1", 1, "").expect("written");
            std::fs::write(runs.join("running"), "").expect("written");
            let report = "{\"run\": \"AAAAA\", \"level\": \"quick\", \"lab\": false, \"hosts\": \
                {\"cp-1\": {\"verdict\": \"healthy\", \"level\": \"quick\", \"findings\": [], \"measures\": []}}}";
            let health = state.folder(&["health", name]).expect("made");
            std::fs::write(health.join("AAAAA.json"), report).expect("written");
        };
        let kept = |inventory: &Inventory| {
            let journals = state.journals(inventory).expect("made");
            assert!(!journals.join("running").exists(), "the lock has moved");
            let health = super::super::health::folder(&state, inventory).expect("made");
            [journals.join("AAAAA.jsonl").exists(), health.join("AAAAA.json").exists()]
        };
        keep("ams");
        let other = inventory(&dir.path().join("other"), "ams", "xx-1");
        assert_eq!(kept(&other), [false; 2], "it tells of none of its hosts");
        let site = inventory(&dir.path().join("site"), "ams", "cp-1");
        assert_eq!(kept(&site), [false; 2], "two inventories have that name");
        assert!(dir.path().join("state/provision/runs/ams/AAAAA.jsonl").exists(), "and nothing is lost");

        keep("fra");
        let site = inventory(&dir.path().join("fra"), "fra", "cp-1");
        assert_eq!(kept(&site), [true; 2]);
        assert_eq!(kept(&site), [true; 2], "and from then on");
        let copy = inventory(&dir.path().join("copy"), "fra", "cp-1");
        assert_eq!(kept(&copy), [false; 2]);
    }
}
