//! Bundles: a folder with everything that a lock file names, for sites that reach nothing else. `index` is its table of
//! contents, `folder` the only way to its files, `collect` fills one, `mirror` takes artifacts out of one.

mod collect;
mod error;
mod folder;
mod images;
mod index;
mod mirror;

pub use collect::{Collected, Collecting};
pub use error::{BundleError, Defect, DefectKind};
pub use images::{Image, Registries, RegistryLogin, image_key};
pub use index::{BundleFile, FileKind, INDEX, Index, SUMS};
pub use mirror::{Mirror, MirrorPlace};
