//! Takes artifacts out of a bundle, in a folder or on a web server, in place of every other source. Nothing else is contacted:
//! no upstream, and no server that this one redirects to.

use super::error::{BundleError, Defect, DefectKind};
use super::folder::Folder;
use super::images::{Image, image_key};
use super::index::{BundleFile, FileKind, INDEX, Index, MOST_INDEX_BYTES, SUMS};
use crate::artifact::fetch::{chain, download, hex, keep, sum, sum_of, temporary, unfollowing_client};
use crate::artifact::lock::Locked;
use crate::event::Events;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// So many files of a server are asked about at once.
const AT_ONCE: usize = 8;

/// Where a bundle is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MirrorPlace {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// On a web server, below this URL.
    Url(String),
}

impl FromStr for MirrorPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("expected a folder or an http or https URL".to_owned());
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return match text.contains("://") {
                true => Err("expected a folder or an http or https URL".to_owned()),
                false => Ok(Self::Folder(text.into())),
            };
        }
        let url = reqwest::Url::parse(text).map_err(|e| e.to_string())?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !plain || url.password().is_some() {
            return Err("expected a URL without login, query and fragment".to_owned());
        }
        Ok(Self::Url(text.trim_end_matches('/').to_owned()))
    }
}

impl std::fmt::Display for MirrorPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// The two ways to its files.
enum Way {
    Folder(Folder),
    Server(reqwest::Client),
}

/// An open bundle.
pub struct Mirror {
    place: MirrorPlace,
    way: Way,
    index: Index,
}

/// Reads a small text from a server; `None` if it has no such file.
async fn text(client: &reqwest::Client, url: &str) -> Result<Option<String>, String> {
    let fail = |e: reqwest::Error| chain(&e.without_url());
    let answer = client.get(url).send().await.map_err(fail)?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !answer.status().is_success() {
        return Err(format!("the server returns {}", answer.status()));
    }
    let (mut body, mut bytes) = (answer.bytes_stream(), Vec::new());
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(fail)?);
        if bytes.len() as u64 > MOST_INDEX_BYTES {
            return Err("it is too large".to_owned());
        }
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8 text".to_owned())
}

impl Mirror {
    /// Opens a bundle and reads its index.
    pub async fn open(place: &MirrorPlace) -> Result<Self, BundleError> {
        let wrong = |why: String| BundleError::Index { place: place.to_string(), why };
        let missing = || wrong(format!("it has no {INDEX}"));
        let (way, index) = match place {
            MirrorPlace::Folder(path) => {
                let folder = Folder::open(path).map_err(|e| wrong(e.to_string()))?;
                let index = folder.index()?.ok_or_else(missing)?;
                (Way::Folder(folder), index)
            }
            MirrorPlace::Url(url) => {
                let client = unfollowing_client().map_err(wrong)?;
                let found = text(&client, &format!("{url}/{INDEX}")).await;
                let found = found.map_err(|why| wrong(format!("{INDEX}: {why}")))?.ok_or_else(missing)?;
                let index = Index::parse(&found).map_err(|why| wrong(format!("{INDEX}: {why}")))?;
                (Way::Server(client), index)
            }
        };
        Ok(Self { place: place.clone(), way, index })
    }

    /// Returns what it has.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns where it is.
    pub fn place(&self) -> &MirrorPlace {
        &self.place
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.place)
    }

    fn defect(&self, file: &BundleFile, kind: DefectKind, why: impl Into<String>) -> Defect {
        Defect { kind, artifact: file.title(), file: self.at(&file.path), why: why.into() }
    }

    /// Returns the defect of what a lock file names and this does not.
    fn unnamed(&self, name: &str, locked: &Locked) -> Defect {
        let Locked { version, sha256, .. } = locked;
        Defect {
            kind: DefectKind::Missing,
            artifact: format!("{name} {version}"),
            file: self.at(INDEX),
            why: format!("does not list a file with sha256 {sha256}"),
        }
    }

    fn incomplete(&self, defects: Vec<Defect>) -> BundleError {
        BundleError::Incomplete { place: self.place.to_string(), defects }
    }

    /// Opens a file of the folder, if it has its size.
    fn opened(&self, folder: &Folder, file: &BundleFile) -> Result<File, Defect> {
        let opened = folder.file(&file.path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => self.defect(file, DefectKind::Missing, "does not exist"),
            std::io::ErrorKind::InvalidData => self.defect(file, DefectKind::Content, error.to_string()),
            _ => self.defect(file, DefectKind::Unreadable, format!("cannot be read: {error}")),
        })?;
        let size = opened.metadata().map_or(0, |m| m.len());
        match size == file.size {
            true => Ok(opened),
            false => {
                let why = format!("has {size} bytes, expected {}", file.size);
                Err(self.defect(file, DefectKind::Content, why))
            }
        }
    }

    /// Opens a file of the folder whose content was compared with its sum.
    fn verified(&self, folder: &Folder, file: &BundleFile) -> Result<File, Defect> {
        let mut opened = self.opened(folder, file)?;
        let unreadable =
            |e: std::io::Error| self.defect(file, DefectKind::Unreadable, format!("cannot be read: {e}"));
        let found = sum_of(&mut opened).map(hex).map_err(unreadable)?;
        if found != file.sha256 {
            let why = format!("has sha256 {found}, expected {}", file.sha256);
            return Err(self.defect(file, DefectKind::Content, why));
        }
        opened.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        Ok(opened)
    }

    /// Asks the server for a file's size.
    async fn asked(&self, client: &reqwest::Client, file: &BundleFile) -> Result<(), Defect> {
        let unreadable = |why: String| self.defect(file, DefectKind::Unreadable, why);
        let url = self.at(&escaped(&file.path));
        let answer = client.head(&url).send().await.map_err(|e| unreadable(chain(&e.without_url())))?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Err(self.defect(file, DefectKind::Missing, "does not exist"));
        }
        if !answer.status().is_success() {
            return Err(unreadable(format!("cannot be fetched: the server returns {}", answer.status())));
        }
        let size = answer.headers().get(reqwest::header::CONTENT_LENGTH);
        let size: Option<u64> = size.and_then(|v| v.to_str().ok()?.parse().ok());
        match size {
            Some(size) if size != file.size => {
                let why = format!("has {size} bytes, expected {}", file.size);
                Err(self.defect(file, DefectKind::Content, why))
            }
            _ => Ok(()),
        }
    }

    /// Compares the file of sums with the index.
    async fn sums(&self) -> Result<(), Defect> {
        let found = match &self.way {
            Way::Folder(folder) => folder.text(SUMS, MOST_INDEX_BYTES).map_err(|e| e.to_string()),
            Way::Server(client) => text(client, &self.at(SUMS)).await,
        };
        let defect = |kind, why: String| Defect { kind, artifact: SUMS.to_owned(), file: self.at(SUMS), why };
        match found {
            Ok(Some(text)) if text == self.index.sums() => Ok(()),
            Ok(Some(_)) => Err(defect(DefectKind::Content, format!("differs from the sums in {INDEX}"))),
            Ok(None) => Err(defect(DefectKind::Missing, "does not exist".to_owned())),
            Err(why) => Err(defect(DefectKind::Unreadable, why)),
        }
    }

    /// Refuses a bundle in which anything is missing or has another size, or lacks one of `wanted`, by the names of the lock
    /// file; files with `wanted` content are compared with their sums where they are in a folder. Hosts compare them again.
    pub async fn check(&self, wanted: &[(&str, &Locked)]) -> Result<(), BundleError> {
        let mut defects: Vec<Defect> = self.sums().await.err().into_iter().collect();
        let is_wanted = |file: &BundleFile| wanted.iter().any(|(_, locked)| locked.sha256 == file.sha256);
        match &self.way {
            Way::Folder(folder) => {
                defects.extend(self.index.files.iter().filter_map(|file| match is_wanted(file) {
                    true => self.verified(folder, file).err(),
                    false => self.opened(folder, file).err(),
                }))
            }
            Way::Server(client) => {
                let asked = self.index.files.iter().map(|file| self.asked(client, file));
                let asked: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
                defects.extend(asked.into_iter().filter_map(Result::err));
            }
        }
        let lacks = wanted.iter().filter(|(_, locked)| self.index.with_sum(&locked.sha256).is_none());
        defects.extend(lacks.map(|(name, locked)| self.unnamed(name, locked)));
        if defects.is_empty() { Ok(()) } else { Err(self.incomplete(defects)) }
    }

    /// Returns images, by the names that pods have for them; those that it does not have come second.
    pub fn images<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> (Vec<Image>, Vec<Defect>) {
        let (mut images, mut lacking) = (Vec::new(), Vec::new());
        for image in names {
            let (name, version) = image_key(image);
            let is_of_it = |file: &&BundleFile| {
                file.kind == FileKind::Image && file.name == name && file.version == version
            };
            let files: Vec<BundleFile> = self.index.files.iter().filter(is_of_it).cloned().collect();
            match files.is_empty() {
                true => lacking.push(Defect {
                    kind: DefectKind::Missing,
                    artifact: format!("{name} {version}"),
                    file: self.at(INDEX),
                    why: "does not list it".to_owned(),
                }),
                false => images.push(Image { files, texts: BTreeMap::new() }),
            }
        }
        (images, lacking)
    }

    /// Compares every file with its sum. Returns the files that the index does not name.
    pub async fn verify(&self, cache: &Path, events: &Events) -> Result<Vec<String>, BundleError> {
        let mut defects: Vec<Defect> = self.sums().await.err().into_iter().collect();
        for file in &self.index.files {
            match &self.way {
                Way::Folder(folder) => defects.extend(self.verified(folder, file).err()),
                Way::Server(client) => defects.extend(self.fetched(client, file, cache, events).await.err()),
            }
        }
        if !defects.is_empty() {
            return Err(self.incomplete(defects));
        }
        Ok(match &self.way {
            Way::Folder(folder) => folder.unnamed(&self.index),
            Way::Server(_) => Vec::new(),
        })
    }

    async fn fetched(
        &self,
        client: &reqwest::Client,
        file: &BundleFile,
        cache: &Path,
        events: &Events,
    ) -> Result<PathBuf, Defect> {
        let cached = cache.join(&file.sha256);
        if sum(&cached).is_ok_and(|sum| sum == file.sha256) {
            return Ok(cached);
        }
        let unreadable = |why: String| self.defect(file, DefectKind::Unreadable, why);
        let mut part = temporary(cache).map_err(|e| unreadable(e.to_string()))?;
        let url = self.at(&escaped(&file.path));
        events.note(format!("fetching {} from the mirror", file.title()));
        let fetched = download(client, &file.name, &url, part.as_file_mut(), events).await;
        match fetched {
            Ok((sum, _)) if sum == file.sha256 => {
                keep(part, cache, &sum).map_err(|e| unreadable(e.to_string()))
            }
            Ok((sum, _)) => {
                let why = format!("has sha256 {sum}, expected {}", file.sha256);
                Err(self.defect(file, DefectKind::Content, why))
            }
            Err(why) => Err(unreadable(format!("cannot be fetched: {why}"))),
        }
    }

    /// Opens an artifact; what was read of it was compared with its sum. Files of a server go through the cache.
    pub async fn file(
        &self,
        name: &str,
        locked: &Locked,
        cache: &Path,
        events: &Events,
    ) -> Result<File, BundleError> {
        let file = self.index.with_sum(&locked.sha256);
        let file = file.ok_or_else(|| self.incomplete(vec![self.unnamed(name, locked)]))?;
        let opened = match &self.way {
            Way::Folder(folder) => self.verified(folder, file),
            Way::Server(client) => match self.fetched(client, file, cache, events).await {
                Ok(path) => File::open(&path).map_err(|e| {
                    self.defect(file, DefectKind::Unreadable, format!("cannot be read from the cache: {e}"))
                }),
                Err(defect) => Err(defect),
            },
        };
        opened.map_err(|defect| self.incomplete(vec![defect]))
    }
}

/// Returns a path of a bundle as part of a URL: servers read a `+` in different ways.
fn escaped(path: &str) -> String {
    path.replace('+', "%2B")
}
