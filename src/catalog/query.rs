//! What the catalog knows, and the questions it answers.

use super::types::*;
use std::borrow::Cow;
use std::path::PathBuf;

/// The warning for a device that the catalog does not have.
const UNKNOWN: &str = "not in the catalog: assuming the newest branch and the open kernel modules";

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
    /// Rows contradict one another; all of them.
    #[error("the catalog has contradictions: {0}")]
    Contradiction(String),
}

/// Everything the catalog knows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Catalog {
    pub(super) products: Vec<Product>,
    pub(super) branches: Vec<DriverBranch>,
    pub(super) as_of: String,
    pub(super) open_only_from: Option<OpenOnly>,
    pub(super) cuda_floors: Vec<CudaFloor>,
    pub(super) switches: Vec<Switch>,
    pub(super) nvidia_packages: Vec<NvidiaPackages>,
    pub(super) engine_requests: Vec<EngineRequests>,
    pub(super) engine_images: Vec<EngineImage>,
    pub(super) xids: Vec<XidRow>,
    pub(super) floors: Vec<Floor>,
    pub(super) mig: Vec<MigRow>,
    pub(super) neuron_sdks: Vec<NeuronSdk>,
    pub(super) k0s_lines: Vec<K0sLine>,
    pub(super) kthena: Vec<KthenaRelease>,
    pub(super) components: Vec<Component>,
    pub(super) artifacts: Vec<ArtifactSource>,
}

impl Catalog {
    /// Returns all products, in catalog order.
    pub fn products(&self) -> &[Product] {
        &self.products
    }

    /// Returns a product by slug, or what is assumed of one that the catalog does not know, named by its PCI id such as
    /// `10de:3021`.
    pub fn product(&self, slug: &str) -> Option<Cow<'_, Product>> {
        match self.products.iter().find(|p| p.slug == slug) {
            Some(product) => Some(Cow::Borrowed(product)),
            None => self.unknown(slug).map(Cow::Owned),
        }
    }

    /// Returns what is assumed of a GPU that is not in the catalog: the newest branch, the open flavour, no fabric.
    fn unknown(&self, id: &str) -> Option<Product> {
        let device = id.strip_prefix("10de:").filter(|d| d.len() == 4)?;
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if !device.chars().all(hex) || self.products.iter().any(|p| p.has("10de", device)) {
            return None;
        }
        Some(Product {
            slug: id.to_owned(),
            name: format!("unknown NVIDIA device {device}"),
            vendor: Vendor::Nvidia,
            arch: "unknown".to_owned(),
            memory_gib: None,
            pci: vec![PciId {
                vendor: "10de".to_owned(),
                device: device.to_owned(),
                subvendor: None,
                subdevice: None,
            }],
            open_module: OpenModule::Required,
            fabric: Fabric::None,
            min_branch: self.branches.last().map(|b| b.branch),
            max_branch: None,
            open_from: None,
            min_driver: None,
            max_driver: None,
            mig_instances: None,
            cores: None,
            logical_cores: Vec::new(),
            host_arch: None,
            reboot_deadline_s: 1200,
            source: UNKNOWN.to_owned(),
            unconfirmed: None,
        })
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

    /// Returns the month that the facts are as of, `YYYY-MM`.
    pub fn as_of(&self) -> &str {
        &self.as_of
    }

    /// Returns from which branch on only the open kernel modules exist.
    pub fn open_only_from(&self) -> Option<&OpenOnly> {
        self.open_only_from.as_ref()
    }

    /// Returns the first branches of CUDA majors.
    pub fn cuda_floors(&self) -> &[CudaFloor] {
        &self.cuda_floors
    }

    /// Returns whether a PCI function is an NVSwitch.
    pub fn is_switch(&self, vendor: &str, device: &str) -> bool {
        self.switches.iter().any(|s| s.vendor == vendor && s.device == device)
    }

    /// Returns all rows of package names.
    pub fn nvidia_packages(&self) -> &[NvidiaPackages] {
        &self.nvidia_packages
    }

    /// Returns the package names for a system, by its name in NVIDIA's repository, and a branch.
    pub fn packages_of(&self, system: &str, branch: u32) -> Option<&NvidiaPackages> {
        self.nvidia_packages.iter().find(|row| row.covers(system, branch))
    }

    /// Returns what an engine image needs; `None` where nothing is known of it.
    pub fn engine_needs(&self, image: &str) -> Option<EngineNeeds<'_>> {
        self.engine_images.iter().find_map(|row| row.needs(image))
    }

    /// Returns what an engine requests of its host by default.
    pub fn engine_requests(&self, engine: &str) -> Option<&EngineRequests> {
        self.engine_requests.iter().find(|r| r.engine == engine)
    }

    /// Returns all rows of engine images.
    pub fn engine_images(&self) -> &[EngineImage] {
        &self.engine_images
    }

    /// Returns the table of Xids.
    pub fn xids(&self) -> &[XidRow] {
        &self.xids
    }

    /// Returns what an Xid asks for; `None` for a number that is in no table.
    pub fn xid(&self, number: u32) -> Option<Action> {
        self.xids.iter().find(|row| row.xids.contains(&number)).map(|row| row.action)
    }

    /// Returns the floor of a test on hosts with so many of a product.
    pub fn floor(&self, test: &str, product: &str, gpus: u32) -> Option<&Floor> {
        self.floors.iter().find(|f| {
            f.test == test && f.gpus.is_none_or(|g| g == gpus) && f.products.iter().any(|p| p == product)
        })
    }

    /// Returns all MIG rows.
    pub fn mig_rows(&self) -> &[MigRow] {
        &self.mig
    }

    /// Returns what a product's GPUs can be split into; the last row that names it counts, so that a file of one's own can
    /// say otherwise.
    pub fn mig(&self, slug: &str) -> Option<&MigRow> {
        self.mig.iter().rfind(|r| r.products.iter().any(|p| p == slug))
    }

    /// Returns all floors.
    pub fn floors(&self) -> &[Floor] {
        &self.floors
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

    /// Returns what of the catalog is not confirmed, each with the row that it is about.
    pub fn unconfirmed(&self) -> Vec<(String, &str)> {
        let mut all: Vec<(String, Option<&String>)> = Vec::new();
        all.extend(self.products.iter().map(|r| (r.slug.clone(), r.unconfirmed.as_ref())));
        all.extend(
            self.branches.iter().map(|r| (format!("driver branch {}", r.branch), r.unconfirmed.as_ref())),
        );
        all.extend(self.nvidia_packages.iter().map(|r| {
            let range = match (r.from, r.to) {
                (Some(from), Some(to)) => format!("branches {from} to {to}"),
                (Some(from), None) => format!("branch {from} and newer"),
                (None, Some(to)) => format!("branch {to} and older"),
                (None, None) => "all branches".to_owned(),
            };
            (format!("driver packages of {range} on {}", r.systems.join(", ")), r.unconfirmed.as_ref())
        }));
        all.extend(
            self.mig
                .iter()
                .map(|r| (format!("MIG profiles of {}", r.products.join(", ")), r.unconfirmed.as_ref())),
        );
        all.extend(
            self.neuron_sdks.iter().map(|r| (format!("Neuron SDK {}", r.sdk), r.unconfirmed.as_ref())),
        );
        all.extend(self.engine_images.iter().map(|r| (r.image.clone(), r.unconfirmed.as_ref())));
        all.extend(self.k0s_lines.iter().map(|r| (format!("k0s {}", r.minor), r.unconfirmed.as_ref())));
        all.extend(self.kthena.iter().map(|r| (format!("Kthena {}", r.version), r.unconfirmed.as_ref())));
        all.extend(
            self.components.iter().map(|r| (format!("{} {}", r.name, r.version), r.unconfirmed.as_ref())),
        );
        all.extend(self.artifacts.iter().map(|r| (r.name.clone(), r.unconfirmed.as_ref())));
        all.into_iter().filter_map(|(what, why)| Some((what, why?.as_str()))).collect()
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
