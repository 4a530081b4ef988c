//! Backups of a control plane as `k0s backup` makes them: the store, certificates and keys, and the configuration.

use super::paths::{BINARY, CONTROLLER_UNIT, DATA_DIR};
use std::collections::BTreeSet;
use std::io::Read;

/// The command of the k0s role that restores a backup; it leaves no record on the host.
pub const RESTORE: &str = "k0s-restore";
/// Where a backup waits on its host until it is restored.
pub const UPLOADED: &str = "/var/lib/provision/restore.tar.gz";
/// Where k0s gathers what it backs up. Not below its data folder: the names in the archive would be other ones
/// (k0s pkg/backup/util_unix.go, `addToArchive`).
const SCRATCH: &str = "/var/lib/provision/backup";
/// Holds the sha256 of the backup that is being restored.
const RESTORING: &str = "/var/lib/provision/k0s.restoring";
/// Holds the sha256 of the backup that was restored, until the run that did it is over.
const RESTORED: &str = "/var/lib/provision/k0s.restored";
/// Written when k0s is first started (the k0s role).
const STARTED: &str = "/var/lib/provision/k0s.started";
/// What is said on a host whose backup is being made already.
const BUSY: &str = "another backup of this controller is running";

/// Files of which an archive has one: etcd's snapshot, or that of kine (k0s pkg/backup/etcd_unix.go, sqlitedb_unix.go).
const STORES: [&str; 2] = ["etcd-snapshot.db", "kine-state-backup.db"];
/// Files that every archive has.
const FILES: [&str; 3] = ["k0s.yaml", "pki/ca.crt", "pki/ca.key"];
/// Files in an archive; one of a large cluster has some hundred, and images of air-gapped hosts.
const MOST_FILES: usize = 100_000;
/// Bytes of an unpacked archive: what a host sends may unpack to anything.
const MOST_UNPACKED: u64 = 64 << 30;

/// Returns the program that prints a controller's backup, and its log on standard error. k0s gathers secrets in a folder that
/// a killed one leaves behind: it is one of ours, which the next backup empties.
pub fn backup() -> String {
    format!(
        r#"umask 077; d={SCRATCH}; mkdir -p -- "${{d%/*}}"; exec 9>>"$d.lock"
flock -n 9 || {{ echo '{BUSY}' >&2; exit 75; }}
rm -rf -- "$d"; mkdir -- "$d" || exit 1
trap 'rm -rf -- "$d" "$d.lock"' EXIT; trap 'exit 1' HUP INT TERM PIPE
TMPDIR=$d {BINARY} backup --save-path=- 9>&-
"#
    )
}

/// Returns shell that succeeds on a host that has no control plane, and prints why it has one otherwise.
fn has_no_control_plane() -> String {
    format!(
        r#"{check}
[ ! -s {RESTORING} ] || {{ echo 'a restore of another backup is not finished on it'; exit 1; }}
for d in etcd db pki; do [ -z "$(ls -A "{DATA_DIR}/$d" 2>/dev/null)" ] || {{ echo "{DATA_DIR}/$d is not empty"; exit 1; }}; done"#,
        check = never_started(),
    )
}

/// Returns shell that succeeds on a host whose controller is not installed and was not started by us, and prints what it found
/// otherwise.
fn never_started() -> String {
    format!(
        "[ ! -e {STARTED} ] || {{ echo 'k0s was started on it'; exit 1; }}\n\
         [ ! -e /etc/systemd/system/{CONTROLLER_UNIT} ] || {{ echo '{CONTROLLER_UNIT} is installed on it'; exit 1; }}"
    )
}

/// Returns the shell of the step that restores the uploaded backup with this sha256. One that was interrupted is done again: what
/// it left is removed, which is nobody else's: it began on a host without any, and k0s was not started since.
pub fn restore(sha256: &str) -> String {
    format!(
        r#"if grep -qsxF {sha256} {RESTORING}; then w=$( ({idle}) )||{{ echo "E-RESTORE: $w"; exit 1; }}
else w=$( ({check}) )||{{ echo "E-RESTORE: $w"; exit 1; }}
echo {sha256} >{RESTORING}.new; sync {RESTORING}.new 2>/dev/null || sync; mv -f -- {RESTORING}.new {RESTORING}
fi
s=$(sha256sum <{UPLOADED}); [ "${{s%% *}}" = {sha256} ] || {{ echo 'the backup has not arrived on this host; run the same command again'; exit 1; }}
for d in etcd db pki manifests; do rm -rf --one-file-system -- "{DATA_DIR}/$d"; done
d={SCRATCH}; rm -rf -- "$d"; mkdir -m 700 -- "$d"; trap 'rm -rf -- "$d"' EXIT
TMPDIR=$d {BINARY} restore --config-out "$d/k0s.yaml" {UPLOADED}
echo {sha256} >{RESTORED}.new; sync; mv -f -- {RESTORED}.new {RESTORED}; sync
rm -f -- {UPLOADED} {RESTORING}
"#,
        idle = never_started(),
        check = has_no_control_plane(),
    )
}

/// Returns the guard of that step. A record without the data that it tells of is none.
pub fn is_restored(sha256: &str) -> String {
    format!("grep -qsxF {sha256} {RESTORED} && [ -n \"$(ls -A {DATA_DIR}/pki 2>/dev/null)\" ]")
}

/// How far a controller is with a restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RestoreState {
    /// It has no control plane.
    Empty,
    /// A restore of the same backup was interrupted on it.
    Begun,
    /// The backup is restored on it, and the run that did it did not come to its end.
    Restored,
    /// It has a control plane; why.
    Taken(String),
}

/// Returns the program that prints how far a controller is with the restore of a backup.
pub fn restore_state(sha256: &str) -> String {
    format!(
        "if {restored}; then echo restored; elif grep -qsxF {sha256} {RESTORING} && w=$( ({idle}) ); then echo begun\n\
         elif w=$( ({check}) ); then echo empty; else echo \"taken $w\"; fi\n",
        restored = is_restored(sha256),
        idle = never_started(),
        check = has_no_control_plane(),
    )
}

/// Reads what that program printed.
pub fn read_restore_state(said: &str) -> RestoreState {
    match said.trim() {
        "empty" => RestoreState::Empty,
        "begun" => RestoreState::Begun,
        "restored" => RestoreState::Restored,
        other => RestoreState::Taken(other.strip_prefix("taken ").unwrap_or("no answer").to_owned()),
    }
}

/// Returns the program that forgets on a host that a backup was restored: once it is over, the same backup can be restored again.
pub fn forget_restore() -> String {
    format!("rm -f -- {RESTORED} {RESTORING} {UPLOADED} {UPLOADED}.new\n")
}

/// Returns the program that removes an upload that is not restored.
pub fn forget_upload() -> String {
    format!("rm -f -- {UPLOADED} {UPLOADED}.new\n")
}

/// Reads an archive to its end; the error is why nothing could be restored from it.
pub fn check_archive(archive: impl Read) -> Result<(), String> {
    let mut unpacked = flate2::read::GzDecoder::new(archive).take(MOST_UNPACKED);
    let mut wanted: BTreeSet<&str> = FILES.into_iter().collect();
    let mut store = None;
    {
        let mut archive = tar::Archive::new(&mut unpacked);
        let broken = |error: std::io::Error| format!("the archive is incomplete or damaged: {error}");
        for (number, entry) in archive.entries().map_err(broken)?.enumerate() {
            let entry = entry.map_err(|error| match number {
                0 => format!("it is not an archive of `k0s backup`, or its beginning is damaged: {error}"),
                _ => broken(error),
            })?;
            if number > MOST_FILES {
                return Err(format!("the archive has more than {MOST_FILES} files"));
            }
            let path = entry.path_bytes();
            let name = String::from_utf8_lossy(&path);
            let leads_out = name.starts_with('/') || name.split('/').any(|part| part == "..");
            if leads_out || !(entry.header().entry_type().is_file() || entry.header().entry_type().is_dir()) {
                return Err("the archive has an entry that leads out of it".to_owned());
            }
            wanted.remove(name.as_ref());
            if let Some(name) = STORES.into_iter().find(|store| *store == name) {
                store = (entry.size() > 0).then_some(name);
            }
        }
    }
    // The sum of a gzip stands behind its content, and what follows the last file is padding.
    let rest = std::io::copy(&mut unpacked, &mut std::io::sink());
    rest.map_err(|error| format!("the archive is incomplete or damaged: {error}"))?;
    if store.is_none() {
        return Err(format!("the archive has none of {}", STORES.join(", ")));
    }
    match wanted.into_iter().next() {
        Some(missing) => Err(format!("the archive has no {missing}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, name, text.as_bytes()).expect("added");
        }
        archive.into_inner().expect("whole").finish().expect("packed")
    }

    const WHOLE: [(&str, &str); 4] =
        [("etcd-snapshot.db", "data"), ("pki/ca.crt", "c"), ("pki/ca.key", "k"), ("k0s.yaml", "kind: x")];

    #[test]
    fn only_a_whole_archive_counts() {
        let whole = archive(&WHOLE);
        assert_eq!(check_archive(&whole[..]), Ok(()));
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            assert!(check_archive(&whole[..cut]).is_err(), "cut after {cut}");
        }
        let mut flipped = whole.clone();
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(check_archive(&flipped[..]).is_err(), "another sum");
        for (left_out, (name, _)) in WHOLE.iter().enumerate() {
            let some: Vec<_> =
                WHOLE.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, f)| *f).collect();
            let why = check_archive(&archive(&some)[..]).expect_err("incomplete");
            assert!(why.contains(name), "{why}");
        }
        let empty = [("etcd-snapshot.db", ""), WHOLE[1], WHOLE[2], WHOLE[3]];
        assert!(check_archive(&archive(&empty)[..]).is_err(), "an empty snapshot");
        assert!(check_archive(&b"Error: k0s is not running\n"[..]).is_err());
        let link = |kind, name: &str| {
            let mut archive =
                tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, std::io::empty()).expect("added");
            archive.into_inner().expect("whole").finish().expect("packed")
        };
        for (kind, name) in [
            (tar::EntryType::Regular, "../evil"),
            (tar::EntryType::Regular, "/etc/evil"),
            (tar::EntryType::Regular, "pki/../../evil"),
            (tar::EntryType::Symlink, "pki"),
        ] {
            let why = check_archive(&link(kind, name)[..]).expect_err("it leads out");
            assert!(why.contains("leads out"), "{name}: {why}");
        }
        let mut noise = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        noise.write_all(&[7; 5000]).expect("packed");
        assert!(check_archive(&noise.finish().expect("packed")[..]).is_err());
    }
}
