//! Files that other programs read: whole, or as they were.

use super::error::{Result, cannot};
use crate::state::{is_special, open_special, put};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file that anybody may read, at once. A pipe or a device such as `/dev/stdout` is written into; a link to anything else is
/// replaced: a change under review can bring links.
pub fn write_report(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_special(path) {
        let written = open_special(path).and_then(|mut file| file.write_all(bytes));
        return written.map_err(cannot("write", path));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Who reads it is often another user.
    let mode = std::fs::Permissions::from_mode(0o644);
    let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
    let mut file = file.map_err(cannot("write", path))?;
    file.write_all(bytes).map_err(cannot("write", path))?;
    put(file, path).map_err(cannot("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_report_replaces_no_pipe_and_follows_no_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let (pipe, link, file) = (dir.path().join("pipe"), dir.path().join("link"), dir.path().join("file"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                std::fs::File::open(pipe).expect("opened").read_to_string(&mut text).expect("read");
                text
            }
        });
        write_report(&pipe, b"a report").expect("written");
        assert_eq!(reader.join().expect("read"), "a report");
        assert!(!std::fs::metadata(&pipe).expect("there").is_file(), "it is still a pipe");
        std::fs::write(&file, "old").expect("written");
        std::os::unix::fs::symlink("file", &link).expect("linked");
        write_report(&link, b"new").expect("written");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "old");
        assert_eq!(std::fs::read_to_string(&link).expect("read"), "new");
        write_report(dir.path(), b"x").expect_err("a folder");
    }
}
