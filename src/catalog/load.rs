//! Reading the catalog and asking it questions. Built-in files are part of the binary; a folder beside the inventory
//! adds rows, or replaces rows with the same key.

use super::types::*;
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use std::path::{Path, PathBuf};

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/catalog");

/// Why a catalog could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file could not be read.
    #[error("cannot read catalog file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what a catalog file should be.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// Rows contradict one another.
    #[error("catalog contradicts itself: {0}")]
    Contradiction(String),
}

/// One catalog file; every section is optional.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CatalogFile {
    #[serde(default)]
    products: Vec<Product>,
    #[serde(default)]
    branches: Vec<DriverBranch>,
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

/// Everything the catalog knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalog {
    products: Vec<Product>,
    branches: Vec<DriverBranch>,
    neuron_sdks: Vec<NeuronSdk>,
    k0s_lines: Vec<K0sLine>,
    kthena: Vec<KthenaRelease>,
    components: Vec<Component>,
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
        catalog.check()?;
        Ok(catalog)
    }

    /// Returns the built-in catalog, extended by the `*.yaml` files of a folder.
    pub fn load(extra: Option<&Path>) -> Result<Self, CatalogError> {
        let mut catalog = Self::builtin()?;
        let Some(dir) = extra else { return Ok(catalog) };
        let read = |path: &Path, source| CatalogError::Read { path: path.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| read(dir, e))? {
            paths.push(entry.map_err(|e| read(dir, e))?.path());
        }
        paths.sort();
        for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml")) {
            let text = std::fs::read_to_string(path).map_err(|e| read(path, e))?;
            catalog.add(path.clone(), &text)?;
        }
        catalog.check()?;
        Ok(catalog)
    }

    fn add(&mut self, path: PathBuf, text: &str) -> Result<(), CatalogError> {
        let file: CatalogFile =
            serde_saphyr::from_str(text).map_err(|e| CatalogError::Parse { path, message: e.to_string() })?;
        merge(&mut self.products, file.products, |p| p.slug.clone());
        merge(&mut self.branches, file.branches, |b| b.branch);
        merge(&mut self.neuron_sdks, file.neuron_sdks, |s| s.sdk.clone());
        merge(&mut self.k0s_lines, file.k0s_lines, |l| l.minor.clone());
        merge(&mut self.kthena, file.kthena, |k| k.version.clone());
        merge(&mut self.components, file.components, |c| c.name.clone());
        merge(&mut self.artifacts, file.artifacts, |a| a.name.clone());
        Ok(())
    }

    /// Finds rows that cannot all be true.
    fn check(&self) -> Result<(), CatalogError> {
        let mut seen: Vec<(&PciId, &str)> = Vec::new();
        for product in &self.products {
            if let (Some(min), Some(max)) = (product.min_branch, product.max_branch)
                && min > max
            {
                return Err(CatalogError::Contradiction(format!(
                    "{} needs branch {min} at least and {max} at most",
                    product.slug
                )));
            }
            for id in &product.pci {
                if let Some((_, other)) = seen.iter().find(|(s, _)| *s == id) {
                    return Err(CatalogError::Contradiction(format!(
                        "PCI id {}:{} is both {other} and {}",
                        id.vendor, id.device, product.slug
                    )));
                }
                seen.push((id, &product.slug));
            }
        }
        for sdk in &self.neuron_sdks {
            if let Some(unknown) = sdk.products.iter().find(|p| self.product(p).is_none()) {
                return Err(CatalogError::Contradiction(format!(
                    "Neuron SDK {} names the unknown product {unknown}",
                    sdk.sdk
                )));
            }
        }
        Ok(())
    }

    /// Returns all products, in catalog order.
    pub fn products(&self) -> &[Product] {
        &self.products
    }

    /// Returns a product by slug.
    pub fn product(&self, slug: &str) -> Option<&Product> {
        self.products.iter().find(|p| p.slug == slug)
    }

    /// Returns the product with a PCI identity; a row with a subsystem id wins over one without.
    pub fn by_pci(&self, vendor: &str, device: &str, subvendor: &str, subdevice: &str) -> Option<&Product> {
        let matches = |exact: bool| {
            self.products.iter().find(|p| {
                p.pci.iter().any(|id| {
                    id.vendor == vendor
                        && id.device == device
                        && if exact {
                            id.subvendor.as_deref() == Some(subvendor)
                                && id.subdevice.as_deref() == Some(subdevice)
                        } else {
                            id.subdevice.is_none()
                        }
                })
            })
        };
        matches(true).or_else(|| matches(false))
    }

    /// Returns all driver branches, oldest first.
    pub fn branches(&self) -> &[DriverBranch] {
        &self.branches
    }

    /// Returns a driver branch.
    pub fn branch(&self, branch: u32) -> Option<&DriverBranch> {
        self.branches.iter().find(|b| b.branch == branch)
    }

    /// Returns all Neuron SDK releases, oldest first.
    pub fn neuron_sdks(&self) -> &[NeuronSdk] {
        &self.neuron_sdks
    }

    /// Returns a Neuron SDK release.
    pub fn neuron_sdk(&self, sdk: &str) -> Option<&NeuronSdk> {
        self.neuron_sdks.iter().find(|s| s.sdk == sdk)
    }

    /// Returns all k0s lines, oldest first.
    pub fn k0s_lines(&self) -> &[K0sLine] {
        &self.k0s_lines
    }

    /// Returns the line of a k0s version such as `v1.35.7+k0s.0`, whether or not that very version is listed.
    pub fn k0s_line(&self, version: &str) -> Option<&K0sLine> {
        let mut numbers = version.trim_start_matches('v').split('.');
        let minor = format!("{}.{}", numbers.next()?, numbers.next()?);
        self.k0s_lines.iter().find(|l| l.minor == minor)
    }

    /// Returns all Kthena releases.
    pub fn kthena_releases(&self) -> &[KthenaRelease] {
        &self.kthena
    }

    /// Returns a Kthena release.
    pub fn kthena(&self, version: &str) -> Option<&KthenaRelease> {
        self.kthena.iter().find(|k| k.version == version)
    }

    /// Returns a cluster component by name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|c| c.name == name)
    }

    /// Returns all artifacts.
    pub fn artifacts(&self) -> &[ArtifactSource] {
        &self.artifacts
    }

    /// Returns an artifact by name.
    pub fn artifact(&self, name: &str) -> Option<&ArtifactSource> {
        self.artifacts.iter().find(|a| a.name == name)
    }
}
