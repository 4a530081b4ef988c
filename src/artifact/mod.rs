//! Artifacts: downloads pinned by version and sha256 in `provision.lock`, and bundles of them.

mod bundle;
mod fetch;
mod lock;
mod openpgp;
mod resolve;

pub use bundle::{
    BundleError, BundleFile, Collected, Collecting, Defect, DefectKind, FileKind, INDEX, Image, Index,
    Mirror as BundleMirror, MirrorPlace, Registries, RegistryLogin, SUMS, image_key,
};
pub use fetch::{ArtifactError, fetch};
pub use lock::{LOCK_FILE, Lock, LockError, Locked, Mirror, Misfit, Needs, Wanted, wanted};
pub use openpgp::fingerprints;
pub use resolve::{Unresolved, UnresolvedAll, resolve, resolve_from};
