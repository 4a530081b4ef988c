//! Fetching artifacts onto this machine, into a cache, always checked.

use super::lock::{Lock, Locked, Wanted};
use crate::event::Events;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::io::Write;
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
        /// What each source said.
        why: String,
    },
    /// The cache cannot be written.
    #[error("cannot write into {path}: {source}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A source that sends nothing for this long is given up.
const READ_DEADLINE: Duration = Duration::from_secs(60);

fn client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(READ_DEADLINE)
        .build()
        .map_err(|e| e.to_string())
}

/// Downloads a URL into `file`; returns its sha256 and size.
async fn download(url: &str, file: &mut std::fs::File) -> Result<(String, u64), String> {
    let answer = client()?.get(url).send().await.map_err(|e| e.to_string())?;
    let answer = answer.error_for_status().map_err(|e| e.to_string())?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut body = answer.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| e.to_string())?;
        hash.update(&piece);
        size += piece.len() as u64;
        file.write_all(&piece).map_err(|e| e.to_string())?;
    }
    Ok((hash.finalize().iter().map(|b| format!("{b:02x}")).collect(), size))
}

fn temporary(folder: &Path) -> Result<tempfile::NamedTempFile, ArtifactError> {
    let failed = |source| ArtifactError::Cache { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    tempfile::NamedTempFile::new_in(folder).map_err(failed)
}

/// Returns an artifact's file in the cache, fetching it if it is not there. A source that gives other bytes than the
/// lock file names is passed over.
pub async fn fetch(
    name: &str,
    locked: &Locked,
    cache: &Path,
    events: &Events,
) -> Result<PathBuf, ArtifactError> {
    let path = cache.join(&locked.sha256);
    if path.exists() {
        return Ok(path);
    }
    events.note(format!("fetching {name} {}", locked.version));
    let mut said = Vec::new();
    for url in &locked.urls {
        let mut file = temporary(cache)?;
        match download(url, file.as_file_mut()).await {
            Ok((sum, _)) if sum == locked.sha256 => {
                let failed =
                    |e: tempfile::PersistError| ArtifactError::Cache { path: path.clone(), source: e.error };
                file.persist(&path).map_err(failed)?;
                return Ok(path);
            }
            Ok((sum, _)) => {
                said.push(format!("{url} has sha256 {sum}, the lock file says {}", locked.sha256))
            }
            Err(why) => said.push(format!("{url}: {why}")),
        }
    }
    Err(ArtifactError::Fetch { name: name.to_owned(), why: said.join("; ") })
}

/// Resolves what is wanted into a lock file: downloads each once and records what came.
pub async fn resolve(wanted: &[Wanted], cache: &Path, events: &Events) -> Result<Lock, ArtifactError> {
    let mut lock = Lock::default();
    for want in wanted {
        events.note(format!("resolving {} {}", want.name, want.version));
        let mut file = temporary(cache)?;
        let (sha256, size) = download(&want.url, file.as_file_mut()).await.map_err(|why| {
            ArtifactError::Fetch { name: want.name.clone(), why: format!("{}: {why}", want.url) }
        })?;
        let path = cache.join(&sha256);
        file.persist(&path).map_err(|e| ArtifactError::Cache { path, source: e.error })?;
        let locked = Locked { version: want.version.clone(), urls: vec![want.url.clone()], sha256, size };
        lock.artifacts.insert(want.name.clone(), locked);
    }
    Ok(lock)
}
