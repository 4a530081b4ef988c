//! Loads the catalog. Built-in files are part of the binary; a folder next to the inventory adds rows, or replaces rows with
//! the same key.

use super::check::check;
use super::query::{Catalog, CatalogError};
use super::types::*;
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use std::path::{Path, PathBuf};

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/catalog");

/// Limit for all catalog files next to an inventory, in bytes: six times the built-in ones. Each is compared with all others.
const MOST_ROWS: usize = 256 << 10;

/// Rows of engine images: the image of every model is tried on each.
const MOST_IMAGES: usize = 500;

/// One catalog file; every section is optional.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CatalogFile {
    #[serde(default)]
    products: Vec<Product>,
    #[serde(default)]
    branches: Vec<DriverBranch>,
    #[serde(default)]
    as_of: Option<String>,
    #[serde(default)]
    open_only_from: Option<OpenOnly>,
    #[serde(default)]
    cuda_floors: Vec<CudaFloor>,
    #[serde(default)]
    switches: Vec<Switch>,
    #[serde(default)]
    nvidia_packages: Vec<NvidiaPackages>,
    #[serde(default)]
    engine_requests: Vec<EngineRequests>,
    #[serde(default)]
    engine_images: Vec<EngineImage>,
    #[serde(default)]
    xids: Vec<XidRow>,
    #[serde(default)]
    floors: Vec<Floor>,
    #[serde(default)]
    mig: Vec<MigRow>,
    #[serde(default)]
    neuron_sdks: Vec<NeuronSdk>,
    #[serde(default)]
    k0s_lines: Vec<K0sLine>,
    #[serde(default)]
    kthena: Vec<KthenaRelease>,
    #[serde(default)]
    components: Vec<Component>,
    #[serde(default)]
    artifacts: Vec<ArtifactSource>,
}

/// Replaces rows of the same key, appends the others.
fn merge<T, K: PartialEq>(rows: &mut Vec<T>, more: Vec<T>, key: impl Fn(&T) -> K) {
    for row in more {
        match rows.iter_mut().find(|r| key(r) == key(&row)) {
            Some(old) => *old = row,
            None => rows.push(row),
        }
    }
}

impl Catalog {
    /// Returns the built-in catalog.
    pub fn builtin() -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        for file in BUILTIN.files() {
            let text = file.contents_utf8().unwrap_or_default();
            catalog.add(Path::new("catalog").join(file.path()), text)?;
        }
        check(&catalog)?;
        Ok(catalog)
    }

    /// Returns the built-in catalog, extended by the rows of further files, given by name and text.
    pub fn extended(files: impl IntoIterator<Item = (PathBuf, String)>) -> Result<Self, CatalogError> {
        let mut catalog = Self::builtin()?;
        let mut left = MOST_ROWS;
        for (path, text) in files {
            let Some(rest) = left.checked_sub(text.len()) else {
                let message = format!("the files of a catalog can have at most {MOST_ROWS} bytes in total");
                return Err(CatalogError::Parse { path, message });
            };
            left = rest;
            catalog.add(path, &text)?;
        }
        check(&catalog)?;
        Ok(catalog)
    }

    fn add(&mut self, path: PathBuf, text: &str) -> Result<(), CatalogError> {
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false;
        let file: CatalogFile = serde_saphyr::from_str_with_options(text, options)
            .map_err(|e| CatalogError::Parse { path: path.clone(), message: e.to_string() })?;
        merge(&mut self.products, file.products, |p| p.slug.clone());
        merge(&mut self.branches, file.branches, |b| b.branch);
        self.branches.sort_by_key(|b| b.branch);
        self.as_of = file.as_of.unwrap_or(std::mem::take(&mut self.as_of));
        self.open_only_from = file.open_only_from.or(self.open_only_from.take());
        merge(&mut self.cuda_floors, file.cuda_floors, |c| c.cuda);
        merge(&mut self.switches, file.switches, |s| (s.vendor.clone(), s.device.clone()));
        // Of these the first that fits decides, so a user's come first; an Xid is taken out of the rows that had it.
        self.nvidia_packages.splice(0..0, file.nvidia_packages);
        merge(&mut self.engine_requests, file.engine_requests, |r| r.engine.clone());
        self.engine_images.splice(0..0, file.engine_images);
        if self.engine_images.len() > MOST_IMAGES {
            let message = format!("a catalog can have at most {MOST_IMAGES} rows of engineImages");
            return Err(CatalogError::Parse { path, message });
        }
        for row in &file.xids {
            self.xids.iter_mut().for_each(|old| old.xids.retain(|x| !row.xids.contains(x)));
        }
        self.xids.extend(file.xids);
        self.floors.splice(0..0, file.floors);
        self.mig.extend(file.mig);
        merge(&mut self.neuron_sdks, file.neuron_sdks, |s| s.sdk.clone());
        merge(&mut self.k0s_lines, file.k0s_lines, |l| l.minor.clone());
        merge(&mut self.kthena, file.kthena, |k| k.version.clone());
        merge(&mut self.components, file.components, |c| c.name.clone());
        merge(&mut self.artifacts, file.artifacts, |a| a.name.clone());
        Ok(())
    }
}
