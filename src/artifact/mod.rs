//! Artifacts: downloads pinned by version and sha256 in `provision.lock`.

mod fetch;
mod lock;
mod openpgp;
mod resolve;

pub use fetch::{ArtifactError, fetch};
pub use lock::{LOCK_FILE, Lock, LockError, Locked, Mirror, Misfit, Needs, Wanted, wanted};
pub use openpgp::fingerprints;
pub use resolve::{Unresolved, UnresolvedAll, resolve};
