//! What happens to a simulated host's files when it boots: a program on the host, behind its walls, since it reads and writes
//! what the host's own programs have left.

use super::request::Request;
use super::tools::{self, units};
use super::tree;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The first argument of the host's tool by which it knows that it is to boot.
pub(super) const NAME: &str = "lab-boot";
/// The host's folders from inside, laid out as they are outside.
const FOLDERS: &str = "/run/lab/folders";

/// Gives the host a new boot id, empties its memory, loads modules, and starts what is enabled.
pub(super) fn boot() -> ExitCode {
    let folders = Path::new(FOLDERS);
    if let Err(error) = start_over(folders) {
        // It boots all the same, as a machine does whose files are damaged.
        eprintln!("boot: {error}");
    }
    let (count, mig) = tools::boot(folders);
    let mut failed = tools::request(&Request::Accelerators { count, mig }).is_err();
    let root = Path::new("/");
    for unit in units::enabled(root).into_iter().filter(|unit| unit.starts_with("k0s")) {
        let started = tools::request(&Request::Start { unit: unit.clone() });
        units::set_active(root, &unit, started.is_ok());
        failed |= started.is_err();
    }
    ExitCode::from(u8::from(failed))
}

fn start_over(folders: &Path) -> io::Result<()> {
    let _ = std::fs::remove_dir_all(folders);
    std::fs::create_dir_all(folders)?;
    for (name, place) in [("root", "/"), ("proc", "/proc"), ("proc-sys", "/proc/sys")] {
        std::os::unix::fs::symlink(place, folders.join(name))?;
    }
    tree::new_boot(folders)?;
    std::fs::remove_dir_all("/dev/shm")?;
    std::fs::create_dir_all("/dev/shm")
}
