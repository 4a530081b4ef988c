//! The lock file: exact version, URLs, sha256 of everything that is fetched. Made to be committed.

use crate::catalog::Catalog;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Its name, beside the inventory.
pub const LOCK_FILE: &str = "provision.lock";

/// One artifact, pinned.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// Its version.
    pub version: String,
    /// Where it can be had, tried in order; add mirrors here.
    pub urls: Vec<String>,
    /// Lower-case hex sha256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// All artifacts, by name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// By name, such as `k0s-x86_64`.
    pub artifacts: BTreeMap<String, Locked>,
}

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is none.
    #[error("there is no {0}; make one with: provision lock")]
    Missing(String),
    /// It cannot be read or written.
    #[error("cannot read or write {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what a lock file should be.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
}

impl Lock {
    /// Reads a lock file.
    pub fn load(path: &Path) -> Result<Self, LockError> {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(LockError::Missing(shown)),
            Err(source) => return Err(LockError::File { path: shown, source }),
        };
        Self::parse(&text).map_err(|message| LockError::Parse { path: shown, message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false;
        let lock: Self = serde_saphyr::from_str_with_options(text, options).map_err(|e| {
            let line = e.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            line + e.to_string().lines().next().unwrap_or_default()
        })?;
        for (name, locked) in &lock.artifacts {
            let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
            if locked.sha256.len() != 64 || !locked.sha256.chars().all(hex) {
                return Err(format!("{name}: sha256 is not 64 lower-case hex digits"));
            }
            if locked.urls.is_empty() {
                return Err(format!("{name}: urls is empty"));
            }
            if let Some(url) =
                locked.urls.iter().find(|u| !u.starts_with("https://") && !u.starts_with("http://"))
            {
                return Err(format!("{name}: {url:?} is no http or https URL"));
            }
        }
        Ok(lock)
    }

    /// Returns the text of the file: sorted, one value a line, so that a change of it reads well in a review.
    fn text(&self) -> String {
        // A JSON string is a YAML string, whatever it holds.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = String::from(
            "# What provision fetches, pinned. Made by `provision lock`; commit it. Mirrors can be added under urls, in \
             the order\n# in which they are tried; they stay when the file is made anew.\nartifacts:\n",
        );
        for (name, locked) in &self.artifacts {
            text += &format!("  {name}:\n    version: {}\n    urls:\n", quoted(&locked.version));
            for url in &locked.urls {
                text += &format!("    - {}\n", quoted(url));
            }
            text += &format!("    sha256: {}\n    size: {}\n", quoted(&locked.sha256), locked.size);
        }
        text
    }

    /// Writes the file, as a whole.
    pub fn save(&self, path: &Path) -> Result<(), LockError> {
        let failed = |source: std::io::Error| LockError::File { path: path.display().to_string(), source };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // To be committed, so readable as any other file of a work tree: the umask decides.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut file =
            tempfile::Builder::new().permissions(permissions).tempfile_in(folder).map_err(failed)?;
        std::io::Write::write_all(&mut file, self.text().as_bytes()).map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// Returns an artifact.
    pub fn get(&self, name: &str) -> Option<&Locked> {
        self.artifacts.get(name)
    }

    /// Returns a digest of everything pinned, short enough to show.
    pub fn digest(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        Sha256::digest(text.as_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect()
    }
}

/// An artifact that an inventory needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its name in the lock file.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where upstream has it.
    pub url: String,
    /// Where upstream publishes its sha256, among others.
    pub checksums: Option<String>,
}

/// What an inventory is about, as far as downloads go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The k0s version.
    pub k0s_version: String,
    /// It has NVIDIA hosts.
    pub nvidia: bool,
    /// It has Neuron hosts.
    pub neuron: bool,
    /// It has hosts with EFA devices.
    pub efa: bool,
    /// It has a router.
    pub router: bool,
    /// Its router has the Inference Extension.
    pub inference_extension: bool,
}

/// Returns what is needed, from the catalog.
pub fn wanted(needs: &Needs, catalog: &Catalog) -> Vec<Wanted> {
    let needed = |name: &str| match name {
        "nvidia-cuda-key" | "nvidia-cuda-rpm-key" | "nvidia-toolkit-key" => needs.nvidia,
        "neuron-key" => needs.neuron,
        "efa-installer" => needs.efa,
        "gateway-api-crds" | "kthena-crds" => needs.router,
        "inference-extension-crds" => needs.inference_extension,
        _ => true,
    };
    catalog
        .artifacts()
        .iter()
        .filter(|a| needed(&a.name))
        .map(|a| {
            let version = if a.version == "cluster" { &needs.k0s_version } else { &a.version };
            // A `+` in a path is a plus, but GitHub wants it escaped.
            let fill = |url: &String| url.replace("{version}", &version.replace('+', "%2B"));
            Wanted {
                name: a.name.clone(),
                version: version.clone(),
                url: fill(&a.url),
                checksums: a.checksums.as_ref().map(fill),
            }
        })
        .collect()
}
