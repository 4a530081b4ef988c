//! Backups of the control plane: streamed off a controller into a file of this machine, checked on the way, encrypted to the
//! inventory's recipients, and read back.

use super::archive::{BackupRecord, Counted, read_record, record_of};
use super::error::{Error, Result, cannot, coded};
use super::load::Source;
use super::open::Fleet;
use crate::event::{Event, Events};
use crate::executor::HostTarget;
use crate::inventory::{BackupPolicy, Inventory};
use crate::k0s;
use crate::state::{Failure, FailureKind, HostName, is_steering};
use indicatif::HumanBytes;
use jiff::{SignedDuration, Timestamp};
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// Endings of a backup's name: not encrypted, and encrypted with age.
const ENDINGS: [&str; 2] = [".tar.gz", ".tar.gz.age"];
/// Pieces of an archive that wait to be checked.
const WAITING: usize = 16;
/// What the file of a backup that is being made begins with; whose last change is this long ago is one that was killed.
const PARTIAL: &str = ".provision-backup-";
const LEFT_AFTER: Duration = Duration::from_secs(3600);
/// A backup that takes longer is given up: a host could send a byte now and then for ever.
const DEADLINE: Duration = Duration::from_secs(6 * 3600);
/// The longest version of k0s, in bytes.
const MOST_VERSION: usize = 64;
/// How often progress is said.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// A backup in a folder.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// What it is of.
    pub record: BackupRecord,
}

/// What making a backup did.
#[derive(Debug)]
pub struct MadeBackup {
    /// The new one.
    pub backup: Backup,
    /// Older ones that were removed.
    pub removed: Vec<PathBuf>,
}

/// Returns the backups of an inventory in a folder, the newest first. Other files are passed over.
pub fn backups_in(folder: &Path, inventory: &str) -> Result<Vec<Backup>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(cannot("read", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(cannot("read", folder))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_named =
            name.starts_with(&format!("{inventory}-")) && ENDINGS.iter().any(|ending| name.ends_with(ending));
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_named
            && is_file
            && let Ok(Some(record)) = read_record(&path)
            && record.inventory == inventory
        {
            found.push(Backup { path, record });
        }
    }
    found.sort_by(|a, b| b.record.created.cmp(&a.record.created).then_with(|| b.path.cmp(&a.path)));
    Ok(found)
}

/// Returns the backups that a policy does not keep beside the newest, `made`: of its cluster only, as other clusters may have had its
/// name. A clock that was wrong once makes no backup newer than that.
fn outlived<'a>(backups: &'a [Backup], made: &Backup, policy: &BackupPolicy) -> Vec<&'a Backup> {
    let now = made.record.created;
    let too_old = |backup: &Backup| {
        let days = policy.keep_days.map(|days| SignedDuration::from_hours(i64::from(days) * 24));
        days.is_some_and(|days| now.duration_since(backup.record.created) > days)
    };
    let of_cluster =
        |backup: &&Backup| backup.path != made.path && backup.record.cluster == made.record.cluster;
    let mut others: Vec<&Backup> = backups.iter().filter(of_cluster).collect();
    others.sort_by_key(|backup| std::cmp::Reverse(backup.record.created.min(now)));
    let others = others.into_iter().enumerate();
    others
        .filter(|(n, backup)| n + 2 > policy.keep as usize || too_old(backup))
        .map(|(_, backup)| backup)
        .collect()
}

/// Removes what killed backups have left in a folder.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let age =
            entry.metadata().ok().filter(|m| m.is_file()).and_then(|m| m.modified().ok()?.elapsed().ok());
        if name.starts_with(PARTIAL) && age.is_some_and(|age| age > LEFT_AFTER) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The end of a channel as a file that is read.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    rest: std::io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.rest.read(bytes)? {
                0 => match self.pieces.recv() {
                    Ok(piece) => self.rest = std::io::Cursor::new(piece),
                    Err(_) => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

/// Checks an archive while it arrives, on a thread of its own.
struct Checking {
    pieces: SyncSender<Vec<u8>>,
    thread: std::thread::JoinHandle<std::result::Result<(), String>>,
}

impl Checking {
    fn begin() -> Self {
        let (pieces, received) = sync_channel(WAITING);
        let thread = std::thread::spawn(move || {
            let mut archive = Pieces { pieces: received, rest: std::io::Cursor::default() };
            // Dropping the other end stops a host that sends something else, or without end.
            k0s::check_archive(&mut archive)
        });
        Self { pieces, thread }
    }

    fn end(self) -> std::result::Result<(), String> {
        drop(self.pieces);
        self.thread.join().unwrap_or_else(|_| Err("it could not be checked".to_owned()))
    }
}

/// A file that is written, encrypted or not.
enum Out {
    Plain(Counted<File>),
    Sealed(age::stream::StreamWriter<Counted<File>>),
}

impl Out {
    fn new(file: File, recipients: &[String]) -> Result<Self> {
        let file = Counted::new(file);
        if recipients.is_empty() {
            return Ok(Self::Plain(file));
        }
        let wrong = |why: &dyn std::fmt::Display| {
            coded("E-BACKUP", format!("cannot encrypt: {why}"), "Check cluster.backup.recipients")
        };
        let parsed: std::result::Result<Vec<age::x25519::Recipient>, _> =
            recipients.iter().map(|text| text.parse()).collect();
        let parsed = parsed.map_err(|why| wrong(&why))?;
        let encryptor = age::Encryptor::with_recipients(parsed.iter().map(|r| r as &dyn age::Recipient));
        let encryptor = encryptor.map_err(|why| wrong(&why))?;
        encryptor.wrap_output(file).map(Self::Sealed).map_err(|why| wrong(&why))
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Sealed(file) => file.write_all(bytes),
        }
    }

    /// Returns the sha256 of what was written into the file.
    fn end(self) -> std::io::Result<String> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Sealed(file) => file.finish()?,
        };
        file.inner.sync_all()?;
        Ok(file.sum())
    }
}

fn step_failed(message: String, hint: &str) -> Error {
    Failure::new(FailureKind::Step, "E-BACKUP", message).hint(hint).into()
}

/// Returns the folder of an inventory's backups on this machine; made if it is not there.
pub fn backup_folder(source: &Source, inventory: &Inventory) -> Result<PathBuf> {
    source.state.folder(&["backups", &super::state_dir::identity(inventory)])
}

impl Fleet {
    /// Returns the first controller whose control plane is ready, or `from`, and its k0s version.
    async fn backup_source(&self, from: Option<&str>) -> Result<(Arc<HostTarget>, String)> {
        let controls = |name: &HostName| {
            let host = self.inventory.hosts.get(name);
            host.is_some_and(|h| self.inventory.pool_of(h).role.is_controller())
        };
        let names: Vec<&HostName> = match from {
            Some(name) => {
                let host = self.host(name)?.host();
                if !controls(host) {
                    return Err(coded(
                        "E-USAGE",
                        format!("{name} is not a controller"),
                        "Name a controller, or omit --from",
                    ));
                }
                vec![host]
            }
            None => self.hosts.keys().filter(|name| controls(name)).collect(),
        };
        let mut reasons = Vec::new();
        for name in names {
            let Some(host) = self.hosts.get(name) else { continue };
            match host.control_plane().await {
                Ok(plane) => match (plane.problem, plane.version) {
                    (None, Some(version))
                        if version.len() > MOST_VERSION || version.chars().any(is_steering) =>
                    {
                        reasons.push(format!("{name}: k0s reports no version"));
                    }
                    (None, Some(version)) => return Ok((host.clone(), version)),
                    (problem, _) => {
                        reasons.push(format!("{name}: {}", problem.unwrap_or_else(|| "no k0s".to_owned())))
                    }
                },
                Err(failure) => reasons.push(format!("{name}: {}", failure.message)),
            }
        }
        let mut failure = Failure::new(FailureKind::Step, "E-NO-CLUSTER", "no controller can be backed up")
            .hint("Check the controllers with `provision status`");
        failure.cause = Some(reasons.join("\n"));
        Err(failure.into())
    }

    /// Backs up the control plane into the inventory's folder before a plan that upgrades it is carried out.
    pub(super) async fn backup_first(&self, events: &Events) -> Result<()> {
        let folder = backup_folder(&self.source, &self.inventory)?;
        match self.backup(&folder, None, events).await {
            Ok(made) => {
                events.note(format!("backup written to {}", made.backup.path.display()));
                Ok(())
            }
            Err(error) => {
                let mut failure = error.failure();
                failure.message =
                    format!("no backup before the upgrade, nothing was changed: {}", failure.message);
                failure.hint = Some("Check the controllers with `provision status`; to upgrade without a backup, set cluster.backup.beforeUpgrade: false".to_owned());
                Err(failure.into())
            }
        }
    }

    /// Backs up the control plane into a folder, checks the file, and removes what the inventory's policy does not keep.
    pub async fn backup(&self, folder: &Path, from: Option<&str>, events: &Events) -> Result<MadeBackup> {
        let policy = &self.inventory.cluster.backup;
        let (host, k0s) = self.backup_source(from).await?;
        // An API that does not respond is a reason to back up, not one against it.
        let cluster = match &self.cluster {
            Some(cluster) => cluster.identity().await.unwrap_or_else(|failure| {
                let message = format!("the backup's cluster could not be determined: {}", failure.message);
                events.emit(Event::Warning { target: None, message });
                None
            }),
            None => None,
        };
        let created = Timestamp::now();
        // Its parent is not made: a mistyped path would get the secrets of the cluster.
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(cannot("create", folder)(error));
            }
            _ => {}
        }
        sweep(folder);
        let file = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempfile_in(folder)
            .map_err(cannot("write to", folder))?;
        let writer = file.reopen().map_err(cannot("write to", folder))?;
        let mut out = Out::new(writer, &policy.recipients)?;
        let mut archive = Counted::new(std::io::sink());
        let checking = Checking::begin();
        let (mut said, mut stopped) = (Instant::now(), false);
        events.note(format!("{}: backing up k0s {k0s}", host.host()));
        let mut take = |bytes: &[u8]| {
            archive.write_all(bytes)?;
            out.write_all(bytes)?;
            if checking.pieces.send(bytes.to_vec()).is_err() {
                stopped = true;
                return Err(std::io::Error::other("it is not a backup"));
            }
            if said.elapsed() > SAY_EVERY {
                said = Instant::now();
                events.note(format!("{}: {} received", host.host(), HumanBytes(archive.bytes)));
            }
            Ok(())
        };
        let poured = tokio::time::timeout(DEADLINE, host.pour(&k0s::backup(), &mut take)).await;
        let checked = checking.end();
        let unusable = "Run `k0s backup` on the controller, and check its log";
        let failed = |why: &str| step_failed(format!("{}: {why}", host.host()), unusable);
        match poured {
            Err(_) => return Err(failed("the backup took too long")),
            // What it sent says more than that it was stopped.
            Ok(Err(_)) if stopped => {
                let why =
                    checked.err().unwrap_or_else(|| "it sent data after the end of the archive".to_owned());
                return Err(failed(&why));
            }
            Ok(Err(failure)) => return Err(failure.into()),
            Ok(Ok(())) => checked.map_err(|why| failed(&why))?,
        }
        let written = out.end().map_err(cannot("write to", folder))?;
        // What the disk has is what counts.
        let mut back = Counted::new(file.reopen().map_err(cannot("read", folder))?);
        std::io::copy(&mut back, &mut std::io::sink()).map_err(cannot("read", folder))?;
        if back.sum() != written {
            return Err(step_failed(
                format!("{} returned different bytes than were written", folder.display()),
                "Check the disk",
            ));
        }
        let record = BackupRecord {
            inventory: self.inventory.name.clone(),
            cluster,
            host: host.host().clone(),
            k0s,
            created,
            bytes: archive.bytes,
            sha256: archive.sum(),
            recipients: policy.recipients.clone(),
        };
        let backup = keep(file, folder, record)?;
        if policy.recipients.is_empty() {
            let message = "the backup is not encrypted and contains every secret of the cluster; set cluster.backup.recipients";
            events.emit(Event::Warning { target: None, message: message.to_owned() });
        }
        let all = backups_in(folder, &self.inventory.name)?;
        let mut removed = Vec::new();
        for old in outlived(&all, &backup, policy) {
            std::fs::remove_file(&old.path).map_err(cannot("remove", &old.path))?;
            let _ = std::fs::remove_file(record_of(&old.path));
            removed.push(old.path.clone());
        }
        Ok(MadeBackup { backup, removed })
    }
}

/// Gives a finished backup its name, after its record.
fn keep(file: NamedTempFile, folder: &Path, record: BackupRecord) -> Result<Backup> {
    let ending = ENDINGS[usize::from(!record.recipients.is_empty())];
    let stamp = record.created.strftime("%Y%m%dT%H%M%SZ");
    let path = folder.join(format!("{}-{stamp}-{}{ending}", record.inventory, record.host));
    if path.exists() {
        return Err(coded("E-FILE", format!("{} exists", path.display()), "Try again in a second"));
    }
    let beside = record_of(&path);
    let text = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder);
    let mut text = text.map_err(cannot("write to", folder))?;
    let json = serde_json::to_string_pretty(&record)
        .map_err(|e| Error::Malformed { what: "cannot write the record".to_owned(), source: e.into() })?;
    writeln!(text, "{json}").map_err(cannot("write", &beside))?;
    text.persist(&beside).map_err(|e| cannot("write", &beside)(e.error))?;
    file.persist_noclobber(&path).map_err(|e| cannot("write", &path)(e.error))?;
    Ok(Backup { path, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(days_ago: i64) -> Backup {
        let created = Timestamp::from_second(1_800_000_000 - days_ago * 86_400).expect("a time");
        let record = BackupRecord {
            inventory: "ams".to_owned(),
            cluster: None,
            host: HostName::new("cp-1"),
            k0s: "v1.36.4+k0s.1".to_owned(),
            created,
            bytes: 1,
            sha256: String::new(),
            recipients: Vec::new(),
        };
        Backup { path: format!("{days_ago}").into(), record }
    }

    #[test]
    fn the_backup_that_was_just_made_is_always_kept() {
        let made = backup(0);
        // The last two are of a clock that was wrong, and of another cluster.
        let mut all: Vec<Backup> = [0, 1, 2, 9, 30, -400, 5].map(backup).to_vec();
        all[6].record.cluster = Some("another".to_owned());
        let gone = |keep, keep_days| {
            let policy = BackupPolicy { recipients: Vec::new(), keep, keep_days, before_upgrade: true };
            let mut gone: Vec<i64> = outlived(&all, &made, &policy)
                .iter()
                .map(|b| b.path.display().to_string().parse().expect("a number"))
                .collect();
            gone.sort_unstable();
            gone
        };
        assert_eq!(gone(10, None), [0; 0]);
        assert_eq!(gone(3, None), [2, 9, 30]);
        assert_eq!(gone(10, Some(7)), [9, 30]);
        assert_eq!(gone(1, Some(0)), [-400, 1, 2, 9, 30]);
        let all: Vec<Backup> = [-1, -2, -3].map(backup).into_iter().chain([made.clone()]).collect();
        let policy = BackupPolicy { recipients: Vec::new(), keep: 1, keep_days: None, before_upgrade: true };
        assert_eq!(outlived(&all, &made, &policy).len(), 3);
    }

    #[test]
    fn only_records_of_this_inventory_count() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("ams-1-cp-1.tar.gz", "x"),
            ("ams-2-cp-1.tar.gz", "x"),
            ("ams-2-cp-1.tar.gz.json", "{"),
            ("ams-3-cp-1.tar.gz", "x"),
            ("ams-2-x-cp-1.tar.gz", "x"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        let mut other = backup(1).record;
        other.inventory = "ams-2".to_owned();
        let json = serde_json::to_string(&other).expect("JSON");
        for name in ["ams-3-cp-1.tar.gz.json", "ams-2-x-cp-1.tar.gz.json", "notes.txt.json"] {
            std::fs::write(folder.path().join(name), &json).expect("written");
        }
        assert!(backups_in(folder.path(), "ams").expect("read").is_empty());
        assert_eq!(backups_in(folder.path(), "ams-2").expect("read").len(), 1);
        assert!(backups_in(&folder.path().join("none"), "ams").expect("read").is_empty());
    }
}
