//! Fills the folder of a bundle with what a lock file names. The index is written first and each file under its own name only
//! when it is whole: a call that is cut off anywhere is completed by the next one.

use super::error::{BundleError, Defect, DefectKind};
use super::folder::Folder;
use super::index::{BundleFile, INDEX, Index, SUMS};
use super::{FileKind, Image, Mirror, Registries};
use crate::artifact::fetch::{PROGRESS_BYTES, chain, client, hex, sum_of};
use crate::artifact::lock::{Lock, Locked};
use crate::event::Events;
use futures::StreamExt;
use indicatif::HumanBytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// So many files are fetched at once.
const AT_ONCE: usize = 4;

/// A bundle that is to be filled.
pub struct Collecting {
    folder: Folder,
    index: Index,
    wanted: Vec<BundleFile>,
    left: u64,
    /// Content that is known already, by path.
    texts: BTreeMap<String, String>,
    /// Images whose manifests could not be read.
    unread: Vec<Defect>,
}

/// What filling a bundle did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collected {
    /// What it has.
    pub index: Index,
    /// Files that were fetched.
    pub fetched: Vec<BundleFile>,
    /// Those of the index that this call had nothing to do with: other versions, other inventories, other kinds.
    pub others: usize,
}

impl Collecting {
    /// Opens the folder, making it if it is not there, and compares it with a lock file and images, of which some could not be read.
    /// Without `only`, all kinds are meant. Files are judged by their size here; [`Collecting::run`] reads them.
    pub fn begin(
        to: &Path,
        lock: &Lock,
        (images, unread): (Vec<Image>, Vec<Defect>),
        only: &[FileKind],
    ) -> Result<Self, BundleError> {
        let failed = |source| BundleError::File { path: to.to_owned(), source };
        std::fs::create_dir_all(to).map_err(failed)?;
        let folder = Folder::open(to).map_err(failed)?;
        folder.lock()?;
        folder.refuse_foreign()?;
        let mut index = folder.index()?.unwrap_or_default();
        let all = lock.artifacts.iter().map(|(name, locked)| BundleFile::of(name, locked));
        let mut wanted = Index::default();
        wanted.add(all.filter(|file| only.is_empty() || only.contains(&file.kind)));
        let mut texts = BTreeMap::new();
        for image in images {
            wanted.add(image.files);
            texts.extend(image.texts);
        }
        let wanted = wanted.files;
        index.add(wanted.iter().cloned());
        let there = |path: &str| folder.file(path).and_then(|f| f.metadata()).map_or(0, |m| m.len());
        let left = |file: &BundleFile| match there(&file.path) == file.size {
            true => 0,
            false => file.size - there(&format!("{}{}", file.path, super::index::PART)).min(file.size),
        };
        let left = wanted.iter().map(left).sum();
        Ok(Self { folder, index, wanted, left, texts, unread })
    }

    /// Returns what it is to have of this lock file.
    pub fn files(&self) -> &[BundleFile] {
        &self.wanted
    }

    /// Returns the size of these files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.wanted.iter().map(|file| file.size).sum()
    }

    /// Returns how many bytes are still to be fetched.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Fetches what is missing or damaged: from `mirror` alone if there is one, otherwise from the cache of this machine or the
    /// URLs of the lock file. What was fetched stays, whatever else fails.
    pub async fn run(
        self,
        cache: &Path,
        mirror: Option<&Mirror>,
        registries: Option<&Registries>,
        events: &Events,
    ) -> Result<Collected, BundleError> {
        let Self { folder, index, wanted, left, texts, unread } = self;
        let at = |source| BundleError::File { path: folder.path().to_owned(), source };
        let free = folder.free().map_err(at)?;
        if left > free {
            let (needed, free) = (HumanBytes(left).to_string(), HumanBytes(free).to_string());
            return Err(BundleError::Space { path: folder.path().display().to_string(), needed, free });
        }
        folder.put(INDEX, &index.text()).map_err(at)?;
        let client = client("artifacts").map_err(|e| BundleError::Fetch(vec![unfetched("artifacts", e)]))?;
        let one = Fetching { folder: &folder, client, cache, mirror, registries, texts, events };
        let all = wanted.iter().map(|file| one.fetch(file));
        let all: Vec<_> = futures::stream::iter(all).buffered(AT_ONCE).collect().await;
        let (mut fetched, mut defects) = (Vec::new(), unread);
        for (file, result) in wanted.iter().zip(all) {
            match result {
                Ok(true) => fetched.push(file.clone()),
                Ok(false) => {}
                Err(defect) => defects.push(defect),
            }
        }
        if !defects.is_empty() {
            return Err(BundleError::Fetch(defects));
        }
        folder.put(SUMS, &index.sums()).map_err(at)?;
        let others = index.files.len() - wanted.len();
        Ok(Collected { index, fetched, others })
    }
}

fn unfetched(what: &str, error: impl std::fmt::Display) -> Defect {
    let (artifact, file) = (what.to_owned(), String::new());
    Defect { kind: DefectKind::Unreadable, artifact, file, why: error.to_string() }
}

/// Fetching files into a folder.
struct Fetching<'a> {
    folder: &'a Folder,
    client: reqwest::Client,
    cache: &'a Path,
    mirror: Option<&'a Mirror>,
    registries: Option<&'a Registries>,
    texts: BTreeMap<String, String>,
    events: &'a Events,
}

impl Fetching<'_> {
    /// Makes a file whole; returns whether anything was to do.
    async fn fetch(&self, file: &BundleFile) -> Result<bool, Defect> {
        let failed = |file_: String, why: String| Defect {
            kind: DefectKind::Unreadable,
            artifact: file.title(),
            file: file_,
            why,
        };
        let at = self.folder.path().join(&file.path).display().to_string();
        let there = self.folder.file(&file.path).and_then(|mut opened| sum_of(&mut opened));
        if there.is_ok_and(|sum| hex(sum) == file.sha256) {
            return Ok(false);
        }
        let mut part = self.folder.part(&file.path).map_err(|e| failed(at.clone(), e.to_string()))?;
        self.events.note(format!("fetching {} ({})", file.title(), HumanBytes(file.size)));
        self.fill(file, &mut part).await.map_err(|(from, why)| failed(from, why))?;
        self.folder.keep(&part, &file.path).map_err(|e| failed(at, e.to_string()))?;
        Ok(true)
    }

    /// Fills a part with the whole content; the error names the sources that were asked.
    async fn fill(&self, file: &BundleFile, part: &mut File) -> Result<(), (String, String)> {
        let own =
            |e: std::io::Error| (self.folder.path().display().to_string(), format!("cannot be written: {e}"));
        if let Some(text) = self.texts.get(&file.path) {
            part.set_len(0).and_then(|()| part.rewind()).map_err(own)?;
            return part.write_all(text.as_bytes()).map_err(own);
        }
        if let Some(mirror) = self.mirror {
            let locked = Locked {
                version: file.version.clone(),
                urls: Vec::new(),
                sha256: file.sha256.clone(),
                size: file.size,
            };
            let source = mirror.file(&file.name, &locked, self.cache, self.events).await;
            let from = || mirror.place().to_string();
            let mut source = source.map_err(|error| match error {
                BundleError::Incomplete { mut defects, .. } if defects.len() == 1 => {
                    defects.pop().map_or((from(), String::new()), |defect| (defect.file, defect.why))
                }
                error => (from(), error.to_string()),
            })?;
            return match copied(&mut source, part).map_err(own)? == file.sha256 {
                true => Ok(()),
                false => Err((from(), "changed while it was read".to_owned())),
            };
        }
        if let Ok(mut cached) = File::open(self.cache.join(&file.sha256))
            && copied(&mut cached, part).map_err(own)? == file.sha256
        {
            return Ok(());
        }
        let mut said = Vec::new();
        for url in &file.urls {
            match self.resume(file, url, part).await {
                Ok(()) => return Ok(()),
                Err(why) => said.push((url.clone(), why)),
            }
        }
        let (mut urls, mut whys): (Vec<_>, Vec<_>) = said.into_iter().unzip();
        match (urls.len(), urls.pop(), whys.pop()) {
            (1, Some(url), Some(why)) => Err((url, why)),
            (_, Some(url), Some(why)) => {
                let others = urls.iter().zip(&whys).map(|(url, why)| format!("; {url} {why}"));
                Err((url, why + &others.collect::<String>()))
            }
            _ => Err((String::new(), "has no URL".to_owned())),
        }
    }

    /// Goes on with a part from a URL; a part that does not fit in the end is fetched again from its start.
    async fn resume(&self, file: &BundleFile, url: &str, part: &mut File) -> Result<(), String> {
        let resumed = part.metadata().is_ok_and(|m| m.len() > 0);
        match self.rest(file, url, part).await {
            Ok(sum) if sum == file.sha256 => return Ok(()),
            Err(why) if !resumed => return Err(why),
            Ok(sum) if !resumed => {
                // The next source, or the next call, begins anew.
                part.set_len(0).map_err(|e| e.to_string())?;
                return Err(format!("has sha256 {sum}, {} says {}", file.says(), file.sha256));
            }
            // What was there may have come from elsewhere.
            Ok(_) => part.set_len(0).map_err(|e| e.to_string())?,
            Err(why) => return Err(why),
        }
        match self.rest(file, url, part).await? {
            sum if sum == file.sha256 => Ok(()),
            sum => {
                part.set_len(0).map_err(|e| e.to_string())?;
                Err(format!("has sha256 {sum}, {} says {}", file.says(), file.sha256))
            }
        }
    }

    /// Fetches what a part lacks; returns the sum of the whole.
    async fn rest(&self, file: &BundleFile, url: &str, part: &mut File) -> Result<String, String> {
        let said = |e: std::io::Error| format!("cannot be written: {e}");
        let mut have = part.metadata().map_err(said)?.len();
        if have > file.size {
            part.set_len(0).map_err(said)?;
            have = 0;
        }
        let mut hash = sum_of(part).map_err(said)?;
        if have == file.size {
            return Ok(hex(hash));
        }
        let answer = match self.registries {
            Some(registries) if file.kind == FileKind::Image => {
                registries.get(url, (have > 0).then_some(have)).await?
            }
            _ => {
                let mut request = self.client.get(url);
                if have > 0 {
                    request = request.header(RANGE, format!("bytes={have}-"));
                }
                request.send().await.map_err(|e| chain(&e.without_url()))?
            }
        };
        let answer = answer.error_for_status().map_err(|e| chain(&e.without_url()))?;
        let range = answer.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let continues = answer.status() == StatusCode::PARTIAL_CONTENT
            && range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        if have > 0 && !continues {
            // A server that knows no ranges sends all of it.
            if answer.status() != StatusCode::OK {
                return Err("the server answers with another range".to_owned());
            }
            part.set_len(0).map_err(said)?;
            (have, hash) = (0, Sha256::new());
        }
        part.seek(SeekFrom::Start(have)).map_err(said)?;
        let (mut body, mut told) = (answer.bytes_stream(), have);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| chain(&e.without_url()))?;
            have += piece.len() as u64;
            if have > file.size {
                part.set_len(0).map_err(said)?;
                return Err(format!("is larger than the {} bytes in {}", file.size, file.says()));
            }
            hash.update(&piece);
            part.write_all(&piece).map_err(said)?;
            if have - told >= PROGRESS_BYTES {
                told = have;
                let (have, size) = (HumanBytes(have), HumanBytes(file.size));
                self.events.note(format!("fetching {}: {have} of {size}", file.title()));
            }
        }
        Ok(hex(hash))
    }
}

/// Copies a file over a part; returns its sum.
fn copied(from: &mut File, part: &mut File) -> std::io::Result<String> {
    part.set_len(0)?;
    part.seek(SeekFrom::Start(0))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hex(hash)),
            n => {
                hash.update(&piece[..n]);
                part.write_all(&piece[..n])?;
            }
        }
    }
}
