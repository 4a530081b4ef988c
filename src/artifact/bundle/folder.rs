//! The folder of a bundle. No link in it is followed and nothing but a regular file is opened: a bundle comes on a disk or from
//! a server of somebody else.

use super::error::BundleError;
use super::index::{INDEX, PART, SUMS};
use super::{FileKind, Index};
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// An open folder.
pub(super) struct Folder {
    handle: File,
    path: PathBuf,
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn other(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A program that another thread starts at this moment has a copy of the handle until it runs, and would keep the lock.
        let _ = fs::flock(&self.handle, FlockOperation::Unlock);
    }
}

impl Folder {
    /// Opens a folder; a link to it is followed, as the user named it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { handle: fs::open(path, flags, Mode::empty())?.into(), path: path.to_owned() })
    }

    /// Returns its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes its lock, for as long as this is open.
    pub(super) fn lock(&self) -> Result<(), BundleError> {
        let locked = fs::flock(&self.handle, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|error| match error {
            Errno::WOULDBLOCK => BundleError::Busy(self.path.display().to_string()),
            error => BundleError::File { path: self.path.clone(), source: error.into() },
        })
    }

    /// Returns the free space, in bytes.
    pub(super) fn free(&self) -> io::Result<u64> {
        let found = fs::fstatvfs(&self.handle)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Refuses a folder that is neither empty nor a bundle, or one in the making.
    pub(super) fn refuse_foreign(&self) -> Result<(), BundleError> {
        let failed = |source| BundleError::File { path: self.path.clone(), source };
        let mut foreign = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name == INDEX {
                return Ok(());
            }
            // What was killed before it had an index left its beginning alone; a new file system has a folder of its own.
            if name != format!("{INDEX}{PART}") && name != "lost+found" {
                foreign.push(name);
            }
        }
        foreign.sort();
        match foreign.into_iter().next() {
            None => Ok(()),
            Some(found) => Err(BundleError::Foreign {
                path: self.path.display().to_string(),
                found: crate::state::plain_line(&found).into_owned(),
            }),
        }
    }

    /// Returns the folder that has a file, and the file's name there; folders on the way are made if wanted.
    fn parent<'p>(&self, path: &'p str, make: bool) -> io::Result<(File, &'p str)> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = self.handle.try_clone()?;
        for folder in folders.split('/').filter(|name| !name.is_empty()) {
            if make {
                match fs::mkdirat(&at, folder, Mode::from_raw_mode(0o777)) {
                    Ok(()) => at.sync_all()?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = match fs::openat(&at, folder, flags, Mode::empty()) {
                Ok(next) => next.into(),
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    return Err(other("a folder on its path is a link or a file"));
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok((at, name))
    }

    /// Opens a file for reading; anything but a regular file is an error, and a pipe without a writer is not waited for.
    pub(super) fn file(&self, path: &str) -> io::Result<File> {
        let (parent, name) = self.parent(path, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::LOOP) => return Err(other("is a symbolic link")),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(other("is not a regular file"));
        }
        Ok(file)
    }

    /// Reads a text file of a bounded size; `None` if there is none.
    pub(super) fn text(&self, name: &str, most: u64) -> io::Result<Option<String>> {
        let file = match self.file(name) {
            Err(error) if is_absent(&error) => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(other("is too large"));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| other("is not UTF-8 text"))
    }

    /// Opens the part of a file that is not whole yet, for going on with it.
    pub(super) fn part(&self, path: &str) -> io::Result<File> {
        let (parent, name) = self.parent(path, true)?;
        let name = format!("{name}{PART}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || fs::openat(&parent, name.as_str(), flags, Mode::from_raw_mode(0o666));
        let is_regular = |file: &File| {
            fs::fstat(file)
                .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_nlink == 1)
        };
        if let Ok(file) = open().map(File::from)
            && is_regular(&file)
        {
            return Ok(file);
        }
        // Not one that we have left.
        fs::unlinkat(&parent, name.as_str(), AtFlags::empty())?;
        Ok(open()?.into())
    }

    /// Puts a whole part in its place, after its bytes are on the disk.
    pub(super) fn keep(&self, part: &File, path: &str) -> io::Result<()> {
        part.sync_all()?;
        let (parent, name) = self.parent(path, true)?;
        fs::renameat(&parent, format!("{name}{PART}").as_str(), &parent, name)?;
        parent.sync_all()
    }

    /// Writes a text file, as a whole.
    pub(super) fn put(&self, name: &str, text: &str) -> io::Result<()> {
        let mut part = self.part(name)?;
        part.set_len(0)?;
        part.write_all(text.as_bytes())?;
        self.keep(&part, name)
    }

    /// Reads the index; `None` if there is none.
    pub(super) fn index(&self) -> Result<Option<Index>, BundleError> {
        let place = || self.path.display().to_string();
        let text = self.text(INDEX, super::index::MOST_INDEX_BYTES);
        let text = text.map_err(|e| BundleError::Index { place: place(), why: format!("{INDEX} {e}") })?;
        let wrong = |why: String| BundleError::Index { place: place(), why: format!("{INDEX}: {why}") };
        text.map(|text| Index::parse(&text).map_err(wrong)).transpose()
    }

    /// Returns the files in the folders of kinds that an index does not name, in order.
    pub(super) fn unnamed(&self, index: &Index) -> Vec<String> {
        let known = |path: &str| path == INDEX || path == SUMS || index.files.iter().any(|f| f.path == path);
        let mut found = Vec::new();
        for kind in FileKind::ALL {
            walk(&self.path.join(kind.folder()), kind.folder(), 0, &mut found);
        }
        found.retain(|path| !known(path));
        found.sort();
        found
    }
}

/// Adds the paths below a folder that are no folders. Links are named, not followed.
fn walk(folder: &Path, below: &str, depth: usize, found: &mut Vec<String>) {
    /// A bundle's folders are three deep, and it has fewer files than this.
    const MOST: (usize, usize) = (4, 100_000);
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if depth > MOST.0 || found.len() > MOST.1 {
            return;
        }
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), &path, depth + 1, found),
            _ => found.push(path),
        }
    }
}
