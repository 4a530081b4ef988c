//! The lock file: exact version, URLs and sha256 of every download. Meant to be committed.

use crate::catalog::Catalog;
use crate::state::read_regular;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Its file name, next to the inventory.
pub const LOCK_FILE: &str = "provision.lock";

/// A lock file is smaller than this, in bytes: an artifact takes some 300.
const MOST_LOCK_BYTES: u64 = 4 << 20;

/// One artifact, pinned.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// Its version.
    pub version: String,
    /// Its URLs, tried in order; add mirrors here.
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
    #[error("{0} does not exist; create it with `provision lock`")]
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
        let text = match read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(LockError::Missing(shown)),
            Err(source) => return Err(LockError::File { path: shown, source }),
        };
        Self::of(path, &text)
    }

    /// Returns the lock file at `path`, which holds `text`.
    pub fn of(path: &Path, text: &str) -> Result<Self, LockError> {
        let path = path.display().to_string();
        Self::parse(text).map_err(|message| LockError::Parse { path, message })
    }

    /// Returns what stands in for a lock file where there is none and nothing is fetched: what is wanted, with no sum that
    /// any file could have.
    pub fn unresolved(wanted: &[Wanted]) -> Self {
        let locked = |want: &Wanted| Locked {
            version: want.version.clone(),
            urls: vec![want.url.clone()],
            sha256: "0".repeat(64),
            size: 0,
        };
        Self { artifacts: wanted.iter().map(|want| (want.name.clone(), locked(want))).collect() }
    }

    /// Returns every artifact that is wanted and not locked, or locked at another version.
    pub fn misfits(&self, wanted: &[Wanted]) -> Vec<Misfit> {
        let misfit = |want: &Wanted| {
            let locked = self.get(&want.name).map(|locked| locked.version.clone());
            let (name, version) = (want.name.clone(), want.version.clone());
            (locked.as_ref() != Some(&version)).then_some(Misfit { name, locked, wanted: version })
        };
        wanted.iter().filter_map(misfit).collect()
    }

    /// Reads the text of a lock file; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false;
        let lock: Self = serde_saphyr::from_str_with_options(text, options).map_err(|e| {
            let line = e.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            line + kind(&e)
        })?;
        for (name, locked) in &lock.artifacts {
            let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
            if locked.sha256.len() != 64 || !locked.sha256.chars().all(hex) {
                return Err(format!("{name}: sha256 is not 64 lower-case hex digits"));
            }
            if locked.urls.is_empty() {
                return Err(format!("{name}: urls is empty"));
            }
            // What a URL has, less what a shell takes for syntax.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!&*+,=%".contains(c);
            let is_url = |url: &String| {
                let http = url.starts_with("https://") || url.starts_with("http://");
                http && url.chars().all(plain) && reqwest::Url::parse(url).is_ok_and(|u| u.has_host())
            };
            if !locked.urls.iter().all(is_url) {
                return Err(format!("{name}: one of urls is not an http or https URL"));
            }
        }
        Ok(lock)
    }

    /// Returns the text of the file: sorted, one value a line, so that a change of it reads well in a review.
    pub fn text(&self) -> String {
        // A JSON string is a YAML string, whatever it holds.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = String::from(
            "# Pinned downloads. Generated by `provision lock`; commit this file. Mirrors can be added under urls, in the \
             order\n# in which to try them; they are kept when the file is updated.\nartifacts:\n",
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

/// Reads a regular file of a bounded size.
fn read(path: &Path) -> std::io::Result<String> {
    let refused = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
    // It comes with an inventory, which may be a stranger's: where a link leads is not the inventory's business.
    if std::fs::symlink_metadata(path)?.is_symlink() {
        return Err(refused("it is a symbolic link"));
    }
    String::from_utf8(read_regular(path, MOST_LOCK_BYTES)?).map_err(|_| refused("it is not UTF-8 text"))
}

/// Returns what is wrong in our own words: those of the parser quote the file, which may not be a lock file at all.
fn kind(error: &serde_saphyr::Error) -> &'static str {
    let text = error.to_string();
    let says = |word: &str| text.contains(word);
    match () {
        () if says("unknown field") => "unknown field",
        () if says("missing field") => "missing field",
        () if says("duplicate") => "duplicate key",
        () if says("invalid type") || says("expected") => "a value of the wrong type",
        () => "not YAML",
    }
}

/// An artifact for which the lock file does not have what the inventory wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// Its name in the lock file.
    pub name: String,
    /// The version that is locked; `None` if it is not in the file.
    pub locked: Option<String>,
    /// The version that the inventory wants.
    pub wanted: String,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, wanted, .. } = self;
        match &self.locked {
            Some(locked) => write!(f, "{name} is locked at {locked}, but the inventory needs {wanted}"),
            None => write!(f, "{name} {wanted} is not locked"),
        }
    }
}

/// Where a mirror of the inventory has an artifact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// The file.
    pub url: String,
    /// Its list of sha256 sums, if upstream has one on a server that is mirrored too.
    pub checksums: Option<String>,
}

/// An artifact that an inventory needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Its name in the lock file.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where upstream has it.
    pub url: String,
    /// Where upstream publishes its sha256, among others.
    pub checksums: Option<String>,
    /// Where the inventory's mirror has it.
    pub mirror: Option<Mirror>,
    /// The only primary keys that it may hold, if it is a key whose fingerprint is known.
    pub fingerprints: Vec<String>,
}

/// What an inventory is about, as far as downloads go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// The k0s version.
    pub k0s_version: String,
    /// The architectures that its hosts can have, as printed by `uname -m`.
    pub arches: BTreeSet<String>,
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
    /// Mirror URLs by the host that they mirror.
    pub mirrors: BTreeMap<String, String>,
}

impl Needs {
    /// Returns where the inventory's mirrors have what upstream has at `url`.
    fn mirrored(&self, url: &str) -> Option<String> {
        let (host, path) = url.strip_prefix("https://").or(url.strip_prefix("http://"))?.split_once('/')?;
        self.mirrors.get(host).map(|mirror| format!("{}/{path}", mirror.trim_end_matches('/')))
    }
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
        .filter(|a| needed(&a.name) && a.arch.as_ref().is_none_or(|arch| needs.arches.contains(arch)))
        .map(|a| {
            let version = if a.version == "cluster" { &needs.k0s_version } else { &a.version };
            // A `+` in a path is a plus, but GitHub wants it escaped.
            let fill = |url: &String| url.replace("{version}", &version.replace('+', "%2B"));
            let (url, checksums) = (fill(&a.url), a.checksums.as_ref().map(fill));
            let mirrored_sums = || checksums.as_ref().and_then(|url| needs.mirrored(url));
            let mirror = needs.mirrored(&url).map(|url| Mirror { url, checksums: mirrored_sums() });
            Wanted {
                name: a.name.clone(),
                version: version.clone(),
                mirror,
                url,
                checksums,
                fingerprints: a.fingerprints.clone(),
            }
        })
        .collect()
}
