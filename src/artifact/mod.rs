//! Artifacts: what is fetched from outside, pinned by version and sha256 in `provision.lock`.

mod fetch;
mod lock;

pub use fetch::{ArtifactError, fetch, resolve};
pub use lock::{LOCK_FILE, Lock, LockError, Locked, Needs, Wanted, wanted};
