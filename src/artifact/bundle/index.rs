//! The table of contents of a bundle, `bundle.json`, and the same sums as `SHA256SUMS` for `sha256sum -c`. Whoever hands over a
//! bundle may be a stranger: nothing in it names a file outside of its folder.

use crate::artifact::lock::Locked;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The index's file name.
pub const INDEX: &str = "bundle.json";
/// The name of the file with the sums, as `sha256sum` writes them.
pub const SUMS: &str = "SHA256SUMS";
/// The ending of files that are not whole yet.
pub(super) const PART: &str = ".part";
/// An index is smaller than this, in bytes: a file takes some 500.
pub(super) const MOST_INDEX_BYTES: u64 = 16 << 20;
/// No file is larger, in bytes: the largest layers of engine images have some 20 GiB.
pub(super) const MOST_FILE_BYTES: u64 = 1 << 40;
/// The version of the format.
const FORMAT: u32 = 1;
/// No name in a path is longer, in bytes: what file systems allow, less the ending of a part.
const MOST_NAME: usize = 240;

/// What a file of a bundle is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A program, such as k0s.
    Binary,
    /// Custom resource definitions.
    Crd,
    /// The signing key of a package repository.
    Key,
    /// An archive, such as the EFA installer.
    Archive,
    /// A manifest or a blob of a container image, or what makes an OCI image layout of them.
    Image,
}

impl FileKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Binary, Self::Crd, Self::Key, Self::Archive, Self::Image];

    /// Returns the kind of an artifact of the lock file, by its name there.
    pub fn of(artifact: &str) -> Self {
        let name = artifact.split('@').next().unwrap_or(artifact);
        match () {
            () if name.ends_with("-crds") => Self::Crd,
            () if name.ends_with("-key") => Self::Key,
            () if name.starts_with("k0s-") => Self::Binary,
            () => Self::Archive,
        }
    }

    /// Returns its name, as in the index.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Crd => "crd",
            Self::Key => "key",
            Self::Archive => "archive",
            Self::Image => "image",
        }
    }

    /// Returns the folder of a bundle that has files of this kind.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Binary => "binaries",
            Self::Crd => "crds",
            Self::Key => "keys",
            Self::Archive => "archives",
            Self::Image => "images",
        }
    }
}

/// One file of a bundle.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct BundleFile {
    /// What it is.
    pub kind: FileKind,
    /// Its name in the lock file.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it is, from the bundle's folder.
    pub path: String,
    /// Lower-case hex sha256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where it was published.
    pub urls: Vec<String>,
}

impl BundleFile {
    /// Returns the file that an artifact of a lock file becomes.
    pub(super) fn of(name: &str, locked: &Locked) -> Self {
        let name = name.split('@').next().unwrap_or(name).to_owned();
        let kind = FileKind::of(&name);
        // The upstream's file name tells a person what it is; ours is used if that is not a plain file name.
        let upstream = locked.urls.last().map(String::as_str).unwrap_or_default();
        let last = upstream.rsplit('/').next().unwrap_or_default().replace("%2B", "+");
        let file = if plain(&last) && last != locked.version { last } else { clean(&name) };
        let path = [kind.folder(), &clean(&name), &clean(&locked.version), &file].join("/");
        let (version, sha256) = (locked.version.clone(), locked.sha256.clone());
        Self { kind, name, version, path, sha256, size: locked.size, urls: locked.urls.clone() }
    }

    /// Makes a plain name of an artifact's.
    pub(super) fn clean_name(name: &str) -> String {
        clean(name)
    }

    /// Returns where its sum and its size come from.
    pub(super) fn says(&self) -> &'static str {
        if self.kind == FileKind::Image { "its manifest" } else { "provision.lock" }
    }

    /// Returns what a person calls it.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// What a bundle has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The version of the format.
    pub format: u32,
    /// Its files, by path.
    pub files: Vec<BundleFile>,
}

impl Default for Index {
    fn default() -> Self {
        Self { format: FORMAT, files: Vec::new() }
    }
}

impl Index {
    /// Reads the text of an index; the error says what is wrong with it, in our own words.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let not = |e: serde_json::Error| format!("line {}: it is not the index of a bundle", e.line());
        let head: Head = serde_json::from_str(text).map_err(not)?;
        if head.format != FORMAT {
            return Err(format!("format {} is not supported; this version reads {FORMAT}", head.format));
        }
        let index: Self = serde_json::from_str(text).map_err(not)?;
        let mut paths = BTreeSet::new();
        for file in &index.files {
            let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
            let why = match () {
                () if !is_inside(&file.path, file.kind) => "its path is not one of a bundle",
                () if !paths.insert(file.path.to_lowercase()) => "another file has the same path",
                () if file.size > MOST_FILE_BYTES => "it is too large",
                () if file.sha256.len() != 64 || !file.sha256.chars().all(hex) => {
                    "sha256 is not 64 lower-case hex digits"
                }
                () => continue,
            };
            return Err(format!("{}: {why}", crate::state::plain_line(&file.name)));
        }
        Ok(index)
    }

    /// Returns the text of the file: sorted, so that two bundles of one lock file are the same.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Returns the sums as `sha256sum -c` reads them.
    pub fn sums(&self) -> String {
        self.files.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect()
    }

    /// Returns the file with this content.
    pub fn with_sum(&self, sha256: &str) -> Option<&BundleFile> {
        self.files.iter().find(|file| file.sha256 == sha256)
    }

    /// Returns a version of an artifact.
    pub fn get(&self, name: &str, version: &str) -> Option<&BundleFile> {
        self.files.iter().find(|file| file.name == name && file.version == version)
    }

    /// Adds files; those with the same path take the place of earlier ones.
    pub(super) fn add(&mut self, files: impl IntoIterator<Item = BundleFile>) {
        let earlier = std::mem::take(&mut self.files).into_iter().map(|file| (file.path.clone(), file));
        let mut by_path: BTreeMap<String, BundleFile> = earlier.collect();
        by_path.extend(files.into_iter().map(|file| (file.path.clone(), file)));
        self.files = by_path.into_values().collect();
    }
}

/// Returns whether a name is that of a plain file: nothing that leads elsewhere, hides, or is not whole.
fn plain(name: &str) -> bool {
    let character = |c: char| c.is_ascii_alphanumeric() || "._+~:-".contains(c);
    !name.is_empty()
        && name.len() <= MOST_NAME
        && name.chars().all(character)
        && !name.starts_with(['.', '-'])
        && !name.ends_with(PART)
}

/// Makes a plain name of a version or an artifact's name, which a catalog of the user can have.
fn clean(text: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "._+~-".contains(c) { c } else { '_' };
    let name: String = text.chars().map(kept).take(MOST_NAME - 1).collect();
    if plain(&name) { name } else { format!("_{}", name.trim_end_matches(PART)) }
}

/// Returns whether a path stays in the folder of its kind.
fn is_inside(path: &str, kind: FileKind) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    // KIND/NAME/VERSION/FILE, and below an image's version an OCI image layout.
    let is_deep = match names[..] {
        [_, _, _, _] => true,
        [_, _, _, "blobs", "sha256", _] => kind == FileKind::Image,
        _ => false,
    };
    is_deep && names[0] == kind.folder() && names.iter().all(|name| plain(name))
}
