//! Files of a lab: Unix sockets, whose paths may be longer than a socket address, and what only this user may read.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// The name of the socket by which a lab is controlled, in its folder.
pub(super) const CONTROL: &str = "control.sock";

/// Does something with a socket whose path may be longer than a socket address can hold (108 bytes).
pub(super) fn through_handle<T>(
    folder: &Path,
    name: &str,
    then: impl FnOnce(&Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    use std::os::fd::AsRawFd;
    let handle = std::fs::File::open(folder)?;
    then(&PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd())).join(name))
}

/// Returns the folder with the sockets of a lab's SSH servers, each named after its host.
pub fn sockets(lab: &Path) -> PathBuf {
    lab.join("ssh")
}

/// Connects to a socket in a folder.
pub fn connect(folder: &Path, name: &str) -> std::io::Result<std::os::unix::net::UnixStream> {
    through_handle(folder, name, |path| std::os::unix::net::UnixStream::connect(path))
}

/// Listens on a socket that only this user may connect to, in the place of one that an earlier process left.
pub(super) fn listen_unix(path: &Path) -> std::io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    through_handle(folder, &name, |path| {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    })
}

/// Writes a file anew that only this user may read; a link in its place is removed, not followed.
pub(super) fn private(path: &Path, text: &str) -> std::io::Result<()> {
    let _ = std::fs::remove_file(path);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file?.write_all(text.as_bytes())
}
