//! A backup as a file of this machine: what it is of, whether it is whole, and its content.

use super::error::{Result, cannot, coded};
use crate::inventory::{AGE_IDENTITY, open_age};
use crate::k0s;
use crate::state::{HostName, is_steering, read_regular};
use indicatif::HumanBytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// A record is smaller than this, in bytes.
const MOST_RECORD: u64 = 64 << 10;
/// What a backup is of; kept beside it as JSON. Holds no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct BackupRecord {
    /// The inventory's name.
    pub inventory: String,
    /// The uid of the cluster's namespace `kube-system`, if the API responded.
    pub cluster: Option<String>,
    /// The controller that made it.
    pub host: HostName,
    /// Its k0s version.
    pub k0s: String,
    /// When it was begun.
    pub created: Timestamp,
    /// Bytes of the archive, before encryption.
    pub bytes: u64,
    /// sha256 of the archive, before encryption.
    pub sha256: String,
    /// Who can read it; empty if it is not encrypted.
    pub recipients: Vec<String>,
}

/// Returns the record's place beside a backup.
pub(super) fn record_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Returns the record of a backup; `None` if there is none beside it.
pub(super) fn read_record(path: &Path) -> Result<Option<BackupRecord>> {
    let at = record_of(path);
    let text = match read_regular(&at, MOST_RECORD) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot("read", &at)(error)),
    };
    let malformed = |why: String| {
        coded(
            "E-BACKUP",
            format!("{} is malformed: {why}", at.display()),
            "Use another backup, or one without a record beside it",
        )
    };
    let record: BackupRecord = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    let texts = [&record.inventory, &record.k0s, &record.sha256]
        .into_iter()
        .chain(&record.cluster)
        .chain(&record.recipients);
    if texts.chain([&record.host.to_string()]).any(|text| text.chars().any(is_steering)) {
        return Err(malformed("it has control characters".to_owned()));
    }
    Ok(Some(record))
}

/// Hashes and counts what goes through it.
pub(super) struct Counted<T> {
    pub inner: T,
    digest: Sha256,
    pub bytes: u64,
}

impl<T> Counted<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, digest: Sha256::new(), bytes: 0 }
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(super) fn sum(&self) -> String {
        self.digest.clone().finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.saw(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.saw(&bytes[..read]);
        Ok(read)
    }
}

/// A backup that was read to its end and is whole: what is to be restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restore {
    /// Where it is.
    path: PathBuf,
    /// The identity file that decrypts it, if it is encrypted.
    identity: Option<PathBuf>,
    /// sha256 of the archive.
    pub sha256: String,
    /// Its bytes.
    pub bytes: u64,
    /// What it is of, if that is known.
    pub record: Option<BackupRecord>,
}

impl Restore {
    /// Reads a backup to its end. `identity` is the age identity file for one that is encrypted.
    pub fn read(path: &Path, identity: Option<&Path>) -> Result<Self> {
        // The record is beside the file that a link leads to.
        let path = &std::fs::canonicalize(path).map_err(cannot("read", path))?;
        let record = read_record(path)?;
        let encrypted = is_encrypted(path)?;
        let identity = match (encrypted, identity) {
            (true, None) => {
                let hint = format!("Add --identity FILE, or set {AGE_IDENTITY}");
                return Err(coded("E-BACKUP", format!("{} is encrypted", path.display()), hint));
            }
            (true, Some(identity)) if identity.to_string_lossy().contains("AGE-SECRET-KEY-") => {
                let message = "got an age identity instead of a file that contains it";
                return Err(coded(
                    "E-BACKUP",
                    message,
                    format!("Name a file: --identity FILE, or {AGE_IDENTITY}=FILE"),
                ));
            }
            (true, Some(identity)) => Some(identity.to_owned()),
            (false, _) => None,
        };
        let mut this = Self { path: path.to_owned(), identity, sha256: String::new(), bytes: 0, record };
        let mut archive = Counted::new(this.open()?);
        let damaged = |why: String| {
            let hint = "Use another backup; `provision backup --list` lists them";
            coded("E-BACKUP", format!("{}: {why}", path.display()), hint)
        };
        k0s::check_archive(&mut archive).map_err(damaged)?;
        std::io::copy(&mut archive, &mut std::io::sink()).map_err(cannot("read", path))?;
        (this.sha256, this.bytes) = (archive.sum(), archive.bytes);
        if this.record.as_ref().is_some_and(|record| record.sha256 != this.sha256) {
            return Err(damaged("its sha256 differs from the one in its record".to_owned()));
        }
        Ok(this)
    }

    /// Returns what plans call it.
    pub(super) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} ({}, sha256 {})", HumanBytes(self.bytes), &self.sha256[..12])
    }

    /// Opens the archive, decrypted.
    pub(super) fn open(&self) -> Result<Box<dyn Read + Send>> {
        match &self.identity {
            Some(identity) => {
                let opened = open_age(&self.path, identity);
                let hint = "Check the age identity file: it must belong to one of the recipients in the backup's record";
                opened
                    .map(|r| Box::new(r) as Box<dyn Read + Send>)
                    .map_err(|why| coded("E-BACKUP", why, hint))
            }
            None => {
                let file = File::open(&self.path).map_err(cannot("read", &self.path))?;
                Ok(Box::new(BufReader::new(file)))
            }
        }
    }
}

/// Returns whether a file begins as those that are encrypted with age do.
fn is_encrypted(path: &Path) -> Result<bool> {
    const MAGIC: [&[u8]; 2] = [b"age-encryption.org/", b"-----BEGIN AGE ENCR"];
    if !std::fs::metadata(path).map_err(cannot("read", path))?.is_file() {
        return Err(coded(
            "E-BACKUP",
            format!("{} is not a file", path.display()),
            "Name a file that `provision backup` made",
        ));
    }
    let file = File::open(path).map_err(cannot("read", path))?;
    let mut head = Vec::new();
    file.take(19).read_to_end(&mut head).map_err(cannot("read", path))?;
    Ok(MAGIC.contains(&head.as_slice()))
}
