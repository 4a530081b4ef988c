//! Loads an inventory from disk: what it may read, the catalog next to it, its lock file.

use super::error::{Error, Result, failed};
use super::policies::{FOLDER, policies_in};
use super::state_dir::{OwnLabName, StateDir};
use crate::artifact::{
    BundleMirror, LOCK_FILE, Lock, LockError, MirrorPlace, UnresolvedAll, Wanted, resolve, resolve_from,
};
use crate::catalog::Catalog;
use crate::event::Events;
use crate::inventory::{self, Diagnostics, Disk, Files, Inventory, Recording, Snapshot};
use crate::plan::Policies;
use crate::report::count;
use crate::role::{artifacts, mistakes};
use crate::state::{Failure, FailureKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an inventory is, and which other folders it may read files from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// A file, or a folder whose files merge.
    pub path: PathBuf,
    /// Folders outside that it may name files in.
    pub allow_outside: Vec<PathBuf>,
    /// The `provision` binary that a lab runs as; the running program's own file unless given.
    pub program: Option<PathBuf>,
    /// Where runs, reports, downloads and labs are kept.
    pub state: StateDir,
    /// The lab that is used in place of the one that `lab up` starts; see [`Source::with_own_lab`].
    pub lab: Option<OwnLabName>,
    /// What the files of the inventory and its lock file hold, in place of those on disk.
    pub snapshot: Option<Arc<Snapshot>>,
    /// A bundle that is asked in place of every other source of downloads.
    pub mirror: Option<MirrorPlace>,
}

/// An inventory that was read and is valid.
pub struct Loaded {
    /// Where it was read from.
    pub source: Source,
    /// The inventory.
    pub inventory: Inventory,
    /// The built-in catalog with the rows next to the inventory.
    pub catalog: Catalog,
    /// Warnings, each with its place.
    pub warnings: Diagnostics,
    /// The policies beside the inventory.
    pub policies: Policies,
    /// What the files hold that it was loaded from.
    pub(super) snapshot: Snapshot,
}

impl Source {
    /// Returns a source that may name files in its own folder alone.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Returns the source with a lab of its own: any number of them run at once beside the one that `lab up` starts, and
    /// nothing of them stays.
    pub fn with_own_lab(self) -> Self {
        Self { lab: Some(OwnLabName::new()), ..self }
    }

    /// Returns the binary that a lab runs as.
    pub(super) fn program(&self) -> Result<PathBuf> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe().map_err(failed("cannot find the executable of this program")),
        }
    }

    /// Returns the files that the inventory may read.
    pub fn files(&self) -> Result<Box<dyn Files>> {
        if let Some(snapshot) = &self.snapshot {
            return Ok(Box::new(snapshot.clone()));
        }
        let disk = Disk::of(&self.path, &self.allow_outside);
        Ok(Box::new(disk.map_err(|error| Error::Inventory(inventory::no_disk(&self.path, &error)))?))
    }

    /// Returns the catalog that the inventory is judged by.
    pub fn catalog(&self) -> Result<Catalog> {
        Ok(inventory::catalog_beside(&*self.files()?, &self.path)?)
    }

    /// Reads and checks the inventory and the roles next to it. Contacts no host.
    pub fn load(&self) -> Result<Loaded> {
        let files = self.files()?;
        let files = Recording::of(&*files);
        let catalog = inventory::catalog_beside(&files, &self.path)?;
        let loaded = inventory::load_from(&files, &self.path, &catalog).map_err(Error::Inventory)?;
        let inventory = loaded.inventory;
        let warnings = loaded.diagnostics.with(mistakes(&inventory));
        if warnings.errors() > 0 {
            return Err(Error::Inventory(warnings));
        }
        let policies = inventory.root.join(FOLDER);
        let policies = policies_in(&files, &policies, &policies.display().to_string(), false)?;
        Ok(Loaded { source: self.clone(), inventory, catalog, warnings, policies, snapshot: files.end() })
    }

    /// Returns where the values below a path of the inventory come from, as text.
    pub fn explain(&self, path: &str) -> Result<String> {
        inventory::explain(&*self.files()?, &self.path, path).map_err(Error::Inventory)
    }
}

/// How an inventory stands to its lock file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockState {
    /// It has what the inventory wants.
    Fits,
    /// There is none.
    Missing,
    /// A lab makes its own when it comes up.
    OfLab,
}

impl Loaded {
    /// Compares the inventory with the lock file next to it; a mismatch is an error that lists all differences.
    pub fn lock_state(&self) -> Result<LockState> {
        let lock = self.lock_file(&self.lock_path());
        if self.is_lab() {
            return Ok(LockState::OfLab);
        }
        match lock {
            Ok(lock) => Ok(fits(&lock, &self.wanted()).map(|()| LockState::Fits)?),
            Err(LockError::Missing(_)) => Ok(LockState::Missing),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether the inventory is a lab one by itself: all addresses loopback, keys in `.lab/`.
    pub fn is_lab(&self) -> bool {
        let inventory = &self.inventory;
        let loopback = |address: &str| address.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        !inventory.hosts.is_empty()
            && inventory.hosts.values().all(|h| loopback(&h.address))
            && inventory.ssh.known_hosts.starts_with(inventory.root.join(".lab"))
    }

    /// Returns where the lock file is.
    pub fn lock_path(&self) -> PathBuf {
        self.inventory.root.join(LOCK_FILE)
    }

    /// Reads a lock file, from where the inventory was read.
    pub(super) fn lock_file(&self, path: &Path) -> std::result::Result<Lock, LockError> {
        match self.source.snapshot.as_ref().map(|snapshot| snapshot.read(path)) {
            Some(Ok(text)) => Lock::of(path, &text),
            // A lab's own is not the inventory's.
            _ => Lock::load(path),
        }
    }

    /// Returns the artifacts that the inventory can need.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        artifacts(&self.inventory, &self.catalog)
    }

    /// Resolves every artifact, downloads each once, and writes the lock file; nothing is written if anything cannot be
    /// had. Mirrors that a person added to the file are kept.
    pub async fn lock(&self, events: &Events) -> Result<Lock> {
        let path = self.lock_path();
        let previous = match Lock::load(&path) {
            Ok(lock) => lock,
            Err(LockError::Missing(_)) => Lock::default(),
            Err(error) => return Err(error.into()),
        };
        let cache = self.source.state.artifacts()?;
        let wanted = self.wanted();
        let lock = match &self.source.mirror {
            Some(place) => {
                let bundle = BundleMirror::open(place).await?;
                resolve_from(&wanted, &previous, &bundle, &cache, events).await
            }
            None => resolve(&wanted, &previous, &cache, events).await,
        };
        let lock = lock.map_err(refused)?;
        lock.save(&path)?;
        Ok(lock)
    }

    /// Returns the lock file at `path`, where it has what the inventory wants. `lab` is the inventory of a running lab: its
    /// lock was made when it came up, and has what its mirror serves.
    pub(super) fn read_lock(&self, path: &Path, lab: Option<&Path>) -> Result<Lock> {
        let wanted = self.wanted();
        let mut lock = self.lock_file(path)?;
        match lab {
            None => fits(&lock, &wanted)?,
            Some(inventory) => {
                for want in &wanted {
                    let other = lock.get(&at_version(&want.name, &want.version)).cloned();
                    lock.artifacts.extend(other.map(|locked| (want.name.clone(), locked)));
                }
                // What else it serves are stand-ins with versions of their own.
                let k0s = |want: &Wanted| want.name.starts_with("k0s-") && lock.get(&want.name).is_some();
                fits(&lock, &wanted.into_iter().filter(k0s).collect::<Vec<_>>()).map_err(|failure| {
                    let at = inventory.display();
                    let hint = format!(
                        "Restart the lab: run `provision lab down {at}`, then `provision lab up {at}`"
                    );
                    failure.hint(hint)
                })?;
            }
        }
        Ok(lock)
    }
}

/// Returns the name under which a lab's lock file has another version of an artifact.
pub(super) fn at_version(name: &str, version: &str) -> String {
    format!("{name}@{version}")
}

/// Refuses a lock file that does not have what is wanted, naming everything.
fn fits(lock: &Lock, wanted: &[Wanted]) -> std::result::Result<(), Failure> {
    let misfits: Vec<String> = lock.misfits(wanted).iter().map(ToString::to_string).collect();
    if misfits.is_empty() {
        return Ok(());
    }
    let message = format!("provision.lock does not match the inventory: {}", misfits.join("; "));
    Err(Failure::new(FailureKind::Preflight, "E-LOCK-VERSION", message)
        .hint("Run `provision lock`, then commit the file"))
}

/// Returns all that could not be locked as one error, a line each.
fn refused(UnresolvedAll(all): UnresolvedAll) -> Failure {
    let foreign = all.iter().any(|one| one.foreign_key);
    let (code, hint) = match foreign {
        true => (
            "E-LOCK-KEY",
            "Find out why a different key is served before you trust it, then update its fingerprints in a catalog file",
        ),
        false => (
            "E-LOCK-FETCH",
            "Set HTTPS_PROXY, or configure mirrors: `repositories` in the inventory, or `urls` in provision.lock",
        ),
    };
    let message = format!("cannot lock {}; nothing was written", count(all.len(), "artifact"));
    let mut failure = Failure::new(FailureKind::Preflight, code, message).hint(hint);
    failure.tail = all.iter().map(|one| format!("{}: {}", one.name, one.why)).collect();
    failure
}
