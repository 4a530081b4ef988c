//! Reads and replaces a file named by a user.

use std::io::{Error, ErrorKind, Read, Result, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Reads a regular file of at most so many bytes. Anything else (a FIFO, a device, a folder) is refused without waiting
/// for it.
pub fn read_regular(path: &Path, most: u64) -> Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(open(path, flags, Mode::empty())?);
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let most = if most >= 1 << 20 { format!("{} MiB", most >> 20) } else { format!("{most} bytes") };
        let what = format!("larger than the limit of {most}");
        return Err(Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

/// Returns whether something is at `path` that is neither a file nor a folder: `/dev/null`, a pipe, a terminal; or a link that stands
/// for one, as `/dev/stdout` does, wherever that leads.
pub fn is_special(path: &Path) -> bool {
    let stands = ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder));
    stands && path.is_symlink()
        || std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Opens what is special to write into it; a disk is refused.
pub fn open_special(path: &Path) -> Result<std::fs::File> {
    if std::fs::metadata(path)?.file_type().is_block_device() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is a disk"));
    }
    std::fs::OpenOptions::new().append(true).open(path)
}

/// Puts a whole file in the place of whatever is at `path`. What is no regular file there (`/dev/null`, a pipe, a terminal) is
/// written into and stays what it is: replacing it would take it from everybody.
pub fn put(mut file: NamedTempFile, path: &Path) -> Result<()> {
    if is_special(path) {
        file.rewind()?;
        std::io::copy(&mut file, &mut open_special(path)?)?;
        return Ok(());
    }
    file.persist(path).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_what_is_none_is_written_into() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = |text: &str| {
            let mut file = NamedTempFile::new_in(dir.path()).expect("a file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            file
        };
        let path = dir.path().join("plan.json");
        put(made("old"), &path).expect("new");
        put(made("new"), &path).expect("replaced");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "new");
        let fifo = dir.path().join("fifo");
        let status = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(status.success());
        let (read, write) = (fifo.clone(), fifo.clone());
        let reader = std::thread::spawn(move || std::fs::read_to_string(read));
        put(made("through"), &write).expect("written into");
        assert_eq!(reader.join().expect("ended").expect("read"), "through");
        assert!(std::fs::symlink_metadata(&fifo).expect("there").file_type().is_fifo());
    }
}
