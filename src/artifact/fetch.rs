//! Fetches artifacts into a cache on this machine, always verified.

use super::lock::Locked;
use crate::event::Events;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No source gave it.
    #[error("cannot fetch {name}: {why}")]
    Fetch {
        /// The artifact.
        name: String,
        /// The error of each source.
        why: String,
    },
    /// The cache cannot be written.
    #[error("cannot write to {path}: {source}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A source that cannot be connected to within this is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// A source that sends nothing for this long is given up.
const READ_DEADLINE: Duration = Duration::from_secs(60);
/// Progress is reported once per this many bytes: often enough for a slow link, rarely enough for a log.
pub(super) const PROGRESS_BYTES: u64 = 32 << 20;
/// An artifact is smaller than this, in bytes: k0s has 300 MiB, and a server that never ends must not fill the disk.
const MOST_ARTIFACT_BYTES: u64 = 4 << 30;

/// Returns a client; proxies are those of the environment.
pub(super) fn client(name: &str) -> Result<reqwest::Client, ArtifactError> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .read_timeout(READ_DEADLINE)
        .build()
        .map_err(|e| ArtifactError::Fetch { name: name.to_owned(), why: chain(&e) })
}

/// Returns a client that stays with the server that it was sent to.
pub(super) fn unfollowing_client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .read_timeout(READ_DEADLINE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| chain(&e))
}

/// Returns an error with all that is behind it: reqwest's own text stops at "error sending request".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text += &format!(": {inner_text}");
        }
        source = inner.source();
    }
    text
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Downloads a URL into `file`; returns its sha256 and size.
pub(super) async fn download(
    client: &reqwest::Client,
    name: &str,
    url: &str,
    file: &mut std::fs::File,
    events: &Events,
) -> Result<(String, u64), String> {
    let answer = client.get(url).send().await.map_err(|e| chain(&e.without_url()))?;
    let answer = answer.error_for_status().map_err(|e| chain(&e.without_url()))?;
    let whole = answer.content_length();
    let bounded = |size: u64| match size > MOST_ARTIFACT_BYTES {
        true => Err(format!("larger than {} GiB", MOST_ARTIFACT_BYTES >> 30)),
        false => Ok(()),
    };
    bounded(whole.unwrap_or(0))?;
    let (mut hash, mut size, mut told) = (Sha256::new(), 0u64, 0u64);
    let mut body = answer.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| chain(&e.without_url()))?;
        hash.update(&piece);
        size += piece.len() as u64;
        bounded(size)?;
        file.write_all(&piece).map_err(|e| e.to_string())?;
        if size - told >= PROGRESS_BYTES {
            told = size;
            let of = whole.map(|w| format!(" of {}", w >> 20)).unwrap_or_default();
            events.note(format!("fetching {name}: {}{of} MiB", size >> 20));
        }
    }
    Ok((hex(hash), size))
}

pub(super) fn temporary(folder: &Path) -> Result<tempfile::NamedTempFile, ArtifactError> {
    let failed = |source| ArtifactError::Cache { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    tempfile::NamedTempFile::new_in(folder).map_err(failed)
}

/// Moves a complete download to its place in the cache; nothing incomplete ever has a final name.
pub(super) fn keep(
    file: tempfile::NamedTempFile,
    cache: &Path,
    sha256: &str,
) -> Result<PathBuf, ArtifactError> {
    let path = cache.join(sha256);
    let failed = |source| ArtifactError::Cache { path: path.clone(), source };
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    Ok(path)
}

/// Returns the sha256 of a file.
pub(super) fn sum(path: &Path) -> std::io::Result<String> {
    sum_of(&mut std::fs::File::open(path)?).map(hex)
}

/// Returns the digest of an open file, from its start.
pub(super) fn sum_of(file: &mut std::fs::File) -> std::io::Result<Sha256> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash),
            n => hash.update(&piece[..n]),
        }
    }
}

/// Returns an artifact's file in the cache, fetching it if it is not there. A source that gives other bytes than the
/// lock file names is passed over, and so is a damaged file in the cache.
pub async fn fetch(
    name: &str,
    locked: &Locked,
    cache: &Path,
    events: &Events,
) -> Result<PathBuf, ArtifactError> {
    let path = cache.join(&locked.sha256);
    if sum(&path).is_ok_and(|sum| sum == locked.sha256) {
        return Ok(path);
    }
    events.note(format!("fetching {name} {}", locked.version));
    let client = client(name)?;
    let mut said = Vec::new();
    for url in &locked.urls {
        let mut file = temporary(cache)?;
        match download(&client, name, url, file.as_file_mut(), events).await {
            Ok((sum, _)) if sum == locked.sha256 => return keep(file, cache, &sum),
            Ok((sum, _)) => {
                said.push(format!("{url} has sha256 {sum}, provision.lock says {}", locked.sha256))
            }
            Err(why) => said.push(format!("{url}: {why}")),
        }
    }
    Err(ArtifactError::Fetch { name: name.to_owned(), why: said.join("; ") })
}
