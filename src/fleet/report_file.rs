//! Files that other programs read: whole, or as they were.

use super::error::{Result, cannot};
use crate::state::{is_special, put};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file that anybody may read, at once. What is no regular file (`/dev/null`, a pipe) is written into.
pub fn write_report(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Who reads it is often another user.
    let mode = std::fs::Permissions::from_mode(0o644);
    if is_special(path) {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(cannot("write", path))?;
        return file.write_all(bytes).map_err(cannot("write", path));
    }
    let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
    let mut file = file.map_err(cannot("write", path))?;
    file.write_all(bytes).map_err(cannot("write", path))?;
    put(file, path).map_err(cannot("write", path))
}
